//! The control socket, with clients that are not part of this program.

use anyhow::{Context as _, Result, anyhow, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::Instance;
use mplsxdp::control::client::Client;
use mplsxdp_tests::frame::Entry;
use mplsxdp_tests::needs::{Need, python};
use mplsxdp_tests::router::ensure_nothing_left;
use mplsxdp_tests::{End, Lab, Router, link};

use crate::bench::{Bench, NATIVE, RIGHT};
use crate::{test, test_with};

/// The example for programs in Rust.
#[expect(dead_code, reason = "it has a main function")]
#[path = "../../../mplsxdp/examples/control_plane.rs"]
mod control_plane;

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
        test("control::a_control_plane_in_rust_drives_it", in_rust),
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

fn in_rust() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let mut client = Client::connect(&Instance::new(bench.router.instance())?)?;
    let plain = |error: Box<dyn std::error::Error>| anyhow!("{error}");
    let via = format!("via link {RIGHT} dev eth2");
    let lines: Vec<String> = (1000..3500).map(|label| format!("{label} as 110 {via}\n")).collect();
    let committed = control_plane::install(&mut client, &lines.concat()).map_err(plain)?;
    let changes = committed.changes;
    ensure!((changes.added, changes.deleted) == (2500, 1), "{changes:?}");
    // One that is refused changes nothing.
    for (wrong, part) in [
        (format!("1000 as 110 {via}\n1001 as x {via}\n"), "x"),
        (format!("1000 as 110 {via}\n1000 as 111 {via}\n"), "1000"),
    ] {
        let refused = control_plane::install(&mut client, &wrong)
            .err()
            .context("it was taken")?;
        ensure!(refused.to_string().contains(part), "{refused}");
    }
    ensure!(
        control_plane::forwarded(&mut client).map_err(plain)?.len() == 2500,
        "the routes are others"
    );
    control_plane::install(&mut client, &lines[..2].concat()).map_err(plain)?;
    bench.left.send(&bench.labelled(&[Entry::new(1001, 64)], b"payload"))?;
    let swapped = bench.out_labelled(&[Entry::new(110, 63)], b"payload");
    bench.right.receive("the swapped frame", |frame| frame == swapped)?;
    let expected = [
        (format!("1000 as to 110 {via}"), 0),
        (format!("1001 as to 110 {via}"), 1),
    ];
    let found = control_plane::forwarded(&mut client).map_err(plain)?;
    ensure!(found == expected, "{found:?}");
    bench.router.unload()
}
