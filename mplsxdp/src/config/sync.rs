//! Sources of routes to follow (`--sync`), and the routing tables whose IP routes are used (`--sync-table`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::route::Source;
use crate::route::interface::check_interface;
use crate::text::serde_as_text;

/// The port that zebra's `fpm address` uses by default.
const FPM_PORT: u16 = 2620;
const FPM_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Where FRR's daemons have the sockets that vtysh uses.
const FRR_DIRECTORY: &str = "/var/run/frr";
/// The longest path of such a socket (`sun_path` without its NUL), less `/zebra.vty`.
const FRR_DIRECTORY_BYTES: usize = 107 - "/zebra.vty".len();

/// `kernel`, `fpm`, `fpm:ADDRESS`, `fpm:PORT` or `fpm:ADDRESS:PORT`; an IPv6 address with a port is in brackets. `frr` or
/// `frr=DIR`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SyncSource {
    /// The kernel's MPLS routes.
    Kernel,
    /// A server for FRR's `dplane_fpm_nl`.
    Fpm(SocketAddr),
    /// Backups for the routes of the others, and pseudowires, from the FRR whose daemons have their sockets in this
    /// directory.
    Frr(PathBuf),
}

impl SyncSource {
    /// The word that the option's value begins with.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Fpm(_) => "fpm",
            Self::Frr(_) => "frr",
        }
    }

    /// The owner of its routes.
    pub const fn source(&self) -> Source {
        match self {
            Self::Kernel => Source::Kernel,
            Self::Fpm(_) => Source::Fpm,
            Self::Frr(_) => Source::Frr,
        }
    }

    /// Where a routing daemon connects to.
    pub const fn fpm_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Fpm(address) => Some(*address),
            Self::Kernel | Self::Frr(_) => None,
        }
    }

    /// Where FRR's daemons have their sockets.
    pub fn frr_directory(&self) -> Option<&Path> {
        match self {
            Self::Frr(directory) => Some(directory),
            Self::Kernel | Self::Fpm(_) => None,
        }
    }
}

/// Why a text is not a [`SyncSource`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSyncSource {
    #[error("`{0}` is not a source of routes: it is `kernel`, `fpm[:ADDRESS][:PORT]` or `frr[=DIR]`")]
    Unknown(Box<str>),
    #[error("`{0}` is not an address and a port, such as 127.0.0.1:2620 or [::1]:2620")]
    Address(Box<str>),
    #[error(
        "`{0}` is not the directory of FRR's sockets: it is an absolute path of at most {FRR_DIRECTORY_BYTES} bytes, such as \
         {FRR_DIRECTORY}"
    )]
    Directory(Box<str>),
}

impl FromStr for SyncSource {
    type Err = InvalidSyncSource;

    fn from_str(text: &str) -> Result<Self, InvalidSyncSource> {
        match text.split_once('=') {
            None if text == "frr" => return Ok(Self::Frr(FRR_DIRECTORY.into())),
            Some(("frr", directory)) => {
                let is_one = directory.starts_with('/') && directory.len() <= FRR_DIRECTORY_BYTES;
                return match is_one && !directory.contains('\0') {
                    true => Ok(Self::Frr(directory.into())),
                    false => Err(InvalidSyncSource::Directory(directory.into())),
                };
            }
            _ => {}
        }
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
            Self::Frr(directory) => write!(f, "frr={}", directory.display()),
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
            ("frr", "frr=/var/run/frr"),
            ("frr=/run/frr/PE 1", "frr=/run/frr/PE 1"),
        ] {
            let source: SyncSource = text.parse().unwrap();
            assert_eq!(source.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(source));
        }
        for text in [
            "",
            "frr=",
            "frr=run/frr",
            "frr:/run/frr",
            "fpm:",
            "fpm:host:2620",
            "fpm:127.0.0.1:",
            "fpm:65536",
            "kernel:1",
        ] {
            assert!(text.parse::<SyncSource>().is_err(), "{text}");
        }
        let directory = |bytes: usize| format!("frr=/{}", "d".repeat(bytes - 1)).parse::<SyncSource>();
        assert!(directory(FRR_DIRECTORY_BYTES).is_ok() && directory(FRR_DIRECTORY_BYTES + 1).is_err());
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
