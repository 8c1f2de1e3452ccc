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

impl FromStr for LocalRoute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        let (prefix, src) = match words.as_slice() {
            [prefix] => (prefix, None),
            [prefix, "src", src] => (prefix, Some(src)),
            _ => return Err(format!("`{text}` is not `PREFIX` or `PREFIX src ADDRESS`")),
        };
        let host = || prefix.parse::<IpAddr>().map(IpNet::from);
        let prefix: IpNet = prefix
            .parse()
            .or_else(|_| host())
            .map_err(|_| format!("`{prefix}` is not a prefix, such as 10.4.4.0/24 or 2001:db8::/32"))?;
        if prefix.trunc() != prefix {
            let right = prefix.trunc();
            return Err(format!("{prefix} has bits set beyond its length: write {right}"));
        }
        let address = |src: &&str| src.parse::<IpAddr>().map_err(|_| format!("`{src}` is not an address"));
        let src = src.map(address).transpose()?;
        match src {
            Some(src) if src.is_ipv4() != prefix.addr().is_ipv4() => {
                Err(format!("{prefix} and src {src} are of different families"))
            }
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
            assert_eq!(line.parse::<LocalRoute>(), Err(reason.to_owned()));
        }
    }
}
