//! The pcapng format (draft-ietf-opsawg-pcapng), as far as a capture needs it: frames of several interfaces, with
//! nanoseconds and comments. Blocks are written whole, in the byte order of this machine.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;

const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;
const USER_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const TIME_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const DROPPED: u16 = 5;
/// Times are in 10^-9 seconds.
const NANOSECONDS: u8 = 9;

/// The direction of a frame, as `epb_flags` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    In = 1,
    Out = 2,
}

/// Writes a capture.
pub struct Pcapng<W> {
    out: W,
    /// The numbers of interfaces, in the order in which they were described.
    interfaces: HashMap<String, u32>,
}

/// A block that is being made.
struct Block(Vec<u8>);

impl<W: Write> Pcapng<W> {
    /// Begins a capture.
    pub fn new(out: W, application: &str) -> io::Result<Self> {
        let mut pcapng = Self {
            out,
            interfaces: HashMap::new(),
        };
        let mut block = Block::new(SECTION_HEADER);
        block.u32(BYTE_ORDER);
        block.u16(1);
        block.u16(0);
        // The length of the section is not known.
        block.u64(u64::MAX);
        block.option(USER_APPLICATION, application.as_bytes());
        pcapng.write(block)?;
        Ok(pcapng)
    }

    pub fn frame(
        &mut self,
        time: SystemTime,
        interface: &str,
        direction: Direction,
        length: u32,
        bytes: &[u8],
        comment: &str,
    ) -> io::Result<()> {
        let interface = self.interface(interface)?;
        let mut block = Block::new(ENHANCED_PACKET);
        block.u32(interface);
        block.time(time);
        block.u32(bytes.len() as u32);
        block.u32(length);
        block.bytes(bytes);
        block.option(COMMENT, comment.as_bytes());
        block.option(PACKET_FLAGS, &(direction as u32).to_ne_bytes());
        self.write(block)
    }

    /// Notes that frames of this interface are missing: `dropped` so far.
    pub fn dropped(&mut self, time: SystemTime, interface: &str, dropped: u64) -> io::Result<()> {
        let interface = self.interface(interface)?;
        let mut block = Block::new(INTERFACE_STATISTICS);
        block.u32(interface);
        block.time(time);
        block.option(DROPPED, &dropped.to_ne_bytes());
        self.write(block)
    }

    /// So that a reader gets everything so far.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The number of an interface, which is described first if it is new.
    fn interface(&mut self, name: &str) -> io::Result<u32> {
        if let Some(&number) = self.interfaces.get(name) {
            return Ok(number);
        }
        let mut block = Block::new(INTERFACE_DESCRIPTION);
        block.u16(LINKTYPE_ETHERNET);
        block.u16(0);
        // No limit for the length of packets.
        block.u32(0);
        block.option(INTERFACE_NAME, name.as_bytes());
        block.option(TIME_RESOLUTION, &[NANOSECONDS]);
        self.write(block)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(name.to_owned(), number);
        Ok(number)
    }

    fn write(&mut self, block: Block) -> io::Result<()> {
        self.out.write_all(&block.whole())
    }
}

impl Block {
    fn new(kind: u32) -> Self {
        let mut block = Self(Vec::new());
        block.u32(kind);
        // Its length, which is known in the end.
        block.u32(0);
        block
    }

    fn u16(&mut self, value: u16) {
        self.0.extend(value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_ne_bytes());
    }

    /// The upper half comes first, whatever the byte order.
    fn time(&mut self, time: SystemTime) {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let nanoseconds = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.u32((nanoseconds >> 32) as u32);
        self.u32(nanoseconds as u32);
    }

    /// Padded to 32 bits.
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
        self.u16(code);
        self.u16(value.len() as u16);
        self.bytes(value);
    }

    /// The block with its length at both ends.
    fn whole(mut self) -> Vec<u8> {
        self.u16(END_OF_OPTIONS);
        self.u16(0);
        let length = self.0.len() as u32 + 4;
        self.u32(length);
        if let Some(place) = self.0.get_mut(4..8) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of a capture: their kinds and bodies.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let length = word(bytes, 4) as usize;
            assert!(length.is_multiple_of(4) && word(bytes, length - 4) as usize == length);
            blocks.push((word(bytes, 0), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        blocks
    }

    #[test]
    fn a_capture_has_interfaces_frames_and_what_was_dropped() {
        let mut bytes = Vec::new();
        let mut pcapng = Pcapng::new(&mut bytes, "mplsxdp").unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789);
        pcapng
            .frame(time, "eth1", Direction::In, 1500, &[7; 61], "forwarded to eth2")
            .unwrap();
        pcapng
            .frame(time, "eth2", Direction::Out, 60, &[8; 60], "forwarded from eth1")
            .unwrap();
        pcapng.frame(time, "eth1", Direction::In, 60, &[], "").unwrap();
        pcapng.dropped(time, "eth1", 5).unwrap();
        pcapng.flush().unwrap();
        let blocks = blocks(&bytes);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, 1, 6, 1, 6, 6, 5]);
        let frame = &blocks[2].1;
        let words: Vec<u32> = frame
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u32::from_ne_bytes(*word))
            .collect();
        let nanoseconds = 1_800_000_000_123_456_789_u64;
        assert_eq!(
            words[..5],
            [0, (nanoseconds >> 32) as u32, nanoseconds as u32, 61, 1500]
        );
        assert_eq!(frame[20..84], [[7; 61].as_slice(), &[0; 3]].concat());
        let mut option = Vec::new();
        option.extend(COMMENT.to_ne_bytes());
        option.extend(17_u16.to_ne_bytes());
        option.extend(b"forwarded to eth2\0\0\0");
        assert_eq!(frame[84..84 + option.len()], option);
        assert_eq!(
            u32::from_ne_bytes(*blocks[4].1.first_chunk().unwrap()),
            1,
            "the second interface"
        );
    }
}
