//! The control socket, with clients that are not part of this program.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::needs::{Need, python};
use mplsxdp_tests::router::ensure_nothing_left;
use mplsxdp_tests::{End, Lab, Router, link};

use crate::test_with;

/// Contains the examples that these clients use.
const DOCUMENT: &str = include_str!("../../../docs/control-socket.md");
const PYPI_CLIENT: &str = include_str!("varlink_client.py");
const PLAIN_CLIENT: &str = include_str!("plain_client.py");

pub fn tests() -> Vec<Trial> {
    let client = |name, module, example, client| {
        let drive = move || drive(&format!("{}\n{client}", example_of(example)?));
        test_with(name, Some(Need::PythonModule(module)), drive)
    };
    vec![
        client(
            "control::the_varlink_package_of_pypi_drives_it",
            "varlink",
            "checked",
            PYPI_CLIENT,
        ),
        client(
            "control::a_client_without_a_package_drives_it",
            "json",
            "switch",
            PLAIN_CLIENT,
        ),
    ]
}

/// The code that follows the mark of an example in the document.
fn example_of(name: &str) -> Result<&'static str> {
    let mark = format!("<!-- example: {name} -->\n```python\n");
    let code = DOCUMENT
        .split_once(&mark)
        .and_then(|(_, code)| code.split_once("\n```\n"));
    let (code, _) = code.with_context(|| format!("the document has no example {name}"))?;
    Ok(code)
}

/// Runs a client, which unloads the instance at the end.
fn drive(client: &str) -> Result<()> {
    let lab = Lab::new()?;
    let (netns, peer) = (lab.netns("router")?, lab.netns("peer")?);
    link(End::new(&netns, "eth1"), End::new(&peer, "eth0"))?;
    let mut router = Router::load(&netns, "--iface eth1")?;
    let output = python().args(["-c", client]).arg(router.socket()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // As the client requested.
    let status = router.ended()?;
    ensure!(status.success(), "after Unload: {status}");
    ensure_nothing_left(&netns, netns.name())
}
