//! The labs: mplsxdp among routers that run FRR or only Linux. `cargo xtask guest lab NAME` runs this in a guest whose kernel
//! has MPLS and which has FRR in /debian. Each lab prints what it does and sees, and fails when that is not what it should be.

mod frr;
mod kernel_counters;
mod l3vpn;
mod linux_edge;
mod net;
mod show;
mod watch;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use mplsxdp_tests::{Lab, tidy};

/// A lab, and what it needs.
struct Entry {
    name: &'static str,
    /// `mpls` for a kernel with MPLS, `plain` for one without.
    kernel: &'static str,
    shows: &'static str,
    run: fn(&Lab) -> Result<()>,
}

const LABS: [Entry; 2] = [
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
