use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Happened, Turns, serve, take_each};
use crate::control;
use crate::control::access::Groups;
use crate::control::api::Request;
use crate::neighbour::Event;

/// A socket is read although one input follows the other: after each, the runtime looks at its sockets.
#[tokio::test(flavor = "current_thread")]
async fn the_event_loop_gives_way_after_each_input() {
    let (mut near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut far = tokio::net::UnixStream::from_std(far).unwrap();
    let (order_in, mut order) = mpsc::unbounded_channel();
    let order_of_socket = order_in.clone();
    let reading = tokio::spawn(async move {
        while far.read_u8().await.is_ok() {
            order_of_socket.send("socket").unwrap();
        }
    });
    // The task waits for the socket from now on.
    tokio::task::yield_now().await;
    near.write_all(b"a").unwrap();
    let mut inputs = 0;
    take_each(
        &mut inputs,
        async |inputs| (*inputs < 10).then_some("input"),
        |inputs, input| {
            *inputs += 1;
            order_in.send(input).unwrap();
        },
    )
    .await;
    drop((near, order_in));
    reading.await.unwrap();
    let mut seen = Vec::new();
    while let Some(what) = order.recv().await {
        seen.push(what);
    }
    let before = seen.iter().position(|&what| what == "socket");
    assert!(before.is_some_and(|before| before <= 2), "{seen:?}");
}

/// A client is answered while the runtime of the event loop does not run at all.
#[test]
fn clients_are_served_while_the_event_loop_is_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let (calls_in, _calls) = mpsc::channel(1);
    let serving = {
        let _within = runtime.enter();
        serve(
            UnixListener::bind(&path).unwrap(),
            calls_in,
            Groups::default(),
            Arc::default(),
            stop.clone(),
        )
        .unwrap()
    };
    let mut client = UnixStream::connect(&path).unwrap();
    // Only if nobody answers.
    client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client
        .write_all(b"{\"method\":\"org.varlink.service.GetInfo\",\"parameters\":{}}\0")
        .unwrap();
    let mut answer = Vec::new();
    BufReader::new(client).read_until(0, &mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("\"product\":\"mplsxdp\""), "{answer}");
    stop.cancel();
    serving.join().unwrap();
}

/// However many events and calls wait: each of the others waits for one event and one call at most.
#[test]
fn events_and_calls_take_turns_with_other_inputs() {
    let mut turns = Turns::default();
    let call = || {
        Some(control::Call {
            request: Request::GetStatus,
            peer: control::Peer { pid: 1, uid: 0 },
            reply: tokio::sync::oneshot::channel().0,
        })
    };
    let mut order = Vec::new();
    for _ in 0..8 {
        let next = turns.next(|| Some(Event::Rules), call).unwrap_or(Happened::Deadline);
        turns.taken(&next);
        order.push(next.name());
    }
    let (event, call, other) = ("a kernel event", "a call", "a deadline");
    assert_eq!(order, [event, call, event, other, event, call, event, other]);
    // A link that is down is seen after whatever is under way.
    assert!(matches!(
        turns.next(|| Some(Event::Rules), || None),
        Some(Happened::Event(_))
    ));
}
