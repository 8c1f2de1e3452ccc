//! The connections, one after the other: what has arrived, and when zebra has sent everything.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use super::{Frame, FramingLost, Kind, take_frame};
use crate::rtnl::{self, DecodeError, Destination, Labels, Message, Object, ObjectTo, Position, To};

/// Changes may never stop. So the replay also ends if no message with a new key has come for this many quiet times.
const CHANGES_ONLY: u32 = 10;

/// Message types and encapsulations of SONiC's dplane_fpm_sonic, which the kernel does not have: SRv6 SIDs and VPN
/// routes, contexts, SID lists; VXLAN and SRv6.
const SONIC_TYPES: [u16; 8] = [1000, 1001, 2000, 2001, 3000, 3001, 4000, 4001];
const SONIC_ENCAPSULATIONS: [u16; 2] = [100, 101];

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Nobody is connected.
    #[default]
    Listening,
    /// Connected, but no readable message has arrived yet.
    Connected,
    /// Zebra is sending everything it has.
    Replaying,
    /// Zebra has sent everything.
    Synced,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Connected => "connected",
            Self::Replaying => "replaying",
            Self::Synced => "synced",
        }
    }
}

/// The program and module that sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// zebra with `-M dplane_fpm_nl`.
    Zebra,
    /// zebra with `-M fpm`, in netlink.
    OldModule,
    /// zebra with `-M fpm:protobuf`.
    Protobuf,
    /// SONiC's zebra with `-M dplane_fpm_sonic`.
    Sonic,
}

impl Dialect {
    /// The module of zebra.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zebra => "dplane_fpm_nl",
            Self::OldModule => "fpm",
            Self::Protobuf => "fpm:protobuf",
            Self::Sonic => "dplane_fpm_sonic",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::Zebra => write!(f, "zebra uses its module {name}"),
            Self::OldModule | Self::Protobuf => write!(
                f,
                "zebra uses its module {name}, which sends no labels: start zebra with `-M dplane_fpm_nl` instead \
                 (`zebra_options` in /etc/frr/daemons), and configure `fpm address`"
            ),
            Self::Sonic => write!(
                f,
                "zebra uses SONiC's module {name}: labels are followed; VXLAN and SRv6 are ignored"
            ),
        }
    }
}

/// Something that the operator should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Remark {
    Dialect(Dialect),
    /// The first of the messages of a connection that cannot be read.
    Unreadable(DecodeError),
    /// Zebra has sent everything, and there was no label in it.
    NoLabels,
    /// Zebra has sent everything, but some of it cannot be read: routes that it has not sent again may still exist.
    Kept {
        unreadable: u64,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dialect(dialect) => dialect.fmt(f),
            Self::Unreadable(error) => write!(f, "a message cannot be read, and is ignored: {error}"),
            Self::NoLabels => f.write_str(
                "zebra has sent no labels; on a kernel without MPLS it takes none from routing daemons: \
                 `modprobe mpls_router`, then restart FRR",
            ),
            Self::Kept { unreadable } => write!(
                f,
                "routes that zebra did not send again are kept, because {unreadable} messages cannot be read"
            ),
        }
    }
}

/// Counts over all connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub bytes: u64,
    pub frames: u64,
    /// Label routes and their deletions.
    pub labels: u64,
    pub labels_gone: u64,
    /// IP routes and their deletions.
    pub prefixes: u64,
    pub prefixes_gone: u64,
    /// Nexthop objects and their deletions.
    pub objects: u64,
    pub objects_gone: u64,
    /// Messages about other things, and frames that are not netlink.
    pub ignored: u64,
    /// Messages that cannot be read.
    pub unreadable: u64,
    /// Connections that ended because the bytes where a frame must begin were not a frame header.
    pub framing_lost: u64,
}

/// What a message is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    Route(Destination),
    Object(u32),
}

/// The state of connections, one at a time.
#[derive(Debug)]
pub struct Session {
    quiet: Duration,
    state: State,
    dialect: Option<Dialect>,
    counters: Counters,
    /// Unreadable messages of this connection.
    unreadable: u64,
    has_labels: bool,
    /// The time of the last frame, and of the last message with a key that is new on this connection.
    last_frame: Instant,
    last_news: Instant,
    /// Hashes of the keys of this connection's messages, until it is synced.
    named: HashSet<u64>,
    hasher: RandomState,
    remarks: Vec<Remark>,
}

impl Session {
    /// `quiet`: how long zebra must be silent for its replay to count as complete.
    pub fn new(quiet: Duration, now: Instant) -> Self {
        Self {
            quiet,
            state: State::Listening,
            dialect: None,
            counters: Counters::default(),
            unreadable: 0,
            has_labels: false,
            last_frame: now,
            last_news: now,
            named: HashSet::new(),
            hasher: RandomState::new(),
            remarks: Vec::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// The connected program, as far as it is known; otherwise the previous one.
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn take_remarks(&mut self) -> Vec<Remark> {
        std::mem::take(&mut self.remarks)
    }

    pub fn connect(&mut self, now: Instant) {
        self.state = State::Connected;
        self.dialect = None;
        self.unreadable = 0;
        self.has_labels = false;
        self.last_frame = now;
        self.last_news = now;
        self.named = HashSet::new();
    }

    pub fn disconnect(&mut self) {
        self.state = State::Listening;
        self.named = HashSet::new();
    }

    /// Notes that everything read so far has been handled.
    pub fn heard(&mut self, now: Instant) {
        self.last_frame = now;
    }

    /// Notes that reading has paused, so zebra was not silent.
    pub fn resume(&mut self, now: Instant) {
        self.last_frame = now;
        self.last_news = now;
    }

    /// Reads the complete frames, and gives their messages to `take`. Returns their length in bytes. After an error the
    /// connection must end.
    pub fn read(
        &mut self,
        bytes: &[u8],
        now: Instant,
        mut take: impl FnMut(Key, Message),
    ) -> Result<usize, FramingLost> {
        let mut rest = bytes;
        let result = loop {
            match take_frame(rest) {
                Ok(Some((frame, after))) => {
                    rest = after;
                    self.frame(frame, now, &mut take);
                }
                Ok(None) => break Ok(bytes.len() - rest.len()),
                Err(lost) => {
                    self.counters.framing_lost += 1;
                    break Err(lost);
                }
            }
        };
        self.counters.bytes += (bytes.len() - rest.len()) as u64;
        result
    }

    /// The time at which [`Session::poll`] has something to do, unless frames arrive.
    pub fn deadline(&self) -> Option<Instant> {
        let due = (self.last_frame + self.quiet).min(self.last_news + self.quiet * CHANGES_ONLY);
        (self.state == State::Replaying).then_some(due)
    }

    /// Whether zebra has sent everything, so that routes it has not sent are gone. Returns `true` once per connection.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.deadline().is_none_or(|due| now < due) {
            return false;
        }
        self.state = State::Synced;
        self.named = HashSet::new();
        if !self.has_labels && self.dialect == Some(Dialect::Zebra) {
            self.remarks.push(Remark::NoLabels);
        }
        let unreadable = self.unreadable;
        if unreadable > 0 {
            self.remarks.push(Remark::Kept { unreadable });
        }
        unreadable == 0
    }

    fn frame(&mut self, frame: Frame<'_>, now: Instant, take: &mut impl FnMut(Key, Message)) {
        self.counters.frames += 1;
        self.last_frame = now;
        if frame.kind == Kind::Protobuf {
            self.counters.ignored += 1;
            return self.recognise(Dialect::Protobuf);
        }
        let mut rest = frame.content;
        while !rest.is_empty() {
            let read = rtnl::split(rest).map(|(message, after)| {
                rest = after;
                message
            });
            let message = read.as_ref().copied().unwrap_or_default();
            match read.and_then(|message| Ok((message, rtnl::decode(message)?))) {
                Ok((_, Some(message))) => self.message(message, now, take),
                Ok((message, None)) => {
                    self.counters.ignored += 1;
                    if rtnl::message_type(message).is_some_and(|kind| SONIC_TYPES.contains(&kind)) {
                        self.recognise(Dialect::Sonic);
                    }
                }
                Err(error) => {
                    let is_lost = error.part == rtnl::SPLIT;
                    // Zebra has something else for this key now. If nothing else was readable, the sender need not be
                    // zebra.
                    if self.state != State::Connected
                        && let Some(message) = rtnl::substitute(message, &error)
                    {
                        self.message(message, now, take);
                    }
                    self.unreadable(error);
                    if is_lost {
                        return;
                    }
                }
            }
        }
    }

    fn unreadable(&mut self, error: DecodeError) {
        self.counters.unreadable += 1;
        self.unreadable += 1;
        if self.unreadable == 1 {
            self.remarks.push(Remark::Unreadable(error));
        }
    }

    fn message(&mut self, message: Message, now: Instant, take: &mut impl FnMut(Key, Message)) {
        let counters = &mut self.counters;
        let (key, count) = match &message {
            Message::Route { route, .. } => (
                Key::Route(route.destination),
                match route.destination {
                    Destination::Label(_) => &mut counters.labels,
                    Destination::Prefix(_) => &mut counters.prefixes,
                },
            ),
            Message::RouteGone(route) => (
                Key::Route(route.destination),
                match route.destination {
                    Destination::Label(_) => &mut counters.labels_gone,
                    Destination::Prefix(_) => &mut counters.prefixes_gone,
                },
            ),
            Message::Object(object) => (Key::Object(object.id), &mut counters.objects),
            Message::ObjectGone(id) => (Key::Object(*id), &mut counters.objects_gone),
            // Only the kernel reports settings.
            Message::Input { .. } | Message::InputGone { .. } => {
                counters.ignored += 1;
                return;
            }
        };
        *count += 1;
        self.look_at(&message);
        if self.state == State::Connected {
            self.state = State::Replaying;
        }
        if self.state == State::Replaying && self.named.insert(self.hasher.hash_one(key)) {
            self.last_news = now;
        }
        take(key, message);
    }

    /// Works out which program sends.
    fn look_at(&mut self, message: &Message) {
        let imposes = |labels: &Labels| matches!(labels, Labels::Imposed { .. });
        let is_sonic = |labels: &Labels| matches!(labels, Labels::Other(kind) if SONIC_ENCAPSULATIONS.contains(kind));
        let encapsulations: &mut dyn Iterator<Item = &Labels> = match message {
            Message::Route { route, .. } => match (route.destination, &route.to) {
                (Destination::Label(_), _) => {
                    self.has_labels = true;
                    &mut std::iter::empty()
                }
                (Destination::Prefix(_), To::Paths(paths)) => &mut paths.iter().map(|path| &path.labels),
                (Destination::Prefix(_), To::Object(_)) => &mut std::iter::empty(),
            },
            Message::Object(Object {
                to: ObjectTo::Path(path),
                ..
            }) => &mut std::iter::once(&path.labels),
            _ => &mut std::iter::empty(),
        };
        for labels in encapsulations {
            self.has_labels |= imposes(labels);
            if is_sonic(labels) {
                self.recognise(Dialect::Sonic);
            }
        }
        if self.dialect.is_none() {
            match message {
                // The old module knows neither replacing nor metric 20, and never replaces an IPv6 route.
                Message::Route { route, position } => match (route.destination, position) {
                    (Destination::Prefix(prefix), _) if prefix.prefix.addr().is_ipv6() => {}
                    (Destination::Label(_), _) | (Destination::Prefix(_), Position::Replaces) => {
                        self.recognise(Dialect::Zebra);
                    }
                    (Destination::Prefix(_), _) => self.recognise(Dialect::OldModule),
                },
                Message::RouteGone(_) => {}
                _ => self.recognise(Dialect::Zebra),
            }
        }
    }

    fn recognise(&mut self, dialect: Dialect) {
        // SONiC's module sends the same as zebra's own, and more.
        let is_news = match self.dialect {
            None => true,
            Some(Dialect::Zebra) => dialect == Dialect::Sonic,
            Some(_) => false,
        };
        if is_news {
            self.dialect = Some(dialect);
            self.remarks.push(Remark::Dialect(dialect));
        }
    }
}
