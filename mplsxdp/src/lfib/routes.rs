//! The installed routes by their keys. Labels index an array in pages, which is faster than a search and takes a third
//! of a tree's memory. No operation takes long, however many routes there are. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use mplsxdp_common::abi::MAX_LABELS;
use mplsxdp_common::wire::Label;

use super::Installed;
use crate::route::{Fec, PortName, RouteKey};

/// Labels of one page.
const PAGE: usize = 256;
const PAGES: usize = MAX_LABELS as usize / PAGE;

#[derive(Debug)]
pub struct Routes {
    labels: Vec<Option<Box<Page>>>,
    label_count: usize,
    prefixes: BTreeMap<Fec, Installed>,
    attachments: BTreeMap<PortName, Installed>,
}

#[derive(Debug)]
struct Page {
    used: usize,
    routes: [Option<Installed>; PAGE],
}

impl Default for Routes {
    fn default() -> Self {
        Self {
            labels: (0..PAGES).map(|_| None).collect(),
            label_count: 0,
            prefixes: BTreeMap::new(),
            attachments: BTreeMap::new(),
        }
    }
}

/// The page of a label, and its place in there.
fn place(label: Label) -> (usize, usize) {
    let label = label.get() as usize;
    (label / PAGE, label % PAGE)
}

impl Routes {
    pub fn len(&self) -> usize {
        self.label_count + self.prefixes.len() + self.attachments.len()
    }

    pub fn label_count(&self) -> usize {
        self.label_count
    }

    pub fn prefix_count(&self) -> usize {
        self.prefixes.len()
    }

    /// Applies new names of ports, by the old ones.
    pub fn rename_ports(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        let attachments = std::mem::take(&mut self.attachments).into_iter();
        let renamed = attachments.map(|(mut port, route)| {
            port.rename(names);
            (port, route)
        });
        self.attachments = renamed.collect();
    }

    pub fn get(&self, key: RouteKey) -> Option<&Installed> {
        match key {
            RouteKey::Label(label) => {
                let (page, at) = place(label);
                self.labels[page].as_ref()?.routes[at].as_ref()
            }
            RouteKey::Prefix(fec) => self.prefixes.get(&fec),
            RouteKey::Attachment(port) => self.attachments.get(&port),
        }
    }

    pub fn get_mut(&mut self, key: RouteKey) -> Option<&mut Installed> {
        match key {
            RouteKey::Label(label) => {
                let (page, at) = place(label);
                self.labels[page].as_mut()?.routes[at].as_mut()
            }
            RouteKey::Prefix(fec) => self.prefixes.get_mut(&fec),
            RouteKey::Attachment(port) => self.attachments.get_mut(&port),
        }
    }

    pub fn contains(&self, key: RouteKey) -> bool {
        self.get(key).is_some()
    }

    /// Returns the previous route.
    pub fn insert(&mut self, key: RouteKey, route: Installed) -> Option<Installed> {
        match key {
            RouteKey::Label(label) => {
                let (page, at) = place(label);
                let empty = || {
                    Box::new(Page {
                        used: 0,
                        routes: [None; PAGE],
                    })
                };
                let page = self.labels[page].get_or_insert_with(empty);
                let previous = page.routes[at].replace(route);
                if previous.is_none() {
                    page.used += 1;
                    self.label_count += 1;
                }
                previous
            }
            RouteKey::Prefix(fec) => self.prefixes.insert(fec, route),
            RouteKey::Attachment(port) => self.attachments.insert(port, route),
        }
    }

    /// Returns the route that was there.
    pub fn remove(&mut self, key: RouteKey) -> Option<Installed> {
        match key {
            RouteKey::Label(label) => {
                let (at_page, at) = place(label);
                let page = self.labels[at_page].as_mut()?;
                let previous = page.routes[at].take()?;
                page.used -= 1;
                if page.used == 0 {
                    self.labels[at_page] = None;
                }
                self.label_count -= 1;
                Some(previous)
            }
            RouteKey::Prefix(fec) => self.prefixes.remove(&fec),
            RouteKey::Attachment(port) => self.attachments.remove(&port),
        }
    }

    /// The routes of these keys, in their order: labels, prefixes, attachment circuits.
    pub fn range(
        &self,
        (first, last): (Bound<RouteKey>, Bound<RouteKey>),
    ) -> impl Iterator<Item = (RouteKey, &Installed)> {
        let labels = labels_between(first, last);
        let prefixes = fecs_between(first, last).map(|range| self.prefixes.range(range));
        let prefixes = prefixes.into_iter().flatten();
        let attachments = attachments_between(first, last).map(|range| self.attachments.range(range));
        let attachments = attachments.into_iter().flatten();
        self.labels_in(labels)
            .map(|(label, route)| (RouteKey::Label(label), route))
            .chain(prefixes.map(|(&fec, route)| (RouteKey::Prefix(fec), route)))
            .chain(attachments.map(|(&port, route)| (RouteKey::Attachment(port), route)))
    }

    fn labels_in(&self, labels: std::ops::Range<usize>) -> impl Iterator<Item = (Label, &Installed)> {
        let pages = labels.start / PAGE..labels.end.div_ceil(PAGE);
        let pages = pages.filter_map(|page| Some((page * PAGE, self.labels[page].as_deref()?)));
        let routes = pages.flat_map(move |(base, page)| {
            let (start, end) = (labels.start.max(base), labels.end.min(base + PAGE));
            let routes = &page.routes[start - base..end - base];
            (start..)
                .zip(routes)
                .filter_map(|(label, route)| Some((label, route.as_ref()?)))
        });
        routes.map(|(label, route)| (Label::from_low_bits(label as u32), route))
    }
}

/// The labels between two keys.
fn labels_between(first: Bound<RouteKey>, last: Bound<RouteKey>) -> std::ops::Range<usize> {
    let all = MAX_LABELS as usize;
    let start = match first {
        Bound::Unbounded => 0,
        Bound::Included(RouteKey::Label(label)) => label.get() as usize,
        Bound::Excluded(RouteKey::Label(label)) => label.get() as usize + 1,
        Bound::Included(_) | Bound::Excluded(_) => all,
    };
    let end = match last {
        Bound::Included(RouteKey::Label(label)) => label.get() as usize + 1,
        Bound::Excluded(RouteKey::Label(label)) => label.get() as usize,
        _ => all,
    };
    start..end.max(start)
}

/// The FECs between two keys; `None` if there are none.
fn fecs_between(first: Bound<RouteKey>, last: Bound<RouteKey>) -> Option<(Bound<Fec>, Bound<Fec>)> {
    let first = match first {
        Bound::Included(RouteKey::Prefix(fec)) => Bound::Included(fec),
        Bound::Excluded(RouteKey::Prefix(fec)) => Bound::Excluded(fec),
        Bound::Included(RouteKey::Attachment(_)) | Bound::Excluded(RouteKey::Attachment(_)) => return None,
        _ => Bound::Unbounded,
    };
    let last = match last {
        Bound::Included(RouteKey::Prefix(fec)) => Bound::Included(fec),
        Bound::Excluded(RouteKey::Prefix(fec)) => Bound::Excluded(fec),
        Bound::Unbounded | Bound::Included(RouteKey::Attachment(_)) | Bound::Excluded(RouteKey::Attachment(_)) => {
            Bound::Unbounded
        }
        _ => return None,
    };
    Some((first, last))
}

/// The ports of attachment circuits between two keys; `None` if there are none.
fn attachments_between(first: Bound<RouteKey>, last: Bound<RouteKey>) -> Option<(Bound<PortName>, Bound<PortName>)> {
    let first = match first {
        Bound::Included(RouteKey::Attachment(port)) => Bound::Included(port),
        Bound::Excluded(RouteKey::Attachment(port)) => Bound::Excluded(port),
        _ => Bound::Unbounded,
    };
    let last = match last {
        Bound::Included(RouteKey::Attachment(port)) => Bound::Included(port),
        Bound::Excluded(RouteKey::Attachment(port)) => Bound::Excluded(port),
        Bound::Unbounded => Bound::Unbounded,
        _ => return None,
    };
    Some((first, last))
}

#[cfg(test)]
mod tests {
    use mplsxdp_common::abi::RouteEntry;
    use proptest::prelude::*;

    use super::*;
    use crate::route::{Attributes, Owner, RoutingTable};

    /// Few enough that they meet, in several pages.
    fn key() -> impl Strategy<Value = RouteKey> {
        let labels = (0..6u32, 0..3u32).prop_map(|(page, at)| {
            let label = [0, 255, 256, 300, 70_000, MAX_LABELS - 3][page as usize] + at;
            RouteKey::Label(Label::from_low_bits(label))
        });
        let fecs = (0..3u8, 24..27u8, 0..2u32).prop_map(|(host, length, table)| {
            let prefix = ipnet::Ipv4Net::new([10, 0, 0, host << 6].into(), length).unwrap();
            let table = Some(RoutingTable(table)).filter(|table| table.0 > 0);
            RouteKey::Prefix(Fec::new(prefix.trunc().into(), table))
        });
        let ports = (0..3u8).prop_map(|at| RouteKey::Attachment(PortName::new(&format!("eth{at}")).unwrap()));
        prop_oneof![labels, fecs, ports]
    }

    fn bound() -> impl Strategy<Value = Bound<RouteKey>> {
        prop_oneof![
            Just(Bound::Unbounded),
            key().prop_map(Bound::Included),
            key().prop_map(Bound::Excluded)
        ]
    }

    fn route(slot: u32) -> Installed {
        Installed {
            entry: RouteEntry::PASS.with_next_hop(slot as u16),
            owner: Owner::STATIC,
            attributes: Attributes::default(),
        }
    }

    proptest! {
        #[test]
        fn they_are_a_sorted_map(
            changes in prop::collection::vec((key(), prop::option::of(0..9u32)), 0..60),
            ranges in prop::collection::vec((bound(), bound()), 20),
        ) {
            let (mut routes, mut model) = (Routes::default(), BTreeMap::new());
            for (key, slot) in changes {
                let (before, modelled) = match slot.map(route) {
                    Some(new) => (routes.insert(key, new), model.insert(key, new)),
                    None => (routes.remove(key), model.remove(&key)),
                };
                prop_assert_eq!(before, modelled);
                prop_assert_eq!(routes.get(key), model.get(&key));
                prop_assert_eq!(routes.len(), model.len());
            }
            let labels = model.keys().filter(|key| matches!(key, RouteKey::Label(_)));
            prop_assert_eq!(routes.label_count(), labels.count());
            for (first, last) in ranges {
                let keys = |bound| match bound {
                    Bound::Included(key) | Bound::Excluded(key) => Some(key),
                    Bound::Unbounded => None,
                };
                // A map refuses others.
                if keys(first).zip(keys(last)).is_some_and(|(first, last)| first >= last) {
                    continue;
                }
                let found: Vec<_> = routes.range((first, last)).collect();
                let modelled: Vec<_> = model.range((first, last)).map(|(&key, route)| (key, route)).collect();
                prop_assert_eq!(found, modelled);
            }
            for key in model.into_keys() {
                routes.remove(key);
            }
            prop_assert!(routes.labels.iter().all(Option::is_none));
        }
    }
}
