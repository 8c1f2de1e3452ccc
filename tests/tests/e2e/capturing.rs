//! `mplsxdp capture`: frames as they come in and go out, and those that do not go out.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::Link;
use mplsxdp_tests::capture;
use mplsxdp_tests::frame::{Entry, labelled, udp};
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::router::program;
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::{End, Lab, Router, Tap, link, wait};
use nix::sys::signal::Signal;

use crate::{test, test_with};

const PATIENCE: Duration = Duration::from_secs(20);

pub fn tests() -> Vec<Trial> {
    let tshark = Some(Need::Program("tshark", "tshark"));
    vec![
        test("capturing::frames_are_captured_as_they_come_in_and_go_out", captured),
        test_with("capturing::tshark_reads_a_capture_while_it_is_written", tshark, live),
    ]
}

/// left - eth1 router eth2 - right
struct Bench {
    router: Router,
    left: Tap,
    right: Tap,
    folder: PathBuf,
    _lab: Lab,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Bench {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (left, middle, right) = (lab.netns("left")?, lab.netns("router")?, lab.netns("right")?);
        link(End::new(&left, "eth0"), End::new(&middle, "eth1"))?;
        link(End::new(&middle, "eth2"), End::new(&right, "eth0"))?;
        let router = Router::load(&middle, "--iface eth1 --iface eth2")?;
        let mac = right.mac("eth0")?;
        router.add_routes(&[
            &format!("100 as 110 via link {mac} dev eth2"),
            &format!("101 as 111 via link {mac} dev eth2"),
        ])?;
        let folder = std::env::temp_dir().join(middle.name());
        fs::create_dir_all(&folder)?;
        Ok(Self {
            router,
            left: Tap::open(&left, "eth0")?,
            right: Tap::open(&right, "eth0")?,
            folder,
            _lab: lab,
        })
    }

    fn frame(&self, label: u32, ttl: u8, text: &str) -> Result<Vec<u8>> {
        let packet = udp("192.0.2.1".parse()?, "10.9.0.1".parse()?, 64, text.as_bytes())?;
        let port = self.router.netns().mac("eth1")?;
        Ok(labelled(port, self.left.mac(), &[Entry::new(label, ttl)], &packet))
    }

    /// Sends a frame that is forwarded; returns what arrives.
    fn forward(&self, frame: &[u8]) -> Result<Vec<u8>> {
        self.left.send(frame)?;
        wait::until("the frame", PATIENCE, || Ok(self.right.drain()?.pop()))
    }

    fn program_ids(&self) -> Result<Vec<u32>> {
        let links: Vec<Link> = self.router.json("link show")?;
        Ok(links.iter().map(|link| link.program_id).collect())
    }

    /// A command that captures when this returns.
    fn capture(&self, file: &Path, arguments: &str) -> Result<Reaped> {
        let mut command = Command::new(program()?);
        command
            .args(["--instance", self.router.instance(), "capture", "-w"])
            .arg(file)
            .args(arguments.split_whitespace());
        begun(spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()))?)
    }
}

/// Waits until a command captures.
fn begun(mut process: Reaped) -> Result<Reaped> {
    let mut said = BufReader::new(process.child().stderr.take().context("no pipe")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure!(line.contains("capturing"), "{line}");
    process.child().stderr = Some(said.into_inner());
    Ok(process)
}

fn captured() -> Result<()> {
    let bench = Bench::new()?;
    let before = bench.program_ids()?;
    let [all, some, killed] = ["all", "some", "killed"].map(|name| bench.folder.join(name));
    let mut everything = bench.capture(&all, "--sample 1 --count 6")?;
    let mut expired = bench.capture(&some, "--reason ttl-expired --iface eth1 --label 101 --count 1")?;
    let mut forwarded = bench.capture(&killed, "--reason none --sample 1 --label 100")?;
    let during = bench.program_ids()?;
    ensure!(during.iter().all(|id| !before.contains(id)), "{before:?} {during:?}");

    // One whose end is not in the smallest record.
    let sent = bench.frame(100, 64, &"long ".repeat(200))?;
    let left = bench.forward(&sent)?;
    let other = [
        bench.frame(999, 64, "unknown")?,
        bench.frame(100, 1, "expired")?,
        bench.frame(998, 64, "unknown")?,
    ];
    let last = bench.frame(101, 1, "expired")?;
    for frame in other.iter().chain([&last]) {
        bench.left.send(frame)?;
    }
    for process in [&mut everything, &mut expired] {
        ensure!(process.ended(PATIENCE)?.success());
    }
    let bytes = |file: &Path| -> Result<Vec<Vec<u8>>> {
        let file = capture::read(file)?;
        let frames = capture::frames(&file)?;
        ensure!(frames.iter().all(|frame| !frame.is_truncated()));
        Ok(frames.iter().map(|frame| frame.bytes.to_vec()).collect())
    };
    let [one, two, three] = other;
    ensure!(
        bytes(&all)? == [sent.clone(), left.clone(), one, two, three, last.clone()],
        "{:?}",
        bytes(&all)?
    );
    ensure!(bytes(&some)? == [last]);

    // Whoever is killed captures no longer.
    wait::until("frames in the file", PATIENCE, || {
        Ok((bytes(&killed)?.len() == 2).then_some(()))
    })?;
    ensure!(bytes(&killed)? == [sent.clone(), left.clone()]);
    forwarded.signal(Signal::SIGKILL)?;
    forwarded.ended(PATIENCE)?;
    wait::until("programs that do not capture", PATIENCE, || {
        let after = bench.program_ids()?;
        Ok((after.iter().all(|id| !during.contains(id))).then_some(()))
    })?;
    ensure!(bench.forward(&sent)? == left);
    for wrong in ["--reason blue", "--reason none", "--iface eth7", "--sample 0"] {
        let file = bench.folder.join("wrong");
        let refused = bench.router.run(&format!("capture -w {} {wrong}", file.display()));
        ensure!(refused.is_err(), "{wrong}");
    }
    Ok(())
}

fn live() -> Result<()> {
    let bench = Bench::new()?;
    let mut tshark = Command::new("tshark");
    let fields = [
        "frame.interface_name",
        "mpls.label",
        "mpls.ttl",
        "frame.comment",
        "frame.packet_flags_direction",
    ];
    tshark.args(["-l", "-n", "-r", "-", "-T", "fields"]);
    tshark.args(fields.iter().flat_map(|field| ["-e", field]));
    let mut tshark = spawn(
        tshark
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    )?;
    let mut command = Command::new(program()?);
    let pipe = tshark.child().stdin.take().context("no pipe")?;
    command
        .args([
            "--instance",
            bench.router.instance(),
            "capture",
            "--sample",
            "1",
            "-w",
            "-",
        ])
        .stdin(Stdio::null())
        .stdout(pipe)
        .stderr(Stdio::piped());
    let mut capture = begun(spawn(&mut command)?)?;
    bench.forward(&bench.frame(100, 64, "forwarded")?)?;
    bench.left.send(&bench.frame(999, 64, "unknown")?)?;
    let mut output = BufReader::new(tshark.child().stdout.take().context("no pipe")?);
    let mut lines = Vec::new();
    for _ in 0..3 {
        let mut line = String::new();
        output.read_line(&mut line)?;
        lines.push(line);
    }
    let expected = [
        "eth1\t100\t64\tforwarded to eth2\t0x00000001\n",
        "eth2\t110\t63\tforwarded from eth1\t0x00000002\n",
        "eth1\t999\t64\tpunted: no-route. No route for the incoming label.\t0x00000001\n",
    ];
    ensure!(lines == expected, "{lines:#?}");
    // The command ends with its reader.
    tshark.signal(Signal::SIGKILL)?;
    drop(output);
    let mut said = String::new();
    let status = capture.ended(PATIENCE)?;
    capture
        .child()
        .stderr
        .take()
        .context("no pipe")?
        .read_to_string(&mut said)?;
    ensure!(status.success(), "{status}: {said}");
    Ok(())
}
