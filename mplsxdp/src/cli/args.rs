//! The options of the command line. iproute2's long options with one dash are also accepted, and abbreviated as
//! iproute2 does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde_json::Value;

use super::monitor::{self, Timestamp};
use super::{config, link, lsp, route, sync, trace, web, xconnect};
use crate::config::Options;
use crate::route::{Source, line};

/// An MPLS label switch for Linux.
#[derive(Parser, Debug)]
#[command(
    name = "mplsxdp",
    version,
    infer_subcommands = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Commands and verbs can be shortened, and options can be written as for iproute2, such as \
                  `mplsxdp -f mpls r a 100 as 110 via inet 192.0.2.1`."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// The instance; several can run on one machine, each with its own name [default: default].
    #[arg(long, global = true, value_name = "NAME")]
    pub instance: Option<String>,
    /// The network namespace that `load` enters; other commands talk to the instance that runs there.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub netns: Option<String>,
    /// The family of routes; -M, -4 and -6 are short for mpls, inet and inet6.
    #[arg(short, long, global = true, overrides_with = "family")]
    pub family: Option<FamilyName>,
    /// Print JSON.
    #[arg(short, long, global = true, overrides_with = "json")]
    pub json: bool,
    /// Print JSON for people.
    #[arg(short, long, global = true, overrides_with = "pretty")]
    pub pretty: bool,
    /// Print counters.
    #[arg(short, long, visible_alias = "statistics", global = true, overrides_with = "stats")]
    pub stats: bool,
    /// Print each item on one line.
    #[arg(short, long, global = true, overrides_with = "oneline")]
    pub oneline: bool,
    /// Print only the most important fields, in columns; -br for short.
    #[arg(long, global = true, overrides_with = "brief")]
    pub brief: bool,
    /// With `monitor`: print the time of each event, on a line of its own.
    #[arg(short, long, global = true, overrides_with = "timestamp")]
    pub timestamp: bool,
    /// With `monitor`: print the time of each event, in a short form; -ts for short.
    #[arg(long, global = true, overrides_with = "tshort")]
    pub tshort: bool,
    /// Run the commands in a file, one per line; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub batch: Option<PathBuf>,
    /// With --batch: continue after a command that fails.
    #[arg(long)]
    pub force: bool,
    /// Print details: with `trace`, frames in hexadecimal.
    #[arg(short, long, global = true, overrides_with = "details")]
    pub details: bool,
    /// Options of iproute2 that change nothing here.
    #[arg(
        short = 'i',
        long = "iec",
        short_aliases = ['r', 'N'],
        aliases = ["human-readable", "resolve", "Numeric"],
        global = true,
        hide = true,
        overrides_with = "ignored"
    )]
    ignored: bool,
    /// For compatibility only: output is never coloured.
    #[arg(
        short,
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always",
        global = true,
        hide = true,
        overrides_with = "color"
    )]
    color: Option<ColorName>,
    /// iproute2's `-all`; only `stats` uses it.
    #[arg(
        short = 'a',
        long = "all-of-them",
        global = true,
        hide = true,
        overrides_with = "all_of_them"
    )]
    all_of_them: bool,
}

impl Global {
    /// How times are printed.
    pub fn timestamps(&self) -> Timestamp {
        match (self.tshort, self.timestamp) {
            (true, _) => Timestamp::Short,
            (false, true) => Timestamp::Long,
            (false, false) => Timestamp::None,
        }
    }
}

/// A number of seconds, such as `0.5`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interval(pub Duration);

impl FromStr for Interval {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().filter(|seconds| (0.01..=60.0).contains(seconds));
        seconds.map_or(Err("it is 0.01 to 60 seconds"), |seconds| {
            Ok(Self(Duration::from_secs_f64(seconds)))
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ColorName {
    Always,
    Auto,
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FamilyName {
    Mpls,
    Inet,
    Inet6,
}

impl From<FamilyName> for line::Family {
    fn from(name: FamilyName) -> Self {
        match name {
            FamilyName::Mpls => Self::Mpls,
            FamilyName::Inet => Self::Inet,
            FamilyName::Inet6 => Self::Inet6,
        }
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Load the switch and run it in the foreground.
    // So that a number below the allowed range is refused with the range.
    #[command(allow_negative_numbers = true)]
    Load(Box<LoadArgs>),
    /// Routes for labels and prefixes.
    #[command(after_help = route::HELP)]
    Route {
        /// A verb and its arguments, as below; the default is `show`.
        words: Vec<String>,
        /// With `restore`: accept an input without routes, which deletes all routes.
        #[arg(long)]
        allow_empty: bool,
        /// Whose routes to add, change, delete, flush, save and restore; the default is static. With `show`: list only
        /// these.
        #[arg(long, value_name = "static|fpm|kernel|frr")]
        owner: Option<Source>,
    },
    /// The ports: interfaces that the switch uses.
    #[command(alias = "l", after_help = link::HELP)]
    Link {
        /// A verb and its arguments, as below; the default is `show`.
        words: Vec<String>,
    },
    /// Ports whose frames all go to one other port, as by a cable.
    #[command(alias = "x", after_help = xconnect::HELP)]
    Xconnect {
        /// A verb and its arguments, as below; the default is `show`.
        words: Vec<String>,
    },
    /// Test an LSP with MPLS echo requests (RFC 8029).
    #[command(after_help = lsp::HELP)]
    Lsp(Box<lsp::LspArgs>),
    /// The next hops that routes use.
    #[command(visible_aliases = ["neighbour", "neighbor"], after_help = link::NEIGH_HELP)]
    Neigh {
        /// A verb and its arguments, as below; the default is `show`.
        words: Vec<String>,
    },
    /// How much was forwarded; what was not forwarded, and why.
    Stats {
        /// Also the reasons that have not been seen yet.
        #[arg(long)]
        all: bool,
        /// The labels that arrive and have no route, the most frequent first.
        #[arg(long, conflicts_with = "all")]
        unknown: bool,
    },
    /// What happens, as it happens: changes of routes, next hops and ports, exceptions, and rates.
    #[command(after_help = monitor::HELP)]
    Monitor {
        /// Kinds of events, as below.
        words: Vec<String>,
        /// With `rate`: the time between two rates, 0.1 to 3600 [default: 1].
        #[arg(long, value_name = "SECONDS")]
        interval: Option<f64>,
    },
    /// Write frames that are not forwarded, with their reasons, and some of those that are, to a file (pcapng).
    Capture(CaptureArgs),
    /// A page for browsers that shows an instance live; it can change nothing.
    Web {
        /// The address and port to serve it at. At an address other than loopback, everybody who reaches it can read.
        #[arg(long, value_name = "ADDRESS:PORT", default_value = web::LISTEN)]
        listen: SocketAddr,
    },
    /// What would happen to a frame, step by step, if it arrived at a port now. Nothing is sent, changed or counted.
    #[command(after_help = trace::help())]
    Trace {
        /// The frame: in words, as below; `hex` and its bytes, as tcpdump -xx and xxd print them; or `pcap` and a file. `-`
        /// is standard input.
        #[arg(required = true)]
        words: Vec<String>,
        /// The port where it arrives. It may be left out if there is only one.
        #[arg(long = "in", value_name = "IFACE")]
        port: Option<String>,
        /// With `pcap`: only this frame of the file, from 1.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        packet: Option<u64>,
    },
    /// The sources of routes that the instance follows.
    #[command(after_help = sync::HELP)]
    Sync {
        /// A verb, as below; the default is `show`.
        words: Vec<String>,
        /// With `check`: correct what differs.
        #[arg(long)]
        repair: bool,
    },
    /// The instance, its configuration and how full its tables are.
    Status,
    /// What the switch does now, on the whole terminal: rates of ports, of the busiest routes and of what is not
    /// forwarded, and the next hops. `?` shows the keys.
    Top {
        /// The time between two counts, 0.01 to 60 seconds.
        #[arg(long, value_name = "SECONDS", default_value = "1")]
        interval: Interval,
    },
    /// Keep what `load --confirm` loaded.
    Confirm,
    /// Start the program of an instance again, in the same process, from its file, which may be another version now. It must
    /// have been loaded with --persist: no frame is lost.
    Upgrade,
    /// Stop an instance, and wait until everything that it made is removed.
    Unload {
        /// Remove what an instance has left that does not run: programs that --persist keeps on ports, the local port,
        /// neighbours that the kernel keeps resolved, and saved routes and ports.
        #[arg(long)]
        force: bool,
    },
    /// The configuration of a running instance.
    #[command(after_help = config::HELP)]
    Config {
        /// `show`, which may be left out.
        words: Vec<String>,
    },
    /// All running instances.
    Instances,
    /// What keeps frames from passing: checks the machine, the interfaces and the instance, each with the command that
    /// helps. Exits with 1 if there is an error.
    Doctor(DoctorArgs),
    /// Write the manual pages and shell completions beneath a folder, laid out as beneath a prefix such as /usr.
    #[command(hide = true)]
    Generate { folder: PathBuf },
}

/// The arguments of `capture`.
#[derive(Args, Debug)]
pub struct CaptureArgs {
    /// The file; `-` is standard output, such as in `-w - | tshark -r -`.
    #[arg(short, long, value_name = "FILE")]
    pub write: PathBuf,
    /// Capture only frames with this reason; can be given several times. `none`: only forwarded ones.
    #[arg(long, value_name = "REASON")]
    pub reason: Vec<String>,
    /// Capture only frames that arrive at this port.
    #[arg(long, value_name = "IFACE")]
    pub iface: Option<String>,
    /// Capture only frames that arrive with this label on top.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..1 << 20))]
    pub label: Option<u32>,
    /// Capture also one in N of the frames that are forwarded, as they arrive and as they leave.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: Option<u32>,
    /// End after so many frames.
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// The arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// The interface to check; can be given several times. Default: the ports of the instance, or all interfaces if it
    /// does not run.
    #[arg(long, value_name = "IFACE")]
    pub iface: Vec<String>,
    /// How long to count lost frames.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Show and run the commands that help, also in the network namespaces of veth peers, and check again.
    #[arg(long)]
    pub fix: bool,
}

/// The arguments of `load`: [`Options`], which override those of the config file, and these.
#[derive(Debug)]
pub struct LoadArgs {
    pub own: LoadOwn,
    /// The options given on the command line.
    pub options: ArgMatches,
}

/// Options that only the command line has.
#[derive(Args, Debug)]
pub struct LoadOwn {
    /// Read the options that the command line does not give from this TOML file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check everything that can be checked without changing anything, report all errors, and load nothing.
    #[arg(long, visible_alias = "dry-run")]
    pub check: bool,
    /// With --persist: forget the routes and ports that an earlier process has saved.
    #[arg(long)]
    pub discard_state: bool,
    /// Unload after this time, unless `mplsxdp confirm` comes before: for a machine that is reached over its ports.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub confirm: Option<u32>,
}

impl Args for LoadArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let defaults = Options::default().values();
        let command = Options::augment_args(command).mut_args(|arg| with_default(arg.required(false), &defaults));
        LoadOwn::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LoadArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            own: LoadOwn::from_arg_matches(matches)?,
            options: matches.clone(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Adds the default of an option to the end of its help, if it has one worth mentioning.
fn with_default(arg: clap::Arg, defaults: &BTreeMap<String, Value>) -> clap::Arg {
    let default = match (defaults.get(&arg.get_id().as_str().replace('_', "-")), arg.get_action()) {
        (Some(Value::String(word)), _) => word.clone(),
        (Some(Value::Number(number)), ArgAction::Set) => number.to_string(),
        _ => return arg,
    };
    match arg.get_help() {
        Some(help) => {
            let help = format!("{help} [default: {default}]");
            arg.help(help)
        }
        None => arg,
    }
}

/// iproute2's long options in the order in which its abbreviations are resolved.
const LONG: &[&str] = &[
    "family",
    "human-readable",
    "iec",
    "stats",
    "statistics",
    "details",
    "resolve",
    "oneline",
    "timestamp",
    "tshort",
    "force",
    "batch",
    "brief",
    "json",
    "pretty",
    "color",
    "help",
    "netns",
    "Numeric",
    "version",
];

/// Reads a command line, which begins with the name of the command. The word `help` is `--help`.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Cli, clap::Error> {
    let mut args: Vec<String> = long_forms(args).collect();
    let mut cli = match Cli::try_parse_from(&args) {
        Err(error) if is_about_help(&error) => {
            if let Some(word) = args.iter_mut().rfind(|word| *word == "help") {
                *word = "--help".into();
            }
            return Cli::try_parse_from(args);
        }
        parsed => parsed?,
    };
    let asks = match &cli.command {
        Some(Command::Route { words, .. }) => Some(("route", words)),
        Some(Command::Link { words }) => Some(("link", words)),
        Some(Command::Xconnect { words }) => Some(("xconnect", words)),
        Some(Command::Neigh { words }) => Some(("neigh", words)),
        Some(Command::Config { words }) => Some(("config", words)),
        Some(Command::Monitor { words, .. }) => Some(("monitor", words)),
        Some(Command::Trace { words, .. }) => Some(("trace", words)),
        _ => None,
    };
    if let Some((command, words)) = asks
        && ends_with_help(words)
    {
        return Cli::try_parse_from(["mplsxdp", command, "--help"]);
    }
    if let Some(Command::Stats { all, .. }) = &mut cli.command {
        *all |= cli.global.all_of_them;
    }
    Ok(cli)
}

/// Whether the last word is `help`, and not the name of an interface.
fn ends_with_help(words: &[String]) -> bool {
    match words {
        [.., before, last] => last == "help" && !matches!(before.as_str(), "dev" | "oif"),
        [only] => only == "help",
        [] => false,
    }
}

/// Whether the error is about a `help` that is not expected.
fn is_about_help(error: &clap::Error) -> bool {
    [ContextKind::InvalidArg, ContextKind::InvalidSubcommand]
        .into_iter()
        .any(|kind| matches!(error.get(kind), Some(ContextValue::String(word)) if word == "help"))
}

/// Rewrites iproute2's options in clap's form.
fn long_forms(args: impl IntoIterator<Item = String>) -> impl Iterator<Item = String> {
    args.into_iter().map(|arg| match arg.as_str() {
        "-M" => "--family=mpls".into(),
        "-4" => "--family=inet".into(),
        "-6" => "--family=inet6".into(),
        "-Version" => "--version".into(),
        "-al" | "-all" => "-a".into(),
        _ => long_form(&arg).unwrap_or(arg),
    })
}

/// `None`: not an option of iproute2 with more than a letter after one dash. Only `-color` has a value, such as in
/// `-c=auto`.
fn long_form(arg: &str) -> Option<String> {
    let option = arg.strip_prefix('-')?;
    let (name, value) = match option.split_once('=') {
        Some((name, value)) if !name.is_empty() && "color".starts_with(name) => (name, format!("={value}")),
        _ => (option, String::new()),
    };
    if name.starts_with('-') || option.len() < 2 {
        return None;
    }
    let long = LONG.iter().find(|long| long.starts_with(name))?;
    Some(format!("--{long}{value}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;
    use crate::config::{Given, Number, TtlPropagation, UnknownPolicy};
    use crate::dataplane::XdpMode;
    use crate::slowpath::IcmpVia;

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        let words = std::iter::once("mplsxdp")
            .chain(line.split_whitespace())
            .map(str::to_owned);
        super::parse(words).map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_iproute2() {
        for line in [
            "-f mpls route add 100 as 110 via inet 192.168.40.102",
            "-family mpls r add 100 as 110 via inet 192.168.40.102",
            "-M ro add 100 as 110 via inet 192.168.40.102",
            "-6 -M route add 100 as 110 via inet 192.168.40.102",
            "route add 100 as 110 via inet 192.168.40.102 -M",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.global.family, Some(FamilyName::Mpls), "{line}");
            let Some(Command::Route { words, .. }) = cli.command else {
                panic!("{line}")
            };
            assert_eq!(words.join(" "), "add 100 as 110 via inet 192.168.40.102");
        }
        for line in [
            "-j -p -s -o -br l",
            "-json -pretty -stats -oneline -brief link",
            "-js -pr --statistics -o link -br",
        ] {
            let Cli { global, command } = parse(line).unwrap();
            let flags = [global.json, global.pretty, global.oneline, global.brief];
            assert!(matches!(command, Some(Command::Link { .. })), "{line}");
            // iproute2 reads -js as the beginning of -json.
            assert_eq!((flags, global.stats), ([true; 4], true), "{line}");
        }
        let global = parse("-n r1 -force -batch file").unwrap().global;
        assert_eq!((global.netns.as_deref(), global.force), (Some("r1"), true));
        assert_eq!(global.batch, Some("file".into()));
        assert!(parse("-s -s -j -j status").is_ok());
        assert_eq!(parse("-f bridge route").unwrap_err(), ErrorKind::InvalidValue);
    }

    /// An alias such as `mplsxdp -c` works, and a line that was written for `ip`.
    #[test]
    fn options_of_iproute2_that_change_nothing() {
        let plain = format!("{:?}", parse("link show").unwrap().command);
        for option in [
            "-d",
            "-de",
            "-details",
            "--details",
            "-t",
            "-ti",
            "-timestamp",
            "--timestamp",
            "-ts",
            "-tshort",
            "--tshort",
            "-i",
            "-iec",
            "--iec",
            "-r",
            "-res",
            "-resolve",
            "--resolve",
            "-N",
            "-Num",
            "-Numeric",
            "--Numeric",
            "-a",
            "-al",
            "-all",
            "-hu",
            "-human",
            "-human-readable",
            "--human-readable",
            "-c",
            "-col",
            "-color",
            "--color",
            "-c=auto",
            "-c=always",
            "-c=never",
            "-co=auto",
            "-color=auto",
            "-color=always",
            "-color=never",
            "--color=auto",
            "-d -d",
            "-c -color=never",
            "-dt",
        ] {
            let line = format!("{option} link show");
            let cli = parse(&line).unwrap();
            assert_eq!(format!("{:?}", cli.command), plain, "{line}");
            assert_eq!(
                (cli.global.json, cli.global.family, cli.global.netns),
                (false, None, None)
            );
            assert!(parse(&format!("link show {option}")).is_ok(), "{option}");
        }
        let global = parse("-c -d -ts -j -br -s -n r1 route").unwrap().global;
        assert_eq!(
            (global.json, global.brief, global.stats, global.netns.as_deref()),
            (true, true, true, Some("r1"))
        );
        for wrong in [
            "-c=blue link",
            "-c= link",
            "-color=auto=never link",
            "-d=1 link",
            "-detailed link",
            "-x link",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for line in ["stats -a", "-all stats", "stats --all"] {
            assert!(
                matches!(parse(line).unwrap().command, Some(Command::Stats { all: true, .. })),
                "{line}"
            );
        }
    }

    #[test]
    fn the_word_help_is_the_option() {
        let help = |line: &str| {
            let error = super::parse(
                ["mplsxdp"]
                    .into_iter()
                    .chain(line.split_whitespace())
                    .map(str::to_owned),
            );
            let error = error.err().unwrap_or_else(|| panic!("{line} is taken"));
            assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{line}");
            error.to_string()
        };
        for (lines, option) in [
            (
                &["help", "-j help", "-n r1 help", "help route", "--instance help help"][..],
                "--help",
            ),
            (
                &[
                    "route help",
                    "r help",
                    "-M route help",
                    "route add help",
                    "route a help",
                    "route save help",
                    "route restore help",
                    "route add 100 as 110 via inet 192.0.2.1 help",
                    "route help -j",
                ],
                "route --help",
            ),
            (
                &[
                    "link help",
                    "l help",
                    "link add help",
                    "link set eth1 mpls help",
                    "link show help",
                ],
                "link --help",
            ),
            (
                &["neigh help", "neighbour show help", "n show dev eth1 help"],
                "neigh --help",
            ),
            (&["stats help", "-j stats --all help"], "stats --help"),
            (&["status help"], "status --help"),
            (&["config help", "config show help"], "config --help"),
            (&["instances help"], "instances --help"),
            (&["unload help"], "unload --help"),
            (
                &[
                    "load help",
                    "load --iface eth1 help",
                    "load --wait help",
                    "load --iface help help",
                ],
                "load --help",
            ),
        ] {
            for line in lines {
                assert_eq!(help(line), help(option), "{line}");
            }
        }
        // A name may be any word.
        for line in [
            "load --iface help",
            "link add dev help",
            "route add 100 as 110 via inet 192.0.2.1 dev help",
            "neigh show dev help",
            "-n help status",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn commands_are_shortened_where_that_is_clear() {
        assert!(matches!(parse("n").unwrap().command, Some(Command::Neigh { .. })));
        assert!(matches!(
            parse("neighbour show").unwrap().command,
            Some(Command::Neigh { .. })
        ));
        assert!(matches!(parse("statu").unwrap().command, Some(Command::Status)));
        assert_eq!(parse("sta").unwrap_err(), ErrorKind::InvalidSubcommand);
    }

    #[test]
    fn the_help_of_load_has_the_defaults() {
        let help = super::parse(["mplsxdp", "load", "--help"].map(str::to_owned))
            .expect_err("help")
            .to_string();
        for part in [
            "17 to 1048576 [default: 1048576]",
            "[default: uniform; with --sync: linux",
            "0: no limit [default: 20000]",
            "[default: native]",
        ] {
            assert!(help.contains(part), "{part}: {help}");
        }
        assert_eq!(help.matches("[default: 0]").count(), 0, "{help}");
    }

    #[test]
    fn what_load_takes() {
        let line = "load --iface eth1 --iface eth2 --tx-only eth3 --instance pe1 -n r1 --mode generic --labels 4096 \
                    --counter-slots 1 --stacks 5 --groups 6 --backups 7 --backup-hold 500ms --hash-seed 0 --ttl-propagate linux --tunnel-ttl 9 --tc-propagate --log-exceptions=false --wait --persist --guard --no-readopt --fix-peers \
                    --local --unknown pass --icmp-via lsp --icmp-source 192.0.2.1 --icmp-source 2001:db8::1 \
                    --icmp-rate 0 --icmp-source-rate 7 --prefer kernel=5 --prefer fpm=255 --hold 1024 --punt-rate 1000000000 --metrics 127.0.0.1:9177 --metrics-routes 100000 --config f.toml -vv";
        let cli = parse(line).unwrap();
        let Some(Command::Load(args)) = cli.command else {
            panic!("not load")
        };
        let LoadArgs { own, options } = *args;
        assert_eq!(own.config, Some("f.toml".into()));
        let given = Given::default().with_command_line(&options).unwrap().options;
        assert_eq!(
            given,
            Options {
                iface: vec!["eth1".into(), "eth2".into()],
                tx_only: vec!["eth3".into()],
                wait: true,
                persist: true,
                guard: true,
                no_readopt: true,
                fix_peers: true,
                mode: XdpMode::Generic,
                labels: Number::new(4096).unwrap(),
                counter_slots: Number::new(1).unwrap(),
                stacks: Number::new(5).unwrap(),
                groups: Number::new(6).unwrap(),
                backups: Number::new(7).unwrap(),
                backup_hold: Some("500ms".parse().unwrap()),
                hash_seed: Number::new(0),
                ttl_propagate: Some(TtlPropagation::Linux),
                tunnel_ttl: Number::new(9),
                tc_propagate: true,
                local: Some("mpls0".into()),
                unknown: UnknownPolicy::Pass,
                icmp_via: IcmpVia::Lsp,
                icmp_source: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                icmp_rate: Number::new(0).unwrap(),
                icmp_source_rate: Number::new(7).unwrap(),
                hold: Number::new(1024).unwrap(),
                punt_rate: Number::new(1_000_000_000).unwrap(),
                log_exceptions: false,
                prefer: ["kernel=5", "fpm=255"].map(|text| text.parse().unwrap()).into(),
                metrics: Some("127.0.0.1:9177".parse().unwrap()),
                metrics_routes: Number::new(100_000),
                verbose: 2,
                ..Options::default()
            }
        );
        assert_eq!(
            (cli.global.instance.as_deref(), cli.global.netns.as_deref()),
            (Some("pe1"), Some("r1"))
        );
        for (wrong, kind) in [
            ("load --labels 16", ErrorKind::ValueValidation),
            ("load --labels 1048577", ErrorKind::ValueValidation),
            ("load --tunnel-ttl 0", ErrorKind::ValueValidation),
            ("load --counter-slots 0", ErrorKind::ValueValidation),
            ("load --mode fast", ErrorKind::InvalidValue),
            ("load --unknown ignore", ErrorKind::InvalidValue),
            ("load --icmp-via ether", ErrorKind::InvalidValue),
            ("load --icmp-source host1", ErrorKind::ValueValidation),
            ("load --icmp-rate 1000000001", ErrorKind::ValueValidation),
            ("load --icmp-source-rate -1", ErrorKind::ValueValidation),
            ("load --hold 1025", ErrorKind::ValueValidation),
            ("load --hold -1", ErrorKind::ValueValidation),
            ("load --tunnel-ttl -64", ErrorKind::ValueValidation),
            ("load --punt-rate many", ErrorKind::ValueValidation),
            ("load --prefer bgp=1", ErrorKind::ValueValidation),
            ("load --prefer fpm=256", ErrorKind::ValueValidation),
            ("load --prefer fpm", ErrorKind::ValueValidation),
            ("load --metrics 9177", ErrorKind::ValueValidation),
            ("load --metrics-allow host1", ErrorKind::ValueValidation),
            ("load --metrics-routes 100001", ErrorKind::ValueValidation),
            ("load --local one two", ErrorKind::UnknownArgument),
            ("load eth1", ErrorKind::UnknownArgument),
            ("stats --unknown --all", ErrorKind::ArgumentConflict),
        ] {
            assert_eq!(parse(wrong).unwrap_err(), kind, "{wrong}");
        }
    }
}
