//! The resolver with a hand-driven clock.

use std::collections::BTreeMap;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::neighbour::fixture::link;
use crate::neighbour::stale::{VERIFIED, VERIFY_INTERVAL};
use crate::neighbour::{AttachMode, InterfaceAddress, KernelRoute, Master, RouteKind, RoutePosition, XdpAttachment};

const ETH1: u32 = 11;
const ETH2: u32 = 12;
const MAC1: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const MAC2: Mac = Mac([0x52, 0x54, 0, 0, 0, 2]);
const ID: NextHopId = NextHopId(7);

/// A resolver, its clock, and its actions that were not looked at yet.
struct Bench {
    resolver: Resolver,
    now: Instant,
    actions: Vec<Action>,
}

impl Bench {
    /// Before any event.
    fn unsynced() -> Self {
        Self {
            resolver: Resolver::default(),
            now: Instant::now(),
            actions: Vec::new(),
        }
    }

    /// With eth1 and eth2, both up.
    fn new() -> Self {
        let mut bench = Self::unsynced();
        bench.tell(Event::Reset);
        bench.tell(up(ETH1, "eth1"));
        bench.tell(up(ETH2, "eth2"));
        bench.tell(Event::Synced);
        assert_eq!(bench.take(), []);
        bench
    }

    fn tell(&mut self, event: Event) {
        self.resolver.handle(&event, self.now, &mut self.actions);
    }

    fn add(&mut self, id: NextHopId, next_hop: &str) {
        self.resolver.add(id, hop(next_hop), self.now, &mut self.actions);
    }

    fn remove(&mut self, id: NextHopId) {
        self.resolver.remove(id, self.now, &mut self.actions);
    }

    fn answer(&mut self, address: &str, answer: Option<Lookup>) {
        self.resolver
            .lookup_done(ip(address), answer, self.now, &mut self.actions);
    }

    /// Lets time pass, with a poll at every deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.resolver.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.resolver.poll(self.now, &mut self.actions);
            let next = self.resolver.next_deadline();
            assert!(
                next.is_none_or(|next| next > self.now),
                "nothing may stay due after a poll"
            );
        }
        self.now = end;
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// In the words of a route: `ADDRESS|MAC [dev NAME]`.
fn hop(text: &str) -> NextHop {
    let (via, dev) = match text.split_once(" dev ") {
        Some((via, dev)) => (via, Some(dev.into())),
        None => (text, None),
    };
    let via = match via.parse() {
        Ok(IpAddr::V4(address)) => Via::Inet(address),
        Ok(IpAddr::V6(address)) => Via::Inet6(address),
        Err(_) => Via::Link(via.parse().unwrap()),
    };
    NextHop { via, dev }
}

fn up(ifindex: u32, name: &str) -> Event {
    Event::Link(link(ifindex, name))
}

fn down(ifindex: u32, name: &str) -> Event {
    Event::Link(LinkInfo {
        up: false,
        running: false,
        ..link(ifindex, name)
    })
}

fn neighbour(ifindex: u32, address: &str, state: NeighbourState) -> Event {
    Event::Neighbour(Neighbour {
        ifindex,
        address: ip(address),
        state,
        managed: Some(Manager::Mplsxdp),
    })
}

fn unmanaged(ifindex: u32, address: &str, state: NeighbourState) -> Event {
    Event::Neighbour(Neighbour {
        ifindex,
        address: ip(address),
        state,
        managed: None,
    })
}

/// An interface with an XDP program.
fn with_xdp(ifindex: u32, name: &str) -> Event {
    Event::Link(LinkInfo {
        xdp: Some(XdpAttachment {
            program: 1,
            mode: AttachMode::Native,
        }),
        ..link(ifindex, name)
    })
}

fn gone(ifindex: u32, address: &str) -> Event {
    Event::NeighbourGone {
        ifindex,
        address: ip(address),
    }
}

fn route(prefix: &str) -> Event {
    let prefix: IpNet = prefix.parse().unwrap();
    let route = KernelRoute {
        prefix,
        table: 254,
        metric: 0,
        selector: 0,
        kind: RouteKind::Unicast,
        shares: false,
        entry: 0,
        oif: Some(ETH1),
    };
    Event::Route {
        route,
        position: RoutePosition::Last,
    }
}

fn probe(ifindex: u32, address: &str) -> Action {
    Action::Probe {
        ifindex,
        address: ip(address),
    }
}

fn release(ifindex: u32, address: &str) -> Action {
    Action::Release {
        ifindex,
        address: ip(address),
    }
}

fn lookup(address: &str) -> Action {
    Action::Lookup { address: ip(address) }
}

fn changed(id: NextHopId, state: HopState) -> Action {
    Action::Changed { id, state }
}

fn resolved(ifindex: u32, mac: Mac) -> HopState {
    HopState::Resolved { ifindex, mac }
}

#[test]
fn what_a_killed_instance_left_managed_is_released() {
    let release = |ifindex, address| Action::Release {
        ifindex,
        address: ip(address),
    };
    let left = |bench: &mut Bench| {
        bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Failed));
        bench.tell(neighbour(ETH2, "10.0.1.2", NeighbourState::Reachable(MAC2)));
        // One of another program, and one that was released.
        bench.tell(Event::Neighbour(Neighbour {
            ifindex: ETH1,
            address: ip("10.0.0.3"),
            state: NeighbourState::Failed,
            managed: Some(Manager::Other),
        }));
        bench.tell(unmanaged(ETH1, "10.0.0.4", NeighbourState::Failed));
    };
    let ports = |bench: &mut Bench, names: &[(&str, u32)]| {
        let aliases = names.iter().map(|&(name, ifindex)| (name.into(), ifindex)).collect();
        let (now, actions) = (bench.now, &mut bench.actions);
        bench.resolver.set_ports(&[], aliases, &HashMap::new(), now, actions);
    };

    // There is no other instance, as there is no other program. Neighbours that are needed stay.
    let mut bench = Bench::unsynced();
    bench.add(ID, "10.0.1.2 dev eth2");
    bench.tell(Event::Reset);
    bench.tell(up(ETH1, "eth1"));
    bench.tell(up(ETH2, "eth2"));
    left(&mut bench);
    bench.tell(Event::Synced);
    let released = |actions: Vec<Action>| {
        let released = actions
            .into_iter()
            .filter(|action| matches!(action, Action::Release { .. }));
        released.collect::<Vec<_>>()
    };
    assert_eq!(released(bench.take()), [release(ETH1, "10.0.0.2")]);

    // There is another instance: only the neighbours at this one's ports are certainly left over.
    let mut bench = Bench::unsynced();
    bench.tell(Event::Reset);
    bench.tell(with_xdp(ETH1, "eth1"));
    bench.tell(with_xdp(ETH2, "eth2"));
    left(&mut bench);
    bench.tell(Event::Synced);
    assert_eq!(released(bench.take()), []);
    ports(&mut bench, &[("eth2", ETH2)]);
    assert_eq!(released(bench.take()), [release(ETH2, "10.0.1.2")]);
    bench.tell(unmanaged(ETH2, "10.0.1.2", NeighbourState::Reachable(MAC2)));
    ports(&mut bench, &[("eth2", ETH2), ("eth1", ETH1)]);
    assert_eq!(released(bench.take()), [release(ETH1, "10.0.0.2")]);
}

#[test]
fn a_neighbour_appears_changes_its_mac_and_fails() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2 dev eth1");
    let incomplete = HopState::Incomplete { ifindex: ETH1 };
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2"), changed(ID, incomplete)]);

    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Incomplete));
    assert_eq!(bench.take(), []);
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    assert_eq!(bench.take(), [changed(ID, resolved(ETH1, MAC1))]);
    assert_eq!(bench.resolver.next_deadline(), None, "the kernel keeps it resolved");
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Stale(MAC1)));
    assert_eq!(bench.take(), []);
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC2)));
    assert_eq!(bench.take(), [changed(ID, resolved(ETH1, MAC2))]);

    bench.pass(Duration::from_secs(100));
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Failed));
    let failed = HopState::Failed { ifindex: ETH1 };
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2"), changed(ID, failed)]);
    bench.pass(Duration::from_millis(3500));
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2"); 3], "once a second");
    assert_eq!(bench.resolver.state(ID), Some(failed));
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    assert_eq!(bench.take(), [changed(ID, resolved(ETH1, MAC1))]);
}

#[test]
fn a_deleted_neighbour_is_probed_at_once_but_not_more_than_once_a_second() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2 dev eth1");
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    bench.pass(Duration::from_secs(10));
    bench.take();
    let incomplete = changed(ID, HopState::Incomplete { ifindex: ETH1 });
    bench.tell(gone(ETH1, "10.0.0.2"));
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2"), incomplete]);
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    bench.tell(gone(ETH1, "10.0.0.2"));
    assert_eq!(bench.take(), [changed(ID, resolved(ETH1, MAC1)), incomplete]);
    bench.pass(PROBE_INTERVAL);
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2")]);
}

#[test]
fn what_the_kernel_does_not_manage_is_probed_when_stale() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2 dev eth1");
    bench.tell(unmanaged(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    bench.take();
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.take(), []);
    bench.tell(unmanaged(ETH1, "10.0.0.2", NeighbourState::Stale(MAC1)));
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2")], "the next hop stays resolved");
}

#[test]
fn a_neighbour_that_is_there_already_is_claimed() {
    let mut bench = Bench::new();
    bench.tell(unmanaged(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    bench.add(ID, "10.0.0.2 dev eth1");
    let known = changed(ID, resolved(ETH1, MAC1));
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2"), known]);
}

#[test]
fn permanent_and_noarp_neighbours_are_left_alone() {
    for fixed in [NeighbourState::Permanent(MAC1), NeighbourState::NoArp(MAC1)] {
        let mut bench = Bench::new();
        bench.tell(unmanaged(ETH1, "10.0.0.2", fixed));
        bench.add(ID, "10.0.0.2 dev eth1");
        assert_eq!(bench.take(), [changed(ID, resolved(ETH1, MAC1))]);
        bench.pass(Duration::from_secs(10));
        bench.remove(ID);
        assert_eq!(bench.take(), []);

        // One that becomes so while it is managed: the kernel has dropped the flag with the old state.
        bench.tell(gone(ETH1, "10.0.0.2"));
        bench.add(ID, "10.0.0.2 dev eth1");
        bench.tell(unmanaged(ETH1, "10.0.0.2", fixed));
        bench.take();
        bench.pass(Duration::from_secs(10));
        bench.remove(ID);
        assert_eq!(bench.take(), []);

        // And back again.
        bench.add(ID, "10.0.0.2 dev eth1");
        bench.take();
        bench.tell(unmanaged(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
        assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2")]);
    }
}

/// RFC 1812 section 3.3.2.
#[test]
fn a_mac_address_that_no_single_neighbour_has_is_not_taken() {
    for bad in [
        Mac([0xff; 6]),
        Mac::ZERO,
        Mac([1, 0, 0x5e, 0, 0, 1]),
        Mac([0x33, 0x33, 0, 0, 0, 1]),
        Mac([3, 0, 0, 0, 0, 1]),
    ] {
        for state in [
            NeighbourState::Reachable,
            NeighbourState::Stale,
            NeighbourState::Permanent,
            NeighbourState::NoArp,
        ] {
            let mut bench = Bench::new();
            bench.add(ID, "10.0.0.2 dev eth1");
            bench.take();
            bench.tell(neighbour(ETH1, "10.0.0.2", state(bad)));
            let reported = HopState::BadMac {
                ifindex: ETH1,
                mac: bad,
            };
            assert_eq!(without_probes(bench.take()), [changed(ID, reported)]);
            assert_eq!((reported.adjacency(), reported.mac()), (None, Some(bad)));
            bench.tell(neighbour(ETH1, "10.0.0.2", state(MAC1)));
            assert_eq!(without_probes(bench.take()), [changed(ID, resolved(ETH1, MAC1))]);
            // One that was good before.
            bench.tell(neighbour(ETH1, "10.0.0.2", state(bad)));
            assert_eq!(without_probes(bench.take()), [changed(ID, reported)]);
        }
    }
}

#[test]
fn a_static_adjacency_follows_its_interface() {
    let mut bench = Bench::new();
    bench.add(ID, "52:54:00:00:00:01 dev eth1");
    let given = HopState::Static {
        ifindex: ETH1,
        mac: MAC1,
    };
    assert_eq!(bench.take(), [changed(ID, given)]);
    bench.tell(down(ETH1, "eth1"));
    assert_eq!(bench.take(), [changed(ID, HopState::LinkDown { ifindex: ETH1 })]);
    bench.tell(up(ETH1, "eth1"));
    assert_eq!(bench.take(), [changed(ID, given)]);
    bench.tell(Event::LinkGone(ETH1));
    assert_eq!(bench.take(), [changed(ID, HopState::NoSuchDev)]);
}

#[test]
fn an_interface_that_goes_down_and_up_is_probed_anew() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2 dev eth1");
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    bench.take();
    bench.tell(down(ETH1, "eth1"));
    let link_down = changed(ID, HopState::LinkDown { ifindex: ETH1 });
    assert_eq!(bench.take(), [release(ETH1, "10.0.0.2"), link_down]);
    bench.tell(gone(ETH1, "10.0.0.2"));
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.take(), []);
    bench.tell(up(ETH1, "eth1"));
    let incomplete = changed(ID, HopState::Incomplete { ifindex: ETH1 });
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2"), incomplete]);
    // The carrier counts as well.
    let no_carrier = LinkInfo {
        running: false,
        ..link(ETH1, "eth1")
    };
    bench.tell(Event::Link(no_carrier));
    assert_eq!(bench.take(), [release(ETH1, "10.0.0.2"), link_down]);
}

#[test]
fn what_does_not_matter_about_an_interface_changes_nothing() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2");
    bench.answer("10.0.0.2", Some(Lookup::Interface(ETH1)));
    bench.take();
    let other = LinkInfo {
        mtu: 9000,
        mac: None,
        ..link(ETH1, "eth1")
    };
    bench.tell(Event::Link(other));
    assert_eq!(bench.take(), []);
    assert_eq!(bench.resolver.links().get(ETH1).unwrap().mtu, 9000);
}

#[test]
fn a_link_that_is_down_is_reported_at_once_even_if_no_interface_was_given() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2");
    bench.answer("10.0.0.2", Some(Lookup::Interface(ETH1)));
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    bench.take();
    // No time passes, and the kernel is asked afterwards.
    bench.tell(down(ETH1, "eth1"));
    let link_down = changed(ID, HopState::LinkDown { ifindex: ETH1 });
    assert_eq!(bench.take(), [release(ETH1, "10.0.0.2"), link_down, lookup("10.0.0.2")]);
}

#[test]
fn dev_means_the_interface_of_that_name() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2 dev eth3");
    assert_eq!(bench.take(), [changed(ID, HopState::NoSuchDev)]);
    // Created later.
    bench.tell(up(13, "eth3"));
    let incomplete = |ifindex| changed(ID, HopState::Incomplete { ifindex });
    assert_eq!(bench.take(), [probe(13, "10.0.0.2"), incomplete(13)]);
    // Renamed away.
    bench.tell(up(13, "wan0"));
    assert_eq!(
        bench.take(),
        [release(13, "10.0.0.2"), changed(ID, HopState::NoSuchDev)]
    );
    // Another interface takes the name.
    bench.tell(up(14, "eth3"));
    assert_eq!(bench.take(), [probe(14, "10.0.0.2"), incomplete(14)]);
    // Recreated, with another index.
    bench.tell(Event::LinkGone(14));
    bench.tell(up(15, "eth3"));
    let again = [probe(15, "10.0.0.2"), incomplete(15)];
    assert_eq!(bench.take()[2..], again);
}

#[test]
fn without_dev_the_kernel_is_asked() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2");
    assert_eq!(bench.take(), [lookup("10.0.0.2")]);
    assert_eq!(bench.resolver.state(ID), None);
    bench.answer("10.0.0.2", Some(Lookup::Interface(ETH1)));
    let incomplete = |ifindex| changed(ID, HopState::Incomplete { ifindex });
    assert_eq!(bench.take(), [probe(ETH1, "10.0.0.2"), incomplete(ETH1)]);

    // The route moves.
    bench.tell(route("10.0.0.0/24"));
    bench.pass(ROUTES_QUIET);
    assert_eq!(bench.take(), [lookup("10.0.0.2")]);
    bench.answer("10.0.0.2", Some(Lookup::Interface(ETH2)));
    assert_eq!(
        bench.take(),
        [release(ETH1, "10.0.0.2"), probe(ETH2, "10.0.0.2"), incomplete(ETH2)]
    );
    for (answer, state) in [
        (Lookup::NoRoute, HopState::NoRoute),
        (Lookup::Local, HopState::Local),
        (Lookup::Interface(99), HopState::NoSuchDev),
    ] {
        bench.tell(route("0.0.0.0/0"));
        bench.pass(ROUTES_QUIET);
        bench.take();
        bench.answer("10.0.0.2", Some(answer));
        let actions = bench.take();
        assert_eq!(actions.last(), Some(&changed(ID, state)));
    }
}

#[test]
fn a_burst_of_routes_makes_one_round_of_look_ups() {
    let mut bench = Bench::new();
    let addresses = ["10.0.0.2", "10.0.0.3", "2001:db8::2"];
    for (id, address) in (0..).map(NextHopId).zip(addresses) {
        bench.add(id, address);
        bench.answer(address, Some(Lookup::Interface(ETH1)));
    }
    bench.take();
    for _ in 0..10_000 {
        bench.tell(route("0.0.0.0/0"));
    }
    assert_eq!(bench.take(), []);
    bench.pass(Duration::from_secs(1));
    assert_eq!(without_probes(bench.take()), [lookup("10.0.0.2"), lookup("10.0.0.3")]);
}

#[test]
fn routes_that_never_rest_do_not_put_look_ups_off() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2");
    bench.answer("10.0.0.2", Some(Lookup::NoRoute));
    bench.take();
    let mut rounds = 0;
    for _ in 0..100 {
        bench.tell(route("10.0.0.0/8"));
        bench.pass(Duration::from_millis(10));
        if bench.take() == [lookup("10.0.0.2")] {
            rounds += 1;
            bench.answer("10.0.0.2", Some(Lookup::NoRoute));
        }
    }
    assert!(
        (4..=5).contains(&rounds),
        "{rounds} rounds in a second, {ROUTES_BOUND:?} apart at most"
    );
}

#[test]
fn routes_elsewhere_make_no_look_ups() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2");
    bench.answer("10.0.0.2", Some(Lookup::NoRoute));
    bench.take();
    for prefix in ["10.0.1.0/24", "10.0.0.3/32", "::/0"] {
        bench.tell(route(prefix));
        assert_eq!(bench.resolver.next_deadline(), None, "{prefix}");
    }
    bench.tell(Event::Rules);
    bench.pass(ROUTES_QUIET);
    assert_eq!(bench.take(), [lookup("10.0.0.2")], "policy rules concern every address");
}

#[test]
fn links_and_addresses_make_look_ups_at_once_but_one_at_a_time() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2");
    bench.answer("10.0.0.2", Some(Lookup::NoRoute));
    bench.take();
    let address = |address: &str| {
        Event::Address(InterfaceAddress {
            ifindex: ETH1,
            address: address.parse().unwrap(),
        })
    };
    bench.tell(address("2001:db8::1/64"));
    assert_eq!(bench.take(), [], "of another family");
    bench.tell(address("10.0.0.1/24"));
    assert_eq!(bench.take(), [lookup("10.0.0.2")]);
    bench.tell(down(ETH1, "eth1"));
    bench.tell(up(ETH1, "eth1"));
    assert_eq!(bench.take(), [], "the answer is not here yet");
    bench.answer("10.0.0.2", Some(Lookup::NoRoute));
    assert_eq!(bench.take(), [lookup("10.0.0.2")], "it was out of date");
    bench.answer("10.0.0.2", Some(Lookup::NoRoute));
    assert_eq!(bench.take(), []);
}

#[test]
fn an_interface_that_comes_into_a_vrf_or_leaves_it_makes_look_ups_at_once() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2");
    bench.answer("10.0.0.2", Some(Lookup::NoRoute));
    bench.take();
    let member = |ifindex: Option<u32>| {
        Event::Link(LinkInfo {
            master: ifindex.map(|ifindex| Master {
                ifindex,
                kind: Some("vrf".into()),
            }),
            ..link(ETH1, "eth1")
        })
    };
    for master in [Some(9), Some(10), None] {
        bench.tell(member(master));
        assert_eq!(bench.take(), [lookup("10.0.0.2")], "{master:?}");
        bench.answer("10.0.0.2", Some(Lookup::NoRoute));
        bench.tell(member(master));
        assert_eq!(bench.take(), [], "{master:?} again");
    }
}

#[test]
fn a_look_up_that_fails_is_made_again_and_keeps_the_old_answer() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2");
    bench.answer("10.0.0.2", Some(Lookup::NoRoute));
    bench.tell(down(ETH2, "eth2"));
    bench.take();
    bench.answer("10.0.0.2", None);
    assert_eq!(bench.resolver.state(ID), Some(HopState::NoRoute));
    assert_eq!(bench.take(), []);
    bench.pass(LOOKUP_RETRY);
    assert_eq!(bench.take(), [lookup("10.0.0.2")]);
}

#[test]
fn next_hops_share_their_neighbour() {
    let mut bench = Bench::new();
    let other = NextHopId(8);
    bench.add(ID, "10.0.0.2 dev eth1");
    bench.add(other, "10.0.0.2");
    bench.answer("10.0.0.2", Some(Lookup::Interface(ETH1)));
    let probes = bench
        .take()
        .into_iter()
        .filter(|action| *action == probe(ETH1, "10.0.0.2"));
    assert_eq!(probes.count(), 1);
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    let state = resolved(ETH1, MAC1);
    assert_eq!(bench.take(), [changed(ID, state), changed(other, state)]);
    bench.remove(ID);
    assert_eq!(bench.take(), []);
    bench.remove(other);
    assert_eq!(bench.take(), [release(ETH1, "10.0.0.2")]);
    assert_eq!(bench.resolver.state(other), None);
    bench.remove(other);
    assert_eq!(bench.take(), []);
}

#[test]
fn an_id_that_is_added_again_is_another_next_hop() {
    let mut bench = Bench::new();
    bench.add(ID, "10.0.0.2 dev eth1");
    bench.take();
    bench.add(ID, "10.0.0.3 dev eth1");
    let incomplete = changed(ID, HopState::Incomplete { ifindex: ETH1 });
    assert_eq!(
        bench.take(),
        [release(ETH1, "10.0.0.2"), probe(ETH1, "10.0.0.3"), incomplete]
    );
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    assert_eq!(bench.take(), []);
}

#[test]
fn link_local_addresses_are_distinguished_by_interface() {
    let mut bench = Bench::new();
    let other = NextHopId(8);
    bench.add(ID, "fe80::2 dev eth1");
    bench.add(other, "fe80::2 dev eth2");
    bench.take();
    bench.tell(neighbour(ETH1, "fe80::2", NeighbourState::Reachable(MAC1)));
    bench.tell(neighbour(ETH2, "fe80::2", NeighbourState::Reachable(MAC2)));
    let states = [changed(ID, resolved(ETH1, MAC1)), changed(other, resolved(ETH2, MAC2))];
    assert_eq!(bench.take(), states);
}

#[test]
fn there_is_nothing_to_resolve_on_an_interface_without_arp() {
    let mut bench = Bench::new();
    let tun = LinkInfo {
        noarp: true,
        mac: None,
        ..link(13, "tun0")
    };
    bench.tell(Event::Link(tun));
    // The kernel's own NOARP entries hold the interface's address, not the neighbour's.
    bench.tell(unmanaged(13, "10.0.0.2", NeighbourState::NoArp(MAC2)));
    bench.add(ID, "10.0.0.2 dev tun0");
    assert_eq!(bench.take(), [changed(ID, HopState::NoArp { ifindex: 13 })]);
    bench.tell(unmanaged(13, "10.0.0.2", NeighbourState::Permanent(MAC1)));
    assert_eq!(bench.take(), [changed(ID, resolved(13, MAC1))]);
    bench.remove(ID);
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.take(), []);
}

#[test]
fn a_bridge_port_has_the_neighbours_of_its_bridge() {
    const BRIDGE: u32 = 21;
    let member = |kind: &str| {
        Event::Link(LinkInfo {
            master: Some(Master {
                ifindex: BRIDGE,
                kind: Some(kind.into()),
            }),
            ..link(ETH1, "eth1")
        })
    };
    let mut bench = Bench::new();
    bench.tell(up(BRIDGE, "br0"));
    bench.tell(member("bridge"));
    bench.add(ID, "10.0.0.2 dev eth1");
    let incomplete = changed(ID, HopState::Incomplete { ifindex: ETH1 });
    assert_eq!(bench.take(), [probe(BRIDGE, "10.0.0.2"), incomplete]);
    bench.tell(neighbour(BRIDGE, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    assert_eq!(bench.take(), [changed(ID, resolved(ETH1, MAC1))]);
    // Out of the bridge, and into a VRF.
    for event in [up(ETH1, "eth1"), member("bridge"), member("vrf")] {
        bench.tell(event);
    }
    let asked: Vec<_> = bench
        .take()
        .into_iter()
        .filter(|action| !matches!(action, Action::Changed { .. }))
        .collect();
    assert_eq!(
        asked,
        [
            release(BRIDGE, "10.0.0.2"),
            probe(ETH1, "10.0.0.2"),
            release(ETH1, "10.0.0.2"),
            probe(BRIDGE, "10.0.0.2"),
            release(BRIDGE, "10.0.0.2"),
            probe(ETH1, "10.0.0.2"),
        ]
    );
}

#[test]
fn nothing_is_said_before_everything_was_reported() {
    let mut bench = Bench::unsynced();
    let other = NextHopId(8);
    bench.add(ID, "10.0.0.2 dev eth1");
    bench.add(other, "10.0.0.3");
    bench.tell(Event::Reset);
    bench.tell(up(ETH1, "eth1"));
    bench.tell(unmanaged(ETH1, "10.0.0.2", NeighbourState::Permanent(MAC1)));
    bench.tell(route("10.0.0.0/24"));
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.take(), []);
    bench.tell(Event::Synced);
    assert_eq!(bench.take(), [lookup("10.0.0.3"), changed(ID, resolved(ETH1, MAC1))]);
}

#[test]
fn a_resync_drops_what_is_gone_and_keeps_what_is_not() {
    let mut bench = Bench::new();
    let (kept, lost_neighbour, lost_link) = (NextHopId(1), NextHopId(2), NextHopId(3));
    bench.add(kept, "10.0.0.2 dev eth1");
    bench.add(lost_neighbour, "10.0.0.3 dev eth1");
    bench.add(lost_link, "10.0.0.4 dev eth2");
    for (ifindex, address) in [(ETH1, "10.0.0.2"), (ETH1, "10.0.0.3"), (ETH2, "10.0.0.4")] {
        bench.tell(neighbour(ifindex, address, NeighbourState::Reachable(MAC1)));
    }
    bench.pass(Duration::from_secs(10));
    bench.take();
    bench.tell(Event::Reset);
    bench.tell(up(ETH1, "eth1"));
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Stale(MAC1)));
    assert_eq!(bench.take(), []);
    bench.tell(Event::Synced);
    let actions = bench.take();
    assert_eq!(actions.len(), 4, "{actions:?}");
    for action in [
        release(ETH2, "10.0.0.4"),
        changed(lost_link, HopState::NoSuchDev),
        probe(ETH1, "10.0.0.3"),
        changed(lost_neighbour, HopState::Incomplete { ifindex: ETH1 }),
    ] {
        assert!(actions.contains(&action), "{action:?} in {actions:?}");
    }
}

#[test]
fn shutdown_releases_everything() {
    let mut bench = Bench::new();
    bench.add(NextHopId(1), "10.0.0.2 dev eth1");
    bench.add(NextHopId(2), "10.0.0.3 dev eth1");
    bench.add(NextHopId(3), "10.0.0.3 dev eth1");
    bench.tell(unmanaged(ETH2, "10.0.0.4", NeighbourState::Permanent(MAC1)));
    bench.add(NextHopId(4), "10.0.0.4 dev eth2");
    bench.add(NextHopId(5), "52:54:00:00:00:01 dev eth1");
    bench.take();
    bench.resolver.shutdown(bench.now, &mut bench.actions);
    assert_eq!(bench.take(), [release(ETH1, "10.0.0.2"), release(ETH1, "10.0.0.3")]);
    assert_eq!(bench.resolver.next_deadline(), None);
    assert_eq!(bench.resolver.next_hops().count(), 0);
}

fn without_probes(actions: Vec<Action>) -> Vec<Action> {
    let other = actions
        .into_iter()
        .filter(|action| !matches!(action, Action::Probe { .. }));
    other.collect()
}

/// The state of the kernel, whether reported or not.
#[derive(Clone, Debug, Default)]
struct World {
    links: BTreeMap<u32, LinkInfo>,
    neighbours: BTreeMap<Target, Neighbour>,
    routes: BTreeMap<IpAddr, Lookup>,
}

#[derive(Clone, Debug)]
enum Step {
    /// The event is reported, or lost.
    Happen(Change, bool),
    Add(u16, NextHop),
    Remove(u16),
    /// The kernel answers, or cannot be asked.
    Answer(bool),
    Pass(u64),
    /// Everything is reported.
    Resync,
}

#[derive(Clone, Debug)]
enum Change {
    Link(LinkInfo),
    LinkGone(u32),
    Neighbour(Neighbour),
    NeighbourGone(Target),
    Route(IpAddr, Lookup),
    Rules,
}

impl World {
    /// Makes the change, if possible, and returns the events that report it.
    fn make(&mut self, change: Change) -> Vec<Event> {
        match change {
            Change::Link(link) => {
                // Only one interface can have a name.
                if self
                    .links
                    .values()
                    .any(|other| other.name == link.name && other.ifindex != link.ifindex)
                {
                    return Vec::new();
                }
                self.links.insert(link.ifindex, link.clone());
                vec![Event::Link(link)]
            }
            Change::LinkGone(ifindex) => {
                if self.links.remove(&ifindex).is_none() {
                    return Vec::new();
                }
                let gone = Vec::from_iter(self.neighbours.extract_if(.., |target, _| target.0 == ifindex));
                let gone = gone
                    .into_iter()
                    .map(|((ifindex, address), _)| Event::NeighbourGone { ifindex, address });
                gone.chain([Event::LinkGone(ifindex)]).collect()
            }
            Change::Neighbour(neighbour) => {
                self.neighbours
                    .insert((neighbour.ifindex, neighbour.address), neighbour);
                vec![Event::Neighbour(neighbour)]
            }
            Change::NeighbourGone((ifindex, address)) => match self.neighbours.remove(&(ifindex, address)) {
                Some(_) => vec![Event::NeighbourGone { ifindex, address }],
                None => Vec::new(),
            },
            Change::Route(address, lookup) => {
                self.routes.insert(address, lookup);
                let route = KernelRoute {
                    prefix: address.into(),
                    table: 254,
                    metric: 0,
                    selector: 0,
                    kind: RouteKind::Unicast,
                    shares: false,
                    entry: 0,
                    oif: None,
                };
                vec![Event::Route {
                    route,
                    position: RoutePosition::Replaces,
                }]
            }
            Change::Rules => vec![Event::Rules],
        }
    }

    fn dump(&self) -> Vec<Event> {
        let links = self.links.values().cloned().map(Event::Link);
        let neighbours = self.neighbours.values().copied().map(Event::Neighbour);
        [Event::Reset]
            .into_iter()
            .chain(links)
            .chain(neighbours)
            .chain([Event::Synced])
            .collect()
    }

    fn lookup(&self, address: IpAddr) -> Lookup {
        self.routes.get(&address).copied().unwrap_or(Lookup::NoRoute)
    }
}

/// A resolver, and its view of the kernel.
#[derive(Default)]
struct Run {
    resolver: Resolver,
    /// Neighbours that it probed and did not release.
    held: BTreeSet<Target>,
    /// Neighbours that it must not touch.
    fixed: BTreeSet<Target>,
    asked: Vec<IpAddr>,
    reported: BTreeMap<NextHopId, HopState>,
}

impl Run {
    fn tell(&mut self, events: Vec<Event>, now: Instant) -> Vec<Action> {
        let mut all = Vec::new();
        for event in events {
            match event {
                Event::Neighbour(Neighbour {
                    ifindex,
                    address,
                    state: NeighbourState::Permanent(_) | NeighbourState::NoArp(_),
                    ..
                }) => {
                    self.fixed.insert((ifindex, address));
                    self.held.remove(&(ifindex, address));
                }
                Event::Neighbour(Neighbour { ifindex, address, .. }) | Event::NeighbourGone { ifindex, address } => {
                    self.fixed.remove(&(ifindex, address));
                }
                // Neighbours that the resync did not report are gone, so only reported ones are known to be fixed.
                Event::Reset => self.fixed.clear(),
                _ => {}
            }
            let mut actions = Vec::new();
            self.resolver.handle(&event, now, &mut actions);
            self.apply(&actions);
            all.extend(actions);
        }
        all
    }

    fn apply(&mut self, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::Lookup { address } => {
                    assert!(!self.asked.contains(&address), "one look-up of {address} at a time");
                    self.asked.push(address);
                }
                Action::Probe { ifindex, address } => {
                    assert!(
                        !self.fixed.contains(&(ifindex, address)),
                        "a probe of a fixed neighbour"
                    );
                    self.held.insert((ifindex, address));
                }
                Action::Release { ifindex, address } => {
                    assert!(
                        !self.fixed.contains(&(ifindex, address)),
                        "a release of a fixed neighbour"
                    );
                    assert!(self.held.remove(&(ifindex, address)), "a release of what is not held");
                }
                Action::Changed { id, state } => {
                    assert_ne!(self.reported.insert(id, state), Some(state), "a change that is none");
                }
                Action::Verify { .. } => panic!("there is no VRF"),
            }
        }
    }

    fn answer_all(&mut self, world: &World, now: Instant) {
        while let Some(address) = self.asked.pop() {
            let mut actions = Vec::new();
            self.resolver
                .lookup_done(address, Some(world.lookup(address)), now, &mut actions);
            self.apply(&actions);
        }
    }

    fn remove(&mut self, id: NextHopId, now: Instant, actions: &mut Vec<Action>) {
        self.reported.remove(&id);
        self.resolver.remove(id, now, actions);
        self.asked.retain(|address| self.resolver.routed.contains_key(address));
    }

    fn take(&mut self, step: Step, world: &mut World, now: &mut Instant) {
        let mut actions = Vec::new();
        match step {
            Step::Happen(change, reported) => {
                let events = world.make(change);
                if reported {
                    self.tell(events, *now);
                }
            }
            Step::Add(id, next_hop) => {
                self.remove(NextHopId(id), *now, &mut actions);
                self.resolver.add(NextHopId(id), next_hop, *now, &mut actions);
            }
            Step::Remove(id) => self.remove(NextHopId(id), *now, &mut actions),
            Step::Answer(answered) => {
                if let Some(address) = self.asked.pop() {
                    let answer = answered.then(|| world.lookup(address));
                    self.resolver.lookup_done(address, answer, *now, &mut actions);
                }
            }
            Step::Pass(milliseconds) => {
                *now += Duration::from_millis(milliseconds);
                self.resolver.poll(*now, &mut actions);
                assert!(self.resolver.next_deadline().is_none_or(|due| due > *now));
            }
            Step::Resync => {
                self.tell(world.dump(), *now);
            }
        }
        self.apply(&actions);
        for (id, _, state) in self.resolver.next_hops() {
            assert_eq!(
                self.reported.get(&id).copied(),
                state,
                "what was reported is what is so"
            );
        }
    }
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop::sample::select(vec![ip("10.0.0.2"), ip("10.0.0.3"), ip("fe80::2"), ip("2001:db8::2")])
}

fn ifindexes() -> impl Strategy<Value = u32> {
    1..=4u32
}

fn names() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["eth1", "eth2", "eth3"])
}

fn changes() -> impl Strategy<Value = Change> {
    let links = (ifindexes(), names(), any::<[bool; 3]>()).prop_map(|(ifindex, name, [up, running, noarp])| {
        Change::Link(LinkInfo {
            up,
            running,
            noarp,
            ..link(ifindex, name)
        })
    });
    let states = prop::sample::select(vec![
        NeighbourState::Reachable(MAC1),
        NeighbourState::Reachable(MAC2),
        NeighbourState::Stale(MAC1),
        NeighbourState::Permanent(MAC1),
        NeighbourState::NoArp(MAC1),
        NeighbourState::Incomplete,
        NeighbourState::Failed,
    ]);
    let neighbours =
        (ifindexes(), addresses(), states, any::<bool>()).prop_map(|(ifindex, address, state, managed)| {
            Change::Neighbour(Neighbour {
                ifindex,
                address,
                state,
                managed: managed.then_some(Manager::Other),
            })
        });
    let answers = prop_oneof![
        3 => ifindexes().prop_map(Lookup::Interface),
        1 => Just(Lookup::NoRoute),
        1 => Just(Lookup::Local),
    ];
    prop_oneof![
        4 => links,
        1 => ifindexes().prop_map(Change::LinkGone),
        4 => neighbours,
        1 => (ifindexes(), addresses()).prop_map(Change::NeighbourGone),
        2 => (addresses(), answers).prop_map(|(address, answer)| Change::Route(address, answer)),
        1 => Just(Change::Rules),
    ]
}

fn next_hops() -> impl Strategy<Value = NextHop> {
    let vias = prop_oneof![
        4 => addresses().prop_map(|address| match address {
            IpAddr::V4(address) => Via::Inet(address),
            IpAddr::V6(address) => Via::Inet6(address),
        }),
        1 => Just(Via::Link(MAC2)),
    ];
    (vias, prop::option::of(names())).prop_map(|(via, dev)| NextHop {
        via,
        dev: match via {
            Via::Link(_) => Some(dev.unwrap_or("eth1").into()),
            Via::Inet(_) | Via::Inet6(_) => dev.map(Into::into),
        },
    })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (changes(), prop::bool::weighted(0.8)).prop_map(|(change, reported)| Step::Happen(change, reported)),
        3 => (0..6u16, next_hops()).prop_map(|(id, next_hop)| Step::Add(id, next_hop)),
        1 => (0..6u16).prop_map(Step::Remove),
        4 => prop::bool::weighted(0.9).prop_map(Step::Answer),
        2 => (0..2000u64).prop_map(Step::Pass),
        1 => Just(Step::Resync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever happened, and whatever of it was reported: after a resync the state is that of a fresh start.
    #[test]
    fn a_resync_is_as_good_as_a_fresh_start(steps in prop::collection::vec(steps(), 0..60)) {
        let mut now = Instant::now();
        let mut world = World::default();
        let mut run = Run::default();
        for step in steps {
            run.take(step, &mut world, &mut now);
        }
        run.tell(world.dump(), now);
        run.answer_all(&world, now);

        let mut fresh = Run::default();
        fresh.tell(world.dump(), now);
        for (id, next_hop, _) in run.resolver.next_hops() {
            let mut actions = Vec::new();
            fresh.resolver.add(id, next_hop.clone(), now, &mut actions);
            fresh.apply(&actions);
        }
        fresh.answer_all(&world, now);
        prop_assert_eq!(&run.reported, &fresh.reported);
        prop_assert_eq!(&run.held, &fresh.held);
        let mut through = HashMap::new();
        for (_, next_hop, state) in run.resolver.next_hops() {
            if let (Some(_), Some(ifindex)) = (next_hop.via.address(), state.and_then(HopState::ifindex)) {
                *through.entry(ifindex).or_default() += 1;
            }
        }
        prop_assert_eq!(&run.resolver.through, &through);
        let mut links = Vec::from_iter(run.resolver.links().iter());
        links.sort_by_key(|link| link.ifindex);
        prop_assert_eq!(links, Vec::from_iter(world.links.values()));
        for link in world.links.values() {
            prop_assert_eq!(run.resolver.links().by_name(&link.name), Some(link));
        }

        // A resync that reports nothing new changes nothing.
        let actions = run.tell(world.dump(), now);
        prop_assert!(actions.iter().all(|action| matches!(action, Action::Lookup { .. })), "{actions:?}");
        run.answer_all(&world, now);

        // Nothing is left behind.
        let mut actions = Vec::new();
        run.resolver.shutdown(now, &mut actions);
        run.apply(&actions);
        prop_assert_eq!(run.held, BTreeSet::new());
        prop_assert_eq!(run.resolver.next_deadline().filter(|_| run.resolver.lookups_due.is_none()), None);
    }
}

/// A sub-interface that the kernel has no device for.
fn virtual_link(name: &str, up: bool) -> LinkInfo {
    LinkInfo {
        up,
        noarp: true,
        ..link(LinkInfo::FIRST_VIRTUAL | 7, name)
    }
}

impl Bench {
    fn set_sub_interfaces(&mut self, without_device: &[LinkInfo], aliases: &[(&str, u32)]) {
        self.rename_ports(without_device, aliases, &[]);
    }

    fn rename_ports(&mut self, without_device: &[LinkInfo], ports: &[(&str, u32)], renamed: &[(&str, &str)]) {
        let aliases = ports.iter().map(|&(name, ifindex)| (name.into(), ifindex)).collect();
        let renamed = renamed.iter().map(|&(old, new)| (old.into(), new.into())).collect();
        self.resolver
            .set_ports(without_device, aliases, &renamed, self.now, &mut self.actions);
    }
}

#[test]
fn a_sub_interface_without_a_device_takes_mac_addresses_only() {
    let mut bench = Bench::new();
    let ifindex = LinkInfo::FIRST_VIRTUAL | 7;
    bench.add(ID, "52:54:00:00:00:01 dev eth1.100");
    assert_eq!(bench.take(), [changed(ID, HopState::NoSuchDev)]);
    bench.set_sub_interfaces(&[virtual_link("eth1.100", true)], &[]);
    let known = HopState::Static { ifindex, mac: MAC1 };
    assert_eq!(bench.take(), [changed(ID, known)]);
    let other = NextHopId(99);
    bench.add(other, "10.0.0.2 dev eth1.100");
    assert_eq!(bench.take(), [changed(other, HopState::NoArp { ifindex })]);
    bench.remove(other);

    // It goes up and down with its parent, and stays when the kernel's interfaces are listed again.
    bench.set_sub_interfaces(&[virtual_link("eth1.100", false)], &[]);
    assert_eq!(bench.take(), [changed(ID, HopState::LinkDown { ifindex })]);
    bench.set_sub_interfaces(&[virtual_link("eth1.100", true)], &[]);
    bench.take();
    for event in [Event::Reset, up(ETH1, "eth1"), Event::Synced] {
        bench.tell(event);
    }
    assert_eq!(bench.resolver.state(ID), Some(known));
    bench.set_sub_interfaces(&[], &[]);
    assert_eq!(bench.resolver.state(ID), Some(HopState::NoSuchDev));
}

#[test]
fn a_device_takes_the_name_of_the_sub_interface_and_leaves_it() {
    let mut bench = Bench::new();
    bench.add(ID, "52:54:00:00:00:01 dev eth1.100");
    bench.set_sub_interfaces(&[virtual_link("eth1.100", true)], &[]);
    bench.take();
    let ifindex = LinkInfo::FIRST_VIRTUAL | 7;
    let without_device = HopState::Static { ifindex, mac: MAC1 };
    bench.tell(up(70, "eth1.100"));
    assert_eq!(bench.take(), []);
    bench.set_sub_interfaces(&[], &[]);
    let on_device = HopState::Static { ifindex: 70, mac: MAC1 };
    assert_eq!(bench.take(), [changed(ID, on_device)]);
    bench.tell(Event::LinkGone(70));
    bench.set_sub_interfaces(&[virtual_link("eth1.100", true)], &[]);
    assert_eq!(bench.resolver.state(ID), Some(without_device));
    bench.take();
    // Another interface with this name that is not its device changes nothing.
    for event in [up(71, "eth1.100"), Event::LinkGone(71), up(72, "eth1.100")] {
        bench.tell(event);
        bench.set_sub_interfaces(&[virtual_link("eth1.100", true)], &[]);
        assert_eq!(bench.take(), []);
    }
}

#[test]
fn a_device_of_another_name_resolves_for_the_sub_interface() {
    let mut bench = Bench::new();
    bench.tell(up(70, "customer"));
    bench.tell(neighbour(70, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    bench.add(ID, "10.0.0.2 dev eth1.100");
    bench.take();
    bench.set_sub_interfaces(&[], &[("eth1.100", 70)]);
    assert_eq!(bench.resolver.state(ID), Some(resolved(70, MAC1)));
    bench.tell(down(70, "customer"));
    assert_eq!(bench.resolver.state(ID), Some(HopState::LinkDown { ifindex: 70 }));
    bench.tell(up(70, "customer"));
    assert_eq!(bench.resolver.state(ID), Some(resolved(70, MAC1)));
    bench.set_sub_interfaces(&[], &[]);
    assert_eq!(bench.resolver.state(ID), Some(HopState::NoSuchDev));
}

#[test]
fn next_hops_follow_a_port_that_is_renamed_and_nothing_flaps() {
    let mut bench = Bench::new();
    bench.tell(neighbour(ETH1, "10.0.0.2", NeighbourState::Reachable(MAC1)));
    bench.add(ID, "10.0.0.2 dev eth1");
    let waiting = NextHopId(99);
    bench.add(waiting, "52:54:00:00:00:01 dev core0");
    bench.set_sub_interfaces(&[], &[("eth1", ETH1)]);
    bench.take();

    bench.tell(up(ETH1, "core0"));
    bench.rename_ports(&[], &[("core0", ETH1)], &[("eth1", "core0")]);
    // It stays as it was, and next hops that waited for an interface of the new name have it.
    let found = HopState::Static {
        ifindex: ETH1,
        mac: MAC1,
    };
    assert_eq!(bench.take(), [changed(waiting, found)]);
    let name = |bench: &Bench, id| bench.resolver.next_hop(id).map(ToString::to_string);
    assert_eq!(name(&bench, ID).as_deref(), Some("via inet 10.0.0.2 dev core0"));
    assert_eq!(bench.resolver.state(ID), Some(resolved(ETH1, MAC1)));
    // The new name applies from now on.
    bench.tell(down(ETH1, "core0"));
    assert_eq!(bench.resolver.state(ID), Some(HopState::LinkDown { ifindex: ETH1 }));
}

#[test]
fn ports_that_swap_their_names_keep_their_next_hops() {
    let mut bench = Bench::new();
    let (one, other) = (ID, NextHopId(99));
    bench.tell(up(70, "eth7"));
    bench.set_sub_interfaces(&[], &[("eth1", ETH1), ("eth7", 70)]);
    bench.add(one, "52:54:00:00:00:01 dev eth1");
    bench.add(other, "52:54:00:00:00:02 dev eth7");
    bench.take();
    for event in [up(ETH1, "tmp"), up(70, "eth1"), up(ETH1, "eth7")] {
        bench.tell(event);
    }
    bench.rename_ports(
        &[],
        &[("eth7", ETH1), ("eth1", 70)],
        &[("eth1", "eth7"), ("eth7", "eth1")],
    );
    assert_eq!(bench.take(), []);
    let name = |id| bench.resolver.next_hop(id).map(ToString::to_string);
    assert_eq!(name(one).as_deref(), Some("via link 52:54:00:00:00:01 dev eth7"));
    assert_eq!(name(other).as_deref(), Some("via link 52:54:00:00:00:02 dev eth1"));
}

#[test]
fn the_sub_interfaces_of_a_renamed_port_keep_their_next_hops() {
    let mut bench = Bench::new();
    bench.set_sub_interfaces(&[virtual_link("eth1.100", true)], &[("eth1", ETH1)]);
    bench.add(ID, "52:54:00:00:00:01 dev eth1.100");
    bench.take();
    bench.tell(up(ETH1, "core0"));
    bench.rename_ports(
        &[virtual_link("core0.100", true)],
        &[("core0", ETH1)],
        &[("eth1", "core0"), ("eth1.100", "core0.100")],
    );
    assert_eq!(bench.take(), []);
    assert_eq!(
        bench.resolver.next_hop(ID).map(ToString::to_string).as_deref(),
        Some("via link 52:54:00:00:00:01 dev core0.100")
    );
}

/// The next hops of a link that fails are found by an index, and seen to one by one. Those of others are not looked at.
#[test]
fn the_next_hops_of_a_link_follow_it_in_steps() {
    const HOPS: u16 = 300;
    let mut bench = Bench::new();
    for id in 0..HOPS {
        let (out, other) = (NextHopId(id), NextHopId(HOPS + id));
        bench.add(out, "02:00:00:00:01:01 dev eth1");
        bench.add(other, "02:00:00:00:01:02 dev eth2");
        let address = format!("10.{}.{}.1", id / 200, id % 200);
        bench.add(NextHopId(2 * HOPS + id), &address);
        bench.answer(&address, Some(Lookup::Interface(ETH1)));
    }
    bench.take();
    let is_down = |action: &&Action| matches!(action, Action::Changed { id, state: HopState::LinkDown { ifindex: ETH1 } } if id.0 / HOPS != 1);
    bench.tell(down(ETH1, "eth1"));
    let mut followed = bench.take().iter().filter(is_down).count();
    assert_eq!(followed, AT_ONCE);
    let mut steps = 0;
    while bench.resolver.has_steps() {
        bench.resolver.step(1, bench.now, &mut bench.actions);
        let actions = bench.take();
        assert!(
            actions
                .iter()
                .filter(|action| matches!(action, Action::Changed { .. }))
                .count()
                <= 1
        );
        followed += actions.iter().filter(is_down).count();
        steps += 1;
    }
    assert_eq!(followed, 2 * usize::from(HOPS));
    // One for each next hop of the link, one look-up for each address, and the ends of these walks.
    assert!(steps <= 3 * usize::from(HOPS) + 4, "{steps} steps");
}

/// The switch lets no frames go to a link that is down. So it must hear of the link's next hops even if the link is up
/// again before they are looked at.
#[test]
fn next_hops_are_reported_again_if_their_link_was_down_for_a_moment() {
    let mut bench = Bench::new();
    let ids = (0..100).map(NextHopId);
    for id in ids.clone() {
        bench.add(id, "02:00:00:00:01:01 dev eth1");
    }
    bench.take();
    bench.tell(down(ETH1, "eth1"));
    bench.tell(up(ETH1, "eth1"));
    bench.resolver.step(usize::MAX, bench.now, &mut bench.actions);
    let actions = bench.take();
    let mac = "02:00:00:00:01:01".parse().unwrap();
    for id in ids {
        let last = actions
            .iter()
            .rfind(|action| matches!(action, Action::Changed { id: of, .. } if *of == id));
        assert_eq!(last, Some(&changed(id, HopState::Static { ifindex: ETH1, mac })));
    }
}

/// XDP uses the neighbours, and the kernel does not see that.
#[test]
fn stale_neighbours_at_ports_of_switched_vrfs_are_verified() {
    const RED: u32 = 20;
    let member = |ifindex, name: &str| {
        Event::Link(LinkInfo {
            master: Some(Master {
                ifindex: RED,
                kind: Some("vrf".into()),
            }),
            ..link(ifindex, name)
        })
    };
    let stale = |ifindex, address: &str| unmanaged(ifindex, address, NeighbourState::Stale(MAC1));
    let verify = |ifindex, address: &str| Action::Verify {
        ifindex,
        address: ip(address),
    };
    let switched = |bench: &mut Bench, vrfs: &[u32]| {
        bench
            .resolver
            .set_switched_vrfs(vrfs.iter().copied().collect(), bench.now);
    };
    let set_ports = |bench: &mut Bench, ports: &[(&str, u32)]| bench.set_sub_interfaces(&[], ports);
    let mut bench = Bench::new();
    bench.tell(Event::Link(LinkInfo {
        vrf_table: Some(10),
        ..link(RED, "red")
    }));
    bench.tell(member(ETH1, "eth1"));
    bench.tell(stale(ETH1, "10.0.1.1"));
    bench.tell(stale(ETH2, "10.0.2.1"));
    set_ports(&mut bench, &[("eth1", ETH1), ("eth2", ETH2)]);
    bench.pass(VERIFY_INTERVAL);
    assert_eq!(bench.take(), [], "no label leads into the VRF");
    switched(&mut bench, &[RED]);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.take(), [verify(ETH1, "10.0.1.1")]);
    // Once for each time that it becomes stale. Those that the kernel verifies by itself are left alone.
    bench.pass(VERIFY_INTERVAL * 10);
    bench.tell(unmanaged(ETH1, "10.0.1.1", NeighbourState::Reachable(MAC1)));
    bench.tell(Event::Neighbour(Neighbour {
        ifindex: ETH1,
        address: ip("10.0.1.2"),
        state: NeighbourState::Stale(MAC2),
        managed: Some(Manager::Other),
    }));
    bench.tell(unmanaged(ETH1, "10.0.1.3", NeighbourState::Permanent(MAC2)));
    bench.pass(VERIFY_INTERVAL);
    assert_eq!(bench.take(), []);
    bench.tell(stale(ETH1, "10.0.1.1"));
    bench.pass(Duration::ZERO);
    assert_eq!(bench.take(), [verify(ETH1, "10.0.1.1")]);
    // The next one must wait; it may be verified, or gone, by then.
    bench.tell(stale(ETH1, "fe80::1"));
    bench.tell(stale(ETH1, "fe80::2"));
    bench.tell(stale(ETH1, "fe80::3"));
    bench.tell(unmanaged(ETH1, "fe80::2", NeighbourState::Reachable(MAC2)));
    bench.tell(Event::NeighbourGone {
        ifindex: ETH1,
        address: ip("fe80::3"),
    });
    bench.pass(VERIFY_INTERVAL / 2);
    assert_eq!(bench.take(), []);
    bench.pass(VERIFY_INTERVAL / 2);
    assert_eq!(bench.take(), [verify(ETH1, "fe80::1")]);
    // A port enters the VRF, and an interface of it is a port no more.
    bench.tell(stale(ETH1, "10.0.1.1"));
    bench.tell(member(ETH2, "eth2"));
    set_ports(&mut bench, &[("eth2", ETH2)]);
    bench.pass(VERIFY_INTERVAL);
    assert_eq!(bench.take(), [verify(ETH2, "10.0.2.1")]);
    switched(&mut bench, &[]);
    bench.tell(stale(ETH2, "10.0.2.1"));
    bench.pass(VERIFY_INTERVAL);
    assert_eq!(bench.take(), []);
}

#[test]
fn many_stale_neighbours_are_verified_a_few_at_a_time() {
    let mut bench = Bench::new();
    bench.tell(Event::Link(LinkInfo {
        vrf_table: Some(10),
        ..link(ETH1, "eth1")
    }));
    bench.set_sub_interfaces(&[], &[("eth1", ETH1)]);
    let count = VERIFIED * 2 + 1;
    for number in 0..count {
        let address = format!("10.0.{}.{}", number / 256, number % 256);
        bench.tell(unmanaged(ETH1, &address, NeighbourState::Stale(MAC1)));
    }
    bench.resolver.set_switched_vrfs([ETH1].into(), bench.now);
    let mut seen = BTreeSet::new();
    for expected in [VERIFIED, VERIFIED, 1, 0] {
        bench.pass(Duration::ZERO);
        let actions = bench.take();
        assert_eq!(actions.len(), expected);
        seen.extend(actions.iter().map(|action| format!("{action:?}")));
        bench.pass(VERIFY_INTERVAL - Duration::from_nanos(1));
        assert_eq!(bench.take(), []);
        bench.now += Duration::from_nanos(1);
    }
    assert_eq!(seen.len(), count);
}
