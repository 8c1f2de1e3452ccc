//! A kernel route into the interface for this machine's own packets.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::text::serde_as_text;

/// A kernel route into the local interface, as `ip route` writes it: `10.4.4.0/24`, `10.4.4.0/24 src 10.0.0.1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LocalRoute {
    pub prefix: IpNet,
    /// The source address of this machine's own packets that take the route.
    pub src: Option<IpAddr>,
}

/// Why a line is not a [`LocalRoute`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidLocalRoute {
    #[error("`{0}` is not `PREFIX` or `PREFIX src ADDRESS`")]
    Words(String),
    #[error("`{0}` is not a prefix, such as 10.4.4.0/24 or 2001:db8::/32")]
    Prefix(String),
    #[error("{0} has bits set beyond its length: write {right}", right = .0.trunc())]
    HostBits(IpNet),
    #[error("`{0}` is not an address")]
    Address(String),
    #[error("{prefix} and src {src} are of different families")]
    Families { prefix: IpNet, src: IpAddr },
}

impl FromStr for LocalRoute {
    type Err = InvalidLocalRoute;

    fn from_str(text: &str) -> Result<Self, InvalidLocalRoute> {
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let (prefix, src) = match words.as_slice() {
            [prefix] => (prefix, None),
            [prefix, "src", src] => (prefix, Some(src)),
            _ => return Err(InvalidLocalRoute::Words(text.to_owned())),
        };
        let host = || prefix.parse::<IpAddr>().map(IpNet::from);
        let prefix: IpNet = prefix
            .parse()
            .or_else(|_| host())
            .map_err(|_| InvalidLocalRoute::Prefix((*prefix).to_owned()))?;
        if prefix.trunc() != prefix {
            return Err(InvalidLocalRoute::HostBits(prefix));
        }
        let address = |src: &&str| {
            src.parse::<IpAddr>()
                .map_err(|_| InvalidLocalRoute::Address((*src).to_owned()))
        };
        let src = src.map(address).transpose()?;
        match src {
            Some(src) if src.is_ipv4() != prefix.addr().is_ipv4() => Err(InvalidLocalRoute::Families { prefix, src }),
            _ => Ok(Self { prefix, src }),
        }
    }
}

impl fmt::Display for LocalRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.src {
            Some(src) => write!(f, "{} src {src}", self.prefix),
            None => self.prefix.fmt(f),
        }
    }
}

serde_as_text!(LocalRoute);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_routes_are_lines() {
        for line in [
            "10.4.4.0/24",
            "10.4.4.0/24 src 10.0.0.1",
            "2001:db8::/32 src 2001:db8::1",
            "0.0.0.0/0",
        ] {
            assert_eq!(
                line.parse::<LocalRoute>().map(|route| route.to_string()),
                Ok(line.into())
            );
        }
        assert_eq!(
            "10.4.4.1".parse::<LocalRoute>().map(|route| route.to_string()),
            Ok("10.4.4.1/32".into())
        );
        for (line, reason) in [
            ("", "`` is not `PREFIX` or `PREFIX src ADDRESS`"),
            (
                "10.4.4.0/24 via 10.0.0.1",
                "`10.4.4.0/24 via 10.0.0.1` is not `PREFIX` or `PREFIX src ADDRESS`",
            ),
            (
                "10.4.4.0/33",
                "`10.4.4.0/33` is not a prefix, such as 10.4.4.0/24 or 2001:db8::/32",
            ),
            (
                "10.4.4.1/24",
                "10.4.4.1/24 has bits set beyond its length: write 10.4.4.0/24",
            ),
            ("10.4.4.0/24 src x", "`x` is not an address"),
            (
                "10.4.4.0/24 src ::1",
                "10.4.4.0/24 and src ::1 are of different families",
            ),
        ] {
            let error = line.parse::<LocalRoute>().map_err(|error| error.to_string());
            assert_eq!(error, Err(reason.to_owned()));
        }
    }
}
