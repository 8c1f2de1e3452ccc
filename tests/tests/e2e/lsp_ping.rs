//! LSP ping and LSP traceroute across three routers, with tshark as the judge of every packet.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::router::{Router, program};
use mplsxdp_tests::three_routers::ThreeRouters;
use mplsxdp_tests::{Lab, Tap};
use serde_json::{Value, json};

use crate::pseudowire::{capture_file, run_on};
use crate::test_with;

pub fn tests() -> Vec<Trial> {
    let tshark = Some(Need::Program("tshark", "tshark"));
    vec![test_with(
        "lsp_ping::a_broken_lsp_is_found_at_its_hop",
        tshark,
        across_three_routers,
    )]
}

const R2: &str = "192.168.30.102";
const R3: &str = "192.168.40.102";

/// The answer of `lsp`, and whether it says that the LSP works.
fn lsp(router: &Router, arguments: &str) -> Result<(bool, Value)> {
    let words = arguments.split_whitespace();
    let program = program()?;
    // Replies come to where the command runs.
    let output = router
        .netns()
        .command(&program.to_string_lossy())
        .args(["--instance", router.instance(), "--json", "lsp"])
        .args(words)
        .args(["--wait", "1", "--interval", "0.01"])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    let answer = serde_json::from_str(&text).with_context(|| format!("`lsp {arguments}`: {text}{said}"))?;
    Ok((output.status.success(), answer))
}

/// The letters and routers in an answer.
fn hops(answer: &Value) -> Vec<(String, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let lines = answer.as_array().into_iter().flatten();
    lines.map(|line| (text(line, "letter"), text(line, "from"))).collect()
}

fn expect(router: &Router, arguments: &str, works: bool, expected: &[(&str, &str)]) -> Result<Value> {
    let (worked, answer) = lsp(router, arguments)?;
    let found = hops(&answer);
    let found = Vec::from_iter(found.iter().map(|(letter, from)| (&**letter, &**from)));
    ensure!(found == expected && worked == works, "`lsp {arguments}`: {answer}");
    Ok(answer)
}

fn across_three_routers() -> Result<()> {
    let lab = Lab::new()?;
    let net = ThreeRouters::with_ip_edges(&lab, ["", "", ""])?;
    let [r1, r2, r3] = &net.routers;
    // The way back from r3 is the other LSP, and from r2 the link.
    let source = "--source 10.3.3.1";
    let (on_link12, on_link23) = (Tap::open(&net.cable12, "a")?, Tap::open(&net.cable23, "a")?);
    r2.netns().ip("route add 10.3.3.0/24 via 192.168.30.101")?;

    // The end of the LSP knows the FEC, and not another one.
    let egress = [("!", R3)];
    expect(
        r1,
        &format!("ping 10.4.4.0/24 --count 3 {source}"),
        true,
        &[("!", R3); 3],
    )?;
    expect(
        r1,
        &format!("ping 10.4.4.0/24 --count 1 --fec ldp --size 1400 {source}"),
        true,
        &egress,
    )?;
    expect(
        r1,
        &format!("ping 100 via {R2} dev eth2 --count 1 {source}"),
        true,
        &egress,
    )?;
    let foreign = format!("ping 10.4.4.0/24 --count 1 --fec ldp:10.9.9.0/24 {source}");
    expect(r1, &foreign, false, &[("F", R3)])?;

    // Hop by hop, with what each says of the next one.
    let traceroute = format!("traceroute 10.4.4.0/24 {source}");
    let hops = expect(r1, &traceroute, true, &[("L", R2), ("!", R3)])?;
    let onward = json!([{ "address": R3, "mtu": 1600, "labels": [110] }]);
    ensure!(hops[0]["downstream"] == onward, "{hops}");
    let (works, trees) = lsp(r1, &format!("{traceroute} --paths"))?;
    ensure!(
        works && trees[0]["addresses"] == 32 && trees[0]["next"][0]["letter"] == "!",
        "{trees}"
    );

    // Broken at r3: r2 still switches, r3 has no entry. Broken at r2: the same there.
    r3.run("route del 110")?;
    expect(r1, &traceroute, false, &[("L", R2), ("N", R3)])?;
    expect(r1, &format!("ping 10.4.4.0/24 --count 1 {source}"), false, &[("N", R3)])?;
    r3.run("route add 110 dev lo")?;
    // A label that r3 does not have in this place: r2 says one thing, and does another to the request.
    r2.run(&format!("route replace 100 as implicit-null via inet {R3}"))?;
    expect(r1, &traceroute, true, &[("L", R2), ("!", R3)])?;
    expect(r1, &format!("ping 10.4.4.0/24 --count 1 {source}"), true, &egress)?;
    r2.run("route del 100")?;
    expect(r1, &traceroute, false, &[("N", R2)])?;

    // What cannot be sent is refused, with the reason.
    for (arguments, reason) in [
        ("lsp ping 10.9.9.0/24", "has no route"),
        ("lsp ping 100 via 192.0.2.1", "no route uses the next hop"),
        ("lsp ping 10.4.4.0/24 --destination 10.0.0.1", "not a loopback address"),
    ] {
        let refused = r1.run(arguments).err().context("an LSP that is none")?.to_string();
        ensure!(refused.contains(reason), "`{arguments}`: {refused}");
    }

    // Every packet of UDP port 3503 is right in the eyes of tshark.
    let mut frames = on_link12.drain()?;
    frames.extend(on_link23.drain()?);
    let frames = Vec::from_iter(frames.into_iter().filter(|frame| is_lsp_ping(frame)));
    ensure!(frames.len() > 20, "{} packets", frames.len());
    let rows = by_tshark(&frames)?;
    ensure!(
        rows.len() == frames.len(),
        "{} rows for {} packets",
        rows.len(),
        frames.len()
    );
    for row in &rows {
        let fields = Vec::from_iter(row.split('\t'));
        let [kind, code, version, expert] = fields[..] else {
            anyhow::bail!("{row}");
        };
        let is_known = matches!((kind, code), ("1", "0") | ("2", "3" | "4" | "8" | "11"));
        // The TTL is what RFC 8029 section 4.3 requires of a request.
        let is_right = expert.is_empty() || (kind == "1" && expert == "\"Time To Live\" only 1");
        ensure!(is_known && version == "1" && is_right, "tshark: {row}");
    }
    Ok(())
}

/// Whether a frame has a UDP datagram from or to port 3503, under any labels.
fn is_lsp_ping(frame: &[u8]) -> bool {
    let labels = match frame.get(12..14) {
        Some([0x88, 0x47]) => frame[14..]
            .chunks_exact(4)
            .position(|entry| entry[2] & 1 == 1)
            .map(|last| last + 1),
        Some([0x08, 0x00]) => Some(0),
        _ => None,
    };
    let Some(packet) = labels.and_then(|labels| frame.get(14 + labels * 4..)) else {
        return false;
    };
    let port = 3503_u16.to_be_bytes();
    packet.len() > 28 && packet[0] == 0x45 && packet[9] == 17 && (packet[20..22] == port || packet[22..24] == port)
}

/// The type, the return code and the version of each message, and what tshark complains about.
fn by_tshark(frames: &[Vec<u8>]) -> Result<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args([
        "-r",
        "-",
        "-n",
        "-o",
        "udp.check_checksum:TRUE",
        "-o",
        "ip.check_checksum:TRUE",
        "-T",
        "fields",
    ]);
    for field in [
        "mpls_echo.msg_type",
        "mpls_echo.return_code",
        "mpls_echo.version",
        "_ws.expert.message",
    ] {
        command.args(["-e", field]);
    }
    let text = run_on(command, &capture_file(frames))?;
    Ok(text.lines().map(str::to_owned).collect())
}
