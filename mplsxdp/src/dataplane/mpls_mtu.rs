//! The MPLS MTU of a port, as people write it: `1508`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The least: 68 bytes, which every link must carry in one piece (RFC 791 section 3.2), under one label.
const LEAST: u16 = 68 + 4;

/// The largest labelled packet that may leave by a port: label stack and payload, without the Ethernet header and VLAN
/// tags. `None`: the port's MTU; 0 for programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u16")]
pub struct MplsMtu(pub Option<u16>);

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidMplsMtu {
    #[error("`{0}` is not an MPLS MTU: write the bytes, {LEAST} to {max}, or `default`", max = u16::MAX)]
    Text(Box<str>),
    #[error("{0} is not an MPLS MTU: it is {LEAST} to {max} bytes, or 0 for the port's MTU", max = u16::MAX)]
    Number(i64),
}

impl MplsMtu {
    pub fn is_default(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for MplsMtu {
    type Err = InvalidMplsMtu;

    fn from_str(text: &str) -> Result<Self, InvalidMplsMtu> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text {
            "default" => Ok(Self(None)),
            _ => {
                let bytes = text.parse().ok().filter(|&bytes| is_number && bytes >= LEAST);
                bytes
                    .map(|bytes| Self(Some(bytes)))
                    .ok_or_else(|| InvalidMplsMtu::Text(text.into()))
            }
        }
    }
}

impl TryFrom<i64> for MplsMtu {
    type Error = InvalidMplsMtu;

    fn try_from(number: i64) -> Result<Self, InvalidMplsMtu> {
        match u16::try_from(number) {
            Ok(0) => Ok(Self(None)),
            Ok(bytes @ LEAST..) => Ok(Self(Some(bytes))),
            _ => Err(InvalidMplsMtu::Number(number)),
        }
    }
}

impl From<MplsMtu> for u16 {
    fn from(mtu: MplsMtu) -> Self {
        mtu.0.unwrap_or(0)
    }
}

impl fmt::Display for MplsMtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("default"),
            Some(bytes) => bytes.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mpls_mtu_is_a_number_of_bytes_or_the_default() {
        for text in ["72", "1508", "65535", "default"] {
            assert_eq!(text.parse::<MplsMtu>().unwrap().to_string(), text);
        }
        for text in ["", "71", "0", "65536", "+100", "-1", "1508 ", "0x100", "1e3", "none"] {
            let error = text.parse::<MplsMtu>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("`{text}` is not an MPLS MTU: write the bytes, 72 to 65535, or `default`")
            );
        }
        for (json, mtu) in [("0", None), ("72", Some(72)), ("65535", Some(65535))] {
            let read: MplsMtu = serde_json::from_str(json).unwrap();
            assert_eq!((read.0, serde_json::to_string(&read).unwrap()), (mtu, json.to_owned()));
        }
        for json in ["71", "-1", "65536"] {
            let error = serde_json::from_str::<MplsMtu>(json).unwrap_err().to_string();
            assert!(
                error.contains("it is 72 to 65535 bytes, or 0 for the port's MTU"),
                "{error}"
            );
        }
    }
}
