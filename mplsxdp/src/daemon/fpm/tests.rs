//! Real connections, and a consumer in place of the event loop.

use std::io::{Read as _, Write as _};
use std::net::TcpStream as Client;

use futures_util::FutureExt as _;
use mplsxdp_common::wire::Label;
use smallvec::smallvec;

use super::*;
use crate::feeds::fpm::{Frame, Kind, write_frame};
use crate::route::{Protocol, Via};
use crate::rtnl::{self, Destination, Labels, Path, Position, Route, To};

const NEVER: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(50);

fn lsp(from: u32, to: u32) -> Message {
    let label = |value| Label::new(value).unwrap();
    let path = Path {
        ifindex: 5,
        via: Some(Via::Inet([10, 0, 1, 2].into())),
        labels: Labels::Out(smallvec![label(to)]),
        weight: 1,
    };
    Message::route(
        Route {
            destination: Destination::Label(label(from)),
            protocol: Protocol(193),
            unicast: true,
            to: To::Paths(smallvec![path]),
            ttl_propagate: None,
        },
        Position::Replaces,
    )
}

fn frames(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        let mut content = Vec::new();
        rtnl::encode(message, &mut content);
        let frame = Frame {
            kind: Kind::Netlink,
            content: &content,
        };
        write_frame(frame, &mut bytes);
    }
    bytes
}

fn listen(quiet: Duration) -> Fpm {
    Fpm::listen(([127, 0, 0, 1], 0).into(), quiet).unwrap()
}

fn connect(fpm: &Fpm) -> Client {
    Client::connect(fpm.status().address).unwrap()
}

fn connected(client: &Client) -> FeedEvent {
    FeedEvent::Connected {
        peer: client.local_addr().unwrap().to_string(),
    }
}

fn disconnected(reason: &str) -> FeedEvent {
    FeedEvent::Disconnected { reason: reason.into() }
}

async fn until(fpm: &Fpm, condition: impl Fn(&Status) -> bool) {
    while !condition(&fpm.status()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The server has closed the connection.
fn is_over(mut client: &Client) -> bool {
    // Unread data turns the end into a reset.
    matches!(client.read(&mut [0]), Ok(0) | Err(_))
}

#[tokio::test]
async fn all_that_zebra_has_then_changes() {
    let fpm = listen(SOON);
    let mut client = connect(&fpm);
    until(&fpm, |status| status.state == State::Connected).await;
    client.write_all(&frames(&[lsp(100, 200)])).unwrap();
    assert_eq!(fpm.next().await, connected(&client));
    assert_eq!(fpm.next().await, FeedEvent::Messages(vec![lsp(100, 200)]));
    assert_eq!(fpm.next().await, FeedEvent::Synced);
    let status = fpm.status();
    assert_eq!((status.state, status.dialect), (State::Synced, Some(Dialect::Zebra)));
    assert_eq!((status.peer, status.connections), (client.local_addr().ok(), 1));
    client.write_all(&frames(&[lsp(100, 201)])).unwrap();
    assert_eq!(fpm.next().await, FeedEvent::Messages(vec![lsp(100, 201)]));
    drop(client);
    assert_eq!(fpm.next().await, disconnected("it closed the connection"));
    let status = fpm.status();
    assert_eq!(
        (status.state, status.peer, status.counters.labels),
        (State::Listening, None, 2)
    );
}

#[tokio::test]
async fn what_clients_are_told_of_the_server() {
    let fpm = listen(NEVER);
    let mut client = connect(&fpm);
    let Message::Route { route, .. } = lsp(101, 201) else {
        panic!("not a route")
    };
    let deleted = Message::RouteGone(route);
    let mut bytes = frames(&[lsp(100, 200), lsp(101, 201), deleted, Message::ObjectGone(1)]);
    // A message that cannot be read, of type RTM_NEWROUTE, and one of a type that is unknown.
    for kind in [24, 999] {
        let mut message = vec![0; 16];
        message[0] = 16;
        message[4..6].copy_from_slice(&u16::to_ne_bytes(kind));
        let frame = Frame {
            kind: Kind::Netlink,
            content: &message,
        };
        write_frame(frame, &mut bytes);
    }
    client.write_all(&bytes).unwrap();
    until(&fpm, |status| status.counters.ignored == 1).await;
    // A second one is refused, then the first one says what is not a frame.
    assert!(is_over(&connect(&fpm)));
    client.write_all(b"garbage!").unwrap();
    until(&fpm, |status| status.counters.framing_lost == 1).await;
    let status = fpm.status();
    let server = FpmServer {
        address: status.address.to_string(),
        dialect: Some("dplane_fpm_nl".into()),
        connections: 1,
        refused_connections: 1,
        frames: 6,
        bytes: bytes.len() as u64,
        labels: 2,
        labels_deleted: 1,
        nexthop_objects_deleted: 1,
        ignored: 1,
        unreadable: 1,
        framing_lost: 1,
        coalesced: 1,
        // Labels 100 and 101, the object, and that there was a connection and that it is over.
        queued: 5,
        ..FpmServer::default()
    };
    assert_eq!(FpmServer::from(status), server);
    assert_eq!(fpm.next().await, connected(&client));
    let FeedEvent::Messages(messages) = fpm.next().await else {
        panic!("no messages")
    };
    assert_eq!(messages.len(), 3);
    assert!(matches!(fpm.next().await, FeedEvent::Disconnected { .. }));
    assert_eq!(FpmServer::from(fpm.status()), FpmServer { queued: 0, ..server });
}

#[tokio::test]
async fn a_connection_that_breaks_is_not_synced() {
    let fpm = listen(NEVER);
    for _ in 0..2 {
        let mut client = connect(&fpm);
        let bytes = frames(&[lsp(100, 200), lsp(101, 201)]);
        // The last frame is cut off.
        client.write_all(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(fpm.next().await, connected(&client));
        assert_eq!(fpm.next().await, FeedEvent::Messages(vec![lsp(100, 200)]));
        drop(client);
        assert_eq!(fpm.next().await, disconnected("it closed the connection"));
    }
}

#[tokio::test]
async fn one_zebra_at_a_time() {
    let fpm = listen(NEVER);
    let mut first = connect(&fpm);
    first.write_all(&frames(&[lsp(100, 200)])).unwrap();
    assert_eq!(fpm.next().await, connected(&first));
    assert_eq!(fpm.next().await, FeedEvent::Messages(vec![lsp(100, 200)]));
    for _ in 0..2 {
        assert!(is_over(&connect(&fpm)));
    }
    assert_eq!(fpm.status().refused, 2);
    first.write_all(&frames(&[lsp(101, 201)])).unwrap();
    assert_eq!(fpm.next().await, FeedEvent::Messages(vec![lsp(101, 201)]));
    drop(first);
    let mut second = connect(&fpm);
    second.write_all(&frames(&[lsp(102, 202)])).unwrap();
    assert!(matches!(fpm.next().await, FeedEvent::Disconnected { .. }));
    assert_eq!(fpm.next().await, connected(&second));
    assert_eq!(fpm.next().await, FeedEvent::Messages(vec![lsp(102, 202)]));
}

#[tokio::test]
async fn who_says_nothing_of_use_gives_way() {
    let fpm = listen(NEVER);
    let silent = connect(&fpm);
    until(&fpm, |status| status.peer == silent.local_addr().ok()).await;
    let mut useful = connect(&fpm);
    assert!(is_over(&silent));
    useful.write_all(&frames(&[lsp(100, 200)])).unwrap();
    // The switch is not informed of the first.
    assert_eq!(fpm.next().await, connected(&useful));
    assert_eq!(fpm.status().refused, 0);
}

#[tokio::test]
async fn garbage_reaches_nobody() {
    let fpm = listen(SOON);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[1, 1, 0, 3], &[1, 9]] {
        let mut client = connect(&fpm);
        client.write_all(garbage).unwrap();
        assert!(is_over(&client));
    }
    let mut client = connect(&fpm);
    let bytes = [&frames(&[lsp(100, 200)])[..], &[7; 1000]].concat();
    client.write_all(&bytes).unwrap();
    assert_eq!(fpm.next().await, connected(&client));
    assert_eq!(fpm.next().await, FeedEvent::Messages(vec![lsp(100, 200)]));
    assert_eq!(fpm.next().await, disconnected("a frame has version 7; must be 1"));
    assert!(is_over(&client));
    assert_eq!(fpm.status().counters.framing_lost, 5);
}

#[tokio::test]
async fn the_last_message_for_each_label_waits() {
    let fpm = listen(NEVER);
    let mut client = connect(&fpm);
    let messages: Vec<Message> = (0..20_000).map(|index| lsp(100 + index % 4, 1000 + index)).collect();
    client.write_all(&frames(&messages)).unwrap();
    until(&fpm, |status| status.counters.labels == 20_000).await;
    // Including the mark of the connection.
    assert_eq!((fpm.status().pending, fpm.status().replaced), (5, 19_996));
    assert_eq!(fpm.next().await, connected(&client));
    assert_eq!(fpm.next().await, FeedEvent::Messages(messages[19_996..].to_vec()));
}

#[tokio::test]
async fn reading_pauses_until_there_is_room() {
    // The writer must not count as silent because others have the CPU.
    let quiet = 10 * SOON;
    let fpm = listen(quiet);
    let count = 2 * PENDING_MAX as u32;
    let messages: Vec<Message> = (0..count).map(|index| lsp(100 + index, 200)).collect();
    let bytes = frames(&messages);
    let client = connect(&fpm);
    let mut writer = client.try_clone().unwrap();
    let writing = thread::spawn(move || writer.write_all(&bytes).unwrap());
    until(&fpm, |status| status.pending >= PENDING_MAX).await;
    // However long nothing is taken, zebra does not count as silent.
    tokio::time::sleep(2 * quiet).await;
    assert_eq!(fpm.status().state, State::Replaying);
    assert_eq!(fpm.next().await, connected(&client));
    let mut labels = 0;
    loop {
        match fpm.next().await {
            FeedEvent::Messages(messages) => {
                assert!(messages.len() <= BATCH);
                for message in messages {
                    assert_eq!(message, lsp(100 + labels, 200));
                    labels += 1;
                }
            }
            event => {
                assert_eq!((event, labels), (FeedEvent::Synced, count));
                break;
            }
        }
        assert!(fpm.status().pending < PENDING_MAX + BUFFER_BYTES / 64);
    }
    writing.join().unwrap();
}

/// The thread that reads may be preempted while it holds the lock, and the event loop has other work meanwhile.
#[tokio::test]
async fn the_event_loop_does_not_wait_for_the_thread_that_reads() {
    let fpm = listen(NEVER);
    let (locked, wait_for_lock) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel();
    let shared = Arc::clone(&fpm.shared);
    let reading = thread::spawn(move || {
        let inner = shared.lock();
        locked.send(()).unwrap();
        let was_released = released.recv_timeout(Duration::from_secs(5)).is_ok();
        drop(inner);
        was_released
    });
    wait_for_lock.recv().unwrap();
    assert!(fpm.next().now_or_never().is_none());
    release.send(()).unwrap();
    assert!(reading.join().unwrap());
    // It comes back to what was added meanwhile.
    fpm.shared.lock().pending.mark(FeedEvent::Synced);
    assert!(matches!(fpm.next().await, FeedEvent::Synced));
}
