//! What the control path takes: changes one by one and in batches beside traffic, large tables from a file, the start,
//! and memory.
//!
//! ```text
//! generator --redirect--> in0 ===veth=== in1 [switch] --redirect--> out0 ===veth=== out1 [sink: counts]
//! ```
//!
//! Large tables go through the command line, from the start of the command to its end. Single changes and batches go
//! through a connection that stays open.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::{Array, Map, PerCpuArray};
use aya::programs::XdpMode;
use mplsxdp::control::Instance;
use mplsxdp::control::api::Status;
use mplsxdp::control::client::Client;
use mplsxdp::route::line;
use mplsxdp::route::{Description, Route};
use mplsxdp_common::abi::{MAX_LABELS, map};
use mplsxdp_common::wire::Label;
use mplsxdp_tests::rig::OBJECT;
use mplsxdp_tests::router::program;
use mplsxdp_tests::{End, Lab, Netns, Router, link};

use super::failover::own_map;
use super::fpm::memory;
use super::generator::{self, Draws, Family, Generator, Headers, Size};
use super::rows::Keys;

/// The largest tables, as `docs/semantics.md` states them.
const LABELS: u32 = MAX_LABELS - FIRST;
const PREFIXES: u32 = 900_000;
const FIRST: u32 = Label::FIRST_ORDINARY.get();
/// Different next hops of the routes.
const NEXT_HOPS: u32 = 200;
/// Routes of a batch, and labels that the batches change over and over.
const BATCH: u32 = 1000;
const CHANGING: u32 = 100_000;
/// Frames that the generator sends at a time.
const BURST: u32 = 4096;
const START: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Arguments {
    /// Changes of one route each.
    #[arg(long, default_value_t = 20_000)]
    single: u32,
    /// How long routes are changed in batches, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds of each large table, and of each start.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let lab = Lab::new()?;
    let netns = lab.netns("bench")?;
    netns.within(|| {
        let rig = Rig::new(&netns)?;
        rig.changes(arguments)?;
        rig.large_tables(arguments.rounds)?;
        rig.starts(arguments.rounds)
    })
}

struct Rig<'a> {
    netns: &'a Netns,
    sink: Ebpf,
    /// Files of routes.
    directory: PathBuf,
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        // Nobody needs it.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl<'a> Rig<'a> {
    fn new(netns: &'a Netns) -> Result<Self> {
        for [outer, inner] in [["in0", "in1"], ["out0", "out1"]] {
            link(End::new(netns, outer), End::new(netns, inner))?;
        }
        let mut sink = Ebpf::load(OBJECT)?;
        let xdp = generator::program(&mut sink, "sink")?;
        xdp.load()?;
        xdp.attach("out1", XdpMode::Driver)?;
        let directory = std::env::temp_dir().join(netns.name());
        fs::create_dir_all(&directory)?;
        Ok(Self { netns, sink, directory })
    }

    fn load(&self, options: &str) -> Result<Switch> {
        let options = format!("--iface in1 --tx-only out0 --checksum trust {options}");
        let router = Router::load(self.netns, &options)?;
        let pid = router.json::<Status>("status")?.pid;
        Ok(Switch { router, pid })
    }

    /// Frames for the first labels.
    fn generator(&self, labels: u32) -> Result<Generator> {
        let (_, draws) = Keys::Labels(labels, 1).generate();
        self.generator_of(&draws)
    }

    fn generator_of(&self, draws: &Draws) -> Result<Generator> {
        let headers = Headers {
            destination: self.netns.mac("in1")?,
            source: self.netns.mac("in0")?,
            tag: None,
            labels: &[0],
            label_ttl: 64,
            family: Family::V4,
        };
        let mut generator = Generator::load(headers, draws, Size::Bytes(60))?;
        generator.send_to(nix::net::if_::if_nametoindex("in0")?)?;
        Ok(generator)
    }

    fn sunk(&self) -> Result<u64> {
        let counts: PerCpuArray<_, u64> = self.sink.map("SUNK").context("no map SUNK")?.try_into()?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }

    fn write(&self, name: &str, routes: impl Iterator<Item = String>) -> Result<PathBuf> {
        let path = self.directory.join(name);
        let mut text: String = routes.collect::<Vec<_>>().join("\n");
        text.push('\n');
        fs::write(&path, text)?;
        Ok(path)
    }

    fn changes(&self, arguments: &Arguments) -> Result<()> {
        let switch = self.load("")?;
        let mut client = switch.client()?;
        let routes =
            |version| (FIRST..FIRST + CHANGING.max(arguments.single)).map(move |label| parsed(&swap(label, version)));
        let routes: [Vec<Route>; 2] = [routes(0).collect::<Result<_>>()?, routes(1).collect::<Result<_>>()?];
        println!("| one route for each call | a second | median | 99th percentile | max |");
        println!("|---|--:|--:|--:|--:|");
        let single = arguments.single as usize;
        let ilm: Array<_, u64> = Map::from_map_data(own_map(switch.pid, map::ILM)?)?.try_into()?;
        let mut late = 0;
        each("added", &routes[0][..single], |index, route| {
            client.add_routes(std::slice::from_ref(route))?;
            late += u32::from(ilm.get(&(FIRST + index as u32), 0)? == 0);
            Ok(())
        })?;
        each("replaced", &routes[1][..single], |_, route| {
            client.replace_routes(std::slice::from_ref(route))?;
            Ok(())
        })?;
        let keys: Vec<Description> = routes[0][..single]
            .iter()
            .map(|route| Ok(line::deletion(&route.key().to_string(), line::Family::Any)?))
            .collect::<Result<_>>()?;
        each("deleted", &keys, |_, key| {
            client.delete_routes([key])?;
            Ok(())
        })?;
        println!("\nRoutes that the label table did not have when the switch answered: {late} of {single}.\n");

        println!("| batches of {BATCH} replaced routes | routes a second | frames a second | frames lost |");
        println!("|---|--:|--:|--:|");
        for batch in routes[0].chunks(BATCH as usize) {
            client.replace_routes(batch)?;
        }
        let time = Duration::from_secs(arguments.seconds);
        let mut batches = || -> Result<f64> {
            let (start, mut changed) = (Instant::now(), 0);
            for batch in routes
                .iter()
                .rev()
                .cycle()
                .flat_map(|routes| routes.chunks(BATCH as usize))
            {
                client.replace_routes(batch)?;
                changed += batch.len();
                if start.elapsed() >= time {
                    break;
                }
            }
            Ok(changed as f64 / start.elapsed().as_secs_f64())
        };
        println!("| no traffic | {:.0} | | |", batches()?);
        let mut generator = self.generator(CHANGING)?;
        let frames = self.beside_frames(&mut generator, || {
            thread::sleep(time);
            Ok(0.0)
        })?;
        println!("| no changes | | {:.0} | {} |", frames.rate, frames.lost);
        let frames = self.beside_frames(&mut generator, batches)?;
        println!(
            "| beside traffic for these labels | {:.0} | {:.0} | {} |\n",
            frames.result, frames.rate, frames.lost
        );
        switch.end()
    }

    /// Sends frames while `code` runs.
    fn beside_frames(&self, generator: &mut Generator, code: impl FnOnce() -> Result<f64>) -> Result<Frames> {
        let done = AtomicBool::new(false);
        let (before, start) = (self.sunk()?, Instant::now());
        let (result, sent) = thread::scope(|scope| {
            let sending = scope.spawn(|| -> Result<u64> {
                let mut sent = 0;
                while !done.load(Ordering::Relaxed) {
                    generator.run(BURST)?;
                    sent += u64::from(BURST);
                }
                Ok(sent)
            });
            let result = code();
            done.store(true, Ordering::Relaxed);
            let sent = sending.join().unwrap_or_else(|_| bail!("a panic"))?;
            result.map(|result| (result, sent))
        })?;
        let took = start.elapsed();
        // What is still in a ring is a batch at most.
        thread::sleep(Duration::from_millis(5));
        let arrived = self.sunk()? - before;
        Ok(Frames {
            result,
            rate: arrived as f64 / took.as_secs_f64(),
            lost: sent.saturating_sub(arrived),
        })
    }

    fn large_tables(&self, rounds: usize) -> Result<()> {
        let labels = || (FIRST..MAX_LABELS).map(|label| swap(label, 0));
        let (prefixes, _) = Keys::Table(Family::V4, PREFIXES).generate();
        let impose = (0..).zip(&prefixes);
        let impose = impose.map(|(index, prefix)| format!("{prefix} encap mpls {} {}", FIRST + index, next_hop(index)));
        let files = [
            (format!("{LABELS} label routes"), self.write("labels", labels())?),
            (format!("{PREFIXES} IPv4 prefixes"), self.write("prefixes", impose)?),
        ];
        let switch = self.load("")?;
        let mut memory = vec![("no route".to_owned(), switch.memory()?)];
        switch.end()?;
        println!("| | median | min to max | CPU time of the switch, median |");
        println!("|---|--:|--:|--:|");
        for (name, file) in &files {
            let switch = self.load("")?;
            let restore = || switch.command(&["route", "restore"], Some(file));
            let flush = || switch.command(&["route", "flush", "all"], None);
            Timings(vec![switch.time(restore)?]).print(&format!("restore of {name}, the first"));
            memory.push((name.clone(), switch.memory()?));
            let mut timings: [Timings; 4] = Default::default();
            for _ in 0..rounds {
                let [flushed, restored] = [switch.time(flush)?, switch.time(restore)?];
                let both = (flushed.0 + restored.0, flushed.1 + restored.1);
                let unchanged = switch.time(restore)?;
                for (timings, timing) in timings.iter_mut().zip([flushed, restored, both, unchanged]) {
                    timings.0.push(timing);
                }
            }
            let names = ["flush", "restore after it", "the two", "restore of the same routes"];
            for (name, timings) in names.into_iter().zip(&timings) {
                timings.print(name);
            }
            switch.end()?;
        }
        let switch = self.load(&format!("--counter-slots {MAX_LABELS}"))?;
        switch.command(&["route", "restore"], Some(&files[0].1))?;
        for (name, arguments) in [
            ("`stats`, a counter for each label", &["stats"] as &[&str]),
            ("`route show`", &["route", "show"]),
            ("`--stats route show`", &["--stats", "route", "show"]),
        ] {
            let timings = (0..rounds).map(|_| switch.time(|| switch.command(arguments, None)));
            Timings(timings.collect::<Result<_>>()?).print(name);
        }
        switch.end()?;
        println!("\n| memory, MiB | own | resident | resident, at most | tables in the kernel |");
        println!("|---|--:|--:|--:|--:|");
        for (
            name,
            Memory {
                own,
                resident,
                most,
                tables,
            },
        ) in memory
        {
            println!("| {name} | {own} | {resident} | {most} | {tables} |");
        }
        println!();
        Ok(())
    }

    /// From the start of the process to the first frame that arrives, with frames coming all the time.
    fn starts(&self, rounds: usize) -> Result<()> {
        println!("| start to the first forwarded frame | median | min to max |");
        println!("|---|--:|--:|");
        let mut generator = self.generator(1)?;
        for (routes, name) in [(1, "1 route"), (LABELS, "1,048,560 routes")] {
            let file = self.write("start", (FIRST..FIRST + routes).map(|label| swap(label, 0)))?;
            let options = format!("--routes-file {}", file.display());
            let mut times = Vec::new();
            for _ in 0..rounds {
                times.push((self.start(&mut generator, &options)?, 0.0));
            }
            let times = Timings(times);
            println!("| {name} | {} |", times.text(|&(wall, _)| wall));
        }
        Ok(())
    }

    fn start(&self, generator: &mut Generator, options: &str) -> Result<f64> {
        let before = self.sunk()?;
        thread::scope(|scope| {
            let start = Instant::now();
            let arriving = scope.spawn(move || -> Result<f64> {
                while self.sunk()? == before {
                    ensure!(start.elapsed() < START, "no frame arrives");
                    generator.run(64)?;
                    thread::sleep(Duration::from_micros(200));
                }
                Ok(start.elapsed().as_secs_f64())
            });
            let switch = self.load(options)?;
            let took = arriving.join().unwrap_or_else(|_| bail!("a panic"))?;
            switch.end()?;
            Ok(took)
        })
    }
}

/// What arrived while something was done.
struct Frames {
    result: f64,
    /// A second.
    rate: f64,
    lost: u64,
}

struct Switch {
    router: Router,
    pid: u32,
}

/// MiB.
struct Memory {
    own: u64,
    resident: u64,
    most: u64,
    tables: u64,
}

impl Switch {
    fn client(&self) -> Result<Client> {
        Ok(Client::connect(&Instance::new(self.router.instance())?)?)
    }

    fn command(&self, arguments: &[&str], input: Option<&PathBuf>) -> Result<()> {
        let mut command = Command::new(program()?);
        command.args(["--instance", self.router.instance()]).args(arguments);
        command.stdin(match input {
            Some(input) => File::open(input)?.into(),
            None => Stdio::null(),
        });
        let status = command.stdout(Stdio::null()).status()?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok(())
    }

    /// Ends the switch; the programs of the rig stay.
    fn end(self) -> Result<()> {
        self.router.run("unload").map(drop)
    }

    /// Seconds that it takes, and seconds of CPU time of the switch meanwhile.
    fn time(&self, code: impl FnOnce() -> Result<()>) -> Result<(f64, f64)> {
        let (cpu, start) = (self.cpu_time()?, Instant::now());
        code()?;
        let took = start.elapsed().as_secs_f64();
        Ok((took, self.cpu_time()? - cpu))
    }

    /// In seconds, of all its threads.
    fn cpu_time(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // utime and stime follow the name, which may have spaces, and eleven other fields: proc_pid_stat(5).
        let (_, fields) = stat.rsplit_once(')').context("an unknown stat")?;
        let ticks: Vec<u64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(ticks.iter().sum::<u64>() as f64 / a_second as f64)
    }

    fn memory(&self) -> Result<Memory> {
        let status: Status = self.router.json("status")?;
        Ok(Memory {
            own: memory(self.pid, "RssAnon")?,
            resident: memory(self.pid, "VmRSS")?,
            most: memory(self.pid, "VmHWM")?,
            tables: status.tables.iter().map(|table| table.memory_bytes).sum::<u64>() >> 20,
        })
    }
}

/// Pairs of what [`Switch::time`] returns.
#[derive(Default)]
struct Timings(Vec<(f64, f64)>);

impl Timings {
    /// Median, and the least and the most.
    fn text(&self, part: fn(&(f64, f64)) -> f64) -> String {
        let times = super::sorted(self.0.iter().map(part).collect());
        let (median, most) = (super::median(&times), times[times.len() - 1]);
        format!("{median:.2} s | {:.2} to {most:.2}", times[0])
    }

    fn print(&self, name: &str) {
        let cpu = super::sorted(self.0.iter().map(|&(_, cpu)| cpu).collect());
        println!(
            "| {name} | {} | {:.2} s |",
            self.text(|&(wall, _)| wall),
            super::median(&cpu)
        );
    }
}

/// Calls for one item after the other.
fn each<T>(name: &str, items: &[T], mut call: impl FnMut(usize, &T) -> Result<()>) -> Result<()> {
    let mut times = Vec::with_capacity(items.len());
    let start = Instant::now();
    for (index, item) in items.iter().enumerate() {
        let start = Instant::now();
        call(index, item)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let rate = items.len() as f64 / start.elapsed().as_secs_f64();
    let times = super::sorted(times);
    let percentile = |of_hundred: usize| times[(times.len() * of_hundred).div_ceil(100) - 1];
    let [median, late, most] = [50, 99, 100].map(percentile);
    println!("| {name} | {rate:.0} | {median:.0} µs | {late:.0} µs | {most:.0} µs |");
    Ok(())
}

fn next_hop(index: u32) -> String {
    format!("via link 02:00:00:00:00:{:02x} dev out0", 1 + index % NEXT_HOPS)
}

/// A route whose outgoing label and next hop are others in each version.
fn swap(label: u32, version: u32) -> String {
    let out = FIRST + (label + version) % LABELS;
    format!("{label} as {out} {}", next_hop(label + version))
}

fn parsed(text: &str) -> Result<Route> {
    Ok(line::route(text, line::Family::Any)?)
}
