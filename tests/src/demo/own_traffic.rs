//! Two hosts that put labels on their own packets.

use anyhow::{Result, ensure};
use mplsxdp_tests::Lab;
use mplsxdp_tests::own_traffic::{KERNEL_ROUTES, LOOPBACK1, LOOPBACK2, OPTIONS, OwnTraffic, ROUTES};

use crate::show::{Capture, add_routes, command, heading, loaded, part, run};

const DRAWING: &str = "
  1.1.1.1                                                                  2.2.2.2
   host1 ================ ubuntu01 ================ ubuntu02 ================ host2
  10.0.0.2          10.0.0.1   20.0.0.1       20.0.0.2   30.0.0.1         30.0.0.2
  push 101    label 101    101->111    label 111    pop
                             pop       label 211    211<-201    label 201    push 201
";

pub fn show(lab: &Lab) -> Result<()> {
    part("Hosts that put labels on their own packets");
    println!(
        "XDP never sees packets that a router itself sends. `--local` makes the interface mpls0 for that: what the kernel routes into"
    );
    println!("it gets labels. The router is its source, so the TTL is not decremented.");
    println!("{DRAWING}");

    heading("Loading mplsxdp on hosts and routers, and adding the routes");
    let net = OwnTraffic::new(lab)?;
    for (index, (router, options)) in net.machines().into_iter().zip(OPTIONS).enumerate() {
        loaded(router, options);
        if let Some(route) = [Some(KERNEL_ROUTES[0]), None, None, Some(KERNEL_ROUTES[1])][index] {
            command(&format!("ip -n {} route add {route}", router.netns().name()));
            router.netns().ip(&format!("route add {route}"))?;
        }
        add_routes(router, ROUTES[index])?;
    }

    heading("Pings both ways: two routers take 2 off the TTL of 64");
    let captures = ["host1 - ubuntu01", "ubuntu01 - ubuntu02", "ubuntu02 - host2"]
        .into_iter()
        .zip(&net.cables)
        .map(|(name, cable)| Capture::start(name, cable, "a", "icmp or mpls"));
    let captures: Vec<_> = captures.collect::<Result<_>>()?;
    for (host, from, to) in [(&net.host1, LOOPBACK1, LOOPBACK2), (&net.host2, LOOPBACK2, LOOPBACK1)] {
        let output = run(host.netns(), &format!("ping -n -c 3 -i 0.2 -W 2 -I {from} {to}"))?;
        ensure!(
            output.matches("ttl=62").count() == 3,
            "three answers with ttl=62 were expected"
        );
    }

    heading("The first ping on each cable, as tcpdump sees it");
    for (capture, expected) in captures.into_iter().zip([
        ["label 101, tc 0, [S], ttl 64", "ICMP echo"],
        ["label 111, tc 0, [S], ttl 63", "label 211, tc 0, [S], ttl 63"],
        ["ICMP echo", "label 201, tc 0, [S], ttl 64"],
    ]) {
        let shown = capture.finish()?;
        for expected in expected {
            ensure!(shown.contains(expected), "`{expected}` was expected");
        }
    }
    net.unload()
}
