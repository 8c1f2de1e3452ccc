//! Captures: which ports capture what, and the thread that passes frames on to clients.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use mplsxdp_common::abi::{CaptureFilter, CaptureHeader, Captured, Reason, UnknownPolicy};
use nix::time::{ClockId, clock_gettime};
use tracing::warn;

use crate::control::frames::{Frame, Place, Tap, Verdict, top_label};
use crate::dataplane::capture::{CaptureFilters, CaptureRing};
use crate::switch::Token;

/// How long the thread waits for frames before it looks for news.
const PATIENCE: Duration = Duration::from_millis(100);
/// How many frames are passed on before it looks for news.
const BATCH: usize = 1024;
/// How many frames may wait for the word that they were forwarded.
const PENDING: usize = 256;

/// The captures of all clients.
#[derive(Default)]
pub struct Captures {
    pub taps: Vec<Tap>,
    /// While there are any.
    pub passing: Option<Passing>,
    /// The maps are being made.
    pub begins: bool,
    /// Ports whose programs do not capture yet.
    pub awaited: HashSet<u16>,
    /// Clients that wait for these.
    pub waiting: Vec<Token>,
}

/// What the thread is to know.
pub struct News {
    pub taps: Vec<Tap>,
    /// The names of ports, by number.
    pub names: HashMap<u16, Arc<str>>,
}

/// The thread that passes on frames. It ends when this is dropped.
pub struct Passing {
    news: Sender<News>,
    filters: CaptureFilters,
    filtered: HashMap<u16, CaptureFilter>,
}

impl Passing {
    pub fn start(ring: CaptureRing, filters: CaptureFilters, unknown: UnknownPolicy) -> io::Result<Self> {
        let (news, receiver) = channel();
        let thread = thread::Builder::new().name("capture".into());
        thread.spawn(move || pass_on(ring, &receiver, unknown))?;
        Ok(Self {
            news,
            filters,
            filtered: HashMap::new(),
        })
    }

    /// `programs` are the ports that have programs, each with the names of the ports whose frames it gets.
    pub fn set(&mut self, news: News, programs: &HashMap<u16, BTreeSet<Arc<str>>>) {
        for (&port, names) in programs {
            let concerns = |tap: &&Tap| match &tap.wanted.ifname {
                Some(wanted) => names.contains(&**wanted),
                None => true,
            };
            let filters = news.taps.iter().filter(concerns).map(|tap| tap.wanted.filter());
            let filter = filters.fold(CaptureFilter::NONE, CaptureFilter::or);
            if self.filtered.insert(port, filter) == Some(filter) {
                continue;
            }
            if let Err(error) = self.filters.set(port, filter) {
                warn!(%error, "cannot set what a port captures");
            }
        }
        // The thread ends only after this value.
        let _ = self.news.send(news);
    }
}

fn pass_on(mut ring: CaptureRing, news: &Receiver<News>, unknown: UnknownPolicy) {
    let mut passer = Passer {
        taps: Vec::new(),
        names: HashMap::new(),
        unknown,
        pending: VecDeque::new(),
        clock: Clock::now(),
    };
    loop {
        if let Err(error) = ring.wait(PATIENCE) {
            return warn!(%error, "cannot wait for captured frames any more");
        }
        // Before the frames: a client that has its answer misses none.
        loop {
            match news.try_recv() {
                Ok(News { taps, names }) => (passer.taps, passer.names) = (taps, names),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        passer.clock = Clock::now();
        ring.take(BATCH, |header, bytes| passer.pass(header, bytes));
        let lost = ring.take_lost();
        if lost > 0 {
            passer.taps.iter().for_each(|tap| tap.lose(lost));
        }
    }
}

/// Times of `bpf_ktime_get_ns` as times of day.
#[derive(Clone, Copy, Debug)]
struct Clock {
    monotonic: Duration,
    real: SystemTime,
}

impl Clock {
    fn now() -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
        Self {
            monotonic: monotonic.unwrap_or_default(),
            real: SystemTime::now(),
        }
    }

    fn time(self, monotonic_ns: u64) -> SystemTime {
        let then = Duration::from_nanos(monotonic_ns);
        match self.monotonic.checked_sub(then) {
            Some(ago) => self.real - ago,
            None => self.real + then.saturating_sub(self.monotonic),
        }
    }
}

struct Passer {
    taps: Vec<Tap>,
    names: HashMap<u16, Arc<str>>,
    unknown: UnknownPolicy,
    /// Frames that have arrived, and of which it is not known yet whether they are forwarded.
    pending: VecDeque<(CaptureHeader, Box<[u8]>)>,
    clock: Clock,
}

impl Passer {
    fn pass(&mut self, header: CaptureHeader, bytes: &[u8]) {
        match header.captured {
            Captured::In => {
                if self.pending.len() == PENDING {
                    self.pending.pop_front();
                }
                self.pending.push_back((header, bytes.into()));
            }
            Captured::Out(port) => {
                let same = |(pending, _): &(CaptureHeader, _)| pending.number == header.number;
                let Some(index) = self.pending.iter().rposition(same) else {
                    return;
                };
                let Some((arrived, before)) = self.pending.remove(index) else {
                    return;
                };
                let (from, to) = (self.name(arrived.port), self.name(port));
                let label = top_label(&before);
                let place = Place::In { to: Arc::clone(&to) };
                let sampled = Some(header.number);
                self.tell(arrived, place, Arc::clone(&from), &before, label, sampled);
                self.tell(
                    header,
                    Place::Out {
                        from: Arc::clone(&from),
                    },
                    to,
                    bytes,
                    label,
                    sampled,
                );
            }
            Captured::Exception(reason) => {
                self.pending.retain(|(pending, _)| pending.number != header.number);
                let place = Place::Exception(reason, self.verdict(reason));
                let port = self.name(header.port);
                self.tell(header, place, port, bytes, top_label(bytes), None);
            }
        }
    }

    fn verdict(&self, reason: Reason) -> Verdict {
        match (reason, self.unknown) {
            (Reason::NoRoute, UnknownPolicy::Drop) => Verdict::Dropped,
            (Reason::NoRoute, UnknownPolicy::Pass) | (Reason::PassRoute, _) => Verdict::Passed,
            _ if reason.is_punted() => Verdict::Punted,
            _ => Verdict::Dropped,
        }
    }

    fn name(&self, port: u16) -> Arc<str> {
        let name = self.names.get(&port).cloned();
        name.unwrap_or_else(|| format!("port{port}").into())
    }

    /// `label` is the one with which the frame arrived. `sampled`: its number, if it was taken at random.
    fn tell(
        &self,
        header: CaptureHeader,
        place: Place,
        port: Arc<str>,
        bytes: &[u8],
        label: Option<u32>,
        sampled: Option<u64>,
    ) {
        let arrived_at = match &place {
            Place::Out { from } => from,
            Place::In { .. } | Place::Exception(..) => &port,
        };
        let wants = |tap: &&Tap| {
            let wanted = &tap.wanted;
            let by_kind = match (&place, sampled) {
                (Place::Exception(reason, _), _) => wanted.reasons & CaptureFilter::bit(*reason) != 0,
                (_, Some(number)) => wanted.sample > 0 && number % u64::from(wanted.sample) == 0,
                (_, None) => false,
            };
            by_kind
                && wanted.ifname.as_deref().is_none_or(|name| name == &**arrived_at)
                && wanted.label.is_none_or(|wanted| Some(wanted) == label)
        };
        let mut taps = self.taps.iter().filter(wants).peekable();
        if taps.peek().is_none() {
            return;
        }
        let frame = Arc::new(Frame {
            time: self.clock.time(header.time_ns),
            place: place.clone(),
            port: Arc::clone(&port),
            length: header.length,
            bytes: bytes.into(),
        });
        taps.for_each(|tap| tap.pass_on(&frame));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::frames::{Tapped, Wanted, tap};

    const NO_ROUTE: u64 = CaptureFilter::bit(Reason::NoRoute);

    /// A frame with this label.
    fn frame(label: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x88, 0x47, 0, label >> 4, label << 4 | 1, 64]);
        frame
    }

    fn passer(wanted: &[Wanted]) -> (Passer, Vec<Tapped>) {
        let (taps, tapped) = wanted.iter().cloned().map(tap).unzip();
        let names = [(1, "eth1".into()), (2, "eth2".into())].into();
        let passer = Passer {
            taps,
            names,
            unknown: UnknownPolicy::Punt,
            pending: VecDeque::new(),
            clock: Clock::now(),
        };
        (passer, tapped)
    }

    fn header(captured: Captured, port: u16, number: u64) -> CaptureHeader {
        CaptureHeader {
            time_ns: 5,
            captured,
            port,
            kept: 18,
            length: 60,
            number,
        }
    }

    fn got(tapped: &mut Tapped) -> Vec<(String, Place, Box<[u8]>)> {
        let frames = std::iter::from_fn(|| tapped.frames.try_recv().ok());
        frames
            .map(|frame| (frame.port.to_string(), frame.place.clone(), frame.bytes.clone()))
            .collect()
    }

    #[test]
    fn a_forwarded_frame_is_passed_on_as_it_came_in_and_as_it_went_out() {
        let all = Wanted {
            sample: 1,
            ..Wanted::default()
        };
        let some = Wanted {
            sample: 2,
            ..Wanted::default()
        };
        let (mut passer, mut tapped) = passer(&[all, some]);
        let (before, after) = (frame(100), frame(110));
        // Of two frames on two CPUs, and of one that is left to the kernel.
        passer.pass(header(Captured::In, 1, 7), &before);
        passer.pass(header(Captured::In, 1, 8), &after);
        passer.pass(header(Captured::In, 2, 9), &before);
        passer.pass(header(Captured::Out(2), 1, 8), &before);
        passer.pass(header(Captured::Out(2), 1, 7), &after);
        let place = |to: &str| Place::In { to: to.into() };
        let from = Place::Out { from: "eth1".into() };
        let forwarded = |before: &[u8], after: &[u8]| {
            [
                ("eth1".to_owned(), place("eth2"), before.into()),
                ("eth2".to_owned(), from.clone(), after.into()),
            ]
        };
        let both = [forwarded(&after, &before), forwarded(&before, &after)].concat();
        assert_eq!(got(&mut tapped[0]), both);
        assert_eq!(got(&mut tapped[1]), both[..2]);
        // An out without its in: that was too long ago.
        passer.pass(header(Captured::Out(2), 1, 7), &after);
        assert!(got(&mut tapped[0]).is_empty());
        for number in 0..2 * PENDING as u64 {
            passer.pass(header(Captured::In, 1, number), &before);
        }
        assert_eq!(passer.pending.len(), PENDING);
    }

    #[test]
    fn an_exception_is_passed_on_to_those_who_want_it() {
        let by_reason = Wanted {
            reasons: NO_ROUTE,
            ..Wanted::default()
        };
        let by_label = Wanted {
            label: Some(101),
            ..by_reason.clone()
        };
        let by_port = Wanted {
            ifname: Some("eth2".into()),
            ..by_reason.clone()
        };
        let other = Wanted {
            reasons: CaptureFilter::bit(Reason::TtlExpired),
            sample: 1,
            ..Wanted::default()
        };
        let (mut passer, mut tapped) = passer(&[by_reason, by_label, by_port, other]);
        passer.pass(header(Captured::In, 1, 7), &frame(100));
        passer.pass(header(Captured::Exception(Reason::NoRoute), 1, 7), &frame(100));
        assert!(passer.pending.is_empty());
        let place = Place::Exception(Reason::NoRoute, Verdict::Punted);
        assert_eq!(got(&mut tapped[0]), [("eth1".to_owned(), place, frame(100).into())]);
        assert!(tapped[1..].iter_mut().all(|tapped| got(tapped).is_empty()));
        passer.unknown = UnknownPolicy::Drop;
        passer.pass(header(Captured::Exception(Reason::NoRoute), 9, 8), &frame(101));
        let [all, by_label, by_port, _] = &mut tapped[..] else {
            panic!("four taps")
        };
        let place = Place::Exception(Reason::NoRoute, Verdict::Dropped);
        assert_eq!(got(all), [("port9".to_owned(), place, frame(101).into())]);
        assert_eq!((got(by_label).len(), got(by_port).len()), (1, 0));
    }

    #[test]
    fn times_are_times_of_day() {
        let real = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clock = Clock {
            monotonic: Duration::from_secs(100),
            real,
        };
        assert_eq!(clock.time(99_000_000_001), real - Duration::from_nanos(999_999_999));
        assert_eq!(clock.time(100_000_000_007), real + Duration::from_nanos(7));
    }
}
