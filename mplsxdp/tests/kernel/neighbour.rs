//! Neighbours with the real kernel: ARP and ND between two network namespaces.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mplsxdp::kernel::{Events, Interests, Netlink};
use mplsxdp::lfib::next_hops::NextHopId;

use mplsxdp::neighbour::resolver::{Action, HopState, Resolver};
use mplsxdp::neighbour::routes::KernelRoutes;
use mplsxdp::neighbour::{Event, Lookup};
use mplsxdp::route::{NextHop, Via};
use mplsxdp_common::wire::Mac;

use crate::lab::{Lab, ip, sysctl};

const PEER1: Mac = Mac([0x52, 0x54, 0, 0, 1, 2]);
const PEER2: Mac = Mac([0x52, 0x54, 0, 0, 2, 2]);
const OTHER: Mac = Mac([0x52, 0x54, 0, 0, 9, 9]);
const HOP: NextHopId = NextHopId(1);

/// The resolver on a real socket, as the controller runs it.
struct Driver {
    netlink: Netlink,
    events: Events,
    resolver: Resolver,
    routes: KernelRoutes,
    resets: u32,
    syncs: u32,
    /// Whether the last reset was followed by a complete report. Another reset may come first, because the socket may
    /// overrun again.
    in_sync: bool,
    /// Interfaces that were reported to be gone.
    gone: Vec<u32>,
    /// The resolver's actions so far.
    log: Vec<Action>,
}

impl Driver {
    async fn new() -> Self {
        Self::open(Netlink::open().unwrap()).await
    }

    async fn open((netlink, events): (Netlink, Events)) -> Self {
        let mut driver = Self {
            netlink,
            events,
            resolver: Resolver::default(),
            routes: KernelRoutes::default(),
            resets: 0,
            syncs: 0,
            in_sync: false,
            gone: Vec::new(),
            log: Vec::new(),
        };
        driver.until("the first dump", |driver| driver.syncs == 1).await;
        driver
    }

    async fn add(&mut self, id: NextHopId, via: &str, dev: Option<&str>) {
        let mut actions = Vec::new();
        let next_hop = NextHop {
            via: match via.parse().unwrap() {
                IpAddr::V4(address) => Via::Inet(address),
                IpAddr::V6(address) => Via::Inet6(address),
            },
            dev: dev.map(Into::into),
        };
        self.resolver.add(id, next_hop, Instant::now(), &mut actions);
        self.carry_out(actions).await;
    }

    async fn remove(&mut self, id: NextHopId) {
        let mut actions = Vec::new();
        self.resolver.remove(id, Instant::now(), &mut actions);
        self.carry_out(actions).await;
    }

    /// Continues until the condition holds; at most a minute, because a dump of thousands of routes takes long in an
    /// emulated machine.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !condition(self) {
            if Instant::now() > end {
                let states = Vec::from_iter(self.resolver.next_hops());
                panic!("no {what}: {states:?}\n{}\n{}", ip("neigh show"), ip("addr show"));
            }
            self.step(Duration::from_millis(500)).await;
        }
    }

    async fn until_state(&mut self, id: NextHopId, state: HopState) {
        self.until(&format!("{state:?}"), |driver| driver.resolver.state(id) == Some(state))
            .await;
    }

    /// Continues for a while, whatever happens.
    async fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step(end - Instant::now()).await;
        }
    }

    async fn step(&mut self, at_most: Duration) {
        let mut actions = Vec::new();
        let due = self
            .resolver
            .next_deadline()
            .map_or(at_most, |due| due - Instant::now().min(due));
        match tokio::time::timeout(due.min(at_most), self.events.next()).await {
            Ok(event) => {
                let event = event.expect("the subscription goes on");
                self.resets += u32::from(event == Event::Reset);
                self.syncs += u32::from(event == Event::Synced);
                self.in_sync = event != Event::Reset && (self.in_sync || event == Event::Synced);
                if let Event::LinkGone(ifindex) = event {
                    self.gone.push(ifindex);
                }
                self.routes.handle(&event, &mut BTreeSet::new());
                self.routes.sweep(usize::MAX, &mut BTreeSet::new());
                self.resolver.handle(&event, Instant::now(), &mut actions);
            }
            Err(_) => self.resolver.poll(Instant::now(), &mut actions),
        }
        self.carry_out(actions).await;
    }

    async fn carry_out(&mut self, actions: Vec<Action>) {
        let mut more = Vec::new();
        for action in actions {
            match action {
                Action::Lookup { address } => {
                    let answer = self.netlink.route_lookup(address, None).await.unwrap();
                    self.resolver
                        .lookup_done(address, Some(answer), Instant::now(), &mut more);
                }
                // An interface that goes down meanwhile cannot be probed; the resolver will be informed.
                Action::Probe { ifindex, address } => drop(self.netlink.probe(ifindex, address).await),
                Action::Release { ifindex, address } => self.netlink.release(ifindex, address).await.unwrap(),
                Action::Verify { ifindex, address } => self.netlink.verify(ifindex, address).await.unwrap(),
                Action::Changed { .. } => {}
            }
            self.log.push(action);
        }
        if !more.is_empty() {
            Box::pin(self.carry_out(more)).await;
        }
    }

    fn ifindex(&self, name: &str) -> u32 {
        self.resolver.links().by_name(name).unwrap().ifindex
    }

    fn resolved(&self, name: &str, mac: Mac) -> HopState {
        let ifindex = self.ifindex(name);
        HopState::Resolved { ifindex, mac }
    }
}

/// The entry as `ip neigh` shows it.
fn entry(address: &str) -> String {
    ip(&format!("neigh show {address}"))
}

#[test]
fn neighbours_appear_by_arp_and_nd_and_are_kept_resolved() {
    Lab::run(async |lab| {
        let mut driver = Driver::new().await;
        // The kernel adds it a moment after the interface comes up.
        let link_local = loop {
            let shown = lab.peer_ip("-6 -o addr show dev eth1 scope link");
            match shown
                .split_whitespace()
                .nth(3)
                .and_then(|address| address.split('/').next())
            {
                Some(address) => break address.to_owned(),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let hops = [
            ("192.0.2.2", Some("eth1")),
            ("192.0.2.2", None),
            ("2001:db8:1::2", None),
            (link_local.as_str(), Some("eth1")),
        ];
        for (id, (via, dev)) in (0..).map(NextHopId).zip(hops) {
            driver.add(id, via, dev).await;
        }
        let state = driver.resolved("eth1", PEER1);
        for (id, (via, _)) in (0..).map(NextHopId).zip(hops) {
            driver.until_state(id, state).await;
            assert!(entry(via).contains("managed"), "{via}: {}", entry(via));
        }

        // Released when it is no longer needed.
        driver.remove(NextHopId(0)).await;
        assert!(entry("192.0.2.2").contains("managed"), "another next hop needs it");
        for id in (1..4).map(NextHopId) {
            driver.remove(id).await;
        }
        for (via, _) in hops {
            assert!(!entry(via).contains("managed"), "{}", entry(via));
            assert!(entry(via).contains("52:54:00:00:01:02"), "{}", entry(via));
        }
    });
}

#[test]
fn a_mac_change_is_followed() {
    Lab::run(async |lab| {
        let mut driver = Driver::new().await;
        driver.add(HOP, "192.0.2.2", None).await;
        driver.until_state(HOP, driver.resolved("eth1", PEER1)).await;
        // The peer announces its new address (gratuitous ARP).
        lab.peer_sysctl("ipv4/conf/eth1/arp_notify", "1");
        lab.peer_ip(&format!("link set dev eth1 address {OTHER}"));
        driver.until_state(HOP, driver.resolved("eth1", OTHER)).await;
    });
}

#[test]
fn a_neighbour_that_falls_silent_fails_and_comes_back() {
    Lab::run(async |lab| {
        for (name, value) in [
            ("base_reachable_time_ms", "500"),
            ("delay_first_probe_time", "1"),
            ("retrans_time_ms", "100"),
        ] {
            sysctl(&format!("ipv4/neigh/eth1/{name}"), value);
        }
        let mut driver = Driver::new().await;
        driver.add(HOP, "192.0.2.2", Some("eth1")).await;
        driver.until_state(HOP, driver.resolved("eth1", PEER1)).await;
        lab.peer_ip("addr del 192.0.2.2/24 dev eth1");
        let ifindex = driver.ifindex("eth1");
        // No packet is sent to it: the kernel finds out because the entry is managed.
        driver.until_state(HOP, HopState::Failed { ifindex }).await;
        lab.peer_ip("addr add 192.0.2.2/24 dev eth1");
        driver.until_state(HOP, driver.resolved("eth1", PEER1)).await;
    });
}

/// As a packet to it would have it verified. It keeps its flags.
#[test]
fn a_stale_neighbour_is_verified() {
    Lab::run(async |lab| {
        for (name, value) in [("delay_first_probe_time", "1"), ("retrans_time_ms", "100")] {
            sysctl(&format!("ipv4/neigh/eth1/{name}"), value);
        }
        let mut driver = Driver::new().await;
        let ifindex = driver.ifindex("eth1");
        let address: IpAddr = "192.0.2.2".parse().unwrap();
        let stale = format!("neigh replace {address} lladdr {PEER1} dev eth1 nud stale extern_learn");
        for (is_there, state) in [(true, "REACHABLE"), (false, "FAILED")] {
            if !is_there {
                lab.peer_ip("addr del 192.0.2.2/24 dev eth1");
            }
            ip(&stale);
            driver.netlink.verify(ifindex, address).await.unwrap();
            let shown = entry("192.0.2.2");
            assert!(shown.contains("DELAY") && shown.contains("extern_learn"), "{shown}");
            // It is not stale, so nothing is to be done.
            driver.netlink.verify(ifindex, address).await.unwrap();
            driver.until(state, |_| entry("192.0.2.2").contains(state)).await;
            assert!(entry("192.0.2.2").contains("extern_learn"), "{}", entry("192.0.2.2"));
        }
        ip("neigh del 192.0.2.2 dev eth1");
        driver.netlink.verify(ifindex, address).await.unwrap();
        assert_eq!(entry("192.0.2.2"), "");
    });
}

#[test]
fn a_deleted_neighbour_is_resolved_again() {
    Lab::run(async |_| {
        let mut driver = Driver::new().await;
        driver.add(HOP, "192.0.2.2", Some("eth1")).await;
        driver.until_state(HOP, driver.resolved("eth1", PEER1)).await;
        driver.log.clear();
        ip("neigh del 192.0.2.2 dev eth1");
        let ifindex = driver.ifindex("eth1");
        let lost = Action::Changed {
            id: HOP,
            state: HopState::Incomplete { ifindex },
        };
        driver.until("loss", |driver| driver.log.contains(&lost)).await;
        driver.until_state(HOP, driver.resolved("eth1", PEER1)).await;
        driver
            .until("managed entry", |_| entry("192.0.2.2").contains("managed"))
            .await;
    });
}

#[test]
fn interfaces_go_down_and_up() {
    Lab::run(async |lab| {
        let mut driver = Driver::new().await;
        let routed = NextHopId(2);
        driver.add(HOP, "192.0.2.2", Some("eth1")).await;
        driver.add(routed, "192.0.2.2", None).await;
        let ifindex = driver.ifindex("eth1");
        let good = driver.resolved("eth1", PEER1);
        for end in ["ours", "the peer's"] {
            let set = |state: &str| match end {
                "ours" => ip(&format!("link set dev eth1 {state}")),
                // Ours loses its carrier.
                _ => lab.peer_ip(&format!("link set dev eth1 {state}")),
            };
            driver.until_state(HOP, good).await;
            driver.until_state(routed, good).await;
            set("down");
            driver.until_state(HOP, HopState::LinkDown { ifindex }).await;
            driver
                .until("state without the route", |driver| {
                    driver.resolver.state(routed) != Some(good)
                })
                .await;
            set("up");
            driver.until_state(HOP, good).await;
            driver.until_state(routed, good).await;
            driver
                .until("managed entry", |_| entry("192.0.2.2").contains("managed"))
                .await;
        }
    });
}

#[test]
fn dev_is_followed_by_name() {
    Lab::run(async |lab| {
        let mut driver = Driver::new().await;
        driver.add(HOP, "192.0.2.2", Some("core0")).await;
        assert_eq!(driver.resolver.state(HOP), Some(HopState::NoSuchDev));
        ip("link set dev eth1 down");
        ip("link set dev eth1 name core0");
        ip("link set dev core0 up");
        driver
            .until_state(
                HOP,
                HopState::Resolved {
                    ifindex: driver.ifindex("eth1"),
                    mac: PEER1,
                },
            )
            .await;
        ip("link del core0");
        driver.until_state(HOP, HopState::NoSuchDev).await;
        ip(&format!(
            "link add core0 type veth peer name eth1 netns {}",
            lab.peer_tid()
        ));
        ip("addr add 192.0.2.1/24 dev core0");
        ip("link set dev core0 up");
        lab.peer_ip("addr add 192.0.2.2/24 dev eth1");
        lab.peer_ip(&format!("link set dev eth1 address {OTHER} up"));
        driver
            .until("new interface", |driver| {
                let adjacency = driver.resolver.state(HOP).and_then(HopState::adjacency);
                adjacency.is_some_and(|(_, mac)| mac == OTHER)
            })
            .await;
        assert_eq!(driver.resolver.state(HOP), Some(driver.resolved("core0", OTHER)));
    });
}

#[test]
fn a_route_moves_a_next_hop_to_another_interface() {
    Lab::run(async |lab| {
        let mut driver = Driver::new().await;
        for dev in ["eth1", "eth2"] {
            lab.peer_ip(&format!("addr add 203.0.113.7/32 dev {dev}"));
            lab.peer_ip(&format!("addr add 2001:db8:f::7/128 dev {dev} nodad"));
        }
        let hops = [("203.0.113.7", HOP), ("2001:db8:f::7", NextHopId(2))];
        for (via, id) in hops {
            driver.add(id, via, None).await;
            assert_eq!(driver.resolver.state(id), Some(HopState::NoRoute));
        }
        for (dev, mac) in [("eth1", PEER1), ("eth2", PEER2), ("eth1", PEER1)] {
            for (via, id) in hops {
                ip(&format!("route replace {via} dev {dev}"));
                driver.until_state(id, driver.resolved(dev, mac)).await;
            }
        }
        assert!(
            !ip("neigh show dev eth2").contains("managed"),
            "what it left is released"
        );
        // A route that is more specific than that of an address appears and disappears.
        for (via, id) in hops {
            ip(&format!("route del {via} dev eth1"));
            driver.until_state(id, HopState::NoRoute).await;
        }
        ip("addr add 203.0.113.1/24 dev eth2");
        driver.until_state(HOP, driver.resolved("eth2", PEER2)).await;
        ip("addr del 203.0.113.1/24 dev eth2");
        driver.until_state(HOP, HopState::NoRoute).await;
        ip("addr add 203.0.113.7/32 dev lo");
        driver.until_state(HOP, HopState::Local).await;
    });
}

#[test]
fn a_policy_rule_moves_a_next_hop() {
    Lab::run(async |_| {
        let mut driver = Driver::new().await;
        ip("route add 203.0.113.7 dev eth1");
        ip("route add 203.0.113.7 dev eth2 table 100");
        driver.add(HOP, "203.0.113.7", None).await;
        let on = |driver: &Driver, name| {
            driver.resolver.state(HOP).and_then(HopState::ifindex) == Some(driver.ifindex(name))
        };
        driver.until("eth1", |driver| on(driver, "eth1")).await;
        ip("rule add to 203.0.113.7 table 100");
        driver.until("eth2", |driver| on(driver, "eth2")).await;
        ip("rule del to 203.0.113.7 table 100");
        driver.until("eth1", |driver| on(driver, "eth1")).await;
    });
}

#[test]
fn an_interface_that_leaves_a_bridge_is_not_gone() {
    Lab::run(async |_| {
        let mut driver = Driver::new().await;
        ip("link add bridge0 type bridge");
        ip("link set dev eth1 master bridge0");
        ip("link set dev eth1 nomaster");
        ip("link set dev eth1 mtu 1400");
        driver
            .until("the last change", |driver| {
                driver
                    .resolver
                    .links()
                    .by_name("eth1")
                    .is_none_or(|link| link.mtu == 1400)
            })
            .await;
        assert!(
            !driver.gone.contains(&driver.ifindex("eth1")),
            "RTM_DELLINK of AF_BRIDGE is about the port"
        );
    });
}

#[test]
fn a_permanent_neighbour_is_left_as_it_was() {
    Lab::run(async |_| {
        let mut driver = Driver::new().await;
        ip(&format!("neigh add 192.0.2.99 lladdr {OTHER} nud permanent dev eth1"));
        let before = entry("192.0.2.99");
        driver.run_for(Duration::from_millis(100)).await;
        driver.add(HOP, "192.0.2.99", Some("eth1")).await;
        driver.until_state(HOP, driver.resolved("eth1", OTHER)).await;
        driver.run_for(Duration::from_secs(2)).await;
        driver.remove(HOP).await;
        assert_eq!(entry("192.0.2.99"), before);
        assert!(before.contains("PERMANENT"), "{before}");

        // One that becomes so while it is in use.
        driver.add(HOP, "192.0.2.2", Some("eth1")).await;
        driver.until_state(HOP, driver.resolved("eth1", PEER1)).await;
        ip(&format!(
            "neigh replace 192.0.2.2 lladdr {OTHER} nud permanent dev eth1"
        ));
        driver.until_state(HOP, driver.resolved("eth1", OTHER)).await;
        driver.run_for(Duration::from_secs(2)).await;
        driver.remove(HOP).await;
        let after = entry("192.0.2.2");
        assert!(after.contains("PERMANENT") && !after.contains("managed"), "{after}");
    });
}

/// As if the event that reports it had not been read yet.
#[test]
fn a_probe_does_not_undo_a_permanent_neighbour() {
    Lab::run(async |_| {
        let driver = Driver::new().await;
        let (eth1, address) = (driver.ifindex("eth1"), "192.0.2.99");
        ip(&format!(
            "neigh replace {address} lladdr {OTHER} nud permanent dev eth1"
        ));
        let before = entry(address);
        driver.netlink.probe(eth1, address.parse().unwrap()).await.unwrap();
        driver.netlink.release(eth1, address.parse().unwrap()).await.unwrap();
        assert_eq!(entry(address), before);
        assert!(before.contains("PERMANENT"), "{before}");
    });
}

#[test]
fn next_hops_take_no_room_from_the_kernels_other_neighbours() {
    Lab::run(async |_| {
        ip("addr add 10.9.0.1/16 dev eth1");
        let driver = Driver::new().await;
        let ifindex = driver.ifindex("eth1");
        // More than the default of `gc_thresh3`, which all network namespaces share.
        for number in 0..1100u16 {
            let [high, low] = (number + 256).to_be_bytes();
            let address = IpAddr::from([10, 9, high, low]);
            driver.netlink.probe(ifindex, address).await.unwrap();
        }
        let shown = ip("neigh show dev eth1 proto 77");
        assert_eq!(shown.lines().count(), 1100, "{shown}");
        assert!(
            shown
                .lines()
                .all(|line| line.contains("managed") && line.contains("extern_learn"))
        );
        // There is room for an ordinary entry.
        ip("neigh add 10.9.250.1 dev eth1 use");
        assert!(entry("10.9.250.1").contains("eth1"));
    });
}

#[test]
fn what_a_killed_one_left_is_released_at_the_next_start() {
    Lab::run(async |_| {
        let mut killed = Driver::new().await;
        killed.add(HOP, "192.0.2.2", None).await;
        killed.add(NextHopId(2), "2001:db8:2::2", None).await;
        killed.until_state(HOP, killed.resolved("eth1", PEER1)).await;
        drop(killed);
        ip("neigh add 192.0.2.9 dev eth1 use managed");
        assert_eq!(ip("neigh show").matches("managed").count(), 3);
        Driver::new().await;
        let shown = ip("neigh show");
        assert_eq!(shown.matches("managed").count(), 1, "{shown}");
        assert!(entry("192.0.2.9").contains("managed"), "another program's: {shown}");
    });
}

#[test]
fn shutdown_leaves_no_trace() {
    Lab::run(async |_| {
        let mut driver = Driver::new().await;
        driver.add(HOP, "192.0.2.2", None).await;
        driver.add(NextHopId(2), "2001:db8:2::2", None).await;
        driver.until_state(HOP, driver.resolved("eth1", PEER1)).await;
        driver.until_state(NextHopId(2), driver.resolved("eth2", PEER2)).await;
        assert_eq!(ip("neigh show").matches("managed").count(), 2);
        let mut actions = Vec::new();
        driver.resolver.shutdown(Instant::now(), &mut actions);
        driver.carry_out(actions).await;
        assert_eq!(ip("neigh show").matches("managed").count(), 0, "{}", ip("neigh show"));
        // Releasing an entry that is already gone succeeds.
        let ifindex = driver.ifindex("eth1");
        driver
            .netlink
            .release(ifindex, "192.0.2.77".parse().unwrap())
            .await
            .unwrap();
        driver
            .netlink
            .release(99_999, "192.0.2.2".parse().unwrap())
            .await
            .unwrap();
        assert!(
            driver
                .netlink
                .probe(99_999, "192.0.2.2".parse().unwrap())
                .await
                .is_err()
        );
    });
}

#[test]
fn what_an_overrun_hid_is_found_by_a_resync() {
    Lab::run(async |lab| {
        let mut driver = Driver::open(
            Netlink::open_with(Interests {
                receive_buffer_bytes: 4096,
                ..Interests::default()
            })
            .unwrap(),
        )
        .await;
        let moving = NextHopId(2);
        for dev in ["eth1", "eth2"] {
            lab.peer_ip(&format!("addr add 203.0.113.7/32 dev {dev}"));
        }
        ip("route add 203.0.113.7 dev eth1");
        driver.add(HOP, "192.0.2.2", Some("eth1")).await;
        driver.add(moving, "203.0.113.7", None).await;
        driver.until_state(HOP, driver.resolved("eth1", PEER1)).await;
        driver.until_state(moving, driver.resolved("eth1", PEER1)).await;
        let resets = driver.resets;
        driver.log.clear();

        // The socket is not read while this thread waits for `ip`. Only lost events cause a resync here.
        let batch = std::env::temp_dir().join(format!("mplsxdp-neighbour-{}.batch", std::process::id()));
        let mut lines = String::new();
        for number in 0..4000 {
            lines += &format!("route add 10.{}.{}.0/24 dev eth2\n", number / 256, number % 256);
        }
        lines += &format!("neigh replace 192.0.2.2 lladdr {OTHER} nud permanent dev eth1\n");
        lines += "route replace 203.0.113.7 dev eth2\n";
        lines += "link set dev eth2 mtu 1400\n";
        std::fs::write(&batch, lines).unwrap();
        ip(&format!("-batch {}", batch.display()));
        std::fs::remove_file(&batch).unwrap();

        driver
            .until("resync", |driver| driver.resets > resets && driver.in_sync)
            .await;
        assert_eq!(driver.resolver.state(HOP), Some(driver.resolved("eth1", OTHER)));
        assert_eq!(driver.resolver.links().by_name("eth2").unwrap().mtu, 1400);
        let known = |number: u32| {
            let prefix = format!("10.{}.{}.0/24", number / 256, number % 256);
            driver.routes.get(prefix.parse().unwrap()).count() == 1
        };
        assert!((0..4000).all(known));
        driver.until_state(moving, driver.resolved("eth2", PEER2)).await;
        let changes = driver
            .log
            .iter()
            .filter(|action| matches!(action, Action::Changed { id: HOP, .. }));
        assert_eq!(changes.count(), 1, "nothing flapped: {:?}", driver.log);
    });
}

#[test]
fn the_kernels_routes_are_known_even_where_it_drops_them_without_a_word() {
    Lab::run(async |_| {
        let mut driver = Driver::new().await;
        let has = |prefix: &'static str| {
            let prefix: IpNet = prefix.parse().unwrap();
            move |driver: &Driver| driver.routes.get(prefix).next().is_some()
        };
        for prefix in [
            "192.0.2.0/24",
            "192.0.2.1/32",
            "127.0.0.0/8",
            "2001:db8:1::/64",
            "2001:db8:1::1/128",
        ] {
            assert!(has(prefix)(&driver), "{prefix}");
        }
        ip("route add 10.1.0.0/16 via 192.0.2.2");
        ip("route add blackhole 10.2.0.0/16");
        ip("route add 10.3.0.0/16 nexthop via 192.0.2.2 nexthop via 198.51.100.2");
        ip("-6 route add 2001:db8:aa::/48 nexthop via 2001:db8:1::2 nexthop via 2001:db8:2::2");
        ip("route add 10.4.0.0/16 via 198.51.100.2 src 198.51.100.1");
        for prefix in [
            "10.1.0.0/16",
            "10.2.0.0/16",
            "10.3.0.0/16",
            "10.4.0.0/16",
            "2001:db8:aa::/48",
        ] {
            driver.until(prefix, has(prefix)).await;
        }
        let paths = |driver: &Driver, prefix: &str| driver.routes.get(prefix.parse().unwrap()).count();
        assert_eq!(
            (paths(&driver, "10.3.0.0/16"), paths(&driver, "2001:db8:aa::/48")),
            (2, 2)
        );

        ip("route replace 10.1.0.0/16 via 198.51.100.2");
        let eth2 = driver.ifindex("eth2");
        driver
            .until("replaced route", |driver| {
                let mut routes = driver.routes.get("10.1.0.0/16".parse().unwrap());
                routes.next().is_some_and(|route| route.oif == Some(eth2)) && routes.next().is_none()
            })
            .await;
        ip("-6 route del 2001:db8:aa::/48 via 2001:db8:1::2 dev eth1");
        driver
            .until("one path", |driver| paths(driver, "2001:db8:aa::/48") == 1)
            .await;

        // The kernel sends no RTM_DELROUTE for routes that disappear with an interface or a source address; without
        // IPv6, nothing else disappears that it does report.
        sysctl("ipv6/conf/eth2/disable_ipv6", "1");
        let syncs = driver.syncs;
        driver.until("rest", |driver| driver.syncs > syncs).await;
        driver.run_for(Duration::from_millis(1500)).await;
        ip("link set dev eth2 down");
        for prefix in ["10.1.0.0/16", "10.4.0.0/16", "198.51.100.0/24"] {
            driver
                .until(&format!("end of {prefix}"), |driver| !has(prefix)(driver))
                .await;
        }
        assert!(has("10.2.0.0/16")(&driver) && has("10.3.0.0/16")(&driver));
        ip("addr add 192.0.2.11/24 dev eth1");
        ip("route add 10.5.0.0/16 via 192.0.2.2 src 192.0.2.11");
        driver.until("route", has("10.5.0.0/16")).await;
        ip("addr del 192.0.2.11/24 dev eth1");
        driver
            .until("end of 10.5.0.0/16", |driver| !has("10.5.0.0/16")(driver))
            .await;
    });
}

#[test]
fn the_kernel_says_where_addresses_are() {
    Lab::run(async |_| {
        let driver = Driver::new().await;
        ip("route add blackhole 203.0.113.1");
        ip("route add unreachable 203.0.113.2");
        ip("route add prohibit 203.0.113.3");
        ip("route add throw 203.0.113.4");
        for kind in ["blackhole", "unreachable", "prohibit"] {
            ip(&format!("-6 route add {kind} 2001:db8:bad::{}", kind.len()));
        }
        let (eth1, eth2) = (driver.ifindex("eth1"), driver.ifindex("eth2"));
        for (address, oif, answer) in [
            ("192.0.2.2", None, Lookup::Interface(eth1)),
            ("198.51.100.2", None, Lookup::Interface(eth2)),
            ("2001:db8:2::2", None, Lookup::Interface(eth2)),
            ("fe80::1", Some(eth2), Lookup::Interface(eth2)),
            ("192.0.2.1", None, Lookup::Local),
            ("127.0.0.1", None, Lookup::Local),
            ("2001:db8:1::1", None, Lookup::Local),
            ("::1", None, Lookup::Local),
            ("203.0.113.9", None, Lookup::NoRoute),
            ("2001:db8:99::1", None, Lookup::NoRoute),
            ("203.0.113.1", None, Lookup::NoRoute),
            ("203.0.113.2", None, Lookup::NoRoute),
            ("203.0.113.3", None, Lookup::NoRoute),
            ("203.0.113.4", None, Lookup::NoRoute),
            ("2001:db8:bad::9", None, Lookup::NoRoute),
            ("2001:db8:bad::b", None, Lookup::NoRoute),
            ("2001:db8:bad::8", None, Lookup::NoRoute),
            ("192.0.2.255", None, Lookup::NoRoute),
        ] {
            let found = driver.netlink.route_lookup(address.parse().unwrap(), oif).await;
            assert_eq!(found.unwrap(), answer, "{address}");
        }
    });
}

#[test]
fn interfaces_are_found_by_name() {
    Lab::run(async |_| {
        let netlink = Netlink::open_requests().unwrap();
        let eth1 = netlink.link("eth1").await.unwrap().unwrap();
        assert_eq!(eth1.mac, Some(Mac([0x52, 0x54, 0, 0, 1, 1])));
        assert_eq!((eth1.mtu, eth1.up, eth1.running, eth1.noarp), (1500, true, true, false));
        assert_eq!(eth1.kind.as_deref(), Some("veth"));
        assert!(eth1.peer.unwrap().netns.is_some());
        let lo = netlink.link("lo").await.unwrap().unwrap();
        assert!(lo.loopback && lo.peer.is_none());
        let mut names = Vec::from_iter(
            netlink
                .links()
                .await
                .unwrap()
                .into_iter()
                .map(|link| link.name.to_string()),
        );
        names.retain(|name| ["lo", "eth1", "eth2"].contains(&&**name));
        names.sort();
        assert_eq!(names, ["eth1", "eth2", "lo"]);
        for name in ["eth9", "a-name-that-is-much-too-long-for-an-interface"] {
            assert_eq!(netlink.link(name).await.unwrap(), None, "{name}");
        }
    });
}

/// After any changes, the routes of a prefix according to the reported changes are those that a dump lists, without
/// help from a resync.
#[test]
fn routes_that_differ_by_their_gateways_are_distinct() {
    const V4: [&str; 17] = [
        "route add P via 192.0.2.12 dev eth1",
        "route append P via 192.0.2.13 dev eth1",
        "route append P via 192.0.2.13 dev eth1 mtu 1300",
        "route append P via 192.0.2.14 dev eth1 tos 0x10",
        "route append P dev eth2",
        "route del P via 192.0.2.13",
        "route del P dev eth2",
        // The first is replaced, whether it was added first or became first.
        "route replace P via 192.0.2.15 dev eth1",
        "route prepend P via 192.0.2.16 dev eth1",
        "route replace P nexthop via 192.0.2.17 nexthop via 192.0.2.18 dev eth1",
        "route append P nexthop via 192.0.2.17 nexthop via 192.0.2.19 dev eth1",
        "route change P nexthop via 192.0.2.17 nexthop via 192.0.2.19 dev eth1 weight 3",
        "route del P nexthop via 192.0.2.17 nexthop via 192.0.2.19 dev eth1",
        "route del P",
        "route del P",
        "route del P",
        "route del P tos 0x10",
    ];
    const V6: [&str; 17] = [
        "-6 route add P nexthop via 2001:db8:1::12 dev eth1 nexthop via 2001:db8:1::13 dev eth1",
        "-6 route del P via 2001:db8:1::13 dev eth1",
        "-6 route append P via 2001:db8:1::14 dev eth1",
        "-6 route replace P nexthop via 2001:db8:1::17 dev eth1 nexthop via 2001:db8:1::16 dev eth1",
        // Those with gateways are replaced together, the others one by one.
        "-6 route append P dev eth1",
        "-6 route append P dev eth2",
        "-6 route replace P via 2001:db8:1::15 dev eth1",
        "-6 route replace P dev eth1 metric 7",
        "-6 route add blackhole P metric 8",
        "-6 route del P dev eth2",
        "-6 route replace P via 2001:db8:1::18 dev eth1",
        "-6 route del P via 2001:db8:1::18",
        "-6 route replace P via 2001:db8:1::19 dev eth1",
        "-6 route append P via 2001:db8:1::20 dev eth1",
        "-6 route del P nexthop via 2001:db8:1::19 dev eth1 nexthop via 2001:db8:1::20 dev eth1",
        "-6 route del P metric 7",
        "-6 route del P metric 8",
    ];
    Lab::run(async |_| {
        let mut driver = Driver::new().await;
        for (prefix, steps) in [("10.99.0.0/24", V4), ("2001:db8:99::/64", V6)] {
            for step in steps {
                let before = Vec::from_iter(driver.routes.get(prefix.parse().unwrap()).copied());
                ip(&step.replace('P', prefix));
                same_as_a_dump(&mut driver, prefix, step).await;
                let after = Vec::from_iter(driver.routes.get(prefix.parse().unwrap()).copied());
                assert!(before != after, "{step}: nothing changed");
            }
        }
        assert_eq!(driver.resets, 1);
    });
}

/// IPv4 routes disappear with their nexthop object, without a report.
#[test]
fn routes_by_nexthop_objects_are_followed() {
    Lab::run(async |_| {
        let mut driver = Driver::new().await;
        let (v4, v6) = ("10.98.0.0/24", "2001:db8:98::/64");
        for step in [
            "nexthop add id 5 via 192.0.2.12 dev eth1",
            "nexthop add id 6 via 2001:db8:1::12 dev eth1",
            "nexthop add id 7 via 2001:db8:1::13 dev eth1",
            "nexthop add id 8 group 6/7",
            "route add 10.98.0.0/24 nhid 5",
            "route append 10.98.0.0/24 via 192.0.2.13 dev eth1",
            "route prepend 10.98.0.0/24 via 192.0.2.14 dev eth1",
            "-6 route add 2001:db8:98::/64 nhid 8",
            "nexthop replace id 5 via 192.0.2.15 dev eth1",
            "nexthop replace id 6 via 2001:db8:1::14 dev eth1",
            "nexthop del id 7",
            "nexthop del id 5",
            "nexthop del id 8",
            "route del 10.98.0.0/24 via 192.0.2.13",
            "route del 10.98.0.0/24 via 192.0.2.14",
        ] {
            ip(step);
            for prefix in [v4, v6] {
                same_as_a_dump(&mut driver, prefix, step).await;
            }
        }
        for prefix in [v4, v6] {
            assert_eq!(driver.routes.get(prefix.parse().unwrap()).count(), 0);
        }
    });
}

async fn same_as_a_dump(driver: &mut Driver, prefix: &str, step: &str) {
    let prefix = prefix.parse().unwrap();
    let dumped = Driver::new().await.routes;
    let dumped = Vec::from_iter(dumped.get(prefix).copied());
    let what = format!("{dumped:?} after {step}");
    driver
        .until(&what, |driver| driver.routes.get(prefix).eq(dumped.iter()))
        .await;
}
