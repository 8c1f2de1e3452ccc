//! Routers on an LSP that answer, and labels without a route.

use anyhow::{Result, ensure};
use mplsxdp_tests::frame::{Entry, labelled, udp};
use mplsxdp_tests::three_routers::{
    EDGE_KERNEL_ROUTES, EDGE_ROUTES, EDGE_SYSCTLS, HOST1, HOST2, HOST2_V6, ThreeRouters,
};
use mplsxdp_tests::{Lab, Tap, wait};

use crate::show::{ask, command, heading, loaded, part, run};

const DRAWING: &str = "
   host1 ------------ r1 ================ r2 ================ r3 ------------ host2
  10.3.3.2       push 100   label 100   100->110   label 110   dev lo         10.4.4.2
                   dev lo   label 210   210<-200   label 200   push 200
";
/// A label without a route.
const UNKNOWN: u32 = 4711;
const UNKNOWN_FRAMES: usize = 20;

pub fn show(lab: &Lab) -> Result<()> {
    part("Traceroute along an LSP");
    println!(
        "The three routers again, but the LSPs end in the routers at the edge (`dev lo`), whose kernels forward the rest of"
    );
    println!(
        "the way. Where a TTL runs out on an LSP, the slow path answers, and tells the label that the packet had."
    );
    println!("{DRAWING}");
    let net = ThreeRouters::with_ip_edges(lab, ["", "", ""])?;
    for (router, (options, routes)) in net
        .routers
        .iter()
        .zip([" --local", "", " --local"].into_iter().zip(EDGE_ROUTES))
    {
        loaded(router, &format!("--iface eth1 --iface eth2{options}"));
        for route in routes {
            command(&format!("mplsxdp --instance {} route add {route}", router.instance()));
        }
    }
    for (router, routes) in net.edges().into_iter().zip(EDGE_KERNEL_ROUTES) {
        let name = router.netns().name();
        for (key, value) in EDGE_SYSCTLS {
            command(&format!(
                "ip netns exec {name} sysctl -w net.{}={value}",
                key.replace('/', ".")
            ));
        }
        for route in routes {
            command(&format!("ip -n {name} route add {route}"));
        }
    }

    heading("Every hop answers; those on the LSP tell the label");
    for line in [
        format!("traceroute -n -e {HOST2}"),
        format!("traceroute -6 -n -e {HOST2_V6}"),
    ] {
        let output = run(&net.host1, &line)?;
        ensure!(!output.contains('*'), "every hop was expected to answer");
        for (hop, label) in [(2, "<MPLS:L=100,"), (3, "<MPLS:L=110,")] {
            let line = output
                .lines()
                .find(|line| line.trim_start().starts_with(&format!("{hop} ")));
            ensure!(
                line.is_some_and(|line| line.contains(label)),
                "hop {hop} with {label} was expected"
            );
        }
    }
    let output = run(&net.host1, &format!("mtr -n -r -c 3 -i 0.2 -G 0.5 -e {HOST2}"))?;
    ensure!(!output.contains("???"), "every hop was expected to answer");
    println!("(mtr's report leaves labels out. Its raw output has hop, from 0, label, TC, S bit and TTL:)");
    let line = format!("mtr -n --raw -c 1 -i 0.2 -G 0.5 -e {HOST2}");
    command(&format!("ip netns exec {} {line} | grep ^m | uniq", net.host1.name()));
    let output = net.host1.run(&line)?;
    let mut labels: Vec<_> = output.lines().filter(|line| line.starts_with('m')).collect();
    labels.dedup();
    println!("{}", labels.join("\n"));
    for label in ["m 1 100 0 1 1", "m 2 110 0 1 1"] {
        ensure!(labels.contains(&label), "`{label}` was expected");
    }

    heading("Labels that nobody knows");
    println!("{UNKNOWN_FRAMES} frames with label {UNKNOWN} from host1 to r1");
    let [r1, ..] = &net.routers;
    send_unknown(&net)?;
    wait::until("the count of unknown labels", std::time::Duration::from_secs(5), || {
        let counted = r1
            .unknown_labels()?
            .iter()
            .any(|unknown| unknown.label == UNKNOWN && unknown.packets == UNKNOWN_FRAMES as u64);
        Ok(counted.then_some(()))
    })?;
    ask(r1, "stats --unknown")?;
    ask(r1, "stats")?;

    for router in net.routers {
        router.unload()?;
    }
    Ok(())
}

fn send_unknown(net: &ThreeRouters) -> Result<()> {
    let tap = Tap::open(&net.host1, "eth0")?;
    let packet = udp(HOST1.parse()?, HOST2.parse()?, 64, b"lost")?;
    let frame = labelled(
        net.routers[0].netns().mac("eth1")?,
        tap.mac(),
        &[Entry::new(UNKNOWN, 64)],
        &packet,
    );
    for _ in 0..UNKNOWN_FRAMES {
        tap.send(&frame)?;
    }
    Ok(())
}
