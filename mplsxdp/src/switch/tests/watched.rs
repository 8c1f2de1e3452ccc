//! What clients that watch are told.

use super::*;
use crate::control::api::{EventChange, EventKind, Resolution};
use crate::control::events::{self, Kinds, Watching};
use crate::lfib::{Installs, MadeRoute};

/// Watches all kinds, as the daemon has it.
fn watch(rig: &mut Rig, kinds: &[EventKind]) -> Watching {
    let kinds: Kinds = kinds.iter().copied().collect();
    let (watcher, watching) = events::watch(kinds);
    let asked = rig.ask(Request::Monitor { watcher });
    let is_wanted = |effect: &Effect| matches!(effect, Effect::Watch { token, .. } if *token == asked);
    assert!(rig.saw(is_wanted), "{:?}", rig.seen);
    rig.seen.clear();
    rig.switch.watch(kinds);
    watching
}

/// What was reported, one line for each.
fn told(rig: &mut Rig) -> Vec<String> {
    let mut lines = Vec::new();
    for effect in rig.seen.drain(..) {
        let Effect::Tell(event) = effect else { continue };
        match event {
            events::Event::Routes(made) => {
                lines.extend((0..made.len()).map(|at| match made.get(at).unwrap() {
                    MadeRoute::Installed(Installs::New, owner, route) => format!("new {owner} {route}"),
                    MadeRoute::Installed(Installs::Replacement, owner, route) => format!("other {owner} {route}"),
                    MadeRoute::Deleted(owner, route) => format!("deleted {owner} {route}"),
                    MadeRoute::DeletedKey(key) => format!("deleted {key}"),
                }));
            }
            events::Event::NextHop(change, state) => {
                let in_use = state.backup.is_some_and(|backup| backup.in_use);
                let (host, dev) = (state.via.host, state.dev.unwrap_or_default());
                let gone = if change == EventChange::Deleted { "deleted " } else { "" };
                let backup = if in_use { " on backup" } else { "" };
                let mac = state.lladdr.map(|mac| format!(" {mac}")).unwrap_or_default();
                lines.push(format!("{gone}{host} {dev} {}{mac}{backup}", state.state));
            }
            events::Event::Link(change, link) => {
                lines.push(format!("{change:?} {} mtu {} up {}", link.ifname, link.mtu, link.up));
            }
            other => panic!("{other:?}"),
        }
    }
    lines
}

/// What is installed is reported, not what is requested: the best route of a key, whoever it belongs to.
#[test]
fn routes_are_reported_as_they_are_installed() {
    let mut rig = Rig::up();
    let of = |mode, owner, lines: &[&str]| Request::ChangeRoutes {
        mode,
        owner,
        routes: lines.iter().map(|line| route(line)).collect(),
        wait: true,
    };
    const ONE: &str = "100 as to 200 via link 02:00:00:00:01:01 dev eth1";
    const OTHER: &str = "100 as to 300 via link 02:00:00:00:01:02 dev eth2";
    rig.request(of(ChangeMode::Add, Source::Kernel, &[ONE])).unwrap();
    assert!(told(&mut rig).is_empty(), "nobody watches");
    let _watching = watch(&mut rig, &[EventKind::Route]);
    rig.request(of(ChangeMode::Replace, Source::Kernel, &[ONE])).unwrap();
    assert!(told(&mut rig).is_empty(), "nothing is different");
    rig.request(of(ChangeMode::Add, Source::Static, &[OTHER])).unwrap();
    assert_eq!(told(&mut rig), [format!("other static {OTHER}")]);
    // It is on standby.
    let third = "100 as to 400 via link 02:00:00:00:01:01 dev eth1";
    rig.request(of(ChangeMode::Replace, Source::Kernel, &[third])).unwrap();
    assert!(told(&mut rig).is_empty());
    let routes = vec![Description::from(RouteKey::Label(Label::from_low_bits(100)))];
    let delete = |owner, routes| Request::DeleteRoutes { owner, routes };
    rig.request(delete(Source::Static, routes.clone())).unwrap();
    assert_eq!(told(&mut rig), [format!("other kernel {third}")]);
    // A change that is refused changes nothing.
    rig.request(of(ChangeMode::Add, Source::Kernel, &[third])).unwrap_err();
    assert!(told(&mut rig).is_empty());

    let given = (Owner::Of(Source::Kernel), route(third));
    let asked = |rig: &mut Rig| {
        let routes = vec![given.clone(), (Owner::STATIC, route(OTHER))];
        match rig.request(Request::DescribeRoutes { routes }) {
            Ok(Reply::Routes { routes, .. }) => routes,
            other => panic!("{other:?}"),
        }
    };
    let described = asked(&mut rig);
    let state = |index: usize| described[index].next_hop.as_ref().map(|state| state.state);
    assert_eq!((state(0), state(1)), (Some(Resolution::Static), None));
    assert_eq!((&*described[0].owner, &*described[1].owner), ("kernel", "static"));
    assert_eq!(described[1].route.out, Some(vec![300]));

    rig.request(delete(Source::Kernel, routes)).unwrap();
    assert_eq!(told(&mut rig), [format!("deleted kernel {third}")]);
    assert!(asked(&mut rig).iter().all(|described| described.next_hop.is_none()));
    rig.switch.watch(Kinds::default());
    rig.request(of(ChangeMode::Add, Source::Static, &[OTHER])).unwrap();
    assert!(told(&mut rig).is_empty());
}

#[test]
fn next_hops_are_reported_with_the_use_of_their_backups() {
    let mut rig = Rig::up();
    for (last, ifindex) in [(1, 1), (2, 2)] {
        rig.lookups.insert([10, 0, 0, last].into(), Lookup::Interface(ifindex));
    }
    let _watching = watch(&mut rig, &[EventKind::Neigh]);
    let line = "100 as to 200 via inet 10.0.0.1 dev eth1 backup via inet 10.0.0.2 dev eth2";
    rig.change(ChangeMode::Add, &[line], true).unwrap();
    told(&mut rig);
    rig.neighbour(1, "10.0.0.1", NeighbourState::Reachable(R1));
    assert_eq!(told(&mut rig), [format!("10.0.0.1 eth1 resolved {R1}")]);
    rig.link(down(link(1, "eth1")));
    assert_eq!(told(&mut rig), ["10.0.0.1 eth1 linkdown"]);
    // The backup comes only now: frames go there from now on.
    rig.neighbour(2, "10.0.0.2", NeighbourState::Reachable(R2));
    assert_eq!(
        told(&mut rig),
        [
            "10.0.0.1 eth1 linkdown on backup".to_owned(),
            format!("10.0.0.2 eth2 resolved {R2}")
        ]
    );
    rig.link(link(1, "eth1"));
    rig.neighbour(1, "10.0.0.1", NeighbourState::Reachable(R2));
    assert_eq!(told(&mut rig).last().unwrap(), &format!("10.0.0.1 eth1 resolved {R2}"));
    let routes = vec![Description::from(RouteKey::Label(Label::from_low_bits(100)))];
    let owner = Source::Static;
    rig.request(Request::DeleteRoutes { owner, routes }).unwrap();
    let mut gone = told(&mut rig);
    gone.sort();
    assert_eq!(
        gone,
        [
            format!("deleted 10.0.0.1 eth1 resolved {R2}"),
            format!("deleted 10.0.0.2 eth2 resolved {R2}")
        ]
    );
}

#[test]
fn ports_are_reported_when_they_are_different() {
    let mut rig = Rig::up_with(config(&["eth1", "eth2"], &[]));
    let _watching = watch(&mut rig, &[EventKind::Link]);
    rig.link(link(1, "eth1"));
    rig.link(link(3, "eth3"));
    assert!(told(&mut rig).is_empty(), "nothing is different");
    rig.link(down(link(2, "eth2")));
    assert_eq!(told(&mut rig), ["Changed eth2 mtu 1500 up false"]);
    rig.link(LinkInfo {
        mtu: 1400,
        ..link(1, "eth1")
    });
    assert_eq!(told(&mut rig), ["Changed eth1 mtu 1400 up true"]);
    let asked = rig.add_link("eth3");
    assert_eq!(rig.reply(asked), Some(Ok(Reply::Done)));
    assert_eq!(told(&mut rig), ["Added eth3 mtu 1500 up true"]);
    rig.request(Request::DeleteLink { name: "eth2".into() }).unwrap();
    assert_eq!(told(&mut rig), ["Deleted eth2 mtu 1500 up false"]);
    rig.switch.watch(Kinds::default());
    rig.link(link(1, "eth1"));
    assert!(told(&mut rig).is_empty());
}
