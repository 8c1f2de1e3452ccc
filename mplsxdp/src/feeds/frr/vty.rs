//! The answers of a daemon of FRR to commands of vtysh: text, three NULs, and a status.

use memchr::memchr;

/// CMD_SUCCESS of FRR.
const SUCCESS: u8 = 0;
/// How much of an unexpected answer is shown, in characters.
const SHOWN: usize = 100;
/// The NULs and the status.
const END: usize = 4;

/// An answer that is being read.
#[derive(Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    /// Up to here there is no NUL.
    searched: usize,
    limit: usize,
}

/// Why it cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("it is longer than {0} MiB")]
    Long(usize),
    #[error("it does not end in three NULs and a status, as the answers of FRR to vtysh do")]
    Framing,
    #[error("its status is {status}: {}", .text.as_deref().unwrap_or("no text"))]
    Status { status: u8, text: Option<String> },
}

impl Answer {
    /// Of at most this many bytes.
    pub const fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            searched: 0,
            limit,
        }
    }

    /// Takes in what has arrived. Returns the text once it is complete.
    pub fn take(&mut self, arrived: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
        if self.bytes.len() + arrived.len() > self.limit + END {
            return Err(Unreadable::Long(self.limit >> 20));
        }
        self.bytes.extend_from_slice(arrived);
        let unsearched = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(found) = memchr(0, unsearched) else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        let length = self.searched + found;
        self.searched = length;
        match self.bytes.get(length..).unwrap_or_default() {
            [0] | [0, 0] | [0, 0, 0] => return Ok(None),
            [0, 0, 0, SUCCESS] => {}
            [0, 0, 0, status] => {
                let status = *status;
                let text = self.bytes.get(..length).and_then(shown);
                return Err(Unreadable::Status { status, text });
            }
            _ => return Err(Unreadable::Framing),
        }
        self.bytes.truncate(length);
        Ok(Some(std::mem::take(&mut self.bytes)))
    }
}

/// The first line that is not empty.
fn shown(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let line = line.chars().filter(|c| !c.is_control());
    Some(line.take(SHOWN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives an answer in pieces of this many bytes.
    fn read(bytes: &[u8], piece: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        let mut answer = Answer::new(1 << 20);
        for piece in bytes.chunks(piece) {
            if let Some(text) = answer.take(piece)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    #[test]
    fn an_answer_ends_with_three_nuls_and_a_status() {
        for piece in 1..8 {
            assert_eq!(read(b"{}\n\0\0\0\0", piece), Ok(Some(b"{}\n".to_vec())));
            assert_eq!(read(b"\0\0\0\0", piece), Ok(Some(Vec::new())));
            for cut in [&b"{}\n\0\0\0"[..], b"{}\n\0\0", b"{}\n\0", b"{}\n", b""] {
                assert_eq!(read(cut, piece), Ok(None));
            }
            let status = |status, text: &str| {
                let text = Some(text.to_owned());
                Err(Unreadable::Status { status, text })
            };
            assert_eq!(
                read(b"\n% Unknown command: show mpls\r\n\0\0\0\x02", piece),
                status(2, "% Unknown command: show mpls")
            );
        }
        let no_text = Unreadable::Status { status: 1, text: None };
        assert_eq!(read(b"\0\0\0\x01", 9), Err(no_text.clone()));
        assert_eq!(no_text.to_string(), "its status is 1: no text");
        for wrong in [&b"{}\0{}"[..], b"{}\0\0{}\0", b"{}\0\0\0\0more"] {
            assert_eq!(read(wrong, 99), Err(Unreadable::Framing));
        }
    }

    #[test]
    fn an_answer_has_a_limit() {
        let mut answer = Answer::new(1 << 20);
        let full = vec![b' '; 1 << 20];
        assert_eq!(answer.take(&full), Ok(None));
        assert_eq!(answer.take(b"\0\0\0\0"), Ok(Some(full.clone())));
        let mut answer = Answer::new(1 << 20);
        assert_eq!(answer.take(&full), Ok(None));
        assert_eq!(answer.take(b"     "), Err(Unreadable::Long(1)));
    }
}
