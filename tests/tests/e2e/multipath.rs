//! Routes with several next hops, and next hops with a backup: which path each flow takes, which flows move when a link
//! goes down, comes back or a route is replaced, and what is lost meanwhile.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use mplsxdp::control::api::{NextHopState, Resolution};
use mplsxdp_common::wire::{ETH_P_IP, ETH_P_IPV6, Mac};
use mplsxdp_tests::frame::{Entry, Parsed, ethernet, labelled, udp_of_ports, with_ttl};
use mplsxdp_tests::icmp::{FRAGMENTATION_NEEDED_V4, IcmpError};
use mplsxdp_tests::{End, Lab, Netns, Router, Tap, link, wait};

use crate::test;
use crate::too_big::{datagram, fragmented};

const LIMIT: Duration = Duration::from_secs(10);
/// Frames under way at a time: a veth's ring has room for 256.
const BURST: usize = 200;
/// RFC 6790 section 3.
const ELI: u32 = 7;

pub fn tests() -> Vec<Trial> {
    vec![
        test("multipath::flows_are_spread_by_weight_and_keep_their_path", spread),
        test("multipath::fragments_of_a_packet_take_one_path", fragments),
        test(
            "multipath::only_the_flows_of_a_link_that_is_down_move_and_they_return",
            link_down,
        ),
        test("multipath::a_port_that_goes_takes_only_its_own_flows_along", port_gone),
        test(
            "multipath::no_frame_of_other_flows_is_lost_or_turned_while_a_link_fails",
            under_load,
        ),
        test("multipath::a_replaced_route_moves_only_what_has_to_move", replaced),
        test("multipath::a_backup_takes_over_for_all_labels_and_gives_back", backup),
        test("multipath::a_member_with_a_backup_keeps_its_flows", member_with_backup),
        test(
            "multipath::a_backup_with_labels_of_its_own_takes_over_and_gives_back",
            own_labels,
        ),
        test("multipath::a_packet_too_big_for_a_backup_is_answered_by_it", too_big),
        test(
            "multipath::frames_stay_with_a_backup_for_the_hold_time_unless_it_fails",
            hold,
        ),
        test("multipath::next_hops_by_ipv6_and_link_addresses_do_the_same", ipv6),
        test("multipath::flows_stay_where_a_member_is_said_otherwise", said_otherwise),
        test(
            "multipath::a_backup_that_comes_and_goes_costs_no_exception",
            backup_changes,
        ),
        test("multipath::what_was_saved_is_restored", saved),
    ]
}

/// ```text
///                          e1 10.0.1.1 ---- 10.0.1.2 right1      and 2001:db8:1::1 ---- 2001:db8:1::2
///  left tap ---- eth0 router  e2 10.0.2.1 ---- 10.0.2.2 right2
///                          ...
/// ```
struct Bench {
    router: Router,
    left: Tap,
    /// The port where frames arrive.
    port: Mac,
    rights: Vec<Right>,
    _lab: Lab,
}

/// One of the next hops.
struct Right {
    netns: Netns,
    tap: Tap,
    /// The port that leads to it.
    port: Mac,
}

/// A frame as it is sent, and as it should leave by each path.
struct Flow {
    sent: Vec<u8>,
    expected: Vec<Vec<u8>>,
}

impl Bench {
    fn new(rights: usize) -> Result<Self> {
        Self::with_options(rights, "")
    }

    fn with_options(rights: usize, options: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let (left, middle) = (lab.netns("left")?, lab.netns("router")?);
        link(End::new(&left, "eth0"), End::new(&middle, "eth0"))?;
        let mut netns = Vec::new();
        let mut ports = String::new();
        for number in 1..=rights {
            let right = lab.netns(&format!("right{number}"))?;
            let own = format!("10.0.{number}.1/24");
            let other = format!("10.0.{number}.2/24");
            let (own_v6, other_v6) = (format!("2001:db8:{number}::1/64"), format!("2001:db8:{number}::2/64"));
            let name = format!("e{number}");
            link(
                End::new(&middle, &name).address(&own).address(&own_v6),
                End::new(&right, "eth0").address(&other).address(&other_v6),
            )?;
            ports.push_str(&format!(" --iface {name}"));
            netns.push((right, name));
        }
        // The seed decides which flow takes which path; with this one it is always the same.
        let router = Router::load(&middle, &format!("--iface eth0{ports} --hash-seed 20031 {options}"))?;
        let rights = netns.into_iter().map(|(netns, name)| {
            Ok(Right {
                tap: Tap::open(&netns, "eth0")?,
                port: middle.mac(&name)?,
                netns,
            })
        });
        Ok(Self {
            port: middle.mac("eth0")?,
            left: Tap::open(&left, "eth0")?,
            rights: rights.collect::<Result<_>>()?,
            router,
            _lab: lab,
        })
    }

    /// `weights[n]` for next hop n + 1, label 200 + n + 1; none for 0.
    fn members(weights: &[u16]) -> String {
        let members = (1..).zip(weights).filter(|&(_, &weight)| weight > 0);
        members
            .map(|(number, weight)| format!(" nexthop as {} via inet 10.0.{number}.2 weight {weight}", 200 + number))
            .collect()
    }

    fn group(&self, verb: &str, label: u32, weights: &[u16]) -> Result<()> {
        self.router
            .run(&format!("route {verb} {label}{}", Self::members(weights)))?;
        self.router.wait_resolved()
    }

    /// A flow under `stack`; each path swaps the top label for its own.
    fn labelled(&self, stack: &[Entry], payload: &[u8]) -> Flow {
        let expected = (201..).zip(&self.rights).map(|(label, right)| {
            let mut stack = stack.to_vec();
            stack[0] = Entry::new(label, stack[0].ttl - 1).tc(stack[0].tc);
            labelled(right.tap.mac(), right.port, &stack, payload)
        });
        Flow {
            expected: expected.collect(),
            sent: labelled(self.port, self.left.mac(), stack, payload),
        }
    }

    /// This many flows under label 100, which differ by the addresses and ports beneath.
    fn flows(&self, count: u16) -> Result<Vec<Flow>> {
        let flows = (0..count).map(|index| Ok(self.labelled(&[Entry::new(100, 64)], &packet(index, index % 2 == 0)?)));
        flows.collect()
    }

    /// Sends each flow's frame, and returns which path each has taken. Checks every byte, and that nothing is lost.
    fn paths(&self, flows: &[Flow]) -> Result<Vec<usize>> {
        let wanted: BTreeMap<(usize, &[u8]), usize> = flows
            .iter()
            .enumerate()
            .flat_map(|(index, flow)| {
                (0..)
                    .zip(&flow.expected)
                    .map(move |(path, frame)| ((path, &frame[..]), index))
            })
            .collect();
        ensure!(
            wanted.len() == flows.len() * self.rights.len(),
            "two flows are the same"
        );
        let mut taken = vec![None; flows.len()];
        for (burst, sent) in flows.chunks(BURST).enumerate() {
            for flow in sent {
                self.left.send(&flow.sent)?;
            }
            let range = burst * BURST..burst * BURST + sent.len();
            wait::until("all frames of a burst", LIMIT, || {
                for (path, right) in self.rights.iter().enumerate() {
                    for frame in right.tap.drain()? {
                        if let Some(&index) = wanted.get(&(path, &frame[..])) {
                            let before = taken[index].replace(path);
                            ensure!(before.is_none(), "frame {index} came twice");
                        }
                    }
                }
                Ok(taken[range.clone()].iter().all(Option::is_some).then_some(()))
            })?;
        }
        taken.into_iter().map(|path| path.context("a frame is lost")).collect()
    }

    /// The number of buckets of each next hop, by its number minus one.
    fn buckets(&self, key: &str) -> Result<Vec<usize>> {
        let shown: serde_json::Value = self.router.json(&format!("route get {key}"))?;
        let mut buckets = vec![0; self.rights.len()];
        for member in shown[0]["nexthops"].as_array().context("no nexthops")? {
            let host: Ipv4Addr = member["via"]["host"].as_str().context("no via")?.parse()?;
            let number = usize::from(host.octets()[2]);
            let ranges = member["bucket_ranges"].as_array().context("no ranges")?;
            let sizes = ranges.iter().map(|range| {
                let end = |name: &str| range[name].as_u64().context("no end of a range");
                Ok(end("last")? as usize - end("first")? as usize + 1)
            });
            let sum: usize = sizes.sum::<Result<usize>>()?;
            ensure!(Some(sum as u64) == member["buckets"].as_u64(), "{member}");
            buckets[number - 1] += sum;
        }
        Ok(buckets)
    }

    fn wait_state(&self, number: usize, wanted: impl Fn(Resolution) -> bool) -> Result<()> {
        let address = format!("10.0.{number}.2");
        wait::until(&format!("another state of {address}"), LIMIT, || {
            let next_hops: Vec<NextHopState> = self.router.json("neigh show")?;
            let mut concerned = next_hops.iter().filter(|next_hop| *next_hop.via.host == *address);
            Ok(concerned.all(|next_hop| wanted(next_hop.state)).then_some(()))
        })
    }

    fn down(&self, number: usize) -> Result<()> {
        self.router.netns().ip(&format!("link set dev e{number} down"))?;
        self.wait_state(number, |state| {
            matches!(state, Resolution::LinkDown | Resolution::NoRoute)
        })
    }

    fn up(&self, number: usize) -> Result<()> {
        self.router.netns().ip(&format!("link set dev e{number} up"))?;
        self.wait_state(number, |state| state == Resolution::Resolved)
    }
}

/// A packet of a separate flow, in one family or the other.
fn packet(index: u16, is_v4: bool) -> Result<Vec<u8>> {
    let [high, low] = index.to_be_bytes();
    let (source, destination): (IpAddr, IpAddr) = if is_v4 {
        (
            Ipv4Addr::new(192, 0, 2, low).into(),
            Ipv4Addr::new(10, 9, high, 1).into(),
        )
    } else {
        let group = |group| Ipv6Addr::new(0x2001, 0xdb8, group, 0, 0, 0, 0, u16::from(low));
        (group(1).into(), group(9).into())
    };
    udp_of_ports(
        source,
        destination,
        [1024 + index, 5000 + u16::from(high)],
        64,
        &index.to_be_bytes(),
    )
}

fn ensure_spread(what: &str, paths: &[usize], buckets: &[usize]) -> Result<()> {
    for (path, &buckets) in buckets.iter().enumerate() {
        let share = buckets as f64 / 256.0;
        let (expected, count) = (
            paths.len() as f64 * share,
            paths.iter().filter(|&&taken| taken == path).count(),
        );
        // Five times the standard deviation of a binomial distribution.
        let bound = 5.0 * (expected * (1.0 - share)).sqrt();
        ensure!(
            (count as f64 - expected).abs() <= bound,
            "{what}: {count} of {} flows by path {path}, expected {expected:.0} with {bound:.0} more or less",
            paths.len()
        );
    }
    Ok(())
}

/// Which flows changed from which path to which.
fn moved(before: &[usize], after: &[usize]) -> Vec<(usize, usize)> {
    let both = before.iter().zip(after).filter(|(before, after)| before != after);
    both.map(|(&before, &after)| (before, after)).collect()
}

fn count(paths: &[usize], path: usize) -> usize {
    paths.iter().filter(|&&taken| taken == path).count()
}

fn spread() -> Result<()> {
    let bench = Bench::new(4)?;
    let weights = [1, 2, 3, 2];
    bench.group("add", 100, &weights)?;
    let buckets = bench.buckets("100")?;
    ensure!(buckets == [32, 64, 96, 64], "{buckets:?}");
    let mut sent = 0;
    let mut check = |what: &str, flows: Vec<Flow>| -> Result<Vec<usize>> {
        let paths = bench.paths(&flows)?;
        ensure_spread(what, &paths, &buckets)?;
        // The same flows again take the same paths.
        ensure!(bench.paths(&flows)? == paths, "{what}: a flow changed its path");
        sent += 2 * flows.len() as u64;
        Ok(paths)
    };
    let top = Entry::new(100, 64).tc(3);
    let ip = |is_v4| -> Result<Vec<Flow>> {
        let flows = (0..2000).map(|index| Ok(bench.labelled(&[top], &packet(index, is_v4)?)));
        flows.collect()
    };
    check("IPv4", ip(true)?)?;
    check("IPv6", ip(false)?)?;
    // Frames of a pseudowire, whose payload does not count: only the labels decide.
    let wires = |first: u8| {
        let payload = move |index: u32| [first, 1, 2, 3, index as u8];
        let flows = (0..2000).map(|index| bench.labelled(&[top, Entry::new(1000 + index, 9)], &payload(index)));
        flows.collect::<Vec<_>>()
    };
    let (one, other) = (check("pseudowires", wires(0))?, check("pseudowires", wires(0x10))?);
    ensure!(one == other, "the payload of a pseudowire changed its path");
    // RFC 6790: the entropy label decides, whatever is beneath.
    let entropy = |beneath: u32, payload: &[u8]| {
        let stack = |label| [top, Entry::new(ELI, 0), Entry::new(label, 0), Entry::new(beneath, 5)];
        let flows = (0..2000).map(|index| bench.labelled(&stack(20_000 + index), payload));
        flows.collect::<Vec<_>>()
    };
    let one = check("entropy labels", entropy(5000, &packet(1, true)?))?;
    let other = check("entropy labels", entropy(5001, &packet(2, false)?))?;
    ensure!(one == other, "what is beneath an entropy label changed its path");
    let forwarded = bench.router.forwarded("100")?;
    ensure!(forwarded == sent, "counted {forwarded} of {sent}");

    for prefix in ["10.9.0.0/16", "2001:db8:9::/48"] {
        let members: String = (1..)
            .zip(weights)
            .map(|(number, weight)| {
                format!(
                    " nexthop encap mpls {} via inet 10.0.{number}.2 weight {weight}",
                    200 + number
                )
            })
            .collect();
        bench.router.run(&format!("route add {prefix}{members}"))?;
        bench.router.wait_resolved()?;
        let is_v4 = prefix.starts_with("10.");
        let ethertype = if is_v4 { ETH_P_IP } else { ETH_P_IPV6 };
        let flows = (0..2000).map(|index| {
            let packet = packet(index, is_v4)?;
            let left = with_ttl(&packet, 63)?;
            let leaves =
                |(label, right): (u32, &Right)| labelled(right.tap.mac(), right.port, &[Entry::new(label, 63)], &left);
            Ok(Flow {
                sent: ethernet(bench.port, bench.left.mac(), ethertype, &packet),
                expected: (201..).zip(&bench.rights).map(leaves).collect(),
            })
        });
        let flows = flows.collect::<Result<Vec<_>>>()?;
        let paths = bench.paths(&flows)?;
        ensure_spread(prefix, &paths, &bench.buckets(prefix)?)?;
        ensure!(bench.paths(&flows)? == paths, "{prefix}: a flow changed its path");
    }
    bench.router.unload()
}

fn fragments() -> Result<()> {
    let bench = Bench::new(4)?;
    bench.group("add", 100, &[1, 1, 1, 1])?;
    // Only the addresses of the first fragment count, because the others have no ports: all fragments take one path.
    let fragment = |source: u8, index: u16| -> Result<Flow> {
        let source = Ipv4Addr::new(192, 0, 2, source).into();
        let whole = udp_of_ports(
            source,
            Ipv4Addr::new(10, 9, 0, 1).into(),
            [1024 + index, 53],
            64,
            &[0; 64],
        )?;
        // Bytes 6 and 7: flags and offset. The first, one within, the last.
        let mut fragment = whole;
        let place: u16 = [0x2000, 0x2000 | index, index][usize::from(index % 3)];
        fragment[6..8].copy_from_slice(&place.max(1).to_be_bytes());
        Ok(bench.labelled(&[Entry::new(100, 64)], &with_ttl(&fragment, 64)?))
    };
    let mut first = Vec::new();
    for source in 1..=64 {
        let flows = (3..40)
            .map(|index| fragment(source, index))
            .collect::<Result<Vec<_>>>()?;
        let paths = bench.paths(&flows)?;
        ensure!(paths.iter().all(|path| *path == paths[0]), "source {source}: {paths:?}");
        first.push(paths[0]);
    }
    ensure!((0..4).all(|path| first.contains(&path)), "{first:?}");
    Ok(())
}

fn link_down() -> Result<()> {
    let bench = Bench::new(4)?;
    bench.group("add", 100, &[1, 1, 2, 0])?;
    let flows = bench.flows(3000)?;
    let all = bench.paths(&flows)?;
    let ensure_moved = |before: &[usize], after: &[usize], from: usize| {
        let moved = moved(before, after);
        ensure!(moved.iter().all(|&(was, _)| was == from), "others moved too: {moved:?}");
        ensure!(
            moved.len() == count(before, from),
            "{} of {}",
            moved.len(),
            count(before, from)
        );
        Ok(())
    };
    bench.down(3)?;
    let two = bench.paths(&flows)?;
    ensure_moved(&all, &two, 2)?;
    // In proportion: those of the third, in equal parts.
    ensure_spread("without the third", &two, &[128, 128, 0, 0])?;
    ensure!(bench.buckets("100")? == [128, 128, 0, 0]);
    let shown = bench.router.run("route show 100")?;
    ensure!(
        shown.contains("dev e3 weight 2 linkdown") || shown.contains("weight 2 unresolved"),
        "{shown}"
    );
    bench.down(1)?;
    let one = bench.paths(&flows)?;
    ensure_moved(&two, &one, 0)?;
    // One comes back: it takes its own flows and its share of what the other lent.
    bench.up(3)?;
    let back = bench.paths(&flows)?;
    ensure!(moved(&one, &back).iter().all(|&(_, to)| to == 2));
    let own = all.iter().zip(&back).filter(|&(&was, _)| was == 2);
    ensure!(own.into_iter().all(|(_, &is)| is == 2), "not all of its own");
    bench.up(1)?;
    ensure!(bench.paths(&flows)? == all, "not all are where they were");

    // The same at the far end: a link without a carrier.
    let far = &bench.rights[1].netns;
    far.ip("link set dev eth0 down")?;
    bench.wait_state(2, |state| matches!(state, Resolution::LinkDown | Resolution::NoRoute))?;
    ensure_moved(&all, &bench.paths(&flows)?, 1)?;
    far.ip("link set dev eth0 up")?;
    bench.wait_state(2, |state| state == Resolution::Resolved)?;
    ensure!(bench.paths(&flows)? == all, "not all are where they were");
    bench.router.unload()
}

fn port_gone() -> Result<()> {
    let bench = Bench::new(4)?;
    bench.group("add", 100, &[1, 1, 1, 1])?;
    let flows = bench.flows(2000)?;
    let all = bench.paths(&flows)?;
    bench.router.run("link del e2")?;
    let three = bench.paths(&flows)?;
    let of_second = moved(&all, &three);
    ensure!(of_second.len() == count(&all, 1) && of_second.iter().all(|&(was, _)| was == 1));
    bench.router.run("link add e2")?;
    bench.router.wait_resolved()?;
    ensure!(bench.paths(&flows)? == all, "not all are where they were");
    // The whole interface.
    let netns = bench.router.netns();
    netns.ip("link del dev e4")?;
    bench.wait_state(4, |state| matches!(state, Resolution::NoRoute | Resolution::NoSuchDev))?;
    let rest = bench.paths(&flows)?;
    let of_fourth = moved(&all, &rest);
    ensure!(of_fourth.len() == count(&all, 3) && of_fourth.iter().all(|&(was, _)| was == 3));
    Ok(())
}

fn under_load() -> Result<()> {
    let bench = Bench::new(3)?;
    bench.group("add", 100, &[1, 1, 1])?;
    let flows = bench.flows(60)?;
    let before = bench.paths(&flows)?;
    // The number of a flow's frame, in its last bytes.
    let numbered = |flow: &[u8], round: u32| {
        let mut frame = flow.to_vec();
        let end = frame.len();
        frame[end - 2..].copy_from_slice(&(round as u16).to_be_bytes());
        frame
    };
    let stop = AtomicBool::new(false);
    let mut came: BTreeMap<Vec<u8>, Vec<(usize, u16)>> = BTreeMap::new();
    let (sent, went_down) = thread::scope(|scope| -> Result<(Vec<Vec<Instant>>, Instant)> {
        let sender = scope.spawn(|| -> Result<Vec<Vec<Instant>>> {
            let mut rounds: Vec<Vec<Instant>> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let mut round = Vec::new();
                for (index, flow) in flows.iter().enumerate() {
                    // Not faster than the receivers, and at an even pace.
                    if index % 4 == 0 {
                        thread::sleep(Duration::from_micros(100));
                    }
                    round.push(Instant::now());
                    bench.left.send(&numbered(&flow.sent, rounds.len() as u32))?;
                }
                rounds.push(round);
            }
            Ok(rounds)
        });
        let mut drain = || -> Result<()> {
            for (path, right) in bench.rights.iter().enumerate() {
                for frame in right.tap.drain()?.into_iter().filter(|frame| frame.len() > 20) {
                    let (flow, round) = frame.split_at(frame.len() - 2);
                    let round = u16::from_be_bytes([round[0], round[1]]);
                    // By the bytes beneath the label, which are the same on every path.
                    came.entry(flow[18..].to_vec()).or_default().push((path, round));
                }
            }
            Ok(())
        };
        let mut during = |what: &str, is_so: &dyn Fn() -> Result<bool>| {
            wait::until(what, LIMIT, || {
                drain()?;
                Ok(is_so()?.then_some(()))
            })
        };
        let result: Result<Instant> = (|| {
            let started = Instant::now();
            during("some traffic", &|| Ok(started.elapsed() > Duration::from_millis(200)))?;
            let went_down = Instant::now();
            bench.router.netns().ip("link set dev e2 down")?;
            during("a link that is down", &|| {
                let next_hops: Vec<NextHopState> = bench.router.json("neigh show")?;
                let mut states = next_hops.iter().map(|next_hop| next_hop.state);
                Ok(states.any(|state| matches!(state, Resolution::LinkDown | Resolution::NoRoute)))
            })?;
            let noticed = Instant::now();
            during("some more traffic", &|| {
                Ok(noticed.elapsed() > Duration::from_millis(200))
            })?;
            Ok(went_down)
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap_or_else(|_| bail!("the sender panicked"));
        let (sent, went_down) = (sent?, result?);
        during("the last frames", &|| Ok(true))?;
        Ok((sent, went_down))
    })?;
    // One more of each, which arrives after all others.
    let last = sent.len() as u32;
    let marked: Vec<Flow> = flows
        .iter()
        .map(|flow| Flow {
            sent: numbered(&flow.sent, last),
            expected: flow.expected.iter().map(|frame| numbered(frame, last)).collect(),
        })
        .collect();
    let after = bench.paths(&marked)?;
    let mut last_lost = None;
    let mut lost = 0;
    for (index, ((flow, &path), &now)) in flows.iter().zip(&before).zip(&after).enumerate() {
        let sent_as = &flow.sent[18..flow.sent.len() - 2];
        let frames = came.get(sent_as).map(Vec::as_slice).unwrap_or_default();
        if path != 1 {
            ensure!(now == path, "a flow of another member moved");
            ensure!(
                frames.iter().all(|&(taken, _)| taken == path),
                "a flow of another member moved for a while"
            );
            ensure!(
                frames.len() == sent.len(),
                "{} of {} frames of another member",
                frames.len(),
                sent.len()
            );
        } else {
            let arrived: Vec<u16> = frames.iter().map(|&(_, round)| round).collect();
            let gone = (0..sent.len()).filter(|round| !arrived.contains(&(*round as u16)));
            for round in gone {
                lost += 1;
                last_lost = last_lost.max(Some(sent[round][index]));
            }
            ensure!(now != 1, "a flow of the member stays");
        }
    }
    let time = last_lost.map_or(0.0, |lost| {
        lost.saturating_duration_since(went_down).as_secs_f64() * 1e3
    });
    eprintln!(
        "multipath: {lost} frames of the link that failed were lost, the last one sent {time:.1} ms after `ip link set down` began"
    );
    Ok(())
}

fn replaced() -> Result<()> {
    let bench = Bench::new(4)?;
    bench.router.run("route add 100 as 201 via inet 10.0.1.2")?;
    bench.router.wait_resolved()?;
    let flows = bench.flows(2000)?;
    let mut before = bench.paths(&flows)?;
    ensure!(count(&before, 0) == flows.len());
    for (weights, from, to) in [
        // The single one keeps its share, and the others take theirs.
        ([1, 1, 1, 0], vec![0], vec![1, 2]),
        // The second leaves.
        ([1, 0, 1, 0], vec![1], vec![0, 2]),
        // The fourth comes.
        ([1, 0, 1, 2], vec![0, 2], vec![3]),
        // The first gets more.
        ([3, 0, 1, 2], vec![2, 3], vec![0]),
        // All but one leave.
        ([0, 0, 1, 0], vec![0, 3], vec![2]),
    ] {
        bench.group("replace", 100, &weights)?;
        let after = bench.paths(&flows)?;
        let moves = moved(&before, &after);
        ensure!(
            moves.iter().all(|(was, is)| from.contains(was) && to.contains(is)),
            "{weights:?}: {moves:?}"
        );
        let total: u16 = weights.iter().sum();
        let buckets: Vec<usize> = weights
            .iter()
            .map(|&weight| (usize::from(weight) * 256 + usize::from(total) / 2) / usize::from(total))
            .collect();
        ensure_spread(&format!("{weights:?}"), &after, &buckets)?;
        before = after;
    }
    bench.router.unload()
}

fn backup() -> Result<()> {
    let bench = Bench::new(2)?;
    let labels = 1000..1064;
    for label in labels.clone() {
        bench.router.run(&format!(
            "route add {label} as {} via inet 10.0.1.2 dev e1 backup via inet 10.0.2.2 dev e2",
            label + 1000
        ))?;
    }
    bench
        .router
        .run("route add 10.9.0.0/16 encap mpls 300 via inet 10.0.1.2 backup via inet 10.0.2.2")?;
    bench.router.wait_resolved()?;
    let packet = packet(7, true)?;
    let mut flows: Vec<Flow> = labels
        .clone()
        .map(|label| {
            let leaves =
                |right: &Right| labelled(right.tap.mac(), right.port, &[Entry::new(label + 1000, 63)], &packet);
            Flow {
                sent: labelled(bench.port, bench.left.mac(), &[Entry::new(label, 64)], &packet),
                expected: bench.rights.iter().map(leaves).collect(),
            }
        })
        .collect();
    let imposed = with_ttl(&packet, 63)?;
    let leaves = |right: &Right| labelled(right.tap.mac(), right.port, &[Entry::new(300, 63)], &imposed);
    flows.push(Flow {
        sent: ethernet(bench.port, bench.left.mac(), ETH_P_IP, &packet),
        expected: bench.rights.iter().map(leaves).collect(),
    });
    let by = |path: usize| -> Result<()> {
        let paths = bench.paths(&flows)?;
        ensure!(paths.iter().all(|&taken| taken == path), "{paths:?}");
        Ok(())
    };
    by(0)?;
    let neighbours = bench.router.run("neigh show")?;
    ensure!(neighbours.contains(" backup 10.0.2.2 dev e2 lladdr "), "{neighbours}");
    bench.down(1)?;
    by(1)?;
    bench.up(1)?;
    by(0)?;
    // If only the backup goes down, nothing changes.
    bench.down(2)?;
    by(0)?;
    bench.up(2)?;
    // The far end's carrier.
    bench.rights[0].netns.ip("link set dev eth0 down")?;
    bench.wait_state(1, |state| matches!(state, Resolution::LinkDown | Resolution::NoRoute))?;
    by(1)?;
    bench.router.run("link del e1")?;
    by(1)?;
    bench.router.unload()
}

fn member_with_backup() -> Result<()> {
    let bench = Bench::new(3)?;
    bench.router.run(
        "route add 100 nexthop as 201 via inet 10.0.1.2 backup via inet 10.0.3.2 nexthop as 202 via inet 10.0.2.2",
    )?;
    bench.router.wait_resolved()?;
    let mut flows = bench.flows(1000)?;
    // The backup gets the same labels.
    for flow in &mut flows {
        let (right, first) = (&bench.rights[2], flow.expected[0].clone());
        flow.expected[2] = [&right.tap.mac().0[..], &right.port.0, &first[12..]].concat();
    }
    let before = bench.paths(&flows)?;
    bench.down(1)?;
    let after = bench.paths(&flows)?;
    ensure!(moved(&before, &after).iter().all(|&(was, is)| (was, is) == (0, 2)));
    ensure!(count(&after, 2) == count(&before, 0));
    bench.down(3)?;
    let rest = bench.paths(&flows)?;
    ensure!(count(&rest, 1) == flows.len(), "{}", count(&rest, 1));
    bench.up(3)?;
    ensure!(bench.paths(&flows)? == after);
    bench.up(1)?;
    ensure!(bench.paths(&flows)? == before);
    Ok(())
}

/// Each label has other labels at the backup; that of the only next hop, of one of several, and of a prefix's.
fn own_labels() -> Result<()> {
    let bench = Bench::new(3)?;
    let labels = 1000..1064;
    for label in labels.clone() {
        bench.router.run(&format!(
            "route add {label} as {} via inet 10.0.1.2 dev e1 backup as 300/{} via inet 10.0.2.2 dev e2",
            label + 1000,
            label + 2000
        ))?;
    }
    bench.router.run(
        "route add 10.9.0.0/16 encap mpls 400 via inet 10.0.1.2 backup encap mpls 500/501 ttl 9 via inet 10.0.2.2",
    )?;
    bench
        .router
        .run("route add 1100 as implicit-null via inet 10.0.1.2 backup as 600 via inet 10.0.2.2")?;
    bench.router.run(
        "route add 100 nexthop as 201 via inet 10.0.1.2 backup as 700/701 via inet 10.0.2.2 nexthop as 203 via inet 10.0.3.2",
    )?;
    bench.router.wait_resolved()?;

    let packet = packet(7, true)?;
    let [first, second, third] = bench.rights.as_slice() else {
        bail!("three next hops")
    };
    let to = |right: &Right, stack: &[Entry], packet: &[u8]| labelled(right.tap.mac(), right.port, stack, packet);
    let arriving = |label| labelled(bench.port, bench.left.mac(), &[Entry::new(label, 64).tc(5)], &packet);
    let swapped = |label| Entry::new(label, 63).tc(5);
    let mut flows: Vec<Flow> = labels
        .clone()
        .map(|label| Flow {
            sent: arriving(label),
            expected: vec![
                to(first, &[swapped(label + 1000)], &packet),
                to(second, &[swapped(300), swapped(label + 2000)], &packet),
                // None goes there.
                to(third, &[swapped(label)], &packet),
            ],
        })
        .collect();
    let imposed = with_ttl(&packet, 63)?;
    let nine = |label| Entry::new(label, 9);
    flows.push(Flow {
        sent: ethernet(bench.port, bench.left.mac(), ETH_P_IP, &packet),
        expected: vec![
            to(first, &[Entry::new(400, 63)], &imposed),
            to(second, &[nine(500), nine(501)], &imposed),
            to(third, &[nine(500)], &imposed),
        ],
    });
    flows.push(Flow {
        sent: arriving(1100),
        expected: vec![
            ethernet(first.tap.mac(), first.port, ETH_P_IP, &imposed),
            to(second, &[swapped(600)], &packet),
            to(third, &[swapped(600)], &packet),
        ],
    });
    // Those of the first member of the group go to its backup, and the others stay.
    let mut several = bench.flows(400)?;
    for (index, flow) in (0..).zip(&mut several) {
        let stack = [Entry::new(700, 63), Entry::new(701, 63)];
        flow.expected[1] = to(second, &stack, &self::packet(index, index % 2 == 0)?);
    }
    let before = bench.paths(&several)?;
    ensure!(count(&before, 0) > 0 && count(&before, 2) > 0 && count(&before, 1) == 0);
    let by = |path: usize| -> Result<()> {
        let paths = bench.paths(&flows)?;
        ensure!(paths.iter().all(|&taken| taken == path), "{paths:?}");
        let now = bench.paths(&several)?;
        let others = before.iter().map(|&taken| if taken == 0 { path } else { taken });
        ensure!(now.iter().copied().eq(others));
        let shown = bench.router.run("route get 1000")?;
        ensure!(shown.contains(" resolved in-use ") == (path == 1), "{shown}");
        Ok(())
    };
    by(0)?;
    bench.down(1)?;
    by(1)?;
    bench.up(1)?;
    by(0)?;
    // The far end's carrier.
    bench.rights[0].netns.ip("link set dev eth0 down")?;
    bench.wait_state(1, |state| matches!(state, Resolution::LinkDown | Resolution::NoRoute))?;
    by(1)?;
    let saved = bench.router.run("route save")?;
    ensure!(
        saved.contains("1000 as to 2000 via inet 10.0.1.2 dev e1 backup as to 300/3000 via inet 10.0.2.2 dev e2\n")
    );
    bench.router.run("link del e1")?;
    by(1)?;
    bench.router.unload()
}

/// A packet that fits the next hop, and not its backup, whose link is narrower and whose stack is longer.
fn too_big() -> Result<()> {
    const NARROW: usize = 1400;
    let bench = Bench::new(2)?;
    bench.router.netns().ip(&format!("link set dev e2 mtu {NARROW}"))?;
    bench
        .router
        .run("route add 100 as 200 via inet 10.0.1.2 backup as 300/301/302 via inet 10.0.2.2")?;
    bench.router.wait_resolved()?;
    let [first, second] = bench.rights.as_slice() else {
        bail!("two next hops")
    };
    let most = NARROW - 3 * 4;
    let arriving = |packet: &[u8]| labelled(bench.port, bench.left.mac(), &[Entry::new(100, 64)], packet);
    let backup = |ttl: u8, tc: u8| [300, 301, 302].map(|label| Entry::new(label, ttl).tc(tc));
    let by_backup = |packet: &[u8]| labelled(second.tap.mac(), second.port, &backup(63, 0), packet);
    let whole = |dont_fragment| datagram(1500 - 4 - 28, dont_fragment, 7);
    let send = |packet: &[u8]| bench.left.send(&arriving(packet));
    send(&whole(true)?)?;
    let expected = labelled(first.tap.mac(), first.port, &[Entry::new(200, 63)], &whole(true)?);
    first.tap.receive("the frame", |frame| frame == expected)?;
    bench.down(1)?;
    let fits = datagram(most - 28, true, 8)?;
    send(&fits)?;
    second.tap.receive("the frame", |frame| frame == by_backup(&fits))?;
    for packet in [whole(true)?, datagram(most + 1 - 28, true, 9)?] {
        send(&packet)?;
        let is_error = |frame: &[u8]| IcmpError::read(frame).is_some();
        let frame = second.tap.receive("an ICMP error", is_error)?;
        let error = IcmpError::read(&frame).context("no ICMP error")??;
        ensure!(
            (error.kind, error.mtu) == (FRAGMENTATION_NEEDED_V4, most as u32),
            "{error:?}"
        );
        ensure!(error.stack == [Entry::new(100, 64)], "{error:?}");
        error.ensure_quotes(&packet)?;
        ensure!(Parsed::new(&frame)?.stack == backup(64, 6), "{frame:02x?}");
    }
    send(&whole(false)?)?;
    for fragment in fragmented(&whole(false)?, most, 64)? {
        let frame = second
            .tap
            .receive("a fragment", |frame| frame.starts_with(&second.tap.mac().0))?;
        ensure!(frame == by_backup(&fragment), "{frame:02x?}");
    }
    let counted = (
        bench.router.dropped("too-big")?,
        bench.router.outcome("too-big-answered")?,
        bench.router.outcome("fragmented")?,
    );
    ensure!(counted == (3, 2, 1), "{counted:?}");
    bench.router.unload()
}

/// The hold time does not end before the test does.
fn hold() -> Result<()> {
    let bench = Bench::with_options(2, "--backup-hold 1h")?;
    let backups = ["backup via inet 10.0.2.2", "backup as 300/400 via inet 10.0.2.2", ""];
    for (label, backup) in (1000..).zip(backups) {
        bench.router.run(&format!(
            "route add {label} as {} via inet 10.0.1.2 {backup}",
            label + 1000
        ))?;
    }
    bench.router.wait_resolved()?;
    let packet = packet(7, true)?;
    let flow = |label: u32, around: &[Entry]| {
        let leaves = |right: &Right, stack: &[Entry]| labelled(right.tap.mac(), right.port, stack, &packet);
        Flow {
            sent: labelled(bench.port, bench.left.mac(), &[Entry::new(label, 64)], &packet),
            expected: vec![
                leaves(&bench.rights[0], &[Entry::new(label + 1000, 63)]),
                leaves(&bench.rights[1], around),
            ],
        }
    };
    let protected = [
        flow(1000, &[Entry::new(2000, 63)]),
        flow(1001, &[Entry::new(300, 63), Entry::new(400, 63)]),
    ];
    let alone = [flow(1002, &[Entry::new(2002, 63)])];
    let by = |path: usize| -> Result<()> {
        let paths = bench.paths(&protected)?;
        ensure!(paths == [path; 2], "{paths:?}");
        Ok(())
    };
    by(0)?;
    bench.down(1)?;
    by(1)?;
    bench.up(1)?;
    by(1)?;
    ensure!(bench.paths(&alone)? == [0], "a label without a backup waits");
    bench.down(2)?;
    by(0)?;
    bench.router.unload()
}

/// Next hops in the other family, global and link-local, and unresolvable ones; and backups of each kind.
fn ipv6() -> Result<()> {
    let bench = Bench::new(3)?;
    // The kernel adds it a moment after the interface comes up.
    let link_local = wait::until("a link-local address", LIMIT, || {
        let shown = bench.rights[1].netns.ip("-brief -6 address show dev eth0 scope link")?;
        let found = shown.split_whitespace().find(|word| word.starts_with("fe80:"));
        let found = found.and_then(|address| address.split('/').next());
        Ok(found.map(str::to_owned))
    })?;
    let third = bench.rights[2].tap.mac();
    bench.router.run(&format!(
        "route add 100 nexthop as 201 via inet6 2001:db8:1::2 nexthop as 202 via inet6 {link_local} dev e2 \
         nexthop as 203 via link {third} dev e3"
    ))?;
    bench.router.run(&format!(
        "route add 300 as 201 via inet6 2001:db8:1::2 backup via link {third} dev e3"
    ))?;
    bench.router.run(&format!(
        "route add 2001:db8:9::/48 encap mpls 201 via link {third} dev e3 backup via inet6 {link_local} dev e2"
    ))?;
    bench.router.wait_resolved()?;
    let flows = bench.flows(1500)?;
    let all = bench.paths(&flows)?;
    ensure_spread("IPv6 and link addresses", &all, &[86, 85, 85])?;
    let packet = packet(3, false)?;
    let protected = Flow {
        sent: labelled(bench.port, bench.left.mac(), &[Entry::new(300, 64)], &packet),
        expected: bench
            .rights
            .iter()
            .map(|right| labelled(right.tap.mac(), right.port, &[Entry::new(201, 63)], &packet))
            .collect(),
    };
    let left = with_ttl(&packet, 63)?;
    let imposed = Flow {
        sent: ethernet(bench.port, bench.left.mac(), ETH_P_IPV6, &packet),
        expected: bench
            .rights
            .iter()
            .map(|right| labelled(right.tap.mac(), right.port, &[Entry::new(201, 63)], &left))
            .collect(),
    };
    let singles = [protected, imposed];
    ensure!(bench.paths(&singles)? == [0, 2]);
    for (number, others) in [(1, [2, 2]), (3, [0, 1])] {
        bench.router.netns().ip(&format!("link set dev e{number} down"))?;
        let host = [format!("2001:db8:{number}::2"), third.to_string()];
        wait::until("a link that is down", LIMIT, || {
            let next_hops: Vec<NextHopState> = bench.router.json("neigh show")?;
            let mut there = next_hops
                .iter()
                .filter(|next_hop| host.contains(&next_hop.via.host.to_string()));
            let mut down = there
                .clone()
                .filter(|next_hop| next_hop.dev.as_deref() == Some(&*format!("e{number}")));
            let is_down =
                |next_hop: &NextHopState| matches!(next_hop.state, Resolution::LinkDown | Resolution::NoRoute);
            Ok((down.any(is_down) || there.any(|next_hop| next_hop.state == Resolution::NoRoute)).then_some(()))
        })?;
        let without = bench.paths(&flows)?;
        let moves = moved(&all, &without);
        ensure!(
            moves.len() == count(&all, number - 1) && moves.iter().all(|&(was, _)| was == number - 1),
            "without {number}: {moves:?}"
        );
        ensure!(bench.paths(&singles)? == others, "without {number}");
        let netns = bench.router.netns();
        netns.ip(&format!("link set dev e{number} up"))?;
        // The kernel removes IPv6 addresses when the link goes down.
        netns.ip(&format!("address replace 2001:db8:{number}::1/64 dev e{number} nodad"))?;
        bench.router.wait_resolved()?;
        ensure!(bench.paths(&flows)? == all, "not all are where they were");
    }
    bench.router.unload()
}

/// The same neighbours with a backup, with their interfaces, with other labels: no flow moves.
fn said_otherwise() -> Result<()> {
    let bench = Bench::new(4)?;
    // A history, so that buckets are not in the order of members.
    for weights in [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]] {
        bench.group("replace", 100, &weights)?;
    }
    let flows = bench.flows(1000)?;
    let before = bench.paths(&flows)?;
    let members = |more: &dyn Fn(usize) -> String| -> String {
        let members =
            (1..=4).map(|number| format!(" nexthop as {} via inet 10.0.{number}.2{}", 200 + number, more(number)));
        members.collect()
    };
    for more in [
        members(&|number| format!(" dev e{number}")),
        members(&|number| format!(" dev e{number} backup via inet 10.0.{}.2", number % 4 + 1)),
        members(&|number| format!(" backup via inet 10.0.{}.2", (number + 1) % 4 + 1)),
        members(&|_| String::new()),
    ] {
        bench.router.run(&format!("route replace 100{more}"))?;
        bench.router.wait_resolved()?;
        let moves = moved(&before, &bench.paths(&flows)?);
        ensure!(moves.is_empty(), "{more}: {} flows moved", moves.len());
    }
    bench.router.unload()
}

/// In the tables, a next hop with a backup differs from the one without; its MAC address is known before the route uses
/// it.
fn backup_changes() -> Result<()> {
    let bench = Bench::new(2)?;
    bench.router.run("route add 100 as 201 via inet 10.0.1.2")?;
    bench.router.wait_resolved()?;
    let flows = bench.flows(20)?;
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| -> Result<u64> {
        let sender = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                for flow in &flows {
                    bench.left.send(&flow.sent)?;
                    sent += 1;
                }
            }
            Ok(sent)
        });
        let changes = (0..10).try_for_each(|_| {
            for backup in ["", " backup via inet 10.0.2.2"] {
                bench
                    .router
                    .run(&format!("route replace 100 as 201 via inet 10.0.1.2{backup}"))?;
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().unwrap_or_else(|_| bail!("the sender panicked"));
        changes.and(sent)
    })?;
    wait::until("all frames", LIMIT, || {
        Ok((bench.router.forwarded("100")? == sent).then_some(()))
    })?;
    let unresolved = bench.router.dropped("unresolved")?;
    ensure!(unresolved == 0, "{unresolved} of {sent} frames waited");
    bench.router.unload()
}

fn saved() -> Result<()> {
    let bench = Bench::new(3)?;
    bench.group("add", 100, &[1, 2, 3])?;
    bench
        .router
        .run("route add 101 as 111 via inet 10.0.1.2 dev e1 backup via inet 10.0.2.2 dev e2")?;
    bench.router.run("route add 10.9.0.0/16 nexthop encap mpls 300 ttl 9 via inet 10.0.1.2 nexthop encap mpls 301/302 via inet 10.0.2.2 weight 5")?;
    bench.router.wait_resolved()?;
    let (saved, shown) = (bench.router.run("route save")?, bench.router.run("route show")?);
    let status = bench.router.run("status")?;
    let groups = status.lines().find(|line| line.starts_with("GROUPS"));
    let used = groups.and_then(|line| line.split_whitespace().nth(1));
    ensure!(used == Some("2"), "{status}");
    // The output also names the interfaces that were found.
    for text in [saved, shown.clone()] {
        bench.router.run("route flush all")?;
        bench.router.run_with("route restore", &text)?;
        bench.router.wait_resolved()?;
        ensure!(
            bench.router.run("route show")? == shown,
            "{}",
            bench.router.run("route show")?
        );
    }
    Ok(())
}
