//! Pseudowires: every frame goes into one and comes out, byte by byte; and other programs than mplsxdp read and write what is
//! on the wire between.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_common::wire::{ETH_P_8021AD as AD, ETH_P_8021Q as Q, ETH_P_IP, Mac};
use mplsxdp_tests::bystanders;
use mplsxdp_tests::frame::{Entry, ethernet, labelled, tagged};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::three_routers::transfer;
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};

use crate::bench::{Bench, NATIVE, RIGHT, v4, v6};
use crate::{test, test_with};

const PATIENCE: Duration = Duration::from_secs(5);
const LOCAL_EXPERIMENTAL: u16 = 0x88b5;
/// A control word of a frame without sequence number.
const WORD: [u8; 4] = [0; 4];
/// The label at the other end, and the one of the LSP there.
const REMOTE: u32 = 901;
const TUNNEL: u32 = 801;
/// The label of the pseudowire at the router.
const LOCAL: u32 = 900;

pub fn tests() -> Vec<Trial> {
    let scapy = Some(Need::Program("scapy", "python3-scapy"));
    let tshark = Some(Need::Program("tshark", "tshark"));
    let redirect = Some(Need::Kernel(6, 3, "redirects of frames in several buffers"));
    vec![
        test("pseudowire::every_frame_enters_and_leaves", every_frame),
        test("pseudowire::tags_of_attachment_circuits_come_and_go", tags),
        test("pseudowire::what_does_not_fit_or_is_no_frame_is_counted", counted),
        test_with("pseudowire::scapy_reads_and_writes_the_same_frames", scapy, by_scapy),
        test_with("pseudowire::tshark_reads_the_same_frames", tshark, by_tshark),
        test_with(
            "pseudowire::two_edges_and_a_router_between_them_are_a_wire",
            redirect,
            wire,
        ),
    ]
}

/// Customers' frames of many kinds.
fn frames(from: Mac, to: Mac, router: Mac) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut frames = bystanders::all(to, from);
    let payload: Vec<u8> = (0..46).collect();
    let plain = ethernet(to, from, LOCAL_EXPERIMENTAL, &payload);
    frames.extend([
        ("60 bytes", plain.clone()),
        ("QinQ", tagged(&[(AD, 100), (Q, 200)], &plain)),
        ("a priority tag", tagged(&[(Q, 0xe000)], &plain)),
        ("IPv4 for the router", ethernet(router, from, ETH_P_IP, &v4(1)?)),
        ("IPv6", ethernet(to, from, 0x86dd, &v6(64)?)),
        ("labels", labelled(router, from, &[Entry::new(LOCAL, 1)], &v4(1)?)),
        (
            "a destination that begins like IPv4",
            ethernet(Mac([0x44, 0, 0, 0, 0, 1]), from, ETH_P_IP, &v4(9)?),
        ),
    ]);
    Ok(frames)
}

/// A router whose `eth1` is an attachment circuit. `words` are those of the pseudowire.
fn edge(words: &str) -> Result<Bench> {
    let bench = Bench::with_mtus(NATIVE, 1500, 1600)?;
    bench.router.run(&format!(
        "xconnect add eth1 encap mpls {TUNNEL}/{REMOTE} {words} via link {RIGHT} dev eth2"
    ))?;
    bench.router.run(&format!("route add {LOCAL} xconnect eth1 {words}"))?;
    Ok(bench)
}

/// A frame as it is in the pseudowire towards the right, and towards the router.
fn within(bench: &Bench, word: &[u8], frame: &[u8]) -> [Vec<u8>; 2] {
    let payload = [word, frame].concat();
    let out = [Entry::new(TUNNEL, 255), Entry::new(REMOTE, 255)];
    [
        labelled(bench.right.mac(), bench.port2, &out, &payload),
        labelled(bench.port2, bench.right.mac(), &[Entry::new(LOCAL, 2)], &payload),
    ]
}

fn expect(what: &str, from: &Tap, to: &Tap, sent: &[u8], expected: &[u8]) -> Result<()> {
    from.send(sent)?;
    to.receive(&format!("{what}: {expected:02x?}"), |frame| frame == expected)?;
    Ok(())
}

fn every_frame() -> Result<()> {
    for (words, word) in [("", &WORD[..]), ("no-cw", &[])] {
        let bench = edge(words)?;
        let (left, right) = (&bench.left, &bench.right);
        let all = frames(left.mac(), right.mac(), bench.port1)?;
        for (what, frame) in &all {
            let [out, arriving] = within(&bench, word, frame);
            expect(&format!("{what} into `{words}`"), left, right, frame, &out)?;
            expect(&format!("{what} out of `{words}`"), right, left, &arriving, frame)?;
        }
        let sent = all.len() as u64;
        for key in [LOCAL.to_string(), "xconnect eth1".to_owned()] {
            let forwarded = bench.router.forwarded(&key)?;
            ensure!(forwarded >= sent, "{key} has forwarded {forwarded} frames of {sent}");
        }
        // PAUSE is for the other end of a link only.
        let pause = ethernet(
            Mac([0x01, 0x80, 0xc2, 0, 0, 1]),
            left.mac(),
            0x8808,
            &[0, 1, 0xff, 0xff],
        );
        left.send(&pause)?;
        let (_, last) = &all[0];
        let [out, _] = within(&bench, word, last);
        left.send(last)?;
        let [paused, _] = within(&bench, word, &pause);
        let mut went_through = false;
        right.receive("the frame after PAUSE", |found| {
            went_through |= found == paused;
            found == out
        })?;
        ensure!(!went_through, "PAUSE went through");
        bench.router.unload()?;
    }
    Ok(())
}

fn tags() -> Result<()> {
    let bench = Bench::with_mtus("--iface eth1.100 --iface eth1.200 --iface eth2", 1500, 1600)?;
    let via = format!("via link {RIGHT} dev eth2");
    for line in [
        format!("xconnect add eth1.100 encap mpls {REMOTE} {via}"),
        format!("xconnect add eth1.200 encap mpls {TUNNEL} tagged {via}"),
        "route add 900 xconnect eth1.100".to_owned(),
        "route add 902 xconnect eth1.200 tagged".to_owned(),
    ] {
        bench.router.run(&line)?;
    }
    let (left, right) = (&bench.left, &bench.right);
    let plain = ethernet(right.mac(), left.mac(), LOCAL_EXPERIMENTAL, &[5; 46]);
    let with = |tags: &[(u16, u16)]| tagged(tags, &plain);
    let out = |label, frame: &[u8]| bench.out_labelled(&[Entry::new(label, 255)], &[&WORD, frame].concat());
    let arriving = |label, frame: &[u8]| {
        let payload = [&WORD, frame].concat();
        labelled(bench.port2, right.mac(), &[Entry::new(label, 255)], &payload)
    };
    let inner = (Q, 7);
    // Raw mode: the tag of the sub-interface is not in the pseudowire, and the others are.
    let (outside, inside) = (with(&[(Q, 0xa064), inner]), with(&[inner]));
    expect("into raw mode", left, right, &outside, &out(REMOTE, &inside))?;
    let outside = with(&[(Q, 100), inner]);
    expect("out of raw mode", right, left, &arriving(900, &inside), &outside)?;
    // Tagged mode: it is, and becomes that of the port at the other end.
    let outside = with(&[(Q, 0xa0c8), inner]);
    expect("into tagged mode", left, right, &outside, &out(TUNNEL, &outside))?;
    let inside = with(&[(AD, 0xa009), inner]);
    expect("out of tagged mode", right, left, &arriving(902, &inside), &outside)?;
    bench.router.unload()
}

fn counted() -> Result<()> {
    let bench = edge("")?;
    let (left, right) = (&bench.left, &bench.right);
    let plain = ethernet(right.mac(), left.mac(), LOCAL_EXPERIMENTAL, &[5; 46]);
    let long = |length| ethernet(right.mac(), left.mac(), LOCAL_EXPERIMENTAL, &vec![6; length]);
    let arriving = |word: [u8; 4], frame: &[u8]| {
        let payload = [&word[..], frame].concat();
        labelled(bench.port2, right.mac(), &[Entry::new(LOCAL, 9)], &payload)
    };
    for (reason, from, frame) in [
        ("control-word", right, arriving([0x45, 0, 0, 0], &plain)),
        ("control-word", right, arriving([0, 0x40, 0, 0], &plain)),
        ("oam", right, arriving([0x10, 0, 0, 7], &plain)),
        ("malformed", right, arriving(WORD, &plain[..13])),
        ("cross-too-big", right, arriving(WORD, &long(1505))),
    ] {
        let before = bench.router.dropped(reason)?;
        from.send(&frame)?;
        wait::until(reason, PATIENCE, || {
            Ok((bench.router.dropped(reason)? == before + 1).then_some(()))
        })?;
    }
    // Two labels, the control word and the frame in 1600 bytes; then in 100.
    let [out, _] = within(&bench, &WORD, &long(1500));
    expect("a frame as long as the port takes", left, right, &long(1500), &out)?;
    bench.router.run("link set eth2 mpls-mtu 100")?;
    let before = bench.router.dropped("cross-too-big")?;
    left.send(&long(75))?;
    wait::until("a frame that is too long for the next hop", PATIENCE, || {
        Ok((bench.router.dropped("cross-too-big")? == before + 1).then_some(()))
    })?;
    let [out, _] = within(&bench, &WORD, &long(74));
    expect("one that just fits", left, right, &long(74), &out)?;
    // Nobody is told.
    ensure!(bench.router.outcome("too-big-answered")? == 0, "an answer was sent");
    bench.router.unload()
}

/// Runs a program on this input, which must not complain.
pub fn run_on(mut command: Command, input: &[u8]) -> Result<String> {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| name.clone())?;
    child.stdin.take().context("no standard input")?.write_all(input)?;
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{name}: {complaint}");
    Ok(String::from_utf8(output.stdout)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(std::str::from_utf8);
    digits.map(|pair| Ok(u8::from_str_radix(pair?, 16)?)).collect()
}

/// Debian's scapy belongs to Debian's Python.
fn scapy(mode: &str, lines: &[String]) -> Result<Vec<String>> {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", include_str!("pseudowire.py"), mode]);
    let output = run_on(command, lines.join("\n").as_bytes())?;
    Ok(output.lines().map(str::to_owned).collect())
}

fn by_scapy() -> Result<()> {
    let bench = edge("flow-label")?;
    let (left, right) = (&bench.left, &bench.right);
    let all = frames(left.mac(), right.mac(), bench.port1)?;
    let mut captured = Vec::new();
    for (what, frame) in &all {
        left.send(frame)?;
        let sent = right.receive(what, |found| {
            found.starts_with(&right.mac().0) && found.ends_with(frame)
        })?;
        captured.push(hex(&sent));
    }
    let decoded = scapy("decode", &captured)?;
    ensure!(decoded.len() == all.len(), "{decoded:?}");
    for ((what, frame), line) in all.iter().zip(&decoded) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [tunnel, remote, flow, word, inner] = fields[..] else {
            anyhow::bail!("{what}: {line}");
        };
        ensure!((tunnel, remote) == ("801/0/0/255", "901/0/0/255"), "{what}: {line}");
        let flow: Vec<u32> = flow.split('/').map(str::parse).collect::<Result<_, _>>()?;
        ensure!(
            flow[0] >= 16 && flow[1..] == [0, 1, 1],
            "{what}: the flow label, {line}"
        );
        ensure!(word == "0/0/0", "{what}: the control word, {line}");
        ensure!(unhex(inner)? == *frame, "{what}: {line}");
    }
    // The other way: with a flow label, and without.
    let stations = [bench.port2, right.mac()].map(|mac| mac.to_string());
    let inner = all.iter().map(|(_, frame)| hex(frame));
    let stacks = [LOCAL.to_string(), format!("{LOCAL},4711")];
    for stack in stacks {
        let order = std::iter::once(format!("{} {} {stack}", stations[0], stations[1]));
        let built = scapy("encode", &order.chain(inner.clone()).collect::<Vec<_>>())?;
        ensure!(built.len() == all.len(), "{built:?}");
        for ((what, frame), line) in all.iter().zip(&built) {
            expect(&format!("scapy's {what}"), right, left, &unhex(line)?, frame)?;
        }
    }
    bench.router.unload()
}

/// A capture file in pcap's format.
pub fn capture_file(frames: &[Vec<u8>]) -> Vec<u8> {
    const ETHERNET: u32 = 1;
    let header = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 0xffff, ETHERNET];
    let mut file: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    for frame in frames {
        let length = frame.len() as u32;
        file.extend([0, 0, length, length].into_iter().flat_map(u32::to_le_bytes));
        file.extend(frame);
    }
    file
}

fn by_tshark() -> Result<()> {
    let bench = edge("")?;
    let (left, right) = (&bench.left, &bench.right);
    let all = frames(left.mac(), right.mac(), bench.port1)?;
    let mut captured = Vec::new();
    for (what, frame) in &all {
        left.send(frame)?;
        captured.push(right.receive(what, |found| {
            found.starts_with(&right.mac().0) && found.ends_with(frame)
        })?);
    }
    let mut command = Command::new("tshark");
    let remote = format!("mpls.label=={REMOTE},pwethcw");
    command.args(["-r", "-", "-n", "-d", &remote, "-T", "fields", "-E", "separator=;"]);
    // It guesses what customers' datagrams are, and calls them malformed then.
    command.args(["--disable-protocol", "udp"]);
    let fields = [
        "mpls.label",
        "mpls.exp",
        "mpls.bottom",
        "mpls.ttl",
        "pweth.cw.sequence_number",
        "eth.dst",
        "eth.src",
        "frame.len",
        "_ws.malformed",
    ];
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let decoded = run_on(command, &capture_file(&captured))?;
    ensure!(decoded.lines().count() == all.len(), "{decoded}");
    for (((what, frame), sent), line) in all.iter().zip(&captured).zip(decoded.lines()) {
        let [stations, sources] = [0, 6].map(|at| {
            let of = |frame: &[u8]| Some(Mac(*frame.get(at..)?.first_chunk()?).to_string());
            [of(sent), of(frame)].map(Option::unwrap_or_default).join(",")
        });
        // Labelled frames of customers have labels of their own.
        let mut found = line.splitn(5, ';');
        let labels: Vec<&str> = (&mut found).take(4).collect();
        let begins = ["801,901", "0,0", "0,1", "255,255"];
        let fits = labels.len() == 4
            && labels
                .iter()
                .zip(begins)
                .all(|(found, begins)| found.starts_with(begins));
        ensure!(fits, "{what}: {line}");
        let expected = format!("0;{stations};{sources};{};", sent.len());
        ensure!(found.next() == Some(&*expected), "{what}: {line}, not {expected}");
    }
    bench.router.unload()
}

/// ```text
///  ce1 eth0 ---- eth1 pe1 eth2 ---- eth1 core eth2 ---- eth2 pe2 eth1 ---- eth0 ce2
/// ```
fn wire() -> Result<()> {
    const CUSTOMER: u32 = 9000;
    const CORE: u32 = 9100;
    let lab = Lab::new()?;
    let [ce1, pe1, core, pe2, ce2] = ["ce1", "pe1", "core", "pe2", "ce2"].map(|name| lab.netns(name));
    let (ce1, pe1, core, pe2, ce2) = (ce1?, pe1?, core?, pe2?, ce2?);
    let cable = |a: End<'_>, b: End<'_>, mtu| link(a.mtu(mtu), b.mtu(mtu));
    cable(
        End::new(&ce1, "eth0").address("10.0.0.1/24"),
        End::new(&pe1, "eth1"),
        CUSTOMER,
    )?;
    cable(
        End::new(&pe1, "eth2").address("10.1.0.1/24"),
        End::new(&core, "eth1").address("10.1.0.2/24"),
        CORE,
    )?;
    cable(
        End::new(&core, "eth2").address("10.2.0.2/24"),
        End::new(&pe2, "eth2").address("10.2.0.1/24"),
        CORE,
    )?;
    cable(
        End::new(&pe2, "eth1"),
        End::new(&ce2, "eth0").address("10.0.0.2/24"),
        CUSTOMER,
    )?;
    let load = |netns: &Netns, routes: &[&str]| {
        let router = Router::load(netns, NATIVE)?;
        for route in routes {
            router.run(route)?;
        }
        anyhow::Ok(router)
    };
    let routers = [
        load(
            &pe1,
            &[
                "xconnect add eth1 encap mpls 302/702 flow-label via inet 10.1.0.2 dev eth2",
                "route add 701 xconnect eth1 flow-label",
            ],
        )?,
        // The last router before an edge takes its own label off.
        load(
            &core,
            &[
                "route add 302 as implicit-null via inet 10.2.0.1 dev eth2",
                "route add 301 as implicit-null via inet 10.1.0.1 dev eth1",
            ],
        )?,
        load(
            &pe2,
            &[
                "xconnect add eth1 encap mpls 301/701 flow-label via inet 10.2.0.2 dev eth2",
                "route add 702 xconnect eth1 flow-label",
            ],
        )?,
    ];
    for router in &routers {
        router.wait_resolved()?;
    }
    ce1.run("ping -c 3 -i 0.2 -W 5 10.0.0.2")?;
    ce1.run("ping -c 1 -W 5 -s 8900 -M do 10.0.0.2")?;
    transfer(&ce1, &ce2, "10.0.0.2".parse()?, 1 << 20)?;
    let (left, right) = (Tap::open(&ce1, "eth0")?, Tap::open(&ce2, "eth0")?);
    for (from, to) in [(&left, &right), (&right, &left)] {
        let mut all = frames(from.mac(), to.mac(), pe1.mac("eth1")?)?;
        let jumbo: Vec<u8> = (0..251).cycle().take(9000).collect();
        all.push(("9014 bytes", ethernet(to.mac(), from.mac(), LOCAL_EXPERIMENTAL, &jumbo)));
        for (what, frame) in &all {
            expect(what, from, to, frame, frame)?;
        }
    }
    for router in routers {
        router.unload()?;
    }
    Ok(())
}
