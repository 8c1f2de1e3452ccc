//! Compares `docs/map-abi.md` with the code: every map, number and size in its tables.

use mplsxdp::dataplane::loader::SHARED_MAPS;
use mplsxdp_common::abi::{
    ABI_VERSION, Adjacency, BUCKETS, CHUNK_LINES, CHUNK_WORDS, Counter, CrossConnect, DEFAULT_BACKUPS,
    DEFAULT_COUNTER_SLOTS, DEFAULT_GROUPS, DEFAULT_STACKS, Delivery, Domain, DscpToTc, Encapsulation, FTN_ROOTS,
    LABEL_RANGE_WORDS, LINE_WORDS, LabelRange, LabelStack, Loss, MAX_ADJACENCIES, MAX_CHUNKS, MAX_LABELS, MAX_PORTS,
    MAX_PSEUDOWIRES, MAX_QUEUES, MAX_VRFS, META_MAGIC, Meta, Op, PUNT_SLOTS, Police, PortWord, REASON_SLOTS,
    REDIRECT_LOST, REDIRECT_LOST_SLOT, Reason, RouteEntry, Settings, SubInterfaceKey, TRAFFIC_CLASS_WORDS, TcToDscp,
    TtlMode, TtlPropagate, UnknownPolicy, VlanTags, VrfWord, map,
};
use mplsxdp_common::ftn::{self, Shape};
use mplsxdp_common::wire::{ETH_P_8021AD, Label, Mac};

const DOCUMENT: &str = include_str!("../../docs/map-abi.md");

/// The rows of all tables, as cells.
fn rows() -> Vec<Vec<&'static str>> {
    let lines = DOCUMENT
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|-"));
    lines
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn every_map_is_there_with_its_sizes() {
    let value = |text: &str, size: usize| format!("[{text}](#{}), {size} bytes", text.replace(' ', "-"));
    let entry = value("route entry", size_of::<RouteEntry>());
    let counter = value("counter", size_of::<Counter>());
    let or = |default: u32, option: &str| format!("{default}, or `{option}`");
    let expected = [
        (map::ILM, "label, u32".into(), entry, or(MAX_LABELS, "--labels")),
        (
            map::ADJACENCIES,
            "next-hop index, u32".into(),
            value("adjacency", size_of::<Adjacency>()),
            MAX_ADJACENCIES.to_string(),
        ),
        (
            map::STACKS,
            "stack index, u32".into(),
            value("label stack", size_of::<LabelStack>()),
            or(DEFAULT_STACKS, "--stacks"),
        ),
        (
            map::GROUPS,
            "group index, u32".into(),
            value("group", BUCKETS * size_of::<RouteEntry>()),
            or(DEFAULT_GROUPS, "--groups"),
        ),
        (
            map::BACKUPS,
            "pair index, u32".into(),
            value("backup pair", 2 * size_of::<RouteEntry>()),
            or(DEFAULT_BACKUPS, "--backups"),
        ),
        (
            map::FTN_ROOTS,
            format!(
                "domain x {}, + {} for IPv6, u32",
                Domain(1).root_v4(),
                Domain(0).root_v6()
            ),
            "[root](#ftn), 8 bytes".into(),
            FTN_ROOTS.to_string(),
        ),
        (
            map::FTN,
            "chunk, u32".into(),
            format!("[chunk](#ftn), {} bytes", CHUNK_WORDS * size_of::<u64>()),
            MAX_CHUNKS.to_string(),
        ),
        (
            map::PORTS,
            "port number, u32".into(),
            value("port word", size_of::<PortWord>()),
            MAX_PORTS.to_string(),
        ),
        (
            map::LABEL_RANGES,
            "port number, u32".into(),
            value("label ranges", LABEL_RANGE_WORDS * size_of::<LabelRange>()),
            MAX_PORTS.to_string(),
        ),
        (
            map::CROSS_CONNECTS,
            "port number, u32".into(),
            value("cross-connect", size_of::<CrossConnect>()),
            MAX_PORTS.to_string(),
        ),
        (
            map::PSEUDOWIRES,
            "index, u32".into(),
            value("pseudowire", size_of::<CrossConnect>() + size_of::<Encapsulation>()),
            MAX_PSEUDOWIRES.to_string(),
        ),
        (
            map::ATTACHMENTS,
            "index, u32".into(),
            value("attachment", size_of::<RouteEntry>() + size_of::<Encapsulation>()),
            MAX_PSEUDOWIRES.to_string(),
        ),
        (
            map::TRAFFIC_CLASSES,
            "port number, u32".into(),
            value("traffic classes", TRAFFIC_CLASS_WORDS * size_of::<u64>()),
            MAX_PORTS.to_string(),
        ),
        (
            map::VRFS,
            "index, u32".into(),
            format!("[VRF word](#vrf-word), {} bytes", size_of::<VrfWord>()),
            MAX_VRFS.to_string(),
        ),
        (
            map::WAYS_OUT,
            "interface index, u32".into(),
            value("way out", size_of::<CrossConnect>()),
            MAX_PORTS.to_string(),
        ),
        (
            map::SUB_INTERFACES,
            "[VLAN identifiers](#sub-interface), u64".into(),
            "port number, u32".into(),
            MAX_PORTS.to_string(),
        ),
        (
            map::TX_PORTS,
            "port number, u32".into(),
            "interface index, u32".into(),
            MAX_PORTS.to_string(),
        ),
        (
            map::INTERFACES,
            "interface index, u32".into(),
            "port number, u32".into(),
            MAX_PORTS.to_string(),
        ),
        (
            map::XSKS,
            format!("port number x {MAX_QUEUES} + receive queue, u32"),
            "AF_XDP socket, u32".into(),
            (MAX_PORTS * MAX_QUEUES).to_string(),
        ),
        (
            map::POLICERS,
            format!("port number x {PUNT_SLOTS} + reason, u32"),
            value("policer", size_of::<u64>()),
            (MAX_PORTS * PUNT_SLOTS).to_string(),
        ),
        (
            map::ROUTE_COUNTERS,
            "CPU x slots + [counter slot](#counter), u32".into(),
            counter.clone(),
            format!("{}, for each CPU", or(DEFAULT_COUNTER_SLOTS, "--counter-slots")),
        ),
        (
            map::REASON_COUNTERS,
            format!("port number x {REASON_SLOTS} + reason, u32"),
            counter,
            (MAX_PORTS * REASON_SLOTS).to_string(),
        ),
        (
            map::DELIVERY,
            "0".into(),
            value("delivery", size_of::<Delivery>()),
            "1".into(),
        ),
        (map::META, "0".into(), value("meta", size_of::<Meta>()), "1".into()),
        (
            map::LOG_RECORDS,
            "".into(),
            "aya-log's records".into(),
            "131072 bytes".into(),
        ),
    ];
    assert_eq!(expected.each_ref().map(|(name, ..)| *name).as_slice(), SHARED_MAPS);
    let rows: Vec<_> = rows().into_iter().filter(|row| row.len() == 6).skip(1).collect();
    let documented: Vec<_> = rows
        .iter()
        .map(|row| (row[0].trim_matches('`'), row[3], row[4], row[5]))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, key, value, size)| (*name, &key[..], &value[..], &size[..]))
        .collect();
    assert_eq!(documented, expected);
}

#[test]
fn every_reason_is_there_with_its_number() {
    let expected: Vec<String> = Reason::ALL
        .iter()
        .map(|&reason| {
            let (number, name) = (reason as u8, reason.name());
            format!(
                "| {number} | `{name}` | {} | {} |",
                reason.description(),
                reason.source()
            )
        })
        .collect();
    let table = DOCUMENT
        .lines()
        .skip_while(|line| !line.starts_with("| number | name "))
        .skip(2);
    let documented: Vec<&str> = table.take_while(|line| line.starts_with('|')).collect();
    assert_eq!(documented, expected, "\nas they should be:\n{}\n", expected.join("\n"));
}

#[test]
fn what_is_punted_and_what_becomes_of_it_are_there() {
    // However its lines are wrapped.
    let document = DOCUMENT.split_whitespace().collect::<Vec<_>>().join(" ");
    let punted: Vec<_> = Reason::ALL.iter().filter(|reason| reason.is_punted()).collect();
    let expected = Reason::ALL[..7].iter().chain([&Reason::ChecksumFinished]);
    assert_eq!(punted, expected.collect::<Vec<_>>());
    assert!(document.contains("Reasons 1 to 7 are **punted**"));
    let policed = Reason::ALL.iter().filter(|reason| reason.is_policed());
    assert_eq!(policed.collect::<Vec<_>>(), Reason::ALL[..7].iter().collect::<Vec<_>>());
    let first = Loss::ALL[0].slot(Reason::ALL[0]) - 1;
    let formula = format!("entry P x {REASON_SLOTS} + {first} + {PUNT_SLOTS} x L + R");
    assert!(document.contains(&formula), "no `{formula}`");
    let lost = format!("Entry P x {REASON_SLOTS} + {REDIRECT_LOST_SLOT} counts");
    assert!(
        document.contains(&lost) && document.contains(&format!("`{REDIRECT_LOST}`")),
        "no `{lost}`"
    );
    for &loss in Loss::ALL {
        let row = format!("| {} | `{}` | {} |", loss as u8, loss.name(), loss.description());
        assert!(document.contains(&row), "no `{row}`");
        for &reason in &punted {
            // Frames that are not rate limited are in the slot that no reason has.
            let row = if reason.is_policed() { *reason as u32 } else { 0 };
            assert_eq!(loss.slot(*reason), first + PUNT_SLOTS * loss as u32 + row);
        }
    }
}

#[test]
fn numbers_bits_and_bytes_are_those_of_the_code() {
    let has = |line: String| {
        assert!(
            DOCUMENT.lines().any(|other| other.starts_with(&line)),
            "no line `{line}`"
        )
    };
    has(format!("ABI version: {ABI_VERSION}"));
    has(format!("| 0-3 | {META_MAGIC:#x}, \"MPLS\" |"));
    let ops = [
        Op::None,
        Op::Label,
        Op::Stack,
        Op::Pop,
        Op::PenultimatePop,
        Op::Local,
        Op::Pass,
        Op::Group,
        Op::LocalPass,
        Op::VrfPass,
        Op::Protected,
        Op::Pseudowire,
    ];
    let names = [
        "none",
        "label",
        "stack",
        "pop",
        "penultimate pop",
        "local",
        "pass",
        "group",
        "local or pass",
        "vrf or pass",
        "protected",
        "pseudowire",
    ];
    for (op, name) in ops.into_iter().zip(names) {
        has(format!("| {} {name} |", op as u8));
    }
    let (uniform, pipe, linux) = (TtlMode::Uniform as u8, TtlMode::Pipe as u8, TtlMode::Linux as u8);
    has(format!(
        "| 32-39 | TTL mode: {uniform} uniform, {pipe} pipe, {linux} linux |"
    ));
    let (mpls, impose, local, vlan) = (PortWord::MPLS, PortWord::IMPOSE, PortWord::LOCAL, PortWord::KERNEL_VLAN);
    has(format!(
        "| 6 | flags, u8: {mpls} labelled frames are accepted, {impose} IP is looked up in the FTN, {local} arriving frames are \
         this machine's own traffic, {vlan} the kernel has a VLAN device for this sub-interface, {} the domain has no entries, \
         {} of labels that are looked up, only those in a range of the port are accepted, {} the port has traffic classes, \
         {} every frame goes where the cross-connect says |",
        PortWord::NO_PREFIXES,
        PortWord::RANGES,
        PortWord::CLASSES,
        PortWord::CROSS_CONNECT
    ));

    // One field at a time, all ones: the bits must be those of the table.
    let bits = |row: &str| {
        let (low, high) = row.split_once('-').unwrap_or((row, row));
        let (low, high): (u32, u32) = (low.parse().unwrap(), high.parse().unwrap());
        (u64::MAX >> (63 - high)) & (u64::MAX << low)
    };
    let row = |starts: &str| {
        let row = rows()
            .into_iter()
            .find(|row| row.len() == 2 && row[1].starts_with(starts));
        bits(row.unwrap_or_else(|| panic!("no field `{starts}`"))[0])
    };
    let default = TtlPropagate::Default;
    assert_eq!(
        RouteEntry::new(Op::None, default, u32::MAX, 0, 0).to_bits(),
        row("operand")
    );
    assert_eq!(
        RouteEntry::new(Op::None, default, 0, u16::MAX, 0).to_bits(),
        row("next-hop index into")
    );
    assert_eq!(
        RouteEntry::new(Op::None, default, 0, 0, u32::MAX).to_bits(),
        row("counter slot")
    );
    assert_eq!(row("operation"), 0xf);
    for (propagate, number) in [(default, 0), (TtlPropagate::Enabled, 1), (TtlPropagate::Disabled, 2)] {
        assert_eq!(
            RouteEntry::new(Op::None, propagate, 0, 0, 0).to_bits(),
            number << row("TTL propagation").trailing_zeros()
        );
    }

    let mac = |first| Mac([first, first + 1, first + 2, first + 3, first + 4, first + 5]);
    let adjacency = Adjacency::new(mac(1), 0x0807, mac(9), 0x100f).words();
    let bytes: Vec<u8> = adjacency.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(bytes[..16], (1..=16).collect::<Vec<u8>>());
    assert_eq!(bytes[16..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 16, 0, 0]);
    let tags = VlanTags::two(0x1112, 0x314, 0x1516, 0x718);
    let adjacency = Adjacency::new(mac(1), 0x0807, mac(9), 0x100f)
        .with_tags(tags)
        .with_backup(Some(0x1a18))
        .with_one_buffer(true)
        .with_mpls_mtu(0x1e1d)
        .words();
    let bytes: Vec<u8> = adjacency.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(
        bytes[16..],
        [
            0x11, 0x12, 0x3, 0x14, 0x15, 0x16, 0x7, 0x18, 0x19, 0x1a, 8, 1, 0x1d, 0x1e, 0, 0
        ]
    );
    assert_eq!(
        SubInterfaceKey::new(0, 0, u16::MAX).to_bits(),
        row("VLAN identifier of the inner")
    );
    assert_eq!(
        SubInterfaceKey::new(0, u16::MAX, 0).to_bits(),
        row("VLAN identifier of the outer")
    );
    assert_eq!(
        SubInterfaceKey::new(u32::MAX, 0, 0).to_bits(),
        row("number of the port at")
    );
    assert_eq!(
        PortWord::new(mac(1), 7)
            .with_domain(Domain(9))
            .with_domain(Domain(8))
            .to_bits()
            .to_le_bytes(),
        [1, 2, 3, 4, 5, 6, 7, 8]
    );
    assert_eq!(
        LabelRange::new(Label::FIRST_ORDINARY, Label::MAX)
            .to_bits()
            .to_le_bytes(),
        [16, 0, 0, 0, 0xff, 0xff, 0xf, 0]
    );
    let cross = CrossConnect::new(u16::MAX, 0);
    let fields = [
        (cross, "outgoing port, an index into `TX_PORTS`; 0xffff"),
        (CrossConnect::new(0, u16::MAX), "the length of the longest frame"),
        (CrossConnect::new(0, 0).without_tags(3), "how many tags the frame loses"),
        (CrossConnect::new(0, 0).with_one_buffer(true), "1: the port cannot send"),
    ];
    for (cross, field) in fields {
        assert_eq!(cross.to_bits(), row(field), "{field}");
    }
    assert_eq!(CrossConnect::attachment_circuit(9).to_bits(), 1 << 63 | 9);
    let encapsulation = Encapsulation::new();
    let fields = [
        (encapsulation.with_control_word(true), "1: a control word"),
        (encapsulation.with_flow_label(true), "1: a flow label"),
        (
            encapsulation.without_tags(3),
            "how many tags the frame loses. Into a pseudowire",
        ),
        (encapsulation.with_tag(Some(0)), "1: the frame gets an 802.1Q tag"),
    ];
    for (encapsulation, field) in fields {
        assert_eq!(encapsulation.to_bits(), row(field), "{field}");
    }
    let with_tag = row("1: the frame gets an 802.1Q tag") | row("VLAN identifier of that tag");
    assert_eq!(encapsulation.with_tag(Some(0xfff)).to_bits(), with_tag);
    let added = [(ETH_P_8021AD, 0xfff), (ETH_P_8021AD, 0xfff)];
    let all = [
        "VLAN identifier of the tag",
        "VLAN identifier of the inner one",
        "TPID of the first",
        "TPID of the second",
    ];
    let all = all.into_iter().map(row).fold(0, |all, bits| all | bits);
    let two = 2 << row("how many tags it gets").trailing_zeros();
    assert_eq!(CrossConnect::new(0, 0).with_tags(&added).to_bits(), all | two);
    assert_eq!(
        TcToDscp::default().with(5, 46).to_bits().to_le_bytes(),
        [0, 0, 0, 0, 0, 0x80 | 46, 0, 0]
    );
    assert_eq!(DscpToTc::default().with(46, 5).to_words(), [0, 0, (8 | 5) << 56, 0]);
    has("| 7 | [domain](#ftn) of the FTN, u8 |".into());
    has(format!("| {} | in no VRF |", Domain::NO_VRF.0));
    has(format!(
        "| {} | in a VRF whose domain is not filled yet |",
        Domain::EMPTY.0
    ));
    assert_eq!((CHUNK_LINES, LINE_WORDS), (4096, 8));
    let key = 0x0a01_0203;
    assert_eq!(
        ftn::pointer(5, Shape::Runs(6), 2, key),
        0x0a01 << 48 | 5 << 10 | 2 << 7 | 3 << 4 | 15
    );
    assert_eq!(ftn::pointer(5, Shape::Direct, 0, key), 1 << 31 | 5 << 10 | 15);
    has("| 15 | | a [pointer](#ftn) to a node".into());
    has("| 4-6 | N: each line of the node is for 2^(3 + N) values".into());
    has(format!(
        "| 7-9 | number of bytes that are compared before the node's byte, 0 to {} |",
        ftn::MAX_SKIPPED
    ));
    has("| 10-30 | the node's first line |".into());
    has("| 31 | 1: the node is direct; N is 0 |".into());
    assert_eq!(
        ftn::begun(&[64, 128]),
        64 | 128 << 9 | (2..7).map(|field| 256 << (9 * field)).sum::<u64>()
    );
    has("| 0 | seven fields of nine bits".into());
    has(format!("| 1-{} | one word for each run |", ftn::RUNS));
    let settings = Settings::new(0x0403_0201, TtlMode::Linux, 77, true, true);
    assert_eq!(settings.to_bits().to_le_bytes(), [1, 2, 3, 4, 2, 77, 3, 0]);
    let (punt, drop, pass) = (
        UnknownPolicy::Punt as u8,
        UnknownPolicy::Drop as u8,
        UnknownPolicy::Pass as u8,
    );
    has(format!(
        "| 50-51 | a label without a route: {punt} punted, {drop} dropped, {pass} left to the kernel |"
    ));
    let pass = settings.with_unknown(UnknownPolicy::Pass).to_bits();
    assert_eq!(pass ^ settings.to_bits(), 2 << 50);
    has("| 52 | 1: there may be multi-buffer frames |".into());
    assert_eq!(settings.with_frags(true).to_bits() ^ settings.to_bits(), 1 << 52);
    has("| 53 | 1: the driver makes them".into());
    assert_eq!(settings.with_native_frags(true).to_bits() ^ settings.to_bits(), 1 << 53);
    let entropy = LabelStack::new(&[7, 500, 100].map(|label| Label::new(label).unwrap()), None).unwrap();
    let words: Vec<u8> = entropy.words().iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(words[8..20], [7, 0, 0, 0xff, 0xf4, 1, 0, 0, 100, 0, 0, 0xff]);
    assert_eq!(row("frames per second"), u64::from(u32::MAX));
    assert_eq!(row("frames at once"), u64::from(u32::MAX) << 32);
    assert_eq!(Police::new(0x0403_0201, 0x0807_0605).to_bits(), 0x0807_0605_0403_0201);
}
