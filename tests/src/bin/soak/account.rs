//! Which frames were lost, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mplsxdp_tests::numbered::Counts;

use crate::net::{EXPOSED_FLOW, Net};

/// How long a frame may be on its way: one that was sent this long before a fault may still be lost by it.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// How many frames that were lost without a cause are named.
const NAMED: u64 = 20;

/// What happened, how often, and when frames of exposed flows may be lost.
#[derive(Default)]
pub struct Account {
    happened: BTreeMap<&'static str, u64>,
    faults: Vec<Fault>,
}

struct Fault {
    name: &'static str,
    begin: Instant,
    end: Instant,
    lost: u64,
}

impl Account {
    pub fn happened(&mut self, name: &'static str) {
        *self.happened.entry(name).or_default() += 1;
    }

    /// Does something that makes exposed flows lose frames until it has returned.
    pub fn fault(&mut self, name: &'static str, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let begin = Instant::now() - ON_ITS_WAY;
        act()?;
        self.faults.push(Fault {
            name,
            begin,
            end: Instant::now(),
            lost: 0,
        });
        Ok(())
    }

    /// How often each event happened.
    pub fn events(&self) -> String {
        let events: Vec<_> = self
            .happened
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        events.join(", ")
    }

    /// Finds a cause for every frame that was lost, prints how many each cause took, and fails if one has no cause.
    pub fn settle(mut self, counts: &Counts, net: &Net) -> Result<()> {
        let mut steady = 0;
        let (mut unexplained, mut without) = (0, String::new());
        for lost in &counts.lost {
            if lost.flow < EXPOSED_FLOW {
                steady += 1;
                continue;
            }
            let fault = self
                .faults
                .iter_mut()
                .find(|fault| (fault.begin..=fault.end).contains(&lost.sent));
            match fault {
                Some(fault) => fault.lost += 1,
                None => {
                    unexplained += 1;
                    if unexplained > NAMED {
                        continue;
                    }
                    write!(without, " flow {} number {}", lost.flow, lost.number)?;
                    if let Some(last) = self.faults.iter().rfind(|fault| fault.end < lost.sent) {
                        write!(without, " ({:?} after {})", lost.sent - last.end, last.name)?;
                    }
                }
            }
        }
        let mut causes: BTreeMap<_, (u64, u64, Duration)> = BTreeMap::new();
        for fault in &self.faults {
            let cause = causes.entry(fault.name).or_default();
            cause.0 += fault.lost;
            cause.1 += 1;
            cause.2 += fault.end - fault.begin;
        }
        for (name, (lost, times, took)) in causes {
            println!(
                "lost by {name}: {lost} in {times} faults of {:.1} s together",
                took.as_secs_f64()
            );
        }
        let overflows = net.overflows()?;
        println!("lost by steady flows: {steady}; queues of veths were full for {overflows} frames");
        ensure!(
            steady <= overflows,
            "steady flows have lost {steady} frames, queues {overflows}"
        );
        ensure!(
            unexplained == 0,
            "{unexplained} frames lost without a cause, such as:{without}"
        );
        Ok(())
    }
}
