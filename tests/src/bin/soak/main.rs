//! A router for hours among everything that happens to routers: routes change, controllers are killed and upgraded, links
//! flap, neighbours send floods. Each frame that is lost must have a cause, and nothing may grow.
//!
//! ```text
//!   left ------ eth1  router  eth2 ------ right           steady: loses nothing
//!               eth3          eth4 ------ cable ------ far  exposed: its link and its host fail
//!                 \
//!               attacker
//! ```

mod account;
mod churn;
mod events;
mod flood;
mod health;
mod net;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use mplsxdp_tests::random::Random;
use mplsxdp_tests::tidy;

use crate::account::Account;
use crate::churn::Churn;
use crate::events::{CALM, Event, RESTARTS};
use crate::flood::Flood;
use crate::health::Health;
use crate::net::Net;

#[derive(Parser)]
struct Arguments {
    /// How long it takes.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Makes the same events happen in the same order; without it, the time of day does.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seed: Option<u64>,
}

/// The length of a cycle: floods, calm, a checkpoint, calm, a checkpoint, restarts.
const CYCLE: Duration = Duration::from_secs(600);
/// The part of a cycle in which one process runs.
const CALM_PART: f64 = 0.7;

fn main() -> ExitCode {
    let ended = run(&Arguments::parse());
    tidy::unmount_bpffs();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    tidy::on_signals()?;
    let now = || Ok::<_, anyhow::Error>(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs());
    let seed = arguments.seed.map_or_else(now, Ok)?;
    let whole = Duration::try_from_secs_f64(60.0 * arguments.minutes).context("--minutes")?;
    println!("{} minutes with seed {seed}", arguments.minutes);
    soak(whole, seed).with_context(|| format!("with seed {seed}"))?;
    tidy::ensure_nothing_left()
}

fn soak(whole: Duration, seed: u64) -> Result<()> {
    let mut net = Net::new()?;
    let mut random = Random::new(seed);
    let mut account = Account::default();
    let mut health = Health::default();
    let churn = Churn::new(net.instance().to_owned(), net.static_routes()?, seed);
    let traffic = net.traffic()?;
    let start = Instant::now();
    let ended = thread::scope(|scope| {
        let churning = scope.spawn(|| churn.run());
        let ended = (|| {
            while start.elapsed() < whole {
                let cycle = CYCLE.min(whole.saturating_sub(start.elapsed()));
                let began = Instant::now();
                // A process has its buffers after a flood of each kind.
                for flood in Flood::ALL {
                    Event::Flood(flood).happen(&mut net, &mut random, &mut account)?;
                }
                for part in [0.5, 1.0] {
                    while began.elapsed() < cycle.mul_f64(CALM_PART * part) {
                        Event::of(&CALM, &mut random).happen(&mut net, &mut random, &mut account)?;
                    }
                    churn.paused(|| health.check(&net))?;
                }
                while began.elapsed() < cycle {
                    Event::of(&RESTARTS, &mut random).happen(&mut net, &mut random, &mut account)?;
                }
            }
            churn.paused(|| health.check(&net))
        })();
        churn.stop();
        let churned = churning.join().map_err(|_| anyhow!("the churn has panicked"))?;
        ended.and(churned)
    });
    let counts = traffic.stop()?;
    println!("{}; {} changes of routes", account.events(), churn.answered());
    println!("{counts}");
    // Losses are told even if something else has failed.
    let settled = account.settle(&counts, &net);
    ended.and(settled)?;
    counts.ensure_right()?;
    net.unload()
}
