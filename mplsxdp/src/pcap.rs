//! Reads the frames of a capture file: pcapng or the older pcap, in either byte order. Ethernet only.

use std::io;
use std::path::Path;

use pcap_parser::pcapng::{Block, parse_block_be, parse_block_le};
use pcap_parser::{Linktype, pcap};

/// One frame of a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Captured<'a> {
    /// The offset of its record in the file.
    pub offset: usize,
    /// The part that was kept.
    pub bytes: &'a [u8],
    /// Its length on the wire.
    pub original_len: usize,
}

impl Captured<'_> {
    /// Whether its end is missing (`tcpdump -s`).
    pub fn is_truncated(&self) -> bool {
        self.bytes.len() < self.original_len
    }
}

/// Why a file cannot be read as a capture. Offsets are those of the faulty record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("cannot read {path}: {reason}")]
    Unreadable { path: String, reason: String },
    #[error("neither a pcapng nor a pcap file: it begins with {start:02x?}")]
    Unknown { start: Vec<u8> },
    #[error("byte {offset}: the link type is {name}; only captures of Ethernet (link type 1) can be read")]
    LinkType { offset: usize, name: String },
    #[error("byte {offset}: the file ends within this {what}")]
    Cut { offset: usize, what: &'static str },
    #[error("byte {offset}: this is not a {what}")]
    Malformed { offset: usize, what: &'static str },
    #[error("byte {offset}: a frame of interface {interface}, which no block before describes")]
    NoInterface { offset: usize, interface: u32 },
}

/// The bytes of a file, for [`frames`].
pub fn read(path: &Path) -> Result<Vec<u8>, CaptureError> {
    std::fs::read(path).map_err(|error: io::Error| CaptureError::Unreadable {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// The type of the block that a section begins with, in either byte order.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// The frames of a file, in order.
pub fn frames(file: &[u8]) -> Result<Vec<Captured<'_>>, CaptureError> {
    let start = file.get(..4).unwrap_or(file);
    match start {
        start if start == SECTION_HEADER => pcapng_frames(file),
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => pcap_frames(file, pcap::parse_pcap_frame_be),
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => pcap_frames(file, pcap::parse_pcap_frame),
        [0x34, 0xcd, 0xb2, 0xa1] => pcap_frames(file, pcap::parse_pcap_frame_modified),
        _ => Err(CaptureError::Unknown { start: start.to_vec() }),
    }
}

/// The parser's result for a record at the start of its input.
type Parsed<'a, T> = pcap_parser::nom::IResult<&'a [u8], T, pcap_parser::PcapError<&'a [u8]>>;

/// Reads one record, which begins at `*offset`, and moves `*offset` to its end.
fn record<'a, T>(
    file: &'a [u8],
    offset: &mut usize,
    what: &'static str,
    parse: impl FnOnce(&'a [u8]) -> Parsed<'a, T>,
) -> Result<T, CaptureError> {
    let begin = *offset;
    match parse(file.get(begin..).unwrap_or_default()) {
        Ok((rest, record)) => {
            *offset = file.len() - rest.len();
            Ok(record)
        }
        Err(error) if error.is_incomplete() => Err(CaptureError::Cut { offset: begin, what }),
        Err(_) => Err(CaptureError::Malformed { offset: begin, what }),
    }
}

fn ethernet_only(offset: usize, link_type: Linktype) -> Result<(), CaptureError> {
    match link_type {
        Linktype::ETHERNET => Ok(()),
        other => Err(CaptureError::LinkType {
            offset,
            name: other.to_string(),
        }),
    }
}

fn pcap_frames(
    file: &[u8],
    parse_frame: for<'a> fn(&'a [u8]) -> Parsed<'a, pcap::LegacyPcapBlock<'a>>,
) -> Result<Vec<Captured<'_>>, CaptureError> {
    /// The upper bits are the length of the frame check sequence.
    const LINK_TYPE: i32 = 0xffff;

    let mut offset = 0;
    let header = record(file, &mut offset, "pcap file header", pcap::parse_pcap_header)?;
    ethernet_only(0, Linktype(header.network.0 & LINK_TYPE))?;
    let mut frames = Vec::new();
    while offset < file.len() {
        let begin = offset;
        let frame = record(file, &mut offset, "pcap record", parse_frame)?;
        frames.push(Captured {
            offset: begin,
            bytes: frame.data,
            original_len: frame.origlen as usize,
        });
    }
    Ok(frames)
}

/// Whether a block, other than a section header, is shorter than its type and its two lengths: for some blocks the
/// parser subtracts these from the length without a check.
fn is_too_short(block: &[u8], big_endian: bool) -> bool {
    const LEAST: u32 = 12;

    let number = if big_endian {
        u32::from_be_bytes
    } else {
        u32::from_le_bytes
    };
    let length = block.get(4..).and_then(|rest| rest.first_chunk().copied()).map(number);
    length.is_some_and(|length| length < LEAST)
}

/// The properties of a frame's interface.
struct Interface {
    link_type: Linktype,
    /// How much of each frame is kept; 0 means all.
    snaplen: u32,
}

fn pcapng_frames(file: &[u8]) -> Result<Vec<Captured<'_>>, CaptureError> {
    let mut frames = Vec::new();
    let mut big_endian = false;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut offset = 0;
    while offset < file.len() {
        let begin = offset;
        let block = &file[begin..];
        if !block.starts_with(&SECTION_HEADER) && is_too_short(block, big_endian) {
            return Err(CaptureError::Malformed {
                offset: begin,
                what: "pcapng block",
            });
        }
        let parse = if big_endian { parse_block_be } else { parse_block_le };
        let (number, data, kept_len, original_len) = match record(file, &mut offset, "pcapng block", parse)? {
            Block::SectionHeader(section) => {
                big_endian = section.big_endian();
                interfaces.clear();
                continue;
            }
            Block::InterfaceDescription(interface) => {
                interfaces.push(Interface {
                    link_type: interface.linktype,
                    snaplen: interface.snaplen,
                });
                continue;
            }
            Block::EnhancedPacket(frame) => (frame.if_id, frame.data, frame.caplen, frame.origlen),
            // Always of the first interface, which alone says how much was kept.
            Block::SimplePacket(frame) => {
                let snaplen = interfaces.first().map_or(0, |interface| interface.snaplen);
                let most = if snaplen == 0 { u32::MAX } else { snaplen };
                (0, frame.data, frame.origlen.min(most), frame.origlen)
            }
            _ => continue,
        };
        let interface = interfaces.get(number as usize).ok_or(CaptureError::NoInterface {
            offset: begin,
            interface: number,
        })?;
        ethernet_only(begin, interface.link_type)?;
        frames.push(Captured {
            offset: begin,
            // Without the padding of its last word.
            bytes: data.get(..kept_len as usize).unwrap_or(data),
            original_len: original_len as usize,
        });
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LITTLE: fn(u32) -> [u8; 4] = u32::to_le_bytes;
    const BIG: fn(u32) -> [u8; 4] = u32::to_be_bytes;

    fn words(order: fn(u32) -> [u8; 4], words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|&word| order(word)).collect()
    }

    /// A pcapng block: type, length, body, length.
    fn block(order: fn(u32) -> [u8; 4], kind: u32, head: &[u32], data: &[u8]) -> Vec<u8> {
        let padded = data.len().next_multiple_of(4);
        let len = (12 + head.len() * 4 + padded) as u32;
        let mut bytes = words(order, &[kind, len]);
        bytes.extend(words(order, head));
        bytes.extend(data);
        bytes.resize(bytes.len() + padded - data.len(), 0xee);
        bytes.extend(order(len));
        bytes
    }

    fn section(order: fn(u32) -> [u8; 4]) -> Vec<u8> {
        // Version 1.0: two 16-bit numbers.
        let version = if order(1) == LITTLE(1) { 1 } else { 1 << 16 };
        block(order, 0x0a0d_0d0a, &[0x1a2b_3c4d, version, u32::MAX, u32::MAX], &[])
    }

    fn interface(order: fn(u32) -> [u8; 4], link_type: u32, snaplen: u32) -> Vec<u8> {
        // A 16-bit number, and two reserved bytes.
        let link_type = if order(1) == LITTLE(1) {
            link_type
        } else {
            link_type << 16
        };
        block(order, 1, &[link_type, snaplen], &[])
    }

    fn enhanced(order: fn(u32) -> [u8; 4], interface: u32, data: &[u8], original_len: u32) -> Vec<u8> {
        block(order, 6, &[interface, 0, 0, data.len() as u32, original_len], data)
    }

    fn pcap(order: fn(u32) -> [u8; 4], magic: u32, link_type: u32, records: &[(&[u8], u32)]) -> Vec<u8> {
        let mut bytes = words(order, &[magic, 0, 0, 0, 0xffff, link_type]);
        for (data, original_len) in records {
            bytes.extend(words(order, &[0, 0, data.len() as u32, *original_len]));
            bytes.extend(*data);
        }
        bytes
    }

    fn captured(offset: usize, bytes: &[u8], original_len: usize) -> Captured<'_> {
        Captured {
            offset,
            bytes,
            original_len,
        }
    }

    #[test]
    fn pcap_in_both_byte_orders_and_precisions() {
        for order in [LITTLE, BIG] {
            for magic in [0xa1b2_c3d4, 0xa1b2_3c4d] {
                let file = pcap(order, magic, 1, &[(b"first", 5), (b"", 0), (b"cut", 1500)]);
                let read = frames(&file).unwrap();
                assert_eq!(
                    read,
                    [
                        captured(24, b"first", 5),
                        captured(45, b"", 0),
                        captured(61, b"cut", 1500)
                    ]
                );
                let truncated: Vec<_> = read.iter().map(Captured::is_truncated).collect();
                assert_eq!(truncated, [false, false, true]);
            }
        }
    }

    #[test]
    fn pcapng_with_sections_in_both_byte_orders_and_blocks_of_no_concern() {
        let mut file = Vec::new();
        let mut offsets = Vec::new();
        for order in [LITTLE, BIG] {
            file.extend(section(order));
            // Nothing was captured at the first one.
            file.extend(interface(order, 113, 0));
            file.extend(interface(order, 1, 0));
            // Statistics, and an unknown type.
            file.extend(block(order, 5, &[0, 0, 0], &[]));
            file.extend(block(order, 0x0bad, &[], b"what?"));
            offsets.push(file.len());
            file.extend(enhanced(order, 1, b"whole", 5));
            offsets.push(file.len());
            file.extend(enhanced(order, 1, b"cut", 1500));
        }
        let read = frames(&file).unwrap();
        let expected = [&b"whole"[..], b"cut", b"whole", b"cut"];
        let lens = [5, 1500, 5, 1500];
        let expected: Vec<_> = (0..4)
            .map(|index| captured(offsets[index], expected[index], lens[index]))
            .collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn simple_packets_are_as_long_as_the_first_interface_keeps() {
        for (snaplen, kept) in [(0, &b"seven b"[..]), (65535, b"seven b"), (5, b"seven")] {
            let simple = block(LITTLE, 3, &[7], &b"seven b"[..kept.len()]);
            let file = [section(LITTLE), interface(LITTLE, 1, snaplen), simple].concat();
            assert_eq!(frames(&file).unwrap(), [captured(48, kept, 7)], "{snaplen}");
        }
    }

    #[test]
    fn an_error_says_what_cannot_be_read_and_where() {
        let error = |file: &[u8]| frames(file).unwrap_err().to_string();
        assert_eq!(error(b""), "neither a pcapng nor a pcap file: it begins with []");
        assert_eq!(
            error(b"PK\x03\x04zip"),
            "neither a pcapng nor a pcap file: it begins with [50, 4b, 03, 04]"
        );
        let link_type = "the link type is LINUX_SLL; only captures of Ethernet (link type 1) can be read";
        let cooked = pcap(LITTLE, 0xa1b2_c3d4, 113, &[]);
        assert_eq!(error(&cooked), format!("byte 0: {link_type}"));
        let head = [section(LITTLE), interface(LITTLE, 113, 0)].concat();
        let cooked = [head.clone(), enhanced(LITTLE, 0, b"x", 1)].concat();
        assert_eq!(error(&cooked), format!("byte 48: {link_type}"));
        let unknown = [head.clone(), enhanced(LITTLE, 7, b"x", 1)].concat();
        assert_eq!(
            error(&unknown),
            "byte 48: a frame of interface 7, which no block before describes"
        );

        let whole = pcap(LITTLE, 0xa1b2_c3d4, 1, &[(b"frame", 5)]);
        assert_eq!(
            error(&whole[..20]),
            "byte 0: the file ends within this pcap file header"
        );
        assert_eq!(error(&whole[..40]), "byte 24: the file ends within this pcap record");
        assert_eq!(error(&head[..47]), "byte 28: the file ends within this pcapng block");
        let mut lying = head.clone();
        lying[32..36].copy_from_slice(&LITTLE(8));
        assert_eq!(error(&lying), "byte 28: this is not a pcapng block");
        let missing = read(Path::new("/nonexistent.pcap")).unwrap_err().to_string();
        assert_eq!(
            missing,
            "cannot read /nonexistent.pcap: No such file or directory (os error 2)"
        );
    }
}
