//! `mplsxdp web`: the page in a real browser, and who may ask for it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::frame::Entry;
use mplsxdp_tests::needs::{Need, browser};
use mplsxdp_tests::tidy::{Reaped, spawn};
use mplsxdp_tests::{Netns, http, router};
use serde_json::Value;

use crate::bench::{Bench, NATIVE, v4};
use crate::{test, test_with};

/// Between two frames.
const PAUSE: Duration = Duration::from_millis(10);
const ADDRESS: &str = "127.0.0.1:8177";

pub fn tests() -> Vec<Trial> {
    vec![
        test("web::it_can_be_read_by_its_address_only", reading),
        test_with("web::a_browser_shows_an_instance_live", Some(Need::Browser), page),
    ]
}

/// `mplsxdp web` for the router of a bench, in its namespace.
struct Web {
    _process: Reaped,
}

impl Web {
    fn start(bench: &Bench) -> Result<Self> {
        let netns = bench.router.netns();
        let mut command = netns.command(&router::program()?.to_string_lossy());
        command.args(["--instance", bench.router.instance(), "web", "--listen", ADDRESS]);
        let mut process = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut line = String::new();
        let said = process.child().stdout.take().context("no pipe")?;
        BufReader::new(said).read_line(&mut line)?;
        let expected = format!("instance {}: http://{ADDRESS}/\n", bench.router.instance());
        ensure!(line == expected, "it said {line}");
        Ok(Self { _process: process })
    }
}

fn ask(netns: &Netns, path: &str) -> Result<(u16, String)> {
    netns.within(|| http::get(TcpStream::connect(ADDRESS)?, path, "*/*"))
}

fn reading() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let netns = bench.router.netns().clone();
    bench.route("100 as 200")?;
    let web = Web::start(&bench)?;
    let (status, page) = ask(&netns, "/")?;
    ensure!(status == 200 && page.starts_with("<!doctype html>"), "{status}: {page}");
    let (status, state) = ask(&netns, "/state")?;
    let state: Value = serde_json::from_str(&state).with_context(|| format!("{status}: {state}"))?;
    ensure!(
        state["links"].as_array().is_some_and(|links| links.len() == 2),
        "{state}"
    );
    ensure!(state["status"]["label_routes"] == 2, "{state}");
    let (status, busiest) = ask(&netns, "/busiest")?;
    ensure!(status == 200 && busiest.contains("\"routes\":["), "{status}: {busiest}");
    ensure!(ask(&netns, "/etc")?.0 == 404, "a path that is not there");

    // Under another name, as after DNS rebinding, and by another method, nothing is answered.
    for (request, expected) in [
        (
            "GET /state HTTP/1.1\r\nHost: evil.example:8177\r\n\r\n",
            "HTTP/1.1 403 ",
        ),
        ("GET /state HTTP/1.0\r\n\r\n", "HTTP/1.0 403 "),
        (
            "POST /state HTTP/1.1\r\nHost: 127.0.0.1:8177\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 405 ",
        ),
    ] {
        let answer = netns.within(|| {
            let mut stream = TcpStream::connect(ADDRESS)?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        ensure!(
            answer.starts_with(expected) && !answer.contains("label_routes"),
            "{request}: {answer}"
        );
    }

    // The page says so when the instance is gone.
    bench.router.unload()?;
    let (status, problem) = ask(&netns, "/state")?;
    ensure!(
        status == 503 && problem.contains("no mplsxdp runs as instance"),
        "{status}: {problem}"
    );
    drop(web);
    Ok(())
}

fn page() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.route("100 as 200")?;
    bench.router.run("route add 102 as 202 via inet 10.0.2.99")?;
    bench.expect_drop("no-route", &bench.labelled(&[Entry::new(777, 64)], &v4(64)?))?;
    let _web = Web::start(&bench)?;
    let browser = Browser::new(&bench)?;
    // Its own clock goes on only while it waits for nothing, and is six seconds older at the end.
    let (page, said) = thread::scope(|scope| -> Result<_> {
        let running = scope.spawn(|| browser.run(&["--virtual-time-budget=6000", "--dump-dom"]));
        while !running.is_finished() {
            bench.left.send(&bench.labelled(&[Entry::new(100, 64)], &v4(64)?))?;
            thread::sleep(PAUSE);
        }
        running.join().map_err(|_| anyhow!("a panic"))?
    })?;
    ensure!(!said.contains("CONSOLE"), "the browser complains: {said}");
    let updates = page
        .split_once("data-updates=\"")
        .and_then(|(_, rest)| rest.split_once('"'));
    let (updates, _) = updates.with_context(|| format!("no answer was shown: {page}"))?;
    ensure!(updates.parse::<u32>()? >= 3, "{updates} updates");
    for shown in [
        format!("<span id=\"instance\">{}</span>", bench.router.instance()),
        "<td class=\"\">eth1</td><td class=\"good\">up</td>".into(),
        "<td class=\"\">no-route</td><td class=\"number\">0</td><td class=\"number\">1</td><td class=\"wide\">No route for".into(),
        "<td class=\"\">unknown-label</td>".into(),
        "<td class=\"\">100</td><td class=\"\">200</td>".into(),
        ">eth2</text>".into(),
        ">10.0.2.99 incomplete</text>".into(),
        "<polyline class=\"spark\"".into(),
    ] {
        let alternative = shown.replace("incomplete", "failed");
        ensure!(page.contains(&shown) || page.contains(&alternative), "{shown} is not in {page}");
    }
    ensure!(page.contains("<div id=\"problem\" role=\"alert\"></div>"), "{page}");
    drop(browser);
    bench.router.unload()
}

/// A browser in the router's namespace, with a profile of its own.
struct Browser {
    netns: Netns,
    program: &'static str,
    profile: PathBuf,
}

impl Browser {
    fn new(bench: &Bench) -> Result<Self> {
        let netns = bench.router.netns().clone();
        let profile = std::env::temp_dir().join(format!("{}-browser", netns.name()));
        fs::create_dir_all(&profile)?;
        Ok(Self {
            netns,
            program: browser().context("no browser")?,
            profile,
        })
    }

    /// What it writes to standard output, and what it says.
    fn run(&self, arguments: &[&str]) -> Result<(String, String)> {
        let mut command = self.netns.command(self.program);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--enable-logging=stderr", "--v=0"])
            .arg(format!("--user-data-dir={}", self.profile.display()))
            .args(arguments)
            .arg(format!("http://{ADDRESS}/"));
        let output = command.stdin(Stdio::null()).output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (written, said) = (text(output.stdout), text(output.stderr));
        if !output.status.success() {
            bail!("{} ended with {}: {said}", self.program, output.status);
        }
        Ok((written, said))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.profile);
    }
}
