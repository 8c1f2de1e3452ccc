//! End-to-end tests: `mplsxdp` in network namespaces, real frames in, exact frames out. `tests/README.md` lists them.
//! A test that this machine cannot run is counted as ignored, with the reason; it never passes.

mod attachment;
mod bench;
mod capture;
mod capturing;
mod checksum;
mod config;
mod conformance;
mod control;
mod devices;
mod differential_kernel;
mod doctor;
mod exceptions;
mod faults;
mod fpm;
mod frr;
mod handover;
mod hostile;
mod jumbo;
mod kernel_mpls;
mod kernel_routes;
mod kernel_sync;
mod lifecycle;
mod local;
mod log;
mod lsp_ping;
mod metrics;
mod monitor;
mod multipath;
mod neighbours;
mod owners;
mod pages;
mod persist;
mod ports;
mod preflight;
mod pseudowire;
mod routes;
mod routing;
mod sandbox;
mod service;
mod soak;
mod state;
mod switching;
mod too_big;
mod top;
mod trace;
mod traceroute;
mod untouched;
mod virtio;
mod vlan;
mod vrf;
mod web;
mod xconnect;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Trial};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::tidy;

/// Tests wait for processes more than they compute: this is one more than the CPUs that every machine has.
const THREADS: usize = 3;

fn main() -> Result<()> {
    tidy::on_signals()?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let tests = [
        routes::tests(),
        owners::tests(),
        routing::tests(),
        switching::tests(),
        untouched::tests(),
        neighbours::tests(),
        control::tests(),
        lifecycle::tests(),
        config::tests(),
        pages::tests(),
        persist::tests(),
        soak::tests(),
        faults::tests(),
        sandbox::tests(),
        hostile::tests(),
        service::tests(),
        state::tests(),
        ports::tests(),
        log::tests(),
        monitor::tests(),
        metrics::tests(),
        preflight::tests(),
        doctor::tests(),
        local::tests(),
        top::tests(),
        traceroute::tests(),
        trace::tests(),
        lsp_ping::tests(),
        exceptions::tests(),
        too_big::tests(),
        multipath::tests(),
        jumbo::tests(),
        kernel_routes::tests(),
        kernel_mpls::tests(),
        kernel_sync::tests(),
        differential_kernel::tests(),
        handover::tests(),
        fpm::tests(),
        frr::tests(),
        vlan::tests(),
        xconnect::tests(),
        pseudowire::tests(),
        attachment::tests(),
        vrf::tests(),
        web::tests(),
        devices::tests(),
        capture::tests(),
        capturing::tests(),
        checksum::tests(),
        virtio::tests(),
        conformance::tests(),
    ];
    let conclusion = libtest_mimic::run(&arguments, tests.into_iter().flatten().collect());
    tidy::unmount_bpffs();
    conclusion.exit()
}

/// A test that needs a lab, and this need.
fn test_with(name: &str, need: Option<Need>, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    test_with_all(name, need.as_slice(), test)
}

/// A test that needs a lab, and each of these needs.
fn test_with_all(name: &str, needs: &[Need], test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    let needs = [&[Need::Lab], needs].concat();
    Trial::ignorable_test(name, move || {
        if let Some(reason) = needs.into_iter().find_map(Need::missing) {
            return Ok(Completion::ignored_with(reason));
        }
        test()
            .map(|()| Completion::Completed)
            .map_err(|error| format!("{error:#}").into())
    })
}

/// A test that needs a lab.
fn test(name: &str, test: fn() -> Result<()>) -> Trial {
    test_with(name, None, test)
}
