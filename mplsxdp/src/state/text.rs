//! The files' lines: each has a checksum of itself and of all lines before it, so that a line that is changed, missing,
//! repeated or moved is found.
//!
//! ```text
//! mplsxdp-state 1
//! 5d1c0b7e {"snapshot":3}
//! 0a94f1c2 set static 100 as to 200 via inet 192.0.2.1 dev eth1
//! ```

use std::ops::Range;

use crc32fast::Hasher;

/// The first word of every file.
pub const MAGIC: &str = "mplsxdp-state";
/// The version of the format, which follows it.
pub const VERSION: u32 = 1;
/// A line's checksum, in hexadecimal digits.
const DIGITS: usize = 8;
/// Where so many bytes are zero, the file has a hole: the machine stopped before they were on the disk.
const HOLE: usize = 16;

/// Writes lines into a buffer.
#[derive(Clone, Debug)]
pub struct Writer {
    checksum: Hasher,
}

impl Writer {
    /// Begins a file.
    pub fn begin(buffer: &mut Vec<u8>) -> Self {
        let first = format!("{MAGIC} {VERSION}\n");
        buffer.extend_from_slice(first.as_bytes());
        let mut checksum = Hasher::new();
        checksum.update(first.as_bytes());
        Self { checksum }
    }

    /// Adds a line that `write` writes; it must not contain a newline.
    pub fn line(&mut self, buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = buffer.len();
        buffer.extend_from_slice(&[b' '; DIGITS + 1]);
        write(buffer);
        buffer.push(b'\n');
        self.checksum.update(&buffer[start + DIGITS + 1..]);
        let sum = self.checksum.clone().finalize();
        for (index, digit) in buffer[start..start + DIGITS].iter_mut().enumerate() {
            let nibble = sum >> (4 * (DIGITS - 1 - index)) & 0xf;
            *digit = b"0123456789abcdef"[nibble as usize];
        }
    }
}

/// Why no further line can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The file ends within a line, or has a hole: the process or the machine stopped while it was written.
    Torn,
    /// It is not what was written.
    Damaged(&'static str),
}

/// Reads lines.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    /// The number of the line that begins at `at`, from 1.
    number: usize,
    checksum: Hasher,
}

/// What the first line of a file says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum First {
    Known,
    Newer(u32),
}

impl<'a> Reader<'a> {
    /// Reads the first line.
    pub fn begin(data: &'a [u8]) -> Result<(Self, First), Fault> {
        let mut reader = Self {
            data,
            at: 0,
            number: 1,
            checksum: Hasher::new(),
        };
        let range = reader.find_line()?;
        let words = str::from_utf8(&data[range.clone()]).ok();
        let version = words.and_then(|line| line.strip_prefix(MAGIC)?.strip_prefix(' '));
        let number = version.and_then(|text| text.parse().ok().filter(|number: &u32| number.to_string() == text));
        let first = match number {
            Some(VERSION) => First::Known,
            Some(newer) if newer > VERSION => First::Newer(newer),
            _ => return Err(Fault::Damaged("it does not begin with `mplsxdp-state` and a version")),
        };
        reader.pass(&range);
        Ok((reader, first))
    }

    /// The next line; `None` at the end of the file.
    pub fn next_line(&mut self) -> Result<Option<&'a str>, Fault> {
        if self.at == self.data.len() {
            return Ok(None);
        }
        let range = self.find_line()?;
        let line = &self.data[range.clone()];
        let Some((sum, payload)) = line.split_at_checked(DIGITS + 1) else {
            return Err(Fault::Damaged("it is too short"));
        };
        let mut checksum = self.checksum.clone();
        checksum.update(payload);
        checksum.update(b"\n");
        let expected = format!("{:08x} ", checksum.clone().finalize());
        if sum != expected.as_bytes() {
            return Err(Fault::Damaged("its checksum is wrong"));
        }
        let payload = str::from_utf8(payload).map_err(|_| Fault::Damaged("it is not UTF-8"))?;
        self.checksum = checksum;
        (self.at, self.number) = (range.end + 1, self.number + 1);
        Ok(Some(payload))
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The number of the next line, from 1.
    pub fn line_number(&self) -> usize {
        self.number
    }

    /// The next line, without its newline.
    fn find_line(&self) -> Result<Range<usize>, Fault> {
        let rest = &self.data[self.at..];
        let end = memchr::memchr(b'\n', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        if let Some(first) = memchr::memchr(0, line) {
            let zeros = rest[first..].iter().take(HOLE).take_while(|&&byte| byte == 0).count();
            if zeros == HOLE || first + zeros == rest.len() {
                return Err(Fault::Torn);
            }
        }
        match end {
            Some(end) => Ok(self.at..self.at + end),
            None => Err(Fault::Torn),
        }
    }

    fn pass(&mut self, line: &Range<usize>) {
        self.checksum.update(&self.data[line.start..=line.end]);
        (self.at, self.number) = (line.end + 1, self.number + 1);
    }
}
