//! Three label switching routers between two hosts.

use anyhow::{Result, ensure};
use mplsxdp_tests::three_routers::{HOST1, HOST2, ROUTES, ThreeRouters, transfer};
use mplsxdp_tests::{Lab, tidy};

use crate::show::{Capture, add_routes, ask, heading, loaded, part, run};

const DRAWING: &str = "
   host1 ------------ r1 ================ r2 ================ r3 ------------ host2
  10.3.3.2       push 100   label 100   100->110   label 110   pop            10.4.4.2
                      pop   label 210   210<-200   label 200   push 200
        10.3.3.0/24      192.168.30.0/24      192.168.40.0/24      10.4.4.0/24
";
const BYTES: usize = 50_000_000;

pub fn show(lab: &Lab) -> Result<()> {
    part("Labels through three routers");
    println!("Three routers and two hosts, each in a network namespace of its own, joined by veth cables.");
    println!("Their kernels forward neither labels nor IP: what gets through below is switched by mplsxdp, in XDP.");
    println!("{DRAWING}");

    heading("Loading mplsxdp on the two ports of each router, and adding the routes");
    let net = ThreeRouters::new(lab)?;
    for (router, routes) in net.routers.iter().zip(ROUTES) {
        loaded(router, "--iface eth1 --iface eth2");
        add_routes(router, &routes)?;
    }

    heading("Pings both ways: three routers take 3 off the TTL of 64");
    let captures = [
        Capture::start("host1 - r1", &net.host1, "eth0", "icmp")?,
        Capture::start("r1 - r2", &net.cable12, "a", "mpls")?,
        Capture::start("r2 - r3", &net.cable23, "a", "mpls")?,
        Capture::start("r3 - host2", &net.host2, "eth0", "icmp")?,
    ];
    for (host, address) in [(&net.host1, HOST2), (&net.host2, HOST1)] {
        let output = run(host, &format!("ping -n -c 3 -i 0.2 -W 2 {address}"))?;
        ensure!(
            output.matches("ttl=61").count() == 3,
            "three answers with ttl=61 were expected"
        );
    }

    heading("The first ping on each cable, as tcpdump sees it");
    let [first, second, third, last] = captures.map(Capture::finish);
    let (second, third) = (second?, third?);
    first?;
    last?;
    for (shown, labels) in [
        (second, ["label 100,", "label 210,"]),
        (third, ["label 110,", "label 200,"]),
    ] {
        ensure!(
            labels.iter().all(|label| shown.contains(label)),
            "{labels:?} were expected"
        );
    }

    heading("What the routers have counted");
    for router in &net.routers {
        for arguments in ["stats", "-s route show"] {
            ask(router, arguments)?;
        }
    }

    heading("50 MB by TCP from host1 to host2");
    let took = transfer(&net.host1, &net.host2, HOST2.parse()?, BYTES)?;
    let rate = BYTES as f64 * 8.0 / took.as_secs_f64() / 1e6;
    println!("every byte arrived, in {:.2} s ({rate:.0} Mbit/s)", took.as_secs_f64());
    let packets = net.routers[1].forwarded("100")?;
    println!("r2 has swapped label 100 to 110 on {packets} packets");

    heading("Unloading and removing everything");
    for router in net.routers {
        router.unload()?;
    }
    drop((net.host1, net.host2, net.cable12, net.cable23));
    tidy::ensure_nothing_left()?;
    println!("no program, socket, pin or namespace is left");
    Ok(())
}
