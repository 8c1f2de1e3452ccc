use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use mplsxdp_common::abi::{MAX_CHUNKS, Op, TtlPropagate};
use proptest::prelude::*;

use super::*;

impl Memory for Arc<Heap> {
    fn root(&self, index: u32) -> &AtomicU64 {
        Heap::root(self, index)
    }

    fn chunk(&self, index: u32) -> Option<&[AtomicU64]> {
        Heap::chunk(self, index)
    }
}

fn trie(chunks: u32) -> Trie<Arc<Heap>> {
    let mut trie = Trie::new(Arc::<Heap>::default());
    for index in 0..chunks {
        assert!(trie.memory().grow(index));
        trie.add_chunk(index);
    }
    trie
}

impl Trie<Arc<Heap>> {
    /// Has readers find everything that was written.
    fn publish(&mut self) {
        assert!(self.publish_step(&mut |_| true));
    }

    /// Publishes everything, and returns what is not read any more.
    fn retired(&mut self) -> Vec<Block> {
        self.publish();
        self.take_retired()
    }

    /// Publishes one node.
    fn publish_one(&mut self) -> bool {
        self.publish_step(&mut |_| false)
    }
}

/// Different for each number; also the entry that many have.
fn entry(number: u32) -> RouteEntry {
    match number % 4 {
        0 => RouteEntry::PASS,
        _ => RouteEntry::new(Op::Label, TtlPropagate::Default, 16 + number, 1, number),
    }
}

fn longest(prefixes: &BTreeMap<FtnKey, RouteEntry>, domain: Domain, address: IpAddr) -> RouteEntry {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let lengths = (0..=bits)
        .rev()
        .map(|length| IpNet::new(address, length).unwrap().trunc());
    let mut found = lengths.filter_map(|prefix| prefixes.get(&FtnKey::new(domain, prefix)));
    found.next().copied().unwrap_or_default()
}

/// Prefixes that often lie within each other, in two domains.
fn keys() -> impl Strategy<Value = FtnKey> {
    let bytes = prop::collection::vec(prop::sample::select(vec![0_u8, 1, 0x7f, 0x80, 0xff]), 16);
    let v4 = prop::sample::select(vec![0_u8, 1, 4, 7, 8, 9, 12, 15, 16, 17, 20, 23, 24, 25, 28, 31, 32]);
    let v6 = (0_u8..=128).prop_map(|length| if length % 3 == 0 { length } else { length / 8 * 8 });
    let families = (any::<bool>(), v4, v6);
    (prop::sample::select(vec![0_u8, 254]), bytes, families).prop_map(|(domain, bytes, (is_v4, v4, v6))| {
        let prefix = if is_v4 {
            let address: [u8; 4] = bytes[..4].try_into().unwrap();
            IpNet::new(Ipv4Addr::from(address).into(), v4)
        } else {
            let address: [u8; 16] = bytes[..].try_into().unwrap();
            IpNet::new(Ipv6Addr::from(address).into(), v6)
        };
        FtnKey::new(Domain(domain), prefix.unwrap().trunc())
    })
}

/// The first and last address of a prefix, and those beside it.
fn edges(prefix: IpNet) -> Vec<IpAddr> {
    match prefix {
        IpNet::V4(prefix) => {
            let (first, last) = (u32::from(prefix.network()), u32::from(prefix.broadcast()));
            let edges = [first, last, first.wrapping_sub(1), last.wrapping_add(1), first | 1];
            edges.map(|address| Ipv4Addr::from(address).into()).to_vec()
        }
        IpNet::V6(prefix) => {
            let (first, last) = (u128::from(prefix.network()), u128::from(prefix.broadcast()));
            let edges = [
                first,
                last,
                first.wrapping_sub(1),
                last.wrapping_add(1),
                first | 1 << 64,
            ];
            edges.map(|address| Ipv6Addr::from(address).into()).to_vec()
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(usize, u32),
    Remove(usize),
    Publish,
    /// Publish so many nodes.
    PublishSome(u8),
    Grace,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<usize>(), 0_u32..12).prop_map(|(key, number)| Step::Insert(key, number)),
        5 => any::<usize>().prop_map(Step::Remove),
        2 => Just(Step::Publish),
        2 => (1_u8..8).prop_map(Step::PublishSome),
        1 => Just(Step::Grace),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn every_address_has_the_entry_of_its_longest_prefix(
        keys in prop::collection::vec(keys(), 1..40),
        steps in steps(),
    ) {
        let mut trie = trie(1);
        // What was written since everything was published, beginning with what was published.
        let mut states = vec![BTreeMap::new()];
        for step in steps {
            let written = match step {
                Step::Insert(key, number) => {
                    let key = keys[key % keys.len()];
                    let waits = trie.needs_publishing(0) && key.prefix.prefix_len() > 0;
                    prop_assert_eq!(trie.insert(key, entry(number)).is_err(), waits);
                    (!waits).then_some((key, Some(entry(number))))
                }
                Step::Remove(key) => {
                    let key = keys[key % keys.len()];
                    let is_removed = trie.remove(key).is_ok();
                    prop_assert!(is_removed || trie.needs_publishing(0));
                    is_removed.then_some((key, None))
                }
                Step::Publish => {
                    trie.publish();
                    None
                }
                Step::PublishSome(nodes) => {
                    for _ in 0..nodes {
                        trie.publish_one();
                    }
                    None
                }
                Step::Grace => {
                    // Of nodes that may still be found there is none.
                    let retired = trie.take_retired();
                    trie.release(&retired);
                    None
                }
            };
            if let Some((key, entry)) = written {
                let mut state: BTreeMap<_, _> = states[states.len() - 1].clone();
                match entry {
                    Some(entry) => drop(state.insert(key, entry)),
                    None => drop(state.remove(&key)),
                }
                states.push(state);
            }
            if trie.is_published() {
                states.drain(..states.len() - 1);
            }
            let is_change = matches!(step, Step::Insert(..) | Step::Remove(_));
            for address in keys.iter().filter(|_| !is_change).flat_map(|key| edges(key.prefix)) {
                for domain in [Domain(0), Domain(254)] {
                    let found = look_up(trie.memory(), domain, address);
                    let mut answers = states.iter().map(|state| longest(state, domain, address));
                    prop_assert!(answers.any(|answer| answer == found), "{} in {:?}: {:?}", address, domain, found);
                }
            }
        }
        trie.publish();
        for &key in &keys {
            trie.remove(key).unwrap();
            trie.publish();
        }
        let retired = trie.retired();
        trie.release(&retired);
        // All of it has come back, and nothing is found.
        prop_assert_eq!(trie.free_lines(), CHUNK_LINES);
        prop_assert_eq!(trie.nodes.len(), trie.unused.len());
        for key in &keys {
            for address in edges(key.prefix) {
                prop_assert_eq!(look_up(trie.memory(), key.domain, address), RouteEntry::EMPTY);
            }
        }
    }
}

fn key(prefix: &str) -> FtnKey {
    FtnKey::new(Domain::NO_VRF, prefix.parse().unwrap())
}

#[test]
fn a_write_without_room_is_refused_and_changes_nothing() {
    let mut trie = trie(0);
    assert_eq!(trie.insert(key("10.0.0.0/8"), entry(1)), Err(Full));
    assert!(trie.memory().grow(0));
    trie.add_chunk(0);
    let mut written = 0;
    loop {
        // Nothing comes back: the retired nodes take room.
        let write =
            |trie: &mut Trie<_>| trie.insert(FtnKey::new(Domain::NO_VRF, prefix(written)), entry(written * 4 + 1));
        if write(&mut trie).is_err() {
            assert!(trie.needs_publishing(INSERT_NODES) || trie.is_published());
            trie.publish();
            if write(&mut trie).is_err() {
                break;
            }
        }
        written += 1;
    }
    trie.publish();
    let found = |trie: &Trie<Arc<Heap>>, number| look_up(trie.memory(), Domain::NO_VRF, prefix(number).addr());
    for number in 0..written {
        assert_eq!(found(&trie, number), entry(number * 4 + 1));
    }
    assert_eq!(found(&trie, written), RouteEntry::EMPTY);
    assert!(written > 500, "{written} prefixes in a chunk");
    // A few removals always find room.
    trie.remove(FtnKey::new(Domain::NO_VRF, prefix(0))).unwrap();
    let retired = trie.retired();
    assert!(!retired.is_empty());
    trie.release(&retired);
    trie.insert(FtnKey::new(Domain::NO_VRF, prefix(written)), entry(1))
        .unwrap();
    trie.publish();
    assert_eq!(found(&trie, written), entry(1));
    assert_eq!(found(&trie, 0), RouteEntry::EMPTY);
}

/// A /24 for each number, far from its neighbours.
fn prefix(number: u32) -> IpNet {
    let address = Ipv4Addr::from(number.reverse_bits() & 0xffff_ff00 | (number >> 24) << 8);
    IpNet::new(address.into(), 24).unwrap().trunc()
}

/// The prefixes that cover an address, long ones first.
fn covering(address: IpAddr, lengths: &[u8]) -> Vec<IpNet> {
    lengths
        .iter()
        .map(|&length| IpNet::new(address, length).unwrap().trunc())
        .collect()
}

#[test]
fn every_look_up_during_changes_finds_an_old_or_a_new_answer() {
    // The prefix of each length has one of two entries, and some come and go. What covers all of them stays, so that no
    // address is ever without an answer; and the longest of all stays a while.
    let watched: [IpAddr; 2] = ["10.1.2.3".parse().unwrap(), "2001:db8:1:2:3:4:5:6".parse().unwrap()];
    let lengths: [&[u8]; 2] = [&[32, 28, 24, 20, 16, 12, 8, 0], &[128, 100, 64, 56, 48, 32, 20, 0]];
    let mut trie = trie(2);
    let domain = Domain::NO_VRF;
    let memory = Arc::clone(trie.memory());
    let stop = Arc::new(AtomicBool::new(false));
    let bit = |which: usize, length: u8, version: u32| {
        let at = lengths[which].iter().position(|&other| other == length).unwrap();
        at as u32 * 2 + version
    };
    let coded = |number: u32| RouteEntry::new(Op::Label, TtlPropagate::Default, number, 1, 0);
    for which in [0, 1] {
        let widest = *lengths[which].last().unwrap();
        trie.insert(
            FtnKey::new(domain, covering(watched[which], &[widest])[0]),
            coded(bit(which, widest, 0)),
        )
        .unwrap();
    }
    trie.publish();
    // Each change is counted when it begins and when it is over, and the log has the right answer after it. What a
    // look-up found must be right before, between or after the changes that it overlapped.
    let log: Arc<[std::sync::Mutex<Vec<u32>>; 2]> = Arc::default();
    let changes: Arc<[AtomicU32; 2]> = Arc::default();
    for which in [0, 1] {
        log[which]
            .lock()
            .unwrap()
            .push(bit(which, *lengths[which].last().unwrap(), 0));
    }
    let readers: Vec<_> = [0, 1]
        .into_iter()
        .map(|which| {
            let (memory, stop, changes) = (Arc::clone(&memory), Arc::clone(&stop), Arc::clone(&changes));
            std::thread::spawn(move || {
                let mut seen: Vec<(u32, u32, u32)> = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let before = changes[which].load(Ordering::SeqCst);
                    let found = look_up(&memory, domain, watched[which]);
                    let after = changes[which].load(Ordering::SeqCst);
                    assert_eq!(found.op(), Op::Label, "no answer");
                    let observed = (before, after, found.operand());
                    if seen.last() != Some(&observed) {
                        seen.push(observed);
                    }
                }
                seen
            })
        })
        .collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut present: [BTreeMap<u8, u32>; 2] = Default::default();
    for which in [0, 1] {
        present[which].insert(*lengths[which].last().unwrap(), 0);
    }
    for _ in 0..60_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let which = (random >> 8) as usize % 2;
        let length = lengths[which][(random >> 16) as usize % lengths[which].len()];
        let version = (random >> 24) as u32 % 2;
        let key = FtnKey::new(domain, covering(watched[which], &[length])[0]);
        let is_widest = lengths[which].last() == Some(&length);
        let mut after = present[which].clone();
        if (random >> 32).is_multiple_of(3) && !is_widest {
            after.remove(&length);
        } else {
            after.insert(length, version);
        }
        let (&longest, &newest) = after.last_key_value().unwrap();
        log[which].lock().unwrap().push(bit(which, longest, newest));
        changes[which].fetch_add(1, Ordering::SeqCst);
        // Others beside it, so that nodes are copied.
        let beside = FtnKey::new(domain, beside(watched[which], (random >> 40) as u16));
        match (random >> 56) % 2 {
            0 => trie.insert(beside, coded(99)).unwrap(),
            _ => trie.remove(beside).unwrap(),
        }
        match after.get(&length) {
            Some(&version) => trie.insert(key, coded(bit(which, length, version))).unwrap(),
            None => trie.remove(key).unwrap(),
        }
        if (random >> 60).is_multiple_of(2) {
            while !trie.publish_one() {}
        } else {
            trie.publish();
        }
        changes[which].fetch_add(1, Ordering::SeqCst);
        present[which] = after;
        // Memory is not reused while a reader may be on its way: the test waits for none, so it keeps all.
        if trie.room() < 100 {
            let index = trie.chunks();
            assert!(index < MAX_CHUNKS);
            assert!(trie.memory().grow(index));
            trie.add_chunk(index);
        }
    }
    stop.store(true, Ordering::SeqCst);
    for (which, reader) in readers.into_iter().enumerate() {
        let seen = reader.join().unwrap();
        let log = log[which].lock().unwrap();
        for (before, after, found) in seen {
            // Change N makes the count 2N - 1 when it begins and 2N when it is over, and its answer is log[N].
            let (first, last) = (before as usize / 2, (after as usize).div_ceil(2));
            assert!(
                log[first..=last].contains(&found),
                "{found} while the right answers were {:?}",
                &log[first..=last]
            );
        }
    }
}

/// A prefix that covers all others concerns every node, and what is written is bounded in each step.
#[test]
fn a_short_prefix_over_many_is_published_in_steps() {
    const PREFIXES: u32 = 40_000;
    const STEP: usize = 200;
    let mut trie = trie(32);
    for number in 0..PREFIXES {
        trie.insert(FtnKey::new(Domain::NO_VRF, prefix(number)), entry(1))
            .unwrap();
        if number % 512 == 0 {
            let retired = trie.retired();
            trie.release(&retired);
        }
    }
    let retired = trie.retired();
    trie.release(&retired);
    let free = trie.free_lines();
    // One beside each prefix, which only the short one covers.
    let beside: Vec<IpAddr> = (0..PREFIXES)
        .map(|number| match prefix(number).addr() {
            IpAddr::V4(address) => IpAddr::from(Ipv4Addr::from(u32::from(address) ^ 0x0000_8000)),
            other => other,
        })
        .collect();
    let found = |trie: &Trie<Arc<Heap>>, wanted: RouteEntry| {
        let is_wanted = |address: &&IpAddr| look_up(trie.memory(), Domain::NO_VRF, **address) == wanted;
        beside.iter().filter(is_wanted).count()
    };
    let [low, high] = ["0.0.0.0/1", "128.0.0.0/1"].map(key);
    for (version, old) in [
        (Some(entry(2)), RouteEntry::EMPTY),
        (Some(entry(3)), entry(2)),
        (None, entry(3)),
    ] {
        let outside = beside.len() - found(&trie, old);
        for key in [low, high] {
            match version {
                Some(entry) => trie.insert(key, entry).unwrap(),
                None => trie.remove(key).unwrap(),
            }
        }
        let new = version.unwrap_or(RouteEntry::EMPTY);
        let mut steps = 0;
        let mut followed = 0;
        loop {
            let (mut spent, mut most) = (0, 0);
            let is_published = trie.publish_step(&mut |cost| {
                (spent, most) = (spent + cost, most.max(cost));
                spent < STEP
            });
            // A node looks at each of its children, which are 256 at most.
            assert!(spent < STEP + most && most <= NODE_COST + CELLS / CHILDREN_EACH);
            steps += 1;
            if steps % 100 == 0 || is_published {
                let now = found(&trie, new);
                assert_eq!(now + found(&trie, old) + outside, beside.len());
                assert!(now >= followed);
                followed = now;
            }
            if is_published {
                break;
            }
            assert!(trie.take_retired().is_empty());
        }
        assert!(steps > 100, "{steps} steps");
        assert_eq!((followed, trie.free_lines()), (beside.len() - outside, free));
        assert!(trie.take_retired().is_empty(), "nodes are changed in place");
    }
}

/// A prefix that shares most bytes with an address.
fn beside(address: IpAddr, number: u16) -> IpNet {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            let [high, low] = number.to_be_bytes();
            let (address, length) = match number % 3 {
                0 => ([a, b, c, high | 4], 32),
                1 => ([a, b, high | 4, low], 24),
                _ => ([a, high | 4, low, 0], 16),
            };
            IpNet::new(Ipv4Addr::from(address).into(), length).unwrap().trunc()
        }
        IpAddr::V6(address) => {
            let mut bytes = address.octets();
            let at = usize::from(number) % 14 + 2;
            bytes[at] = (number >> 8) as u8 | 0x40;
            IpNet::new(Ipv6Addr::from(bytes).into(), 8 * at as u8 + 8)
                .unwrap()
                .trunc()
        }
    }
}

/// A reader that counts the lines it reads.
struct Counting<'a> {
    reader: Reader<'a, Arc<Heap>>,
    lines: std::cell::RefCell<BTreeSet<u32>>,
}

impl Nodes for Counting<'_> {
    type Node = u32;

    fn node(&self, line: u32) -> Option<u32> {
        self.reader.node(line)
    }

    fn word(&self, node: u32, index: usize) -> u64 {
        self.lines.borrow_mut().insert(node + (index / LINE_WORDS) as u32);
        self.reader.word(node, index)
    }

    fn word_before(&self, node: u32) -> u64 {
        self.lines.borrow_mut().insert(node - 1);
        self.reader.word_before(node)
    }
}

/// The lines that a look-up of each address reads, on average, in hundredths, and at most.
fn lines_read(trie: &Trie<Arc<Heap>>, domain: Domain, addresses: &[IpAddr]) -> (usize, usize) {
    let counts = addresses.iter().map(|&address| {
        let (root, (high, low)) = match address {
            IpAddr::V4(address) => (domain.root_v4(), halves_v4(address.octets())),
            IpAddr::V6(address) => (domain.root_v6(), halves_v6(address.octets())),
        };
        let counting = Counting {
            reader: Reader(trie.memory()),
            lines: std::cell::RefCell::default(),
        };
        let first = trie.memory().root(root).load(Ordering::Acquire);
        longest_match(&counting, first, high, low);
        counting.lines.into_inner().len()
    });
    let counts: Vec<usize> = counts.collect();
    (
        100 * counts.iter().sum::<usize>() / counts.len(),
        counts.into_iter().max().unwrap(),
    )
}

/// So many prefixes, of lengths such as a full table has (in thousandths), and an address in each.
fn table(
    count: usize,
    lengths: &[(u32, u8)],
    draw: impl Fn(&mut dyn FnMut() -> u64, u8) -> IpAddr,
) -> Vec<(IpNet, IpAddr)> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let lengths: Vec<u8> = lengths
        .iter()
        .flat_map(|&(share, length)| std::iter::repeat_n(length, share as usize))
        .collect();
    let mut drawn = || {
        let length = lengths[random() as usize % lengths.len()];
        let address = draw(&mut random, length);
        (IpNet::new(address, length).unwrap().trunc(), address)
    };
    (0..count).map(|_| drawn()).collect()
}

/// What a full table costs: exact counts, so that a change that costs more is seen.
#[test]
fn a_look_up_in_a_full_table_reads_few_lines_and_the_table_is_small() {
    let v4_lengths = [
        (600, 24),
        (100, 23),
        (110, 22),
        (52, 21),
        (45, 20),
        (26, 19),
        (14, 18),
        (9, 17),
        (44, 16),
    ];
    let v4 = table(200_000, &v4_lengths, |random, _| {
        // A fifth of the addresses, so that a node has as many prefixes as in a table of a million.
        Ipv4Addr::from((random() as u32) >> 2 | 0x4000_0000).into()
    });
    let v6_lengths = [
        (470, 48),
        (110, 32),
        (90, 44),
        (85, 40),
        (50, 36),
        (70, 46),
        (70, 47),
        (30, 42),
        (25, 29),
    ];
    let v6 = table(60_000, &v6_lengths, |random, length| {
        let block = (random() % 6000).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 4 >> 32 << 32;
        let high = match length {
            ..36 => random() >> 4,
            _ => block | random() >> 32,
        };
        Ipv6Addr::from(u128::from(0x2 << 60 | high) << 64).into()
    });
    let costs = [v4, v6].map(|prefixes| {
        let mut trie = trie(64);
        let all = trie.free_lines();
        for (index, &(prefix, _)) in prefixes.iter().enumerate() {
            trie.insert(FtnKey::new(Domain::NO_VRF, prefix), entry(index as u32))
                .unwrap();
            if index.is_multiple_of(512) || index + 1 == prefixes.len() {
                let retired = trie.retired();
                trie.release(&retired);
            }
        }
        let addresses: Vec<IpAddr> = prefixes.iter().map(|&(_, address)| address).collect();
        let (average, most) = lines_read(&trie, Domain::NO_VRF, &addresses);
        let bytes_each = (all - trie.free_lines()) as usize * 64 / prefixes.len();
        (average, most, bytes_each)
    });
    // Hundredths of a line, lines, and bytes for each prefix.
    assert_eq!(costs, [(300, 3, 47), (470, 6, 113)]);
}

#[test]
fn chunks_without_nodes_are_taken_out_of_use() {
    let mut trie = trie(3);
    let key = |number| FtnKey::new(Domain::NO_VRF, prefix(number));
    let release = |trie: &mut Trie<Arc<Heap>>| {
        let retired = trie.retired();
        trie.release(&retired);
    };
    for number in 0..2000 {
        trie.insert(key(number), entry(1)).unwrap();
        release(&mut trie);
    }
    let (mut removed, free) = (Vec::new(), trie.free_lines());
    removed.extend(std::iter::from_fn(|| trie.remove_chunk()));
    assert_eq!((&*removed, trie.chunks()), (&[2, 1][..], 1));
    assert_eq!(trie.free_lines(), free - 2 * CHUNK_LINES);
    for number in 0..2000 {
        assert_eq!(look_up(trie.memory(), Domain::NO_VRF, prefix(number).addr()), entry(1));
        trie.remove(key(number)).unwrap();
        assert!(!trie.is_unused());
        release(&mut trie);
    }
    assert!(trie.is_unused());
    removed.extend(std::iter::from_fn(|| trie.remove_chunk()));
    assert_eq!((&*removed, trie.chunks(), trie.free_lines()), (&[2, 1, 0][..], 0, 0));
    assert_eq!(trie.insert(key(0), entry(1)), Err(Full));
    trie.add_chunk(1);
    assert!(trie.insert(key(0), entry(1)).is_ok());
    trie.publish();
    assert_eq!(look_up(trie.memory(), Domain::NO_VRF, prefix(0).addr()), entry(1));
}
