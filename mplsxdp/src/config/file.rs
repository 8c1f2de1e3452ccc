//! The config file of `load`: TOML. Each key is the name of an option without its dashes; `routes` has static routes, one line
//! each, as `route add` takes them:
//!
//! ```toml
//! iface = ["eth1", "eth2"]
//! tx-only = ["eth3"]
//! local = "mpls0"            # or true, which is the same
//! instance = "pe1"
//! netns = "r1"
//! wait = false               # true: take interfaces that are not there when they come
//! no-readopt = false         # true: an interface that goes and comes again is left alone
//! fix-peers = false          # true: GRO is switched on at the other ends of veths that need it
//! mode = "native"            # or "generic"
//! labels = 1048576
//! counter-slots = 65536
//! stacks = 32768
//! groups = 1024
//! hash-seed = 7              # random at each load where there is none
//! ttl-propagate = "uniform"  # or "pipe", "linux"
//! tunnel-ttl = 255
//! tc-propagate = false
//! unknown = "punt"           # or "drop", "pass"
//! icmp-via = "auto"          # or "lsp", "ip"
//! icmp-source = ["10.0.0.1", "2001:db8::1"]
//! icmp-rate = 1000           # per second, 0: no limit
//! icmp-source-rate = 100
//! hold = 64
//! punt-rate = 20000
//! log-exceptions = false
//! verbose = 0
//! routes = [
//!     "100 as 110 via inet 192.168.40.102",
//!     "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102",
//! ]
//! ```
//!
//! Everything that is wrong is told at once.

use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use clap::ValueEnum;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::{self, ConfigError, Options, PlacedRoute};
use crate::route::line::{self, Family};

/// The keys, for whoever mistypes one.
const KEYS: &str = "iface, tx-only, local, instance, netns, wait, no-readopt, fix-peers, checksum, mode, labels, counter-slots, stacks, \
                    groups, hash-seed, ttl-propagate, tunnel-ttl, tc-propagate, unknown, icmp-via, icmp-source, icmp-rate, icmp-source-rate, hold, punt-rate, \
                    log-exceptions, verbose, routes";

/// Reads a file.
pub fn read(path: &Path) -> Result<Options, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError(vec![format!("{name}: {error}")]))?;
    parse(&name, &text)
}

/// Reads the text of a file of this name.
pub fn parse(name: &str, text: &str) -> Result<Options, ConfigError> {
    let mut reader = Reader {
        name,
        text,
        line_starts: std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect(),
        errors: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.refuse(error.span().unwrap_or(0..0), error.message());
    }
    let mut options = Options::default();
    if errors.is_empty() {
        for (key, value) in table.get_ref() {
            reader.read(key, value, &mut options);
        }
    }
    if reader.errors.is_empty() {
        Ok(options)
    } else {
        reader.errors.sort_by_key(|(at, _)| *at);
        Err(ConfigError(reader.errors.into_iter().map(|(_, error)| error).collect()))
    }
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    line_starts: Vec<usize>,
    /// By their place in the text.
    errors: Vec<(usize, String)>,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn read(&mut self, key: &Spanned<impl AsRef<str>>, value: &Value, options: &mut Options) {
        let name = key.get_ref().as_ref();
        match name {
            "iface" => options.ifaces = self.strings(name, value),
            "tx-only" => options.tx_only = self.strings(name, value),
            "local" => options.local = self.local(name, value),
            "instance" => options.instance = self.string(name, value).map(str::to_owned),
            "netns" => options.netns = self.string(name, value).map(str::to_owned),
            "wait" => options.wait = self.boolean(name, value),
            "no-readopt" => options.no_readopt = self.boolean(name, value),
            "fix-peers" => options.fix_peers = self.boolean(name, value),
            "checksum" => options.checksums = self.one_or_more(name, value),
            "mode" => options.mode = self.choice(name, value),
            "labels" => options.labels = self.number(name, value, config::LABELS),
            "counter-slots" => options.counter_slots = self.number(name, value, config::COUNTER_SLOTS),
            "stacks" => options.stacks = self.number(name, value, config::STACKS),
            "groups" => options.groups = self.number(name, value, config::GROUPS),
            "hash-seed" => options.hash_seed = self.number(name, value, config::HASH_SEED),
            "ttl-propagate" => options.ttl_mode = self.choice(name, value),
            "tunnel-ttl" => options.tunnel_ttl = self.number(name, value, config::TUNNEL_TTL),
            "tc-propagate" => options.tc_propagate = self.boolean(name, value),
            "unknown" => options.unknown = self.choice(name, value),
            "icmp-via" => options.icmp_via = self.choice(name, value),
            "icmp-source" => options.icmp_source = self.addresses(name, value),
            "icmp-rate" => options.icmp_rate = self.number(name, value, config::RATE),
            "icmp-source-rate" => options.icmp_source_rate = self.number(name, value, config::RATE),
            "hold" => options.hold = self.number(name, value, config::HOLD),
            "punt-rate" => options.punt_rate = self.number(name, value, config::RATE),
            "log-exceptions" => options.log_exceptions = self.boolean(name, value),
            "verbose" => options.verbose = self.number(name, value, 0..=2).unwrap_or(0),
            "routes" => options.routes = self.routes(name, value),
            _ => self.refuse(key.span(), &format!("unknown key `{name}`; the keys are {KEYS}")),
        }
    }

    fn string<'v>(&mut self, key: &str, value: &'v Value) -> Option<&'v str> {
        let string = value.get_ref().as_str();
        if string.is_none() {
            self.wrong_type(key, value, "a string");
        }
        string
    }

    fn array<'v>(&mut self, key: &str, value: &'v Value) -> impl Iterator<Item = &'v Value<'v>> + use<'v> {
        let array = value.get_ref().as_array();
        if array.is_none() {
            self.wrong_type(key, value, "an array of strings");
        }
        array.into_iter().flatten()
    }

    /// A string, or an array of them.
    fn one_or_more(&mut self, key: &str, value: &Value) -> Vec<String> {
        match value.get_ref().as_str() {
            Some(one) => vec![one.to_owned()],
            None => self.strings(key, value),
        }
    }

    fn strings(&mut self, key: &str, value: &Value) -> Vec<String> {
        self.array(key, value)
            .filter_map(|element| self.string(key, element).map(str::to_owned))
            .collect()
    }

    /// A name, or whether there is to be one by the usual name.
    fn local(&mut self, key: &str, value: &Value) -> Option<String> {
        match value.get_ref() {
            DeValue::String(name) => Some(name.as_ref().to_owned()),
            DeValue::Boolean(wanted) => wanted.then(|| config::DEFAULT_LOCAL.to_owned()),
            _ => {
                self.wrong_type(key, value, "a string, true or false");
                None
            }
        }
    }

    fn addresses(&mut self, key: &str, value: &Value) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for element in self.array(key, value) {
            let Some(text) = self.string(key, element) else {
                continue;
            };
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => self.refuse(
                    element.span(),
                    &format!("`{key}` has \"{text}\"; it must be an address, as \"192.0.2.1\" or \"2001:db8::1\""),
                ),
            }
        }
        addresses
    }

    fn boolean(&mut self, key: &str, value: &Value) -> Option<bool> {
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        boolean
    }

    fn number<N: TryFrom<i64> + PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        value: &Value,
        range: RangeInclusive<N>,
    ) -> Option<N> {
        let right = format!("a number, {} to {}", range.start(), range.end());
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, &right);
            return None;
        };
        let number = i64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| range.contains(number));
        if number.is_none() {
            self.refuse(
                value.span(),
                &format!("`{key}` is {}; it must be {right}", integer.as_str()),
            );
        }
        number
    }

    fn choice<E: ValueEnum>(&mut self, key: &str, value: &Value) -> Option<E> {
        let name = self.string(key, value)?;
        let choice = E::from_str(name, false).ok();
        if choice.is_none() {
            let names: Vec<_> = E::value_variants()
                .iter()
                .filter_map(|variant| Some(format!("\"{}\"", variant.to_possible_value()?.get_name())))
                .collect();
            let right = names.join(" or ");
            self.refuse(value.span(), &format!("`{key}` is \"{name}\"; it must be {right}"));
        }
        choice
    }

    fn routes(&mut self, key: &str, value: &Value) -> Vec<PlacedRoute> {
        let mut routes = Vec::new();
        for element in self.array(key, value) {
            let Some(line) = self.string(key, element) else {
                continue;
            };
            let span = element.span();
            match line::route(line, Family::Any) {
                Ok(route) => routes.push(PlacedRoute {
                    route,
                    place: self.place(span.start),
                }),
                Err(error) => {
                    // Without escapes, the text in the file is the line, and the place within it can be told.
                    let literal = self.text.get(span.clone()).and_then(|text| text.find(line));
                    let start = span.start + literal.map_or(0, |quote| quote + error.at.start);
                    self.refuse(start..span.end, &format!("`{key}`: {error}: `{line}`"));
                }
            }
        }
        routes
    }

    fn wrong_type(&mut self, key: &str, value: &Value, right: &str) {
        let given = value.get_ref().type_str();
        self.refuse(
            value.span(),
            &format!("`{key}` has a value of type {given}; it must be {right}"),
        );
    }

    fn refuse(&mut self, at: Range<usize>, reason: &str) {
        let place = self.place(at.start);
        self.errors.push((at.start, format!("{place}: {reason}")));
    }

    /// File, line and column, as compilers print them.
    fn place(&self, offset: usize) -> String {
        let line = self.line_starts.partition_point(|&start| start <= offset);
        let start = self.line_starts.get(line - 1).copied().unwrap_or_default();
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        format!("{}:{line}:{column}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use mplsxdp_common::abi::TtlMode;

    use super::*;
    use crate::config::{Config, PortConfig, UnknownPolicy};
    use crate::dataplane::XdpMode;
    use crate::slowpath::IcmpVia;

    fn errors(text: &str) -> Vec<String> {
        parse("f.toml", text)
            .and_then(Options::check)
            .map_or_else(|error| error.0, |config| panic!("{config:?}"))
    }

    #[test]
    fn several_next_hops_may_stand_on_several_lines() {
        let text = r#"
            iface = ["eth1", "eth2"]
            routes = [
                "100 nexthop via inet 10.0.1.2 dev eth1 weight 2 nexthop as 110 via inet 10.0.2.2",
                """10.4.0.0/16 proto static
                \tnexthop encap mpls 100 via inet 10.0.1.2
                \tnexthop encap mpls 200 via inet 10.0.2.2""",
                "101 as 111 via inet 10.0.1.2 backup via inet 10.0.2.2 dev eth2",
                "10.100.0.3 nhid 25  encap mpls  17 via 10.0.1.2 dev eth1 proto ospf metric 20 ttl-propogate disabled",
            ]
        "#;
        let lines: Vec<String> = parse("f.toml", text)
            .and_then(Options::check)
            .map(|config| config.routes.iter().map(ToString::to_string).collect())
            .unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(
            lines,
            [
                "100 nexthop as to 110 via inet 10.0.2.2 weight 1 nexthop via inet 10.0.1.2 dev eth1 weight 2",
                "10.4.0.0/16 nexthop encap mpls 100 via inet 10.0.1.2 weight 1 nexthop encap mpls 200 via inet 10.0.2.2 weight 1",
                "101 as to 111 via inet 10.0.1.2 backup via inet 10.0.2.2 dev eth2",
                "10.100.0.3/32 encap mpls 17 via inet 10.0.1.2 dev eth1 ttl-propagate disabled proto ospf metric 20",
            ]
        );
        // An interface that is not loaded may be added later: the route waits for it, as after `restore`.
        let elsewhere = text.replace("10.0.2.2 dev eth2", "10.0.2.2 dev eth3");
        assert!(parse("f.toml", &elsewhere).and_then(Options::check).is_ok());
        // A name that no interface can have is a mistake.
        let impossible = text.replace("10.0.2.2 dev eth2", "10.0.2.2 dev eth/3");
        let found = errors(&impossible);
        assert!(
            found.len() == 1 && found[0].contains("`eth/3` is not the name of an interface"),
            "{found:?}"
        );
    }

    #[test]
    fn a_whole_file() {
        let text = r#"
            iface = ["eth1", "eth2"]
            tx-only = ["eth3"]
            local = "own"
            instance = "pe1"
            netns = "r1"
            wait = true
            no-readopt = true
            fix-peers = true
            mode = "generic"
            labels = 0x1000
            counter-slots = 100
            stacks = 200
            groups = 300
            hash-seed = 4294967295
            ttl-propagate = "pipe"
            tunnel-ttl = 64
            tc-propagate = true
            unknown = "drop"
            icmp-via = "ip"
            icmp-source = ["192.0.2.1", "2001:db8::1"]
            icmp-rate = 0
            icmp-source-rate = 1
            hold = 0
            punt-rate = 3
            log-exceptions = true
            verbose = 1
            routes = [
                "100 as 110 via inet 192.168.40.102 dev eth1",
                "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102",
            ]
        "#;
        let port = |name: &str, tx_only| PortConfig {
            name: name.into(),
            tx_only,
            mpls: !tx_only,
            checksum: None,
        };
        let file = parse("f.toml", text).unwrap();
        assert_eq!(file.routes[1].place, "f.toml:30:17");
        assert_eq!(
            file.clone().check().unwrap(),
            Config {
                instance: "pe1".into(),
                netns: Some("r1".into()),
                ports: vec![port("eth1", false), port("eth2", false), port("eth3", true)],
                local: Some("own".into()),
                wait: true,
                readopt: false,
                fix_peers: true,
                mode: XdpMode::Generic,
                labels: 4096,
                counter_slots: 100,
                stacks: 200,
                groups: 300,
                hash_seed: Some(u32::MAX),
                ttl_mode: TtlMode::Pipe,
                tunnel_ttl: 64,
                tc_propagate: true,
                unknown: UnknownPolicy::Drop,
                icmp_via: IcmpVia::Ip,
                icmp_source_v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
                icmp_source_v6: Some("2001:db8::1".parse().unwrap()),
                icmp_rate: 0,
                icmp_source_rate: 1,
                hold: 0,
                punt_rate: 3,
                log_exceptions: true,
                verbose: 1,
                routes: [
                    "100 as 110 via inet 192.168.40.102 dev eth1",
                    "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102"
                ]
                .map(|line| line::route(line, Family::Any).unwrap())
                .into(),
            }
        );
        let line = Options {
            ifaces: vec!["eth4".into(), "eth1".into()],
            labels: Some(8192),
            tc_propagate: Some(false),
            instance: Some("pe2".into()),
            local: Some("mpls0".into()),
            unknown: Some(UnknownPolicy::Pass),
            icmp_source: vec!["192.0.2.2".parse().unwrap()],
            hold: Some(5),
            ..Options::default()
        };
        let both = line.or(file).check().unwrap();
        assert_eq!((both.labels, both.tc_propagate, both.counter_slots), (8192, false, 100));
        assert_eq!((both.instance.as_str(), both.local.as_deref()), ("pe2", Some("mpls0")));
        assert_eq!((both.unknown, both.icmp_via), (UnknownPolicy::Pass, IcmpVia::Ip));
        assert_eq!((both.hold, both.punt_rate), (5, 3));
        // Each family by itself.
        assert_eq!(both.icmp_source_v4, Some(Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!(both.icmp_source_v6, Some("2001:db8::1".parse().unwrap()));
        let names: Vec<_> = both.ports.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["eth4", "eth1", "eth2", "eth3"]);
    }

    #[test]
    fn defaults() {
        let config = parse("f.toml", "iface = [\"eth1\"]").and_then(Options::check).unwrap();
        assert_eq!(
            config,
            Config {
                ports: config.ports.clone(),
                ..Config::default()
            }
        );
        assert_eq!(
            (config.labels, config.counter_slots, config.tunnel_ttl),
            (1_048_576, 65_536, 255)
        );
        assert_eq!(
            (config.icmp_rate, config.icmp_source_rate, config.hold, config.punt_rate),
            (1000, 100, 64, 20_000)
        );
        assert_eq!([1000, 100, 20_000].map(config::burst), [50, 50, 1000]);
    }

    #[test]
    fn a_local_interface_has_the_usual_name_unless_it_is_given_one() {
        let local = |text: &str| parse("f.toml", text).unwrap().local;
        assert_eq!(local("local = true").as_deref(), Some("mpls0"));
        assert_eq!(local("local = \"own\"").as_deref(), Some("own"));
        assert_eq!(local("local = false"), None);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_with_its_place() {
        let text = r#"iface = "eth1"
labels = 16
stacks = "many"
tunnel-ttl = 256
mode = "fast"
mtu = 1500
tc-propagate = 1
local = 0
unknown = "ignore"
icmp-via = true
icmp-source = ["192.0.2.256", 5]
icmp-rate = -1
hold = 1025
routes = [
    "100 as 110 via inet 192.168.40.102",
    "101 as 111 via inet 192.168.40.1022",
    7,
]
"#;
        assert_eq!(
            errors(text),
            [
                "f.toml:1:9: `iface` has a value of type string; it must be an array of strings",
                "f.toml:2:10: `labels` is 16; it must be a number, 17 to 1048576",
                "f.toml:3:10: `stacks` has a value of type string; it must be a number, 1 to 1048576",
                "f.toml:4:14: `tunnel-ttl` is 256; it must be a number, 1 to 255",
                "f.toml:5:8: `mode` is \"fast\"; it must be \"native\" or \"generic\"",
                "f.toml:6:1: unknown key `mtu`; the keys are iface, tx-only, local, instance, netns, wait, no-readopt, fix-peers, checksum, mode, \
                 labels, counter-slots, stacks, groups, hash-seed, ttl-propagate, tunnel-ttl, tc-propagate, unknown, icmp-via, icmp-source, icmp-rate, \
                 icmp-source-rate, hold, punt-rate, log-exceptions, verbose, routes",
                "f.toml:7:16: `tc-propagate` has a value of type integer; it must be true or false",
                "f.toml:8:9: `local` has a value of type integer; it must be a string, true or false",
                "f.toml:9:11: `unknown` is \"ignore\"; it must be \"punt\" or \"drop\" or \"pass\"",
                "f.toml:10:12: `icmp-via` has a value of type boolean; it must be a string",
                "f.toml:11:16: `icmp-source` has \"192.0.2.256\"; it must be an address, as \"192.0.2.1\" or \"2001:db8::1\"",
                "f.toml:11:31: `icmp-source` has a value of type integer; it must be a string",
                "f.toml:12:13: `icmp-rate` is -1; it must be a number, 0 to 1000000000",
                "f.toml:13:8: `hold` is 1025; it must be a number, 0 to 1024",
                "f.toml:16:17: `routes`: `192.168.40.1022` is not an IPv4 address, such as 192.0.2.1: \
                 `101 as 111 via inet 192.168.40.1022`",
                "f.toml:17:5: `routes` has a value of type integer; it must be a string",
            ]
        );
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_place() {
        assert_eq!(
            errors("iface = [\"eth1\"]\nlabels 5\n"),
            ["f.toml:2:8: key with no value, expected `=`"]
        );
        assert_eq!(errors("labels = 20\nlabels = 30\n"), ["f.toml:2:1: duplicate key"]);
    }

    #[test]
    fn sub_interfaces_are_interfaces() {
        let text = r#"iface = ["eth1.100", "eth1.100.10", "interface-of-15.4094.4094"]
tx-only = ["eth2.200"]
routes = ["100 as 110 via link 02:00:00:00:00:01 dev eth2.200"]
"#;
        let config = parse("f.toml", text).unwrap().check().unwrap();
        let names: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(
            names,
            ["eth1.100", "eth1.100.10", "interface-of-15.4094.4094", "eth2.200"]
        );
        for name in ["interface-of-15.1.2.3", "interface-of-15.", "an-interface-of-16.100"] {
            assert_eq!(
                errors(&format!("iface = [\"{name}\"]")),
                [format!(
                    "`{name}` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces"
                )]
            );
        }
        // It is made, not found.
        assert_eq!(
            errors("iface = [\"eth1\"]\nlocal = \"interface-of-15.100\""),
            ["`interface-of-15.100` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces"]
        );
    }

    #[test]
    fn parts_that_do_not_go_together() {
        let text = r#"iface = ["eth1", "eth/2"]
tx-only = ["eth1"]
labels = 200
instance = "../up"
routes = [
    "100 as 110 via inet 192.0.2.1",
    "200 as 110 via inet 192.0.2.1 dev eth9",
    "100 as 111 via inet 192.0.2.1",
]
"#;
        assert_eq!(
            errors(text),
            [
                "`eth/2` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces",
                "`eth1` is given by `iface` and by `tx-only`; it can be one of them",
                "f.toml:7:5: label 200 is beyond `labels`, which is 200",
                "f.toml:8:5: 100 has a route already, at f.toml:6:5",
                "the instance name `../up` has other characters than letters, digits, `_`, `-` and, not in front, `.`",
            ]
        );
        for (line, reason) in [
            (
                "local = \"eth1\"",
                "`eth1` is given by `local`, which makes it, and by `iface` or `tx-only`, which take what is there",
            ),
            (
                "local = \"sixteen-is-a-lot\"",
                "`sixteen-is-a-lot` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces",
            ),
            (
                "local = \"mpls%d\"",
                "`mpls%d` is not the name of a new interface: it has a `%`",
            ),
            (
                "icmp-source = [\"192.0.2.1\", \"192.0.2.1\", \"192.0.2.2\", \"2001:db8::1\"]",
                "`icmp-source` is 192.0.2.1 and 192.0.2.2; it can be one address of each family",
            ),
        ] {
            assert_eq!(errors(&format!("iface = [\"eth1\"]\n{line}")), [reason]);
        }
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.5",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "::ffff:192.0.2.1",
        ] {
            assert_eq!(
                errors(&format!("iface = [\"eth1\"]\nicmp-source = [\"{address}\"]")),
                [format!(
                    "`icmp-source` is {address}; it must be a unicast address of this box that others know, as 192.0.2.1 or \
                     2001:db8::1"
                )]
            );
        }
        let many: Vec<_> = (0..256).map(|number| format!("\"eth{number}\"")).collect();
        assert_eq!(
            errors(&format!("iface = [{}]\nlocal = true", many.join(", "))),
            ["257 interfaces; at most 256 are supported"]
        );
        assert_eq!(
            errors("labels = 20"),
            ["no interface: name at least one, by `--iface IFACE` or by `iface` in the config file"]
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = read(Path::new("/nonexistent/mplsxdp.toml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nonexistent/mplsxdp.toml: No such file or directory (os error 2)"
        );
    }
}
