//! The control socket, by a client that was not written here.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::needs::{Need, python};
use mplsxdp_tests::router::ensure_nothing_left;
use mplsxdp_tests::{End, Lab, Router, link};

use crate::test_with;

const CLIENT: &str = include_str!("varlink_client.py");

pub fn tests() -> Vec<Trial> {
    vec![test_with(
        "control::the_varlink_package_of_pypi_drives_it",
        Some(Need::PythonModule("varlink")),
        varlink,
    )]
}

fn varlink() -> Result<()> {
    let lab = Lab::new()?;
    let (netns, peer) = (lab.netns("router")?, lab.netns("peer")?);
    link(End::new(&netns, "eth1"), End::new(&peer, "eth0"))?;
    let mut router = Router::load(&netns, "--iface eth1")?;
    router.run("route add 100 as 110 via link 02:00:00:00:00:01 dev eth1")?;
    let output = python().args(["-c", CLIENT]).arg(router.socket()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // It said so.
    let status = router.ended()?;
    ensure!(status.success(), "after Unload: {status}");
    ensure_nothing_left(&netns, netns.name())
}
