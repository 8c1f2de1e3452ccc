//! The interface's definition and the types that are sent over the socket agree.

use std::fmt::Debug;

use mplsxdp::control::access::Access;
use mplsxdp::control::api::*;
use mplsxdp::route::pseudowire::GivenPseudowire;
use mplsxdp::route::{PortName, RouteKey, Source};
use mplsxdp_common::wire::Label;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use varlink_parser::{IDL, VStruct, VStructOrEnum, VType, VTypeExt};

fn definition() -> IDL<'static> {
    IDL::try_from(DEFINITION).unwrap()
}

/// Checks that a value is of a type.
fn check(idl: &IDL, vtype: &VTypeExt, value: &Value) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{value} is not {what}"));
    match vtype {
        VTypeExt::Option(inner) => check(idl, inner, value),
        VTypeExt::Array(inner) => match value.as_array() {
            Some(values) => values.iter().try_for_each(|value| check(idl, inner, value)),
            None => wrong("an array"),
        },
        VTypeExt::Dict(inner) => match value.as_object() {
            Some(values) => values.values().try_for_each(|value| check(idl, inner, value)),
            None => wrong("a dictionary"),
        },
        VTypeExt::Plain(VType::Bool) if value.is_boolean() => Ok(()),
        VTypeExt::Plain(VType::Int) if value.is_i64() || value.is_u64() => Ok(()),
        VTypeExt::Plain(VType::Float) if value.is_number() => Ok(()),
        VTypeExt::Plain(VType::String) if value.is_string() => Ok(()),
        VTypeExt::Plain(VType::Object) if value.is_object() => Ok(()),
        VTypeExt::Plain(VType::Typename(name)) => match &idl.typedefs[name].elt {
            VStructOrEnum::VStruct(fields) => {
                check_struct(idl, fields, value).map_err(|error| format!("{name}: {error}"))
            }
            VStructOrEnum::VEnum(names) => match value.as_str() {
                Some(given) if names.elts.contains(&given) => Ok(()),
                _ => wrong(name),
            },
        },
        _ => wrong("of this type"),
    }
}

/// Checks that a value has all fields of a structure, and no others.
fn check_struct(idl: &IDL, fields: &VStruct, value: &Value) -> Result<(), String> {
    let object = value.as_object().ok_or("not an object")?;
    let mut given: Vec<_> = object.keys().map(String::as_str).collect();
    let mut defined: Vec<_> = fields.elts.iter().map(|field| field.name).collect();
    given.sort_unstable();
    defined.sort_unstable();
    if given != defined {
        return Err(format!("fields {given:?}, defined as {defined:?}"));
    }
    fields.elts.iter().try_for_each(|field| {
        check(idl, &field.vtype, &object[field.name]).map_err(|error| format!("{}: {error}", field.name))
    })
}

/// `sample` has every field. Both sides must agree on their names and types, and on which can be left out.
fn agree<T: Serialize + DeserializeOwned + PartialEq + Debug>(what: &str, fields: &VStruct, sample: &T) {
    let value = serde_json::to_value(sample).unwrap();
    check_struct(&definition(), fields, &value).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(&serde_json::from_value::<T>(value.clone()).unwrap(), sample);
    for field in &fields.elts {
        let mut without = value.clone();
        without.as_object_mut().unwrap().remove(field.name);
        assert_eq!(
            serde_json::from_value::<T>(without).is_ok(),
            matches!(field.vtype, VTypeExt::Option(_)),
            "{what} without {}",
            field.name
        );
    }
}

fn agree_on_type<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    seen: &mut Vec<&'static str>,
    name: &'static str,
    sample: &T,
) {
    let VStructOrEnum::VStruct(fields) = &definition().typedefs[name].elt else {
        panic!("{name} is no structure")
    };
    agree(name, fields, sample);
    seen.push(name);
}

fn agree_on_enum<T: Serialize>(seen: &mut Vec<&'static str>, name: &'static str, values: &[T]) {
    let VStructOrEnum::VEnum(names) = &definition().typedefs[name].elt else {
        panic!("{name} is no enumeration")
    };
    assert_eq!(json!(values), json!(names.elts), "{name}");
    seen.push(name);
}

fn via() -> ViaAddress {
    ViaAddress {
        family: ViaFamily::Inet,
        host: "192.0.2.1".into(),
    }
}

fn route() -> Route {
    Route {
        label: Some(100),
        prefix: Some("10.0.0.0/8".parse().unwrap()),
        attachment: Some(port()),
        table: Some(1000),
        action: Some(RouteAction::Swap),
        out: Some(vec![110]),
        ttl: Some(5),
        ttl_propagate: Some(true),
        via: Some(via()),
        dev: Some("eth1".into()),
        backup: Some(backup()),
        nexthops: Some(vec![path()]),
        protocol: Some(Protocol(186)),
        metric: Some(20),
        reason: Some("a form that is not known".into()),
        pseudowire: Some(pseudowire()),
    }
}

fn port() -> PortName {
    PortName::new("eth1.100").unwrap()
}

fn pseudowire() -> GivenPseudowire {
    GivenPseudowire {
        control_word: Some(true),
        flow_label: Some(true),
        tagged: Some(true),
        vlan: Some(30),
    }
}

fn sync_source() -> SyncSource {
    SyncSource {
        peer: Some("127.0.0.1:40000".into()),
        audited_seconds: Some(1.5),
        differences: Some(1),
        ip_ttl_propagate: Some(false),
        default_ttl: Some(64),
        server: Some(fpm_server()),
        vty: Some(frr_vty()),
        ..SyncSource::default()
    }
}

fn frr_vty() -> FrrVty {
    FrrVty {
        socket: "/var/run/frr/zebra.vty".into(),
        answered_seconds: Some(2.5),
        took_seconds: Some(0.25),
        pseudowires: 1,
        failure: Some("there is no /var/run/frr/zebra.vty: zebra is not running".into()),
        ..FrrVty::default()
    }
}

fn fpm_server() -> FpmServer {
    FpmServer {
        dialect: Some("dplane_fpm_nl".into()),
        ..FpmServer::default()
    }
}

fn sync_difference() -> SyncDifference {
    SyncDifference {
        wanted: Some("100 as to 200 via inet 192.0.2.1 dev eth1".into()),
        installed: Some("100 as to 201 via inet 192.0.2.1 dev eth1".into()),
        ..SyncDifference::default()
    }
}

fn sync_check() -> SyncCheck {
    SyncCheck {
        differences: vec![sync_difference()],
        ..SyncCheck::default()
    }
}

fn path() -> Path {
    Path {
        action: Some(RouteAction::Swap),
        out: Some(vec![110]),
        ttl: Some(5),
        via: Some(via()),
        dev: Some("eth1".into()),
        backup: Some(backup()),
        weight: Some(2),
    }
}

fn backup() -> Backup {
    Backup {
        action: Some(RouteAction::Swap),
        out: Some(vec![300, 100]),
        ttl: Some(5),
        via: via(),
        dev: Some("eth2".into()),
    }
}

fn unreachable() -> UnreachableRoute {
    UnreachableRoute {
        key: key(),
        reason: "eth1 is down".into(),
    }
}

fn key() -> Key {
    Key {
        label: Some(100),
        prefix: Some("10.0.0.0/8".parse().unwrap()),
        attachment: Some(port()),
        table: Some(1000),
    }
}

fn next_hop() -> NextHopState {
    NextHopState {
        via: via(),
        dev: Some("eth1".into()),
        lladdr: Some("02:00:00:00:00:01".into()),
        state: Resolution::Resolved,
        redirect_lost: true,
        routes: 1,
        backup: Some(backup_state()),
        own_backups: true,
        kernel: Some(kernel_neighbor()),
    }
}

fn event() -> Event {
    Event {
        time: "2026-12-01T12:30:00.000123Z".into(),
        kind: EventKind::Route,
        change: Some(EventChange::Added),
        route: Some(installed_route()),
        key: Some(key()),
        neighbor: Some(next_hop()),
        link: Some(link()),
        exception: Some(exception()),
        left_out: Some(7),
        rate: Some(link_rate()),
    }
}

fn exception() -> Exception {
    Exception {
        port: "eth1".into(),
        reason: Some("ttl-expired".into()),
        outcome: "time-exceeded".into(),
        length: 62,
        labels: vec![StackEntry::default()],
        source: Some([192, 0, 2, 1].into()),
        destination: Some([192, 0, 2, 2].into()),
    }
}

fn captured_frame() -> CapturedFrame {
    CapturedFrame {
        time: "2026-12-01T12:30:00.000000123Z".into(),
        ifname: "eth1".into(),
        direction: Direction::In,
        verdict: "forwarded".into(),
        other: Some("eth2".into()),
        reason: Some("ttl-expired".into()),
        length: 62,
        data: "AQIDBA==".into(),
    }
}

fn link_rate() -> LinkRate {
    LinkRate {
        ifname: "eth1".into(),
        seconds: 1.0,
        rx_pps: Some(1.5),
        rx_bps: Some(1000.5),
        tx_pps: Some(1.5),
        tx_bps: Some(1000.5),
        reasons: vec![ReasonRate::default()],
    }
}

fn kernel_neighbor() -> KernelNeighbor {
    KernelNeighbor {
        state: "REACHABLE".into(),
        refcnt: 1,
        used: 12,
        confirmed: 3,
        updated: 4,
        probes: 1,
    }
}

fn backup_state() -> BackupState {
    BackupState {
        via: via(),
        dev: Some("eth2".into()),
        lladdr: Some("02:00:00:00:00:02".into()),
        state: Resolution::Resolved,
        in_use: true,
        redirect_lost: false,
    }
}

fn bucket_range() -> BucketRange {
    BucketRange { first: 0, last: 255 }
}

fn path_state() -> PathState {
    PathState {
        next_hop: next_hop(),
        buckets: Some(vec![bucket_range()]),
    }
}

fn traced_frame() -> TracedFrame {
    TracedFrame {
        ifname: "eth1".into(),
        frame: "0200".into(),
        text: "data 0200".into(),
    }
}

fn trace() -> Trace {
    Trace {
        arrived: traced_frame(),
        steps: vec![TraceStep {
            step: "label".into(),
            text: "label 100: no route".into(),
            rule: Some("RFC 3031 section 3.18".into()),
            route: Some(installed_route()),
        }],
        verdict: TraceVerdict::SlowPath,
        reason: Some("no-route".into()),
        description: Some("No route for the incoming label.".into()),
        rule: Some("RFC 3031 section 3.18".into()),
        sent: Some(traced_frame()),
        slow_path: vec![TracedAnswer {
            when: "now".into(),
            outcomes: vec![TracedOutcome {
                name: "unknown-label".into(),
                description: "Dropped.".into(),
            }],
            actions: vec![TracedAction {
                text: "sends by eth1".into(),
                sent: Some(traced_frame()),
            }],
        }],
    }
}

fn installed_route() -> InstalledRoute {
    InstalledRoute {
        route: route(),
        owner: "static".into(),
        standby: true,
        next_hop: Some(next_hop()),
        paths: Some(vec![path_state()]),
        passes: Some("no port is in VRF red".into()),
        problem: Some("eth2 is not a port".into()),
        backups: Some("frr".into()),
        counter: Some(Counter::default()),
    }
}

fn link() -> Link {
    Link {
        ifname: "eth1".into(),
        ifindex: Some(2),
        address: "02:00:00:00:00:01".into(),
        mtu: 1500,
        up: true,
        mode: "native".into(),
        link_id: 3,
        program_id: 4,
        put_back: 0,
        mpls: true,
        accept_labels: Some("100-199,300".parse().unwrap()),
        mpls_mtu: 1504,
        mpls_mtu_set: Some(1508),
        cross_connect: Some("eth2".into()),
        attachment: false,
        dscp_map: Some("46=5".parse().unwrap()),
        tc_map: Some("5=46".parse().unwrap()),
        tx_only: false,
        local: true,
        parent_only: false,
        parent: Some("eth0".into()),
        vlan: Some(vec![vlan_tag()]),
        peer: Some("eth0".into()),
        peer_netns: Some("/run/netns/r2".into()),
        redirect_target: Some(true),
        problem: Some("its interface is gone".into()),
        checksum: Checksum::Finish,
        counters: Some(link_counters()),
    }
}

fn link_counters() -> LinkCounters {
    LinkCounters {
        kernel: Some(KernelCounters::default()),
        reasons: vec![reason()],
    }
}

fn vlan_tag() -> VlanTag {
    VlanTag {
        protocol: "802.1Q".into(),
        id: 100,
    }
}

fn table() -> Table {
    Table {
        name: "ILM".into(),
        used: 1,
        capacity: 2,
        memory_bytes: 16,
    }
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        abi_version: 1,
        instance: "default".into(),
        pid: 1,
        uptime_seconds: 1,
        netns_inode: 1,
        mode: "native".into(),
        ttl_mode: "uniform".into(),
        tunnel_ttl: 255,
        tc_propagate: false,
        unknown: "punt".into(),
        icmp_via: "auto".into(),
        local: Some("mpls0".into()),
        links: 1,
        labels: 1,
        label_routes: 1,
        prefix_routes: 1,
        next_hops: 1,
        unresolved_next_hops: 1,
        tables: vec![table()],
        uncounted_routes: 1,
        log_lines_lost: 1,
        log_lines_left_out: 1,
        since: Some("2026-11-29T12:30:00Z".into()),
        netns: Some("r1".into()),
        config_file: Some("/etc/mplsxdp/pe1.toml".into()),
        ports: Some(vec!["eth1".into()]),
        preferences: Some([(Source::Fpm, 10)].into()),
        ip_ttl_propagate: Some(true),
        default_ttl: Some(255),
        frr_stale_seconds: Some(120),
        state: Some(SavedState {
            directory: "/var/lib/mplsxdp/default".into(),
            snapshot_bytes: 100,
            journal_bytes: 2000,
            failure: Some("cannot write the journal: No space left on device (os error 28)".into()),
            failing_since: Some("2026-11-29T12:30:00Z".into()),
        }),
    }
}

fn reason() -> ReasonCounter {
    ReasonCounter {
        port: "eth1".into(),
        reason: "no-route".into(),
        description: "No route for the incoming label.".into(),
        packets: 1,
        bytes: 100,
        policed: 1,
        unheard: 1,
    }
}

fn outcome() -> Outcome {
    Outcome {
        name: "time-exceeded".into(),
        description: "Answered by ICMP Time Exceeded.".into(),
        packets: 1,
    }
}

fn busy_route() -> BusyRoute {
    BusyRoute {
        route: installed_route(),
        packets_per_second: 0.5,
        bits_per_second: 0.5,
    }
}

fn unknown_label() -> UnknownLabel {
    UnknownLabel {
        port: "eth1".into(),
        label: 999,
        packets: 3,
        rate_pps: 0.6,
        idle_seconds: 1.0,
    }
}

fn stats() -> Stats {
    Stats {
        reasons: vec![reason()],
        slow_path: vec![outcome()],
        forwarded: Counter::default(),
        uncounted_routes: 1,
    }
}

#[test]
fn types() {
    let mut seen = Vec::new();
    agree_on_type(&mut seen, "Route", &route());
    agree_on_type(&mut seen, "Path", &path());
    agree_on_type(&mut seen, "Backup", &backup());
    agree_on_type(&mut seen, "Pseudowire", &pseudowire());
    agree_on_type(&mut seen, "RouteKey", &key());
    agree_on_type(&mut seen, "Via", &via());
    agree_on_type(&mut seen, "NextHopState", &next_hop());
    agree_on_type(&mut seen, "BackupState", &backup_state());
    agree_on_type(&mut seen, "PathState", &path_state());
    agree_on_type(&mut seen, "BucketRange", &bucket_range());
    agree_on_type(&mut seen, "InstalledRoute", &installed_route());
    agree_on_type(&mut seen, "Counter", &Counter::default());
    agree_on_type(&mut seen, "Link", &link());
    agree_on_type(&mut seen, "LinkCounters", &link_counters());
    agree_on_type(&mut seen, "KernelCounters", &KernelCounters::default());
    agree_on_type(&mut seen, "KernelNeighbor", &kernel_neighbor());
    agree_on_type(&mut seen, "VlanTag", &vlan_tag());
    agree_on_type(&mut seen, "Table", &table());
    agree_on_type(&mut seen, "SavedState", &status().state.unwrap());
    agree_on_type(&mut seen, "Status", &status());
    agree_on_type(&mut seen, "ReasonCounter", &reason());
    agree_on_type(&mut seen, "Outcome", &outcome());
    agree_on_type(&mut seen, "UnknownLabel", &unknown_label());
    agree_on_type(&mut seen, "BusyRoute", &busy_route());
    agree_on_enum(&mut seen, "BusyOrder", &[BusyOrder::Packets, BusyOrder::Bytes]);
    agree_on_type(&mut seen, "FrameTrace", &trace());
    agree_on_type(&mut seen, "TracedFrame", &traced_frame());
    agree_on_type(&mut seen, "TraceStep", &trace().steps[0]);
    agree_on_type(&mut seen, "TracedAnswer", &trace().slow_path[0]);
    agree_on_type(&mut seen, "TracedOutcome", &trace().slow_path[0].outcomes[0]);
    agree_on_type(&mut seen, "TracedAction", &trace().slow_path[0].actions[0]);
    let verdicts = [
        TraceVerdict::Forwarded,
        TraceVerdict::Kernel,
        TraceVerdict::SlowPath,
        TraceVerdict::Dropped,
    ];
    agree_on_enum(&mut seen, "TraceVerdict", &verdicts);
    agree_on_type(&mut seen, "Stats", &stats());
    agree_on_type(&mut seen, "Changes", &Changes::default());
    agree_on_type(&mut seen, "UnreachableRoute", &unreachable());
    agree_on_type(&mut seen, "SyncSource", &sync_source());
    agree_on_type(&mut seen, "FpmServer", &fpm_server());
    agree_on_type(&mut seen, "FrrVty", &frr_vty());
    agree_on_type(&mut seen, "SyncCheck", &sync_check());
    agree_on_type(&mut seen, "SyncDifference", &sync_difference());
    let states = [
        SyncState::Waiting,
        SyncState::Syncing,
        SyncState::Synced,
        SyncState::Lost,
        SyncState::Stale,
    ];
    agree_on_enum(&mut seen, "SyncState", &states);
    use SyncProblem::{Different, Missing, OnlyDaemon, OnlyKernel, Stale};
    let problems = [Stale, Missing, Different, OnlyKernel, OnlyDaemon];
    agree_on_enum(&mut seen, "SyncProblem", &problems);
    agree_on_type(&mut seen, "Event", &event());
    agree_on_type(&mut seen, "Exception", &exception());
    agree_on_type(&mut seen, "StackEntry", &StackEntry::default());
    agree_on_type(&mut seen, "LinkRate", &link_rate());
    agree_on_type(&mut seen, "ReasonRate", &ReasonRate::default());
    agree_on_enum(&mut seen, "EventKind", EventKind::ALL);
    agree_on_type(&mut seen, "CapturedFrame", &captured_frame());
    agree_on_enum(&mut seen, "Direction", &[Direction::In, Direction::Out]);
    let changes = [EventChange::Added, EventChange::Changed, EventChange::Deleted];
    agree_on_enum(&mut seen, "EventChange", &changes);
    agree_on_enum(&mut seen, "Checksum", &[Checksum::Finish, Checksum::Trust]);
    let operations = [VlanOperation::Translate, VlanOperation::Pop, VlanOperation::Push];
    agree_on_enum(&mut seen, "VlanOperation", &operations);
    agree_on_enum(&mut seen, "Source", &Source::ALL);
    agree_on_enum(
        &mut seen,
        "Family",
        &[Family::Mpls, Family::Inet, Family::Inet6, Family::Xconnect],
    );
    agree_on_enum(
        &mut seen,
        "ViaFamily",
        &[ViaFamily::Inet, ViaFamily::Inet6, ViaFamily::Link],
    );
    use RouteAction::{Local, LocalPass, Pass, PenultimatePop, Pop, Push, Swap, VrfPass, Xconnect};
    agree_on_enum(
        &mut seen,
        "RouteAction",
        &[
            Swap,
            Pop,
            PenultimatePop,
            Local,
            LocalPass,
            VrfPass,
            Xconnect,
            Push,
            Pass,
        ],
    );
    use Resolution::{
        BadMac, Failed, Incomplete, LinkDown, Local as OwnAddress, NoArp, NoRoute, NoSuchDev, NotAPort, Resolved,
        Static,
    };
    agree_on_enum(
        &mut seen,
        "Resolution",
        &[
            Resolved, Static, Incomplete, Failed, BadMac, NoRoute, LinkDown, NotAPort, NoArp, NoSuchDev, OwnAddress,
        ],
    );
    seen.sort_unstable();
    assert_eq!(seen, definition().typedefs.keys().copied().collect::<Vec<_>>());
}

#[test]
fn methods() {
    let idl = definition();
    let name = || "eth1".to_owned();
    let routes = Routes { routes: vec![route()] };
    let prefix = key().prefix;
    let flush = FlushRoutes {
        all: Some(true),
        family: Some(Family::Mpls),
        label: Some(100),
        prefix,
        attachment: Some(port()),
        table: Some(1000),
        within: prefix,
        covering: prefix,
        protocol: Some(Protocol(186)),
        via: Some(via()),
        dev: Some("eth1".into()),
        owner: Some(Source::Static),
    };
    let list = ListRoutes {
        counters: Some(true),
        standby: Some(true),
        ..flush.clone().into()
    };
    let route_list = RouteList {
        routes: vec![installed_route()],
    };
    let owner = Some(Source::Static);
    let keys = Keys {
        keys: vec![route()],
        owner,
    };
    let owned = OwnedRoutes {
        routes: vec![route()],
        owner,
    };
    let add_link = AddLink {
        ifname: name(),
        tx_only: Some(true),
        accept_labels: Some("100-199,300".parse().unwrap()),
        mpls_mtu: Some("1508".parse().unwrap()),
        dscp_map: Some("46=5".parse().unwrap()),
        tc_map: Some("5=46".parse().unwrap()),
        checksum: Some(Checksum::Trust),
    };
    let set_link = SetLink {
        ifname: name(),
        mpls: Some(true),
        accept_labels: Some("all".parse().unwrap()),
        mpls_mtu: Some("default".parse().unwrap()),
        dscp_map: Some("default".parse().unwrap()),
        tc_map: Some("5=46".parse().unwrap()),
    };
    let add_cross_connect = AddCrossConnect {
        ifname: name(),
        to: name(),
        vlan: Some(VlanOperation::Translate),
        one_way: Some(true),
    };
    let delete_cross_connect = DeleteCrossConnect {
        ifname: name(),
        to: Some(name()),
        one_way: Some(true),
    };
    let neighbors = NeighborList {
        neighbors: vec![next_hop()],
    };
    let get_busiest = GetBusiestRoutes {
        count: Some(3),
        milliseconds: Some(100),
        order: Some(BusyOrder::Bytes),
    };
    let busiest = BusiestRoutes {
        seconds: 0.5,
        routes: vec![busy_route()],
    };
    let unknown = UnknownLabels {
        labels: vec![unknown_label()],
    };
    let mut seen = Vec::new();
    macro_rules! method {
        ($name:literal, $input:expr, $output:expr) => {
            agree(concat!($name, " in"), &idl.methods[$name].input, &$input);
            agree(concat!($name, " out"), &idl.methods[$name].output, &$output);
            seen.push($name);
        };
    }
    let config = ConfigReply {
        config: [("hold".to_owned(), json!(7))].into(),
    };
    method!("GetStatus", Nothing {}, StatusReply { status: status() });
    method!("GetConfig", Nothing {}, config);
    method!(
        "GetSync",
        Nothing {},
        SyncReply {
            sources: vec![sync_source()]
        }
    );
    let checks = vec![sync_check()];
    method!("CheckSync", CheckSync { repair: Some(true) }, SyncChecks { checks });
    method!("ListRoutes", list, route_list);
    let changed = Changed {
        warnings: vec![name()],
        ..Changed::default()
    };
    method!("AddRoutes", owned, changed);
    method!("ChangeRoutes", owned, changed);
    method!("ReplaceRoutes", owned, changed);
    let get = GetRoute {
        label: Some(100),
        prefix,
        attachment: Some(port()),
        address: Some([192, 0, 2, 1].into()),
        table: Some(1000),
    };
    let route_reply = RouteReply {
        route: installed_route(),
    };
    method!("GetRoute", get, route_reply);
    method!("GetVrf", GetVrf { name: name() }, Vrf { table: 1000 });
    method!("DeleteRoutes", keys, Changed::default());
    method!("FlushRoutes", flush, Changed::default());
    method!(
        "Begin",
        Begin {
            replace_all: true,
            owner
        },
        Nothing {}
    );
    method!("Stage", routes, Staged { staged: 1 });
    let committed = Committed {
        changes: Changes::default(),
        unreachable: vec![unreachable()],
        unreachable_total: 1,
        warnings: vec![name()],
    };
    let commit = Commit {
        allow_empty: Some(true),
    };
    method!("Commit", commit, committed);
    method!("Rollback", Nothing {}, Nothing {});
    let with_counters = WithCounters { counters: Some(true) };
    method!("ListLinks", with_counters, LinkList { links: vec![link()] });
    method!("AddLink", add_link, Nothing {});
    method!("DeleteLink", DeleteLink { ifname: name() }, Nothing {});
    method!("SetLink", set_link, Nothing {});
    method!("AddCrossConnect", add_cross_connect, Nothing {});
    method!("DeleteCrossConnect", delete_cross_connect, Nothing {});
    method!("ListNeighbors", with_counters, neighbors);
    method!("GetStats", GetStats { all: Some(true) }, StatsReply { stats: stats() });
    method!("GetBusiestRoutes", get_busiest, busiest);
    method!("GetUnknownLabels", Nothing {}, unknown);
    let traced = TraceFrame {
        ifname: name(),
        frame: "00".repeat(14),
    };
    method!("Trace", traced, TraceReply { trace: trace() });
    let lsp_ping = LspPing {
        prefix: Some(name()),
        labels: Some(vec![100]),
        via: Some(name()),
        dev: Some(name()),
        source: Some(name()),
        source_port: 40000,
        destination: name(),
        ttl: 255,
        payload: name(),
        dry_run: Some(true),
    };
    let sent = LspPingSent {
        dev: name(),
        via: Some(name()),
        labels: vec![100],
        source: name(),
    };
    method!("SendLspPing", lsp_ping, sent);
    let monitor = Monitor {
        kinds: Some(vec![EventKind::Rate]),
        interval_ms: Some(500),
    };
    let events = Events {
        lost: Some(1),
        events: vec![event()],
    };
    method!("Monitor", monitor, events);
    let capture = Capture {
        reasons: Some(vec![name()]),
        ifname: Some(name()),
        label: Some(100),
        sample: Some(1000),
    };
    let frames = Frames {
        lost: Some(1),
        frames: vec![captured_frame()],
    };
    method!("Capture", capture, frames);
    method!("Confirm", Nothing {}, Nothing {});
    method!("Upgrade", Nothing {}, Nothing {});
    method!("Unload", Nothing {}, Nothing {});
    seen.sort_unstable();
    assert_eq!(seen, idl.methods.keys().copied().collect::<Vec<_>>());
    // Each has its access declared.
    let mut declared: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
    declared.sort_unstable();
    assert_eq!(declared, seen);
}

/// What the definition and the document say about the class that may only read.
#[test]
fn methods_that_only_read() {
    const DOCUMENT: &str = include_str!("../../docs/control-socket.md");
    let reading = Method::ALL.iter().filter(|method| method.access() == Access::Read);
    let mut reading: Vec<&str> = reading.map(|method| method.name()).collect();
    reading.sort_unstable();
    let texts = [
        (DEFINITION.replace("\n# ", " "), "may use those that only read: "),
        (DOCUMENT.replace('`', ""), "use the calls that only read: "),
    ];
    for (text, beginning) in &texts {
        let (_, after) = text.split_once(beginning).unwrap();
        let (list, _) = after
            .split_once(" without repair")
            .or_else(|| after.split_once(" without `repair`"))
            .unwrap();
        let words = list.split([',', ' ']);
        let mut named: Vec<&str> = words.filter(|word| !word.is_empty() && *word != "and").collect();
        named.sort_unstable();
        assert_eq!(named, reading, "{beginning}");
    }
}

#[test]
fn errors() {
    let idl = definition();
    let key = RouteKey::Label(Label::from_low_bits(100));
    let text = String::new;
    let errors: [Error; 20] = [
        Refusal::RouteExists { key, route: text() }.into(),
        Refusal::NoSuchRoute { key }.into(),
        Refusal::NoSuchVrf {
            name: text(),
            reason: text(),
        }
        .into(),
        Refusal::RouteForeign { key, owner: text() }.into(),
        Refusal::RouteDiffers { key, route: text() }.into(),
        Refusal::RouteRefused {
            index: 0,
            parameter: Some(text()),
            reason: text(),
        }
        .into(),
        Refusal::NoSuchLink {
            ifname: text(),
            hint: text(),
        }
        .into(),
        Refusal::UpgradeRefused { reason: text() }.into(),
        Refusal::CaptureRefused { reason: text() }.into(),
        Refusal::LspPingRefused { reason: text() }.into(),
        Refusal::LinkRefused {
            ifname: text(),
            reason: text(),
        }
        .into(),
        Error::InvalidMessage { reason: text() },
        Error::MessageTooLarge { limit: 1 },
        Error::PermissionDenied {
            group: text(),
            reason: text(),
        },
        Error::TooManyClients { limit: 1 },
        Error::TooManyPaths { limit: 1 },
        Error::TransactionOpen {},
        Error::NoTransaction {},
        Error::TransactionFailed { reason: text() },
        Error::ShuttingDown {},
    ];
    let mut seen = Vec::new();
    for error in &errors {
        let mut value = serde_json::to_value(error).unwrap();
        assert_eq!(&serde_json::from_value::<Error>(value.clone()).unwrap(), error);
        let name = value["error"]
            .as_str()
            .unwrap()
            .strip_prefix("io.mplsxdp.")
            .unwrap()
            .to_owned();
        // No key has all of its fields.
        if let Some(key) = value["parameters"].get_mut("key") {
            key["prefix"] = json!("10.0.0.0/8");
            key["attachment"] = json!("eth1");
            key["table"] = json!(1000);
        }
        check_struct(&idl, &idl.errors[name.as_str()].parm, &value["parameters"])
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        seen.push(name);
    }
    seen.sort_unstable();
    assert_eq!(seen, idl.errors.keys().copied().collect::<Vec<_>>());
}
