//! Numbered frames at a steady rate through a router: none may be lost, duplicated or changed, whatever happens to its
//! controller meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};

use crate::{Tap, wait};

/// How many frames are missing, or other than they should be, before the rest is only counted.
const NAMED: usize = 8;
/// How long frames may take that were sent last.
const LAST: Duration = Duration::from_secs(5);
/// A flow's number and the frame's number are the last bytes of its payload.
pub const NUMBER_BYTES: usize = 10;

/// Frames of one kind.
pub struct Flow {
    /// The tap that they are sent on, and the one where they come out.
    pub from: usize,
    pub to: usize,
    /// The frame as it is sent and as it comes out, each without the number at its end.
    pub sent: Vec<u8>,
    pub expected: Vec<u8>,
}

/// Sends and receives frames until it is stopped.
pub struct Numbered {
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<Result<Counts>>>,
}

/// What came of the frames.
#[derive(Default)]
pub struct Counts {
    pub sent: u64,
    /// By flow, and in the order in which they were sent.
    pub lost: Vec<Lost>,
    pub duplicated: u64,
    /// At another port, or with other bytes.
    pub misdirected: u64,
    /// Some of those that were duplicated or misdirected.
    examples: Vec<String>,
}

/// A frame that did not come out.
pub struct Lost {
    pub flow: usize,
    pub number: u64,
    pub sent: Instant,
}

impl Numbered {
    /// Sends one frame of each flow every `interval`.
    pub fn start(taps: Vec<Tap>, flows: Vec<Flow>, interval: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || run(&taps, &flows, interval, &stop))
        };
        let worker = Some(worker);
        Self { stop, worker }
    }

    /// Waits for the last frames.
    pub fn stop(mut self) -> Result<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.worker.take().map(JoinHandle::join);
        ended
            .unwrap_or_else(|| Ok(Err(anyhow!("stopped already"))))
            .unwrap_or_else(|_| Err(anyhow!("the sender has panicked")))
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

impl Counts {
    /// Every frame came out once, as it should.
    pub fn ensure_whole(&self) -> Result<()> {
        self.ensure_right()?;
        let lost = self.lost.iter().take(NAMED);
        let lost: Vec<_> = lost
            .map(|lost| format!("flow {} number {}", lost.flow, lost.number))
            .collect();
        ensure!(lost.is_empty(), "{self}: {} is lost", lost.join(", "));
        Ok(())
    }

    /// The frames that came out did so once, and as they should.
    pub fn ensure_right(&self) -> Result<()> {
        let is_right = (self.duplicated, self.misdirected) == (0, 0) && self.sent > 0;
        ensure!(is_right, "{self}: {}", self.examples.join("; "));
        Ok(())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            lost,
            duplicated,
            misdirected,
            ..
        } = self;
        write!(
            f,
            "{sent} frames sent, {} lost, {duplicated} duplicated, {misdirected} misdirected",
            lost.len()
        )
    }
}

fn numbered(frame: &[u8], flow: usize, number: u64) -> Vec<u8> {
    [frame, &(flow as u16).to_be_bytes(), &number.to_be_bytes()].concat()
}

fn run(taps: &[Tap], flows: &[Flow], interval: Duration, stop: &AtomicBool) -> Result<Counts> {
    let mut counts = Counts::default();
    // When the frames were sent that have not come out, by flow and number.
    let mut missing = BTreeMap::new();
    let mut number = 0;
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for (index, flow) in flows.iter().enumerate() {
            // Before it is sent: it may be there before the call returns.
            missing.insert((index, number), Instant::now());
            let tap = taps.get(flow.from).ok_or_else(|| anyhow!("no such tap"))?;
            tap.send(&numbered(&flow.sent, index, number))?;
            counts.sent += 1;
        }
        number += 1;
        receive(taps, flows, number, &mut missing, &mut counts)?;
        due += interval;
        match due.checked_duration_since(Instant::now()) {
            Some(left) => thread::sleep(left),
            // No burst after a pause: queues would overflow.
            None => due = Instant::now(),
        }
    }
    let end = Instant::now() + wait::limit(LAST);
    while !missing.is_empty() && Instant::now() < end {
        receive(taps, flows, number, &mut missing, &mut counts)?;
        thread::sleep(Duration::from_millis(1));
    }
    // Duplicates of the last ones.
    thread::sleep(Duration::from_millis(20));
    receive(taps, flows, number, &mut missing, &mut counts)?;
    let lost = missing.into_iter();
    counts.lost = lost.map(|((flow, number), sent)| Lost { flow, number, sent }).collect();
    Ok(counts)
}

fn receive(
    taps: &[Tap],
    flows: &[Flow],
    sent: u64,
    missing: &mut BTreeMap<(usize, u64), Instant>,
    counts: &mut Counts,
) -> Result<()> {
    for (place, tap) in taps.iter().enumerate() {
        for frame in tap.drain()? {
            // What hosts say to each other is of no concern.
            let Some((flow, number)) = number_of(&frame).filter(|&(flow, number)| flow < flows.len() && number < sent)
            else {
                continue;
            };
            let is_right = flows
                .get(flow)
                .is_some_and(|known| known.to == place && numbered(&known.expected, flow, number) == frame);
            let what = match (is_right, missing.remove(&(flow, number))) {
                (true, Some(_)) => continue,
                (true, None) => {
                    counts.duplicated += 1;
                    "twice"
                }
                (false, _) => {
                    counts.misdirected += 1;
                    "misdirected"
                }
            };
            if counts.examples.len() < NAMED {
                counts.examples.push(format!(
                    "flow {flow} number {number} {what} at tap {place}: {frame:02x?}"
                ));
            }
        }
    }
    Ok(())
}

/// The numbers at the end of a frame that has the mark of these frames before them.
fn number_of(frame: &[u8]) -> Option<(usize, u64)> {
    let (rest, number) = frame.split_last_chunk::<8>()?;
    let (rest, flow) = rest.split_last_chunk::<2>()?;
    rest.ends_with(MARK)
        .then(|| (usize::from(u16::from_be_bytes(*flow)), u64::from_be_bytes(*number)))
}

/// What the payload of [`Flow::sent`] and [`Flow::expected`] ends with.
pub const MARK: &[u8] = b"numbered";
