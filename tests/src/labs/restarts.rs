//! What is lost when FRR and mplsxdp are restarted, in the VPN of `l3vpn`.

use anyhow::{Result, ensure};
use mplsxdp_tests::{Lab, Router};
use nix::sys::signal::Signal;

use crate::l3vpn::{CORE_DAEMONS, Nodes, Routers, synchronised};
use crate::show::{heading, load, ping, title};
use crate::traffic::{Counted, INTERVAL, Traffic};

const OPTIONS: &str = "--sync kernel --iface to-PE1 --iface to-PE2";

/// What happens to PR.
#[derive(Clone, Copy)]
enum Step {
    ReloadSwitch,
    KillSwitch,
    RestartLdpd,
    KillZebra,
    RestartZebra,
    RestartFrr,
    FrrThenSwitch,
    SwitchThenFrr,
}

const STEPS: [(Step, &str); 8] = [
    (Step::ReloadSwitch, "mplsxdp: SIGTERM, and loaded again"),
    (Step::KillSwitch, "mplsxdp: SIGKILL, and loaded again"),
    (Step::RestartLdpd, "ldpd: SIGTERM, and started again"),
    (Step::KillZebra, "zebra alone: SIGKILL, and started again"),
    (Step::RestartZebra, "zebra alone: SIGTERM, and started again"),
    (Step::RestartFrr, "all of FRR: SIGTERM, and started again"),
    (
        Step::FrrThenSwitch,
        "FRR, then mplsxdp: SIGTERM; started in the same order",
    ),
    (
        Step::SwitchThenFrr,
        "mplsxdp, then FRR: SIGTERM; started in the same order",
    ),
];

pub fn run(lab: &Lab) -> Result<()> {
    title("Restarts on PR of the MPLS VPN, under numbered traffic from CE1 to CE2");
    let nodes = Nodes::new(lab)?;
    let mut routers = Routers::start(&nodes, "l3vpn", &CORE_DAEMONS)?;
    routers.converged()?;
    let mut router = load(&nodes.pr, OPTIONS)?;
    synchronised(&router, &nodes.pr)?;
    let mut counted = Vec::new();
    for (step, name) in STEPS {
        heading(name);
        let traffic = Traffic::start(&nodes.ce[0], &nodes.ce[1], "192.168.2.1".parse()?)?;
        std::thread::sleep(INTERVAL * 100);
        router = carry_out(step, &nodes, &mut routers, router)?;
        // The PEs still have their routes before PR has its labels.
        routers.relearned()?;
        routers.converged()?;
        synchronised(&router, &nodes.pr)?;
        std::thread::sleep(INTERVAL * 100);
        let lost = traffic.count()?;
        println!("{lost}");
        ping(&nodes.ce[0], "192.168.2.1", 62)?;
        counted.push((step, name, lost));
    }
    heading("In short (a datagram every 5 ms)");
    for (_, name, lost) in &counted {
        println!("{name:<60} {lost}");
    }
    for (step, name, Counted { lost, .. }) in counted {
        if matches!(step, Step::ReloadSwitch | Step::KillSwitch) {
            ensure!(lost == 0, "{name}: nothing was to be lost, and {lost} datagrams were");
        }
    }
    router.unload()
}

fn carry_out(step: Step, nodes: &Nodes, routers: &mut Routers<'_>, router: Router) -> Result<Router> {
    let pr = &nodes.pr;
    let frr = &mut routers.pr;
    match step {
        Step::ReloadSwitch | Step::KillSwitch => {
            router.stop(match step {
                Step::ReloadSwitch => Signal::SIGTERM,
                _ => Signal::SIGKILL,
            })?;
            load(pr, OPTIONS)
        }
        Step::RestartLdpd => {
            frr.stop("ldpd", Signal::SIGTERM)?;
            frr.start_all()?;
            Ok(router)
        }
        Step::KillZebra => {
            frr.stop("zebra", Signal::SIGKILL)?;
            frr.start_all()?;
            Ok(router)
        }
        Step::RestartZebra => {
            frr.stop("zebra", Signal::SIGTERM)?;
            frr.start_all()?;
            Ok(router)
        }
        Step::RestartFrr => {
            frr.stop("all", Signal::SIGTERM)?;
            frr.start_all()?;
            Ok(router)
        }
        Step::FrrThenSwitch => {
            frr.stop("all", Signal::SIGTERM)?;
            router.stop(Signal::SIGTERM)?;
            frr.start_all()?;
            load(pr, OPTIONS)
        }
        Step::SwitchThenFrr => {
            router.stop(Signal::SIGTERM)?;
            frr.stop("all", Signal::SIGTERM)?;
            let router = load(pr, OPTIONS)?;
            frr.start_all()?;
            Ok(router)
        }
    }
}
