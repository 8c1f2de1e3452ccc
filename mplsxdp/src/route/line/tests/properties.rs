//! Properties of lines, for any route and any text.

use std::num::NonZeroU8;

use mplsxdp_common::abi::{MAX_PUSH, TtlPropagate};
use mplsxdp_common::wire::Mac;
use proptest::prelude::*;

use super::*;
use crate::route::{
    Action, Attributes, Backup, MAX_WEIGHT, NextHop, OutLabels, PassReason, Path, PortName, Pseudowire, ServiceTag,
};

fn label() -> impl Strategy<Value = Label> {
    (16..=Label::MAX.get()).prop_map(Label::from_low_bits)
}

fn out_labels() -> impl Strategy<Value = OutLabels> {
    let label = prop_oneof![
        Just(Label::IPV4_EXPLICIT_NULL),
        Just(Label::IPV6_EXPLICIT_NULL),
        label()
    ];
    prop::collection::vec(label, 1..=MAX_PUSH).prop_map(|labels| OutLabels::new(labels).unwrap())
}

fn label_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        out_labels().prop_map(Action::Swap),
        Just(Action::Pop),
        Just(Action::PenultimatePop),
        Just(Action::Local),
        Just(Action::LocalPass),
        "[a-z][a-z0-9._-]{0,13}[a-z0-9]".prop_map(|name| Action::VrfPass(name.into())),
        port().prop_map(Action::CrossConnect),
        pass()
    ]
}

fn port() -> impl Strategy<Value = PortName> {
    "[a-z][a-z0-9_-]{0,13}[0-9](\\.[1-9][0-9]{0,3}){0,2}".prop_map(|name| PortName::new(&name).unwrap())
}

fn pseudowire() -> impl Strategy<Value = Pseudowire> {
    let service_tag = prop_oneof![
        Just(ServiceTag::Raw),
        Just(ServiceTag::Tagged),
        (0..4095_u16).prop_map(ServiceTag::Vlan)
    ];
    (any::<bool>(), any::<bool>(), service_tag).prop_map(|(control_word, flow_label, service_tag)| Pseudowire {
        control_word,
        flow_label,
        service_tag,
    })
}

fn pass() -> impl Strategy<Value = Action> {
    let reason = prop::option::of("\\PC{0,12}");
    reason.prop_map(|text| Action::Pass(text.and_then(|text| PassReason::new(&text))))
}

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0_u8..=32)
            .prop_map(|(bits, length)| { IpNet::V4(Ipv4Net::new(bits.into(), length).unwrap().trunc()) }),
        (any::<u128>(), 0_u8..=128)
            .prop_map(|(bits, length)| { IpNet::V6(Ipv6Net::new(bits.into(), length).unwrap().trunc()) }),
    ]
}

fn via() -> impl Strategy<Value = Via> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Via::Inet(bits.into())),
        any::<u128>().prop_map(|bits| Via::Inet6(bits.into())),
        any::<[u8; 6]>().prop_map(|bytes| Via::Link(Mac(bytes))),
    ]
}

fn next_hop() -> impl Strategy<Value = NextHop> {
    let dev = prop::option::of("[a-z][a-z0-9.@_-]{0,13}[0-9]".prop_map(Arc::from));
    (via(), dev).prop_map(|(via, dev)| NextHop { via, dev })
}

/// With actions of these kinds, for next hops and for backups.
fn paths(
    action: impl Strategy<Value = Action>,
    own: impl Strategy<Value = Action>,
) -> impl Strategy<Value = Vec<Path>> {
    let backup = (next_hop(), prop::option::of(own)).prop_map(|(next_hop, action)| Backup { next_hop, action });
    let path = (action, next_hop(), prop::option::weighted(0.3, backup), 1..=MAX_WEIGHT);
    let path = path.prop_map(|(action, next_hop, backup, weight)| Path {
        next_hop: (!action.has_no_next_hop()).then_some(next_hop),
        backup: backup.filter(|_| !action.has_no_next_hop()),
        action,
        weight,
    });
    (prop::collection::vec(path, 1..5), any::<bool>()).prop_map(|(mut paths, one)| {
        if one {
            paths.truncate(1);
        }
        paths
    })
}

fn any_route() -> impl Strategy<Value = Route> {
    let push = || {
        (out_labels(), any::<u8>()).prop_map(|(labels, ttl)| {
            let ttl = NonZeroU8::new(ttl);
            Action::Push { labels, ttl }
        })
    };
    let own = prop_oneof![4 => out_labels().prop_map(Action::Swap), 1 => Just(Action::PenultimatePop)];
    let table = prop_oneof![Just(None), Just(Some(254)), (1..=u32::MAX).prop_map(Some)];
    let fec = (prefix(), table).prop_map(|(prefix, table)| Fec::new(prefix, table.map(RoutingTable)));
    let what = prop_oneof![
        (label().prop_map(RouteKey::Label), paths(label_action(), own)),
        (
            fec.prop_map(RouteKey::Prefix),
            paths(prop_oneof![4 => push(), 1 => pass()], push())
        ),
        (port().prop_map(RouteKey::Attachment), paths(push(), push())),
    ];
    let propagate = prop_oneof![
        Just(TtlPropagate::Default),
        Just(TtlPropagate::Enabled),
        Just(TtlPropagate::Disabled)
    ];
    let attributes = (any::<u8>(), prop_oneof![Just(0), any::<u32>()]);
    let given = (what, propagate, attributes, pseudowire());
    given.prop_filter_map(
        "not a route",
        |((key, paths), propagate, (protocol, metric), pseudowire)| {
            let attributes = Attributes {
                protocol: Protocol(protocol),
                metric: if matches!(key, RouteKey::Prefix(_)) { metric } else { 0 },
            };
            let route = Route::with_paths(key, paths, propagate).ok()?;
            let route = match route.pseudowire() {
                Some(_) => route.with_pseudowire(pseudowire).ok()?,
                None => route,
            };
            route.with_attributes(attributes).ok()
        },
    )
}

proptest! {
    #[test]
    fn a_route_is_read_as_it_is_displayed(given in any_route()) {
        prop_assert_eq!(route(&given.to_string(), Family::Any), Ok(given));
    }

    #[test]
    fn a_route_crosses_the_control_socket(given in any_route()) {
        let json = serde_json::to_string(&wire::Route::from(&given)).unwrap();
        let read: wire::Route = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(read.check(), Ok(given));
    }

    #[test]
    fn no_line_is_too_odd_and_errors_stay_within_it(line in "[0-9a-z/:. é\t-]{0,60}") {
        if let Err(error) = route(&line, Family::Any) {
            prop_assert!(line.get(error.at.clone()).is_some());
            prop_assert!(error.point_out(&line).lines().count() == 2);
        }
    }
}
