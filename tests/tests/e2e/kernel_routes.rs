//! The parts of a prefix that belong to the kernel: its own more specific routes, as they come and go.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6};
use mplsxdp_tests::frame::{Entry, ethernet, udp};
use mplsxdp_tests::{Router, wait};

use crate::bench::{Bench, NATIVE, RIGHT};
use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test(
            "kernel_routes::a_prefix_and_one_that_covers_it_change_together",
            change_together,
        ),
        test("kernel_routes::the_same_from_the_configuration", configured),
        test(
            "kernel_routes::ways_by_one_interface_go_one_by_one",
            ways_by_one_interface,
        ),
        test("kernel_routes::a_prefix_that_holds_many_comes_and_goes", many_within),
    ]
}

/// Checks the frame in which this packet to `destination` leaves to the right under `label`; `None`: it does not leave.
fn expect(bench: &Bench, destination: &str, label: Option<u32>) -> Result<()> {
    let destination: IpAddr = destination.parse()?;
    let (source, ethertype): (IpAddr, _) = match destination {
        IpAddr::V4(_) => (Ipv4Addr::new(192, 0, 2, 1).into(), ETH_P_IP),
        IpAddr::V6(_) => ("2001:db8:ffff::1".parse()?, ETH_P_IPV6),
    };
    let packet = |ttl| udp(source, destination, ttl, b"whose?");
    let sent = ethernet(bench.port1, bench.left.mac(), ethertype, &packet(64)?);
    let received = bench.forward(&sent)?;
    let expected = match label {
        Some(label) => vec![bench.out_labelled(&[Entry::new(label, 63)], &packet(63)?)],
        None => Vec::new(),
    };
    ensure!(
        received == expected,
        "{destination}: expected {expected:02x?}\nreceived {received:02x?}"
    );
    Ok(())
}

/// A line of `route restore`, towards the right tap.
fn line(prefix: &str, label: u32) -> String {
    format!("{prefix} encap mpls {label} via link {RIGHT} dev eth2\n")
}

const MARKER: &str = "999 as 998 via link 02:00:00:00:02:02 dev eth2\n";

fn change_together() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let netns = bench.router.netns();
    netns.ip("route add 10.4.5.0/24 dev eth2")?;
    netns.ip("-6 route add 2001:db8:4:5::/64 dev eth2")?;
    let (specific, covering) = (["10.4.5.0/24", "2001:db8:4:5::/64"], ["10.0.0.0/8", "2001:db8::/32"]);
    let within = ["10.4.5.1", "2001:db8:4:5::1"];
    let beside = ["10.4.6.1", "2001:db8:4:6::1"];
    let restore = |routes: &[(&[&str; 2], u32)]| {
        let lines = routes
            .iter()
            .flat_map(|(prefixes, label)| prefixes.map(|prefix| line(prefix, *label)));
        bench
            .router
            .run_with("route restore", &(MARKER.to_owned() + &lines.collect::<String>()))
    };
    let expect_all =
        |addresses: [&str; 2], label| addresses.iter().try_for_each(|address| expect(&bench, address, label));

    for prefix in specific {
        bench.route(&format!("{prefix} encap mpls 100/101"))?;
    }
    restore(&[(&specific, 300), (&covering, 200)])?;
    expect_all(within, Some(300))?;
    expect_all(beside, Some(200))?;
    // The former slots of the replaced route belong to another route now, and to no other.
    bench.route("500 as 700/701")?;
    expect_all(within, Some(300))?;
    bench.router.run("route del 500")?;

    // The specific one goes, and the kernel's own takes over; it comes together with a new label for the other; the
    // covering one goes; both come at once.
    restore(&[(&covering, 201)])?;
    expect_all(within, None)?;
    expect_all(beside, Some(201))?;
    restore(&[(&covering, 202), (&specific, 302)])?;
    expect_all(within, Some(302))?;
    expect_all(beside, Some(202))?;
    restore(&[(&specific, 303)])?;
    expect_all(within, Some(303))?;
    expect_all(beside, None)?;
    restore(&[])?;
    expect_all(within, None)?;
    restore(&[(&specific, 304), (&covering, 204)])?;
    expect_all(within, Some(304))?;
    expect_all(beside, Some(204))?;

    // The kernel's routes are followed under both.
    restore(&[(&covering, 205)])?;
    netns.ip("route del 10.4.5.0/24 dev eth2")?;
    netns.ip("-6 route del 2001:db8:4:5::/64 dev eth2")?;
    for address in within {
        wait::until("the kernel's claim to end", std::time::Duration::from_secs(5), || {
            Ok(expect(&bench, address, Some(205)).ok())
        })?;
    }
    bench.router.unload()
}

fn configured() -> Result<()> {
    let mut bench = Bench::new(NATIVE)?;
    let netns = bench.router.netns().clone();
    netns.ip("route add 10.4.5.0/24 dev eth2")?;
    let routes = [MARKER.to_owned(), line("10.4.5.0/24", 300), line("10.0.0.0/8", 200)];
    let routes = routes.map(|route| format!("{:?}", route.trim()));
    let file = std::env::temp_dir().join(format!("{}.toml", netns.name()));
    std::fs::write(&file, format!("routes = [{}]\n", routes.join(", ")))?;
    let instance = format!("{}-configured", netns.name());
    let old = bench.router;
    old.unload()?;
    let loaded = Router::load_instance(&netns, &instance, &format!("{NATIVE} --config {}", file.display()));
    std::fs::remove_file(&file)?;
    bench.router = loaded?;
    expect(&bench, "10.4.5.1", Some(300))?;
    expect(&bench, "10.4.6.1", Some(200))?;
    bench.router.unload()
}

/// Paths through one interface come and go one by one.
fn ways_by_one_interface() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let netns = bench.router.netns();
    for prefix in ["10.0.0.0/8", "2001:db8::/32"] {
        bench.router.run(&format!("route add {}", line(prefix, 200).trim()))?;
    }
    netns.ip("addr add 203.0.113.1/24 dev eth2")?;
    netns.ip("-6 addr add 2001:db9::1/64 dev eth2 nodad")?;
    netns.ip("route add 10.4.5.0/24 via 203.0.113.2 dev eth2")?;
    netns.ip("route append 10.4.5.0/24 via 203.0.113.3 dev eth2")?;
    netns.ip("-6 route add 2001:db8:4:5::/64 nexthop via 2001:db9::2 dev eth2 nexthop via 2001:db9::3 dev eth2")?;
    let both = |label| ["10.4.5.1", "2001:db8:4:5::1"].map(|address| expect(&bench, address, label).ok());
    // The kernel's latest route: once this one has its effect, so have the changes before it.
    let wait_for_marker = |marker: &str| -> Result<()> {
        netns.ip(&format!("route add {marker}.0/24 dev eth2"))?;
        wait::until("the kernel's last route", std::time::Duration::from_secs(5), || {
            Ok(expect(&bench, &format!("{marker}.1"), None).ok())
        })
    };
    wait_for_marker("10.5.1")?;
    ensure!(both(None) == [Some(()); 2], "claimed while both ways are there");
    netns.ip("route del 10.4.5.0/24 via 203.0.113.3 dev eth2")?;
    netns.ip("-6 route del 2001:db8:4:5::/64 via 2001:db9::3 dev eth2")?;
    wait_for_marker("10.5.2")?;
    ensure!(both(None) == [Some(()); 2], "claimed while one way is there");
    netns.ip("route del 10.4.5.0/24 via 203.0.113.2 dev eth2")?;
    netns.ip("-6 route del 2001:db8:4:5::/64 via 2001:db9::2 dev eth2")?;
    wait_for_marker("10.5.3")?;
    ensure!(both(Some(200)) == [Some(()); 2], "free once none is there");
    bench.router.unload()
}

/// More than the controller handles in one step, so others get their turn before the change is done.
fn many_within() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let netns = bench.router.netns();
    let routes = (0..2000).map(|index| format!("route add 10.4.{}.{}/32 dev eth2\n", index / 250, index % 250));
    let file = std::env::temp_dir().join(format!("{}.batch", netns.name()));
    std::fs::write(&file, routes.collect::<String>())?;
    let added = netns.ip(&format!("-batch {}", file.display()));
    std::fs::remove_file(&file)?;
    added?;
    let expect_all = |label: Option<u32>| {
        ["10.4.0.0", "10.4.1.1", "10.4.7.249"]
            .iter()
            .try_for_each(|address| expect(&bench, address, None))?;
        ["10.3.0.1", "10.4.7.250", "10.9.0.1"]
            .iter()
            .try_for_each(|address| expect(&bench, address, label))
    };
    for label in [200, 201] {
        bench
            .router
            .run(&format!("route add {}", line("10.0.0.0/8", label).trim()))?;
        expect_all(Some(label))?;
        // At once: the rest of the first one is still there when the next comes.
        bench.router.run("route del 10.0.0.0/8")?;
        if label == 201 {
            expect_all(None)?;
        }
    }
    let refused = bench.router.run("route add 10.0.0.0/8 encap mpls 300 via 203.0.113.1");
    ensure!(refused.is_err(), "there is no way to this next hop");
    expect_all(None)?;
    bench.router.unload()
}
