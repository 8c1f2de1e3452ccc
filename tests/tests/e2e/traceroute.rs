//! TTLs that expire on an LSP: the answers byte by byte, the ways that they take, and the packets that get none.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, LSE_LEN};
use mplsxdp_tests::frame::{Entry, Parsed, ethernet, udp, with_ttl};
use mplsxdp_tests::icmp::{IcmpError, TIME_EXCEEDED_V4, TIME_EXCEEDED_V6};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::three_routers::{HOST1, HOST1_V6, HOST2, HOST2_V6, ThreeRouters};
use mplsxdp_tests::{Lab, Tap, tcpdump, wait};

use crate::bench::{Bench, NATIVE};
use crate::{test, test_with};

/// The left tap: the router has a route there.
const NEAR: &str = "10.0.1.2";
const NEAR_V6: &str = "fd00:1::2";
/// The router has no route there.
const FAR: &str = "192.0.2.1";
const FAR_V6: &str = "2001:db8::1";
const PATIENCE: Duration = Duration::from_secs(5);
const TARGET: &str = "10.9.0.1";
const TARGET_V6: &str = "2001:db8:9::1";

pub fn tests() -> Vec<Trial> {
    let traceroute = Some(Need::Program("traceroute", "traceroute"));
    let mtr = Some(Need::Program("mtr", "mtr-tiny"));
    let tcpdump = Some(Need::Program("tcpdump", "tcpdump"));
    vec![
        test("traceroute::every_hop_of_an_lsp_answers_with_its_label", hops),
        test_with("traceroute::the_program_prints_the_labels", traceroute, program),
        test_with("traceroute::mtr_prints_the_labels", mtr, mtr_program),
        test_with("traceroute::tcpdump_reads_the_labels", tcpdump, tcpdump_program),
        test("traceroute::the_label_stack_is_told_as_it_was_received", stacks),
        test(
            "traceroute::answers_go_by_ip_where_the_way_is_known_else_along_the_lsp",
            auto,
        ),
        test("traceroute::answers_go_along_the_lsp_if_told_to", lsp),
        test("traceroute::answers_go_by_ip_if_told_to", ip),
        test("traceroute::answers_come_from_the_configured_address", source),
        test(
            "traceroute::a_configured_address_of_another_machine_is_reported",
            foreign_source,
        ),
        test("traceroute::a_ttl_that_runs_out_at_imposition_is_answered", imposition),
        test("traceroute::a_ttl_that_runs_out_at_the_egress_is_answered", egress),
        test("traceroute::what_must_get_no_answer_gets_none", unanswered),
    ]
}

fn hops() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::with_ip_edges(&lab, ["", "", ""])?;
    let tap = Tap::open(&net.host1, "eth0")?;
    let [r1, r2, r3] = &net.routers;
    let gateway = r1.netns().mac("eth1")?;
    // On their way out of r2 and r3: the answers of r2 follow the LSP to its end, those of r3 know the way back.
    let (after_r2, after_r3) = (Tap::open(&net.cable23, "a")?, Tap::open(&net.cable23, "b")?);
    for (source, destination, ethertype, kind, routers) in [
        (
            HOST1,
            HOST2,
            ETH_P_IP,
            TIME_EXCEEDED_V4,
            ["10.3.3.1", "192.168.30.102", "192.168.40.102"],
        ),
        (
            HOST1_V6,
            HOST2_V6,
            ETH_P_IPV6,
            TIME_EXCEEDED_V6,
            ["fd00:3::1", "fd00:30::102", "fd00:40::102"],
        ),
    ] {
        let (source, destination): (IpAddr, IpAddr) = (source.parse()?, destination.parse()?);
        // The label of the packet that expired; the TTL with which the answer arrives: r2's has been to r3 (64 on the
        // LSP, which ends there, then imposed, 62) and back through r2 (61), r1 (60) and its kernel (59).
        for (hop, (label, ttl)) in [(None, 64), (Some(100), 59), (Some(110), 61)].into_iter().enumerate() {
            let packet = udp(
                source,
                destination,
                hop as u8 + 1,
                format!("to hop {}", hop + 1).as_bytes(),
            )?;
            tap.send(&ethernet(gateway, tap.mac(), ethertype, &packet))?;
            let error = receive(&tap, source)?;
            ensure!(
                error.source == routers[hop].parse::<IpAddr>()? && error.kind == kind && error.ttl == ttl,
                "hop {}: {error:?}",
                hop + 1
            );
            let stack = Vec::from_iter(label.map(|label| Entry::new(label, 1)));
            ensure!(error.stack == stack, "hop {}: {error:?}", hop + 1);
            // As the hop received it: r1 has decremented the TTL, and after that the label's TTL counts.
            let received = with_ttl(&packet, if hop == 0 { 1 } else { hop as u8 })?;
            error
                .ensure_quotes(&received)
                .with_context(|| format!("hop {}", hop + 1))?;
        }
        let answers = |tap: &Tap, from: &str| -> Result<Vec<Vec<Entry>>> {
            let from: IpAddr = from.parse()?;
            let mut stacks = Vec::new();
            for frame in tap.drain()? {
                if let Some(error) = IcmpError::read(&frame)
                    && error?.source == from
                {
                    stacks.push(Parsed::new(&frame)?.stack);
                }
            }
            Ok(stacks)
        };
        // TC 6: internetwork control (RFC 1812 section 4.3.2.5).
        ensure!(
            answers(&after_r2, routers[1])? == [[Entry::new(110, 64).tc(6)]],
            "r2's answer"
        );
        let back = answers(&after_r3, routers[2])?;
        ensure!(back == [[Entry::new(200, 64).tc(6)]], "r3's answer: {back:?}");
    }
    for router in [r1, r2, r3] {
        let answered = router.outcome("time-exceeded")?;
        ensure!(answered == 2, "{} has answered {answered}", router.instance());
    }
    Ok(())
}

fn program() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::with_ip_edges(&lab, ["", "", ""])?;
    // However slow the machine: at most 20 s, and no estimate of the delay from earlier answers.
    const PATIENCE: &str = "-w 20,1000,1000";
    for (line, hops) in [
        (
            format!("traceroute {PATIENCE} -n -e {HOST2}"),
            ["10.3.3.1", "192.168.30.102", "192.168.40.102", HOST2],
        ),
        (
            format!("traceroute {PATIENCE} -6 -n -e {HOST2_V6}"),
            ["fd00:3::1", "fd00:30::102", "fd00:40::102", HOST2_V6],
        ),
    ] {
        let shown = net.host1.run(&line)?;
        ensure!(!shown.contains('*'), "a hop does not answer:\n{shown}");
        for size in SIZES {
            let shown = net.host1.run(&format!("{line} {size} -q 1 -f 2 -m 3"))?;
            for labels in ["<MPLS:L=100,E=0,S=1,T=1>", "<MPLS:L=110,E=0,S=1,T=1>"] {
                ensure!(shown.contains(labels), "{size} bytes, no {labels}:\n{shown}");
            }
        }
        for (hop, text) in [
            (1, hops[0].to_owned()),
            (2, format!("{} <MPLS:L=100,E=0,S=1,T=1>", hops[1])),
            (3, format!("{} <MPLS:L=110,E=0,S=1,T=1>", hops[2])),
            // The kernel of r3, after which host2 is the last.
            (5, hops[3].to_owned()),
        ] {
            let line = shown
                .lines()
                .find(|line| line.trim_start().starts_with(&format!("{hop} ")));
            ensure!(
                line.is_some_and(|line| line.contains(&text)),
                "hop {hop} is not {text}:\n{shown}"
            );
        }
    }
    Ok(())
}

/// Lengths of IP packets around the offset of the extension, and long ones.
const SIZES: [usize; 6] = [60, 128, 129, 200, 600, 1400];

/// Reports of mtr leave out the labels of a hop with a single address; its raw output has them.
fn mtr_program() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::with_ip_edges(&lab, ["", "", ""])?;
    let shown = net.host1.run(&format!("mtr -n --raw -c 3 -i 0.2 -G 0.5 -e {HOST2}"))?;
    // Hop, from 0; then label, TC, S bit and TTL.
    for line in [
        "h 0 10.3.3.1",
        "h 1 192.168.30.102",
        "m 1 100 0 1 1",
        "h 2 192.168.40.102",
        "m 2 110 0 1 1",
        "h 4 10.4.4.2",
    ] {
        ensure!(shown.lines().any(|shown| shown == line), "no `{line}`:\n{shown}");
    }
    // Every hop answers every time.
    for hop in 0..5 {
        let answers = shown.lines().filter(|line| line.starts_with(&format!("p {hop} ")));
        ensure!(answers.count() >= 3, "hop {hop} does not answer:\n{shown}");
    }
    let mut hops = shown
        .lines()
        .filter(|line| line.starts_with('m'))
        .map(|line| &line[..3]);
    ensure!(hops.all(|hop| hop == "m 1" || hop == "m 2"), "{shown}");
    for (size, host) in SIZES.into_iter().flat_map(|size| [(size, HOST2), (size, HOST2_V6)]) {
        let shown = net
            .host1
            .run(&format!("mtr -n --raw -c 1 -G 0.5 -f 2 -m 3 -s {size} -e {host}"))?;
        for line in ["m 1 100 0 1 1", "m 2 110 0 1 1"] {
            ensure!(
                shown.lines().any(|shown| shown == line),
                "{size} bytes, no `{line}`:\n{shown}"
            );
        }
    }
    Ok(())
}

/// The output of tcpdump for answers to packets of all sizes. It looks for labels in ICMP for IPv4 only.
fn tcpdump_program() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    for size in SIZES {
        let packet = packet(NEAR, 40, &vec![0x5a; size - 28])?;
        bench.left.send(&bench.labelled(&[Entry::new(100, 1).tc(3)], &packet))?;
        let answer = bench
            .left
            .receive("an answer", |frame| IcmpError::read(frame).is_some())?;
        let shown = tcpdump::print(&answer)?;
        for text in ["MPLS Stack Entry Object", "label 100, tc 3, [S], ttl 1"] {
            ensure!(shown.contains(text), "{size} bytes, no \"{text}\":\n{shown}");
        }
    }
    Ok(())
}

/// The next ICMP error to `destination` that arrives at a tap, checked.
fn receive(tap: &Tap, destination: IpAddr) -> Result<IcmpError> {
    receive_with_stack(tap, destination).map(|(error, _)| error)
}

/// The same, with the labels of its frame.
fn receive_with_stack(tap: &Tap, destination: IpAddr) -> Result<(IcmpError, Vec<Entry>)> {
    let to_it = |frame: &[u8]| {
        let parsed = Parsed::new(frame);
        let ip = parsed.and_then(|parsed| parsed.ip());
        IcmpError::read(frame).is_some() && ip.is_ok_and(|ip| ip.destination == destination)
    };
    let frame = tap.receive(&format!("an ICMP error to {destination}"), to_it)?;
    let error = IcmpError::read(&frame).context("no ICMP error")??;
    Ok((error, Parsed::new(&frame)?.stack))
}

/// UDP to the far right, both addresses of one family.
fn packet(source: &str, ttl: u8, data: &[u8]) -> Result<Vec<u8>> {
    let source: IpAddr = source.parse()?;
    let target = if source.is_ipv4() { TARGET } else { TARGET_V6 };
    udp(source, target.parse()?, ttl, data)
}

/// Sends a labelled packet from `source`; the answer must arrive at `at` under these labels.
pub fn expect_answer(bench: &Bench, at: &Tap, source: &str, stack: &[Entry], under: &[Entry]) -> Result<IcmpError> {
    let packet = packet(source, 40, b"expires")?;
    bench.left.send(&bench.labelled(stack, &packet))?;
    let what = || format!("{stack:?} from {source}");
    let (error, labels) = receive_with_stack(at, source.parse()?).with_context(what)?;
    ensure!(labels == under, "{}: answered under {labels:?}", what());
    let (kind, address) = match error.source {
        IpAddr::V4(_) => (TIME_EXCEEDED_V4, "10.0.1.1"),
        IpAddr::V6(_) => (TIME_EXCEEDED_V6, "fd00:1::1"),
    };
    ensure!(
        error.kind == kind && error.source == address.parse::<IpAddr>()? && error.ttl == 64 && error.stack == stack,
        "{}: {error:?}",
        what()
    );
    error.ensure_quotes(&packet).with_context(what)?;
    Ok(error)
}

fn stacks() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    bench.route("101 as 1001/1002/1003")?;
    let answered = |label| Entry::new(label, 64).tc(6);
    for source in [FAR, FAR_V6] {
        // One entry, TTL 0 and 1, every TC; then the deepest stacks.
        for (ttl, tc) in [(1, 0), (0, 7), (1, 5)] {
            expect_answer(
                &bench,
                &bench.right,
                source,
                &[Entry::new(100, ttl).tc(tc)],
                &[answered(110)],
            )?;
        }
        let beneath: Vec<_> = (0..7)
            .map(|index| Entry::new(2000 + index, 10 + index as u8).tc(3))
            .collect();
        let stack = [&[Entry::new(100, 1).tc(1)], &beneath[..]].concat();
        let mut under = vec![answered(110)];
        under.extend(beneath.iter().map(|entry| answered(entry.label)));
        expect_answer(&bench, &bench.right, source, &stack, &under)?;
        // Swapped and pushed: under all labels that the packet would have left with.
        let under = [1001, 1002, 1003].map(answered);
        expect_answer(&bench, &bench.right, source, &[Entry::new(101, 1)], &under)?;
    }
    // 128 bytes of the packet are quoted, whatever its length.
    for (source, headers) in [(FAR, 20 + 8), (FAR_V6, 40 + 8)] {
        let packet = packet(source, 40, &[0x5a; 1400])?;
        bench.left.send(&bench.labelled(&[Entry::new(100, 1)], &packet))?;
        let frame = bench
            .right
            .receive("an ICMP error", |frame| IcmpError::read(frame).is_some())?;
        let error = IcmpError::read(&frame).context("no ICMP error")??;
        error.ensure_quotes(&packet)?;
        let length = Parsed::new(&frame)?.payload.len();
        let extension = 4 + 4 + LSE_LEN;
        ensure!(length == headers + 128 + extension, "an answer of {length} bytes");
    }
    Ok(())
}

fn auto() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    bench.route("198.51.100.0/24 encap mpls 300")?;
    let lsp = Entry::new(110, 64).tc(6);
    for (near, far) in [(NEAR, FAR), (NEAR_V6, FAR_V6)] {
        // One label, and a route to the source.
        expect_answer(&bench, &bench.left, near, &[Entry::new(100, 1)], &[])?;
        // No route to it.
        expect_answer(&bench, &bench.right, far, &[Entry::new(100, 1)], &[lsp])?;
        // A stack deeper than one entry: its payload belongs to a network that this router need not know.
        let stack = [Entry::new(100, 1), Entry::new(7000, 9)];
        let under = [lsp, Entry::new(7000, 64).tc(6)];
        expect_answer(&bench, &bench.right, near, &stack, &under)?;
    }
    // An FTN entry is also a way: this router's own packet, with labels.
    let under = [Entry::new(300, 64).tc(6)];
    expect_answer(&bench, &bench.right, "198.51.100.7", &[Entry::new(100, 1)], &under)?;
    // A default route does not count.
    bench.router.netns().ip("route add default via 10.0.1.2")?;
    expect_answer(&bench, &bench.right, FAR, &[Entry::new(100, 1)], &[lsp])?;
    Ok(())
}

fn lsp() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --icmp-via lsp"))?;
    bench.route("100 as 110")?;
    bench.route("210")?;
    for near in [NEAR, NEAR_V6] {
        let under = [Entry::new(110, 64).tc(6)];
        expect_answer(&bench, &bench.right, near, &[Entry::new(100, 1)], &under)?;
        // If the next hop is unlabelled: without labels, to the next hop.
        expect_answer(&bench, &bench.right, near, &[Entry::new(210, 1)], &[])?;
    }
    Ok(())
}

fn ip() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --icmp-via ip"))?;
    bench.route("100 as 110")?;
    for near in [NEAR, NEAR_V6] {
        let stack = [Entry::new(100, 1), Entry::new(7000, 9)];
        expect_answer(&bench, &bench.left, near, &stack, &[])?;
    }
    Ok(())
}

fn source() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --icmp-source 10.0.2.1 --icmp-source fd00:2::1"))?;
    bench.route("100 as 110")?;
    for (near, address) in [(NEAR, "10.0.2.1"), (NEAR_V6, "fd00:2::1")] {
        bench
            .left
            .send(&bench.labelled(&[Entry::new(100, 1)], &packet(near, 40, b"expires")?))?;
        let error = receive(&bench.left, near.parse()?)?;
        ensure!(error.source == address.parse::<IpAddr>()?, "{error:?}");
    }
    Ok(())
}

/// An address that answers do not come back to.
fn foreign_source() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --icmp-source 10.0.2.1 --icmp-source 2001:db8:77::1"))?;
    bench.router.said_at_load()?;
    let warned = |address: &str| {
        let said = bench.router.said();
        let what = format!("--icmp-source {address} is not an address of this machine");
        let warning = said.lines().find(|line| line.contains("WARN") && line.contains(&what));
        warning.map(str::to_owned)
    };
    let warning = warned("2001:db8:77::1").context("no warning")?;
    for part in ["`ip address add 2001:db8:77::1 dev lo`", "fd00:1::1, fd00:2::1"] {
        ensure!(warning.contains(part), "no \"{part}\" in: {warning}");
    }
    ensure!(warned("10.0.2.1").is_none(), "{}", bench.router.said());
    bench.router.netns().ip("address del 10.0.2.1/24 dev eth2")?;
    wait::until("a warning", PATIENCE, || Ok(warned("10.0.2.1")))?;
    bench.router.unload()
}

fn imposition() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("10.9.0.0/16 encap mpls 300")?;
    bench.route("2001:db8:9::/48 encap mpls 300")?;
    for (near, ethertype, kind) in [
        (NEAR, ETH_P_IP, TIME_EXCEEDED_V4),
        (NEAR_V6, ETH_P_IPV6, TIME_EXCEEDED_V6),
    ] {
        let packet = packet(near, 1, b"expires at once")?;
        bench
            .left
            .send(&ethernet(bench.port1, bench.left.mac(), ethertype, &packet))?;
        let error = receive(&bench.left, near.parse()?)?;
        // It came without labels, so none are shown.
        ensure!(error.kind == kind && error.stack.is_empty(), "{error:?}");
        error.ensure_quotes(&packet)?;
    }
    Ok(())
}

fn egress() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("210")?;
    bench.router.run("route add 211 dev lo")?;
    for near in [NEAR, NEAR_V6] {
        for label in [210, 211, if near == NEAR { 0 } else { 2 }] {
            expect_answer(&bench, &bench.left, near, &[Entry::new(label, 1)], &[])?;
        }
    }
    Ok(())
}

fn unanswered() -> Result<()> {
    let bench = Bench::new(&format!("{NATIVE} --icmp-rate 0 --icmp-source-rate 0"))?;
    bench.route("100 as 110")?;
    let v4 = |source: &str, destination: &str| udp(source.parse()?, destination.parse()?, 40, b"no answer");
    let good = packet(FAR, 40, b"no answer")?;
    let good_v6 = packet(FAR_V6, 40, b"no answer")?;
    let changed = |packet: &[u8], changes: &[(usize, u8)]| {
        let mut packet = packet.to_vec();
        for &(offset, value) in changes {
            packet[offset] = value;
        }
        // Its checksum is right again.
        with_ttl(&packet, 40)
    };
    let icmp_error = changed(&good, &[(9, 1), (20, 3), (21, 1)])?;
    let icmp_v6_error = changed(&good_v6, &[(6, 58), (40, 1), (41, 3)])?;
    let frames: [(&str, Vec<u8>); 21] = [
        ("an ICMP error", icmp_error),
        ("an ICMP redirect", changed(&good, &[(9, 1), (20, 5)])?),
        ("ICMP of an unknown type", changed(&good, &[(9, 1), (20, 99)])?),
        ("to a multicast address", v4(FAR, "224.0.0.5")?),
        ("to broadcast", v4(FAR, "255.255.255.255")?),
        ("from nowhere", v4("0.0.0.0", TARGET)?),
        ("from broadcast", v4("255.255.255.255", TARGET)?),
        ("from a multicast address", v4("239.1.1.1", TARGET)?),
        ("from loopback", v4("127.0.0.1", TARGET)?),
        ("a later fragment", changed(&good, &[(6, 0x00), (7, 0x10)])?),
        (
            "a later fragment with more to come",
            changed(&good, &[(6, 0x20), (7, 0x01)])?,
        ),
        ("a wrong checksum", [&good[..10], &[!good[10]], &good[11..]].concat()),
        ("a header length of 16", [&[0x44], &good[1..]].concat()),
        ("more bytes than there are", changed(&good, &[(3, 200)])?),
        ("fewer bytes than the header", changed(&good, &[(2, 0), (3, 19)])?),
        ("half a header", good[..10].to_vec()),
        ("no IP", b"\x51 neither 4 nor 6, but of some length".to_vec()),
        ("nothing", Vec::new()),
        ("an ICMPv6 error", icmp_v6_error),
        (
            "IPv6 from nowhere",
            udp("::".parse()?, TARGET_V6.parse()?, 40, b"no answer")?,
        ),
        (
            "IPv6 to a multicast address",
            udp(FAR_V6.parse()?, "ff02::1".parse()?, 40, b"no answer")?,
        ),
    ];
    let before = bench.router.dropped("ttl-expired")?;
    let count = frames.len() as u64;
    for (what, packet) in &frames {
        bench.left.send(&bench.labelled(&[Entry::new(100, 1)], packet))?;
        // The next packet is answered, and none before it.
        let mark = self::packet(FAR, 40, what.as_bytes())?;
        bench.left.send(&bench.labelled(&[Entry::new(100, 1)], &mark))?;
        let mut answers = Vec::new();
        let is_mark =
            |frame: &[u8]| matches!(IcmpError::read(frame), Some(Ok(error)) if error.ensure_quotes(&mark).is_ok());
        bench
            .right
            .receive(&format!("the answer to what follows {what}"), |frame| {
                let last = is_mark(frame);
                if !last && IcmpError::read(frame).is_some() {
                    answers.push(frame.to_vec());
                }
                last
            })?;
        ensure!(answers.is_empty(), "{what} is answered: {answers:02x?}");
    }
    let expired = bench.router.dropped("ttl-expired")? - before;
    ensure!(expired == 2 * count, "{expired} expired, {} were sent", 2 * count);
    let answered = bench.router.outcome("time-exceeded")?;
    let not_due = bench.router.outcome("no-answer-due")? + bench.router.outcome("malformed")?;
    ensure!(
        (answered, not_due) == (count, count),
        "{answered} answered, {not_due} not, of {count} each"
    );
    // Packets that do get an answer: queries, and the first fragment.
    for (what, packet) in [
        ("an echo request", changed(&good, &[(9, 1), (20, 8), (21, 0)])?),
        (
            "an ICMPv6 echo request",
            changed(&good_v6, &[(6, 58), (40, 128), (41, 0)])?,
        ),
        ("a first fragment", changed(&good, &[(6, 0x20), (7, 0x00)])?),
        (
            "one that must not be fragmented",
            changed(&good, &[(6, 0x40), (7, 0x00)])?,
        ),
    ] {
        bench.left.send(&bench.labelled(&[Entry::new(100, 1)], &packet))?;
        let frame = bench.right.receive(what, |frame| IcmpError::read(frame).is_some())?;
        let error = IcmpError::read(&frame).context("no ICMP error")??;
        error.ensure_quotes(&packet).with_context(|| what.to_owned())?;
    }
    Ok(())
}
