//! Frames that are lost where no counter of mplsxdp sees it: two tracepoints of the kernel, and counters of drivers.

use std::io;
use std::time::Duration;

use crate::kernel::ethtool;
use crate::kernel::tracepoint::TracepointCounter;

/// What a program's frames met while it was watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Losses {
    pub watched: Duration,
    /// The kernel did not hand a redirected frame to the port's driver.
    pub redirects: u64,
    /// A driver could not carry out the verdict.
    pub exceptions: u64,
}

/// Counts the events of one program.
pub struct Watch {
    redirects: TracepointCounter,
    exceptions: TracepointCounter,
}

impl Watch {
    pub fn begin(program: u32) -> io::Result<Self> {
        Ok(Self {
            redirects: TracepointCounter::open("xdp/xdp_redirect_err", &format!("prog_id == {program}"))?,
            exceptions: TracepointCounter::open("xdp/xdp_exception", &format!("prog_id == {program}"))?,
        })
    }

    pub fn end(&self, watched: Duration) -> io::Result<Losses> {
        Ok(Losses {
            watched,
            redirects: self.redirects.read()?,
            exceptions: self.exceptions.read()?,
        })
    }
}

/// A counter of a driver that counts lost XDP frames and is not zero.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counter {
    pub name: String,
    pub value: u64,
    /// By how much it has grown while it was watched.
    pub grown: u64,
}

/// The driver's counters, by name.
pub fn statistics(interface: &str) -> io::Result<Vec<(String, u64)>> {
    match ethtool::statistics(interface) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        result => result,
    }
}

/// The counters of lost XDP frames among `after`.
pub fn counters(before: &[(String, u64)], after: &[(String, u64)]) -> Vec<Counter> {
    let lost = after.iter().filter(|(name, value)| *value > 0 && counts_losses(name));
    lost.map(|(name, value)| {
        let earlier = before
            .iter()
            .find(|(other, _)| other == name)
            .map_or(0, |(_, value)| *value);
        Counter {
            name: name.clone(),
            value: *value,
            grown: value.saturating_sub(earlier),
        }
    })
    .collect()
}

/// Whether a driver's counter with this name counts XDP frames that were lost against the program's will. The verdict
/// DROP has counters as well (`xdp_drop`), which are no losses.
fn counts_losses(name: &str) -> bool {
    const LOST: [&str; 9] = [
        "err",
        "fail",
        "full",
        "invalid",
        "abort",
        "exception",
        "bad",
        "tx_drop",
        "xmit_drop",
    ];
    let name = name.to_ascii_lowercase();
    name.contains("xdp") && LOST.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_losses_are_told_from_those_of_verdicts() {
        let lost = [
            "rx_queue_0_xdp_tx_errors",
            "tx_queue_1_xdp_xmit_errors",
            "rx_xdp_tx_full",
            "rx_xdp_invalid",
            "rx_xdp_aborted",
            "rx_xdp_redirect_errors",
            "rx_xdp_bad_drops",
            "tx_xdp_full",
        ];
        assert!(lost.into_iter().all(counts_losses));
        let others = [
            "rx_xdp_drop",
            "rx_queue_0_xdp_drops",
            "rx_xdp_redirect",
            "rx_errors",
            "tx_queue_0_xdp_xmit",
        ];
        assert!(!others.into_iter().any(counts_losses));
    }

    #[test]
    fn only_counters_that_have_counted_are_listed() {
        let counters = |values: [u64; 3]| -> Vec<(String, u64)> {
            let names = ["rx_xdp_invalid", "rx_xdp_aborted", "rx_packets"];
            names.into_iter().map(str::to_owned).zip(values).collect()
        };
        let before = counters([0, 7, 10]);
        let found = super::counters(&before, &counters([0, 9, 20]));
        assert_eq!(
            found,
            [Counter {
                name: "rx_xdp_aborted".into(),
                value: 9,
                grown: 2
            }]
        );
    }
}
