//! What is lost when FRR and mplsxdp are restarted, in the VPN of `l3vpn`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mplsxdp_tests::{Lab, Router, wait};
use nix::sys::signal::Signal;

use crate::l3vpn::{DRAWING, Nodes, Routers, synchronised};
use crate::show::{command, heading, load, no_ping, ping, shell, title};
use crate::traffic::{INTERVAL, Traffic};

/// How long zebra is watched that gets no routes from the daemons that run on.
const WATCHED: Duration = Duration::from_secs(15);
/// In a guest, where limits are longer, it is more than the hold time of LDP's sessions: 180 s.
const LDP_ENDS: Duration = Duration::from_secs(60);
/// A label of proto ldp (193), beyond those that ldpd gives out.
const LEFT: &str = "9999";

/// What happens to PR.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    /// mplsxdp ends by a signal.
    Switch(Signal),
    Load,
    /// A daemon of FRR ends by a signal; `all` is every one, zebra last.
    Frr(&'static str, Signal),
    /// Daemons that do not run start; zebra with these options more.
    Start(&'static str),
    /// zebra knows no label, although ldpd runs.
    ZebraStaysEmpty,
    /// ldpd loses its sessions, because the new zebra has removed the old routes to its neighbours.
    LdpEnds,
    /// The kernel gets a label as a killed zebra leaves it, one that ldpd will not give out again.
    LeaveLabel,
    /// That label is still there once FRR has found its labels again. Then it is deleted, because zebra does not send it
    /// by FPM.
    LabelStays,
    /// FRR has found its labels again, and mplsxdp follows them.
    Recovered,
}

struct Step {
    name: &'static str,
    acts: &'static [Act],
    /// It is also done with FPM as the source.
    by_fpm: bool,
    /// mplsxdp's own part: nothing may be lost.
    lossless: bool,
}

use Act::{Frr, LabelStays, LdpEnds, LeaveLabel, Load, Recovered, Start, Switch, ZebraStaysEmpty};
use Signal::{SIGKILL, SIGTERM};

const STEPS: [Step; 12] = [
    Step {
        name: "mplsxdp: SIGTERM, and loaded again",
        acts: &[Switch(SIGTERM), Load, Recovered],
        by_fpm: true,
        lossless: true,
    },
    Step {
        name: "mplsxdp: SIGKILL, and loaded again",
        acts: &[Switch(SIGKILL), Load, Recovered],
        by_fpm: true,
        lossless: true,
    },
    Step {
        name: "ldpd: SIGTERM, and started again",
        acts: &[Frr("ldpd", SIGTERM), Start(""), Recovered],
        by_fpm: false,
        lossless: false,
    },
    Step {
        name: "zebra alone: SIGKILL, and started again; 15 s",
        acts: &[Frr("zebra", SIGKILL), Start(""), ZebraStaysEmpty],
        by_fpm: true,
        lossless: true,
    },
    Step {
        name: "after that, until LDP ends",
        acts: &[LdpEnds],
        by_fpm: false,
        lossless: false,
    },
    Step {
        name: "then all of FRR: SIGTERM, and started again",
        acts: &[Frr("all", SIGTERM), Start("-r"), Recovered],
        by_fpm: true,
        lossless: false,
    },
    Step {
        name: "zebra -r alone: SIGTERM, started again; 15 s; then all of FRR",
        acts: &[
            Frr("zebra", SIGTERM),
            Start("-r"),
            ZebraStaysEmpty,
            Frr("all", SIGTERM),
            Start(""),
            Recovered,
        ],
        by_fpm: false,
        lossless: false,
    },
    Step {
        name: "zebra alone: SIGTERM, started again; 15 s; then all of FRR",
        acts: &[
            Frr("zebra", SIGTERM),
            Start(""),
            ZebraStaysEmpty,
            Frr("all", SIGTERM),
            Start(""),
            Recovered,
        ],
        by_fpm: true,
        lossless: false,
    },
    Step {
        name: "zebra: SIGKILL; then the others: SIGTERM, as watchfrr does; all started",
        acts: &[
            Frr("zebra", SIGKILL),
            LeaveLabel,
            Frr("all", SIGTERM),
            Start(""),
            LabelStays,
            Recovered,
        ],
        by_fpm: true,
        lossless: false,
    },
    Step {
        name: "all of FRR, zebra first: SIGKILL; started, zebra with -K 60",
        acts: &[Frr("zebra", SIGKILL), Frr("all", SIGKILL), Start("-K 60"), Recovered],
        by_fpm: false,
        lossless: false,
    },
    Step {
        name: "FRR, then mplsxdp: SIGTERM; started in the same order",
        acts: &[Frr("all", SIGTERM), Switch(SIGTERM), Start(""), Load, Recovered],
        by_fpm: true,
        lossless: false,
    },
    Step {
        name: "mplsxdp, then FRR: SIGTERM; started in the same order",
        acts: &[Switch(SIGTERM), Frr("all", SIGTERM), Load, Start(""), Recovered],
        by_fpm: true,
        lossless: false,
    },
];

/// A source of routes for mplsxdp on PR, and what it needs of FRR.
struct Source {
    load: &'static str,
    configuration: &'static str,
    zebra: &'static str,
}

pub fn by_kernel(lab: &Lab) -> Result<()> {
    title("Restarts on PR of the MPLS VPN, by the kernel's routes, under numbered traffic from CE1 to CE2");
    let source = Source {
        load: "--sync kernel --iface to-PE1 --iface to-PE2",
        configuration: "l3vpn/PR.conf",
        zebra: "",
    };
    run(lab, &source, |_| true)
}

pub fn by_fpm(lab: &Lab) -> Result<()> {
    title("Restarts on PR of the MPLS VPN, by FPM, under numbered traffic from CE1 to CE2");
    let source = Source {
        load: "--sync fpm --iface to-PE1 --iface to-PE2",
        configuration: "fpm/PR.conf",
        zebra: "-M dplane_fpm_nl",
    };
    run(lab, &source, |step| step.by_fpm)
}

fn run(lab: &Lab, source: &Source, wanted: impl Fn(&Step) -> bool) -> Result<()> {
    println!("{DRAWING}");
    let nodes = Nodes::new(lab)?;
    heading(&format!(
        "FRR starts: labs/l3vpn/PE1.conf, labs/{}, labs/l3vpn/PE2.conf",
        source.configuration
    ));
    let mut routers = Routers::with_pr(&nodes, source.configuration, source.zebra)?;
    routers.converged()?;
    let mut router = Some(load(&nodes.pr, source.load)?);
    let mut counted = Vec::new();
    for step in STEPS.iter().filter(|step| wanted(step)) {
        heading(step.name);
        let traffic = Traffic::start(&nodes.ce[0], &nodes.ce[1], "192.168.2.1".parse()?)?;
        sleep(INTERVAL * 100);
        for &act in step.acts {
            carry_out(act, &nodes, &mut routers, &mut router, source)?;
        }
        sleep(INTERVAL * 100);
        let lost = traffic.count()?;
        println!("{lost}");
        if step.acts.contains(&Recovered) {
            ping(&nodes.ce[0], "192.168.2.1", 62)?;
        }
        counted.push((step, lost));
    }
    heading("In short (a datagram every 5 ms)");
    for (step, lost) in &counted {
        println!("{:<72} {lost}", step.name);
    }
    for (Step { name, lossless, .. }, counted) in counted {
        ensure!(
            !lossless || counted.lost == 0,
            "{name}: nothing was to be lost, and {} datagrams were",
            counted.lost
        );
    }
    router.map_or(Ok(()), Router::unload)
}

/// The name of a signal as `kill` takes it.
fn short(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}

fn carry_out(
    act: Act,
    nodes: &Nodes,
    routers: &mut Routers<'_>,
    router: &mut Option<Router>,
    source: &Source,
) -> Result<()> {
    match act {
        Switch(signal) => {
            if let Some(router) = router.take() {
                command(&nodes.pr, &format!("kill -{} $(pidof mplsxdp)", short(signal)));
                router.stop(signal)?;
            }
        }
        Load => *router = Some(load(&nodes.pr, source.load)?),
        Frr(daemon, signal) => {
            let which = if daemon == "all" {
                "all daemons of FRR, zebra last"
            } else {
                daemon
            };
            println!("PR: SIG{} to {which}", short(signal));
            routers.pr.stop(daemon, signal)?;
        }
        Start(options) => {
            let options_of_zebra = if options.is_empty() {
                String::new()
            } else {
                format!(", zebra with {options}")
            };
            println!("PR: the daemons of FRR that do not run are started{options_of_zebra}");
            routers.pr.set_zebra_options(&format!("{} {options}", source.zebra));
            routers.pr.start_all()?;
        }
        ZebraStaysEmpty => {
            println!("Waiting {} s for labels in zebra ...", WATCHED.as_secs());
            sleep(WATCHED);
            let table = routers.pr.show("show mpls table")?;
            shell(&nodes.pr, "ip -f mpls route show")?;
            ensure!(
                !table.contains("LDP"),
                "ldpd was not expected to give zebra its labels again"
            );
        }
        LdpEnds => {
            println!("Waiting until LDP's sessions end; about three minutes ...");
            let begin = Instant::now();
            wait::until("the end of LDP's sessions", LDP_ENDS, || {
                sleep(INTERVAL * 100);
                let sessions = routers.pr.ask("show mpls ldp neighbor")?;
                Ok((!sessions.contains("OPERATIONAL")).then_some(()))
            })?;
            println!("... after {} s more.", begin.elapsed().as_secs());
            routers.pr.show("show mpls ldp neighbor")?;
            no_ping(&nodes.pr, "10.255.0.1")?;
            shell(&nodes.pr, "ip -f mpls route show")?;
        }
        LeaveLabel => {
            nodes
                .pr
                .run_all(&[&format!("ip -f mpls route add {LEFT} via inet 10.0.1.1 proto 193")])?;
        }
        LabelStays => {
            routers.relearned()?;
            routers.wait_converged()?;
            let table = shell(&nodes.pr, "ip -f mpls route show")?;
            ensure!(
                table.contains(&format!("{LEFT} via")),
                "label {LEFT} was expected to stay in the kernel"
            );
            nodes.pr.run_all(&[&format!("ip -f mpls route del {LEFT}")])?;
        }
        Recovered => {
            println!("Waiting for OSPF, LDP and BGP ...");
            // The PEs still have their routes before PR has its labels.
            routers.relearned()?;
            routers.wait_converged()?;
            synchronised(router.as_ref().context("mplsxdp is not loaded")?, &nodes.pr)?;
        }
    }
    Ok(())
}
