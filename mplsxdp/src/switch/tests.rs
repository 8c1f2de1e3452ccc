//! The switch with tables in memory and a kernel that does what the test says: inputs, and the resulting effects.

use std::collections::HashMap;
use std::io;

use mplsxdp_common::abi::{Domain, Op, PortWord, RouteEntry, TtlMode};
use mplsxdp_common::forward::PortView as _;
use mplsxdp_common::wire::{Label, Mac};

use super::*;
use crate::config::{Options, PortConfig};
use crate::control::api::ChangeMode;
use crate::dataplane::Capacity;
use crate::dataplane::class_maps::{DscpMap, TcMap};
use crate::dataplane::label_ranges::AcceptLabels;
use crate::dataplane::memory::MemoryTables;
use crate::dataplane::mpls_mtu::MplsMtu;
use crate::dataplane::port::Interference;
use crate::dataplane::port_change::PortChange;
use crate::neighbour::fixture::link;
use crate::neighbour::{LinkInfo, Neighbour, NeighbourState};
use crate::ports::preflight::fixture::{NO_XMIT, nic};
use crate::ports::preflight::{Facts, PreflightError};
use crate::route::filter::RouteFilter;
use crate::route::line::{self, Family};
use crate::route::{Description, Route, RouteKey, Source};

mod feeds;
mod refusals;
mod watched;

const PEER: Peer = Peer { pid: 7, uid: 0 };
fn down(link: LinkInfo) -> LinkInfo {
    LinkInfo {
        up: false,
        running: false,
        ..link
    }
}

fn facts(name: &str, link: Option<LinkInfo>) -> Facts {
    Facts {
        name: name.into(),
        link,
        ..nic()
    }
}

fn route(text: &str) -> Route {
    line::route(text, Family::Any).unwrap()
}

fn port(name: &str) -> PortConfig {
    PortConfig {
        name: name.into(),
        tx_only: false,
        mpls: true,
        accept_labels: AcceptLabels::default(),
        mpls_mtu: MplsMtu::default(),
        cross_connect: None,
        dscp_map: DscpMap::default(),
        tc_map: TcMap::default(),
        checksum: None,
    }
}

fn config(ports: &[&str], routes: &[&str]) -> Config {
    let ports = ports.iter().map(|name| port(name)).collect();
    let routes = routes.iter().map(|text| route(text)).collect();
    Config::unchecked(Options::default(), ports, routes)
}

/// A switch and its kernel. Effects are answered by [`Rig::settle`], unless they are held.
struct Rig {
    switch: Switch<MemoryTables>,
    now: Instant,
    links: Vec<LinkInfo>,
    lookups: HashMap<IpAddr, Lookup>,
    /// The effects that were not answered.
    seen: Vec<Effect>,
    /// Why the next attachment of a program fails.
    refuses: Option<io::ErrorKind>,
    /// Look-ups and attachments are not answered.
    holds: bool,
    tokens: u64,
}

impl Rig {
    /// Not started yet; the kernel has reported these links.
    fn new(config: Config, links: Vec<LinkInfo>) -> Self {
        Self::with_tables(config, links, MemoryTables::default())
    }

    fn with_tables(config: Config, links: Vec<LinkInfo>, tables: MemoryTables) -> Self {
        let settings = Settings::new(0, TtlMode::Uniform, 255, false, false);
        let identity = Identity {
            pid: 1,
            netns_inode: 2,
            netns_name: Some("r1".into()),
            since: SystemTime::UNIX_EPOCH,
        };
        let now = Instant::now();
        let mut rig = Self {
            switch: Switch::new(config, identity, settings, tables, now),
            now,
            lookups: HashMap::new(),
            seen: Vec::new(),
            refuses: None,
            holds: false,
            tokens: 0,
            links: links.clone(),
        };
        let events = links.into_iter().map(Event::Link).chain([Event::Synced]);
        rig.handle(Input::Kernel(events.collect()));
        rig
    }

    /// Up, with ports on eth1 to eth3.
    fn up() -> Self {
        Self::up_with(config(&["eth1", "eth2", "eth3"], &[]))
    }

    fn up_with(config: Config) -> Self {
        Self::up_with_tables(config, MemoryTables::default())
    }

    fn up_with_tables(config: Config, tables: MemoryTables) -> Self {
        let links = (1..=3).map(|number| link(number, &format!("eth{number}")));
        let mut rig = Self::with_tables(config, links.collect(), tables);
        rig.handle(Input::Start);
        assert!(rig.saw(|effect| matches!(effect, Effect::Ready)), "{:?}", rig.seen);
        rig.seen.clear();
        rig
    }

    fn handle(&mut self, input: Input) {
        self.switch.handle(input, self.now);
        self.settle();
    }

    /// Answers effects like a kernel in which nothing fails except what the test wants.
    fn settle(&mut self) {
        loop {
            while let Some(effect) = self.switch.take_effect() {
                if let Some(answer) = self.perform(effect) {
                    self.switch.handle(answer, self.now);
                }
            }
            if !self.switch.has_steps() || self.holds {
                return;
            }
            self.switch.step(self.now, &mut || false);
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Survey { name, .. } => {
                let links = self.links.iter();
                let mut found = facts(&name, links.clone().find(|link| *link.name == *name).cloned());
                found.available = links.map(|link| link.name.clone()).collect();
                Some(Input::Port(PortEvent::Surveyed(Ok(Survey {
                    sub_interface: sub_interface::find(&name, self.switch.links()).map_err(PortError::SubInterface),
                    facts: Box::new(found),
                    device: None,
                    holder: None,
                }))))
            }
            Effect::Attach(order) if !self.holds => {
                let result = match self.refuses.take() {
                    Some(kind) => Err(PreflightError::Attach {
                        name: order.facts.name.clone(),
                        source: kind.into(),
                    }
                    .into()),
                    None => Ok(Attached {
                        link_id: 100 + u32::from(order.number),
                        program_id: 200 + u32::from(order.number),
                        awaits_takeover: false,
                        facts: order.facts.clone(),
                    }),
                };
                Some(Input::Port(PortEvent::Attached(order, result)))
            }
            Effect::LookUp { address, scopes } if !self.holds => {
                let answer = self.lookups.get(&address).copied().unwrap_or(Lookup::NoRoute);
                let answers = scopes.iter().map(|_| Ok(answer)).collect();
                Some(Input::LookedUp { address, answers })
            }
            Effect::ListenEverywhere { .. } => Some(Input::Port(PortEvent::Listening(Ok(())))),
            Effect::MakeRoomForLocal { .. } => Some(Input::Port(PortEvent::RoomForLocal(Ok(())))),
            effect => {
                self.seen.push(effect);
                None
            }
        }
    }

    fn saw(&self, is_it: impl Fn(&Effect) -> bool) -> bool {
        self.seen.iter().any(is_it)
    }

    /// Makes a request.
    fn ask(&mut self, request: Request) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        let peer = PEER;
        self.handle(Input::Call(Call { token, peer, request }));
        token
    }

    /// The reply to a request, if there is one.
    fn reply(&mut self, asked: Token) -> Option<Result<Reply, Refusal>> {
        let is_reply = |effect: &Effect| match effect {
            Effect::Reply { token, .. }
            | Effect::ReplyAfterHandover { token, .. }
            | Effect::ReplyCounted { token, .. } => *token == asked,
            _ => false,
        };
        let index = self.seen.iter().position(is_reply)?;
        match self.seen.remove(index) {
            Effect::Reply { result, .. } => Some(result),
            Effect::ReplyAfterHandover { reply, .. } | Effect::ReplyCounted { reply, .. } => Some(Ok(reply)),
            _ => None,
        }
    }

    fn request(&mut self, request: Request) -> Result<Reply, Refusal> {
        let token = self.ask(request);
        self.reply(token).expect("no reply")
    }

    fn change(&mut self, mode: ChangeMode, routes: &[&str], wait: bool) -> Result<Reply, Refusal> {
        let routes = routes.iter().map(|text| route(text)).collect();
        self.request(Request::ChangeRoutes {
            mode,
            owner: Source::Static,
            routes,
            wait,
        })
    }

    fn neighbour(&mut self, ifindex: u32, address: &str, state: NeighbourState) {
        let address = address.parse().unwrap();
        self.handle(Input::Kernel(vec![Event::Neighbour(Neighbour {
            ifindex,
            address,
            state,
            managed: None,
        })]));
    }

    fn link(&mut self, link: LinkInfo) {
        self.links.retain(|other| other.ifindex != link.ifindex);
        self.links.push(link.clone());
        self.handle(Input::Kernel(vec![Event::Link(link)]));
    }

    fn gone(&mut self, ifindex: u32) {
        self.links.retain(|other| other.ifindex != ifindex);
        self.handle(Input::Kernel(vec![Event::LinkGone(ifindex)]));
    }

    fn later(&mut self, time: Duration) {
        self.now += time;
        self.handle(Input::Tick);
    }

    /// The destination MAC address of frames with a label; `None` if it is not resolved, `Err` if there is no route.
    fn destination(&self, label: u32) -> Result<Option<Mac>, ()> {
        let tables = self.switch.tables();
        let entry = tables.ilm.get(&Label::new(label).unwrap()).copied().unwrap_or_default();
        if entry.op() == Op::None {
            return Err(());
        }
        let adjacency = tables.adjacencies.get(&entry.next_hop()).copied().unwrap_or_default();
        Ok(adjacency.is_resolved().then(|| adjacency.destination()))
    }

    fn links_of_reply(&mut self) -> Vec<api::Link> {
        match self.request(Request::ListLinks { counters: false }) {
            Ok(Reply::Links(links)) => links,
            other => panic!("{other:?}"),
        }
    }

    fn names(&mut self) -> Vec<String> {
        self.links_of_reply().into_iter().map(|link| link.ifname).collect()
    }

    fn problem(&mut self, name: &str) -> Option<String> {
        let links = self.links_of_reply();
        links.into_iter().find(|link| link.ifname == name).unwrap().problem
    }

    fn add_link(&mut self, name: &str) -> Token {
        self.ask(Request::AddLink {
            name: name.into(),
            tx_only: false,
            accept: AcceptLabels::default(),
            mpls_mtu: MplsMtu::default(),
            dscp_map: DscpMap::default(),
            tc_map: TcMap::default(),
            checksum: None,
        })
    }
}

const R1: Mac = Mac([2, 0, 0, 0, 1, 1]);
const R2: Mac = Mac([2, 0, 0, 0, 1, 2]);

fn refusal(result: Result<Reply, Refusal>) -> String {
    result.unwrap_err().to_string()
}

/// There is one label stack, and whenever the grace period ends after which it is free again, the next route has it.
#[test]
fn a_change_that_follows_a_deletion_has_room() {
    let capacity = MemoryTables::default().capacity();
    let mut was_done_at_once = Vec::new();
    for questions in 0..40 {
        let tables = MemoryTables::with_capacity(Capacity { stacks: 1, ..capacity });
        let mut rig = Rig::up_with_tables(config(&["eth1"], &[]), tables);
        let add = |label: u32| Request::ChangeRoutes {
            mode: ChangeMode::Add,
            owner: Source::Static,
            routes: vec![route(&format!(
                "{label} as {label}/17 via link 02:00:00:00:01:01 dev eth1"
            ))],
            wait: true,
        };
        rig.request(add(100)).unwrap();
        rig.switch.tables().questions_until_over.set(questions);
        rig.change(ChangeMode::Replace, &["100 dev lo"], true).unwrap();
        let token = rig.ask(add(101));
        let reply = rig.reply(token);
        was_done_at_once.push(reply.is_some());
        rig.switch.tables().questions_until_over.set(0);
        rig.handle(Input::Tick);
        let reply = reply.or_else(|| rig.reply(token));
        assert!(matches!(reply, Some(Ok(_))), "after {questions} questions: {reply:?}");
        assert!(refusal(rig.request(add(102))).contains("no room for another label stack"));
    }
    assert_eq!((was_done_at_once[0], was_done_at_once[39]), (true, false));
}

#[test]
fn the_tables_are_full_before_the_first_program_is_attached() {
    let mut rig = Rig::new(
        config(&["eth1"], &["100 as 200 via link 02:00:00:00:01:01 dev eth1"]),
        vec![link(1, "eth1")],
    );
    rig.holds = true;
    rig.handle(Input::Start);
    while rig.switch.has_steps() {
        rig.switch.step(rig.now, &mut || true);
        rig.settle();
    }
    let attach = rig.seen.iter().position(|effect| matches!(effect, Effect::Attach(_)));
    assert_eq!(rig.destination(100), Ok(None));
    assert!(!rig.saw(|effect| matches!(effect, Effect::Ready)));
    let Effect::Attach(order) = rig.seen.remove(attach.unwrap()) else {
        unreachable!()
    };
    rig.holds = false;
    let answer = rig.perform(Effect::Attach(order)).unwrap();
    rig.handle(answer);
    assert!(rig.saw(|effect| matches!(effect, Effect::Ready)));
    assert_eq!(rig.destination(100), Ok(Some(R1)));
}

#[test]
fn a_start_that_fails_says_why() {
    for (ports, kind, expected) in [
        (&["eth1", "eth7"][..], None, "there is no interface eth7"),
        (
            &["eth1"],
            Some(io::ErrorKind::PermissionDenied),
            "cannot be attached to eth1",
        ),
    ] {
        let mut rig = Rig::new(config(ports, &[]), vec![link(1, "eth1")]);
        rig.refuses = kind;
        rig.handle(Input::Start);
        let failed = rig.seen.iter().find_map(|effect| match effect {
            Effect::Failed(error) => Some(error.to_string()),
            _ => None,
        });
        assert!(
            failed.as_ref().is_some_and(|failed| failed.contains(expected)),
            "{failed:?}"
        );
        assert!(!rig.saw(|effect| matches!(effect, Effect::Ready)));
    }
}

#[test]
fn a_port_that_is_down_or_not_there_waits_for_its_interface() {
    let options = Options {
        wait: true,
        ..Options::default()
    };
    let mut rig = Rig::new(
        Config::unchecked(options, vec![port("eth1"), port("eth2")], Vec::new()),
        vec![link(1, "eth1")],
    );
    rig.handle(Input::Start);
    assert!(rig.saw(|effect| matches!(effect, Effect::Ready)));
    assert!(rig.problem("eth2").unwrap().contains("no such interface"));
    rig.refuses = Some(io::ErrorKind::OutOfMemory);
    rig.link(link(2, "eth2"));
    rig.handle(Input::Tick);
    assert!(rig.problem("eth2").unwrap().contains("cannot be attached"));
    rig.later(Duration::from_secs(1));
    assert_eq!(rig.problem("eth2"), None);
    assert_eq!(
        rig.switch
            .ports()
            .number("eth2")
            .map(|number| rig.switch.tables().tx_ports[&number]),
        Some(2)
    );
}

#[test]
fn routes_are_added_changed_looked_up_deleted_and_flushed() {
    let mut rig = Rig::up();
    let via = |label, out, last| format!("{label} as {out} via inet 10.0.0.{last} dev eth1");
    let one = via(100, 200, 1);
    let changed = rig.change(ChangeMode::Add, &[&one, &via(101, 201, 2)], false).unwrap();
    let Reply::Changed(api::Changed { changes, .. }) = changed else {
        panic!("{changed:?}")
    };
    assert_eq!((changes.added, changes.replaced, changes.deleted), (2, 0, 0));
    let exists = refusal(rig.change(ChangeMode::Add, &[&via(102, 202, 1), &one], false));
    assert!(exists.contains("100 already has a route"), "{exists}");
    // Nothing of a refused change is there.
    assert_eq!(rig.destination(102), Err(()));
    let missing = refusal(rig.change(ChangeMode::Change, &[&via(102, 202, 1)], false));
    assert!(missing.contains("102 has no route"), "{missing}");
    rig.change(ChangeMode::Replace, &[&via(100, 300, 2)], false).unwrap();

    let key = |label| RouteKey::Label(Label::new(label).unwrap());
    let lookup = api::Lookup::Key(key(100));
    let found = rig.request(Request::GetRoute { lookup }).unwrap();
    assert!(matches!(found, Reply::Route(route) if route.owner == "static"));
    let list = Request::ListRoutes {
        filter: RouteFilter::default(),
        after: None,
        limit: 10,
        counters: true,
    };
    let listed = |rig: &mut Rig| match rig.request(list.clone()).unwrap() {
        Reply::Routes { routes, .. } => routes.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(listed(&mut rig), 2);

    // A route is deleted if it matches its description.
    let delete = |text: &str| Request::DeleteRoutes {
        owner: Source::Static,
        routes: vec![line::deletion(text, Family::Any).unwrap()],
    };
    let differs = refusal(rig.request(delete("100 as 200 via inet 10.0.0.1 dev eth1")));
    assert!(differs.contains("the route of 100 is different"), "{differs}");
    rig.request(delete("100 as 300 via inet 10.0.0.2 dev eth1")).unwrap();
    let none = refusal(rig.request(Request::DeleteRoutes {
        owner: Source::Static,
        routes: vec![Description::from(key(100))],
    }));
    assert!(none.contains("100 has no route"), "{none}");
    let dev = |name: &str| Request::FlushRoutes {
        owner: Source::Static,
        filter: RouteFilter {
            dev: Some(name.into()),
            ..RouteFilter::default()
        },
    };
    rig.request(dev("eth2")).unwrap();
    assert_eq!(listed(&mut rig), 1);
    let unknown = refusal(rig.request(dev("eth9")));
    assert!(unknown.contains("eth9 is not a port"), "{unknown}");
    rig.request(dev("eth1")).unwrap();
    assert_eq!(listed(&mut rig), 0);
    // The next hops are not in use any more.
    assert!(rig.saw(|effect| matches!(effect, Effect::Release { ifindex: 1, .. })));
}

#[test]
fn a_next_hop_must_lead_out_of_a_port_unless_its_route_may_wait() {
    let mut rig = Rig::up();
    rig.link(link(4, "eth4"));
    rig.lookups.insert([10, 0, 0, 4].into(), Lookup::Interface(4));
    rig.lookups.insert([10, 0, 0, 5].into(), Lookup::Local);
    for (next_hop, expected) in [
        ("via inet 10.0.0.1 dev eth4", "eth4 is not a port of this switch"),
        ("via inet 10.0.0.1 dev eth9", "there is no interface eth9"),
        ("via inet 10.0.0.4", "eth4 is not a port of this switch"),
        ("via inet 10.0.0.5", "10.0.0.5 is an address of this machine"),
        ("via inet 10.0.0.6", "the kernel has no route to 10.0.0.6"),
    ] {
        let text = format!("100 as 200 {next_hop}");
        let refused = refusal(rig.change(ChangeMode::Add, &[&text], false));
        assert!(refused.contains(expected), "{refused}");
        assert_eq!(rig.destination(100), Err(()));
        let waits = rig.change(ChangeMode::Replace, &[&text], true).unwrap();
        let Reply::Committed(committed) = waits else {
            panic!("{waits:?}")
        };
        assert_eq!(committed.unreachable_total, 1);
        assert!(committed.unreachable[0].reason.contains(expected), "{committed:?}");
        rig.request(Request::FlushRoutes {
            owner: Source::Static,
            filter: RouteFilter::default(),
        })
        .unwrap();
    }
}

#[test]
fn waiting_routes_are_looked_for_in_steps() {
    let mut rig = Rig::up();
    rig.link(down(link(1, "eth1")));
    let texts: Vec<String> = (0..20)
        .map(|number| format!("{} as 200 via 192.0.2.{} dev eth1", 100 + number, 1 + number))
        .collect();
    let routes: Vec<&str> = texts.iter().map(String::as_str).collect();
    match rig.change(ChangeMode::Replace, &routes, true) {
        Ok(Reply::Committed(committed)) => assert_eq!(committed.unreachable_total, 20),
        other => panic!("{other:?}"),
    }
    let routes: Vec<Route> = routes.into_iter().map(route).collect();
    let (mut survey, mut steps) = (reachability::Survey::default(), 1);
    while !rig
        .switch
        .survey_step(&mut survey, &routes, &mut Budget::new(1, &mut || false))
    {
        steps += 1;
    }
    // Each next hop, and each route.
    assert_eq!((survey.waiting.total, steps), (20, 40));
}

#[test]
fn a_look_up_that_is_not_answered_delays_only_who_asked() {
    let mut rig = Rig::up();
    rig.holds = true;
    let change = |label: u32| Request::ChangeRoutes {
        owner: Source::Static,
        mode: ChangeMode::Add,
        routes: vec![route(&format!("{label} as 200 via inet 10.0.0.{label}"))],
        wait: false,
    };
    let (waiting, failing) = (rig.ask(change(100)), rig.ask(change(101)));
    assert!(rig.saw(|effect| matches!(effect, Effect::LookUp { .. })));
    assert_eq!((rig.reply(waiting), rig.destination(100)), (None, Err(())));
    // Others are answered, and change routes.
    assert!(rig.request(Request::GetStatus).is_ok());
    rig.change(ChangeMode::Add, &["200 as 300 via inet 10.0.0.1 dev eth1"], false)
        .unwrap();
    let address = |last| IpAddr::from([10, 0, 0, last]);
    rig.handle(Input::LookedUp {
        address: address(100),
        answers: vec![Ok(Lookup::Interface(1))],
    });
    assert!(matches!(rig.reply(waiting), Some(Ok(Reply::Changed(_)))));
    assert_eq!(rig.destination(100), Ok(None));
    rig.handle(Input::LookedUp {
        address: address(101),
        answers: vec![Err(kernel::Error::TimedOut {
            request: "route look-up of 10.0.0.101".into(),
        })],
    });
    let refused = refusal(rig.reply(failing).unwrap());
    assert!(refused.contains("cannot look up 10.0.0.101"), "{refused}");
    assert_eq!(rig.destination(101), Err(()));
}

#[test]
fn neighbours_are_probed_resolved_and_lost() {
    let mut rig = Rig::up();
    rig.change(ChangeMode::Add, &["100 as 200 via inet 10.0.0.1 dev eth1"], false)
        .unwrap();
    assert!(rig.saw(|effect| matches!(effect, Effect::Probe { ifindex: 1, .. })));
    assert_eq!(rig.destination(100), Ok(None));
    rig.neighbour(1, "10.0.0.1", NeighbourState::Reachable(R1));
    assert_eq!(rig.destination(100), Ok(Some(R1)));
    rig.neighbour(1, "10.0.0.1", NeighbourState::Reachable(R2));
    assert_eq!(rig.destination(100), Ok(Some(R2)));
    rig.neighbour(1, "10.0.0.1", NeighbourState::Failed);
    assert_eq!(rig.destination(100), Ok(None));
    rig.neighbour(1, "10.0.0.1", NeighbourState::Reachable(Mac([0xff; 6])));
    assert_eq!(rig.destination(100), Ok(None));
    // Waiting frames cause a request for their neighbour.
    rig.neighbour(1, "10.0.0.1", NeighbourState::Failed);
    rig.seen.clear();
    let entry = rig.switch.tables().ilm[&Label::new(100).unwrap()];
    rig.handle(Input::Wanted(vec![entry.next_hop()]));
    assert!(rig.saw(|effect| matches!(effect, Effect::Probe { ifindex: 1, .. })));
    // Without frames, the next request comes after some time.
    rig.seen.clear();
    rig.later(Duration::from_secs(2));
    assert!(rig.saw(|effect| matches!(effect, Effect::Probe { ifindex: 1, .. })));
}

#[test]
fn a_link_that_fails_is_seen_to_in_the_middle_of_a_large_change() {
    let mut rig = Rig::up();
    let multipath =
        "16 nexthop as 200 via link 02:00:00:00:01:01 dev eth1 nexthop as 201 via link 02:00:00:00:01:02 dev eth2";
    rig.change(
        ChangeMode::Add,
        &[multipath, "17 as 200 via link 02:00:00:00:01:01 dev eth1"],
        false,
    )
    .unwrap();
    assert_eq!(rig.destination(17), Ok(Some(R1)));
    rig.holds = true;
    let many = 1000..100_000;
    let routes = many.map(|label| route(&format!("{label} as 300 via link 02:00:00:00:01:01 dev eth1")));
    let token = rig.ask(Request::ChangeRoutes {
        owner: Source::Static,
        mode: ChangeMode::Add,
        routes: routes.collect(),
        wait: false,
    });
    let mut steps = 0;
    let bucket_to = |rig: &Rig| {
        let tables = rig.switch.tables();
        let group = tables.ilm[&Label::new(16).unwrap()].operand();
        let mut next_hops: Vec<u16> = (0..=255)
            .filter_map(|bucket| tables.buckets.get(&(group, bucket)))
            .map(|entry| entry.next_hop())
            .collect();
        next_hops.sort();
        next_hops.dedup();
        next_hops.len()
    };
    assert_eq!(bucket_to(&rig), 2);
    while rig.switch.has_steps() {
        rig.switch.step(rig.now, &mut || true);
        steps += 1;
        if steps == 50 {
            assert!(rig.switch.has_steps());
            rig.switch
                .handle(Input::Kernel(vec![Event::Link(down(link(1, "eth1")))]), rig.now);
            assert_eq!((bucket_to(&rig), rig.destination(17)), (1, Ok(None)));
        }
    }
    assert!(steps > 1000, "{steps} steps");
    rig.settle();
    assert!(matches!(rig.reply(token), Some(Ok(Reply::Changed(_)))));
    // The change that was under way when the link failed has continued with the new state.
    assert_eq!(rig.destination(99_999), Ok(None));
    rig.link(link(1, "eth1"));
    assert_eq!(
        (rig.destination(99_999), rig.destination(17)),
        (Ok(Some(R1)), Ok(Some(R1)))
    );
}

/// New next hops are found, checked, followed and waited for in steps, and the first that cannot be used is named.
#[test]
fn many_new_next_hops_are_looked_at_in_steps() {
    const NEXT_HOPS: usize = 1600;
    let mut rig = Rig::up();
    for (wrong, reason) in [
        (None, ""),
        (Some("10.255.0.1 dev eth9"), "eth9"),
        (Some("10.255.0.1"), "no route"),
    ] {
        let routes = (0..NEXT_HOPS).map(|number| match wrong {
            Some(wrong) if number >= NEXT_HOPS - 2 => format!("{} as 200 via inet {wrong}", 100 + number),
            _ => format!(
                "{} as 200 via inet 10.{}.{}.1",
                100 + number,
                number / 200,
                number % 200
            ),
        });
        let routes = Vec::from_iter(routes.map(|text| route(&text)));
        for next_hop in routes
            .iter()
            .flat_map(Route::next_hops)
            .filter_map(|hop| hop.via.address())
        {
            if !reason.is_empty() && next_hop.to_string().starts_with("10.255.") {
                continue;
            }
            rig.lookups.insert(next_hop, Lookup::Interface(1));
        }
        rig.holds = true;
        let token = rig.ask(Request::ChangeRoutes {
            owner: Source::Static,
            mode: ChangeMode::Replace,
            routes,
            wait: false,
        });
        let mut steps = 0;
        // Until the kernel's answers are waited for, or the change is done.
        while rig.switch.has_steps() {
            rig.switch.step(rig.now, &mut || true);
            steps += 1;
        }
        assert!(steps > NEXT_HOPS / 16, "{steps} steps");
        rig.holds = false;
        rig.settle();
        match rig.reply(token) {
            Some(Ok(_)) => assert_eq!(wrong, None),
            Some(Err(Refusal::RouteRefused {
                index, reason: said, ..
            })) => {
                assert_eq!(index, NEXT_HOPS - 2);
                assert!(said.contains(reason), "{said}");
            }
            other => panic!("{other:?}"),
        }
        rig.request(Request::FlushRoutes {
            owner: Source::Static,
            filter: RouteFilter {
                dev: Some("eth1".into()),
                ..RouteFilter::default()
            },
        })
        .unwrap();
        assert_eq!(rig.switch.lfib.label_routes(), 0);
    }
}

/// All adjacencies of a link that fails lose their neighbours at once. The next hops follow in steps, in which the link
/// may come back.
#[test]
fn frames_stop_going_to_a_link_that_fails_at_once() {
    const NEXT_HOPS: u32 = 1000;
    let mut rig = Rig::up();
    let routes = (0..NEXT_HOPS).map(|number| {
        let label = 100 + number;
        let [high, low] = [number / 250, number % 250];
        format!("{label} as 200 via link 02:00:00:00:{high:02x}:{low:02x} dev eth1 backup via link 02:00:00:01:00:01 dev eth2")
    });
    let routes = Vec::from_iter(routes);
    let routes = Vec::from_iter(routes.iter().map(String::as_str));
    rig.change(ChangeMode::Add, &routes, false).unwrap();
    let through = |rig: &Rig, name: &str| {
        let number = rig.switch.ports.number(name).unwrap();
        let slots = rig.switch.tables().adjacencies.values();
        slots.filter(|slot| slot.is_resolved() && slot.port() == number).count()
    };
    let all = NEXT_HOPS as usize;
    assert_eq!((through(&rig, "eth1"), through(&rig, "eth2")), (all, 1));
    rig.holds = true;
    for steps_before_it_is_back in [0, 3, usize::MAX] {
        rig.link(down(link(1, "eth1")));
        assert_eq!((through(&rig, "eth1"), through(&rig, "eth2")), (0, 1));
        assert!(rig.switch.resolver.has_steps());
        let mut steps = 0;
        while rig.switch.resolver.has_steps() && steps < steps_before_it_is_back {
            rig.switch.step(rig.now, &mut || true);
            steps += 1;
        }
        assert!(steps == steps_before_it_is_back || steps > 10, "{steps} steps");
        rig.link(link(1, "eth1"));
        while rig.switch.has_steps() {
            rig.switch.step(rig.now, &mut || true);
        }
        rig.later(Duration::from_millis(100));
        assert_eq!((through(&rig, "eth1"), through(&rig, "eth2")), (all, 1));
    }
}

/// With `backup-hold`, frames return from backups when the next hop has been back for so long. Labels without a backup do
/// not wait, nor does anything if there is no backup to wait with.
#[test]
fn frames_stay_with_backups_until_the_next_hop_has_been_back_for_a_while() {
    let options = Options {
        backup_hold: Some("1s".parse().unwrap()),
        ..Options::default()
    };
    let ports = ["eth1", "eth2", "eth3"].map(port).to_vec();
    let mut rig = Rig::up_with(Config::unchecked(options, ports, Vec::new()));
    let to_r1 = "via link 02:00:00:00:01:01 dev eth1";
    let to_r2 = "via link 02:00:00:00:01:02 dev eth2";
    let routes = [
        format!("17 as 200 {to_r1}"),
        format!("18 as 200 {to_r1} backup {to_r2}"),
        format!("19 as 200 {to_r1} backup as 300/200 {to_r2}"),
        format!("20 as 200 {to_r1} backup as 301/200 {to_r2}"),
    ];
    let routes = Vec::from_iter(routes.iter().map(String::as_str));
    rig.change(ChangeMode::Add, &routes, false).unwrap();
    // Whether frames go to the next hop itself.
    let direct = |rig: &Rig| {
        [17, 18, 19, 20].map(|label| {
            let listed = rig
                .switch
                .lfib
                .get(RouteKey::Label(Label::new(label).unwrap()))
                .unwrap();
            rig.switch.lfib.is_reached(listed.next_hops[0].0)
        })
    };
    // New next hops have nothing to wait for.
    assert_eq!(direct(&rig), [true; 4]);
    let (down, up) = (down(link(1, "eth1")), link(1, "eth1"));
    for flaps in [false, true] {
        rig.link(down.clone());
        assert_eq!(direct(&rig), [false; 4]);
        rig.link(up.clone());
        assert_eq!(direct(&rig), [true, false, false, false]);
        rig.later(Duration::from_millis(900));
        if flaps {
            rig.link(down.clone());
            rig.link(up.clone());
            rig.later(Duration::from_millis(900));
        }
        assert_eq!(direct(&rig), [true, false, false, false]);
        rig.later(Duration::from_millis(100));
        assert_eq!(direct(&rig), [true; 4]);
        assert_eq!(rig.switch.returning.next_deadline(), None);
    }
    // The backup fails meanwhile, and before.
    rig.link(down.clone());
    rig.link(up.clone());
    assert_eq!(direct(&rig), [true, false, false, false]);
    rig.link(self::down(link(2, "eth2")));
    assert_eq!(direct(&rig), [true; 4]);
    rig.link(down);
    rig.link(up);
    assert_eq!(direct(&rig), [true; 4]);
}

/// The notice of a failed link comes ahead of the kernel's events. Whatever these say of the link, its next hops follow.
#[test]
fn a_link_that_fails_ahead_of_the_events_is_as_the_events_say_in_the_end() {
    let mut rig = Rig::up();
    rig.change(
        ChangeMode::Add,
        &[
            "17 as 200 via link 02:00:00:00:01:01 dev eth1",
            "18 as 200 via link 02:00:00:00:01:01 dev eth2",
        ],
        false,
    )
    .unwrap();
    let (up, is_down) = (Event::Link(link(1, "eth1")), Event::Link(down(link(1, "eth1"))));
    let resync = [
        Event::Reset,
        up.clone(),
        Event::Link(link(2, "eth2")),
        Event::Link(link(3, "eth3")),
        Event::Synced,
    ];
    for (events, destination) in [
        (vec![is_down.clone()], None),
        (vec![up.clone()], Some(R1)),
        (vec![is_down.clone(), up.clone()], Some(R1)),
        // The events do not say that it was down.
        (vec![up.clone()], Some(R1)),
        (resync.to_vec(), Some(R1)),
    ] {
        rig.handle(Input::LinksFailed(vec![1]));
        assert_eq!((rig.destination(17), rig.destination(18)), (Ok(None), Ok(Some(R1))));
        rig.handle(Input::Kernel(events));
        rig.later(Duration::from_millis(100));
        assert_eq!(
            (rig.destination(17), rig.destination(18)),
            (Ok(destination), Ok(Some(R1)))
        );
    }
}

/// A port that is removed with many next hops behind it: the same.
#[test]
fn frames_stop_going_to_a_port_that_is_removed_at_once() {
    let mut rig = Rig::up();
    let routes = (0..500).map(|number| {
        format!(
            "{} as 200 via link 02:00:00:00:00:01 dev eth{}",
            100 + number,
            1 + number % 2
        )
    });
    let routes = Vec::from_iter(routes.chain((0..500).map(|number| {
        format!(
            "{} as 200 via link 02:00:00:02:{:02x}:{:02x} dev eth1",
            1000 + number,
            number / 250,
            number % 250
        )
    })));
    let routes = Vec::from_iter(routes.iter().map(String::as_str));
    rig.change(ChangeMode::Add, &routes, false).unwrap();
    let number = rig.switch.ports.number("eth1").unwrap();
    rig.holds = true;
    rig.ask(Request::DeleteLink { name: "eth1".into() });
    let adjacencies = rig.switch.tables().adjacencies.values();
    assert_eq!(
        adjacencies
            .filter(|slot| slot.is_resolved() && slot.port() == number)
            .count(),
        0
    );
    assert!(rig.switch.republishing.is_some());
    rig.holds = false;
    rig.settle();
    assert!(rig.switch.republishing.is_none());
}

/// Nodes of the FTN for all prefixes beneath follow one that covers them, and nothing else waits for that.
#[test]
fn a_prefix_over_many_others_is_published_in_steps_and_answered_then() {
    let mut rig = Rig::up();
    let by_eth1 = "200 via link 02:00:00:00:01:01 dev eth1";
    let many = (20..70).flat_map(|high| (0..60).map(move |low| format!("{high}.{low}.0.0/24 encap mpls {by_eth1}")));
    let many: Vec<String> = many.chain([format!("17 as {by_eth1}")]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    rig.change(ChangeMode::Add, &many, false).unwrap();
    rig.holds = true;
    let covering = route(&format!("0.0.0.0/1 encap mpls {by_eth1}"));
    let added = Request::ChangeRoutes {
        owner: Source::Static,
        mode: ChangeMode::Add,
        routes: vec![covering.clone()],
        wait: false,
    };
    let deleted = Request::DeleteRoutes {
        owner: Source::Static,
        routes: vec![covering.key().into()],
    };
    for (request, up) in [(added, false), (deleted, true)] {
        let token = rig.ask(request);
        let mut steps = 0;
        while rig.switch.lfib.has_to_publish() {
            assert!(
                !rig.saw(|effect| matches!(effect, Effect::Reply { .. })),
                "step {steps}"
            );
            rig.switch.step(rig.now, &mut || true);
            rig.settle();
            steps += 1;
            if steps == 100 {
                let eth1 = link(1, "eth1");
                rig.handle(Input::Kernel(vec![Event::Link(if up { eth1 } else { down(eth1) })]));
                assert!(rig.switch.lfib.has_to_publish());
                assert_eq!(rig.destination(17), Ok(up.then_some(R1)));
            }
        }
        assert!(steps > 300, "{steps} steps");
        rig.holds = false;
        rig.settle();
        rig.holds = true;
        assert!(matches!(rig.reply(token), Some(Ok(Reply::Changed(_)))));
        let found = rig
            .switch
            .tables()
            .at_wire(Settings::new(0, TtlMode::Uniform, 255, false, false));
        let covered = found.ftn_v4(Domain::NO_VRF, [30, 1, 1, 1]);
        assert_eq!(covered == RouteEntry::EMPTY, up);
    }
}

/// The kernel has an IP route for this prefix, through an interface that is not a port.
fn kernel_route(table: u32, prefix: &str) -> Event {
    let route = crate::neighbour::KernelRoute {
        prefix: prefix.parse().unwrap(),
        table,
        metric: 0,
        selector: 0,
        kind: crate::neighbour::RouteKind::Unicast,
        shares: false,
        entry: 0,
        oif: Some(9),
    };
    let position = crate::neighbour::RoutePosition::Last;
    Event::Route { route, position }
}

/// The kernel's routes in a VRF that has just got a port are looked at in steps, and its domain is filled after that.
#[test]
fn what_the_kernel_claims_in_a_vrf_is_found_out_in_steps() {
    let mut rig = Rig::up();
    let routes = |table| (0..100).map(move |number| kernel_route(table, &format!("10.{number}.0.0/16")));
    rig.handle(Input::Kernel(routes(10).chain(routes(20)).collect()));
    rig.change(
        ChangeMode::Add,
        &["10.0.0.0/8 encap mpls 100 via inet 10.0.0.2 dev eth2"],
        true,
    )
    .unwrap();
    let entries = |rig: &Rig| rig.switch.tables().ftn.len();
    let before = entries(&rig);
    rig.link(LinkInfo {
        vrf_table: Some(10),
        ..link(50, "red")
    });
    let master = crate::neighbour::Master {
        ifindex: 50,
        kind: None,
    };
    rig.holds = true;
    rig.link(LinkInfo {
        master: Some(master),
        ..link(1, "eth1")
    });
    let mut steps = 0;
    while entries(&rig) == before {
        rig.switch.step(rig.now, &mut || true);
        steps += 1;
    }
    // The clock is looked at after 32 of the kernel's 200 routes; then the domain is filled.
    assert_eq!(steps, 200_usize.div_ceil(32) + 1);
    rig.holds = false;
    rig.settle();
    // The prefix itself, and those of its table that it must leave to the kernel.
    let own = rig
        .switch
        .tables()
        .ftn
        .keys()
        .filter(|key| key.domain != Domain::NO_VRF);
    assert_eq!(
        own.filter(|key| key.prefix.addr().to_string().starts_with("10."))
            .count(),
        101
    );
}

/// However many routes a resync does not report.
#[test]
fn routes_that_a_resync_does_not_report_are_removed_in_steps() {
    let mut rig = Rig::up();
    let route = |number: u32| kernel_route(TABLE_MAIN, &format!("10.{}.{}.0/24", number >> 8, number & 255));
    rig.change(
        ChangeMode::Add,
        &["10.0.0.0/8 encap mpls 100 via inet 10.0.0.2 dev eth2"],
        true,
    )
    .unwrap();
    let before = rig.switch.tables().ftn.len();
    rig.handle(Input::Kernel((0..5000).map(route).collect()));
    assert_eq!(rig.switch.tables().ftn.len(), before + 5000);
    rig.holds = true;
    let links = rig.links.clone().into_iter().map(Event::Link);
    rig.switch.handle(
        Input::Kernel([Event::Reset].into_iter().chain(links).chain([Event::Synced]).collect()),
        rig.now,
    );
    let mut steps = 0;
    while rig.switch.has_steps() {
        let entries = rig.switch.tables().ftn.len();
        rig.switch.step(rig.now, &mut || true);
        assert!(entries - rig.switch.tables().ftn.len() <= 256);
        steps += 1;
    }
    assert!(steps >= 5000 / 256, "{steps}");
    assert_eq!(rig.switch.tables().ftn.len(), before);
}

/// To drop a million routes takes milliseconds.
#[test]
fn the_routes_of_a_change_are_dropped_elsewhere() {
    let mut rig = Rig::up();
    let routes = Arc::new(vec![
        route("100 as 200 via 10.0.0.1 dev eth1"),
        route("101 as 200 via 10.0.0.1 dev eth1"),
    ]);
    let kept = Arc::downgrade(&routes);
    let origin = Origin::Call {
        token: Token(1),
        peer: PEER,
        waits: true,
    };
    let (mode, owner) = (ChangeMode::Add, Owner::STATIC);
    let change = RouteChange::new(origin, Change::Install { mode, owner, routes });
    rig.switch.change_routes(change, rig.now);
    while rig.switch.has_steps() {
        rig.switch.step(rig.now, &mut || false);
    }
    let mut effects = Vec::from_iter(std::iter::from_fn(|| rig.switch.take_effect()));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Reply { .. })));
    assert!(kept.strong_count() > 0);
    effects.retain(|effect| !matches!(effect, Effect::Drop(_)));
    assert_eq!(kept.strong_count(), 0);
}

#[test]
fn changes_of_routes_are_made_one_after_the_other() {
    let mut rig = Rig::up();
    rig.holds = true;
    let routes = (1000..5000).map(|label| route(&format!("{label} as 300 via link 02:00:00:00:01:01 dev eth1")));
    let first = rig.ask(Request::ChangeRoutes {
        owner: Source::Static,
        mode: ChangeMode::Add,
        routes: routes.collect(),
        wait: false,
    });
    let second = rig.ask(Request::FlushRoutes {
        owner: Source::Static,
        filter: RouteFilter::default(),
    });
    assert_eq!((rig.reply(first), rig.reply(second)), (None, None));
    rig.holds = false;
    rig.settle();
    let deleted = rig.reply(second).unwrap().unwrap();
    assert!(rig.reply(first).unwrap().is_ok());
    assert!(
        matches!(deleted, Reply::Changed(changed) if changed.changes.deleted == 4000),
        "{second:?}"
    );
}

/// A port is renamed at every stage of a change that replaces another owner's routes.
#[test]
fn a_change_with_several_owners_is_made_in_steps_and_follows_a_renamed_port() {
    const LABELS: std::ops::Range<u32> = 1000..2000;
    let mut is_over = false;
    let mut renamed_at = 0;
    while !is_over {
        let mut rig = Rig::up();
        let install = |rig: &mut Rig, owner, dev: &str| {
            let route = |label| route(&format!("{label} as 300 via link 02:00:00:00:01:01 dev {dev}"));
            rig.ask(Request::ChangeRoutes {
                owner,
                mode: ChangeMode::ReplaceAll,
                routes: LABELS.map(route).collect(),
                wait: false,
            })
        };
        let kernel = install(&mut rig, Source::Kernel, "eth1");
        assert!(rig.reply(kernel).unwrap().is_ok());
        rig.holds = true;
        let token = install(&mut rig, Source::Static, "eth2");
        let mut steps = 0;
        while rig.switch.has_steps() {
            if steps == renamed_at {
                let renamed = LinkInfo {
                    name: "core0".into(),
                    ..link(1, "eth1")
                };
                rig.switch.handle(Input::Kernel(vec![Event::Link(renamed)]), rig.now);
            }
            rig.switch.step(rig.now, &mut || true);
            steps += 1;
        }
        // A step does 32 operations, and each route takes a few.
        assert!(steps > 200, "{steps} steps");
        is_over = steps <= renamed_at;
        renamed_at += 23;
        rig.holds = false;
        rig.settle();
        assert!(rig.reply(token).unwrap().is_ok());
        let expected = if is_over { "eth1" } else { "core0" };
        for label in LABELS {
            let key = RouteKey::Label(Label::new(label).unwrap());
            let [(_, route)] = rig.switch.rib.standby(key) else {
                panic!("{key}: the kernel's route does not stand by")
            };
            let dev = route.paths()[0].next_hop.as_ref().and_then(|hop| hop.dev.as_deref());
            assert_eq!(dev, Some(expected), "{key}, renamed at step {}", renamed_at - 23);
        }
        // The kernel's come back, also in steps.
        let (owner, filter) = (Source::Static, RouteFilter::default());
        rig.holds = true;
        let token = rig.ask(Request::FlushRoutes { owner, filter });
        assert!(rig.switch.has_steps());
        rig.holds = false;
        rig.settle();
        let flushed = rig.reply(token).unwrap().unwrap();
        let count = LABELS.len() as u64;
        assert!(matches!(flushed, Reply::Changed(changed) if changed.changes.deleted == count));
        assert!(rig.switch.rib.is_empty());
        let lookup = api::Lookup::Key(RouteKey::Label(Label::new(1500).unwrap()));
        let Ok(Reply::Route(found)) = rig.request(Request::GetRoute { lookup }) else {
            panic!("no route")
        };
        assert_eq!(found.next_hop.unwrap().dev.as_deref(), Some(expected));
    }
}

#[test]
fn links_are_added_set_listed_and_deleted() {
    let mut rig = Rig::up();
    rig.link(link(4, "eth4"));
    let added = rig.add_link("eth4");
    assert_eq!(rig.reply(added), Some(Ok(Reply::Done)));
    assert_eq!(rig.names(), ["eth1", "eth2", "eth3", "eth4"]);
    let again = rig.add_link("eth4");
    assert!(refusal(rig.reply(again).unwrap()).contains("eth4 is a port already"));
    let none = rig.add_link("eth9");
    assert!(refusal(rig.reply(none).unwrap()).contains("there is no interface eth9"));
    rig.refuses = Some(io::ErrorKind::PermissionDenied);
    rig.link(link(5, "eth5"));
    let failed = rig.add_link("eth5");
    assert!(refusal(rig.reply(failed).unwrap()).contains("cannot be attached to eth5"));
    assert!(rig.saw(|effect| matches!(effect, Effect::KeepPorts)));

    let set = |name: &str, mpls, accept: Option<&str>| Request::SetLink {
        name: name.into(),
        change: PortChange {
            mpls,
            accept_labels: accept.map(|accept| accept.parse().unwrap()),
            ..PortChange::default()
        },
    };
    rig.request(set("eth4", Some(false), None)).unwrap();
    let number = rig.switch.ports().number("eth4").unwrap();
    assert!(!rig.switch.tables().ports[&number].has(PortWord::MPLS));
    assert!(refusal(rig.request(set("eth9", Some(true), None))).contains("eth9 is not a port"));
    // The ranges stay when labels are refused altogether, and are in the table before the port's word says so.
    rig.request(set("eth4", None, Some("300,100-199"))).unwrap();
    assert!(!rig.switch.tables().ports[&number].has(PortWord::RANGES));
    rig.request(set("eth4", Some(true), None)).unwrap();
    assert!(rig.switch.tables().ports[&number].has(PortWord::RANGES));
    let ranges = rig.switch.tables().label_ranges[&number].iter();
    let ranges: Vec<_> = ranges.map(|range| (range.first(), range.last())).collect();
    assert_eq!(ranges, [(100, 199), (300, 300)]);
    rig.request(set("eth4", None, Some("all"))).unwrap();
    assert!(rig.switch.tables().ports[&number].accepts_any_label());
    rig.ask(Request::ListLinks { counters: true });
    assert!(rig.saw(|effect| matches!(effect, Effect::ReplyLinks { links, .. } if links.len() == 4)));
    // Maps are in the table when the port's word says that it has some.
    let mut map = |dscp_map: Option<&str>, tc_map: Option<&str>| {
        rig.request(Request::SetLink {
            name: "eth4".into(),
            change: PortChange {
                dscp_map: dscp_map.map(|map| map.parse().unwrap()),
                tc_map: tc_map.map(|map| map.parse().unwrap()),
                ..PortChange::default()
            },
        })
        .unwrap();
        let tables = rig.switch.tables();
        let classes = tables.traffic_classes[&number];
        let has_classes = tables.ports[&number].has(PortWord::CLASSES);
        (has_classes, classes.dscp.get(46), classes.tc.get(5))
    };
    assert_eq!(map(Some("46=4"), None), (true, Some(4), None));
    assert_eq!(map(None, Some("5=10")), (true, Some(4), Some(10)));
    assert_eq!(map(Some("default"), None), (true, None, Some(10)));
    assert_eq!(map(None, Some("default")), (false, None, None));

    let delete = |name: &str| Request::DeleteLink { name: name.into() };
    rig.request(delete("eth4")).unwrap();
    assert!(refusal(rig.request(delete("eth4"))).contains("eth4 is not a port"));
    assert_eq!(rig.names(), ["eth1", "eth2", "eth3"]);
}

#[test]
fn an_mpls_mtu_is_at_most_what_xdp_can_send() {
    let mut rig = Rig::up();
    rig.change(ChangeMode::Add, &["100 as 200 via inet 10.0.0.1 dev eth1"], false)
        .unwrap();
    rig.neighbour(1, "10.0.0.1", NeighbourState::Reachable(R1));
    let set = |name: &str, bytes: u16| Request::SetLink {
        name: name.into(),
        change: PortChange {
            mpls_mtu: Some(MplsMtu(Some(bytes))),
            ..PortChange::default()
        },
    };
    let mtu = |rig: &mut Rig, name: &str| {
        let link = rig
            .links_of_reply()
            .into_iter()
            .find(|link| link.ifname == name)
            .unwrap();
        let adjacencies = rig.switch.tables().adjacencies.values();
        let number = rig.switch.ports().number(name).unwrap();
        let adjacencies = adjacencies.filter(|adjacency| adjacency.is_resolved() && adjacency.port() == number);
        let used: Vec<_> = adjacencies
            .map(|adjacency| (adjacency.mtu(), adjacency.mpls_mtu()))
            .collect();
        (link.mpls_mtu, link.mpls_mtu_set, used)
    };
    assert_eq!(mtu(&mut rig, "eth1"), (1500, None, vec![(1500, 1500)]));
    // One VLAN tag more than the MTU.
    assert!(
        refusal(rig.request(set("eth1", 1505))).contains("up to 1504 bytes there; raise the interface's MTU by 1 ")
    );
    assert_eq!(mtu(&mut rig, "eth1"), (1500, None, vec![(1500, 1500)]));
    rig.request(set("eth1", 1504)).unwrap();
    assert_eq!(mtu(&mut rig, "eth1"), (1504, Some(1504), vec![(1500, 1504)]));
    // It is limited while the MTU is smaller.
    let smaller = |mtu| LinkInfo { mtu, ..link(1, "eth1") };
    rig.link(smaller(1400));
    assert_eq!(mtu(&mut rig, "eth1"), (1404, Some(1504), vec![(1400, 1404)]));
    rig.link(smaller(9000));
    assert_eq!(mtu(&mut rig, "eth1"), (1504, Some(1504), vec![(9000, 1504)]));
    rig.request(set("eth1", 1000)).unwrap();
    assert_eq!(mtu(&mut rig, "eth1"), (1000, Some(1000), vec![(9000, 1000)]));
    rig.link(smaller(1500));

    // Before an interface becomes a port, and on one that only sends.
    let add = |bytes| Request::AddLink {
        name: "eth4".into(),
        tx_only: true,
        accept: AcceptLabels::default(),
        mpls_mtu: MplsMtu(Some(bytes)),
        dscp_map: DscpMap::default(),
        tc_map: TcMap::default(),
        checksum: None,
    };
    rig.link(link(4, "eth4"));
    assert!(refusal(rig.request(add(1505))).contains("too large for eth4"));
    let added = rig.ask(add(1504));
    assert_eq!(rig.reply(added), Some(Ok(Reply::Done)));
    assert_eq!(mtu(&mut rig, "eth4"), (1504, Some(1504), vec![]));
    rig.request(set("eth4", 72)).unwrap();
    assert_eq!(mtu(&mut rig, "eth4"), (72, Some(72), vec![]));
}

#[test]
fn requests_about_links_wait_for_the_one_before_and_others_do_not() {
    let mut rig = Rig::up();
    rig.link(link(4, "eth4"));
    rig.holds = true;
    let added = rig.add_link("eth4");
    let deleted = rig.ask(Request::DeleteLink { name: "eth4".into() });
    assert_eq!((rig.reply(added), rig.reply(deleted)), (None, None));
    assert!(rig.request(Request::GetStatus).is_ok());
    rig.change(ChangeMode::Add, &["100 as 200 via inet 10.0.0.1 dev eth1"], false)
        .unwrap();
    rig.holds = false;
    let attach = rig.seen.iter().position(|effect| matches!(effect, Effect::Attach(_)));
    let attach = rig.seen.remove(attach.unwrap());
    let answer = rig.perform(attach).unwrap();
    rig.handle(answer);
    assert_eq!(rig.reply(added), Some(Ok(Reply::Done)));
    assert_eq!(rig.reply(deleted), Some(Ok(Reply::Done)));
    assert_eq!(rig.names(), ["eth1", "eth2", "eth3"]);
}

#[test]
fn an_interface_that_goes_while_it_is_attached_is_no_port() {
    let mut rig = Rig::up();
    rig.link(link(4, "eth4"));
    rig.holds = true;
    let added = rig.add_link("eth4");
    rig.gone(4);
    rig.holds = false;
    let attach = rig.seen.iter().position(|effect| matches!(effect, Effect::Attach(_)));
    let Effect::Attach(order) = rig.seen.remove(attach.unwrap()) else {
        unreachable!()
    };
    let attached = Attached {
        link_id: 1,
        program_id: 2,
        awaits_takeover: false,
        facts: Box::new(facts("eth4", None)),
    };
    rig.seen.clear();
    rig.handle(Input::Port(PortEvent::Attached(order, Ok(attached))));
    assert!(refusal(rig.reply(added).unwrap()).contains("has just gone"));
    assert!(rig.saw(|effect| matches!(effect, Effect::KeepPorts)));
    assert_eq!(rig.names(), ["eth1", "eth2", "eth3"]);
}

#[test]
fn a_port_that_goes_waits_and_is_itself_again_when_it_is_made_anew() {
    let mut rig = Rig::up();
    rig.change(
        ChangeMode::Add,
        &["100 as 200 via link 02:00:00:00:01:01 dev eth1"],
        false,
    )
    .unwrap();
    let number = rig.switch.ports().number("eth1").unwrap();
    rig.gone(1);
    assert!(rig.problem("eth1").is_some());
    assert_eq!(rig.destination(100), Ok(None));
    rig.link(link(11, "eth1"));
    rig.handle(Input::Tick);
    assert_eq!(rig.problem("eth1"), None);
    assert_eq!(rig.switch.ports().number("eth1"), Some(number));
    assert_eq!(rig.switch.tables().tx_ports[&number], 11);
    assert_eq!(rig.destination(100), Ok(Some(R1)));
    // The kernel's state was lost and is complete again, without eth2.
    let rest = [link(11, "eth1"), link(3, "eth3")].map(Event::Link);
    let events = [Event::Reset].into_iter().chain(rest).chain([Event::Synced]);
    rig.handle(Input::Kernel(events.collect()));
    assert!(rig.problem("eth2").is_some());
}

#[test]
fn what_changes_about_a_port_is_followed() {
    let mut rig = Rig::up();
    rig.change(
        ChangeMode::Add,
        &["100 as 200 via link 02:00:00:00:01:01 dev eth1"],
        false,
    )
    .unwrap();
    let number = rig.switch.ports().number("eth1").unwrap();
    let mac = Mac([2, 0, 0, 0, 9, 9]);
    rig.link(LinkInfo {
        mac: Some(mac),
        name: "core0".into(),
        ..link(1, "eth1")
    });
    assert_eq!(rig.switch.tables().ports[&number].mac(), mac);
    assert_eq!(rig.destination(100), Ok(Some(R1)));
    let lookup = api::Lookup::Key(RouteKey::Label(Label::new(100).unwrap()));
    let Ok(Reply::Route(found)) = rig.request(Request::GetRoute { lookup }) else {
        panic!("no route")
    };
    assert_eq!(found.next_hop.unwrap().dev.as_deref(), Some("core0"));

    // Larger frames need another program.
    let jumbo = LinkInfo {
        mtu: 9000,
        ..link(2, "eth2")
    };
    rig.link(jumbo);
    let number = rig.switch.ports().number("eth2").unwrap();
    assert!(rig.saw(|effect| matches!(effect, Effect::ReplaceProgram { number: n, .. } if *n == number)));
    let ids = ProgramIds {
        link_id: 7,
        program_id: 8,
    };
    rig.handle(Input::Replaced {
        number,
        result: Ok(ids),
    });
    let links = rig.links_of_reply();
    let eth2 = links.iter().find(|link| link.ifname == "eth2").unwrap();
    assert_eq!((eth2.link_id, eth2.program_id, eth2.mtu), (7, 8, 9000));
    rig.handle(Input::Replaced {
        number,
        result: Err("no memory".into()),
    });
    assert!(rig.problem("eth2").unwrap().contains("no memory"));
}

/// With `--guard`.
fn guarded() -> Rig {
    let ports = ["eth1", "eth2", "eth3"].map(port).into();
    let options = Options {
        guard: true,
        ..Options::default()
    };
    Rig::up_with(Config::unchecked(options, ports, Vec::new()))
}

fn found(number: u16, link_id: u32, interference: impl Into<Option<Interference>>) -> Input {
    Input::Interference(vec![Finding {
        number,
        link_id,
        interference: interference.into(),
    }])
}

#[test]
fn a_program_that_is_taken_off_is_put_back() {
    let mut rig = guarded();
    let number = rig.switch.ports().number("eth1").unwrap();
    let found = |interference| found(number, 100 + u32::from(number), interference);
    let put_back = |effect: &Effect| matches!(effect, Effect::PutBack { .. });
    // It is our own program that was found.
    rig.handle(found(Interference::Replaced {
        other: 200 + u32::from(number),
        name: None,
    }));
    assert!(!rig.saw(put_back));
    rig.handle(found(Interference::Detached));
    assert!(rig.saw(put_back));
    let refused = NotPutBack::Refused {
        reason: "eth1 has another XDP program already".into(),
        held: true,
    };
    rig.handle(Input::PutBack {
        number,
        result: Err(refused),
    });
    assert!(rig.problem("eth1").unwrap().contains("another XDP program"));
    // Not at once, but when the other program goes.
    rig.seen.clear();
    rig.handle(found(Interference::Detached));
    assert!(!rig.saw(put_back));
    rig.link(link(1, "eth1"));
    assert!(rig.saw(|effect| matches!(effect, Effect::WatchSoon)));
    rig.handle(found(Interference::Detached));
    assert!(rig.saw(put_back));
    rig.handle(Input::PutBack {
        number,
        result: Err(NotPutBack::Gone),
    });
    rig.handle(Input::PutBack {
        number,
        result: Ok(ProgramIds {
            link_id: 70,
            program_id: 80,
        }),
    });
    let links = rig.links_of_reply();
    let eth1 = links.iter().find(|link| link.ifname == "eth1").unwrap();
    assert_eq!((eth1.link_id, eth1.put_back, &eth1.problem), (70, 1, &None));
}

#[test]
fn a_program_that_is_taken_off_again_and_again_is_put_back_ever_more_seldom() {
    let mut rig = guarded();
    let number = rig.switch.ports().number("eth1").unwrap();
    let begin = rig.now;
    let mut link_id = 100 + u32::from(number);
    let mut times = Vec::new();
    // The other process is as fast as it can be; the links are looked at twice a second.
    for _ in 0..200 {
        rig.seen.clear();
        rig.handle(found(number, link_id, Interference::Detached));
        if rig.saw(|effect| matches!(effect, Effect::PutBack { .. })) {
            times.push((rig.now - begin).as_secs());
            link_id += 1000;
            let ids = ProgramIds {
                link_id,
                program_id: 80,
            };
            let result = Ok(ids);
            rig.handle(Input::PutBack { number, result });
            assert_eq!(rig.problem("eth1"), None);
        } else {
            assert!(
                rig.problem("eth1")
                    .unwrap()
                    .contains("detached the XDP program from this port again")
            );
        }
        rig.now += Duration::from_millis(500);
    }
    assert_eq!(times, [0, 1, 3, 7, 15, 31, 47, 63, 79, 95]);
    // It has stopped.
    rig.now += Duration::from_secs(90);
    rig.seen.clear();
    rig.handle(found(number, link_id, Interference::Detached));
    assert!(rig.saw(|effect| matches!(effect, Effect::PutBack { .. })));
}

#[test]
fn a_program_that_is_taken_off_stays_off_without_guard_until_a_client_adds_the_port() {
    let mut rig = Rig::up();
    let number = rig.switch.ports().number("eth1").unwrap();
    let link_id = 100 + u32::from(number);
    let put_back = |effect: &Effect| matches!(effect, Effect::PutBack { .. });
    rig.handle(found(number, link_id, Interference::Detached));
    assert!(rig.saw(|effect| matches!(effect, Effect::LookAtLost { .. })) && !rig.saw(put_back));
    // The interface is there.
    let unguarded = || Input::PutBack {
        number,
        result: Err(NotPutBack::Unguarded),
    };
    rig.handle(unguarded());
    let problem = rig.problem("eth1").unwrap();
    assert!(problem.contains("`mplsxdp link add eth1` puts it back"), "{problem}");
    // The other process has undone it.
    rig.handle(found(number, link_id, None));
    assert_eq!(rig.problem("eth1"), None);

    rig.handle(found(number, link_id, Interference::Detached));
    rig.handle(unguarded());
    assert!(!rig.saw(put_back));
    let token = rig.add_link("eth1");
    assert!(rig.saw(put_back) && !rig.saw(|effect| is_reply_to(effect, token)));
    // A look that was under way does not answer it.
    rig.handle(unguarded());
    assert!(!rig.saw(|effect| is_reply_to(effect, token)));
    let ids = ProgramIds {
        link_id: 70,
        program_id: 80,
    };
    rig.handle(Input::PutBack {
        number,
        result: Ok(ids),
    });
    assert!(rig.saw(|effect| is_reply_to(effect, token)));
    assert_eq!(rig.problem("eth1"), None);

    // One that cannot be put back says why.
    rig.handle(found(number, 70, Interference::Detached));
    rig.handle(unguarded());
    let token = rig.add_link("eth1");
    rig.handle(Input::PutBack {
        number,
        result: Err(NotPutBack::Refused {
            reason: "eth1 has another XDP program already".into(),
            held: true,
        }),
    });
    let refused = |effect: &Effect| matches!(effect, Effect::Reply { token: to, result: Err(Refusal::LinkRefused { reason, .. }) } if *to == token && reason.contains("another XDP program"));
    assert!(rig.saw(refused));
}

fn is_reply_to(effect: &Effect, token: Token) -> bool {
    matches!(effect, Effect::Reply { token: to, .. } if *to == token)
}

#[test]
fn a_driver_that_takes_no_redirected_frames_any_more_is_marked() {
    let mut rig = Rig::up();
    let takes = |rig: &mut Rig| rig.links_of_reply()[0].redirect_target;
    assert_eq!(takes(&mut rig), Some(true));
    rig.handle(Input::FeaturesChanged(Some(1)));
    assert!(rig.saw(|effect| matches!(effect, Effect::LookAtFeatures { ifindex: 1, .. })));
    let mut facts = facts("eth1", Some(link(1, "eth1")));
    facts.features = Some(NO_XMIT);
    rig.handle(Input::Features {
        ifindex: 1,
        facts: Box::new(facts),
    });
    assert_eq!(takes(&mut rig), Some(false));
    rig.seen.clear();
    rig.handle(Input::FeaturesChanged(None));
    assert_eq!(rig.seen.len(), 3);
}

#[test]
fn a_configuration_that_is_read_again_is_taken_over_whole_or_not_at_all() {
    let routes = [
        "100 as 200 via link 02:00:00:00:01:01 dev eth1",
        "101 as 201 via link 02:00:00:00:01:01 dev eth1",
    ];
    let mut rig = Rig::up_with(config(&["eth1", "eth2"], &routes));
    let reread = |rig: &mut Rig, config| rig.handle(Input::Reread(Ok(Box::new(config))));
    // eth9 does not exist; a route is refused; eth3 cannot be attached; the file cannot be read.
    reread(&mut rig, config(&["eth1", "eth9"], &[]));
    reread(
        &mut rig,
        config(
            &["eth1", "eth3"],
            &["2000000 as 200 via link 02:00:00:00:01:01 dev eth1"; 0],
        ),
    );
    rig.request(Request::DeleteLink { name: "eth3".into() }).unwrap();
    reread(&mut rig, config(&["eth1", "eth2"], &routes));
    rig.refuses = Some(io::ErrorKind::OutOfMemory);
    reread(&mut rig, config(&["eth1", "eth2", "eth3"], &[]));
    rig.handle(Input::Reread(Err("no such file".into())));
    assert_eq!(rig.names(), ["eth1", "eth2"]);
    assert_eq!(
        (rig.destination(100), rig.destination(101)),
        (Ok(Some(R1)), Ok(Some(R1)))
    );

    let mut new = config(&["eth1", "eth3"], &["100 as 300 via link 02:00:00:00:01:02 dev eth3"]);
    new.ports[0].tx_only = true;
    reread(&mut rig, new.clone());
    assert_eq!(rig.names(), ["eth1", "eth3"]);
    assert_eq!((rig.destination(100), rig.destination(101)), (Ok(Some(R2)), Err(())));
    assert!(rig.links_of_reply()[0].tx_only);
    // Back to switching: sockets for exceptions are opened on all queues first.
    new.ports[0].tx_only = false;
    reread(&mut rig, new);
    assert!(!rig.links_of_reply()[0].tx_only);
    assert_eq!(rig.destination(100), Ok(Some(R2)));
}

#[test]
fn the_local_pair_is_made_and_removed() {
    let options = || Options {
        local: Some("mpls0".into()),
        ..Options::default()
    };
    let mut rig = Rig::new(Config::unchecked(options(), Vec::new(), Vec::new()), Vec::new());
    rig.handle(Input::Start);
    assert!(rig.saw(|effect| matches!(effect, Effect::CreateLocal { .. })));
    let failed = || PortError::gone("mpls0");
    rig.handle(Input::Port(PortEvent::LocalCreated(Err(failed()))));
    assert!(rig.saw(|effect| matches!(effect, Effect::Failed(_))));

    let mut rig = Rig::new(Config::unchecked(options(), Vec::new(), Vec::new()), Vec::new());
    rig.handle(Input::Start);
    let (near, far) = (link(8, "mpls0"), link(9, "mpls0-port"));
    rig.links.extend([near.clone(), far.clone()]);
    rig.handle(Input::Kernel(vec![Event::Link(near), Event::Link(far)]));
    let pair = LocalPair::for_test("mpls0", "mpls0-port", [8, 9]);
    rig.handle(Input::Port(PortEvent::LocalCreated(Ok(pair))));
    assert!(rig.saw(|effect| matches!(effect, Effect::Ready)));
    assert_eq!(rig.names(), ["mpls0-port"]);
    // Its MTU leaves room for the labels of every route.
    let mut mtu_after = |mode, routes: &str| {
        rig.seen.clear();
        rig.change(mode, &[routes], true).unwrap();
        rig.seen.iter().find_map(|effect| match effect {
            Effect::SetLocalMtu { mtu, .. } => Some(*mtu),
            _ => None,
        })
    };
    let imposing = |labels: u32| {
        let labels: Vec<_> = (0..labels).map(|label| (500 + label).to_string()).collect();
        format!(
            "10.4.0.0/16 encap mpls {} via link 02:00:00:00:01:01 dev eth1",
            labels.join("/")
        )
    };
    assert_eq!(mtu_after(ChangeMode::Add, &imposing(12)), Some(1452));
    assert_eq!(mtu_after(ChangeMode::Replace, &imposing(12)), None);
    assert_eq!(mtu_after(ChangeMode::Replace, &imposing(1)), Some(1468));
    let near = rig.add_link("mpls0");
    assert!(refusal(rig.reply(near).unwrap()).contains("its other end is a port already"));
    let kept = refusal(rig.request(Request::DeleteLink {
        name: "mpls0-port".into(),
    }));
    assert!(kept.contains("is removed when the instance is unloaded"), "{kept}");
    rig.handle(Input::ShutDown);
    assert!(rig.saw(|effect| matches!(effect, Effect::RemoveLocal(_))));
}

#[test]
fn reports_are_answered() {
    let mut rig = Rig::up();
    rig.change(ChangeMode::Add, &["100 as 200 via inet 10.0.0.1 dev eth1"], false)
        .unwrap();
    let Ok(Reply::Status(status)) = rig.request(Request::GetStatus) else {
        panic!("no status")
    };
    assert_eq!((status.pid, status.netns_inode), (1, 2));
    assert_eq!(
        (status.links, status.label_routes, status.unresolved_next_hops),
        (3, 1, 1)
    );
    let neighbors = |counters| Request::ListNeighbors {
        after: None,
        limit: 10,
        counters,
    };
    let Ok(Reply::Neighbors { neighbors: listed, .. }) = rig.request(neighbors(false)) else {
        panic!("no neighbors")
    };
    assert_eq!(listed.len(), 1);
    rig.ask(neighbors(true));
    rig.ask(Request::GetStats { all: true });
    rig.ask(Request::GetUnknownLabels);
    for expected in ["ReplyNeighbors", "ReplyStats", "ReplyUnknownLabels"] {
        assert!(
            rig.saw(|effect| format!("{effect:?}").starts_with(expected)),
            "{expected}"
        );
    }
}

#[test]
fn at_the_end_ports_are_detached_and_neighbours_released() {
    let mut rig = Rig::up();
    rig.change(ChangeMode::Add, &["100 as 200 via inet 10.0.0.1 dev eth1"], false)
        .unwrap();
    assert_eq!(rig.request(Request::Unload), Ok(Reply::Done));
    assert!(rig.saw(|effect| matches!(effect, Effect::Stop)));
    rig.handle(Input::ShutDown);
    assert!(rig.switch.ports().is_empty());
    assert!(rig.saw(|effect| matches!(effect, Effect::KeepPorts)));
    assert!(rig.saw(|effect| matches!(effect, Effect::Release { ifindex: 1, .. })));
}

#[test]
fn a_load_that_nobody_confirms_is_undone() {
    let within = Duration::from_secs(60);
    let unconfirmed = || {
        let mut config = config(&["eth1"], &[]);
        config.confirm = Some(within);
        config
    };
    let is_undone = |rig: &Rig| {
        rig.saw(|effect| matches!(effect, Effect::Failed(ConfigurationError::Unconfirmed { .. })))
            && rig.saw(|effect| matches!(effect, Effect::Stop))
    };
    let pass = |rig: &mut Rig, time| {
        rig.now += time;
        rig.handle(Input::Tick);
    };
    let mut rig = Rig::up_with(unconfirmed());
    pass(&mut rig, within - Duration::from_millis(1));
    assert!(!is_undone(&rig));
    assert!(rig.switch.next_deadline() <= Some(rig.now + Duration::from_millis(1)));
    pass(&mut rig, Duration::from_millis(1));
    assert!(is_undone(&rig));

    let mut rig = Rig::up_with(unconfirmed());
    assert_eq!(rig.request(Request::Confirm), Ok(Reply::Done));
    pass(&mut rig, 2 * within);
    assert!(!is_undone(&rig));
    // Nothing is left to confirm, which is no error.
    assert_eq!(rig.request(Request::Confirm), Ok(Reply::Done));
}
