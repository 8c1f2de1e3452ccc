//! Connections of zebra 8.4.4, recorded in the fuzzer's folder, and others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::route::{Protocol, Via};
use crate::rtnl::{self, Destination, Labels, Message, Object, ObjectTo, Path, Position, Prefix, Route, To};

const QUIET: Duration = Duration::from_secs(2);

/// `-M dplane_fpm_nl`: everything that zebra has, then changes.
const OBJECTS: &[u8] = include_bytes!("../../../../fuzz/regressions/fpm/zebra_objects");
/// The same with `no fpm use-next-hop-groups`.
const INLINE: &[u8] = include_bytes!("../../../../fuzz/regressions/fpm/zebra_inline");
/// `-M fpm`.
const OLD_MODULE: &[u8] = include_bytes!("../../../../fuzz/regressions/fpm/fpm_module");

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

struct Connection {
    session: Session,
    now: Instant,
    taken: Vec<(Key, Message)>,
}

impl Connection {
    fn new() -> Self {
        let now = Instant::now();
        let mut session = Session::new(QUIET, now);
        session.connect(now);
        Self {
            session,
            now,
            taken: Vec::new(),
        }
    }

    /// Reads all of `bytes`.
    fn read(&mut self, bytes: &[u8]) -> Result<usize, FramingLost> {
        let Self { session, now, taken } = self;
        session.read(bytes, *now, |key, message| taken.push((key, message)))
    }

    fn say(&mut self, messages: &[Message]) {
        let bytes = frame_of(messages);
        assert_eq!(self.read(&bytes), Ok(bytes.len()));
    }

    fn after(&mut self, duration: Duration) -> bool {
        self.now += duration;
        self.session.poll(self.now)
    }

    fn remarks(&mut self) -> Vec<String> {
        self.session.take_remarks().iter().map(Remark::to_string).collect()
    }
}

fn frame_of(messages: &[Message]) -> Vec<u8> {
    let mut content = Vec::new();
    messages.iter().for_each(|message| rtnl::encode(message, &mut content));
    raw(Kind::Netlink, &content)
}

fn raw(kind: Kind, content: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write_frame(Frame { kind, content }, &mut frame);
    frame
}

fn path(labels: Labels) -> Path {
    Path {
        ifindex: 5,
        via: Some(Via::Inet([10, 0, 1, 2].into())),
        labels,
        weight: 1,
    }
}

fn label(value: u32) -> mplsxdp_common::wire::Label {
    mplsxdp_common::wire::Label::new(value).unwrap()
}

fn route(destination: Destination, labels: Labels) -> Route {
    Route {
        destination,
        protocol: Protocol(193),
        unicast: true,
        to: To::Paths(smallvec![path(labels)]),
        ttl_propagate: None,
    }
}

/// A label route that swaps.
fn lsp(from: u32, to: u32) -> Message {
    Message::route(
        route(Destination::Label(label(from)), Labels::Out(smallvec![label(to)])),
        Position::Replaces,
    )
}

fn lsp_gone(value: u32) -> Message {
    Message::gone(Route {
        to: To::Paths(smallvec![]),
        ..route(Destination::Label(label(value)), Labels::Out(smallvec![]))
    })
}

fn ip(prefix: &str, labels: Labels) -> Message {
    Message::route(
        route(
            Destination::Prefix(Prefix {
                table: 254,
                prefix: prefix.parse().unwrap(),
                metric: 20,
                selective: false,
            }),
            labels,
        ),
        Position::Replaces,
    )
}

fn object(id: u32) -> Message {
    Message::Object(Object {
        id,
        to: ObjectTo::Path(path(Labels::Out(smallvec![]))),
    })
}

#[test]
fn what_zebra_sent_is_read() {
    let mut connection = Connection::new();
    assert_eq!(connection.read(OBJECTS), Ok(OBJECTS.len()));
    let counters = *connection.session.counters();
    assert_eq!(
        counters,
        Counters {
            bytes: OBJECTS.len() as u64,
            frames: 49,
            labels: 5,
            labels_gone: 2,
            prefixes: counters.prefixes,
            prefixes_gone: 2,
            objects: counters.objects,
            objects_gone: 2,
            ..Counters::default()
        }
    );
    assert_eq!(counters.prefixes + counters.objects, 49 - 5 - 2 - 2 - 2);
    assert_eq!(connection.remarks(), ["zebra uses its module dplane_fpm_nl"]);
    // Labels, then objects, then routes; changes at the end.
    let kinds: Vec<_> = connection
        .taken
        .iter()
        .map(|(key, _)| match key {
            Key::Route(Destination::Label(_)) => "label",
            Key::Route(Destination::Prefix(_)) => "prefix",
            Key::Object(_) => "object",
        })
        .collect();
    let mut phases = kinds.clone();
    phases.dedup();
    assert_eq!(phases[..4], ["label", "object", "prefix", "label"]);

    let mut connection = Connection::new();
    assert_eq!(connection.read(INLINE), Ok(INLINE.len()));
    let counters = connection.session.counters();
    assert_eq!((counters.frames, counters.objects, counters.unreadable), (26, 0, 0));
    let imposes = |message: &Message| match message {
        Message::Route { route, .. } => match &route.to {
            To::Paths(paths) => paths.iter().any(|path| matches!(path.labels, Labels::Imposed { .. })),
            To::Object(_) => false,
        },
        _ => false,
    };
    assert_eq!(
        connection.taken.iter().filter(|(_, message)| imposes(message)).count(),
        8
    );
}

#[test]
fn the_old_module_is_recognised() {
    let mut connection = Connection::new();
    assert_eq!(connection.read(OLD_MODULE), Ok(OLD_MODULE.len()));
    let remark = "zebra uses its module fpm, which sends no labels: start zebra with `-M dplane_fpm_nl` instead \
                  (`zebra_options` in /etc/frr/daemons), and configure `fpm address`";
    assert_eq!(connection.remarks(), [remark]);
    assert_eq!(connection.session.dialect(), Some(Dialect::OldModule));

    let mut connection = Connection::new();
    let frame = raw(Kind::Protobuf, &[8, 1, 18, 3, 10, 1, 7]);
    assert_eq!(connection.read(&[frame.clone(), frame].concat()), Ok(22));
    assert_eq!(connection.session.dialect(), Some(Dialect::Protobuf));
    assert_eq!(
        connection.remarks(),
        [remark.replace("module fpm,", "module fpm:protobuf,")]
    );
    // It has sent nothing readable, so what other connections have sent stays.
    assert!(!connection.after(seconds(60)));
    assert_eq!(
        (connection.session.state(), connection.session.counters().ignored),
        (State::Connected, 2)
    );
}

#[test]
fn the_dialect_of_sonic_is_recognised() {
    let remark = "zebra uses SONiC's module dplane_fpm_sonic: labels are followed; VXLAN and SRv6 are ignored";
    // RTM_NEWSRV6LOCALSID, after labels.
    let mut connection = Connection::new();
    connection.say(&[lsp(100, 200)]);
    let message = [&20_u32.to_ne_bytes()[..], &1000_u16.to_ne_bytes(), &[0; 14]].concat();
    let frame = raw(Kind::Netlink, &message);
    assert_eq!(connection.read(&frame), Ok(frame.len()));
    assert_eq!(connection.remarks(), ["zebra uses its module dplane_fpm_nl", remark]);
    assert_eq!(connection.session.counters().ignored, 1);
    // With SONiC's own VXLAN encapsulation.
    let mut connection = Connection::new();
    connection.say(&[ip("10.8.0.0/24", Labels::Other(100))]);
    assert_eq!(connection.remarks(), [remark]);
}

#[test]
fn zebra_has_sent_everything_once_it_is_silent() {
    let mut connection = Connection::new();
    assert_eq!(connection.session.state(), State::Connected);
    // If nothing is sent at all, the sender stays unknown.
    assert!(!connection.after(seconds(60)));
    connection.say(&[lsp(100, 200)]);
    assert_eq!(connection.session.state(), State::Replaying);
    assert!(!connection.after(Duration::from_millis(1999)));
    connection.say(&[lsp(101, 201)]);
    assert!(!connection.after(Duration::from_millis(1999)));
    assert_eq!(
        connection.session.deadline(),
        Some(connection.now + Duration::from_millis(1))
    );
    assert!(connection.after(Duration::from_millis(1)));
    assert_eq!(connection.session.state(), State::Synced);
    // Once.
    connection.say(&[lsp(101, 202)]);
    assert!(!connection.after(seconds(60)));
    assert_eq!(connection.session.deadline(), None);
    // A connection that ends earlier is not synced; the next one starts over.
    connection.session.disconnect();
    connection.session.connect(connection.now);
    connection.say(&[lsp(101, 203)]);
    connection.session.disconnect();
    assert_eq!(connection.session.state(), State::Listening);
    assert!(!connection.after(seconds(60)));
    assert_eq!(connection.session.counters().labels, 4);
}

#[test]
fn routes_that_flap_are_not_waited_for() {
    let mut connection = Connection::new();
    connection.say(&[lsp(100, 200), lsp(101, 201)]);
    let mut seconds_taken = 0;
    let mut flap = |connection: &mut Connection| {
        for second in 1..=100 {
            if connection.after(seconds(1)) {
                seconds_taken = second;
                break;
            }
            connection.say(&[lsp(100, 200 + second)]);
        }
    };
    flap(&mut connection);
    assert_eq!(seconds_taken, 20);
    // A key that is sent for the first time is part of the replay.
    let mut connection = Connection::new();
    connection.say(&[lsp(100, 200)]);
    for second in 1..100 {
        assert!(!connection.after(seconds(1)));
        connection.say(&[lsp(100 + second, 200)]);
    }
}

#[test]
fn a_pause_of_the_reader_is_no_silence_of_zebra() {
    let mut connection = Connection::new();
    connection.say(&[lsp(100, 200)]);
    connection.now += seconds(30);
    connection.session.resume(connection.now);
    assert!(!connection.after(Duration::ZERO));
    assert!(connection.after(QUIET));
}

#[test]
fn a_zebra_without_labels_gets_a_hint() {
    let hint = "zebra has sent no labels; on a kernel without MPLS it takes none from routing daemons: \
                `modprobe mpls_router`, then restart FRR";
    let mut connection = Connection::new();
    connection.say(&[object(1), ip("10.8.0.0/24", Labels::Out(smallvec![]))]);
    assert!(connection.after(QUIET));
    assert_eq!(connection.remarks(), ["zebra uses its module dplane_fpm_nl", hint]);
    let mut connection = Connection::new();
    let stack = smallvec![label(300)];
    connection.say(&[ip("10.8.0.0/24", Labels::Imposed { stack, ttl: None })]);
    assert!(connection.after(QUIET));
    assert_eq!(connection.remarks(), ["zebra uses its module dplane_fpm_nl"]);
}

#[test]
fn what_cannot_be_read_is_counted_and_keeps_routes() {
    let mut connection = Connection::new();
    let mut damaged = frame_of(&[lsp(100, 200)]);
    // No S bit in RTA_NEWDST.
    let at = damaged
        .windows(4)
        .position(|bytes| bytes == [0, 0x0c, 0x81, 0])
        .unwrap();
    damaged[at + 2] = 0x80;
    assert_eq!(connection.read(&damaged), Ok(damaged.len()));
    assert_eq!(connection.read(&damaged), Ok(damaged.len()));
    assert_eq!(connection.session.state(), State::Connected);
    connection.say(&[lsp(101, 201)]);
    // Within a frame, the next message is lost, but not the next frame.
    let content = [&8_u32.to_ne_bytes()[..], &[0; 30]].concat();
    let frame = raw(Kind::Netlink, &content);
    assert_eq!(connection.read(&frame), Ok(frame.len()));
    connection.say(&[lsp(102, 202)]);
    assert_eq!(connection.taken.len(), 2);
    assert_eq!(connection.session.counters().unreadable, 3);
    // Its route has changed.
    assert_eq!(connection.read(&damaged), Ok(damaged.len()));
    assert_eq!(connection.taken.len(), 3);
    assert!(!connection.after(QUIET));
    assert_eq!(connection.session.state(), State::Synced);
    assert_eq!(
        connection.remarks(),
        [
            "a message cannot be read, and is ignored: RTA_NEWDST: entry 1 of 1 has no S bit; the last one must have \
             it, and no other",
            "zebra uses its module dplane_fpm_nl",
            "routes that zebra did not send again are kept, because 4 messages cannot be read",
        ]
    );
}

#[test]
fn garbage_ends_a_connection() {
    for (bytes, text) in [
        (&b"GET / HTTP/1.1\r\n"[..], "a frame has version 71; must be 1"),
        (&[1, 3, 0, 8], "a frame has type 3; must be 1 (netlink) or 2 (protobuf)"),
        (&[1, 1, 0, 3], "a frame has length 3; must be 4 or more"),
        (&[1, 1, 0, 0], "a frame has length 0; must be 4 or more"),
    ] {
        let mut connection = Connection::new();
        let bytes = [&frame_of(&[lsp(100, 200)])[..], bytes].concat();
        assert_eq!(connection.read(&bytes).unwrap_err().to_string(), text);
        assert_eq!(connection.session.counters().framing_lost, 1);
        // The messages before it count.
        assert_eq!(connection.taken.len(), 1);
    }
    // An incomplete frame is waited for.
    let mut connection = Connection::new();
    let frame = frame_of(&[lsp(100, 200)]);
    for length in 0..frame.len() {
        assert_eq!(connection.read(&frame[..length]), Ok(0));
    }
    // An empty frame means nothing.
    assert_eq!(connection.read(&[1, 1, 0, 4]), Ok(4));
    assert_eq!(connection.session.state(), State::Connected);
}

#[test]
fn a_frame_may_have_65535_bytes() {
    let mut content = Vec::new();
    let count = 900;
    for value in 16..16 + count {
        rtnl::encode(&lsp(value, 100), &mut content);
    }
    // The rest is one message of another kind, which need not be padded.
    let rest = u32::try_from(65_535 - 4 - content.len()).unwrap();
    content.extend(rest.to_ne_bytes());
    content.resize(65_535 - 4, 0);
    let frame = raw(Kind::Netlink, &content);
    assert_eq!((frame.len(), &frame[..4]), (65_535, &[1, 1, 0xff, 0xff][..]));
    let mut connection = Connection::new();
    assert_eq!(connection.read(&frame[..65_534]), Ok(0));
    let two = [frame.clone(), frame].concat();
    assert_eq!(connection.read(&two), Ok(two.len()));
    let counters = connection.session.counters();
    assert_eq!(
        (counters.frames, counters.labels, counters.ignored, counters.unreadable),
        (2, 2 * u64::from(count), 2, 0)
    );
}

/// Each message of zebra, cut off at each place: first the frame alone, then the message too.
#[test]
fn messages_that_are_cut_off_change_nothing_else() {
    let mut rest = OBJECTS;
    while let Ok(Some((frame, after))) = take_frame(rest) {
        rest = after;
        let (message, _) = rtnl::split(frame.content).unwrap();
        for length in 0..message.len() {
            let mut cut = message[..length].to_vec();
            let mut connection = Connection::new();
            let bytes = raw(Kind::Netlink, &cut);
            assert_eq!(connection.read(&bytes), Ok(bytes.len()));
            // Without a byte, there is no message.
            let unreadable = u64::from(length > 0);
            assert_eq!(connection.session.counters().unreadable, unreadable, "{length} bytes");
            assert!(connection.taken.is_empty());
            if length < 16 {
                continue;
            }
            cut[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
            connection.say(&[lsp(1000, 1001)]);
            let bytes = [raw(Kind::Netlink, &cut), frame_of(&[lsp(1002, 1003)])].concat();
            assert_eq!(connection.read(&bytes), Ok(bytes.len()));
            let messages: Vec<_> = connection.taken.into_iter().map(|(_, message)| message).collect();
            assert_eq!(messages.first(), Some(&lsp(1000, 1001)));
            assert_eq!(messages.last(), Some(&lsp(1002, 1003)));
            // Or what is left of it.
            assert!(messages.len() <= 3, "{messages:?}");
        }
    }
}

fn key_of(message: &Message) -> Key {
    match message {
        Message::Route { route, .. } | Message::RouteGone(route) => Key::Route(route.destination),
        Message::Object(object) => Key::Object(object.id),
        Message::ObjectGone(id) => Key::Object(*id),
        Message::Input { .. } | Message::InputGone { .. } => panic!("not of zebra"),
    }
}

fn push(pending: &mut Pending<u8>, message: Message) -> bool {
    pending.push(key_of(&message), message)
}

#[test]
fn the_last_message_for_each_key_is_left() {
    let mut pending = Pending::default();
    assert!(!push(&mut pending, lsp_gone(100)));
    assert!(!push(&mut pending, lsp(101, 201)));
    // Deleted and added in one frame.
    assert!(push(&mut pending, lsp(100, 200)));
    assert_eq!(pending.len(), 2);
    assert_eq!(
        pending.take(512),
        Some(Next::Messages(vec![lsp(101, 201), lsp(100, 200)]))
    );
    assert_eq!((pending.take(512), pending.is_empty()), (None, true));
    // A message that was taken is not replaced.
    assert!(!push(&mut pending, lsp(100, 202)));
}

#[test]
fn nothing_is_moved_across_a_mark() {
    let mut pending = Pending::default();
    push(&mut pending, lsp(100, 200));
    push(&mut pending, lsp(101, 201));
    pending.mark(7);
    assert!(!push(&mut pending, lsp(100, 300)));
    assert!(push(&mut pending, lsp(100, 301)));
    assert_eq!(pending.len(), 4);
    assert_eq!(pending.take(1), Some(Next::Messages(vec![lsp(100, 200)])));
    // After the mark, it is still replaced.
    assert!(push(&mut pending, lsp(100, 302)));
    assert_eq!(pending.take(512), Some(Next::Messages(vec![lsp(101, 201)])));
    assert_eq!(pending.take(512), Some(Next::Mark(7)));
    assert_eq!(pending.take(512), Some(Next::Messages(vec![lsp(100, 302)])));
    assert_eq!(pending.take(512), None);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u32, u32),
    Mark,
    Take(usize),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_queue_is_a_shorter_list(steps in vec(prop_oneof![
        60 => (16_u32..24, 16_u32..1000).prop_map(|(from, to)| Step::Push(from, to)),
        1 => Just(Step::Mark),
        1 => (1_usize..6).prop_map(Step::Take),
    ], 0..6000)) {
        let mut pending = Pending::default();
        // The state of each label according to the messages taken, and what it should be at the last mark.
        let (mut seen, mut sent) = (BTreeMap::new(), BTreeMap::new());
        let mut marks = Vec::new();
        let mut take = |pending: &mut Pending<u8>, marks: &mut Vec<BTreeMap<_, _>>, count| match pending.take(count) {
            Some(Next::Messages(messages)) => {
                assert!((1..=count).contains(&messages.len()));
                messages.into_iter().for_each(|message| drop(seen.insert(format!("{:?}", key_of(&message)), message)));
                true
            }
            Some(Next::Mark(_)) => {
                assert_eq!(seen, marks.remove(0));
                true
            }
            None => false,
        };
        for step in steps {
            match step {
                Step::Push(from, to) => {
                    let message = lsp(from, to);
                    sent.insert(format!("{:?}", key_of(&message)), message.clone());
                    push(&mut pending, message);
                }
                Step::Mark => {
                    pending.mark(0);
                    marks.push(sent.clone());
                }
                Step::Take(count) => drop(take(&mut pending, &mut marks, count)),
            }
        }
        while take(&mut pending, &mut marks, 4) {}
        prop_assert!(pending.is_empty() && marks.is_empty());
        prop_assert_eq!(seen, sent);
    }

    #[test]
    fn any_bytes_are_read(messages in vec((16_u32..24, 16_u32..99), 0..9), at: prop::sample::Index, byte: u8) {
        let mut bytes: Vec<u8> = messages.iter().flat_map(|&(from, to)| frame_of(&[lsp_gone(from), lsp(from, to)])).collect();
        fuzz::fpm(&bytes);
        if !bytes.is_empty() {
            *at.get_mut(&mut bytes) = byte;
            fuzz::fpm(&bytes);
        }
    }
}
