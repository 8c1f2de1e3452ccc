//! The labs: mplsxdp among routers that run FRR or only Linux. `cargo xtask guest lab NAME` runs this in a guest whose
//! kernel has MPLS and which has FRR in /debian. Each lab shows its commands and their output, and fails if the output
//! is not as it should be.

mod bgp_lu;
mod convergence;
mod differential;
mod edges;
mod frr;
mod join;
mod kernel_counters;
mod l3vpn;
mod linux_edge;
mod net;
mod package;
mod pseudowires;
mod restarts;
mod segment_routing;
mod show;
mod ti_lfa;
mod traffic;
mod watch;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mplsxdp_tests::{Lab, tidy};

/// A lab, and what it needs.
struct Entry {
    name: &'static str,
    /// `mpls` for a kernel with MPLS, `plain` for one without; `systemd` for a guest of its own with systemd.
    kernel: &'static str,
    shows: &'static str,
    run: fn(&Lab) -> Result<()>,
}

const LABS: [Entry; 15] = [
    Entry {
        name: "linux-edge",
        kernel: "mpls",
        shows: "routers at the edge that run only Linux (`encap mpls`), mplsxdp between them",
        run: linux_edge::run,
    },
    Entry {
        name: "l3vpn",
        kernel: "mpls",
        shows: "an MPLS VPN by FRR (OSPF, LDP, BGP)",
        run: l3vpn::run,
    },
    Entry {
        name: "fpm",
        kernel: "mpls",
        shows: "the same VPN, mplsxdp on the P router by what zebra sends to it",
        run: l3vpn::by_fpm,
    },
    Entry {
        name: "edges",
        kernel: "mpls",
        shows: "the same VPN, mplsxdp on the PEs too: imposition by the routes of VRFs",
        run: edges::run,
    },
    Entry {
        name: "convergence",
        kernel: "mpls",
        shows: "what is lost when a link fails, by the kernel and by mplsxdp",
        run: convergence::run,
    },
    Entry {
        name: "sr-ospf",
        kernel: "mpls",
        shows: "the VPN over OSPF segment routing: prefix SIDs, explicit null, adjacency SIDs",
        run: segment_routing::by_ospf,
    },
    Entry {
        name: "sr-isis",
        kernel: "mpls",
        shows: "the same over IS-IS segment routing",
        run: segment_routing::by_isis,
    },
    Entry {
        name: "ti-lfa",
        kernel: "mpls",
        shows: "what is lost when a link fails, with the backups that FRR computes and without",
        run: ti_lfa::run,
    },
    Entry {
        name: "restarts",
        kernel: "mpls",
        shows: "what is lost when FRR and mplsxdp are restarted in every order",
        run: restarts::by_kernel,
    },
    Entry {
        name: "restarts-fpm",
        kernel: "mpls",
        shows: "the same with FPM as the source",
        run: restarts::by_fpm,
    },
    Entry {
        name: "differential",
        kernel: "mpls",
        shows: "random tables and frames through the kernel's MPLS and through mplsxdp",
        run: differential::run,
    },
    Entry {
        name: "join",
        kernel: "mpls",
        shows: "one more router joins, by LDP and by segment routing",
        run: join::run,
    },
    Entry {
        name: "bgp-lu",
        kernel: "plain",
        shows: "labels by BGP (ExaBGP) over the control socket, on a kernel without MPLS",
        run: bgp_lu::run,
    },
    Entry {
        name: "pseudowires",
        kernel: "mpls",
        shows: "a pseudowire that FRR's ldpd signals between two PEs: LLDP crosses",
        run: pseudowires::run,
    },
    Entry {
        name: "package",
        kernel: "systemd",
        shows: "the .deb: installed, upgraded, removed and purged",
        run: package::run,
    },
];

fn main() -> Result<ExitCode> {
    let names: Vec<_> = std::env::args().skip(1).collect();
    if names.is_empty() || names.iter().any(|name| name == "--list") {
        for lab in LABS {
            println!("{}\t{}\t{}", lab.name, lab.kernel, lab.shows);
        }
        return Ok(ExitCode::SUCCESS);
    }
    tidy::on_signals()?;
    let (mut passed, mut failed) = (0, 0);
    for name in names {
        let entry = LABS.iter().find(|lab| lab.name == name);
        let entry = entry.with_context(|| format!("there is no lab {name}: `--list` shows all"))?;
        match Lab::new().and_then(|lab| (entry.run)(&lab)) {
            Ok(()) => passed += 1,
            Err(error) => {
                println!("\nlab {name} FAILED: {error:#}");
                failed += 1;
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
