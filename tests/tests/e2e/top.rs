//! `mplsxdp top` in a terminal: its keys, and what is on the screen.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use mplsxdp_tests::frame::Entry;
use mplsxdp_tests::needs::Need;
use mplsxdp_tests::router::program;
use mplsxdp_tests::terminal::Terminal;
use mplsxdp_tests::wait;

use crate::bench::{Bench, NATIVE, RIGHT};
use crate::test_with;

pub fn tests() -> Vec<Trial> {
    let tmux = Some(Need::Program("tmux", "tmux"));
    vec![
        test_with("top::it_shows_what_the_switch_does", tmux, shows),
        test_with("top::it_needs_a_terminal", None, refuses),
    ]
}

const PATIENCE: Duration = Duration::from_secs(10);

/// The fields of the line that begins with this word.
fn fields<'a>(screen: &'a str, first: &str) -> Option<Vec<&'a str>> {
    let mut lines = screen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(|fields| fields.first() == Some(&first))
}

fn is_busy(screen: &str, first: &str, rate: usize) -> bool {
    let fields = fields(screen, first);
    fields.is_some_and(|fields| fields.get(rate).is_some_and(|&rate| rate != "0"))
}

fn shows() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    bench.router.run_with(
        "route restore",
        &format!(
            "100 as 110 via link {RIGHT} dev eth2\n\
             200 nexthop as 210 via link {RIGHT} dev eth2 nexthop as 211 via link {RIGHT} dev eth2 weight 3\n\
             300 as 310 via inet 10.0.2.77 dev eth2\n"
        ),
    )?;
    let command = [
        program()?.display().to_string(),
        "--instance".into(),
        bench.router.instance().to_owned(),
        "top".into(),
        "--interval".into(),
        "0.2".into(),
    ];
    let terminal = Terminal::start(&command)?;
    let is_over = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // Many of 200, some of 100, and one that has no route.
            while !is_over.load(Ordering::Relaxed) {
                for label in [100, 200, 200, 200, 888] {
                    bench.left.send(&bench.labelled(&[Entry::new(label, 64)], b"payload"))?;
                }
                bench.left.send(&bench.labelled(&[Entry::new(200, 1)], b"payload"))?;
                thread::sleep(Duration::from_millis(5));
            }
            anyhow::Ok(())
        });
        let seen = look(&terminal);
        is_over.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap_or(Ok(()));
        seen.and(sent)
    })?;
    // It ends with its terminal,
    let terminal = Terminal::start(&command)?;
    terminal.expect("ports", |screen| fields(screen, "eth1").is_some())?;
    let pid = terminal.pid()?;
    drop(terminal);
    wait::until("the end with the terminal", PATIENCE, || {
        Ok((!Path::new(&format!("/proc/{pid}")).exists()).then_some(()))
    })?;
    // and with the instance.
    let terminal = Terminal::start(&command)?;
    terminal.expect("ports", |screen| fields(screen, "eth1").is_some())?;
    bench.router.unload()?;
    terminal.ended()
}

fn look(terminal: &Terminal) -> Result<()> {
    terminal.expect("ports with rates", |screen| {
        screen.contains("1 Ports") && is_busy(screen, "eth1", 2) && fields(screen, "eth2").is_some()
    })?;
    terminal.press(&["2"])?;
    let routes = terminal.expect("routes with rates", |screen| {
        screen.contains("as to 110") && screen.contains("nexthop")
    })?;
    // The busiest first; those that forward nothing are left out.
    let order: Vec<usize> = ["200 ", "100 "]
        .iter()
        .filter_map(|first| routes.lines().position(|line| line.starts_with(first)))
        .collect();
    ensure!(order.len() == 2 && order[0] < order[1], "{routes}");
    ensure!(fields(&routes, "300").is_none(), "{routes}");
    // The other way round: the least busy first. The selected one in detail.
    terminal.press(&["r"])?;
    terminal.expect("the other way round", |screen| {
        let first = |label| screen.lines().position(|line| line.starts_with(label));
        first("100 ") < first("200 ")
    })?;
    terminal.press(&["r", "Home", "Enter"])?;
    terminal.expect("one route", |screen| {
        screen.contains("owner static") && screen.matches("next hop 02:00:00:00:02:02 dev eth2").count() == 2
    })?;
    // Frames of the label that the slow path gets: those whose TTL expires.
    terminal.expect("exceptions", |screen| {
        screen.contains("exception eth1 ttl-expired [200 1]")
    })?;
    // A key that follows at once would make another one of it.
    terminal.press(&["Escape"])?;
    terminal.expect("the table", |screen| screen.contains("DESTINATION"))?;
    terminal.press(&["4"])?;
    terminal.expect("the reason", |screen| {
        screen.contains("no-route") && is_busy(screen, "eth1", 2)
    })?;
    terminal.press(&["3"])?;
    terminal.expect("next hops", |screen| {
        screen.contains("10.0.2.77") && screen.contains("static")
    })?;
    terminal.press(&["/"])?;
    terminal.press(&["-l", "0.2.77"])?;
    terminal.press(&["Enter"])?;
    terminal.expect("one next hop", |screen| {
        screen.contains("10.0.2.77") && fields(screen, RIGHT).is_none() && screen.contains("only lines with")
    })?;
    terminal.press(&["Escape"])?;
    terminal.expect("all next hops", |screen| fields(screen, RIGHT).is_some())?;
    terminal.press(&["?"])?;
    terminal.expect("the keys", |screen| screen.contains("a closer look at a route"))?;
    terminal.press(&["x", "q"])?;
    terminal.ended()
}

fn refuses() -> Result<()> {
    let bench = Bench::new(NATIVE)?;
    let refused = bench.router.run("top").err().map(|error| format!("{error:#}"));
    ensure!(
        refused.is_some_and(|refused| refused.contains("`top` needs a terminal")),
        "it ran"
    );
    let refused = bench
        .router
        .run("top --interval 0")
        .err()
        .map(|error| format!("{error:#}"));
    ensure!(
        refused.is_some_and(|refused| refused.contains("0.01 to 60 seconds")),
        "it ran"
    );
    bench.router.unload()
}
