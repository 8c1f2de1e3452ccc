//! Route lines: iproute2's grammar, as people type it and as `ip -M route` and `ip route` print it. Parses a line into
//! a route, or an error that points at words. The rules that apply to all routes are in [`check`]; this module only
//! knows the words.

mod reason;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mplsxdp_common::wire::Label;

use super::filter::{KeyFilter, RouteFilter};
use super::pseudowire::{GivenPseudowire, PortName};
use super::wire::{self, RouteAction, ViaAddress, ViaFamily};
use super::{
    Description, Field, InvalidRoute, Place, Protocol, Route, RouteKey, RoutingTable, Rule, Via, check, interface,
    protocols, tables,
};
pub use reason::{Reason, Words};

/// The address family of a line that does not name it (`-f`, `-M`, `-4`, `-6`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// Labels and prefixes of both IP versions.
    #[default]
    Any,
    Mpls,
    Inet,
    Inet6,
}

/// The routing table of the VRF with this name, if there is one.
pub type FindVrf<'a> = &'a mut dyn FnMut(&str) -> Option<RoutingTable>;

/// How to read a line.
#[derive(Default)]
pub struct Context<'a> {
    pub family: Family,
    /// `None` if VRFs cannot be looked up.
    pub find_vrf: Option<FindVrf<'a>>,
}

impl From<Family> for Context<'_> {
    fn from(family: Family) -> Self {
        let find_vrf = None;
        Self { family, find_vrf }
    }
}

/// What is wrong with a line, and where: a range of bytes, empty at the end of an incomplete line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct GrammarError {
    pub at: Range<usize>,
    pub reason: Reason,
}

impl GrammarError {
    /// The column of the error, counted in characters from 1.
    pub fn column(&self, line: &str) -> usize {
        line.get(..self.at.start).map_or(1, |before| before.chars().count() + 1)
    }

    /// The line, and below it marks under the faulty words.
    pub fn point_out(&self, line: &str) -> String {
        let marked = line
            .get(self.at.clone())
            .map_or(1, |words| words.chars().count())
            .max(1);
        let indent = self.column(line) - 1;
        format!("  {line}\n  {:indent$}{:^<marked$}", "", "")
    }
}

/// A line that needs no look-up of a VRF's name.
impl FromStr for Route {
    type Err = GrammarError;

    fn from_str(line: &str) -> Result<Self, GrammarError> {
        route(line, Family::Any)
    }
}

/// A whole route.
pub fn route<'a>(line: &str, context: impl Into<Context<'a>>) -> Result<Route, GrammarError> {
    given(line, context).map(|(_, route)| route)
}

/// The same, and the route as the control socket takes it.
pub fn given<'a>(line: &str, context: impl Into<Context<'a>>) -> Result<(wire::Route, Route), GrammarError> {
    let mut parser = Parser::new(line, context.into());
    let line = parser.line()?;
    parser.check_words(&line)?;
    match line.given.clone().check() {
        Ok(route) => Ok((line.given, route)),
        Err(error) => Err(parser.locate(&line, error)),
    }
}

/// The selectors of `route show` and `route flush`.
pub const SELECTORS: &str = "the selectors are `all`, LABEL, PREFIX, `xconnect IFACE`, `root PREFIX`, `match PREFIX`, `table TABLE`, `vrf VRF`, `proto PROTO`, \
     `via ADDRESS` and `dev IFACE`";

/// Only a label or prefix, as `route get` takes it.
pub fn key<'a>(line: &str, context: impl Into<Context<'a>>) -> Result<RouteKey, GrammarError> {
    let mut parser = Parser::new(line, context.into());
    let (mut key, key_word) = parser.key()?;
    let mut table: Given<RoutingTable> = None;
    while let Some(word) = parser.next() {
        if !matches!(word, "table" | "vrf") {
            return Err(parser.error(word, Words::KeyOnly(word.into())));
        }
        let value = parser.table(word)?;
        parser.once(&mut table, word, value)?;
    }
    key.table = table.map(|(table, _)| table.0);
    check::key(without_main(key)).map_err(|InvalidRoute { place, rule }| {
        let table = table.filter(|_| place.field == Field::Table);
        parser.error(table.map_or(key_word, |(_, word)| word), rule)
    })
}

/// The route to delete: its label or prefix, and whatever else the line says about it.
pub fn deletion<'a>(line: &str, context: impl Into<Context<'a>>) -> Result<Description, GrammarError> {
    let mut parser = Parser::new(line, context.into());
    let line = parser.line()?;
    if line.says_what_it_does() {
        parser.check_words(&line)?;
    }
    let described = line.given.clone().describe();
    described.map_err(|error| parser.locate(&line, error))
}

/// The selection of routes, as `route show` and `route flush` take it; `None` for an empty line.
pub fn selection<'a>(line: &str, context: impl Into<Context<'a>>) -> Result<Option<RouteFilter>, GrammarError> {
    Parser::new(line, context.into()).selection()
}

struct Parser<'a, 'c> {
    line: &'a str,
    words: WordsOf<'a>,
    /// The last word that was read.
    last: &'a str,
    family: Family,
    find_vrf: Option<FindVrf<'c>>,
}

/// The words of a line. Lines joined by `ip -oneline` have a backslash at each former line end, after a word or by
/// itself.
#[derive(Clone)]
struct WordsOf<'a>(std::str::SplitAsciiWhitespace<'a>);

impl<'a> Iterator for WordsOf<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let mut words = self.0.by_ref().map(|word| word.trim_end_matches('\\'));
        words.find(|word| !word.is_empty())
    }
}

/// A value, and the word that it came from.
type Given<'a, T> = Option<(T, &'a str)>;

/// The contents of a whole line, unchecked, and where each part stands.
struct Line<'a> {
    key_word: &'a str,
    /// Its `nexthops` are filled in at the end of the line.
    given: wire::Route,
    /// The places of the route's own fields, and of its next hop's if that does not follow a `nexthop`.
    spans: Spans,
    several: Vec<NextHopWords<'a>>,
    onlink: Option<&'a str>,
    /// The kernel's nexthop object that the line names.
    nhid: Given<'a, &'a str>,
}

/// One `nexthop` of a line.
struct NextHopWords<'a> {
    nexthop: &'a str,
    given: wire::Path,
    spans: Spans,
    onlink: Option<&'a str>,
}

/// Where each field stands: from its keyword to the end of its value.
#[derive(Default)]
struct Spans(Vec<(Field, Range<usize>)>);

impl Spans {
    fn get(&self, field: Field) -> Option<Range<usize>> {
        let mut spans = self.0.iter();
        spans.find(|(found, _)| *found == field).map(|(_, span)| span.clone())
    }

    fn has(&self, field: Field) -> bool {
        self.get(field).is_some()
    }
}

impl Line<'_> {
    fn pseudowire(&mut self) -> &mut GivenPseudowire {
        self.given.pseudowire.get_or_insert_default()
    }

    /// Whether it says more than the label or prefix, table, protocol and metric.
    fn says_what_it_does(&self) -> bool {
        let beside = |field: &Field| !matches!(field, Field::Table | Field::Protocol | Field::Metric);
        !self.several.is_empty() || self.onlink.is_some() || self.spans.0.iter().any(|(field, _)| beside(field))
    }
}

impl<'a, 'c> Parser<'a, 'c> {
    fn new(line: &'a str, context: Context<'c>) -> Self {
        let Context { family, find_vrf } = context;
        Self {
            line,
            words: WordsOf(line.split_ascii_whitespace()),
            last: "",
            family,
            find_vrf,
        }
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.next()?;
        self.last = word;
        Some(word)
    }

    fn line(&mut self) -> Result<Line<'a>, GrammarError> {
        let (key, key_word) = self.key()?;
        let mut line = Line {
            key_word,
            given: wire::Route {
                label: key.label,
                prefix: key.prefix,
                attachment: key.attachment,
                ..wire::Route::default()
            },
            spans: Spans::default(),
            several: Vec::new(),
            onlink: None,
            nhid: None,
        };
        // Fields before the first `nexthop` belong to the route itself.
        let mut by_itself = wire::Path::default();
        while let Some(word) = self.next() {
            if word.starts_with('#') && by_itself.action == Some(RouteAction::Pass) && line.several.is_empty() {
                line.given.reason = Some(self.comment(word));
                self.note(&mut line.spans, Field::Reason, word)?;
                continue;
            }
            let has_state = matches!(by_itself.action, Some(RouteAction::VrfPass | RouteAction::Xconnect));
            if word.starts_with('#') && (has_state || line.given.attachment.is_some()) {
                // Why packets are left to the kernel, or no frames come, now: `route show` adds it.
                self.comment(word);
                continue;
            }
            let (given, spans, onlink) = match line.several.last_mut() {
                Some(last) => (&mut last.given, &mut last.spans, &mut last.onlink),
                None => (&mut by_itself, &mut line.spans, &mut line.onlink),
            };
            // After anything else it is a table.
            if word == "vrf" && line.given.label.is_some() && *given == wire::Path::default() {
                self.vrf_pass(word, given, spans)?;
                continue;
            }
            if word == "xconnect" && *given == wire::Path::default() {
                self.cross_connect(word, given, spans)?;
                continue;
            }
            if self.take_path_word(word, given, spans, onlink)? || self.take_route_word(word, &mut line)? {
                continue;
            }
            self.skip_word(word)?;
        }
        // Like `ip`: the family of `default` is that of its next hop, unless the line names it.
        let first = line.several.first().map_or(&by_itself, |first| &first.given);
        let family = first.via.as_ref().map(|via| via.family);
        if self.family == Family::Any && is_default(key_word) && family == Some(ViaFamily::Inet6) {
            line.given.prefix = Some(IpNet::V6(Ipv6Net::default()));
        }
        let wire::Path {
            action,
            out,
            ttl,
            via,
            dev,
            backup,
            weight,
        } = by_itself;
        if weight.is_some() {
            return Err(self.error_in(&line.spans, Field::Weight, Words::WeightOfOne));
        }
        line.given = wire::Route {
            action,
            out,
            ttl,
            via,
            dev,
            backup,
            nexthops: (!line.several.is_empty()).then(|| line.several.iter().map(|one| one.given.clone()).collect()),
            table: without_main(line.given.key()).table,
            ..line.given
        };
        Ok(line)
    }

    /// Checks the words that only lines have.
    fn check_words(&self, line: &Line<'a>) -> Result<(), GrammarError> {
        if let Some((id, word)) = line.nhid
            && line.several.is_empty()
            && line.given.via.is_none()
        {
            return Err(self.error(word, Words::KernelNextHop(id.into())));
        }
        if let (Some(word), false) = (line.onlink, line.several.is_empty()) {
            return Err(self.error(word, Rule::BesideSeveral));
        }
        let several = line.several.iter().map(|one| (one.onlink, one.given.dev.is_none()));
        let onlink = std::iter::once((line.onlink, line.given.dev.is_none())).chain(several);
        for (word, has_no_dev) in onlink {
            if let (Some(word), true) = (word, has_no_dev) {
                return Err(self.error(word, Words::OnlinkWithoutDev));
            }
        }
        Ok(())
    }

    /// Finds the place in the line that an error is about. A missing field is placed after its `nexthop`, or at the
    /// end.
    fn locate(&self, line: &Line<'a>, error: InvalidRoute) -> GrammarError {
        let InvalidRoute { place, rule } = error;
        let Place { next_hop, field } = place;
        let several = next_hop.and_then(|index| line.several.get(index));
        let spans = several.map_or(&line.spans, |one| &one.spans);
        let found = spans.get(field).or_else(|| match field {
            Field::BackupAction | Field::BackupOut | Field::BackupTtl | Field::BackupVia | Field::BackupDev => {
                spans.get(Field::Backup)
            }
            _ => None,
        });
        let at = match (found, several, field) {
            (Some(span), _, _) => span,
            (None, Some(one), _) => self.span(one.nexthop),
            (None, None, Field::Route | Field::Label | Field::Prefix | Field::NextHops) => self.span(line.key_word),
            (None, None, _) => return self.error_at_end(rule),
        };
        let reason = rule.into();
        GrammarError { at, reason }
    }

    /// Takes in `word`, and its values, if it belongs to the route as a whole.
    fn take_route_word(&mut self, word: &'a str, line: &mut Line<'a>) -> Result<bool, GrammarError> {
        match word {
            "nexthop" => line.several.push(NextHopWords {
                nexthop: word,
                given: wire::Path::default(),
                spans: Spans::default(),
                onlink: None,
            }),
            // `ip route` prints it misspelt.
            "ttl-propagate" | "ttl-propogate" => {
                line.given.ttl_propagate = Some(self.ttl_propagate()?);
                self.note(&mut line.spans, Field::TtlPropagate, word)?;
            }
            "proto" | "protocol" => {
                line.given.protocol = Some(self.protocol(word)?);
                self.note(&mut line.spans, Field::Protocol, word)?;
            }
            "metric" | "priority" | "preference" => {
                line.given.metric = Some(self.number(word)?);
                self.note(&mut line.spans, Field::Metric, word)?;
            }
            "table" | "vrf" => {
                line.given.table = Some(self.table(word)?.0);
                self.note(&mut line.spans, Field::Table, word)?;
            }
            "cw" | "no-cw" => {
                line.pseudowire().control_word = Some(word == "cw");
                self.note(&mut line.spans, Field::ControlWord, word)?;
            }
            "flow-label" => {
                line.pseudowire().flow_label = Some(true);
                self.note(&mut line.spans, Field::FlowLabel, word)?;
            }
            "tagged" => {
                line.pseudowire().tagged = Some(true);
                self.note(&mut line.spans, Field::Tagged, word)?;
            }
            "vlan" => {
                line.pseudowire().vlan = Some(self.vlan()?);
                self.note(&mut line.spans, Field::Vlan, word)?;
            }
            "nhid" => {
                let value = self.value(word, "a number")?;
                self.once(&mut line.nhid, word, value)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Skips a word that `ip route` prints and that changes nothing here. Refuses any other word.
    fn skip_word(&mut self, word: &'a str) -> Result<(), GrammarError> {
        let reason = match word {
            // The state of a route, as the kernel or mplsxdp prints it.
            "dead" | "linkdown" | "unresolved" | "incomplete" | "failed" | "bad_mac" | "no_route" | "not_a_port"
            | "no_arp" | "no_such_dev" | "local" | "redirect-lost" | "standby" | "uncounted" | "pervasive"
            | "notify" | "offload" | "trap" | "offload_failed" | "rt_offload" | "rt_trap" | "rt_offload_failed"
            | "cache" => {
                return Ok(());
            }
            "owner" | "backups" | "packets" | "bytes" | "uid" | "error" | "users" | "age" | "used" | "mark" => {
                return self.value(word, "a value").map(drop);
            }
            "expires" => match self.value(word, "a time")?.strip_suffix("sec") {
                Some(seconds) if seconds.parse::<i64>().is_ok() => return Ok(()),
                _ => Words::Expires,
            },
            "scope" => match self.value(word, "a scope")? {
                "global" | "universe" | "0" => return Ok(()),
                scope => return Err(self.error(scope, Words::Scope(scope.into()))),
            },
            "pref" => match self.value(word, "`low`, `medium` or `high`")? {
                "medium" | "0" => return Ok(()),
                pref => return Err(self.error(pref, Words::Pref(pref.into()))),
            },
            "src" => Words::Src,
            "mtu" => Words::Mtu,
            "from" | "tos" | "dsfield" => Words::Match(word.into()),
            "hoplimit" | "advmss" | "reordering" | "rtt" | "rttvar" | "rto_min" | "window" | "cwnd" | "initcwnd"
            | "initrwnd" | "features" | "quickack" | "congctl" | "ssthresh" | "fastopen_no_cookie" | "realm"
            | "realms" | "iif" => Words::OwnPackets(word.into()),
            _ => Words::Unknown(word.into()),
        };
        Err(self.error(word, reason))
    }

    fn selection(mut self) -> Result<Option<RouteFilter>, GrammarError> {
        let of_family = match self.family {
            Family::Any => KeyFilter::All,
            Family::Mpls => KeyFilter::Labels,
            Family::Inet => KeyFilter::V4Prefixes,
            Family::Inet6 => KeyFilter::V6Prefixes,
        };
        let mut keys: Given<KeyFilter> = None;
        let mut table: Given<Option<RoutingTable>> = None;
        let mut protocol: Given<Protocol> = None;
        let mut via: Given<Via> = None;
        let mut dev: Given<Arc<str>> = None;
        let (mut is_given, mut standby) = (false, false);
        while let Some(word) = self.next() {
            is_given = true;
            match word {
                "all" => {
                    standby = true;
                    self.only_key(&mut keys, word, of_family)?;
                }
                "root" => {
                    let prefix = self.prefix_after(word)?;
                    self.only_key(&mut keys, word, KeyFilter::Within(prefix))?;
                }
                "match" => {
                    let prefix = self.prefix_after(word)?;
                    self.only_key(&mut keys, word, KeyFilter::Covering(prefix))?;
                }
                "proto" | "protocol" => {
                    let value = self.protocol(word)?;
                    self.once(&mut protocol, word, value)?;
                }
                "via" => {
                    let value = self.via()?;
                    let value_word = self.last;
                    let value = check::address(value).map_err(|rule| self.error(value_word, rule))?;
                    self.once(&mut via, word, value)?;
                }
                "dev" | "oif" => {
                    let value = self.dev(word)?;
                    interface::check_interface(&value).map_err(|error| self.error(self.last, error))?;
                    self.once(&mut dev, word, value)?;
                }
                "table" if self.words.clone().next() == Some("all") => {
                    self.next();
                    self.once(&mut table, word, None)?;
                }
                "table" | "vrf" => {
                    let value = self.table(word)?;
                    self.once(&mut table, word, Some(value))?;
                }
                "scope" | "metric" | "type" | "src" | "from" | "tos" | "iif" => {
                    return Err(self.error(word, Words::NotASelector(word.into())));
                }
                "exact" => {
                    let (key, key_word) = self.key()?;
                    let key = self.key_of(key, key_word)?;
                    self.only_key(&mut keys, word, key.into())?;
                }
                // `to` may precede each of these.
                "to" if matches!(self.words.clone().next(), Some("root" | "match" | "exact")) => {}
                _ => {
                    let (key, key_word) = self.key_at(word)?;
                    let key = self.key_of(key, key_word)?;
                    self.only_key(&mut keys, word, key.into())?;
                }
            }
        }
        let keys = keys.map_or(of_family, |(keys, _)| keys);
        let is_of_labels = matches!(keys, KeyFilter::Labels | KeyFilter::Label(_) | KeyFilter::Attachment(_));
        let table = match table.and_then(|(table, word)| Some((table?, word))) {
            Some((RoutingTable::MAIN, _)) if is_of_labels => None,
            Some((_, word)) if is_of_labels => return Err(self.error(word, Rule::TableForLabel)),
            table => table.map(|(table, _)| table),
        };
        Ok(is_given.then_some(RouteFilter {
            keys,
            table,
            protocol: protocol.map(|(protocol, _)| protocol),
            via: via.map(|(via, _)| via),
            dev: dev.map(|(dev, _)| dev),
            owner: None,
            standby,
        }))
    }

    fn only_key(&self, slot: &mut Given<'a, KeyFilter>, word: &'a str, keys: KeyFilter) -> Result<(), GrammarError> {
        match slot.replace((keys, word)) {
            None => Ok(()),
            Some((_, first)) => {
                let reason = Words::SecondKey {
                    word: word.into(),
                    first: first.into(),
                };
                Err(self.error(word, reason))
            }
        }
    }

    fn prefix_after(&mut self, keyword: &str) -> Result<IpNet, GrammarError> {
        let (key, word) = self.key()?;
        match self.key_of(key, word)? {
            RouteKey::Prefix(fec) => Ok(fec.prefix.trunc()),
            RouteKey::Label(_) | RouteKey::Attachment(_) => {
                let reason = Words::KeyForPrefix {
                    keyword: keyword.into(),
                    word: word.into(),
                };
                Err(self.error(word, reason))
            }
        }
    }

    fn protocol(&mut self, keyword: &str) -> Result<Protocol, GrammarError> {
        let word = self.value(keyword, "the name or number of a routing protocol")?;
        protocols::parse(word).map_err(|error| self.error(word, error))
    }

    /// The routing table named after `table`, or that of the VRF named after `vrf`.
    fn table(&mut self, keyword: &str) -> Result<RoutingTable, GrammarError> {
        if keyword == "vrf" {
            let word = self.value(keyword, "the name of a VRF")?;
            let Some(find) = &mut self.find_vrf else {
                return Err(self.error(word, Words::VrfNeedsCommand(word.into())));
            };
            return find(word).ok_or_else(|| self.error(word, Words::NoVrf(word.into())));
        }
        let word = self.value(keyword, "the name or number of a routing table")?;
        match tables::parse(word) {
            Some(RoutingTable(0)) => Err(self.error(word, Rule::NotATable)),
            Some(table) => Ok(table),
            None => Err(self.error(word, Words::NotATable(word.into()))),
        }
    }

    fn number(&mut self, keyword: &str) -> Result<u32, GrammarError> {
        let word = self.value(keyword, "a number")?;
        unsigned(word).ok_or_else(|| {
            let reason = Words::NotANumber {
                word: word.into(),
                keyword: keyword.into(),
            };
            self.error(word, reason)
        })
    }

    /// Takes in `word`, and its values, if it belongs to one next hop.
    fn take_path_word(
        &mut self,
        word: &'a str,
        given: &mut wire::Path,
        spans: &mut Spans,
        onlink: &mut Option<&'a str>,
    ) -> Result<bool, GrammarError> {
        match word {
            "as" | "encap" => {
                if given.action == Some(RouteAction::Pass) {
                    return Err(self.error(word, Rule::PassAlone));
                }
                let (action, out) = if word == "as" {
                    self.out_labels()?
                } else {
                    self.encap()?
                };
                let other = given
                    .action
                    .is_some_and(|given| (given == RouteAction::Push) != (action == RouteAction::Push));
                if other {
                    return Err(self.error(word, Words::AsAndEncap));
                }
                (given.action, given.out) = (Some(action), out);
                self.note(spans, Field::Action, word)?;
                self.note(spans, Field::Out, word)?;
            }
            "pass" => {
                if given.action.is_some_and(|given| given != RouteAction::Pass) {
                    return Err(self.error(word, Rule::PassAlone));
                }
                given.action = Some(RouteAction::Pass);
                self.note(spans, Field::Action, word)?;
            }
            "ttl" => {
                given.ttl = Some(self.ttl()?);
                self.note(spans, Field::Ttl, word)?;
            }
            "via" => {
                given.via = Some(self.via()?);
                self.note(spans, Field::Via, word)?;
            }
            "dev" | "oif" => {
                given.dev = Some(self.dev(word)?);
                self.note(spans, Field::Dev, word)?;
            }
            "backup" => {
                given.backup = Some(self.backup(spans)?);
                self.note(spans, Field::Backup, word)?;
            }
            "weight" => {
                given.weight = Some(self.weight()?);
                self.note(spans, Field::Weight, word)?;
            }
            "onlink" => *onlink = Some(word),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The name after `vrf`, for a label, and `pass` after that.
    fn vrf_pass(&mut self, word: &'a str, given: &mut wire::Path, spans: &mut Spans) -> Result<(), GrammarError> {
        let name = self.value(word, "the name of a VRF")?;
        if self.words.clone().next() != Some("pass") {
            return Err(self.error(name, Rule::VrfWithoutPass(name.into())));
        }
        self.next();
        (given.action, given.dev) = (Some(RouteAction::VrfPass), Some(name.into()));
        self.note(spans, Field::Action, word)?;
        self.note(spans, Field::Dev, word)
    }

    /// The port after `xconnect`, for a label.
    fn cross_connect(&mut self, word: &'a str, given: &mut wire::Path, spans: &mut Spans) -> Result<(), GrammarError> {
        let port = self.port(word)?;
        (given.action, given.dev) = (Some(RouteAction::Xconnect), Some(port.as_str().into()));
        self.note(spans, Field::Action, word)?;
        self.note(spans, Field::Dev, word)
    }

    fn port(&mut self, keyword: &str) -> Result<PortName, GrammarError> {
        let word = self.value(keyword, "the name of a port")?;
        PortName::new(word).map_err(|error| self.error(word, error))
    }

    fn vlan(&mut self) -> Result<u16, GrammarError> {
        let word = self.word("a VLAN after `vlan`, 0 to 4094")?;
        let vid = unsigned(word).and_then(|vid| vid.try_into().ok());
        vid.ok_or_else(|| self.error(word, Words::NotAVlan(word.into())))
    }

    /// The other neighbour after `backup`, with the interface that directly follows it; and in front of it, its own labels.
    fn backup(&mut self, spans: &mut Spans) -> Result<wire::Backup, GrammarError> {
        let expected =
            "`via` after `backup`, such as `backup via inet 192.0.2.1` or `backup as 300/100 via inet 192.0.2.1`";
        let mut word = self.word(expected)?;
        let (mut action, mut out, mut ttl) = (None, None, None);
        if matches!(word, "as" | "encap") {
            let (given, labels) = match word {
                "as" => self.out_labels()?,
                _ => self.encap()?,
            };
            (action, out) = (Some(given), labels);
            self.note(spans, Field::BackupAction, word)?;
            self.note(spans, Field::BackupOut, word)?;
            word = self.word(expected)?;
        }
        if word == "ttl" && action == Some(RouteAction::Push) {
            ttl = Some(self.ttl()?);
            self.note(spans, Field::BackupTtl, word)?;
            word = self.word(expected)?;
        }
        if word != "via" {
            return Err(self.unexpected(word, expected));
        }
        let via = self.via()?;
        let mut after = self.words.clone();
        let dev = match after.next() {
            Some(word @ ("dev" | "oif")) => {
                self.words = after;
                Some(self.dev(word)?)
            }
            _ => None,
        };
        if let Some(word @ "backup") = self.words.clone().next() {
            return Err(self.error(word, Words::BackupOfBackup));
        }
        Ok(wire::Backup {
            action,
            out,
            ttl,
            via,
            dev,
        })
    }

    fn weight(&mut self) -> Result<u16, GrammarError> {
        let word = self.word("a weight after `weight`, 1 to 256")?;
        word.parse()
            .map_err(|_| self.error(word, Words::NotAWeight(word.into())))
    }

    fn key(&mut self) -> Result<(wire::Key, &'a str), GrammarError> {
        let word = self.word(self.key_expected())?;
        self.key_at(word)
    }

    fn key_expected(&self) -> &'static str {
        match self.family {
            Family::Any => "a label, such as 100, a prefix, such as 10.4.4.0/24, or `xconnect IFACE`",
            Family::Mpls => "a label, such as 100",
            Family::Inet => "an IPv4 prefix, such as 10.4.4.0/24",
            Family::Inet6 => "an IPv6 prefix, such as 2001:db8::/32",
        }
    }

    /// Checks `key`, which was read from `word`.
    fn key_of(&self, key: wire::Key, word: &'a str) -> Result<RouteKey, GrammarError> {
        check::key(key).map_err(|InvalidRoute { rule, .. }| self.error(word, rule))
    }

    /// The label or prefix, or port of an attachment circuit, that begins at `word`.
    fn key_at(&mut self, mut word: &'a str) -> Result<(wire::Key, &'a str), GrammarError> {
        let expected = self.key_expected();
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
            let reason = Words::Type {
                word: word.into(),
                expected,
            };
            return Err(self.error(word, reason));
        }
        let unexpected = || self.unexpected(word, expected);
        // A plain number is a label, never the beginning of an address.
        let is_number = word.starts_with(|first: char| first.is_ascii_digit()) && !word.contains(['.', ':', '/']);
        let key = match self.family {
            Family::Any if word == "xconnect" => {
                let port = self.port(word)?;
                word = self.last;
                wire::Key {
                    attachment: Some(port),
                    ..wire::Key::default()
                }
            }
            Family::Any | Family::Mpls if is_number => wire::Key {
                label: Some(self.label(word, word)?),
                ..wire::Key::default()
            },
            Family::Mpls => return Err(unexpected()),
            Family::Inet | Family::Inet6 if is_number => return Err(unexpected()),
            Family::Any | Family::Inet | Family::Inet6 => wire::Key {
                prefix: Some(prefix(word, self.family).ok_or_else(unexpected)?),
                ..wire::Key::default()
            },
        };
        Ok((key, word))
    }

    /// What `as` does, and the labels that it names.
    fn out_labels(&mut self) -> Result<(RouteAction, Option<Vec<u32>>), GrammarError> {
        let expected = "outgoing labels after `as`, such as 110 or 200/300";
        let mut word = self.word(expected)?;
        if word == "to" {
            word = self.word(expected)?;
        }
        match word {
            "implicit-null" | "3" => Ok((RouteAction::PenultimatePop, None)),
            _ => Ok((RouteAction::Swap, Some(self.labels(word)?))),
        }
    }

    /// The same for `encap`.
    fn encap(&mut self) -> Result<(RouteAction, Option<Vec<u32>>), GrammarError> {
        match self.word("`mpls` after `encap`")? {
            "mpls" => {}
            other => return Err(self.error(other, Words::Encap(other.into()))),
        }
        let word = self.word("the labels to push after `encap mpls`, such as 100 or 100/200")?;
        Ok((RouteAction::Push, Some(self.labels(word)?)))
    }

    /// The rest of the line, from `word` on, without its leading `#`: a comment for people.
    fn comment(&mut self, word: &'a str) -> Box<str> {
        let start = self.span(word).start;
        for word in self.words.by_ref() {
            self.last = word;
        }
        let rest = self.line.get(start..self.span(self.last).end).unwrap_or_default();
        rest.trim_start_matches('#').trim().into()
    }

    fn ttl(&mut self) -> Result<u8, GrammarError> {
        let word = self.word("a TTL after `ttl`, 1 to 255")?;
        word.parse().map_err(|_| self.error(word, Words::NotATtl(word.into())))
    }

    fn ttl_propagate(&mut self) -> Result<bool, GrammarError> {
        match self.word("`enabled` or `disabled` after `ttl-propagate`")? {
            word if "enabled".starts_with(word) => Ok(true),
            word if "disabled".starts_with(word) => Ok(false),
            other => Err(self.error(other, Words::TtlPropagate(other.into()))),
        }
    }

    /// The address, with or without its family.
    fn via(&mut self) -> Result<ViaAddress, GrammarError> {
        let word = self.word("a next hop after `via`: `inet ADDRESS`, `inet6 ADDRESS` or `link MAC`")?;
        let (family, address) = match word {
            "inet" => {
                let address = self.word("an IPv4 address after `via inet`, such as 192.0.2.1")?;
                (ViaFamily::Inet, address)
            }
            "inet6" => {
                let address = self.word("an IPv6 address after `via inet6`, such as 2001:db8::1")?;
                (ViaFamily::Inet6, address)
            }
            "link" => {
                let address = self.word("a MAC address after `via link`, such as 52:54:00:12:34:56")?;
                (ViaFamily::Link, address)
            }
            _ => match word.parse() {
                Ok(IpAddr::V4(_)) => (ViaFamily::Inet, word),
                Ok(IpAddr::V6(_)) => (ViaFamily::Inet6, word),
                Err(_) => {
                    return Err(self.unexpected(word, "`inet ADDRESS`, `inet6 ADDRESS`, `link MAC` or an IP address"));
                }
            },
        };
        let host = address.into();
        Ok(ViaAddress { family, host })
    }

    fn dev(&mut self, keyword: &'a str) -> Result<Arc<str>, GrammarError> {
        let word = self.value(keyword, "an interface")?;
        Ok(Arc::from(word))
    }

    fn labels(&self, word: &'a str) -> Result<Vec<u32>, GrammarError> {
        word.split('/').map(|part| self.label(part, word)).collect()
    }

    /// One label, by number or, if it has one, by name.
    fn label(&self, text: &str, word: &'a str) -> Result<u32, GrammarError> {
        match text {
            "explicit-null" | "ipv4-explicit-null" => return Ok(Label::IPV4_EXPLICIT_NULL.get()),
            "ipv6-explicit-null" => return Ok(Label::IPV6_EXPLICIT_NULL.get()),
            "implicit-null" => return Ok(Label::IMPLICIT_NULL.get()),
            _ => {}
        }
        if text.len() > 1 && text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(self.error(word, Words::Octal(text.into())));
        }
        unsigned(text).ok_or_else(|| self.error(word, Words::NotALabel(text.into())))
    }

    fn word(&mut self, expected: &'static str) -> Result<&'a str, GrammarError> {
        self.next()
            .ok_or_else(|| self.error_at_end(Words::Incomplete { expected }))
    }

    fn value(&mut self, keyword: &str, expected: &'static str) -> Result<&'a str, GrammarError> {
        self.next().ok_or_else(|| {
            let keyword = keyword.into();
            self.error_at_end(Words::NoValue { keyword, expected })
        })
    }

    fn unexpected(&self, word: &str, expected: &'static str) -> GrammarError {
        let reason = Words::Unexpected {
            word: word.into(),
            expected,
        };
        self.error(word, reason)
    }

    fn once<T>(&self, slot: &mut Given<'a, T>, word: &'a str, value: T) -> Result<(), GrammarError> {
        match slot.replace((value, word)) {
            None => Ok(()),
            Some(_) => Err(self.error(word, Words::Twice(word.into()))),
        }
    }

    /// Notes that `field` stands from `word` to the last word read. Refuses a field that is given twice.
    fn note(&self, spans: &mut Spans, field: Field, word: &'a str) -> Result<(), GrammarError> {
        if spans.has(field) {
            return Err(self.error(word, Words::Twice(word.into())));
        }
        spans.0.push((field, self.span(word).start..self.span(self.last).end));
        Ok(())
    }

    /// The place of `word`, a part of the line.
    fn span(&self, word: &str) -> Range<usize> {
        let start = (word.as_ptr() as usize).saturating_sub(self.line.as_ptr() as usize);
        start..start + word.len()
    }

    /// An error about `word`, a part of the line.
    fn error(&self, word: &str, reason: impl Into<Reason>) -> GrammarError {
        GrammarError {
            at: self.span(word),
            reason: reason.into(),
        }
    }

    fn error_in(&self, spans: &Spans, field: Field, reason: impl Into<Reason>) -> GrammarError {
        GrammarError {
            at: spans.get(field).unwrap_or_default(),
            reason: reason.into(),
        }
    }

    fn error_at_end(&self, reason: impl Into<Reason>) -> GrammarError {
        let end = self.line.trim_ascii_end().len();
        GrammarError {
            at: end..end,
            reason: reason.into(),
        }
    }
}

/// The key meant by a line that `ip` printed: it prints that all label routes are in table main.
fn without_main(key: wire::Key) -> wire::Key {
    let table = key
        .table
        .filter(|&table| key.prefix.is_some() || table != RoutingTable::MAIN.0);
    wire::Key { table, ..key }
}

/// A number without a sign, decimal or, after 0x, hexadecimal.
pub(super) fn unsigned(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u32::from_str_radix(digits, radix).ok().filter(|_| is_plain)
}

fn is_default(word: &str) -> bool {
    matches!(word, "default" | "any" | "all")
}

/// A prefix, a host's address, or `default`.
fn prefix(word: &str, family: Family) -> Option<IpNet> {
    let prefix = match family {
        Family::Inet6 if is_default(word) => IpNet::V6(Ipv6Net::default()),
        _ if is_default(word) => IpNet::V4(Ipv4Net::default()),
        _ if word.contains(':') => {
            let host = |_| word.parse().map(|address: Ipv6Addr| IpNet::from(IpAddr::V6(address)));
            word.parse().or_else(host).ok()?
        }
        _ => IpNet::V4(ipv4_prefix(word)?),
    };
    match (prefix, family) {
        (IpNet::V4(_), Family::Inet6) | (IpNet::V6(_), Family::Inet) | (_, Family::Mpls) => None,
        _ => Some(prefix),
    }
}

/// As iproute2 reads it: 10.22/16 is 10.22.0.0/16, and 10.22.0.0/255.255.0.0 too.
fn ipv4_prefix(word: &str) -> Option<Ipv4Net> {
    let (address, length) = match word.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (word, None),
    };
    let address = ipv4_address(address)?;
    match length {
        None => Ipv4Net::new(address, 32).ok(),
        Some(mask) if mask.contains('.') => Ipv4Net::with_netmask(address, mask.parse().ok()?).ok(),
        Some(length) => Ipv4Net::new(address, u8::try_from(unsigned(length)?).ok()?).ok(),
    }
}

/// If the address has fewer than four numbers, the others are 0. None is octal.
fn ipv4_address(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut places = octets.iter_mut();
    for number in text.split('.') {
        let is_octal = number.len() > 1 && number.starts_with('0') && !number.starts_with("0x");
        *places.next()? = u8::try_from(unsigned(number).filter(|_| !is_octal)?).ok()?;
    }
    Some(octets.into())
}

#[cfg(test)]
mod tests;
