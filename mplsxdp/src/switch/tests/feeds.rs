//! Routes that the kernel and a routing daemon feed.

mod frr;

use std::num::NonZeroU8;

use mplsxdp_common::abi::VrfWord;
use smallvec::SmallVec;

use super::*;
use crate::config::{Number, SyncSource, TtlPropagation};
use crate::dataplane::Capacity;
use crate::feeds::{Mirror, TtlDefaults};
use crate::neighbour::Master;
use crate::route::Via;
use crate::rtnl::{self, Destination, Labels, Message, Object, ObjectTo, Position, To};

const FPM: SyncSource = SyncSource::Fpm(std::net::SocketAddr::new(
    IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    2620,
));

fn synced(sources: &[SyncSource]) -> Rig {
    synced_with_tables(sources, &[])
}

fn synced_with_tables(sources: &[SyncSource], tables: &[&str]) -> Rig {
    synced_on(sources, tables, MemoryTables::default())
}

fn synced_on(sources: &[SyncSource], followed: &[&str], tables: MemoryTables) -> Rig {
    let options = Options {
        sync: sources.to_vec(),
        sync_table: followed.iter().map(|table| table.parse().unwrap()).collect(),
        ..Options::default()
    };
    let ports = ["eth1", "eth2"].map(port).to_vec();
    Rig::up_with_tables(Config::unchecked(options, ports, Vec::new()), tables)
}

fn label(value: u32) -> Label {
    Label::new(value).unwrap()
}

/// A path to the address with this last byte, through the interface with this index.
fn path(ifindex: u32, last: u8, labels: Labels) -> rtnl::Path {
    rtnl::Path {
        ifindex,
        via: Some(Via::Inet([10, 0, 0, last].into())),
        labels,
        weight: 1,
    }
}

fn out(labels: &[u32]) -> Labels {
    Labels::Out(labels.iter().map(|&value| label(value)).collect())
}

fn imposed(labels: &[u32]) -> Labels {
    Labels::Imposed {
        stack: labels.iter().map(|&value| label(value)).collect(),
        ttl: None,
    }
}

fn reported(destination: Destination, to: To) -> Message {
    Message::route(route_to(destination, to), Position::Replaces)
}

fn route_to(destination: Destination, to: To) -> rtnl::Route {
    rtnl::Route {
        destination,
        protocol: crate::route::Protocol(186),
        unicast: true,
        to,
        ttl_propagate: None,
    }
}

fn paths(paths: &[rtnl::Path]) -> To {
    To::Paths(paths.iter().cloned().collect())
}

fn swap(value: u32, new: u32, ifindex: u32) -> Message {
    reported(
        Destination::Label(label(value)),
        paths(&[path(ifindex, 1, out(&[new]))]),
    )
}

fn gone(value: u32) -> Message {
    Message::gone(route_to(Destination::Label(label(value)), To::Paths(SmallVec::new())))
}

fn prefix(text: &str, metric: u32) -> Destination {
    Destination::Prefix(rtnl::Prefix {
        table: TABLE_MAIN,
        prefix: text.parse().unwrap(),
        metric,
        selective: false,
    })
}

impl Rig {
    fn kernel(&mut self, messages: Vec<Message>) {
        let events = messages.into_iter().map(|message| Event::Routing(Box::new(message)));
        self.handle(Input::Kernel(events.collect()));
    }

    fn daemon(&mut self, messages: Vec<Message>) {
        self.handle(Input::Feed(FeedEvent::Messages(messages)));
    }

    /// The kernel reports everything again: its interfaces, and these messages.
    fn resync(&mut self, messages: Vec<Message>) {
        let links = self.links.iter().cloned().map(Event::Link);
        let messages = messages.into_iter().map(|message| Event::Routing(Box::new(message)));
        let events = [Event::Reset]
            .into_iter()
            .chain(links)
            .chain(messages)
            .chain([Event::Synced]);
        self.handle(Input::Kernel(events.collect()));
    }

    /// All routes, as they are shown.
    fn shown(&mut self) -> Vec<String> {
        let request = Request::ListRoutes {
            filter: RouteFilter::default(),
            after: None,
            limit: 100,
            counters: false,
        };
        match self.request(request) {
            Ok(Reply::Routes { routes, .. }) => routes
                .into_iter()
                .map(|installed| format!("{} {}", installed.owner, installed.route.check().unwrap()))
                .collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn routes_of_the_kernel_are_followed() {
    let mut rig = synced(&[SyncSource::Kernel]);
    rig.kernel(vec![swap(100, 200, 1), swap(101, 201, 2)]);
    assert_eq!(
        rig.shown(),
        [
            "kernel 100 as to 200 via inet 10.0.0.1 dev eth1 proto bgp",
            "kernel 101 as to 201 via inet 10.0.0.1 dev eth2 proto bgp"
        ]
    );
    rig.kernel(vec![gone(101), swap(100, 300, 2)]);
    assert_eq!(
        rig.shown(),
        ["kernel 100 as to 300 via inet 10.0.0.1 dev eth2 proto bgp"]
    );
    // Routes that the kernel reports no more are gone, and nothing else is touched.
    rig.kernel(vec![swap(102, 202, 1)]);
    rig.resync(vec![swap(102, 202, 1), swap(103, 203, 1)]);
    assert_eq!(
        rig.shown(),
        [
            "kernel 102 as to 202 via inet 10.0.0.1 dev eth1 proto bgp",
            "kernel 103 as to 203 via inet 10.0.0.1 dev eth1 proto bgp"
        ]
    );
}

#[test]
fn each_form_of_a_label_route() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let both = [path(1, 1, out(&[200])), path(2, 2, out(&[]))];
    rig.kernel(vec![
        reported(
            Destination::Label(label(100)),
            paths(&[path(1, 1, out(&[200, 201, 202]))]),
        ),
        reported(Destination::Label(label(101)), paths(&[path(1, 1, out(&[]))])),
        reported(Destination::Label(label(102)), paths(&both)),
    ]);
    assert_eq!(
        rig.shown(),
        [
            "kernel 100 as to 200/201/202 via inet 10.0.0.1 dev eth1 proto bgp",
            "kernel 101 as implicit-null via inet 10.0.0.1 dev eth1 proto bgp",
            "kernel 102 proto bgp nexthop as to 200 via inet 10.0.0.1 dev eth1 weight 1 \
             nexthop as implicit-null via inet 10.0.0.2 dev eth2 weight 1"
        ]
    );
}

/// The kernel uses TTL_PROPAGATE only when it pops.
#[test]
fn the_ttl_of_a_route_counts_if_it_pops() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let with_ttl = |value, some: &[rtnl::Path]| {
        Message::route(
            rtnl::Route {
                ttl_propagate: Some(false),
                ..route_to(Destination::Label(label(value)), paths(some))
            },
            Position::Replaces,
        )
    };
    let (pop, swap) = (path(1, 1, out(&[])), path(1, 1, out(&[200])));
    rig.kernel(vec![
        with_ttl(100, std::slice::from_ref(&pop)),
        with_ttl(101, std::slice::from_ref(&swap)),
        with_ttl(102, &[pop, swap]),
    ]);
    assert_eq!(
        rig.shown(),
        [
            "kernel 100 via inet 10.0.0.1 dev eth1 ttl-propagate disabled proto bgp",
            "kernel 101 as to 200 via inet 10.0.0.1 dev eth1 proto bgp",
            "kernel 102 pass proto bgp # ttl-propagate of paths that pop and paths that swap"
        ]
    );
}

#[test]
fn what_xdp_cannot_do_is_left_to_the_kernel() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let red = LinkInfo {
        vrf_table: Some(1000),
        ..link(9, "red")
    };
    let lo = LinkInfo {
        loopback: true,
        ..link(10, "lo")
    };
    rig.link(red);
    rig.link(lo);
    let direct = |ifindex| rtnl::Path {
        via: None,
        ..path(ifindex, 1, out(&[]))
    };
    let deep: Vec<u32> = (100..130).collect();
    let label_route = |value, path| reported(Destination::Label(label(value)), paths(&[path]));
    rig.kernel(vec![
        label_route(100, direct(9)),
        label_route(101, direct(10)),
        label_route(102, direct(1)),
        label_route(103, path(1, 1, out(&deep))),
        label_route(104, path(77, 1, out(&[200]))),
        reported(prefix("10.1.0.0/16", 0), paths(&[path(3, 1, imposed(&[100]))])),
    ]);
    let shown = rig.shown();
    let expected = [
        "kernel 100 vrf red pass proto bgp",
        "kernel 101 dev lo pass proto bgp",
        "kernel 102 pass proto bgp # no next hop",
        "kernel 103 pass proto bgp # 30 labels",
        "kernel 104 pass proto bgp # interface 77 does not exist",
        "kernel 10.1.0.0/16 pass table main proto bgp # eth3 is not a port",
    ];
    assert_eq!(shown.len(), expected.len());
    for (shown, expected) in shown.iter().zip(expected) {
        assert!(shown.starts_with(expected), "{shown}");
    }
}

#[test]
fn ip_routes_follow_their_nexthop_objects() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let group = |ids: &[u32]| ObjectTo::Group(ids.iter().map(|&id| (id, 1)).collect());
    let object = |id, to| Message::Object(Object { id, to });
    // The routes come before the objects that they use.
    rig.kernel(vec![
        reported(prefix("10.1.0.0/16", 0), To::Object(7)),
        reported(prefix("10.2.0.0/16", 0), To::Object(9)),
        object(9, group(&[7, 8])),
        object(7, ObjectTo::Path(path(1, 1, imposed(&[100])))),
    ]);
    let first = "kernel 10.1.0.0/16 encap mpls 100 via inet 10.0.0.1 dev eth1 table main proto bgp";
    assert_eq!(rig.shown(), [first]);
    rig.kernel(vec![object(8, ObjectTo::Path(path(2, 2, imposed(&[101, 102]))))]);
    let second = "kernel 10.2.0.0/16 table main proto bgp nexthop encap mpls 100 via inet 10.0.0.1 dev eth1 weight 1 \
                  nexthop encap mpls 101/102 via inet 10.0.0.2 dev eth2 weight 1";
    assert_eq!(rig.shown(), [first, second]);
    // One change of an object changes both routes.
    rig.kernel(vec![object(7, ObjectTo::Path(path(2, 2, imposed(&[101, 102]))))]);
    assert_eq!(
        rig.shown(),
        [
            "kernel 10.1.0.0/16 encap mpls 101/102 via inet 10.0.0.2 dev eth2 table main proto bgp",
            "kernel 10.2.0.0/16 encap mpls 101/102 via inet 10.0.0.2 dev eth2 table main proto bgp"
        ]
    );
    // Without labels, packets are left to the kernel.
    rig.kernel(vec![object(7, ObjectTo::Path(path(2, 2, out(&[]))))]);
    assert_eq!(
        rig.shown(),
        ["kernel 10.2.0.0/16 pass table main proto bgp # some paths impose no labels"]
    );
    rig.kernel(vec![Message::ObjectGone(7)]);
    assert_eq!(rig.shown().len(), 0);
}

#[test]
fn groups_of_groups_are_no_way_out() {
    let mut rig = synced(&[FPM]);
    let object = |id, to| Message::Object(Object { id, to });
    let group = |id, members: &[u32]| object(id, ObjectTo::Group(members.iter().map(|&id| (id, 1)).collect()));
    rig.daemon(vec![
        reported(prefix("10.1.0.0/16", 20), To::Object(1)),
        reported(prefix("10.3.0.0/16", 20), To::Object(3)),
        reported(Destination::Label(label(100)), To::Object(1)),
        group(1, &[2]),
        group(2, &[1, 1]),
        group(3, &[3]),
    ]);
    assert_eq!(rig.shown(), ["fpm 100 pass proto bgp # no next hop"]);
    rig.daemon(vec![
        object(2, ObjectTo::Path(path(1, 1, imposed(&[100])))),
        Message::ObjectGone(3),
    ]);
    assert_eq!(
        rig.shown(),
        [
            "fpm 100 pass proto bgp # encapsulation 1",
            "fpm 10.1.0.0/16 encap mpls 100 via inet 10.0.0.1 dev eth1 table main proto bgp metric 20"
        ]
    );
}

/// Like the routes of an L3VPN's customers.
#[test]
fn each_table_has_routes_of_its_own_for_the_same_prefix() {
    let mut rig = synced_with_tables(&[SyncSource::Kernel], &["main", "1000", "2000"]);
    let in_table = |table: u32| {
        let Destination::Prefix(prefix) = prefix("10.1.0.0/16", 0) else {
            unreachable!()
        };
        Destination::Prefix(rtnl::Prefix { table, ..prefix })
    };
    let route = |table, out: u32| reported(in_table(table), paths(&[path(1, 1, imposed(&[out]))]));
    rig.kernel(vec![
        route(2000, 102),
        route(1000, 101),
        route(254, 100),
        route(3000, 103),
    ]);
    let shown =
        |out, table| format!("kernel 10.1.0.0/16 encap mpls {out} via inet 10.0.0.1 dev eth1 table {table} proto bgp");
    let (main, red, blue) = (shown(100, "main"), shown(101, "1000"), shown(102, "2000"));
    assert_eq!(rig.shown(), [main.as_str(), &red, &blue]);
    rig.kernel(vec![Message::gone(route_to(
        in_table(1000),
        To::Paths(SmallVec::new()),
    ))]);
    assert_eq!(rig.shown(), [main, blue]);
}

#[test]
fn the_lowest_metric_of_a_prefix_counts() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let labelled = |metric, last| reported(prefix("10.1.0.0/16", metric), paths(&[path(1, last, imposed(&[100]))]));
    rig.kernel(vec![labelled(20, 1), labelled(10, 2)]);
    assert_eq!(
        rig.shown(),
        ["kernel 10.1.0.0/16 encap mpls 100 via inet 10.0.0.2 dev eth1 table main proto bgp metric 10"]
    );
    // One without labels is preferred, so packets are left to the kernel.
    let plain = reported(prefix("10.1.0.0/16", 5), paths(&[path(1, 3, out(&[]))]));
    rig.kernel(vec![plain]);
    assert_eq!(rig.shown().len(), 0);
    let gone = |metric| Message::gone(route_to(prefix("10.1.0.0/16", metric), To::Paths(SmallVec::new())));
    rig.kernel(vec![gone(5), gone(10)]);
    assert_eq!(
        rig.shown(),
        ["kernel 10.1.0.0/16 encap mpls 100 via inet 10.0.0.1 dev eth1 table main proto bgp metric 20"]
    );
}

/// There is room for one stack of several labels.
#[test]
fn a_route_that_does_not_fit_is_left_to_the_kernel_until_there_is_room() {
    let capacity = MemoryTables::default().capacity();
    let tables = MemoryTables::with_capacity(Capacity { stacks: 1, ..capacity });
    let mut rig = synced_on(&[SyncSource::Kernel], &[], tables);
    let deep = |value, labels: &[u32]| reported(Destination::Label(label(value)), paths(&[path(1, 1, out(labels))]));
    rig.kernel(vec![
        swap(99, 199, 1),
        deep(100, &[200, 201]),
        deep(101, &[300, 301]),
        swap(102, 202, 1),
    ]);
    let shown = rig.shown();
    assert_eq!(shown.len(), 4, "{shown:?}");
    assert!(shown[1].starts_with("kernel 100 as to 200/201 "), "{shown:?}");
    assert!(
        shown[2].starts_with("kernel 101 pass proto bgp # no room for another"),
        "{shown:?}"
    );
    rig.kernel(vec![gone(100)]);
    let shown = rig.shown();
    assert!(shown[1].starts_with("kernel 101 as to 300/301 "), "{shown:?}");
}

#[test]
fn a_route_that_does_not_fit_is_tried_anew_when_the_source_changes_it() {
    let capacity = MemoryTables::default().capacity();
    let tables = MemoryTables::with_capacity(Capacity { stacks: 1, ..capacity });
    let mut rig = synced_on(&[SyncSource::Kernel], &[], tables);
    let deep = |value, labels: &[u32]| reported(Destination::Label(label(value)), paths(&[path(1, 1, out(labels))]));
    let refused = |rig: &Rig| rig.switch.feeds.report(rig.now)[0].refused;
    rig.kernel(vec![deep(100, &[200, 201]), deep(101, &[300, 301])]);
    assert_eq!(refused(&rig), 1);
    // Neither does this one fit.
    rig.kernel(vec![deep(101, &[300, 302])]);
    assert_eq!(refused(&rig), 1);
    assert!(rig.shown()[1].starts_with("kernel 101 pass "), "{:?}", rig.shown());
    rig.kernel(vec![swap(101, 301, 1)]);
    assert!(rig.shown()[1].starts_with("kernel 101 as to 301 "), "{:?}", rig.shown());
    assert_eq!(refused(&rig), 0);
    // And what it withdraws is forgotten.
    rig.kernel(vec![deep(102, &[400, 401])]);
    assert_eq!(refused(&rig), 1);
    rig.kernel(vec![gone(102)]);
    assert_eq!((rig.shown().len(), refused(&rig)), (2, 0));
}

/// There are more of them than are tried at once, and for all but the last there is never room.
#[test]
fn routes_that_do_not_fit_are_tried_again_in_turn() {
    let capacity = MemoryTables::default().capacity();
    let tables = MemoryTables::with_capacity(Capacity {
        stacks: 1,
        groups: 0,
        ..capacity
    });
    let mut rig = synced_on(&[SyncSource::Kernel], &[], tables);
    let to = |value, to: &[rtnl::Path]| reported(Destination::Label(label(value)), paths(to));
    rig.kernel(vec![to(100, &[path(1, 1, out(&[200, 201]))])]);
    let two = [path(1, 1, out(&[300])), path(2, 2, out(&[300]))];
    rig.kernel((1000..1200).map(|value| to(value, &two)).collect());
    rig.kernel(vec![to(1200, &[path(1, 1, out(&[300, 301]))])]);
    let refused = |rig: &Rig| rig.switch.feeds.report(rig.now)[0].refused;
    assert_eq!(refused(&rig), 201);
    rig.kernel(vec![gone(100)]);
    for _ in 0..3 {
        assert_eq!(refused(&rig), 201);
        rig.later(Duration::from_secs(20));
        rig.kernel(vec![swap(50, 51, 1)]);
        rig.kernel(vec![gone(50)]);
    }
    assert_eq!(refused(&rig), 200);
}

/// The daemon withdraws a label, and the kernel's route for it does not fit: it is left to the kernel, and not retried
/// for ever.
#[test]
fn a_label_goes_at_once_though_what_stands_by_does_not_fit() {
    let capacity = MemoryTables::default().capacity();
    let tables = MemoryTables::with_capacity(Capacity { stacks: 1, ..capacity });
    let mut rig = synced_on(&[SyncSource::Kernel, FPM], &[], tables);
    let deep = |value, labels: &[u32]| reported(Destination::Label(label(value)), paths(&[path(1, 1, out(labels))]));
    rig.daemon(vec![swap(100, 200, 1)]);
    rig.kernel(vec![deep(100, &[300, 301])]);
    rig.change(ChangeMode::Add, &["99 as 400/401 via inet 10.0.0.1 dev eth1"], true)
        .unwrap();
    rig.daemon(vec![gone(100)]);
    let shown = rig.shown();
    assert!(shown[1].starts_with("fpm 100 pass # no room for another"), "{shown:?}");
    assert!(!rig.switch.has_steps());
}

/// The FTN cannot be written.
#[test]
fn a_prefix_that_cannot_be_written_is_not_tried_for_ever() {
    let capacity = MemoryTables::default().capacity();
    let tables = MemoryTables::with_capacity(Capacity {
        prefixes: 12,
        ..capacity
    });
    let mut rig = synced_on(&[SyncSource::Kernel], &[], tables);
    let many = (1..=40).map(|number| {
        let prefix = prefix(&format!("10.{number}.0.0/16"), 0);
        reported(prefix, paths(&[path(1, 1, imposed(&[100]))]))
    });
    rig.kernel(many.collect());
    assert!(!rig.switch.has_steps());
    let shown = rig.shown();
    assert!(!shown.is_empty() && shown.len() < 40, "{shown:?}");
}

#[test]
fn what_others_do_in_the_name_of_a_source_does_not_stay() {
    let mut rig = synced(&[FPM]);
    rig.daemon(vec![swap(100, 200, 1)]);
    let shown = rig.shown();
    let delete = Request::DeleteRoutes {
        owner: Source::Fpm,
        routes: vec![Description::from(RouteKey::Label(label(100)))],
    };
    rig.request(delete).unwrap();
    assert_eq!(rig.shown(), shown);
    let add = Request::ChangeRoutes {
        mode: ChangeMode::Add,
        owner: Source::Fpm,
        routes: vec![route("500 as 501 via inet 10.0.0.1 dev eth1")],
        wait: true,
    };
    rig.request(add).unwrap();
    assert_eq!(rig.shown(), shown);
}

#[test]
fn a_static_route_overrides_that_of_a_table() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let kernels = "kernel 10.1.0.0/16 encap mpls 100 via inet 10.0.0.1 dev eth1 table main proto bgp";
    rig.kernel(vec![reported(
        prefix("10.1.0.0/16", 0),
        paths(&[path(1, 1, imposed(&[100]))]),
    )]);
    assert_eq!(rig.shown(), [kernels]);
    let own = "10.1.0.0/16 encap mpls 200 via inet 10.0.0.1 dev eth2";
    rig.change(ChangeMode::Add, &[own], true).unwrap();
    assert_eq!(rig.shown(), [format!("static {own}")]);
    let key = RouteKey::Prefix(crate::route::Fec::new("10.1.0.0/16".parse().unwrap(), None));
    let delete = Request::DeleteRoutes {
        owner: Source::Static,
        routes: vec![Description::from(key)],
    };
    rig.request(delete).unwrap();
    assert_eq!(rig.shown(), [kernels]);
}

/// A label of a VRF leads into the VRF as soon as that has a port, and out of any of the ports. What it does follows the VRF
/// device: its name, and its end.
#[test]
fn a_label_of_a_vrf_follows_the_vrf_and_its_ports() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let red = |name| LinkInfo {
        vrf_table: Some(1000),
        ..link(9, name)
    };
    let into_vrf = rtnl::Path {
        via: None,
        ..path(9, 1, out(&[]))
    };
    let member = |number, name: &str, ifindex| LinkInfo {
        master: Some(Master { ifindex, kind: None }),
        ..link(number, name)
    };
    let passes = |rig: &mut Rig| {
        let lookup = api::Lookup::Key(RouteKey::Label(label(100)));
        match rig.request(Request::GetRoute { lookup }) {
            Ok(Reply::Route(found)) => found.passes,
            other => panic!("{other:?}"),
        }
    };
    let word = |rig: &Rig| {
        let tables = rig.switch.tables();
        let entry = tables.ilm[&label(100)];
        assert_eq!(entry.op(), Op::VrfPass);
        tables.vrfs[&entry.operand()]
    };
    let ways = |rig: &Rig| {
        let mut ways: Vec<_> = rig
            .switch
            .tables()
            .ways_out
            .iter()
            .map(|(&ifindex, way)| (ifindex, way.port()))
            .collect();
        ways.sort_unstable();
        ways
    };
    rig.link(red("red"));
    rig.kernel(vec![reported(Destination::Label(label(100)), paths(&[into_vrf]))]);
    assert_eq!(rig.shown(), ["kernel 100 vrf red pass proto bgp"]);
    assert_eq!(
        (word(&rig), passes(&mut rig)),
        (VrfWord::NONE, Some("no port is in VRF red".into()))
    );
    let ports = ways(&rig);
    assert_eq!(ports.iter().map(|way| way.0).collect::<Vec<_>>(), [1, 2]);
    rig.link(member(1, "eth1", 9));
    assert_eq!((word(&rig), passes(&mut rig)), (VrfWord::new(9, Domain(1)), None));
    assert_eq!(ways(&rig), ports);
    // Neighbours there are in use, others are not.
    for ifindex in [1, 2] {
        rig.neighbour(ifindex, "192.0.2.9", NeighbourState::Stale(Mac([2, 0, 0, 0, 0, 9])));
    }
    rig.later(Duration::ZERO);
    let verified = |wanted| rig.saw(|effect| matches!(effect, Effect::Verify { ifindex, .. } if *ifindex == wanted));
    assert_eq!([1, 2].map(verified), [true, false]);
    rig.link(red("purple"));
    assert_eq!(rig.shown(), ["kernel 100 vrf purple pass proto bgp"]);
    assert_eq!((word(&rig), passes(&mut rig)), (VrfWord::new(9, Domain(1)), None));
    // The port leaves, and comes back.
    rig.link(link(1, "eth1"));
    assert_eq!(
        (word(&rig), passes(&mut rig)),
        (VrfWord::NONE, Some("no port is in VRF purple".into()))
    );
    rig.link(member(1, "eth1", 9));
    assert_eq!(passes(&mut rig), None);
    // A port is removed: packets do not leave by it any more.
    rig.gone(1);
    assert_eq!(ways(&rig), ports[1..]);
    assert_eq!(word(&rig), VrfWord::NONE);
    rig.gone(9);
    assert_eq!(rig.shown(), ["kernel 100 pass proto bgp # interface 9 does not exist"]);
}

#[test]
fn the_tables_of_vrfs_count_once_the_vrf_is_there() {
    let options = Options {
        sync: vec![SyncSource::Kernel],
        sync_table: ["red", "2000"].map(|table| table.parse().unwrap()).to_vec(),
        ..Options::default()
    };
    let mut rig = Rig::up_with(Config::unchecked(options, vec![port("eth1")], Vec::new()));
    let in_table = |table| {
        let Destination::Prefix(prefix) = prefix("10.1.0.0/16", 0) else {
            unreachable!()
        };
        let destination = Destination::Prefix(rtnl::Prefix { table, ..prefix });
        reported(destination, paths(&[path(1, 1, imposed(&[table]))]))
    };
    rig.kernel([254, 1000, 2000].map(in_table).to_vec());
    let route =
        |table| format!("kernel 10.1.0.0/16 encap mpls {table} via inet 10.0.0.1 dev eth1 table {table} proto bgp");
    assert_eq!(rig.shown(), [route(2000)]);
    rig.link(LinkInfo {
        vrf_table: Some(1000),
        ..link(9, "red")
    });
    assert_eq!(rig.shown(), [route(1000), route(2000)]);
}

#[test]
fn a_routing_daemon_that_restarts_interrupts_nothing() {
    let mut rig = synced(&[FPM]);
    let event = |rig: &mut Rig, event| rig.handle(Input::Feed(event));
    let connected = || FeedEvent::Connected {
        peer: "127.0.0.1:1".into(),
    };
    let disconnected = || FeedEvent::Disconnected {
        reason: "closed".into(),
    };
    event(&mut rig, connected());
    rig.daemon(vec![swap(100, 200, 1), swap(101, 201, 1)]);
    event(&mut rig, FeedEvent::Synced);
    assert_eq!(rig.shown().len(), 2);
    event(&mut rig, disconnected());
    event(&mut rig, connected());
    rig.daemon(vec![swap(100, 200, 1)]);
    // It disconnects before it has sent everything.
    event(&mut rig, disconnected());
    assert_eq!(rig.shown().len(), 2);
    event(&mut rig, connected());
    rig.daemon(vec![swap(101, 301, 1)]);
    assert_eq!(rig.shown().len(), 2);
    event(&mut rig, FeedEvent::Synced);
    assert_eq!(rig.shown(), ["fpm 101 as to 301 via inet 10.0.0.1 dev eth1 proto bgp"]);
}

#[test]
fn the_most_preferred_source_wins_whatever_comes_first() {
    let mut rig = synced(&[SyncSource::Kernel, FPM]);
    rig.kernel(vec![swap(100, 200, 1)]);
    rig.daemon(vec![swap(100, 201, 1)]);
    assert_eq!(rig.shown(), ["fpm 100 as to 201 via inet 10.0.0.1 dev eth1 proto bgp"]);
    rig.change(ChangeMode::Add, &["100 as 202 via inet 10.0.0.1 dev eth1"], true)
        .unwrap();
    rig.kernel(vec![swap(100, 300, 1)]);
    assert_eq!(rig.shown(), ["static 100 as to 202 via inet 10.0.0.1 dev eth1"]);
    rig.daemon(vec![gone(100)]);
    let delete = Request::DeleteRoutes {
        owner: Source::Static,
        routes: vec![Description::from(RouteKey::Label(label(100)))],
    };
    rig.request(delete).unwrap();
    assert_eq!(
        rig.shown(),
        ["kernel 100 as to 300 via inet 10.0.0.1 dev eth1 proto bgp"]
    );
}

#[test]
fn an_interface_that_becomes_a_port_gets_its_routes() {
    let mut rig = synced(&[SyncSource::Kernel]);
    rig.kernel(vec![swap(100, 200, 3)]);
    assert_eq!(rig.shown(), ["kernel 100 pass proto bgp # eth3 is not a port"]);
    rig.add_link("eth3");
    assert_eq!(
        rig.shown(),
        ["kernel 100 as to 200 via inet 10.0.0.1 dev eth3 proto bgp"]
    );
    rig.link(link(3, "core0"));
    assert_eq!(
        rig.shown(),
        ["kernel 100 as to 200 via inet 10.0.0.1 dev core0 proto bgp"]
    );
}

/// The kernel has these routes at each reading.
fn audit(rig: &mut Rig, repair: bool, messages: &[Message]) -> Vec<api::SyncCheck> {
    audit_with(rig, repair, messages, TtlDefaults::default())
}

fn audit_with(rig: &mut Rig, repair: bool, messages: &[Message], ttl: TtlDefaults) -> Vec<api::SyncCheck> {
    let token = rig.ask(Request::CheckSync { repair });
    loop {
        let is_read = |effect: &Effect| matches!(effect, Effect::ReadRoutes);
        let Some(index) = rig.seen.iter().position(is_read) else {
            break;
        };
        rig.seen.remove(index);
        let mut mirror = Box::new(Mirror::new(Source::Kernel));
        messages.iter().cloned().for_each(|message| mirror.take(message));
        mirror.forget_changes();
        rig.handle(Input::RoutesRead(Ok(Reading {
            mirror,
            has_mpls: true,
            ttl,
        })));
    }
    if rig.saw(|effect| matches!(effect, Effect::Resync)) {
        rig.seen.retain(|effect| !matches!(effect, Effect::Resync));
        rig.resync(messages.to_vec());
    }
    match rig.reply(token) {
        Some(Ok(Reply::SyncChecks(checks))) => checks,
        other => panic!("{other:?}"),
    }
}

fn counts(check: &api::SyncCheck) -> (u64, u64, u64, u64) {
    (check.checked, check.stale, check.missing, check.different)
}

#[test]
fn an_audit_finds_and_repairs_what_differs() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let all = [swap(100, 200, 1), swap(101, 201, 1), swap(102, 202, 1)];
    rig.kernel(all.to_vec());
    let checks = audit(&mut rig, false, &all);
    assert_eq!(checks.iter().map(counts).collect::<Vec<_>>(), [(3, 0, 0, 0)]);
    // Another client changes routes of the kernel's, and the kernel has one that it has not reported.
    let by_hand = |rig: &mut Rig, text: &str| {
        let request = Request::ChangeRoutes {
            mode: ChangeMode::Replace,
            owner: Source::Kernel,
            routes: vec![route(text)],
            wait: true,
        };
        rig.request(request).unwrap();
    };
    by_hand(&mut rig, "100 as 999 via inet 10.0.0.1 dev eth1");
    by_hand(&mut rig, "500 as 501 via inet 10.0.0.1 dev eth1");
    let key = RouteKey::Label(label(101));
    rig.request(Request::DeleteRoutes {
        owner: Source::Kernel,
        routes: vec![Description::from(key)],
    })
    .unwrap();
    let all = [&all[..], &[swap(103, 203, 1)]].concat();
    let checks = audit(&mut rig, false, &all);
    assert_eq!(counts(&checks[0]), (4, 1, 2, 1));
    let named: Vec<_> = checks[0]
        .differences
        .iter()
        .map(|difference| (&*difference.route, difference.problem))
        .collect();
    use api::SyncProblem::{Different, Missing, Stale};
    assert_eq!(
        named,
        [("100", Different), ("101", Missing), ("103", Missing), ("500", Stale)]
    );
    assert!(!checks[0].repaired);
    let checks = audit(&mut rig, true, &all);
    assert_eq!((counts(&checks[0]), checks[0].repaired), ((4, 1, 2, 1), true));
    assert_eq!(counts(&audit(&mut rig, false, &all)[0]), (4, 0, 0, 0));
    assert_eq!(rig.shown().len(), 4);
}

/// However many differences there are, some are kept and named, all are counted, and all are repaired.
#[test]
fn an_audit_keeps_some_of_very_many_differences() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let first = [swap(100, 200, 1)];
    rig.kernel(first.to_vec());
    // Routes that the kernel has and has not reported.
    let all: Vec<Message> = (0..6000).map(|number| swap(1000 + number, 200, 1)).collect();
    let all = [&first[..], &all].concat();
    let checks = audit(&mut rig, false, &all);
    assert_eq!(counts(&checks[0]), (6001, 0, 6000, 0));
    assert_eq!(checks[0].differences.len(), 1000);
    let checks = audit(&mut rig, true, &all);
    assert_eq!((counts(&checks[0]), checks[0].repaired), ((6001, 0, 6000, 0), true));
    assert_eq!(counts(&audit(&mut rig, false, &all)[0]), (6001, 0, 0, 0));
}

#[test]
fn labels_of_a_daemon_that_the_kernel_lacks_are_found() {
    let mut rig = synced(&[FPM]);
    rig.daemon(vec![swap(100, 200, 1), swap(101, 201, 1)]);
    let checks = audit(&mut rig, true, &[swap(101, 201, 1), swap(102, 202, 1)]);
    let [check] = &checks[..] else { panic!("{checks:?}") };
    assert_eq!(
        (&*check.source, counts(check), check.unmatched, check.repaired),
        ("fpm", (2, 0, 0, 0), 2, false)
    );
    use api::SyncProblem::{OnlyDaemon, OnlyKernel};
    let named: Vec<_> = check
        .differences
        .iter()
        .map(|difference| (&*difference.route, difference.problem))
        .collect();
    assert_eq!(named, [("100", OnlyDaemon), ("102", OnlyKernel)]);
}

#[test]
fn an_audit_compares_what_a_daemon_has_sent_with_what_is_installed() {
    let mut rig = synced(&[FPM]);
    let imposing = |text: &str, value| reported(prefix(text, 20), paths(&[path(1, 1, imposed(&[value]))]));
    let all = [swap(100, 200, 1), swap(101, 201, 1), swap(102, 202, 1)];
    rig.daemon(all.to_vec());
    rig.daemon(vec![imposing("10.4.1.0/24", 300)]);
    assert_eq!(counts(&audit(&mut rig, false, &all)[0]), (4, 0, 0, 0));
    // No client can bring this about: what is changed in the name of a daemon is put right at once.
    let before = rig.shown();
    let feed = &mut rig.switch.feeds;
    for message in [
        swap(100, 999, 1),
        gone(101),
        swap(103, 203, 1),
        imposing("10.4.1.0/24", 301),
    ] {
        feed.take(Source::Fpm, message);
    }
    feed.forget_changes(Source::Fpm);
    // A route of a prefix without a table is none that a source can have.
    rig.request(Request::ChangeRoutes {
        mode: ChangeMode::Replace,
        owner: Source::Fpm,
        routes: vec![route("10.5.0.0/16 encap mpls 5 via inet 10.0.0.1 dev eth1")],
        wait: true,
    })
    .unwrap();
    let kernels = [swap(100, 999, 1), swap(102, 202, 1), swap(103, 203, 1)];
    use api::SyncProblem::{Different, Missing, Stale};
    let expected = [
        ("100", Different),
        ("101", Stale),
        ("103", Missing),
        ("10.4.1.0/24 table main", Different),
        ("10.5.0.0/16", Stale),
    ];
    for repair in [false, true] {
        let checks = audit(&mut rig, repair, &kernels);
        let [check] = &checks[..] else { panic!("{checks:?}") };
        assert_eq!((counts(check), check.repaired), ((4, 2, 1, 2), repair));
        let named = check
            .differences
            .iter()
            .map(|difference| (&*difference.route, difference.problem));
        assert_eq!(named.collect::<Vec<_>>(), expected);
        let different = check
            .differences
            .iter()
            .find(|difference| difference.route == "100")
            .unwrap();
        assert_eq!(
            (different.wanted.as_deref(), different.installed.as_deref()),
            (
                Some("100 as to 999 via inet 10.0.0.1 dev eth1 proto bgp"),
                Some("100 as to 200 via inet 10.0.0.1 dev eth1 proto bgp")
            )
        );
    }
    assert_eq!(counts(&audit(&mut rig, false, &kernels)[0]), (4, 0, 0, 0));
    let after = rig.shown();
    assert_eq!((before.len(), after.len()), (4, 4));
    assert!(after.iter().any(|route| route.contains("103 as to 203")), "{after:#?}");
}

#[test]
fn the_ttl_is_treated_as_the_kernels_settings_say() {
    let settings = |propagates, imposed| TtlDefaults {
        propagates,
        imposed: NonZeroU8::new(imposed).unwrap(),
    };
    let all = [
        reported(Destination::Label(label(100)), paths(&[path(1, 1, out(&[]))])),
        swap(101, 201, 1),
        reported(prefix("10.4.1.0/24", 20), paths(&[path(1, 1, imposed(&[300]))])),
    ];
    let shown = |pop: &str, ttl: &str| {
        [
            format!("kernel 100{pop} proto bgp"),
            "kernel 101 as to 201 via inet 10.0.0.1 dev eth1 proto bgp".to_owned(),
            format!("kernel 10.4.1.0/24 encap mpls 300{ttl} via inet 10.0.0.1 dev eth1 table main proto bgp metric 20"),
        ]
    };
    let followed = |ttl_propagate, tunnel_ttl, at_load, later| {
        let options = Options {
            sync: vec![SyncSource::Kernel],
            ttl_propagate,
            tunnel_ttl,
            ..Options::default()
        };
        let ports = ["eth1", "eth2"].map(port).to_vec();
        let mut rig = Rig::up_with_tables(Config::unchecked(options, ports, Vec::new()), MemoryTables::default());
        rig.switch.set_ttl_defaults(at_load);
        rig.kernel(all.to_vec());
        let before = rig.shown();
        // Nothing differs: the change is followed before the routes are compared.
        let checks = audit_with(&mut rig, false, &all, later);
        assert_eq!(counts(&checks[0]), (3, 0, 0, 0));
        let source = rig.switch.feeds.report(rig.now).remove(0);
        let Ok(Reply::Status(status)) = rig.request(Request::GetStatus) else {
            panic!("no status")
        };
        let settings = source.ip_ttl_propagate.zip(source.default_ttl);
        assert_eq!(status.ip_ttl_propagate.zip(status.default_ttl), settings);
        (before, rig.shown(), settings)
    };
    let (on, off) = (settings(true, 255), settings(false, 64));
    // The packet's own TTL counts this hop.
    let disabled = " via inet 10.0.0.1 dev eth1 ttl-propagate disabled";
    let (propagated, imposed) = (
        shown(" as implicit-null via inet 10.0.0.1 dev eth1", ""),
        shown(disabled, " ttl 64"),
    );
    let expected = (propagated.to_vec(), imposed.to_vec(), Some((false, 64)));
    assert_eq!(followed(None, None, on, off), expected);
    let expected = (imposed.to_vec(), propagated.to_vec(), Some((true, 255)));
    assert_eq!(followed(None, None, off, on), expected);
    // Options win.
    let nine = shown(disabled, " ttl 9");
    let expected = (nine.to_vec(), propagated.to_vec(), Some((true, 9)));
    assert_eq!(followed(None, Number::new(9), off, on), expected);
    let expected = (propagated.to_vec(), propagated.to_vec(), None);
    assert_eq!(followed(Some(TtlPropagation::Linux), None, off, off), expected);
}

#[test]
fn labels_are_accepted_where_the_kernel_accepts_them() {
    let mut rig = synced(&[SyncSource::Kernel]);
    let accepts = |rig: &mut Rig| {
        let links = rig.links_of_reply();
        links.iter().map(|link| link.mpls).collect::<Vec<_>>()
    };
    // A kernel without MPLS reports nothing about it.
    assert_eq!(accepts(&mut rig), [true, true]);
    let input = |ifindex, accepted| Message::Input { ifindex, accepted };
    rig.kernel(vec![input(1, true), input(2, false)]);
    assert_eq!(accepts(&mut rig), [true, false]);
    rig.kernel(vec![input(2, true), Message::InputGone { ifindex: 1 }]);
    assert_eq!(accepts(&mut rig), [false, true]);
    let word = |number| rig.switch.tables().ports[&number];
    let number = rig.switch.ports().number("eth2").unwrap();
    assert!(word(number).has(PortWord::MPLS));
}
