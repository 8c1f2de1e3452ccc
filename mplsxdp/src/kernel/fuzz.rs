//! Properties of reading the kernel's messages that must hold for any bytes: [`netlink`] and [`netdev`] panic if one
//! does not.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::BytesMut;

use super::decoding::{events_of, take_message};
use super::netdev::{Device, read as read_netdev};
use crate::neighbour::Event;
use crate::neighbour::addresses::Addresses;
use crate::neighbour::resolver::Resolver;
use crate::neighbour::routes::KernelRoutes;

/// Checks these properties; `data` is a datagram. It is read to its end, message by message, or up to an impossible
/// length; a prefix of it reads the same as far as its messages are complete; and everything that keeps state accepts
/// the reports.
pub fn netlink(data: &[u8]) {
    let (events, taken) = read(data);
    let (same, _) = read(&data[..taken]);
    assert_eq!(events, same, "what comes later changes what came before");

    let (mut addresses, mut routes, mut resolver) = <(Addresses, KernelRoutes, Resolver)>::default();
    let (now, mut changed, mut actions) = (Instant::now(), BTreeSet::new(), Vec::new());
    for event in [Event::Reset].into_iter().chain(events).chain([Event::Synced]) {
        addresses.handle(&event);
        routes.handle(&event, &mut changed);
        resolver.handle(&event, now, &mut actions);
        if let Event::Route { route, .. } = &event {
            assert!(routes.get(route.prefix).any(|kept| kept == route));
        }
        if let Event::Link(link) = &event {
            assert_eq!(resolver.links().get(link.ifindex), Some(link));
        }
    }
}

/// The events of a datagram, and how many of its bytes were read.
fn read(datagram: &[u8]) -> (Vec<Event>, usize) {
    let mut rest = BytesMut::from(datagram);
    let mut events = Vec::new();
    while !rest.is_empty() {
        let before = rest.len();
        match take_message(&mut rest) {
            Ok(message) => {
                assert!(rest.len() < before, "nothing was taken");
                events.extend(message.into_iter().flat_map(|received| events_of(received, true)));
            }
            Err(_) => break,
        }
    }
    (events, datagram.len() - rest.len())
}

/// A device that is read from `data`, an answer of the netdev family, reads the same when it is encoded again.
pub fn netdev(data: &[u8]) {
    let Ok(Device { ifindex, xdp_features }) = read_netdev(data) else {
        return;
    };
    if let Some(ifindex) = ifindex {
        let sent = ifindex.to_ne_bytes();
        assert!(data.windows(sent.len()).any(|bytes| bytes == sent));
    }
    if let Some(features) = xdp_features {
        let sent = features.0.to_ne_bytes();
        assert!(data.windows(sent.len()).any(|bytes| bytes == sent));
    }
}
