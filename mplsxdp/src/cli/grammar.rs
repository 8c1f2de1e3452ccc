//! Route lines: iproute2's grammar, as people type it and as `ip -M route` and `ip route` print it. Pure: a line in, a route
//! or an error that points at a word out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;
use std::ops::Range;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mplsxdp_common::abi::TtlPropagate;
use mplsxdp_common::wire::{Label, Mac};

use crate::config::check_interface;
use crate::lfib::route::{
    Action, InvalidRoute, MAX_WEIGHT, NextHop, OutLabels, Path, Route, RouteKey, Via, check_explicit_null, check_key,
};

/// What a line is about where it does not say so itself (`-f`, `-M`, `-4`, `-6`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// Labels and prefixes of both IP versions.
    #[default]
    Any,
    Mpls,
    Inet,
    Inet6,
}

/// What is wrong with a line, and where: a range of bytes, empty at the end of a line that ends too early.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct GrammarError {
    pub at: Range<usize>,
    pub reason: String,
}

impl GrammarError {
    /// Where it is, counted in characters from 1.
    pub fn column(&self, line: &str) -> usize {
        line.get(..self.at.start).map_or(1, |before| before.chars().count() + 1)
    }

    /// The line, and below it marks under the words in question.
    pub fn point_out(&self, line: &str) -> String {
        let marked = line
            .get(self.at.clone())
            .map_or(1, |words| words.chars().count())
            .max(1);
        let indent = self.column(line) - 1;
        format!("  {line}\n  {:indent$}{:^<marked$}", "", "")
    }
}

/// A whole route.
pub fn route(line: &str, family: Family) -> Result<Route, GrammarError> {
    Parser::new(line, family).route()
}

/// Only what a route is for, as `route get` takes it.
pub fn key(line: &str, family: Family) -> Result<RouteKey, GrammarError> {
    let mut parser = Parser::new(line, family);
    let (key, _) = parser.key()?;
    match parser.words.next() {
        None => Ok(key),
        Some(word) => Err(parser.error(
            word,
            format!("`{word}` is too much: only the label or prefix is expected"),
        )),
    }
}

/// What a route is for; the rest of the line, if there is any, is read as a whole route too.
pub fn key_or_route(line: &str, family: Family) -> Result<(RouteKey, Option<Route>), GrammarError> {
    let mut parser = Parser::new(line, family);
    let (key, _) = parser.key()?;
    match parser.words.next() {
        None => Ok((key, None)),
        Some(_) => route(line, family).map(|route| (key, Some(route))),
    }
}

struct Parser<'a> {
    line: &'a str,
    words: std::str::SplitAsciiWhitespace<'a>,
    family: Family,
}

/// A value, and the word that it came from.
type Given<'a, T> = Option<(T, &'a str)>;

impl<'a> Parser<'a> {
    fn new(line: &'a str, family: Family) -> Self {
        Self {
            line,
            words: line.split_ascii_whitespace(),
            family,
        }
    }

    fn route(mut self) -> Result<Route, GrammarError> {
        let (key, key_word) = self.key()?;
        // What is said before the first `nexthop` is of the route itself.
        let mut by_itself = Said::default();
        let mut several: Vec<Said<'a>> = Vec::new();
        let mut ttl_propagate: Given<TtlPropagate> = None;
        while let Some(word) = self.words.next() {
            if self.said_of_path(word, several.last_mut().unwrap_or(&mut by_itself))? {
                continue;
            }
            match word {
                "nexthop" => several.push(Said {
                    nexthop: Some(word),
                    ..Said::default()
                }),
                // Between lines that `ip -oneline` has joined.
                "\\" => {}
                "ttl-propagate" => {
                    let value = self.ttl_propagate()?;
                    self.once(&mut ttl_propagate, word, value)?;
                }
                // What they say is not kept, and cannot make the route another one.
                "proto" | "protocol" | "scope" | "pref" | "metric" | "priority" | "preference" | "packets"
                | "bytes" => {
                    self.value(word, "a value")?;
                }
                "linkdown" | "dead" | "offload" | "trap" | "onlink" | "unresolved" | "uncounted" => {}
                "table" => {
                    let table = self.value(word, "the table's name")?;
                    if !matches!(table, "main" | "254") {
                        return Err(self.error(table, format!("table `{table}`: there is only one table, `main`")));
                    }
                }
                _ => {
                    return Err(self.error(
                        word,
                        format!(
                            "`{word}` is not known here; a route has `as`, `via`, `dev`, `encap`, `ttl`, `ttl-propagate`, \
                             `backup` and `nexthop`"
                        ),
                    ));
                }
            }
        }
        check_key(key).map_err(|InvalidRoute(reason)| self.error(key_word, reason))?;
        let paths = if several.is_empty() {
            if let Some((_, word)) = by_itself.weight {
                return Err(self.error(
                    word,
                    "`weight` is for one of several: `nexthop via inet ADDRESS weight N`",
                ));
            }
            vec![self.path(key, by_itself)?]
        } else {
            if let Some(word) = by_itself.first_word() {
                return Err(self.error(
                    word,
                    format!("`{word}` before `nexthop`: each of several next hops has its own, after its `nexthop`"),
                ));
            }
            let mut paths = Vec::with_capacity(several.len());
            for said in several {
                paths.push(self.path(key, said)?);
            }
            paths
        };
        let ttl_propagate = ttl_propagate.map_or(TtlPropagate::Default, |(value, _)| value);
        Route::with_paths(key, paths, ttl_propagate).map_err(|InvalidRoute(reason)| self.error(key_word, reason))
    }

    /// Takes in `word`, and what belongs to it, where it is about one way on.
    fn said_of_path(&mut self, word: &'a str, said: &mut Said<'a>) -> Result<bool, GrammarError> {
        match word {
            "as" => {
                let value = self.out_labels()?;
                self.once(&mut said.out, word, value)?;
            }
            "encap" => {
                let value = self.encap()?;
                self.once(&mut said.encap, word, value)?;
            }
            "ttl" => {
                let value = self.ttl()?;
                self.once(&mut said.ttl, word, value)?;
            }
            "via" => {
                let (value, value_word) = self.via()?;
                self.once(&mut said.via, word, value)?;
                said.via = Some((value, value_word));
            }
            "dev" | "oif" => {
                let value = self.dev(word)?;
                self.once(&mut said.dev, word, value)?;
            }
            "backup" => {
                let (value, value_word) = self.backup()?;
                self.once(&mut said.backup, word, value)?;
                said.backup = said.backup.take().map(|(value, _)| (value, value_word));
            }
            "weight" => {
                let value = self.weight()?;
                self.once(&mut said.weight, word, value)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// One way on of a route for `key`, made of what was said of it.
    fn path(&self, key: RouteKey, said: Said<'a>) -> Result<Path, GrammarError> {
        let Said {
            nexthop,
            out,
            encap,
            ttl,
            via,
            dev,
            backup,
            weight,
        } = said;
        let missing = |reason: String| match nexthop {
            Some(word) => self.error(word, reason),
            None => self.error_at_end(reason),
        };
        let action = match (key, out, encap) {
            (_, Some(_), Some((_, encap))) => {
                return Err(self.error(
                    encap,
                    "`as` and `encap` exclude each other: `as` is for a label, `encap` for a prefix",
                ));
            }
            (RouteKey::Label(_), None, Some((_, encap))) => {
                return Err(self.error(encap, "`encap mpls` is for a prefix; a label takes `as`"));
            }
            (RouteKey::Prefix(_), Some((_, out)), None) => {
                return Err(self.error(
                    out,
                    format!("`as` is for a label; a prefix takes `{key} encap mpls LABEL`"),
                ));
            }
            (RouteKey::Prefix(_), None, None) => {
                return Err(missing(format!(
                    "a route for a prefix pushes labels: `{key} encap mpls LABEL`"
                )));
            }
            (RouteKey::Prefix(prefix), None, Some((labels, encap))) => {
                check_explicit_null(prefix, &labels).map_err(|InvalidRoute(reason)| self.error(encap, reason))?;
                Action::Push {
                    labels,
                    ttl: ttl.map(|(ttl, _)| ttl),
                }
            }
            (RouteKey::Label(_), Some((Out::Labels(labels), _)), None) => Action::Swap(labels),
            (RouteKey::Label(_), Some((Out::ImplicitNull, _)), None) => Action::PenultimatePop,
            (RouteKey::Label(_), None, None) => match (&via, dev) {
                (None, Some(("lo", word))) if nexthop.is_some() => {
                    return Err(self.error(
                        word,
                        "`dev lo` keeps the packet on this box; it is not one of several next hops",
                    ));
                }
                (None, Some(("lo", _))) => Action::Local,
                _ => Action::Pop,
            },
        };
        if let (RouteKey::Label(_), Some((_, ttl))) = (key, ttl) {
            return Err(self.error(
                ttl,
                "`ttl` goes with `encap mpls`; for a label there is `ttl-propagate`",
            ));
        }
        let next_hop = match (via, dev) {
            (Some(_), Some(("lo", dev))) => {
                return Err(self.error(
                    dev,
                    "`dev lo` keeps the packet on this box; it takes no `via` and no `as`",
                ));
            }
            (Some((via, _)), dev) => Some(NextHop {
                via,
                dev: dev.map(|(dev, _)| Arc::from(dev)),
            }),
            (None, Some((_, word))) if action != Action::Local => {
                return Err(self.error(
                    word,
                    "`dev` without `via`: say which neighbour, by `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
                ));
            }
            (None, _) => None,
        };
        let path = Path {
            action,
            next_hop,
            backup: backup.as_ref().map(|(backup, _)| backup.clone()),
            weight: weight.map_or(1, |(weight, _)| weight),
        };
        // What is wrong with the next hop alone is wrong without the backup too.
        let alone = Path {
            backup: None,
            ..path.clone()
        };
        alone.check(key).map_err(|InvalidRoute(reason)| match via {
            Some((_, word)) => self.error(word, reason),
            None => missing(reason),
        })?;
        path.check(key).map_err(|InvalidRoute(reason)| match backup {
            Some((_, word)) => self.error(word, reason),
            None => missing(reason),
        })?;
        Ok(path)
    }

    /// The other neighbour after `backup`, with the interface that directly follows it.
    fn backup(&mut self) -> Result<(NextHop, &'a str), GrammarError> {
        let expected = "`via` after `backup`, as `backup via inet 192.0.2.1`";
        let word = self.word(expected)?;
        if word != "via" {
            return Err(self.error(word, format!("`{word}` is not {expected}")));
        }
        let (via, via_word) = self.via()?;
        let mut after = self.words.clone();
        let dev = match after.next() {
            Some(word @ ("dev" | "oif")) => {
                self.words = after;
                Some(Arc::from(self.dev(word)?))
            }
            _ => None,
        };
        if let Some(word @ "backup") = self.words.clone().next() {
            return Err(self.error(word, "a backup has no backup: one neighbour stands in for one next hop"));
        }
        if let Some("lo") = dev.as_deref() {
            return Err(self.error(via_word, "`dev lo` keeps the packet on this box; it is no backup"));
        }
        Ok((NextHop { via, dev }, via_word))
    }

    fn weight(&mut self) -> Result<u16, GrammarError> {
        let word = self.word("a weight after `weight`, 1 to 256")?;
        let weight = word.parse().ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
        weight.ok_or_else(|| self.error(word, format!("`{word}` is not a weight: it is 1 to {MAX_WEIGHT}")))
    }

    fn key(&mut self) -> Result<(RouteKey, &'a str), GrammarError> {
        let expected = match self.family {
            Family::Any => "a label, as 100, or a prefix, as 10.4.4.0/24",
            Family::Mpls => "a label, as 100",
            Family::Inet => "an IPv4 prefix, as 10.4.4.0/24",
            Family::Inet6 => "an IPv6 prefix, as 2001:db8::/32",
        };
        let mut word = self.word(expected)?;
        if matches!(word, "to" | "unicast") {
            word = self.word(expected)?;
        }
        if matches!(
            word,
            "blackhole"
                | "unreachable"
                | "prohibit"
                | "throw"
                | "local"
                | "broadcast"
                | "anycast"
                | "multicast"
                | "nat"
        ) {
            return Err(self.error(
                word,
                format!("`{word}` routes are not supported; {expected} is expected"),
            ));
        }
        let unexpected = || self.error(word, format!("`{word}` is not {expected}"));
        let key = match self.family {
            Family::Any | Family::Mpls if word.bytes().all(|byte| byte.is_ascii_digit()) => {
                RouteKey::Label(self.label(word, word)?)
            }
            Family::Mpls => return Err(unexpected()),
            Family::Any | Family::Inet | Family::Inet6 => {
                RouteKey::Prefix(prefix(word, self.family).ok_or_else(unexpected)?)
            }
        };
        Ok((key, word))
    }

    fn out_labels(&mut self) -> Result<Out, GrammarError> {
        let expected = "outgoing labels after `as`, as 110 or 200/300";
        let mut word = self.word(expected)?;
        if word == "to" {
            word = self.word(expected)?;
        }
        match word {
            "implicit-null" | "3" => Ok(Out::ImplicitNull),
            _ => Ok(Out::Labels(self.labels(word)?)),
        }
    }

    fn encap(&mut self) -> Result<OutLabels, GrammarError> {
        match self.word("`mpls` after `encap`")? {
            "mpls" => {}
            other => return Err(self.error(other, format!("`encap {other}` is not supported, only `encap mpls`"))),
        }
        let word = self.word("the labels to push after `encap mpls`, as 100 or 100/200")?;
        self.labels(word)
    }

    fn ttl(&mut self) -> Result<NonZeroU8, GrammarError> {
        let word = self.word("a TTL after `ttl`, 1 to 255")?;
        word.parse()
            .map_err(|_| self.error(word, format!("`{word}` is not a TTL: it is 1 to 255")))
    }

    fn ttl_propagate(&mut self) -> Result<TtlPropagate, GrammarError> {
        match self.word("`enabled` or `disabled` after `ttl-propagate`")? {
            "enabled" => Ok(TtlPropagate::Enabled),
            "disabled" => Ok(TtlPropagate::Disabled),
            other => Err(self.error(other, format!("`{other}`: `ttl-propagate` is `enabled` or `disabled`"))),
        }
    }

    /// The address with its family, or by itself.
    fn via(&mut self) -> Result<(Via, &'a str), GrammarError> {
        let family = self.word("a next hop after `via`: `inet ADDRESS`, `inet6 ADDRESS` or `link MAC`")?;
        let (via, word) = match family {
            "inet" => {
                let word = self.word("an IPv4 address after `via inet`, as 192.0.2.1")?;
                (
                    word.parse().map(Via::Inet).map_err(|_| "an IPv4 address, as 192.0.2.1"),
                    word,
                )
            }
            "inet6" => {
                let word = self.word("an IPv6 address after `via inet6`, as 2001:db8::1")?;
                (
                    word.parse()
                        .map(Via::Inet6)
                        .map_err(|_| "an IPv6 address, as 2001:db8::1"),
                    word,
                )
            }
            "link" => {
                let word = self.word("a MAC address after `via link`, as 52:54:00:12:34:56")?;
                (
                    word.parse::<Mac>()
                        .map(Via::Link)
                        .map_err(|_| "a MAC address, as 52:54:00:12:34:56"),
                    word,
                )
            }
            word => {
                let via = match word.parse() {
                    Ok(IpAddr::V4(address)) => Ok(Via::Inet(address)),
                    Ok(IpAddr::V6(address)) => Ok(Via::Inet6(address)),
                    Err(_) => Err("`inet ADDRESS`, `inet6 ADDRESS`, `link MAC` or an IP address"),
                };
                (via, word)
            }
        };
        match via {
            Ok(via) => Ok((via, word)),
            Err(right) => Err(self.error(word, format!("`{word}` is not {right}"))),
        }
    }

    fn dev(&mut self, keyword: &'a str) -> Result<&'a str, GrammarError> {
        let word = self.value(keyword, "an interface")?;
        match check_interface(word) {
            Ok(()) => Ok(word),
            Err(reason) => Err(self.error(word, reason)),
        }
    }

    fn labels(&self, word: &'a str) -> Result<OutLabels, GrammarError> {
        let labels = word
            .split('/')
            .map(|part| self.label(part, word))
            .collect::<Result<_, _>>()?;
        OutLabels::new(labels).map_err(|InvalidRoute(reason)| self.error(word, reason))
    }

    /// One label, by number or, where it has one, by name.
    fn label(&self, text: &str, word: &'a str) -> Result<Label, GrammarError> {
        match text {
            "explicit-null" | "ipv4-explicit-null" => return Ok(Label::IPV4_EXPLICIT_NULL),
            "ipv6-explicit-null" => return Ok(Label::IPV6_EXPLICIT_NULL),
            "implicit-null" => return Ok(Label::IMPLICIT_NULL),
            _ => {}
        }
        // A sign is not part of a label.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|_| digits)
            .and_then(Label::new)
            .ok_or_else(|| self.error(word, format!("`{text}` is not a label: labels are 0 to {}", Label::MAX)))
    }

    fn word(&mut self, expected: &str) -> Result<&'a str, GrammarError> {
        self.words
            .next()
            .ok_or_else(|| self.error_at_end(format!("the line ends where {expected} is expected")))
    }

    fn value(&mut self, keyword: &str, expected: &str) -> Result<&'a str, GrammarError> {
        self.words
            .next()
            .ok_or_else(|| self.error_at_end(format!("the line ends where {expected} is expected after `{keyword}`")))
    }

    fn once<T>(&self, slot: &mut Given<'a, T>, word: &'a str, value: T) -> Result<(), GrammarError> {
        match slot.replace((value, word)) {
            None => Ok(()),
            Some(_) => Err(self.error(word, format!("`{word}` is given twice"))),
        }
    }

    /// `word` is a part of the line.
    fn error(&self, word: &str, reason: impl Into<String>) -> GrammarError {
        let start = (word.as_ptr() as usize).saturating_sub(self.line.as_ptr() as usize);
        GrammarError {
            at: start..start + word.len(),
            reason: reason.into(),
        }
    }

    fn error_at_end(&self, reason: impl Into<String>) -> GrammarError {
        let end = self.line.trim_ascii_end().len();
        GrammarError {
            at: end..end,
            reason: reason.into(),
        }
    }
}

/// What a line says of one way on.
#[derive(Default)]
struct Said<'a> {
    /// The word that it begins with, where it is one of several.
    nexthop: Option<&'a str>,
    out: Given<'a, Out>,
    encap: Given<'a, OutLabels>,
    ttl: Given<'a, NonZeroU8>,
    via: Given<'a, Via>,
    dev: Given<'a, &'a str>,
    backup: Given<'a, NextHop>,
    weight: Given<'a, u16>,
}

impl<'a> Said<'a> {
    /// Some word of it, where there is one.
    fn first_word(&self) -> Option<&'a str> {
        fn word<'a, T>(given: &Given<'a, T>) -> Option<&'a str> {
            given.as_ref().map(|&(_, word)| word)
        }
        word(&self.out)
            .or(word(&self.encap))
            .or(word(&self.ttl))
            .or(word(&self.via))
            .or(word(&self.dev))
            .or(word(&self.backup))
            .or(word(&self.weight))
    }
}

enum Out {
    Labels(OutLabels),
    ImplicitNull,
}

/// A prefix, a host's address, or `default`.
fn prefix(word: &str, family: Family) -> Option<IpNet> {
    let prefix = match (word, family) {
        ("default" | "any", Family::Inet6) => IpNet::V6(Ipv6Net::new(Ipv6Addr::UNSPECIFIED, 0).ok()?),
        ("default" | "any", _) => IpNet::V4(Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).ok()?),
        _ => word.parse().or_else(|_| word.parse::<IpAddr>().map(IpNet::from)).ok()?,
    };
    match (prefix, family) {
        (IpNet::V4(_), Family::Inet6) | (IpNet::V6(_), Family::Inet) | (_, Family::Mpls) => None,
        _ => Some(prefix),
    }
}

#[cfg(test)]
mod tests {
    use mplsxdp_common::abi::MAX_PUSH;
    use proptest::prelude::*;

    use super::*;
    use crate::control::api;

    fn read(line: &str, family: Family) -> Result<String, String> {
        route(line, family)
            .map(|route| route.to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn good_lines() {
        for (line, means) in [
            (
                "100 as 110 via inet 192.168.40.102",
                "100 as to 110 via inet 192.168.40.102",
            ),
            ("101 via inet 20.0.0.2 as 111", "101 as to 111 via inet 20.0.0.2"),
            (
                "100 as to 110 via inet6 fe80::1 dev eth1",
                "100 as to 110 via inet6 fe80::1 dev eth1",
            ),
            (
                "100 as 200/300 via inet 192.0.2.1",
                "100 as to 200/300 via inet 192.0.2.1",
            ),
            (
                "100 dev eth1 via link 02:00:00:00:00:01 as 16",
                "100 as to 16 via link 02:00:00:00:00:01 dev eth1",
            ),
            ("100 via 192.0.2.1", "100 via inet 192.0.2.1"),
            ("100 via 2001:db8::1", "100 via inet6 2001:db8::1"),
            (
                "100 as implicit-null via inet 192.0.2.1",
                "100 as implicit-null via inet 192.0.2.1",
            ),
            ("100 as 3 via inet 192.0.2.1", "100 as implicit-null via inet 192.0.2.1"),
            (
                "100 as explicit-null via inet 192.0.2.1",
                "100 as to 0 via inet 192.0.2.1",
            ),
            (
                "100 as ipv6-explicit-null via inet 192.0.2.1",
                "100 as to 2 via inet 192.0.2.1",
            ),
            (
                "100 as 200/explicit-null via inet 192.0.2.1",
                "100 as to 200/0 via inet 192.0.2.1",
            ),
            ("100 dev lo", "100 dev lo"),
            (
                "100 ttl-propagate disabled as 110 via inet 192.0.2.1",
                "100 as to 110 via inet 192.0.2.1 ttl-propagate disabled",
            ),
            (
                "10.4.4.0/24 encap mpls 100 via inet 192.0.2.1",
                "10.4.4.0/24 encap mpls 100 via inet 192.0.2.1",
            ),
            (
                "10.4.4.0/24 encap mpls 100/200 ttl 9 via 192.0.2.1 dev eth1",
                "10.4.4.0/24 encap mpls 100/200 ttl 9 via inet 192.0.2.1 dev eth1",
            ),
            (
                "10.0.0.1 via 192.0.2.1 encap mpls 100",
                "10.0.0.1/32 encap mpls 100 via inet 192.0.2.1",
            ),
            (
                "2001:db8::1 encap mpls 100 via 2001:db8::2",
                "2001:db8::1/128 encap mpls 100 via inet6 2001:db8::2",
            ),
            (
                "default encap mpls 100 via 192.0.2.1",
                "0.0.0.0/0 encap mpls 100 via inet 192.0.2.1",
            ),
            ("to 100 via inet 192.0.2.1", "100 via inet 192.0.2.1"),
            // As `ip -M route` and `ip route` print them.
            (
                "100 as to 110 via inet 192.168.40.102 dev eth1 proto static ",
                "100 as to 110 via inet 192.168.40.102 dev eth1",
            ),
            (
                "100 as to 110 via inet 192.168.40.102 dev eth1 proto static dead linkdown ",
                "100 as to 110 via inet 192.168.40.102 dev eth1",
            ),
            (
                "110 via inet 10.4.4.2 dev eth2 proto static",
                "110 via inet 10.4.4.2 dev eth2",
            ),
            (
                "10.4.4.0/24  encap mpls  100 ttl 5 via 192.168.30.102 dev eth1 proto static metric 20",
                "10.4.4.0/24 encap mpls 100 ttl 5 via inet 192.168.30.102 dev eth1",
            ),
            (
                "2001:db8::/32  encap mpls  100 via fe80::1 dev eth1 metric 1024 pref medium",
                "2001:db8::/32 encap mpls 100 via inet6 fe80::1 dev eth1",
            ),
            (
                "100 as to 110 via inet 192.0.2.1 dev eth1 proto static unresolved packets 5 bytes 500",
                "100 as to 110 via inet 192.0.2.1 dev eth1",
            ),
        ] {
            assert_eq!(read(line, Family::Any), Ok(means.to_owned()), "{line}");
        }
    }

    #[test]
    fn several_next_hops_and_backups() {
        for (line, means) in [
            (
                "100 nexthop via inet 192.0.2.2 as 200 weight 3 nexthop as 100/200 via 192.0.2.1 dev eth1",
                "100 nexthop as to 100/200 via inet 192.0.2.1 dev eth1 weight 1 nexthop as to 200 via inet 192.0.2.2 weight 3",
            ),
            (
                "100 nexthop via inet 192.0.2.2 nexthop as 3 via inet 192.0.2.2 nexthop as 110 via inet6 2001:db8::1 weight 256",
                "100 nexthop as to 110 via inet6 2001:db8::1 weight 256 nexthop via inet 192.0.2.2 weight 1 \
                 nexthop as implicit-null via inet 192.0.2.2 weight 1",
            ),
            // One of one: a route as any other.
            (
                "100 nexthop via inet 192.0.2.2 as 200 weight 3",
                "100 as to 200 via inet 192.0.2.2",
            ),
            (
                "100 as 110 via inet 192.0.2.1 dev eth1 backup via inet 198.51.100.1 dev eth2",
                "100 as to 110 via inet 192.0.2.1 dev eth1 backup via inet 198.51.100.1 dev eth2",
            ),
            (
                "100 via inet 192.0.2.1 backup via link 02:00:00:00:00:01 dev eth2 dev eth1 ttl-propagate enabled",
                "100 via inet 192.0.2.1 dev eth1 backup via link 02:00:00:00:00:01 dev eth2 ttl-propagate enabled",
            ),
            (
                "100 ttl-propagate disabled nexthop via 192.0.2.1 backup via 2001:db8::1 weight 2 nexthop via 192.0.2.2",
                "100 ttl-propagate disabled nexthop via inet 192.0.2.1 backup via inet6 2001:db8::1 weight 2 \
                 nexthop via inet 192.0.2.2 weight 1",
            ),
            // As `ip -M route` and `ip route` print them.
            (
                "100 proto static \n\tnexthop as to 200 via inet 10.0.1.2 dev eth1 weight 1 \n\
                 \tnexthop as to 300 via inet 10.0.2.2 dev eth2 weight 2 dead linkdown ",
                "100 nexthop as to 200 via inet 10.0.1.2 dev eth1 weight 1 nexthop as to 300 via inet 10.0.2.2 dev eth2 weight 2",
            ),
            (
                "10.4.0.0/16 proto static metric 20 \\\tnexthop  encap mpls  100/200 ttl 5 via 10.0.1.2 dev eth1 weight 1 \
                 \\\tnexthop  encap mpls  300 via 10.0.2.2 dev eth2 weight 1 ",
                "10.4.0.0/16 nexthop encap mpls 100/200 ttl 5 via inet 10.0.1.2 dev eth1 weight 1 \
                 nexthop encap mpls 300 via inet 10.0.2.2 dev eth2 weight 1",
            ),
        ] {
            assert_eq!(read(line, Family::Any), Ok(means.to_owned()), "{line}");
            assert_eq!(read(means, Family::Any), Ok(means.to_owned()), "{line}");
        }
        let members = |count: usize| {
            let members = (0..count).map(|index| format!(" nexthop via inet 10.0.{}.{}", index / 200, index % 200 + 1));
            read(&format!("100{}", members.collect::<String>()), Family::Any)
        };
        assert!(members(256).is_ok());
        assert_eq!(
            members(257),
            Err("257 next hops for one route; at most 256 are supported".into())
        );
    }

    #[test]
    fn a_family_says_what_a_key_is() {
        let prefix = "10.0.0.0/8 encap mpls 100 via 192.0.2.1";
        assert!(read(prefix, Family::Inet).is_ok());
        assert_eq!(
            read(prefix, Family::Mpls),
            Err("`10.0.0.0/8` is not a label, as 100".into())
        );
        assert_eq!(
            read(prefix, Family::Inet6),
            Err("`10.0.0.0/8` is not an IPv6 prefix, as 2001:db8::/32".into())
        );
        assert_eq!(
            read("100 via inet 192.0.2.1", Family::Inet),
            Err("`100` is not an IPv4 prefix, as 10.4.4.0/24".into())
        );
        assert_eq!(
            read("default encap mpls 100 via 2001:db8::1", Family::Inet6),
            Ok("::/0 encap mpls 100 via inet6 2001:db8::1".into())
        );
    }

    /// Each line, the words that the error points at, and what it says.
    #[test]
    fn bad_lines() {
        for (line, words, reason) in [
            (
                "",
                "",
                "the line ends where a label, as 100, or a prefix, as 10.4.4.0/24 is expected",
            ),
            (
                "foo",
                "foo",
                "`foo` is not a label, as 100, or a prefix, as 10.4.4.0/24",
            ),
            (
                "-1 via inet 192.0.2.1",
                "-1",
                "`-1` is not a label, as 100, or a prefix, as 10.4.4.0/24",
            ),
            (
                "1048576 via inet 192.0.2.1",
                "1048576",
                "`1048576` is not a label: labels are 0 to 1048575",
            ),
            (
                "99999999999 via inet 192.0.2.1",
                "99999999999",
                "`99999999999` is not a label: labels are 0 to 1048575",
            ),
            (
                "15 via inet 192.0.2.1",
                "15",
                "label 15 is special-purpose (0 to 15, RFC 7274) and takes no route; 0 and 2 are built in",
            ),
            (
                "100",
                "",
                "no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
            ),
            (
                "100 as",
                "",
                "the line ends where outgoing labels after `as`, as 110 or 200/300 is expected",
            ),
            (
                "100 as foo via inet 192.0.2.1",
                "foo",
                "`foo` is not a label: labels are 0 to 1048575",
            ),
            (
                "100 as 1048576 via inet 192.0.2.1",
                "1048576",
                "`1048576` is not a label: labels are 0 to 1048575",
            ),
            (
                "100 as +5 via inet 192.0.2.1",
                "+5",
                "`+5` is not a label: labels are 0 to 1048575",
            ),
            (
                "100 as 200//300 via inet 192.0.2.1",
                "200//300",
                "`` is not a label: labels are 0 to 1048575",
            ),
            (
                "100 as 3/200 via inet 192.0.2.1",
                "3/200",
                "implicit-null (3) is never on the wire (RFC 3032 section 2.1): it stands alone, as `as implicit-null`, and \
                 only for an incoming label",
            ),
            (
                "100 as 200/1 via inet 192.0.2.1",
                "200/1",
                "router alert (1) is never the last label (RFC 3032 section 2.1): another one follows it, as in `1/200`",
            ),
            (
                "10.4.4.0/24 encap mpls 200/7/15 via inet 192.0.2.1",
                "200/7/15",
                "an entropy label of 16 or more follows its indicator (7) at once (RFC 6790 section 3), as in `200/7/5000`",
            ),
            (
                "100 as 7 via inet 192.0.2.1",
                "7",
                "an entropy label of 16 or more follows its indicator (7) at once (RFC 6790 section 3), as in `200/7/5000`",
            ),
            (
                "10.4.4.0/24 encap mpls 200/2 via inet 192.0.2.1",
                "encap",
                "label 2 as the last one says that it is not IPv4 beneath (RFC 3032 section 2.1); the explicit null of IPv4 \
                 is 0",
            ),
            (
                "2001:db8::/32 encap mpls 0 via inet 192.0.2.1",
                "encap",
                "label 0 as the last one says that it is not IPv6 beneath (RFC 3032 section 2.1); the explicit null of IPv6 \
                 is 2",
            ),
            (
                "100 as 16/17/18/19/20/21/22/23/24 via inet 192.0.2.1",
                "16/17/18/19/20/21/22/23/24",
                "9 labels to push; at most 8 are supported",
            ),
            ("100 as 110 as 111 via inet 192.0.2.1", "as", "`as` is given twice"),
            (
                "100 via",
                "",
                "the line ends where a next hop after `via`: `inet ADDRESS`, `inet6 ADDRESS` or `link MAC` is expected",
            ),
            (
                "100 via inet",
                "",
                "the line ends where an IPv4 address after `via inet`, as 192.0.2.1 is expected",
            ),
            (
                "100 via inet fe80::1",
                "fe80::1",
                "`fe80::1` is not an IPv4 address, as 192.0.2.1",
            ),
            (
                "100 via inet6 192.0.2.1",
                "192.0.2.1",
                "`192.0.2.1` is not an IPv6 address, as 2001:db8::1",
            ),
            (
                "100 via link 02:00",
                "02:00",
                "`02:00` is not a MAC address, as 52:54:00:12:34:56",
            ),
            (
                "100 via mpls 100",
                "mpls",
                "`mpls` is not `inet ADDRESS`, `inet6 ADDRESS`, `link MAC` or an IP address",
            ),
            (
                "100 via link 02:00:00:00:00:01",
                "02:00:00:00:00:01",
                "`via link` needs `dev IFACE`",
            ),
            (
                "100 via inet6 fe80::1",
                "fe80::1",
                "link-local fe80::1 needs `dev IFACE`",
            ),
            (
                "100 via inet 224.0.0.1",
                "224.0.0.1",
                "224.0.0.1 is not the address of one neighbour",
            ),
            (
                "100 dev eth1",
                "dev",
                "`dev` without `via`: say which neighbour, by `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
            ),
            (
                "100 via inet 192.0.2.1 dev lo",
                "dev",
                "`dev lo` keeps the packet on this box; it takes no `via` and no `as`",
            ),
            (
                "100 via inet 192.0.2.1 dev an-interface-of-16",
                "an-interface-of-16",
                "`an-interface-of-16` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces",
            ),
            (
                "100 via inet 192.0.2.1 dev",
                "",
                "the line ends where an interface is expected after `dev`",
            ),
            (
                "100 encap mpls 110 via inet 192.0.2.1",
                "encap",
                "`encap mpls` is for a prefix; a label takes `as`",
            ),
            (
                "100 ttl 5 via inet 192.0.2.1",
                "ttl",
                "`ttl` goes with `encap mpls`; for a label there is `ttl-propagate`",
            ),
            (
                "10.0.0.0/8 as 100 via inet 192.0.2.1",
                "as",
                "`as` is for a label; a prefix takes `10.0.0.0/8 encap mpls LABEL`",
            ),
            (
                "10.0.0.0/8 via inet 192.0.2.1",
                "",
                "a route for a prefix pushes labels: `10.0.0.0/8 encap mpls LABEL`",
            ),
            (
                "10.0.0.1/8 encap mpls 100 via inet 192.0.2.1",
                "10.0.0.1/8",
                "10.0.0.1/8 has bits set beyond its length; it would be 10.0.0.0/8",
            ),
            (
                "10.0.0.0/33 encap mpls 100",
                "10.0.0.0/33",
                "`10.0.0.0/33` is not a label, as 100, or a prefix, as 10.4.4.0/24",
            ),
            (
                "127.0.0.0/8 encap mpls 100 via inet 192.0.2.1",
                "127.0.0.0/8",
                "127.0.0.0/8 is never imposed: loopback, link-local and multicast addresses stay the kernel's",
            ),
            (
                "10.0.0.0/8 encap ip 100",
                "ip",
                "`encap ip` is not supported, only `encap mpls`",
            ),
            (
                "10.0.0.0/8 encap mpls 100 ttl 0 via 192.0.2.1",
                "0",
                "`0` is not a TTL: it is 1 to 255",
            ),
            (
                "10.0.0.0/8 encap mpls 100 ttl 256 via 192.0.2.1",
                "256",
                "`256` is not a TTL: it is 1 to 255",
            ),
            (
                "100 ttl-propagate on via inet 192.0.2.1",
                "on",
                "`on`: `ttl-propagate` is `enabled` or `disabled`",
            ),
            (
                "100 nexthop as 110 nexthop via inet 192.0.2.2 as 111",
                "nexthop",
                "no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
            ),
            (
                "100 as 110 nexthop via inet 192.0.2.1 nexthop via inet 192.0.2.2",
                "as",
                "`as` before `nexthop`: each of several next hops has its own, after its `nexthop`",
            ),
            (
                "100 nexthop as 110 via inet 192.0.2.1 weight 2 nexthop via inet 192.0.2.1 as 110",
                "100",
                "`nexthop as to 110 via inet 192.0.2.1 weight 2` is given twice: give it once, with a larger `weight`",
            ),
            (
                "100 nexthop via inet 192.0.2.1 weight 0",
                "0",
                "`0` is not a weight: it is 1 to 256",
            ),
            (
                "100 nexthop via inet 192.0.2.1 weight 257",
                "257",
                "`257` is not a weight: it is 1 to 256",
            ),
            (
                "100 via inet 192.0.2.1 weight 2",
                "weight",
                "`weight` is for one of several: `nexthop via inet ADDRESS weight N`",
            ),
            (
                "100 nexthop via inet 192.0.2.1 nexthop dev lo",
                "dev",
                "`dev lo` keeps the packet on this box; it is not one of several next hops",
            ),
            (
                "10.0.0.0/8 encap mpls 100 nexthop via 192.0.2.1",
                "encap",
                "`encap` before `nexthop`: each of several next hops has its own, after its `nexthop`",
            ),
            (
                "10.0.0.0/8 nexthop via 192.0.2.1",
                "nexthop",
                "a route for a prefix pushes labels: `10.0.0.0/8 encap mpls LABEL`",
            ),
            (
                "100 via inet 192.0.2.1 backup via inet 192.0.2.2 backup via inet 192.0.2.3",
                "backup",
                "a backup has no backup: one neighbour stands in for one next hop",
            ),
            (
                "100 via inet 192.0.2.1 backup via inet 192.0.2.2 dev eth2 backup via inet 192.0.2.3",
                "backup",
                "a backup has no backup: one neighbour stands in for one next hop",
            ),
            (
                "100 via inet 192.0.2.1 backup inet 192.0.2.2",
                "inet",
                "`inet` is not `via` after `backup`, as `backup via inet 192.0.2.1`",
            ),
            (
                "100 via inet 192.0.2.1 backup via link 02:00:00:00:00:01",
                "02:00:00:00:00:01",
                "`via link` needs `dev IFACE`",
            ),
            (
                "100 via inet 192.0.2.1 backup via inet 192.0.2.1",
                "192.0.2.1",
                "`backup via inet 192.0.2.1` is the next hop itself; a backup is another neighbour",
            ),
            (
                "100 backup via inet 192.0.2.1",
                "",
                "no next hop: `via inet ADDRESS`, `via inet6 ADDRESS` or `via link MAC`",
            ),
            (
                "100 dev lo backup via inet 192.0.2.1",
                "192.0.2.1",
                "`dev lo` keeps the packet on this box; it takes no `via` and no `as`",
            ),
            (
                "100 as 110 via inet 192.0.2.1 mtu 1500",
                "mtu",
                "`mtu` is not known here; a route has `as`, `via`, `dev`, `encap`, `ttl`, `ttl-propagate`, `backup` and `nexthop`",
            ),
            (
                "100 as 110 via inet 192.0.2.1 table 10",
                "10",
                "table `10`: there is only one table, `main`",
            ),
            (
                "blackhole 10.0.0.0/8",
                "blackhole",
                "`blackhole` routes are not supported; a label, as 100, or a prefix, as 10.4.4.0/24 is expected",
            ),
        ] {
            let error = route(line, Family::Any).unwrap_err();
            assert_eq!(
                (&line[error.at.clone()], error.reason.as_str()),
                (words, reason),
                "{line}"
            );
            if words.is_empty() {
                assert_eq!(error.at.start, line.len(), "{line}");
            }
        }
    }

    #[test]
    fn an_error_is_pointed_out() {
        let line = "100 as to nowhere via inet 192.0.2.1";
        let error = route(line, Family::Any).unwrap_err();
        assert_eq!(error.column(line), 11);
        assert_eq!(
            error.point_out(line),
            "  100 as to nowhere via inet 192.0.2.1\n            ^^^^^^^"
        );
        let error = route("100 as", Family::Any).unwrap_err();
        assert_eq!(error.point_out("100 as"), "  100 as\n        ^");
    }

    #[test]
    fn keys() {
        assert_eq!(key("100", Family::Any).map(|key| key.to_string()), Ok("100".into()));
        assert_eq!(
            key("10.0.0.1", Family::Any).map(|key| key.to_string()),
            Ok("10.0.0.1/32".into())
        );
        assert_eq!(
            key("100 via", Family::Any).map_err(|error| error.to_string()),
            Err("`via` is too much: only the label or prefix is expected".into())
        );
        let (found, whole) = key_or_route("100 via inet 192.0.2.1", Family::Any).unwrap();
        assert_eq!(
            (Some(found), key_or_route("100", Family::Any)),
            (whole.map(|route| route.key()), Ok((found, None)))
        );
    }

    fn label() -> impl Strategy<Value = Label> {
        (16..=Label::MAX.get()).prop_map(Label::from_low_bits)
    }

    fn out_labels() -> impl Strategy<Value = OutLabels> {
        let label = prop_oneof![
            Just(Label::IPV4_EXPLICIT_NULL),
            Just(Label::IPV6_EXPLICIT_NULL),
            label()
        ];
        prop::collection::vec(label, 1..=MAX_PUSH).prop_map(|labels| OutLabels::new(labels).unwrap())
    }

    fn label_action() -> impl Strategy<Value = Action> {
        prop_oneof![
            out_labels().prop_map(Action::Swap),
            Just(Action::Pop),
            Just(Action::PenultimatePop),
            Just(Action::Local)
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 0_u8..=32)
                .prop_map(|(bits, length)| { IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap().trunc()) }),
            (any::<u128>(), 0_u8..=128)
                .prop_map(|(bits, length)| { IpNet::V6(Ipv6Net::new(bits.into(), length).unwrap().trunc()) }),
        ]
    }

    fn via() -> impl Strategy<Value = Via> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Via::Inet(bits.into())),
            any::<u128>().prop_map(|bits| Via::Inet6(bits.into())),
            any::<[u8; 6]>().prop_map(|bytes| Via::Link(Mac(bytes))),
        ]
    }

    fn next_hop() -> impl Strategy<Value = NextHop> {
        let dev = prop::option::of("[a-z][a-z0-9.@_-]{0,13}[0-9]".prop_map(Arc::from));
        (via(), dev).prop_map(|(via, dev)| NextHop { via, dev })
    }

    /// With an action of this kind.
    fn paths(action: impl Strategy<Value = Action>) -> impl Strategy<Value = Vec<Path>> {
        let path = (
            action,
            next_hop(),
            prop::option::weighted(0.3, next_hop()),
            1..=MAX_WEIGHT,
        );
        let path = path.prop_map(|(action, next_hop, backup, weight)| Path {
            next_hop: (action != Action::Local).then_some(next_hop),
            backup: backup.filter(|_| action != Action::Local),
            action,
            weight,
        });
        (prop::collection::vec(path, 1..5), any::<bool>()).prop_map(|(mut paths, one)| {
            if one {
                paths.truncate(1);
            }
            paths
        })
    }

    fn any_route() -> impl Strategy<Value = Route> {
        let push = (out_labels(), any::<u8>()).prop_map(|(labels, ttl)| {
            let ttl = NonZeroU8::new(ttl);
            Action::Push { labels, ttl }
        });
        let what = prop_oneof![
            (label().prop_map(RouteKey::Label), paths(label_action())),
            (prefix().prop_map(RouteKey::Prefix), paths(push)),
        ];
        let propagate = prop_oneof![
            Just(TtlPropagate::Default),
            Just(TtlPropagate::Enabled),
            Just(TtlPropagate::Disabled)
        ];
        (what, propagate).prop_filter_map("not a route", |((key, paths), propagate)| {
            Route::with_paths(key, paths, propagate).ok()
        })
    }

    proptest! {
        #[test]
        fn a_route_is_read_as_it_is_displayed(given in any_route()) {
            prop_assert_eq!(route(&given.to_string(), Family::Any), Ok(given));
        }

        #[test]
        fn a_route_crosses_the_control_socket(given in any_route()) {
            let json = serde_json::to_string(&api::Route::from(&given)).unwrap();
            let api: api::Route = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(Route::try_from(api), Ok(given));
        }

        #[test]
        fn no_line_is_too_odd_and_errors_stay_within_it(line in "[0-9a-z/:. é\t-]{0,60}") {
            if let Err(error) = route(&line, Family::Any) {
                prop_assert!(line.get(error.at.clone()).is_some());
                prop_assert!(error.point_out(&line).lines().count() == 2);
            }
        }
    }
}
