//! How many frames of each kind per second the slow path handles on one core, without its sockets and limits. `cargo
//! bench -p mplsxdp --features test-support --bench slow_path`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mplsxdp::slowpath::IcmpVia;
use mplsxdp::slowpath::fixture::{INGRESS, MemoryWorld, labelled};
use mplsxdp::slowpath::{Action, Options, Rate, Received, SlowPath};

const DURATION: Duration = Duration::from_secs(2);
/// Frames between two readings of the clock.
const BATCH: u32 = 1000;

fn main() {
    let v4 = udp_v4(64);
    let long = udp_v4(1400);
    let v6 = udp_v6(1400);
    for (what, frame, via) in [
        (
            "time exceeded, IPv4, along the LSP",
            labelled(&[(100, 1)], &v4),
            IcmpVia::Lsp,
        ),
        (
            "time exceeded, IPv4 of 1400 bytes, along the LSP",
            labelled(&[(100, 1), (146, 63)], &long),
            IcmpVia::Lsp,
        ),
        (
            "time exceeded, IPv6 of 1400 bytes, along the LSP",
            labelled(&[(100, 1)], &v6),
            IcmpVia::Lsp,
        ),
        ("time exceeded, IPv4, by IP", labelled(&[(100, 1)], &v4), IcmpVia::Ip),
        ("unknown label", labelled(&[(900, 64)], &v4), IcmpVia::Auto),
        (
            "router alert, forwarded",
            labelled(&[(1, 64), (100, 64)], &v4),
            IcmpVia::Auto,
        ),
    ] {
        let (frames, actions) = run(&frame, via);
        println!("{what:50} {frames:>12.0} frames/s, {actions:>12.0} actions/s");
    }
}

/// Frames in and actions out, per second.
fn run(frame: &[u8], icmp_via: IcmpVia) -> (f64, f64) {
    let world = MemoryWorld::router();
    let mut slow_path = SlowPath::new(Options {
        icmp_via,
        icmp_rate: Rate::UNLIMITED,
        icmp_source_rate: Rate::UNLIMITED,
        ..Options::default()
    });
    let (mut frames, mut actions) = (0_u64, 0_u64);
    let start = Instant::now();
    let mut now = start;
    while now < start + DURATION {
        for _ in 0..BATCH {
            let received = Received {
                port: INGRESS,
                frame,
                trimmed: 0,
            };
            slow_path.receive(received, &world, now, &mut |action: Action<'_>| {
                black_box(action);
                actions += 1;
                true
            });
        }
        frames += u64::from(BATCH);
        now = Instant::now();
    }
    let seconds = (now - start).as_secs_f64();
    (frames as f64 / seconds, actions as f64 / seconds)
}

/// UDP from 10.0.0.2 to 10.9.9.9, `length` bytes.
fn udp_v4(length: u16) -> Vec<u8> {
    let mut packet = vec![0; usize::from(length)];
    packet[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 7, 17]);
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[12..20].copy_from_slice(&[10, 0, 0, 2, 10, 9, 9, 9]);
    let checksum = mplsxdp::slowpath::icmp::checksum(0, &packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// UDP from 2001:db8::2 to 2001:db8:9::9, `length` bytes.
fn udp_v6(length: u16) -> Vec<u8> {
    let mut packet = vec![0; usize::from(length)];
    packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 17, 7]);
    packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    packet[8..12].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    packet[23] = 2;
    packet[24..30].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 9]);
    packet[39] = 9;
    packet
}
