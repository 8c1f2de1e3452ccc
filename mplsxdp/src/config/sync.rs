//! Sources of routes to follow (`--sync`), and the routing tables whose IP routes are used (`--sync-table`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::route::Source;
use crate::route::interface::check_interface;
use crate::text::serde_as_text;

/// The port that zebra's `fpm address` uses by default.
const FPM_PORT: u16 = 2620;
const FPM_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// `kernel`, `fpm`, `fpm:ADDRESS`, `fpm:PORT` or `fpm:ADDRESS:PORT`; an IPv6 address with a port is in brackets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncSource {
    /// The kernel's MPLS routes.
    Kernel,
    /// A server for FRR's `dplane_fpm_nl`.
    Fpm(SocketAddr),
}

impl SyncSource {
    /// The word that the option's value begins with.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Fpm(_) => "fpm",
        }
    }

    /// The owner of its routes.
    pub const fn source(self) -> Source {
        match self {
            Self::Kernel => Source::Kernel,
            Self::Fpm(_) => Source::Fpm,
        }
    }

    /// Where a routing daemon connects to.
    pub const fn fpm_address(self) -> Option<SocketAddr> {
        match self {
            Self::Fpm(address) => Some(address),
            Self::Kernel => None,
        }
    }
}

/// Why a text is not a [`SyncSource`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSyncSource {
    #[error("`{0}` is not a source of routes: it is `kernel` or `fpm[:ADDRESS][:PORT]`")]
    Unknown(Box<str>),
    #[error("`{0}` is not an address and a port, such as 127.0.0.1:2620 or [::1]:2620")]
    Address(Box<str>),
}

impl FromStr for SyncSource {
    type Err = InvalidSyncSource;

    fn from_str(text: &str) -> Result<Self, InvalidSyncSource> {
        let address = match text.split_once(':') {
            None if text == "kernel" => return Ok(Self::Kernel),
            None if text == "fpm" => return Ok(Self::Fpm(SocketAddr::new(FPM_ADDRESS, FPM_PORT))),
            Some(("fpm", address)) => address,
            _ => return Err(InvalidSyncSource::Unknown(text.into())),
        };
        let bare = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(address);
        if let Ok(port) = address.parse() {
            Ok(Self::Fpm(SocketAddr::new(FPM_ADDRESS, port)))
        } else if let Ok(address) = bare.parse() {
            Ok(Self::Fpm(SocketAddr::new(address, FPM_PORT)))
        } else if let Ok(address) = address.parse() {
            Ok(Self::Fpm(address))
        } else {
            Err(InvalidSyncSource::Address(address.into()))
        }
    }
}

impl fmt::Display for SyncSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("kernel"),
            Self::Fpm(address) => write!(f, "fpm:{address}"),
        }
    }
}

serde_as_text!(SyncSource);

/// A routing table: its number, `main`, or the VRF that has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SyncTable {
    Number(u32),
    Vrf(String),
}

impl SyncTable {
    /// RT_TABLE_MAIN.
    pub const MAIN: Self = Self::Number(254);
}

/// Why a text is not a [`SyncTable`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSyncTable {
    #[error("there is no table 0")]
    Zero,
    #[error("`{0}` is not a routing table: it is a number, `main` or the name of a VRF")]
    Unknown(Box<str>),
}

impl FromStr for SyncTable {
    type Err = InvalidSyncTable;

    fn from_str(text: &str) -> Result<Self, InvalidSyncTable> {
        match text.parse() {
            Ok(0) => Err(InvalidSyncTable::Zero),
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if text == "main" => Ok(Self::MAIN),
            Err(_) => match check_interface(text) {
                Ok(()) => Ok(Self::Vrf(text.into())),
                Err(_) => Err(InvalidSyncTable::Unknown(text.into())),
            },
        }
    }
}

impl fmt::Display for SyncTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(254) => f.write_str("main"),
            Self::Number(number) => number.fmt(f),
            Self::Vrf(name) => f.write_str(name),
        }
    }
}

serde_as_text!(SyncTable);

/// A time span of 1 ms to 1 hour, such as `2s` or `500ms`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(Duration);

impl Span {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub fn get(self) -> Duration {
        self.0
    }
}

/// A text is not a [`Span`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it must be a time of 1ms to 1h, such as 2s or 500ms")]
pub struct InvalidSpan;

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let limits = Duration::from_millis(1)..=Duration::from_secs(3600);
        match humantime::parse_duration(text) {
            Ok(span) if limits.contains(&span) => Ok(Self(span)),
            _ => Err(InvalidSpan),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

serde_as_text!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_they_are_written() {
        for (text, shown) in [
            ("kernel", "kernel"),
            ("fpm", "fpm:127.0.0.1:2620"),
            ("fpm:2621", "fpm:127.0.0.1:2621"),
            ("fpm:10.0.0.1", "fpm:10.0.0.1:2620"),
            ("fpm:10.0.0.1:1", "fpm:10.0.0.1:1"),
            ("fpm:::1", "fpm:[::1]:2620"),
            ("fpm:[::1]", "fpm:[::1]:2620"),
            ("fpm:[::1]:2620", "fpm:[::1]:2620"),
        ] {
            let source: SyncSource = text.parse().unwrap();
            assert_eq!(source.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(source));
        }
        for text in [
            "",
            "frr",
            "fpm:",
            "fpm:host:2620",
            "fpm:127.0.0.1:",
            "fpm:65536",
            "kernel:1",
        ] {
            assert!(text.parse::<SyncSource>().is_err(), "{text}");
        }
    }

    #[test]
    fn tables_are_numbers_or_vrfs() {
        assert_eq!("main".parse(), Ok(SyncTable::Number(254)));
        assert_eq!("1000".parse(), Ok(SyncTable::Number(1000)));
        assert_eq!("red".parse(), Ok(SyncTable::Vrf("red".into())));
        for text in ["", "0", "a name", "0123456789abcdef"] {
            assert!(text.parse::<SyncTable>().is_err(), "{text}");
        }
    }
}
