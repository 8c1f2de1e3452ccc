//! Captures of tcpdump, read back: the frames on the cables before and after a router.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::capture::{CaptureError, frames};
use mplsxdp_tests::frame::{Entry, Parsed};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::tcpdump::Tcpdump;

use crate::bench::{Bench, NATIVE, v4, v6};
use crate::test_with;

/// For a frame with one label and an IPv4 packet, this leaves out the UDP header.
const SNAP_LEN: usize = 38;

pub fn tests() -> Vec<Trial> {
    let tcpdump = Some(Need::Program("tcpdump", "tcpdump"));
    vec![
        test_with(
            "capture::tcpdump_has_the_frames_before_and_behind_a_router_byte_by_byte",
            tcpdump,
            both_cables,
        ),
        test_with("capture::frames_that_tcpdump_cut_are_known_as_such", tcpdump, cut),
        test_with(
            "capture::a_capture_of_another_link_type_is_refused_by_name",
            tcpdump,
            link_type,
        ),
    ]
}

fn both_cables() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    let arguments = ["-i", "eth0", "-c", "3", "-U", "-w", "-", "mpls"];
    let before = Tcpdump::start(&bench.left_netns, &arguments)?;
    let behind = Tcpdump::start(&bench.right_netns, &arguments)?;
    let (mut sent, mut expected) = (Vec::new(), Vec::new());
    for (ttl, tc, beneath, packet) in [
        (64, 5, None, v4(64)?),
        (2, 0, Some(Entry::new(7000, 9).tc(3)), v4(1)?),
        (255, 7, None, v6(64)?),
    ] {
        let stack = |top| [Some(top), beneath].into_iter().flatten().collect::<Vec<_>>();
        sent.push(bench.labelled(&stack(Entry::new(100, ttl).tc(tc)), &packet));
        expected.push(bench.out_labelled(&stack(Entry::new(110, ttl - 1).tc(tc)), &packet));
    }
    for frame in &sent {
        bench.left.send(frame)?;
    }
    for (what, tcpdump, frames_expected) in [("before", before, sent), ("behind", behind, expected)] {
        let file = tcpdump.finish()?;
        let captured = frames(&file)?;
        ensure!(
            captured.iter().all(|frame| !frame.is_truncated()),
            "{what}: {captured:?}"
        );
        let bytes: Vec<_> = captured.iter().map(|frame| frame.bytes).collect();
        ensure!(
            bytes == frames_expected,
            "{what}: {bytes:02x?}\nexpected {frames_expected:02x?}"
        );
    }
    Ok(())
}

fn cut() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    let snap_len = SNAP_LEN.to_string();
    let arguments = ["-i", "eth0", "-c", "1", "-s", &snap_len, "-U", "-w", "-", "mpls 110"];
    let behind = Tcpdump::start(&bench.right_netns, &arguments)?;
    bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &v4(64)?))?;
    let expected = bench.out_labelled(&[Entry::new(110, 63)], &v4(64)?);
    let file = behind.finish()?;
    let captured = frames(&file)?;
    let [frame] = captured[..] else {
        anyhow::bail!("{captured:?}");
    };
    ensure!(
        frame.is_truncated() && frame.original_len == expected.len(),
        "{frame:?}"
    );
    ensure!(frame.bytes == &expected[..SNAP_LEN], "{frame:?}, expected {expected:?}");
    let stack = Parsed::new(frame.bytes)?.stack;
    ensure!(stack == [Entry::new(110, 63)], "{stack:?}");
    Ok(())
}

fn link_type() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 110")?;
    // Every interface at once, as "cooked" frames.
    let arguments = ["-i", "any", "-c", "1", "-U", "-w", "-", "udp"];
    let any = Tcpdump::start(&bench.left_netns, &arguments)?;
    bench.left_netns.within(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(b"anything", "127.0.0.1:9")?;
        Ok(())
    })?;
    let file = any.finish()?;
    let error = frames(&file).err();
    ensure!(
        matches!(&error, Some(CaptureError::LinkType { offset: 0, name }) if name.starts_with("LINUX_SLL")),
        "{error:?}"
    );
    Ok(())
}
