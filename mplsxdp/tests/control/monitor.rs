//! `Monitor` and `Capture`, and their commands: what happens reaches those who watch, and nobody waits for them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mplsxdp::control::api::{EventChange, NextHopState, Resolution, ViaAddress, ViaFamily};
use mplsxdp::control::events::{Event, Exception};
use mplsxdp::control::frames::{Frame, Place, Tap, Verdict};
use mplsxdp::dataplane::memory::MemoryTables;
use mplsxdp::lfib::{Budget, Change, Lfib, Made, Progress};
use mplsxdp::route::line::{self, Family};
use mplsxdp::route::{Mode, Owner, Route, RouteKey};
use mplsxdp::slowpath::Handled;
use mplsxdp::slowpath::outcome::Outcome;
use mplsxdp_common::abi::{CaptureFilter, Reason};
use serde_json::{Value, json};

use crate::command::command;
use crate::fake::{Fake, links};

/// What the changes make of the routes, in order.
fn changes(changes: impl IntoIterator<Item = Change>) -> Vec<Event> {
    let mut lfib = Lfib::new(MemoryTables::default());
    lfib.watch(true);
    let mut make = |change| -> Made {
        assert!(lfib.begin(change).is_ok());
        loop {
            if let Progress::Finished(finished) = lfib.step(&mut Budget::new(usize::MAX, &mut || false)) {
                return finished.made.unwrap();
            }
        }
    };
    changes.into_iter().map(|change| Event::Routes(make(change))).collect()
}

fn install(lines: &[&str]) -> Change {
    let routes = lines.iter().map(|line| line::route(line, Family::Any).unwrap());
    let routes: Arc<Vec<Route>> = Arc::new(routes.collect());
    let (mode, owner) = (Mode::Replace, Owner::STATIC);
    Change::Install { mode, owner, routes }
}

fn neighbour(change: EventChange, state: Resolution) -> Event {
    Event::NextHop(
        change,
        NextHopState {
            via: ViaAddress {
                family: ViaFamily::Inet,
                host: "192.0.2.1".into(),
            },
            dev: Some("eth1".into()),
            lladdr: Some("02:00:00:00:00:02".into()),
            state,
            redirect_lost: false,
            routes: 3,
            backup: None,
            own_backups: false,
            kernel: None,
        },
    )
}

fn exception() -> Event {
    let mut head = vec![2; 12];
    head.extend([0x88, 0x47, 0, 0x06, 0x41, 1]);
    head.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 63, 17, 0, 0, 10, 1, 1, 1, 10, 4, 4, 2]);
    Event::Exception(Exception {
        port: "eth1".into(),
        handled: Handled {
            reason: Some(Reason::TtlExpired),
            outcome: Outcome::TimeExceeded,
        },
        length: 98,
        head: head.into(),
    })
}

fn link() -> Event {
    let eth1 = links(false).remove(0);
    Event::Link(EventChange::Changed, Box::new(eth1))
}

/// A client that watches.
struct Watch(BufReader<UnixStream>);

impl Watch {
    /// The first reply is empty.
    fn start(fake: &Fake, parameters: Value) -> Self {
        let call = json!({ "method": "io.mplsxdp.Monitor", "parameters": parameters, "more": true });
        let stream = UnixStream::connect(fake.instance.socket()).unwrap();
        let mut watch = Self(BufReader::new(stream));
        watch.send(&call);
        let first = watch.receive().unwrap();
        assert_eq!(first, json!({ "parameters": { "events": [] }, "continues": true }));
        watch
    }

    fn send(&mut self, call: &Value) {
        self.0.get_mut().write_all(format!("{call}\0").as_bytes()).unwrap();
    }

    /// One reply, or `None` at the end of the connection.
    fn receive(&mut self) -> Option<Value> {
        let mut message = Vec::new();
        self.0.read_until(0, &mut message).unwrap();
        message.pop()?;
        Some(serde_json::from_slice(&message).unwrap())
    }
}

#[test]
fn events_come_in_order_until_the_client_hangs_up_or_the_instance_ends() {
    let fake = Fake::start();
    let without_more = fake.raw().call("Monitor", json!({}));
    assert_eq!(without_more["error"], "org.varlink.service.ExpectedMore");
    let mut all = Watch::start(&fake, json!({}));
    let mut links = Watch::start(&fake, json!({ "kinds": ["link"] }));
    fake.await_watchers(2);
    let flush: Change = Change::Flush(Arc::new(Box::new(|_| true)));
    let line = "100 as to 200 via inet 192.0.2.1 dev eth1";
    for event in changes([install(&[line]), flush]) {
        fake.tell(event);
    }
    fake.tell(neighbour(EventChange::Changed, Resolution::Resolved));
    fake.tell(exception());
    fake.tell(link());
    fake.tell(Event::ExceptionsLeftOut(5));
    let mut events: Vec<Value> = Vec::new();
    while events.len() < 6 {
        let reply = all.receive().unwrap();
        assert_eq!(
            (&reply["continues"], reply["parameters"].get("lost")),
            (&json!(true), None)
        );
        events.extend(reply["parameters"]["events"].as_array().unwrap().iter().cloned());
    }
    let kinds: Vec<&Value> = events.iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["route", "route", "neigh", "exception", "link", "exception"]);
    assert!(
        events
            .iter()
            .all(|event| event["time"] == "2027-01-15T08:00:00.000123Z"),
        "{events:?}"
    );
    assert_eq!(
        (&events[0]["change"], &events[1]["change"]),
        (&json!("added"), &json!("deleted"))
    );
    assert_eq!(events[0]["route"]["next_hop"]["state"], "resolved");
    assert_eq!(events[1]["route"]["route"]["label"], 100);
    assert_eq!(
        events[3]["exception"]["labels"],
        json!([{ "label": 100, "tc": 0, "ttl": 1 }])
    );
    assert_eq!(events[5]["left_out"], 5);
    let only = links.receive().unwrap();
    assert_eq!(only["parameters"]["events"].as_array().unwrap().len(), 1);

    drop(links);
    fake.await_watchers(1);
    // Nothing else is answered over this connection.
    let mut talks = Watch::start(&fake, json!({}));
    talks.send(&json!({ "method": "io.mplsxdp.GetStatus" }));
    assert_eq!(talks.receive(), None);
    fake.await_watchers(1);
    fake.raw().call("Unload", json!({}));
    assert_eq!(all.receive().unwrap()["error"], "io.mplsxdp.ShuttingDown");
    assert_eq!(all.receive(), None);
}

/// Far more than the queue and the socket hold: the rest is lost, and counted; another client gets everything.
#[test]
fn a_slow_reader_is_told_how_much_it_has_lost_and_holds_up_nobody() {
    const EVENTS: usize = 60_000;
    let fake = Fake::start();
    let mut slow = Watch::start(&fake, json!({ "kinds": ["exception"] }));
    let mut fast = Watch::start(&fake, json!({ "kinds": ["exception"] }));
    let mut received = 0;
    for sent in 1..=EVENTS {
        fake.tell(exception());
        while sent - received > 1000 {
            let reply = fast.receive().unwrap();
            assert!(reply["parameters"].get("lost").is_none());
            received += reply["parameters"]["events"].as_array().unwrap().len();
        }
    }
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < EVENTS {
        let reply = slow.receive().unwrap();
        lost += reply["parameters"]["lost"].as_u64().unwrap_or(0) as usize;
        seen += reply["parameters"]["events"].as_array().unwrap().len();
    }
    assert_eq!(seen + lost, EVENTS);
    assert!(lost > 0 && seen >= 4096, "{seen} seen, {lost} lost");
    // It goes on.
    fake.tell(link());
    fake.tell(Event::ExceptionsLeftOut(7));
    let reply = slow.receive().unwrap();
    assert_eq!(reply["parameters"]["events"][0]["left_out"], 7);
}

/// A change of many routes is sent in parts.
#[test]
fn a_large_change_is_one_event_for_each_route() {
    let fake = Fake::start();
    let mut raw = Watch::start(&fake, json!({ "kinds": ["route"] }));
    let lines: Vec<String> = (100..5100)
        .map(|label| format!("{label} as to 200 via inet 192.0.2.1 dev eth1"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let keys = (100..5100).map(|label| {
        let route = line::route(&format!("{label} dev lo"), Family::Any).unwrap();
        Route::key(&route)
    });
    let keys: Arc<Vec<RouteKey>> = Arc::new(keys.collect());
    for event in changes([install(&lines), Change::Delete(keys)]) {
        fake.tell(event);
    }
    let (mut whole, mut keys, mut labels) = (0, 0, Vec::new());
    while labels.len() < 10_000 {
        let reply = raw.receive().unwrap();
        let events = reply["parameters"]["events"].as_array().unwrap();
        assert!((1..=256).contains(&events.len()), "{}", events.len());
        for event in events {
            let (route, key) = (&event["route"]["route"]["label"], &event["key"]["label"]);
            whole += usize::from(route.is_u64());
            keys += usize::from(key.is_u64());
            labels.push(route.as_u64().or(key.as_u64()).unwrap());
        }
    }
    assert_eq!((whole, keys), (5000 + 1024, 5000 - 1024));
    assert!(labels.into_iter().eq((100..5100).chain(100..5100)));
}

/// A running `mplsxdp monitor`.
struct Monitor {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Monitor {
    fn start(fake: &Fake, line: &str, watchers: usize) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut child = command(fake, &words).spawn().unwrap();
        fake.await_watchers(watchers);
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// Its exit code and standard error, when nobody reads its output any more.
    fn close(self) -> (Option<i32>, String) {
        let Self { child, out } = self;
        drop(out);
        Self::ended(child)
    }

    /// The same when it ends by itself.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        Self::ended(self.child)
    }

    fn ended(mut child: Child) -> (Option<i32>, String) {
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (child.wait().unwrap().code(), error)
    }
}

#[test]
fn the_command_prints_a_line_for_each_event() {
    let fake = Fake::start();
    let mut text = Monitor::start(&fake, "monitor", 1);
    let mut only = Monitor::start(&fake, "-ts monitor neigh", 2);
    let mut json = Monitor::start(&fake, "-j monitor all", 3);
    let flush: Change = Change::Flush(Arc::new(Box::new(|_| true)));
    let line = "100 as to 200 via inet 192.0.2.1 dev eth1 proto ldp";
    for event in changes([install(&[line, "101 dev lo"]), flush]) {
        fake.tell(event);
    }
    fake.tell(neighbour(EventChange::Deleted, Resolution::Resolved));
    fake.tell(exception());
    fake.tell(link());
    fake.tell(Event::ExceptionsLeftOut(1));
    let expected = [
        "[ROUTE]100 as to 200 via inet 192.0.2.1 dev eth1 proto ldp\n",
        "[ROUTE]101 dev lo proto static\n",
        "[ROUTE]Deleted 100 as to 200 via inet 192.0.2.1 dev eth1 proto ldp\n",
        "[ROUTE]Deleted 101 dev lo proto static\n",
        "[NEIGH]Deleted 192.0.2.1 dev eth1 lladdr 02:00:00:00:00:02 resolved routes 3\n",
        "[EXCEPTION]eth1 ttl-expired [100 1] 10.1.1.1 > 10.4.4.2 length 98 time-exceeded\n",
        "[LINK]2: eth1: UP mpls on mtu 1500 mode native \\    link/ether 02:00:00:00:00:01 bpf_link 3 prog 4 \
         redirect-target yes checksum finish\n",
        "[EXCEPTION]1 exception left out\n",
    ];
    assert_eq!(expected.map(|_| text.line()), expected);
    let neighbour = only.line();
    assert!(
        neighbour.starts_with("[2027-01-1") && neighbour.contains(":00:00.000123] Deleted 192.0.2.1 "),
        "{neighbour}"
    );
    let objects = expected.map(|_| serde_json::from_str::<Value>(&json.line()).unwrap());
    assert_eq!(objects[0]["route"]["dst"], "100");
    assert_eq!(
        (&objects[2]["change"], &objects[2]["route"]["protocol"]),
        (&json!("deleted"), &json!("ldp"))
    );
    assert_eq!(objects[4]["neigh"]["dst"], "192.0.2.1");
    assert_eq!(objects[5]["exception"]["destination"], "10.4.4.2");
    assert_eq!(
        (&objects[6]["link"]["ifname"], &objects[7]["left_out"]),
        (&json!("eth1"), &json!(1))
    );

    // Nobody reads any more: it need not wait for an event to notice.
    assert_eq!(only.close(), (Some(0), String::new()));
    fake.await_watchers(2);
    fake.raw().call("Unload", json!({}));
    for monitor in [text, json] {
        let ended = "mplsxdp: the instance `default` has ended\n";
        assert_eq!(monitor.end(), (Some(1), ended.to_owned()));
    }
}

#[test]
fn what_cannot_be_monitored_is_refused() {
    let fake = Fake::start();
    for (line, wrong) in [
        ("monitor routes", "`routes` is not a kind of event"),
        ("monitor --interval 1", "`--interval` is for rates"),
        ("monitor rate --interval 0.01", "give 0.1 to 3600 seconds"),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = command(&fake, &words).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && error.contains(wrong),
            "{line}: {error}"
        );
    }
    for (parameters, place) in [
        (json!({ "kinds": [] }), "parameters.kinds"),
        (json!({ "kinds": ["routes"] }), "parameters.kinds[0]"),
        (json!({ "interval_ms": 1000 }), "parameters.interval_ms"),
        (
            json!({ "kinds": ["rate"], "interval_ms": 99 }),
            "parameters.interval_ms",
        ),
    ] {
        let reply = fake.raw().call("Monitor", parameters);
        assert_eq!(reply["parameters"]["parameter"], place, "{reply}");
    }
}

/// The counters of the instance here never change.
#[test]
fn rates_come_at_their_interval() {
    let fake = Fake::start();
    let mut rates = Monitor::start(&fake, "monitor rate --interval 0.1", 1);
    for _ in 0..3 {
        for link in links(true) {
            // The kernel has no device for a sub-interface.
            let kernel = link.counters.unwrap().kernel;
            let rates_of_kernel = kernel.map_or("", |_| " rx 0 pps 0 bps tx 0 pps 0 bps");
            assert_eq!(rates.line(), format!("{}{rates_of_kernel}\n", link.ifname));
        }
    }
    assert_eq!(rates.close(), (Some(0), String::new()));
}

fn captured(number: u16) -> Arc<Frame> {
    Arc::new(Frame {
        time: SystemTime::UNIX_EPOCH + Duration::new(1_800_000_000, 123_456_789),
        place: Place::Exception(Reason::NoRoute, Verdict::Punted),
        port: "eth1".into(),
        length: 1500,
        bytes: [&number.to_be_bytes()[..], &[7; 998]].concat().into(),
    })
}

/// Takes the only capture as soon as it is there.
fn only_tap(fake: &Fake) -> Tap {
    loop {
        if let Some(tap) = fake.kept.lock().unwrap().taps.pop() {
            return tap;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_that_does_not_take_its_frames_loses_some_and_is_told() {
    const FRAMES: u16 = 20_000;
    let fake = Fake::start();
    for (parameters, place) in [
        (json!({ "reasons": ["no-route", "blue"] }), "parameters.reasons[1]"),
        (json!({ "reasons": [] }), "parameters.reasons"),
        (json!({ "sample": 0 }), "parameters.sample"),
        (json!({ "label": 1 << 20 }), "parameters.label"),
    ] {
        let reply = fake.raw().call("Capture", parameters);
        assert_eq!(reply["parameters"]["parameter"], place, "{reply}");
    }
    let stream = UnixStream::connect(fake.instance.socket()).unwrap();
    let mut client = Watch(BufReader::new(stream));
    let parameters = json!({ "reasons": ["no-route", "ttl-expired"], "ifname": "eth1", "label": 100, "sample": 10 });
    client.send(&json!({ "method": "io.mplsxdp.Capture", "parameters": parameters, "more": true }));
    let first = client.receive().unwrap();
    assert_eq!(first, json!({ "parameters": { "frames": [] }, "continues": true }));
    let tap = only_tap(&fake);
    let reasons = CaptureFilter::bit(Reason::NoRoute) | CaptureFilter::bit(Reason::TtlExpired);
    assert_eq!(tap.wanted.filter(), CaptureFilter::new(reasons, 10, Some(100)));
    assert_eq!(tap.wanted.ifname.as_deref(), Some("eth1"));
    (0..FRAMES).for_each(|number| tap.pass_on(&captured(number)));
    let (mut seen, mut lost, mut last) = (0, 0, None);
    while seen + lost < u64::from(FRAMES) {
        let reply = client.receive().unwrap();
        let frames = reply["parameters"]["frames"].as_array().unwrap();
        let data = frames
            .first()
            .map(|frame| STANDARD.decode(frame["data"].as_str().unwrap()).unwrap());
        // Those that are there are in order.
        assert!(data.is_none() || data > last);
        last = data.or(last);
        seen += frames.len() as u64;
        lost += reply["parameters"]["lost"].as_u64().unwrap_or(0);
    }
    assert_eq!(seen + lost, u64::from(FRAMES));
    assert!(lost > 0 && seen >= 4096, "{seen} seen, {lost} lost");
    assert!(!tap.is_gone());
    drop(client);
    while !tap.is_gone() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_command_writes_a_capture_and_says_what_it_has() {
    let fake = Fake::start();
    let file = fake.dir.path().join("frames");
    let words = ["capture", "--count", "3", "--reason", "no-route", "-w"];
    let mut child = command(&fake, &words).arg(&file).spawn().unwrap();
    let tap = only_tap(&fake);
    tap.lose(5);
    (0..4).for_each(|number| tap.pass_on(&captured(number)));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(
        said.contains("capturing") && said.ends_with("3 frames captured, 5 lost\n"),
        "{said}"
    );
    let written = std::fs::read(&file).unwrap();
    let has = |text: &[u8]| written.windows(text.len()).any(|window| window == text);
    assert!(has(b"punted: no-route. ") && has(b"eth1") && has(&[0, 2, 7, 7]) && !has(&[0, 3, 7, 7]));
    for (line, wrong) in [
        ("capture -w x --reason blue", "`blue` is not a reason; reasons: "),
        ("capture -w x --reason none", "captures nothing: add `--sample N`"),
        ("capture -w x --reason none --reason oam", "goes with no other reason"),
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = command(&fake, &words).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(2) && error.contains(wrong),
            "{line}: {error}"
        );
        assert!(!fake.dir.path().join("x").exists());
    }
}
