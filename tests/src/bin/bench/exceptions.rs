//! What exceptions cost: frames that come up through AF_XDP sockets.
//!
//! ```text
//! generator --redirect--> a0 ===veth=== a1 [switch, slow path] --> b0 ===veth=== b1 [sink: counts, drops]
//! ```
//!
//! Frames whose labels have no route come up on `a1` and are dropped, or sent back to `a0`. Or their TTL is 1, and they
//! are answered by ICMP Time Exceeded, each along the LSP of its label, limits off: what counts is what arrives at the
//! sink. The slow path is on the same CPU, and comes first as soon as there is a frame.

use std::io;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::Ebpf;
use aya::maps::PerCpuArray;
use aya::programs::XdpMode as AyaMode;
use mplsxdp::dataplane::Tables as _;
use mplsxdp::dataplane::XdpMode;
use mplsxdp::dataplane::kernel::{AtPort, KernelTables};
use mplsxdp::dataplane::loader::{Loader, Sizes};
use mplsxdp::dataplane::port::attach;
use mplsxdp::lfib::next_hops::NextHopChange;
use mplsxdp::lfib::{Lfib, Mode};
use mplsxdp::route::{Action, NextHop, OutLabels, Owner, Route, RouteKey, Via};
use mplsxdp::slowpath::xsk::{Receiver, TransmitError, Transmitter, XskPort};
use mplsxdp::slowpath::{self, Options, Rate, Received, SlowPath, World};
use mplsxdp_common::abi::{
    Adjacency, DEFAULT_BACKUPS, DEFAULT_COUNTER_SLOTS, DEFAULT_GROUPS, DEFAULT_STACKS, MAX_LABELS, PortWord, Settings,
    TtlMode, TtlPropagate,
};
use mplsxdp_common::wire::{Label, Mac};
use mplsxdp_tests::rig::OBJECT as RIG;
use mplsxdp_tests::wait::open_sockets;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::generator::{Draws, Family, Generator, Headers, Size, program};
use super::{median, sorted};

/// The labels that frames carry: this many, spread over the whole table.
const FLOWS: u32 = 4096;
const STEP: u32 = 255;
/// 64 bytes on the wire, with the checksum.
const FRAME_BYTES: usize = 60;

/// Frames that the slow path takes at a time.
const BUDGET: usize = 256;
const SETTINGS: Settings = Settings::new(0, TtlMode::Uniform, 255, false, false);

#[derive(clap::Args)]
pub struct Arguments {
    /// Rounds of each kind.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Frames of a round, in thousands.
    #[arg(long, default_value_t = 300)]
    kiloframes: u32,
    /// The CPU that does all of it.
    #[arg(long, default_value_t = 1)]
    cpu: usize,
}

/// What is done with an exception.
#[derive(Clone, Copy)]
enum Kind {
    Dropped,
    Sent,
    Answered,
}

const KINDS: [(&str, Kind); 3] = [
    ("taken from the ring and dropped", Kind::Dropped),
    ("sent back as they came", Kind::Sent),
    ("TTL 1, answered along the LSP, limits off", Kind::Answered),
];

pub fn run(arguments: &Arguments) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; this needs root")?;
    let mut cpus = CpuSet::new();
    cpus.set(arguments.cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("cannot run on CPU {}", arguments.cpu))?;

    let mut rig = Rig::new()?;
    println!("| exceptions | min | median | max |");
    println!("|---|--:|--:|--:|");
    for (name, kind) in KINDS {
        let mut rates = Vec::new();
        for round in 1..=arguments.rounds {
            let rate = rig.round(kind, arguments.kiloframes)?;
            eprintln!(
                "{name}: round {round} of {}: {rate:.2} million per second",
                arguments.rounds
            );
            rates.push(rate);
        }
        let rates = sorted(rates);
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} |",
            rates[0],
            median(&rates),
            rates[rates.len() - 1]
        );
    }
    println!(
        "\nMillion per second; {} rounds of {} thousand frames each; one CPU for generator, program, slow path and sink.",
        arguments.rounds, arguments.kiloframes
    );
    Ok(())
}

struct Rig {
    generator: Generator,
    /// Of labels with TTL 1.
    expiring: Generator,
    sink: Ebpf,
    loader: Loader,
    /// The tables that the switch forwards by.
    lfib: Lfib<KernelTables>,
    /// A switch without routes.
    unknowing: Loader,
    unknowing_tables: KernelTables,
    a1: Link,
}

#[derive(Clone, Copy)]
struct Link {
    ifindex: u32,
    mac: Mac,
}

impl Rig {
    fn new() -> Result<Self> {
        for (one, other) in [("a0", "a1"), ("b0", "b1")] {
            ip(&["link", "add", one, "type", "veth", "peer", "name", other])?;
            ip(&["link", "set", one, "up"])?;
            ip(&["link", "set", other, "up"])?;
        }
        let [a0, a1, b0, b1] = [link("a0")?, link("a1")?, link("b0")?, link("b1")?];

        let labels: Vec<u32> = (0..FLOWS)
            .map(|index| Label::FIRST_ORDINARY.get() + index * STEP)
            .collect();
        let labels = Draws::Labels(labels);
        let generator = |label_ttl| -> Result<Generator> {
            let headers = Headers {
                destination: a1.mac,
                source: a0.mac,
                tag: None,
                labels: &[0],
                label_ttl,
                family: Family::V4,
            };
            let mut generator = Generator::load(headers, &labels, Size::Bytes(FRAME_BYTES))?;
            generator.send_to(a0.ifindex)?;
            Ok(generator)
        };

        let mut sink = Ebpf::load(RIG)?;
        program(&mut sink, "sink")?.load()?;
        program(&mut sink, "sink")?.attach_to_if_index(b1.ifindex, AyaMode::Driver)?;

        let sizes = Sizes {
            labels: MAX_LABELS,
            stacks: DEFAULT_STACKS,
            groups: DEFAULT_GROUPS,
            backups: DEFAULT_BACKUPS,
            counter_slots: DEFAULT_COUNTER_SLOTS,
        };
        let loader = Loader::new(sizes)?;
        let mut tables = KernelTables::open(loader.pins(), 0)?;
        let port = PortWord::new(a1.mac, PortWord::MPLS | PortWord::IMPOSE);
        tables.store_port(0, port);
        tables.set_tx_port(1, b0.ifindex)?;
        let mut lfib = Lfib::new(tables);
        lfib.change(Mode::Add, Owner::STATIC, &full_table()?)?;
        for change in lfib.take_next_hop_changes() {
            if let NextHopChange::Added(id, _) = change {
                lfib.set_next_hop(id, Some(Adjacency::new(b1.mac, 1, b0.mac, 1500)));
            }
        }
        let unknowing = Loader::new(sizes)?;
        let mut unknowing_tables = KernelTables::open(unknowing.pins(), 0)?;
        unknowing_tables.store_port(0, port);
        Ok(Self {
            generator: generator(64)?,
            expiring: generator(1)?,
            sink,
            loader,
            lfib,
            unknowing,
            unknowing_tables,
            a1,
        })
    }

    /// Million exceptions per second.
    fn round(&mut self, kind: Kind, kiloframes: u32) -> Result<f64> {
        match kind {
            Kind::Dropped => self.exceptions(kiloframes, false),
            Kind::Sent => self.exceptions(kiloframes, true),
            Kind::Answered => self.answers(kiloframes),
        }
    }

    /// Million exceptions per second through the slow path's sockets, which drop the frames or send them back.
    fn exceptions(&mut self, kiloframes: u32, send: bool) -> Result<f64> {
        let switch = self.unknowing.program(SETTINGS)?;
        let attachment = attach(switch, self.a1.ifindex, XdpMode::Native)?;
        let tables = &mut self.unknowing_tables;
        let result = beside_slow_path(&mut self.generator, kiloframes, async |ready, done| {
            let port = open_sockets("a1", || XskPort::open("a1", 1))?;
            listen(tables, &port.receiver)?;
            ready.send(())?;
            slow_path(port.receiver, port.transmitter, done, |frame, transmitter| {
                if send { transmitter.transmit(frame) } else { Ok(()) }
            })
            .await
        });
        drop(attachment);
        let (frames, took) = result?;
        Ok(frames as f64 / took.as_secs_f64() / 1e6)
    }

    /// Million ICMP Time Exceeded per second, limits off, that arrive at the sink along the LSPs of the packets that
    /// expired.
    fn answers(&mut self, kiloframes: u32) -> Result<f64> {
        let switch = self.loader.program(SETTINGS)?;
        let attachment = attach(switch, self.a1.ifindex, XdpMode::Native)?;
        let before = self.sunk()?;
        let lfib = &mut self.lfib;
        let result = beside_slow_path(&mut self.expiring, kiloframes, async |ready, done| {
            let port = open_sockets("a1", || XskPort::open("a1", 1))?;
            let out = open_sockets("b0", || XskPort::open("b0", 1))?;
            listen(lfib.tables_mut(), &port.receiver)?;
            let world = OneBox(lfib.tables());
            let mut answering = SlowPath::new(Options {
                icmp_rate: Rate::UNLIMITED,
                icmp_source_rate: Rate::UNLIMITED,
                ..Options::default()
            });
            ready.send(())?;
            slow_path(port.receiver, out.transmitter, done, |frame, transmitter| {
                let received = Received {
                    port: 0,
                    frame,
                    trimmed: 0,
                };
                let mut result = Ok(());
                answering.receive(received, &world, Instant::now(), &mut |action| {
                    if let slowpath::Action::Transmit { frame, .. } = action {
                        result = transmitter.transmit(frame);
                    }
                    result.is_ok()
                });
                result
            })
            .await
        });
        drop(attachment);
        let (_, took) = result?;
        Ok((self.sunk()? - before) as f64 / took.as_secs_f64() / 1e6)
    }

    fn sunk(&self) -> Result<u64> {
        let counts: PerCpuArray<_, u64> = self.sink.map("SUNK").context("no map SUNK")?.try_into()?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }
}

/// What the answering slow path knows.
struct OneBox<'a>(&'a KernelTables);

impl World for OneBox<'_> {
    type View<'a>
        = AtPort<'a>
    where
        Self: 'a;

    fn tables_at(&self, _port: u16) -> AtPort<'_> {
        self.0.without_tags(SETTINGS)
    }

    fn source_address(&self, _port: u16, _remote: IpAddr) -> Option<IpAddr> {
        Some([192, 0, 2, 254].into())
    }

    fn is_broadcast(&self, _port: u16, _address: IpAddr) -> bool {
        false
    }

    fn has_specific_route(&self, _port: u16, _destination: IpAddr) -> bool {
        false
    }

    fn is_own_address(&self, _address: IpAddr) -> bool {
        false
    }

    fn is_own_prefix(&self, _port: u16, _prefix: ipnet::IpNet) -> bool {
        false
    }

    fn next_hop_address(&self, _adjacency: u16) -> Option<IpAddr> {
        None
    }

    fn time_since_epoch(&self) -> Duration {
        Duration::ZERO
    }
}

/// Generates frames while `slow_path` runs in a thread of its own, which returns how many it had and when the last
/// came. Returns how many that were, and how long they took.
fn beside_slow_path(
    generator: &mut Generator,
    kiloframes: u32,
    slow_path: impl AsyncFnOnce(mpsc::Sender<()>, &AtomicBool) -> Result<(usize, Instant)> + Send,
) -> Result<(usize, Duration)> {
    let (ready, is_ready) = mpsc::channel();
    let done = AtomicBool::new(false);
    let (start, result) = thread::scope(|scope| {
        let slow_path = scope.spawn(|| {
            prefer_this_thread()?;
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(slow_path(ready, &done))
        });
        // Where it fails before it is ready, its result says why.
        let _ = is_ready.recv();
        let start = Instant::now();
        let generated = generator.run(kiloframes * 1000);
        done.store(true, Ordering::Relaxed);
        let result = slow_path.join().map_err(|_| anyhow!("the slow path panicked"));
        (start, generated.and(result.flatten()))
    });
    let (frames, end) = result?;
    ensure!(frames > 0, "none of {kiloframes}000 frames came up");
    Ok((frames, end - start))
}

fn listen(tables: &mut KernelTables, receiver: &Receiver) -> Result<()> {
    for (queue, socket) in receiver.sockets() {
        tables.set_listener(0, queue, socket)?;
    }
    Ok(())
}

/// Hands to `each` what comes up, until nothing does. Returns how many frames that were, and when the last came.
async fn slow_path(
    mut receiver: Receiver,
    mut transmitter: Transmitter,
    done: &AtomicBool,
    mut each: impl FnMut(&[u8], &mut Transmitter) -> Result<(), TransmitError>,
) -> Result<(usize, Instant)> {
    let (mut frames, mut last) = (0, Instant::now());
    loop {
        match timeout(Duration::from_millis(100), receiver.readable()).await {
            Ok(readable) => readable?,
            Err(_) if done.load(Ordering::Relaxed) => return Ok((frames, last)),
            Err(_) => continue,
        }
        let mut result = Ok(());
        frames += receiver.receive(BUDGET, |frame| {
            if result.is_ok() {
                result = each(frame, &mut transmitter);
            }
        });
        result?;
        let unsent = transmitter.flush()?;
        ensure!(unsent == 0, "{unsent} frames did not go out");
        last = Instant::now();
    }
}

/// Has this thread run as soon as it can, whatever else its CPU does.
fn prefer_this_thread() -> Result<()> {
    // SAFETY: takes no pointers; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    ensure!(result == 0, "setpriority: {}", io::Error::last_os_error());
    Ok(())
}

/// Every label but the special ones has a route.
fn full_table() -> Result<Vec<Route>> {
    let next_hop = NextHop {
        via: Via::Link(Mac([2, 0, 0, 0, 0, 1])),
        dev: Some("b0".into()),
    };
    let routes = (Label::FIRST_ORDINARY.get()..MAX_LABELS).map(|value| {
        let label = Label::from_low_bits(value);
        let out = OutLabels::new(vec![Label::from_low_bits(MAX_LABELS + 15 - value)])?;
        Ok(Route::new(
            RouteKey::Label(label),
            Action::Swap(out),
            Some(next_hop.clone()),
            TtlPropagate::Default,
        )?)
    });
    routes.collect()
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// sysfs shows another namespace's interfaces; `ip` shows this one's.
fn link(name: &str) -> Result<Link> {
    let output = Command::new("ip")
        .args(["-o", "link", "show", "dev", name])
        .output()
        .context("cannot run ip")?;
    let line = String::from_utf8(output.stdout)?;
    let mut words = line.split_whitespace();
    let ifindex = words
        .next()
        .and_then(|word| word.strip_suffix(':'))
        .context("no ifindex")?
        .parse()?;
    let mac = words
        .skip_while(|word| *word != "link/ether")
        .nth(1)
        .context("no MAC address")?
        .parse()?;
    Ok(Link { ifindex, mac })
}
