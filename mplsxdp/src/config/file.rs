//! The config file of `load`: TOML. Each key is the name of an option without its dashes; `routes` has static routes,
//! each a line for `route add`:
//!
//! ```toml
//! iface = ["eth1", "eth2"]
//! local = true               # or "mpls0", which is the same
//! hold = 64
//! kernel-route = ["10.4.4.0/24 src 10.0.0.1"]
//! routes = [
//!     "100 as 110 via inet 192.168.40.102",
//!     "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102",
//! ]
//! routes-file = "pe1.routes" # beside this file
//! ```
//!
//! Everything that is wrong is reported at once.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

use crate::config::{ConfigError, Given, Options, Place, PlacedRoute, Problem, Reason};
use crate::route::line::{self, Family};
use crate::strict::Strict;

/// The key that is not an option: its values are routes.
pub(super) const ROUTES: &str = "routes";

/// Reads a file. [`Given::check`] reports values that are wrong.
pub fn read(path: &Path) -> Result<Given, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| ConfigError(vec![Problem::at(&name, Reason::unreadable(error))]))?;
    let mut given = parse(&name, &text)?;
    given.file = Some(path.to_owned());
    if let (Some(routes), Some(folder)) = (&mut given.options.routes_file, path.parent()) {
        *routes = folder.join(&*routes);
    }
    Ok(given)
}

/// Reads the text of a file with this name.
pub fn parse(name: &str, text: &str) -> Result<Given, ConfigError> {
    let mut reader = Reader {
        name: name.into(),
        text,
        line_starts: std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect(),
        given: Given::default(),
        errors: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.refuse(error.span().unwrap_or(0..0), Reason::Toml(error.message().into()));
    }
    if !errors.is_empty() {
        return Err(ConfigError(reader.into_errors()));
    }
    reader.read(table);
    let mut given = std::mem::take(&mut reader.given);
    given.errors = reader.into_errors();
    Ok(given)
}

struct Reader<'a> {
    name: Arc<str>,
    text: &'a str,
    line_starts: Vec<usize>,
    given: Given,
    /// By their position in the text.
    errors: Vec<(usize, Problem)>,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    /// Tries each value, and each element of an array, separately, so that all wrong ones are found.
    fn read<'v>(&mut self, table: Spanned<DeTable<'v>>) {
        let names = Options::names();
        let whole = table.span();
        let mut right = DeTable::new();
        for (key, value) in table.into_inner() {
            let name = key.get_ref().to_string();
            if name == ROUTES {
                self.routes(&value);
                continue;
            }
            if !names.contains(&name) {
                self.refuse(key.span(), Reason::UnknownKey(name));
                continue;
            }
            let span = value.span();
            let mut places = Vec::new();
            let mut value = value.into_inner();
            if let DeValue::Array(elements) = &mut value {
                let mut taken = DeArray::new();
                for element in std::mem::replace(elements, DeArray::new()) {
                    let at = element.span();
                    let mut alone = DeArray::new();
                    alone.push(element.clone());
                    if self.is_right(&key, Spanned::new(at.clone(), DeValue::Array(alone))) {
                        places.push(self.place(at.start).to_string());
                        taken.push(element);
                    }
                }
                *elements = taken;
            }
            let value = Spanned::new(span.clone(), value);
            if !self.given.unread.contains(&name) && self.is_right(&key, value.clone()) {
                if places.is_empty() {
                    places.push(self.place(span.start).to_string());
                }
                self.given.places.insert(name, places);
                right.insert(key, value);
            }
        }
        match options(Spanned::new(whole, right)) {
            Ok(options) => self.given.options = options,
            Err(error) => self.refuse(error.span().unwrap_or(0..0), Reason::Toml(error.message().into())),
        }
    }

    /// Whether an option accepts a value; if not, the error is noted.
    fn is_right<'v>(&mut self, key: &Spanned<Cow<'v, str>>, value: Value<'v>) -> bool {
        let span = value.span();
        let alone = std::iter::once((key.clone(), value)).collect();
        let Err(error) = options(Spanned::new(span.clone(), alone)) else {
            return true;
        };
        let name = key.get_ref().to_string();
        self.given.unread.insert(name.clone());
        let reason = Reason::Value {
            option: name,
            message: in_words_of_toml(error.message()),
        };
        self.refuse(error.span().unwrap_or(span), reason);
        false
    }

    fn routes(&mut self, value: &Value) {
        let Some(array) = value.get_ref().as_array() else {
            return self.refuse(value.span(), Reason::NotRoutes);
        };
        for element in array {
            let span = element.span();
            let Some(text) = element.get_ref().as_str() else {
                self.refuse(span, Reason::NotRoutes);
                continue;
            };
            match line::route(text, Family::Any) {
                Ok(route) => {
                    let place = self.place(span.start);
                    self.given.routes.push(PlacedRoute { route, place });
                }
                Err(error) => {
                    // Without escapes, the text in the file is the line, so the position within it is known.
                    let literal = self.text.get(span.clone()).and_then(|found| found.find(text));
                    let start = span.start + literal.map_or(0, |quote| quote + error.at.start);
                    let line = text.to_owned();
                    self.refuse(start..span.end, Reason::Route { error, line });
                }
            }
        }
    }

    fn refuse(&mut self, at: Range<usize>, reason: Reason) {
        let problem = Problem::at(self.place(at.start), reason);
        self.errors.push((at.start, problem));
    }

    fn into_errors(mut self) -> Vec<Problem> {
        self.errors.sort_by_key(|(at, _)| *at);
        self.errors.into_iter().map(|(_, error)| error).collect()
    }

    /// File, line and column, in the format of compilers.
    fn place(&self, offset: usize) -> Place {
        let line = self.line_starts.partition_point(|&start| start <= offset);
        let start = self.line_starts.get(line - 1).copied().unwrap_or_default();
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Place {
            file: Arc::clone(&self.name),
            line,
            column: Some(column),
        }
    }
}

/// serde's message with TOML's words for types.
fn in_words_of_toml(message: &str) -> String {
    message.replace("a sequence", "an array")
}

fn options(table: Spanned<DeTable<'_>>) -> Result<Options, toml::de::Error> {
    let span = table.span();
    let table = Spanned::new(span, DeValue::Table(table.into_inner()));
    Options::deserialize(Strict(ValueDeserializer::from(table)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config::{self, Number, PortConfig, TtlPropagation, UnknownPolicy};
    use crate::dataplane::XdpMode;
    use crate::route::Source;
    use crate::slowpath::IcmpVia;

    fn errors(text: &str) -> Vec<String> {
        parse("f.toml", text)
            .and_then(Given::check)
            .map_or_else(|error| texts(&error), |config| panic!("{config:?}"))
    }

    fn texts(error: &ConfigError) -> Vec<String> {
        error.0.iter().map(ToString::to_string).collect()
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
            .and_then(Given::check)
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
        assert!(parse("f.toml", &elsewhere).and_then(Given::check).is_ok());
        // A name that is not valid for an interface is a mistake.
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
            mpls-off = ["eth2"]
            accept-labels = ["eth1=100-199,300"]
            mpls-mtu = ["eth1=1508", "eth3=default"]
            xconnect = ["eth2 eth3 one-way"]
            dscp-map = ["eth1=46=5,34=4"]
            tc-map = ["eth1=5=46"]
            kernel-route = ["10.4.4.0/24 src 10.0.0.1"]
            instance = "pe1"
            netns = "r1"
            wait = true
            no-readopt = true
            persist = true
            guard = true
            fix-peers = true
            mode = "generic"
            labels = 0x1000
            counter-slots = 100
            stacks = 200
            groups = 300
            backups = 400
            backup-hold = "2s"
            hash-seed = 4294967295
            sync = ["kernel", "fpm:2621", "frr=/run/frr"]
            sync-table = ["main", "1000", "red"]
            sync-quiet = "500ms"
            sync-stale = "2m"
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
            prefer = ["kernel=5", "fpm=30"]
            metrics = "[::]:9177"
            metrics-allow = ["192.0.2.0/24", "2001:db8::1"]
            metrics-routes = 7
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
            accept_labels: crate::dataplane::label_ranges::AcceptLabels::default(),
            mpls_mtu: crate::dataplane::mpls_mtu::MplsMtu::default(),
            cross_connect: None,
            dscp_map: crate::dataplane::class_maps::DscpMap::default(),
            tc_map: crate::dataplane::class_maps::TcMap::default(),
            checksum: None,
        };
        let file = parse("f.toml", text).unwrap();
        assert_eq!(file.routes[1].place.to_string(), "f.toml:49:17");
        let config = file.clone().check().unwrap();
        assert_eq!(
            config.options,
            Options {
                iface: vec!["eth1".into(), "eth2".into()],
                tx_only: vec!["eth3".into()],
                mpls_off: vec!["eth2".into()],
                accept_labels: vec!["eth1=100-199,300".parse().unwrap()],
                mpls_mtu: ["eth1=1508", "eth3=default"].map(|text| text.parse().unwrap()).into(),
                xconnect: vec!["eth2 eth3 one-way".parse().unwrap()],
                dscp_map: vec!["eth1=34=4,46=5".parse().unwrap()],
                tc_map: vec!["eth1=5=46".parse().unwrap()],
                local: Some("own".into()),
                kernel_route: vec!["10.4.4.0/24 src 10.0.0.1".parse().unwrap()],
                instance: "pe1".into(),
                netns: Some("r1".into()),
                wait: true,
                no_readopt: true,
                persist: true,
                guard: true,
                fix_peers: true,
                checksum: Vec::new(),
                mode: XdpMode::Generic,
                labels: Number::new(4096).unwrap(),
                counter_slots: Number::new(100).unwrap(),
                stacks: Number::new(200).unwrap(),
                groups: Number::new(300).unwrap(),
                backups: Number::new(400).unwrap(),
                backup_hold: Some("2s".parse().unwrap()),
                hash_seed: Number::new(u32::MAX.into()),
                sync: ["kernel", "fpm:127.0.0.1:2621", "frr=/run/frr"]
                    .map(|source| source.parse().unwrap())
                    .to_vec(),
                sync_table: ["main", "1000", "red"].map(|table| table.parse().unwrap()).to_vec(),
                sync_quiet: "500ms".parse().unwrap(),
                sync_stale: "2m".parse().unwrap(),
                ttl_propagate: Some(TtlPropagation::Pipe),
                tunnel_ttl: Number::new(64),
                tc_propagate: true,
                unknown: UnknownPolicy::Drop,
                icmp_via: IcmpVia::Ip,
                icmp_source: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                icmp_rate: Number::new(0).unwrap(),
                icmp_source_rate: Number::new(1).unwrap(),
                hold: Number::new(0).unwrap(),
                punt_rate: Number::new(3).unwrap(),
                log_exceptions: true,
                prefer: ["kernel=5", "fpm=30"].map(|text| text.parse().unwrap()).into(),
                metrics: Some("[::]:9177".parse().unwrap()),
                metrics_allow: ["192.0.2.0/24", "2001:db8::1"].map(|text| text.parse().unwrap()).into(),
                metrics_routes: Number::new(7),
                verbose: 1,
                routes_file: None,
            }
        );
        let off = PortConfig {
            mpls: false,
            cross_connect: Some("eth3".into()),
            ..port("eth2", false)
        };
        let restricted = PortConfig {
            accept_labels: "100-199,300".parse().unwrap(),
            mpls_mtu: "1508".parse().unwrap(),
            dscp_map: "34=4,46=5".parse().unwrap(),
            tc_map: "5=46".parse().unwrap(),
            ..port("eth1", false)
        };
        assert_eq!(config.ports, [restricted, off, port("eth3", true)]);
        assert_eq!(config.icmp_source_v4, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(config.icmp_source_v6, Some("2001:db8::1".parse().unwrap()));
        let lines = [
            "100 as 110 via inet 192.168.40.102 dev eth1",
            "10.4.4.0/24 encap mpls 100 via inet 192.168.30.102",
        ];
        assert_eq!(config.routes, lines.map(|line| line::route(line, Family::Any).unwrap()));

        let line = load(
            "--iface eth4 --iface eth1 --labels 8192 --tc-propagate=false --local --unknown pass --icmp-source 192.0.2.2 --hold 5 --prefer kernel=40",
        );
        let both = file.with_command_line(&line).unwrap().check().unwrap();
        assert_eq!(
            (both.labels.get(), both.tc_propagate, both.counter_slots.get()),
            (8192, false, 100)
        );
        assert_eq!((both.instance.as_str(), both.local.as_deref()), ("pe1", Some("mpls0")));
        assert_eq!((both.unknown, both.icmp_via), (UnknownPolicy::Pass, IcmpVia::Ip));
        assert_eq!((both.hold.get(), both.punt_rate.get(), both.verbose), (5, 3, 1));
        // The command line takes precedence for its owners.
        let preferences = [
            (Source::Static, 1),
            (Source::Fpm, 30),
            (Source::Frr, 30),
            (Source::Kernel, 40),
        ];
        assert!(both.preferences().iter().eq(preferences));
        // Each family by itself.
        assert_eq!(both.icmp_source_v4, Some(Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!(both.icmp_source_v6, Some("2001:db8::1".parse().unwrap()));
        let names: Vec<_> = both.ports.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["eth4", "eth1", "eth2", "eth3"]);
    }

    #[test]
    fn a_source_of_routes_brings_the_behaviour_of_the_kernel() {
        let check = |text: &str, line: &str| {
            let file = parse("f.toml", text).unwrap();
            let line = load(line);
            let config = file.with_command_line(&line).unwrap().check()?;
            Ok::<_, ConfigError>((config.ttl_mode(), config.unknown))
        };
        let config = |text, line| check(text, line).unwrap();
        let linux = (TtlPropagation::Linux, UnknownPolicy::Pass);
        assert_eq!(config("sync = [\"kernel\"]", "--iface eth1"), linux);
        assert_eq!(config("", "--iface eth1 --sync fpm"), linux);
        assert_eq!(
            config("ttl-propagate = \"uniform\"", "--iface eth1 --sync fpm --unknown punt"),
            (TtlPropagation::Uniform, UnknownPolicy::Punt)
        );
        assert_eq!(
            config("", "--iface eth1"),
            (TtlPropagation::Uniform, UnknownPolicy::Punt)
        );
        let errors = |text, line| texts(&check(text, line).unwrap_err());
        assert_eq!(
            errors("sync = [\"fpm\"]", "--iface eth1 --sync fpm:1"),
            ["f.toml:1:9: `fpm` is given twice"]
        );
        assert_eq!(
            errors("", "--iface eth1 --sync frr"),
            ["--sync: `frr` gives backups to the routes of other sources: add `--sync kernel` or `--sync fpm`"]
        );
        assert_eq!(
            errors("", "--iface eth1 --sync-table red"),
            ["--sync-table: it needs `sync`, which names the source of the routes"]
        );
    }

    #[test]
    fn metrics_that_others_can_reach_are_for_named_clients() {
        let check = |text, line| {
            let given = parse("f.toml", text).unwrap().with_command_line(&load(line));
            given.unwrap().check()
        };
        let errors = |text, line| texts(&check(text, line).unwrap_err());
        assert_eq!(
            errors("metrics = \"0.0.0.0:9177\"", "--iface eth1"),
            [
                "f.toml:1:11: metrics at 0.0.0.0:9177 can be read by whoever reaches this address: name those who may with \
              `metrics-allow`, such as `metrics-allow 192.0.2.0/24`, or serve them at 127.0.0.1 or unix:PATH"
            ]
        );
        for line in [
            "--iface eth1 --metrics-allow 192.0.2.1",
            "--iface eth1 --metrics 127.0.0.1:9 --metrics-allow 192.0.2.1",
        ] {
            assert_eq!(
                errors("", line),
                [
                    "--metrics-allow: it is for `metrics` at an address other than loopback, and there is none: add `metrics \
                  ADDRESS:PORT`"
                ]
            );
        }
        assert_eq!(
            errors("", "--iface eth1 --metrics-routes 5"),
            ["--metrics-routes: it needs `metrics`, which says where to serve them"]
        );
        let text = "metrics = \"unix:/run/x\"\nmetrics-allow = [\"192.0.2.1\"]";
        let config = check(
            text,
            "--iface eth1 --metrics [::]:9177 --metrics-allow 10.0.0.0/8,fd00::/8",
        )
        .unwrap();
        let allowed: Vec<_> = config.metrics_allow.iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]);
        assert!(check("metrics = \"unix:/run/x\"\nmetrics-routes = 3", "--iface eth1").is_ok());
    }

    /// The parsed command line of these options.
    fn load(line: &str) -> clap::ArgMatches {
        let command = <Options as clap::Args>::augment_args(clap::Command::new("load").no_binary_name(true));
        command
            .mut_args(|arg| arg.required(false))
            .get_matches_from(line.split(' '))
    }

    #[test]
    fn an_error_names_the_option_or_the_place_in_the_file() {
        let file = parse(
            "f.toml",
            "iface = [\"eth1\"]\ntx-only = [\"eth2\"]\nchecksum = [\"eth9=trust\"]\n",
        )
        .unwrap();
        let line = load("--iface eth/1 --tx-only eth1 --mpls-off eth2 --kernel-route 10.0.0.0/8");
        let errors = file.with_command_line(&line).unwrap().check().unwrap_err();
        assert_eq!(
            texts(&errors),
            [
                "--iface: `eth/1` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces",
                "--tx-only: `eth1` is in `iface` and in `tx-only`; it can be in one of them",
                "--mpls-off: `mpls-off` names `eth2`, which is not in `iface`: add it there",
                "f.toml:3:13: `checksum` names `eth9`, which is not an interface that is loaded: add it to `iface` or `tx-only`",
                "--kernel-route: `kernel-route` leads into the interface of `local`, and there is none: add `local = true`",
            ]
        );
    }

    #[test]
    fn defaults() {
        let config = parse("f.toml", "iface = [\"eth1\"]").and_then(Given::check).unwrap();
        let default = Options {
            iface: vec!["eth1".into()],
            ..Options::default()
        };
        assert_eq!(config.options, default);
        assert_eq!(
            (config.labels.get(), config.counter_slots.get(), config.pipe_ttl()),
            (1_048_576, 65_536, 255)
        );
        assert_eq!(
            (
                config.icmp_rate.get(),
                config.icmp_source_rate.get(),
                config.hold.get(),
                config.punt_rate.get()
            ),
            (1000, 100, 64, 20_000)
        );
        assert_eq!([1000, 100, 20_000].map(config::burst), [50, 50, 1000]);
    }

    #[test]
    fn a_local_interface_has_the_usual_name_unless_it_is_given_one() {
        let local = |text: &str| parse("f.toml", text).unwrap().options.local;
        assert_eq!(local("local = true").as_deref(), Some("mpls0"));
        assert_eq!(local("local = \"own\"").as_deref(), Some("own"));
        assert_eq!(local("local = false"), None);
    }

    #[test]
    fn all_errors_are_reported_at_once_with_their_places() {
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
instance = "../up"
"#;
        assert_eq!(
            errors(text),
            [
                "f.toml:1:9: `iface`: invalid type: string \"eth1\", expected an array",
                "f.toml:2:10: `labels`: invalid value: integer `16`, expected a number, 17 to 1048576",
                "f.toml:3:10: `stacks`: invalid type: string \"many\", expected a number, 1 to 1048576",
                "f.toml:4:14: `tunnel-ttl`: invalid value: integer `256`, expected a number, 1 to 255",
                "f.toml:5:8: `mode`: unknown variant `fast`, expected `native` or `generic`",
                "f.toml:6:1: unknown key `mtu`; the keys are accept-labels, backup-hold, backups, checksum, counter-slots, dscp-map, fix-peers, groups, guard, hash-seed, hold, \
                 icmp-rate, icmp-source, icmp-source-rate, icmp-via, iface, instance, kernel-route, labels, local, \
                 log-exceptions, metrics, metrics-allow, metrics-routes, mode, mpls-mtu, mpls-off, netns, no-readopt, persist, prefer, punt-rate, routes-file, stacks, sync, sync-quiet, sync-stale, sync-table, tc-map, tc-propagate, \
                 ttl-propagate, tunnel-ttl, tx-only, unknown, verbose, wait, xconnect, routes",
                "f.toml:7:16: `tc-propagate`: invalid type: integer `1`, expected a boolean",
                "f.toml:8:9: `local`: expected a string, true or false",
                "f.toml:9:11: `unknown`: unknown variant `ignore`, expected one of `punt`, `drop`, `pass`",
                "f.toml:10:12: `icmp-via`: invalid type: boolean `true`, expected a string",
                "f.toml:11:16: `icmp-source`: invalid IP address syntax",
                "f.toml:11:31: `icmp-source`: invalid type: integer `5`, expected IP address",
                "f.toml:12:13: `icmp-rate`: invalid value: integer `-1`, expected a number, 0 to 1000000000",
                "f.toml:13:8: `hold`: invalid value: integer `1025`, expected a number, 0 to 1024",
                "f.toml:16:17: `routes`: `192.168.40.1022` is not an IPv4 address, such as 192.0.2.1: \
                 `101 as 111 via inet 192.168.40.1022`",
                "f.toml:17:5: `routes`: it must be an array of strings",
                // Readable values are checked against each other all the same.
                "f.toml:19:12: the instance name `../up` may contain only letters, digits, `_`, `-` and `.`, and may not start with `.`",
            ]
        );
    }

    #[test]
    fn an_error_of_toml_has_its_place() {
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
                    "f.toml:1:10: `{name}` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces"
                )]
            );
        }
        // It is created, not an existing interface.
        assert_eq!(
            errors("iface = [\"eth1\"]\nlocal = \"interface-of-15.100\""),
            [
                "f.toml:2:9: `interface-of-15.100` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces"
            ]
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
                "f.toml:1:18: `eth/2` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces",
                "f.toml:2:12: `eth1` is in `iface` and in `tx-only`; it can be in one of them",
                "f.toml:7:5: label 200 is beyond `labels`, which is 200",
                "f.toml:8:5: 100 already has a route, at f.toml:6:5",
                "f.toml:4:12: the instance name `../up` may contain only letters, digits, `_`, `-` and `.`, and may not start with `.`",
            ]
        );
        for (line, reason) in [
            (
                "local = \"eth1\"",
                "f.toml:2:9: `eth1` is named by `local`, which creates an interface, and by `iface` or `tx-only`, which need an \
                 existing one",
            ),
            (
                "local = \"sixteen-is-a-lot\"",
                "f.toml:2:9: `sixteen-is-a-lot` is not the name of an interface: 1 to 15 bytes without `/`, `:` and spaces",
            ),
            (
                "local = \"mpls%d\"",
                "f.toml:2:9: `mpls%d` is not the name of a new interface: it has a `%`",
            ),
            (
                "prefer = [\"kernel=5\", \"fpm=1\", \"kernel=6\"]",
                "f.toml:2:32: `prefer` gives kernel=5 and kernel=6; each owner has one preference",
            ),
            (
                "prefer = [\"bgp=5\"]",
                "f.toml:2:11: `prefer`: `bgp` is not an owner of routes: `static`, `fpm`, `kernel` or `frr`",
            ),
            (
                "icmp-source = [\"192.0.2.1\", \"192.0.2.1\", \"192.0.2.2\", \"2001:db8::1\"]",
                "f.toml:2:42: `icmp-source` is 192.0.2.1 and 192.0.2.2; it can be one address of each family",
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
                    "f.toml:2:16: `icmp-source` is {address}; it must be a routable unicast address of this machine, such as \
                     192.0.2.1 or 2001:db8::1"
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
            ["no interface: name at least one with `--iface IFACE`, or with `iface` in the config file"]
        );
    }

    /// The first example of docs/usage.md.
    #[test]
    fn the_example_in_the_documentation_has_every_option() {
        let page = include_str!("../../../docs/usage.md");
        let (_, example) = page.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let config = parse("usage.md", example).and_then(Given::check);
        assert!(config.is_ok(), "{config:?}");
        for name in Options::names() {
            assert!(
                example.contains(&format!("\n{name} =")) || example.starts_with(&name),
                "{name}"
            );
        }
    }

    #[test]
    fn the_examples_in_packages_are_right() {
        for text in [
            include_str!("../../../packaging/examples/p-router.toml"),
            include_str!("../../../packaging/examples/pe-router.toml"),
            include_str!("../../../packaging/examples/frr.toml"),
        ] {
            let config = parse("example.toml", text).and_then(Given::check);
            assert!(config.is_ok(), "{config:?}");
        }
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
