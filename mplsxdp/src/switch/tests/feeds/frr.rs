//! Backups that FRR has for the routes of sources.

use super::*;
use crate::feeds::Key;
use crate::feeds::frr::{Backups, Hop, Protected, changed};
use crate::neighbour::InterfaceAddress;
use crate::route::line::Family;

fn followed(sources: &[SyncSource]) -> Rig {
    synced(&[sources, &["frr".parse().unwrap()]].concat())
}

fn hop(ifindex: u32, last: u8, labels: &[u32]) -> Hop {
    Hop {
        via: Via::Inet([10, 0, 0, last].into()),
        dev: Some(format!("eth{ifindex}").into()),
        labels: labels.iter().map(|&value| label(value)).collect(),
    }
}

/// By eth1 with these labels, with a backup by eth2.
fn protected(labels: &[u32], backup: &[u32]) -> Box<[Protected]> {
    Box::new([Protected {
        primary: hop(1, 1, labels),
        backups: Box::new([hop(2, 2, backup)]),
    }])
}

fn of_label(value: u32, to: &[u32], backup: &[u32]) -> (Key, Box<[Protected]>) {
    (Key::Label(label(value)), protected(to, backup))
}

impl Rig {
    /// FRR has these backups.
    fn frr<const N: usize>(&mut self, backups: [(Key, Box<[Protected]>); N]) {
        let before = self.frr_has();
        let backups = Arc::new(Backups::from(backups));
        let changed = changed(&before, &backups);
        let pseudowires = self.switch.feeds.frr.pseudowires();
        self.handle(Input::Frr(FrrAnswer {
            backups,
            changed,
            pseudowires,
        }));
    }

    /// FRR has pseudowires with these routes, and the same backups.
    fn frr_pseudowires(&mut self, lines: &[&str]) {
        let routes = lines.iter().map(|line| line::route(line, Family::Any).unwrap());
        let answer = FrrAnswer {
            backups: self.frr_has(),
            changed: Vec::new(),
            pseudowires: Arc::new(routes.collect()),
        };
        self.handle(Input::Frr(answer));
    }

    fn frr_has(&self) -> Arc<Backups> {
        self.switch.feeds.frr.backups()
    }

    /// Whether FRR was asked since the last call.
    fn asked(&mut self) -> bool {
        let asked = self.saw(|effect| matches!(effect, Effect::AskFrr));
        self.seen.clear();
        asked
    }

    fn refused(&self) -> u64 {
        let mut reports = self.switch.feeds.report(self.now).into_iter();
        reports.find(|report| report.source == "frr").unwrap().refused
    }
}

const PLAIN: &str = "kernel 100 as to 200 via inet 10.0.0.1 dev eth1 proto bgp";
const WITH_BACKUP: &str =
    "kernel 100 as to 200 via inet 10.0.0.1 dev eth1 backup as to 300/200 via inet 10.0.0.2 dev eth2 proto bgp";

#[test]
fn routes_get_the_backups_of_the_same_next_hop_and_labels() {
    let mut rig = followed(&[SyncSource::Kernel]);
    rig.kernel(vec![swap(100, 200, 1), swap(101, 201, 1), swap(102, 202, 2)]);
    let prefix_key = Key::Prefix(TABLE_MAIN, "10.1.0.0/16".parse().unwrap());
    let imposing = reported(prefix("10.1.0.0/16", 0), paths(&[path(1, 1, imposed(&[100]))]));
    rig.kernel(vec![imposing]);
    rig.frr([
        of_label(100, &[200], &[300, 200]),
        // Other labels, and another interface.
        of_label(101, &[999], &[300]),
        of_label(102, &[202], &[300]),
        (prefix_key, protected(&[100], &[300, 100])),
    ]);
    assert_eq!(
        rig.shown(),
        [
            WITH_BACKUP,
            "kernel 101 as to 201 via inet 10.0.0.1 dev eth1 proto bgp",
            "kernel 102 as to 202 via inet 10.0.0.1 dev eth2 proto bgp",
            "kernel 10.1.0.0/16 encap mpls 100 via inet 10.0.0.1 dev eth1 backup encap mpls 300/100 via inet 10.0.0.2 dev eth2 \
             table main proto bgp"
        ]
    );
    // Clients learn whose backups they are.
    let own = |rig: &mut Rig, value| {
        let key = RouteKey::Label(label(value));
        let lookup = api::Lookup::Key(key);
        match rig.request(Request::GetRoute { lookup }) {
            Ok(Reply::Route(route)) => route.backups,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([100, 101].map(|value| own(&mut rig, value)), [Some("frr".into()), None]);
}

#[test]
fn a_backup_stays_when_its_route_is_reported_again() {
    let mut rig = followed(&[SyncSource::Kernel]);
    rig.kernel(vec![swap(100, 200, 1)]);
    rig.frr([of_label(100, &[200], &[300, 200])]);
    assert_eq!(rig.shown(), [WITH_BACKUP]);
    let entry = |rig: &Rig| rig.switch.tables().ilm.get(&label(100)).copied();
    let before = entry(&rig);
    rig.kernel(vec![swap(100, 200, 1)]);
    rig.resync(vec![swap(100, 200, 1)]);
    assert_eq!((rig.shown(), entry(&rig)), (vec![WITH_BACKUP.to_owned()], before));
    // Another next hop has none, and the first one has it again.
    rig.kernel(vec![swap(100, 200, 2)]);
    assert_eq!(
        rig.shown(),
        ["kernel 100 as to 200 via inet 10.0.0.1 dev eth2 proto bgp"]
    );
    rig.kernel(vec![swap(100, 200, 1)]);
    assert_eq!(rig.shown(), [WITH_BACKUP]);
    // FRR has none any more.
    rig.frr([]);
    assert_eq!(rig.shown(), [PLAIN]);
}

/// Those of a pop, and of several next hops; the first usable backup of several.
#[test]
fn backups_of_other_forms() {
    let mut rig = followed(&[SyncSource::Kernel]);
    let both = [path(1, 1, out(&[200])), path(2, 2, out(&[201]))];
    rig.kernel(vec![
        reported(Destination::Label(label(100)), paths(&[path(1, 1, out(&[]))])),
        reported(Destination::Label(label(101)), paths(&both)),
        swap(102, 202, 1),
        swap(103, 203, 1),
    ]);
    let key = |value| Key::Label(label(value));
    let each = |backups: &[Hop]| Protected {
        primary: hop(1, 1, &[202]),
        backups: backups.into(),
    };
    rig.frr([
        of_label(100, &[], &[300]),
        (
            key(101),
            Box::new([
                Protected {
                    primary: hop(1, 1, &[200]),
                    backups: Box::new([hop(2, 2, &[])]),
                },
                Protected {
                    primary: hop(2, 2, &[201]),
                    backups: Box::new([hop(1, 1, &[201])]),
                },
            ]),
        ),
        // eth3 is no port, and a next hop is no backup of itself.
        (
            key(102),
            Box::new([each(&[hop(3, 3, &[400]), hop(1, 1, &[300]), hop(2, 2, &[202])])]),
        ),
        // More labels than a route can have.
        of_label(103, &[203], &[16; 17]),
    ]);
    assert_eq!(
        rig.shown(),
        [
            "kernel 100 as implicit-null via inet 10.0.0.1 dev eth1 backup as to 300 via inet 10.0.0.2 dev eth2 proto bgp",
            "kernel 101 proto bgp nexthop as to 200 via inet 10.0.0.1 dev eth1 backup as implicit-null via inet 10.0.0.2 dev eth2 \
             weight 1 nexthop as to 201 via inet 10.0.0.2 dev eth2 backup via inet 10.0.0.1 dev eth1 weight 1",
            "kernel 102 as to 202 via inet 10.0.0.1 dev eth1 backup via inet 10.0.0.2 dev eth2 proto bgp",
            "kernel 103 as to 203 via inet 10.0.0.1 dev eth1 proto bgp"
        ]
    );
}

#[test]
fn frr_is_asked_when_routes_with_labels_change() {
    let mut rig = followed(&[SyncSource::Kernel]);
    rig.asked();
    let mut asks = |message: Message| {
        rig.kernel(vec![message]);
        rig.asked()
    };
    let plain = |text| reported(prefix(text, 0), paths(&[path(1, 1, out(&[]))]));
    let object = |id, labels| {
        Message::Object(Object {
            id,
            to: ObjectTo::Path(path(1, 1, labels)),
        })
    };
    let group = |id, member| {
        Message::Object(Object {
            id,
            to: ObjectTo::Group(vec![(member, 1)]),
        })
    };
    let by = |id| reported(prefix("10.2.0.0/16", 0), To::Object(id));
    for (message, is_hint) in [
        (swap(100, 200, 1), true),
        (gone(100), true),
        (plain("10.1.0.0/16"), false),
        (object(1, out(&[])), false),
        (object(2, imposed(&[100])), true),
        (group(3, 1), false),
        (group(4, 2), true),
        (by(1), false),
        (by(2), true),
        (by(3), false),
        (by(4), true),
        (Message::ObjectGone(2), false),
        (
            reported(prefix("10.1.0.0/16", 0), paths(&[path(1, 1, imposed(&[7]))])),
            true,
        ),
    ] {
        let shown = format!("{message:?}");
        assert_eq!(asks(message), is_hint, "{shown}");
    }
    // What FRR answers is no hint, and without `frr` nobody is asked.
    rig.kernel(vec![swap(100, 200, 1)]);
    rig.asked();
    rig.frr([of_label(100, &[200], &[300])]);
    assert!(!rig.asked());
    let mut rig = synced(&[SyncSource::Kernel]);
    rig.kernel(vec![swap(100, 200, 1)]);
    assert!(!rig.asked());
}

/// The interface of a backup is no port any more.
#[test]
fn backups_follow_the_ports() {
    let mut rig = followed(&[SyncSource::Kernel]);
    rig.kernel(vec![swap(100, 200, 1)]);
    rig.frr([of_label(100, &[200], &[300, 200])]);
    rig.request(Request::DeleteLink { name: "eth2".into() }).unwrap();
    assert_eq!(rig.shown(), [PLAIN]);
    rig.add_link("eth2");
    assert_eq!(rig.shown(), [WITH_BACKUP]);
    rig.gone(2);
    assert_eq!(rig.shown(), [PLAIN]);
}

/// FRR 8.4 says no interfaces for labels: the backup's is the port in whose network it is.
#[test]
fn next_hops_without_interfaces_are_found_by_their_networks() {
    let mut rig = followed(&[SyncSource::Kernel]);
    rig.kernel(vec![swap(100, 200, 1)]);
    let bare = |hop| Hop { dev: None, ..hop };
    let protected = Protected {
        primary: bare(hop(1, 1, &[200])),
        backups: Box::new([bare(hop(2, 2, &[300, 200]))]),
    };
    rig.frr([(Key::Label(label(100)), Box::new([protected]))]);
    assert_eq!(rig.shown(), [PLAIN]);
    let address = |ifindex| InterfaceAddress {
        ifindex,
        address: "10.0.0.9/24".parse().unwrap(),
    };
    let event = |rig: &mut Rig, event| rig.handle(Input::Kernel(vec![event]));
    event(&mut rig, Event::Address(address(2)));
    assert_eq!(rig.shown(), [WITH_BACKUP]);
    // Two ports are in the network.
    event(&mut rig, Event::Address(address(1)));
    assert_eq!(rig.shown(), [PLAIN]);
    event(&mut rig, Event::AddressGone(address(1)));
    assert_eq!(rig.shown(), [WITH_BACKUP]);
}

#[test]
fn a_route_whose_backups_do_not_fit_is_made_without_them() {
    let capacity = MemoryTables::default().capacity();
    let tables = MemoryTables::with_capacity(Capacity { stacks: 1, ..capacity });
    let mut rig = synced_on(&[SyncSource::Kernel, "frr".parse().unwrap()], &[], tables);
    rig.kernel(vec![swap(100, 200, 1), swap(101, 201, 1)]);
    rig.frr([of_label(100, &[200], &[300, 200]), of_label(101, &[201], &[300, 201])]);
    let second = "kernel 101 as to 201 via inet 10.0.0.1 dev eth1 proto bgp";
    assert_eq!(
        (rig.shown(), rig.refused()),
        (vec![WITH_BACKUP.to_owned(), second.to_owned()], 1)
    );
    // Not for ever: there is room again.
    rig.frr([of_label(101, &[201], &[300, 201])]);
    rig.later(Duration::from_secs(20));
    rig.kernel(vec![gone(100)]);
    assert_eq!(
        (rig.shown(), rig.refused()),
        (
            vec!["kernel 101 as to 201 via inet 10.0.0.1 dev eth1 backup as to 300/201 via inet 10.0.0.2 dev eth2 proto bgp".to_owned()],
            0
        )
    );
}

/// A restored route keeps its backup until FRR has answered.
#[test]
fn restored_backups_stay_until_the_first_answer() {
    let mut rig = followed(&[SyncSource::Kernel]);
    rig.request(Request::ChangeRoutes {
        mode: ChangeMode::Add,
        owner: Source::Kernel,
        routes: vec![route(WITH_BACKUP.strip_prefix("kernel ").unwrap())],
        wait: false,
    })
    .unwrap();
    rig.resync(vec![swap(100, 200, 1)]);
    assert_eq!(rig.shown(), [WITH_BACKUP]);
    rig.frr([]);
    assert_eq!(rig.shown(), [PLAIN]);
    // Without FRR, it is the kernel's alone.
    let mut rig = synced(&[SyncSource::Kernel]);
    rig.request(Request::ChangeRoutes {
        mode: ChangeMode::Add,
        owner: Source::Kernel,
        routes: vec![route(WITH_BACKUP.strip_prefix("kernel ").unwrap())],
        wait: false,
    })
    .unwrap();
    rig.resync(vec![swap(100, 200, 1)]);
    assert_eq!(rig.shown(), [PLAIN]);
}

#[test]
fn pseudowires_come_and_go_as_frr_has_them() {
    let mut rig = followed(&[SyncSource::Kernel]);
    rig.kernel(vec![swap(100, 200, 1)]);
    let exit = "600 xconnect eth2 proto ldp";
    let entrance = "xconnect eth2 encap mpls 17/500 via inet 10.0.0.1 dev eth1 proto ldp";
    rig.frr_pseudowires(&[exit, entrance]);
    let shown = |exit: &str, entrance: &str| {
        let line = |line: &str| format!("frr {line}");
        let lines = [Some(PLAIN.to_owned()), Some(line(exit)), Some(line(entrance))];
        lines.into_iter().flatten().collect::<Vec<_>>()
    };
    assert_eq!(rig.shown(), shown(exit, entrance));
    // Another way, and no control word any more.
    let (exit, entrance) = (
        "600 xconnect eth2 no-cw proto ldp",
        "xconnect eth2 no-cw encap mpls 18/500 via inet 10.0.0.1 dev eth1 proto ldp",
    );
    rig.frr_pseudowires(&[exit, entrance]);
    assert_eq!(rig.shown(), shown(exit, entrance));
    // A route of the kernel for the same label is preferred, and the pseudowire's stands by.
    rig.kernel(vec![swap(600, 601, 1)]);
    assert!(
        rig.shown()
            .contains(&"kernel 600 as to 601 via inet 10.0.0.1 dev eth1 proto bgp".to_owned())
    );
    rig.frr_pseudowires(&[]);
    assert_eq!(rig.shown().len(), 2);
}
