//! `cargo xtask demo`: three label switching routers between two hosts, shown at work.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::three_routers::{HOST1, HOST2, ROUTES, ThreeRouters, transfer};
use mplsxdp_tests::tidy::{self, Reaped};
use mplsxdp_tests::{Lab, Netns};

const DRAWING: &str = "
   host1 ------------ r1 ================ r2 ================ r3 ------------ host2
  10.3.3.2       push 100   label 100   100->110   label 110   pop            10.4.4.2
                      pop   label 210   210<-200   label 200   push 200
        10.3.3.0/24      192.168.30.0/24      192.168.40.0/24      10.4.4.0/24
";
const BYTES: usize = 50_000_000;
/// How long a capture waits for its packets.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    tidy::on_signals()?;
    let lab = Lab::new()?;
    println!("Three routers and two hosts, each in a network namespace of its own, joined by veth cables.");
    println!("Their kernels forward neither labels nor IP: what gets through below is switched by mplsxdp, in XDP.");
    println!("{DRAWING}");

    heading("Loading mplsxdp on the two ports of each router, and adding the routes");
    let net = ThreeRouters::new(&lab)?;
    for (router, routes) in net.routers.iter().zip(ROUTES) {
        let name = router.instance();
        command(&format!(
            "mplsxdp load -n {name} --instance {name} --iface eth1 --iface eth2"
        ));
        for route in routes {
            command(&format!("mplsxdp --instance {name} route add {route}"));
        }
        router.add_routes(&routes)?;
    }

    heading("Pings both ways: three routers take 3 off the TTL of 64");
    let captures = [
        Capture::start("host1 - r1", &net.host1, "eth0", "icmp")?,
        Capture::start("r1 - r2", &net.cable12, "a", "mpls")?,
        Capture::start("r2 - r3", &net.cable23, "a", "mpls")?,
        Capture::start("r3 - host2", &net.host2, "eth0", "icmp")?,
    ];
    for (host, address) in [(&net.host1, HOST2), (&net.host2, HOST1)] {
        let ping = format!("ping -n -c 3 -i 0.2 -W 2 {address}");
        command(&format!("ip netns exec {} {ping}", host.name()));
        let output = host.run(&ping)?;
        println!("{}", output.trim_end());
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
            command(&format!("mplsxdp --instance {} {arguments}", router.instance()));
            print!("{}", router.run(arguments)?);
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

fn heading(text: &str) {
    println!("\n== {text}");
}

fn command(line: &str) {
    println!("$ {line}");
}

/// A tcpdump of two packets: an echo request and its reply.
struct Capture {
    cable: &'static str,
    tcpdump: Reaped,
    line: String,
}

impl Capture {
    fn start(cable: &'static str, netns: &Netns, interface: &str, filter: &str) -> Result<Self> {
        let mut command = netns.command("tcpdump");
        let arguments = ["-n", "-e", "-t", "-l", "-c", "2", "-i", interface, filter];
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tcpdump = tidy::spawn(&mut command)?;
        // It says when it listens; what it says later fits the pipe.
        let mut said = BufReader::new(tcpdump.child().stderr.take().context("no pipe from tcpdump")?);
        let mut all = String::new();
        while !all.contains("listening on") {
            ensure!(said.read_line(&mut all)? > 0, "tcpdump does not listen: {all}");
        }
        tcpdump.child().stderr = Some(said.into_inner());
        Ok(Self {
            cable,
            tcpdump,
            line: format!("ip netns exec {} tcpdump {}", netns.name(), arguments.join(" ")),
        })
    }

    /// Shows the packets.
    fn finish(mut self) -> Result<String> {
        self.tcpdump
            .ended(PATIENCE)
            .with_context(|| format!("`{}` sees no packets", self.line))?;
        let mut shown = String::new();
        self.tcpdump
            .child()
            .stdout
            .take()
            .context("no pipe from tcpdump")?
            .read_to_string(&mut shown)?;
        println!("{}", self.cable);
        command(&self.line);
        print!("{shown}");
        Ok(shown)
    }
}
