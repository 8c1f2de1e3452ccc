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
use crate::lfib::route::{Action, InvalidRoute, NextHop, OutLabels, Route, RouteKey, Via};

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
        let mut out: Given<Out> = None;
        let mut encap: Given<OutLabels> = None;
        let mut ttl: Given<NonZeroU8> = None;
        let mut ttl_propagate: Given<TtlPropagate> = None;
        let mut via: Given<Via> = None;
        let mut dev: Given<&str> = None;
        while let Some(word) = self.words.next() {
            match word {
                "as" => {
                    let value = self.out_labels()?;
                    self.once(&mut out, word, value)?;
                }
                "encap" => {
                    let value = self.encap()?;
                    self.once(&mut encap, word, value)?;
                }
                "ttl" => {
                    let value = self.ttl()?;
                    self.once(&mut ttl, word, value)?;
                }
                "ttl-propagate" => {
                    let value = self.ttl_propagate()?;
                    self.once(&mut ttl_propagate, word, value)?;
                }
                "via" => {
                    let (value, value_word) = self.via()?;
                    self.once(&mut via, word, value)?;
                    via = Some((value, value_word));
                }
                "dev" | "oif" => {
                    let value = self.dev(word)?;
                    self.once(&mut dev, word, value)?;
                }
                "nexthop" => {
                    return Err(self.error(
                        word,
                        "`nexthop`: several next hops for one route are not supported; give one, by `via`",
                    ));
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
                            "`{word}` is not known here; a route has `as`, `via`, `dev`, `encap`, `ttl` and `ttl-propagate`"
                        ),
                    ));
                }
            }
        }
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
                return Err(self.error_at_end(format!("a route for a prefix pushes labels: `{key} encap mpls LABEL`")));
            }
            (RouteKey::Prefix(_), None, Some((labels, _))) => Action::Push {
                labels,
                ttl: ttl.map(|(ttl, _)| ttl),
            },
            (RouteKey::Label(_), Some((Out::Labels(labels), _)), None) => Action::Swap(labels),
            (RouteKey::Label(_), Some((Out::ImplicitNull, _)), None) => Action::PenultimatePop,
            (RouteKey::Label(_), None, None) => match (via, dev) {
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
        let ttl_propagate = ttl_propagate.map_or(TtlPropagate::Default, |(value, _)| value);
        Route::new(key, action, next_hop, ttl_propagate).map_err(|InvalidRoute(reason)| {
            let key_is_right = match key {
                RouteKey::Label(label) => !label.is_special(),
                RouteKey::Prefix(prefix) => prefix == prefix.trunc(),
            };
            match via {
                _ if !key_is_right => self.error(key_word, reason),
                Some((_, word)) => self.error(word, reason),
                None => self.error_at_end(reason),
            }
        })
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
