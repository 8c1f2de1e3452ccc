//! A neighbour on one port sends what it likes, as fast as it can. The traffic between two other ports loses nothing, the
//! controller answers its clients, and memory, log and ICMP stay within their bounds. SECURITY.md lists these tests.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{NextHopState, Stats, Status};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_MPLS_UC, Mac};
use mplsxdp_tests::frame::{Entry, ethernet, labelled, udp};
use mplsxdp_tests::icmp::IcmpError;
use mplsxdp_tests::{End, Netns, Tap, link, wait};
use nix::errno::Errno;

use crate::bench::{Bench, NATIVE};
use crate::test;

const PATIENCE: Duration = Duration::from_secs(20);
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;
const BROADCAST: Mac = Mac([0xff; 6]);
/// What the attacker sends at least, and what it sends before memory is measured.
const ATTACK: u64 = 60_000;
const WARM_UP: u64 = 10_000;
/// Bounds of what an attack may leave behind: tables that have a fixed size, and buffers of the memory allocator.
const MEMORY_KIB: u64 = 16 << 10;
const LOG_LINES: usize = 400;
/// The label of the traffic from left to right, which the attacker does not hit.
const OTHERS: u32 = 777_777;

pub fn tests() -> Vec<Trial> {
    vec![
        test("hostile::random_and_crafted_frames", random),
        test("hostile::arp_and_nd_in_any_name", neighbours),
        test("hostile::expired_ttls_with_spoofed_sources", expired),
        test("hostile::router_alerts_for_a_socket_that_nobody_reads", alerts),
        test("hostile::fragments_that_are_never_complete", fragments),
        test("hostile::frames_for_next_hops_that_do_not_exist", held),
    ]
}

/// [`Bench`], whose traffic goes from left to right, and the attacker on a third port.
struct Siege {
    bench: Bench,
    attacker: Tap,
    /// The MAC address of the third port.
    port: Mac,
    netns: Netns,
}

impl Siege {
    fn new(options: &str) -> Result<Self> {
        let bench = Bench::new(&format!("{NATIVE} {options}"))?;
        bench.route("100 as 110")?;
        bench.route(&format!("{OTHERS} as 110"))?;
        let netns = bench.lab.netns("attacker")?;
        link(
            End::new(&netns, "eth0").mtu(2000),
            End::new(bench.router.netns(), "eth3")
                .address("10.0.3.1/24")
                .address("fd00:3::1/64")
                .mtu(2000),
        )?;
        bench.router.run("link add eth3")?;
        Ok(Self {
            attacker: Tap::open(&netns, "eth0")?,
            port: bench.router.netns().mac("eth3")?,
            netns,
            bench,
        })
    }

    /// A labelled frame as it arrives from the attacker.
    fn labelled(&self, stack: &[Entry], payload: &[u8]) -> Vec<u8> {
        labelled(self.port, self.attacker.mac(), stack, payload)
    }

    fn resident_kib(&self) -> Result<u64> {
        let pid = self.bench.router.json::<Status>("status")?.pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no VmRSS")?.parse()?)
    }

    /// Sends these frames again and again until [`ATTACK`] have been sent and the others' traffic is through. Each of its
    /// frames arrives, is the one that was sent, and is counted. Returns the ICMP errors that arrived on the right.
    fn run(&self, frames: &[Vec<u8>]) -> Result<u64> {
        /// Fewer than the queue of a veth has room for (256).
        const FRAMES: usize = 64;
        const ROUNDS: usize = 60;

        let before = self.bench.router.forwarded(&OTHERS.to_string())?;
        let lines = self.bench.router.said().lines().count();
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut errors = 0;
        let mut rounds = 0;
        let mut resident = None;
        thread::scope(|scope| {
            let attack = scope.spawn(|| -> Result<()> {
                for frame in frames.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    match self.attacker.send(frame) {
                        // Only some kernels report that a veth had no room.
                        Err(error) if error.downcast_ref() == Some(&Errno::ENOBUFS) => {}
                        result => {
                            result?;
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                Ok(())
            });
            let valid = (|| {
                while rounds < ROUNDS || sent.load(Ordering::Relaxed) < ATTACK {
                    ensure!(!attack.is_finished(), "the attack has ended");
                    let packet = |number: usize| {
                        let data = format!("number {number} of round {rounds}");
                        udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, data.as_bytes())
                    };
                    for number in 0..FRAMES {
                        let frame = self.bench.labelled(&[Entry::new(OTHERS, 64)], &packet(number)?);
                        self.bench.left.send(&frame)?;
                    }
                    for number in 0..FRAMES {
                        let expected = self.bench.out_labelled(&[Entry::new(110, 63)], &packet(number)?);
                        let what = format!("frame {number} of round {rounds}");
                        self.bench.right.receive(&what, |frame| {
                            errors += u64::from(IcmpError::read(frame).is_some());
                            frame == expected
                        })?;
                    }
                    rounds += 1;
                    if rounds % 20 == 0 {
                        // Clients are answered.
                        self.bench.router.run(&format!(
                            "route add {} as 110 via link {} dev eth2",
                            20_000 + rounds,
                            crate::bench::RIGHT
                        ))?;
                    }
                    if resident.is_none() && sent.load(Ordering::Relaxed) > WARM_UP {
                        resident = Some(self.resident_kib()?);
                    }
                }
                Ok(())
            })();
            stop.store(true, Ordering::Relaxed);
            let attacked = attack.join().map_err(|_| anyhow!("the attack panicked"))?;
            valid.and(attacked)
        })?;
        let forwarded = self.bench.router.forwarded(&OTHERS.to_string())? - before;
        ensure!(
            forwarded == (rounds * FRAMES) as u64,
            "{forwarded} of {} frames are counted",
            rounds * FRAMES
        );
        let (first, last) = (resident.context("it was not measured")?, self.resident_kib()?);
        ensure!(last < first + MEMORY_KIB, "it had {first} KiB, and now has {last} KiB");
        let said = self.bench.router.said();
        let lines = said.lines().count() - lines;
        ensure!(lines < LOG_LINES, "{lines} lines: {said}");
        Ok(errors)
    }

    /// The exceptions of the third port for this reason.
    fn exceptions(&self, reason: &str) -> Result<u64> {
        let stats: Stats = self.bench.router.json("stats")?;
        let mut counters = stats.reasons.iter();
        let found = counters.find(|counter| counter.port == "eth3" && counter.reason == reason);
        Ok(found.map_or(0, |counter| counter.packets))
    }

    /// Waits until the slow path has handled all that it got: frames that found its socket full are not among them.
    fn until_handled(&self, outcomes: [&str; 2]) -> Result<()> {
        let mut last = [0; 2];
        wait::until("the end of all exceptions", PATIENCE, || {
            thread::sleep(Duration::from_millis(200));
            let mut now = [0; 2];
            for (count, name) in now.iter_mut().zip(outcomes) {
                *count = self.bench.router.outcome(name)?;
            }
            Ok((std::mem::replace(&mut last, now) == now).then_some(()))
        })
    }
}

/// Numbers by xorshift64: the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Bytes at random, with the ethertypes that the program reads, and good frames with some bytes changed.
fn random() -> Result<()> {
    let siege = Siege::new("--local")?;
    siege
        .bench
        .router
        .run("route add 10.7.0.0/16 encap mpls 300 via inet 10.0.1.2")?;
    siege.bench.router.run("route add 101 dev lo")?;
    let mut random = Random(0x6d70_6c73);
    let types = [
        ETH_P_MPLS_UC,
        0x8848,
        ETH_P_IP,
        ETH_P_IPV6,
        ETH_P_ARP,
        0x8100,
        0x88a8,
        0,
    ];
    let mut frames = Vec::new();
    for _ in 0..2000 {
        let length = random.below(1400);
        let to = [siege.port, BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1])][random.below(3)];
        let bytes = random.bytes(length);
        frames.push(ethernet(
            to,
            siege.attacker.mac(),
            types[random.below(types.len())],
            &bytes,
        ));
    }
    for label in [0, 1, 2, 3, 7, 13, 14, 15, 101, 5000] {
        for ttl in [0, 1, 2, 64] {
            let packet = udp("192.0.2.1".parse()?, "10.7.0.1".parse()?, ttl, b"crafted")?;
            let good = siege.labelled(&[Entry::new(label, ttl), Entry::new(101, ttl)], &packet);
            for _ in 0..50 {
                let mut frame = good.clone();
                for _ in 0..random.below(4) {
                    // Behind the addresses.
                    let at = 12 + random.below(frame.len() - 12);
                    frame[at] = random.next() as u8;
                }
                frame.truncate(14 + random.below(frame.len() - 13));
                frames.push(frame);
            }
        }
    }
    siege.run(&frames)?;
    Ok(())
}

/// In the names of its own neighbours, of next hops of other ports and of the router.
fn neighbours() -> Result<()> {
    let siege = Siege::new("")?;
    let right = &siege.bench.right_netns;
    right.ip("address add 10.0.2.2/24 dev eth0")?;
    siege.bench.router.add_routes(&["200 as 210 via inet 10.0.2.2"])?;
    siege.bench.router.run("route add 201 as 211 via inet 10.0.3.77")?;
    let mut random = Random(0x6e64);
    let mut frames = Vec::new();
    for number in 0..4000_usize {
        let (high, low) = ((number >> 8) as u8, number as u8);
        let mac = Mac([2, 0, 0, 9, high, low]);
        let sender = match random.below(4) {
            0 => Ipv4Addr::new(10, 0, 3, low),
            1 => Ipv4Addr::new(10, 0, 2, 2),
            2 => Ipv4Addr::new(10, 0, 3, 1),
            _ => Ipv4Addr::from(random.next() as u32),
        };
        let operation = 1 + random.below(2) as u8;
        let target = if operation == 1 { [10, 0, 3, 1] } else { [10, 0, 3, low] };
        let arp = [
            &[0, 1, 8, 0, 6, 4, 0, operation][..],
            &mac.0,
            &sender.octets(),
            &siege.port.0,
            &target,
        ]
        .concat();
        let to = if random.below(2) == 0 { siege.port } else { BROADCAST };
        frames.push(ethernet(to, mac, ETH_P_ARP, &arp));
        let v6: std::net::Ipv6Addr = format!("fd00:3::{number:x}").parse()?;
        frames.push(ethernet(
            siege.port,
            mac,
            ETH_P_IPV6,
            &neighbour_advertisement(v6, "fd00:3::1".parse()?, mac),
        ));
    }
    siege.run(&frames)?;
    // The next hop behind another port is where it was.
    let next_hops: Vec<NextHopState> = siege.bench.router.json("neigh show")?;
    let other = next_hops.iter().find(|next_hop| &*next_hop.via.host == "10.0.2.2");
    let other = other.context("the next hop is gone")?;
    let expected = siege.bench.right.mac().to_string();
    ensure!(
        other.dev.as_deref() == Some("eth2") && other.lladdr.as_deref() == Some(&*expected),
        "{other:?}"
    );
    Ok(())
}

/// RFC 4861: an unsolicited advertisement that overrides.
fn neighbour_advertisement(target: std::net::Ipv6Addr, destination: std::net::Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    let pseudo = [
        &target.octets()[..],
        &destination.octets(),
        &[0, 0, 0, message.len() as u8, 0, 0, 0, 58],
        &message,
    ]
    .concat();
    let sum: u32 = pseudo
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    [&header[..], &target.octets(), &destination.octets(), &message].concat()
}

/// The answers go along the LSP to the right. There are no more of them than the limits allow, in total and for each
/// source, and each is counted.
fn expired() -> Result<()> {
    const TOTAL: f64 = 40.0;
    const BURST: f64 = 200.0;
    let siege = Siege::new("--icmp-rate 40 --icmp-source-rate 2")?;
    let mut frames = Vec::new();
    for number in 0..3000_u32 {
        let source = IpAddr::from(Ipv4Addr::from(0xc612_0000 + number % 1500));
        let packet = udp(source, "10.9.0.1".parse()?, 64, format!("expires {number}").as_bytes())?;
        frames.push(siege.labelled(&[Entry::new(100, 1)], &packet));
    }
    let start = Instant::now();
    let arrived = siege.run(&frames)?;
    siege.until_handled(["time-exceeded", "answer-limited"])?;
    let took = start.elapsed().as_secs_f64();
    let rest = siege.bench.right.drain()?;
    let arrived = arrived + rest.iter().filter(|frame| IcmpError::read(frame).is_some()).count() as u64;
    let answered = siege.bench.router.outcome("time-exceeded")?;
    ensure!(arrived == answered, "{arrived} answers arrived, {answered} are counted");
    ensure!(
        answered > 0 && answered as f64 <= BURST + took * TOTAL + 1.0,
        "{answered} answers in {took} s"
    );
    let elsewhere = [&siege.attacker, &siege.bench.left];
    for tap in elsewhere {
        let errors = tap
            .drain()?
            .iter()
            .filter(|frame| IcmpError::read(frame).is_some())
            .count();
        ensure!(errors == 0, "{errors} answers went to another port");
    }
    Ok(())
}

/// The kernel's receive buffer is full; the rest is dropped there.
fn alerts() -> Result<()> {
    let siege = Siege::new("")?;
    let address: IpAddr = "10.0.3.1".parse()?;
    let _socket = siege
        .bench
        .router
        .netns()
        .within(|| UdpSocket::bind((address, 5000)).context("cannot have a socket in the router"))?;
    siege.netns.ip("address add 10.0.3.9/24 dev eth0")?;
    let packet = udp("10.0.3.9".parse()?, address, 64, &[0x5a; 1000])?;
    let frames = [
        siege.labelled(&[Entry::new(1, 64), Entry::new(0, 64)], &packet),
        siege.labelled(&[Entry::new(1, 64), Entry::new(100, 64)], &packet),
    ];
    siege.run(&frames)?;
    let seen = siege.exceptions("router-alert")?;
    ensure!(seen > ATTACK / 2, "{seen} router alerts");
    Ok(())
}

/// First fragments of different packets, for this machine and to be forwarded.
fn fragments() -> Result<()> {
    let siege = Siege::new("")?;
    siege.bench.router.run("route add 101 dev lo")?;
    let mut frames = Vec::new();
    for number in 0..4000_u16 {
        let mut packet = udp("10.0.3.9".parse()?, "10.0.3.1".parse()?, 64, &[0x5a; 1000])?;
        packet[4..6].copy_from_slice(&number.to_be_bytes());
        // More fragments follow, at any offset.
        packet[6..8].copy_from_slice(&(0x2000 | ((number % 3) * 128)).to_be_bytes());
        packet[10..12].fill(0);
        let sum: u32 = packet[..20]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        let label = if number % 2 == 0 { 101 } else { 100 };
        frames.push(siege.labelled(&[Entry::new(label, 64)], &packet));
    }
    siege.run(&frames)?;
    Ok(())
}

/// All places for waiting frames are taken, over and over.
fn held() -> Result<()> {
    const NEXT_HOPS: u32 = 200;
    let siege = Siege::new("--hold 16")?;
    let mut frames = Vec::new();
    for number in 0..NEXT_HOPS {
        let label = 1000 + number;
        let route = format!("route add {label} as 2000 via inet 10.0.3.{}", 20 + number);
        siege.bench.router.run(&route)?;
        let packet = udp(
            "192.0.2.1".parse()?,
            "10.9.0.1".parse()?,
            64,
            format!("waits {number}").as_bytes(),
        )?;
        frames.push(siege.labelled(&[Entry::new(label, 64)], &packet));
    }
    siege.run(&frames)?;
    let full = siege.bench.router.outcome("hold-full")?;
    let waiting = siege.bench.router.outcome("held")?;
    ensure!(full > 0 && waiting > 0, "{waiting} frames waited, {full} had no place");
    Ok(())
}
