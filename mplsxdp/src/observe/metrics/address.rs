//! Where metrics are served (`--metrics`), and to whom (`--metrics-allow`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;

use crate::text::serde_as_text;

/// The longest path of a socket: the size of `sun_path` minus its NUL (unix(7)).
const MAX_PATH: usize = 107;

/// `unix:PATH` or `ADDRESS:PORT`; an IPv6 address is in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetricsAddress {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl MetricsAddress {
    /// Whether other machines may be able to connect.
    pub fn is_reachable(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().is_loopback())
    }

    /// Whether listening there takes a capability (ip(7)).
    pub fn has_low_port(&self) -> bool {
        matches!(self, Self::Tcp(address) if address.port() < 1024)
    }
}

/// Why a text is not a [`MetricsAddress`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidMetricsAddress {
    #[error(
        "`{0}` is not where metrics can be served: it is `unix:PATH` or `ADDRESS:PORT`, such as \
         unix:/run/mplsxdp/default.metrics, 127.0.0.1:9177 or [::1]:9177"
    )]
    Form(Box<str>),
    #[error(
        "`{0}` is not the path of a socket: it is absolute and has at most {MAX_PATH} bytes, such as \
         /run/mplsxdp/default.metrics"
    )]
    Path(Box<str>),
}

impl FromStr for MetricsAddress {
    type Err = InvalidMetricsAddress;

    fn from_str(text: &str) -> Result<Self, InvalidMetricsAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let is_one = path.starts_with('/') && !path.ends_with('/') && path.len() <= MAX_PATH;
            return match is_one && !path.contains('\0') {
                true => Ok(Self::Unix(path.into())),
                false => Err(InvalidMetricsAddress::Path(path.into())),
            };
        }
        let address = text.parse().map_err(|_| InvalidMetricsAddress::Form(text.into()));
        address.map(Self::Tcp)
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

serde_as_text!(MetricsAddress);

/// Clients that may connect: a prefix, or one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clients(IpNet);

impl Clients {
    pub fn include(self, client: IpAddr) -> bool {
        self.0.contains(&client)
    }
}

/// Why a text is not [`Clients`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a prefix or an address, such as 192.0.2.0/24 or 2001:db8::1")]
pub struct InvalidClients(Box<str>);

impl FromStr for Clients {
    type Err = InvalidClients;

    fn from_str(text: &str) -> Result<Self, InvalidClients> {
        let prefix = text
            .parse()
            .or_else(|_| text.parse().map(|address: IpAddr| address.into()));
        let prefix: IpNet = prefix.map_err(|_| InvalidClients(text.into()))?;
        Ok(Self(prefix.trunc()))
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_as_text!(Clients);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (text, is_reachable) in [
            ("unix:/run/mplsxdp/default.metrics", false),
            ("127.0.0.1:9177", false),
            ("[::1]:9177", false),
            ("0.0.0.0:9177", true),
            ("[2001:db8::1]:9177", true),
        ] {
            let address: MetricsAddress = text.parse().unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.is_reachable()),
                (text, is_reachable)
            );
        }
        for text in ["9177", "localhost:9177", "::1", "/run/x", ""] {
            let error = text.parse::<MetricsAddress>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{text}` is not where metrics")), "{error}");
        }
        for path in ["run/x", "/run/", "", &format!("/{}", "x".repeat(MAX_PATH))] {
            let error = format!("unix:{path}").parse::<MetricsAddress>().unwrap_err();
            assert_eq!(error, InvalidMetricsAddress::Path(path.into()));
        }
    }

    #[test]
    fn clients_are_those_of_a_prefix_or_one() {
        let includes = |clients: &str, client: &str| {
            let clients: Clients = clients.parse().unwrap();
            clients.include(client.parse().unwrap())
        };
        assert!(includes("192.0.2.7/24", "192.0.2.200"));
        assert!(!includes("192.0.2.0/24", "192.0.3.1"));
        assert!(includes("2001:db8::1", "2001:db8::1"));
        assert!(!includes("2001:db8::1", "2001:db8::2"));
        assert!(!includes("0.0.0.0/0", "2001:db8::2"));
        assert_eq!("192.0.2.7/24".parse::<Clients>().unwrap().to_string(), "192.0.2.0/24");
        assert!("192.0.2.0/33".parse::<Clients>().is_err());
    }
}
