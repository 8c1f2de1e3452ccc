//! Zebra's label table and IP routes as JSON. What is not about backups is not looked at, so that newer versions may add
//! what they like.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mplsxdp_common::wire::Label;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::backups::{Backups, Hop, Protected};
use crate::feeds::Key;
use crate::route::Via;
use crate::rtnl::Stack;

/// RT_TABLE_MAIN: the commands name no VRF.
const MAIN: u32 = 254;

/// A label of `show mpls table json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lsp {
    #[serde(default)]
    nexthops: Vec<Nhlfe>,
    #[serde(default)]
    backup_nexthops: Vec<Nhlfe>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Nhlfe {
    nexthop: Option<IpAddr>,
    interface: Option<Box<str>>,
    out_label: Option<u32>,
    #[serde(default)]
    out_label_stack: Vec<u32>,
    #[serde(default)]
    backup_index: Vec<usize>,
}

/// A route of `show ip route json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Route {
    #[serde(default)]
    selected: bool,
    table: Option<u32>,
    #[serde(default)]
    nexthops: Vec<Nexthop>,
    #[serde(default)]
    backup_nexthops: Vec<Nexthop>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Nexthop {
    ip: Option<IpAddr>,
    interface_name: Option<Box<str>>,
    #[serde(default)]
    labels: Vec<u32>,
    #[serde(default)]
    backup_index: Vec<usize>,
}

/// Interface names, each once in memory.
#[derive(Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(name) = self.0.get(name) {
            return Arc::clone(name);
        }
        let name: Arc<str> = name.into();
        self.0.insert(Arc::clone(&name));
        name
    }
}

/// Adds the backups of labels from the answer to `show mpls table json`.
pub fn parse_labels(text: &[u8], names: &mut Names, backups: &mut Backups) -> serde_json::Result<()> {
    each_entry(text, |label: Box<str>, lsp: Lsp| {
        if let Some(label) = label.parse().ok().and_then(Label::new) {
            let mut hops = |nhlfe: Nhlfe| {
                let labels = match nhlfe.out_label_stack {
                    // Versions before the stack was shown.
                    stack if stack.is_empty() => nhlfe.out_label.into_iter().collect(),
                    stack => stack,
                };
                let hop = hop(nhlfe.nexthop, nhlfe.interface.as_deref(), &labels, names);
                (hop, nhlfe.backup_index)
            };
            let primaries = lsp.nexthops.into_iter().map(&mut hops).collect();
            let others = lsp.backup_nexthops.into_iter().map(|nhlfe| hops(nhlfe).0).collect();
            insert(Key::Label(label), primaries, others, backups);
        }
    })
}

/// Adds the backups of prefixes from the answer to `show ip route json` or `show ipv6 route json`.
pub fn parse_prefixes(text: &[u8], names: &mut Names, backups: &mut Backups) -> serde_json::Result<()> {
    each_entry(text, |prefix: Box<str>, routes: Vec<Route>| {
        let selected = routes.into_iter().find(|route| route.selected);
        if let (Ok(prefix), Some(route)) = (prefix.parse::<IpNet>(), selected) {
            let mut hops = |nexthop: Nexthop| {
                let hop = hop(nexthop.ip, nexthop.interface_name.as_deref(), &nexthop.labels, names);
                (hop, nexthop.backup_index)
            };
            let primaries = route.nexthops.into_iter().map(&mut hops).collect();
            let others = route
                .backup_nexthops
                .into_iter()
                .map(|nexthop| hops(nexthop).0)
                .collect();
            let key = Key::Prefix(route.table.unwrap_or(MAIN), prefix.trunc());
            insert(key, primaries, others, backups);
        }
    })
}

/// `None`: a next hop without an address, or with labels that do not exist.
fn hop(address: Option<IpAddr>, interface: Option<&str>, labels: &[u32], names: &mut Names) -> Option<Hop> {
    let via = match address? {
        IpAddr::V4(address) => Via::Inet(address),
        IpAddr::V6(address) => Via::Inet6(address),
    };
    let labels = labels
        .iter()
        .map(|&label| Label::new(label))
        .collect::<Option<Stack>>()?;
    // Implicit null is no label.
    let labels = labels
        .into_iter()
        .filter(|&label| label != Label::IMPLICIT_NULL)
        .collect();
    let dev = interface.map(|name| names.get(name));
    Some(Hop { via, dev, labels })
}

fn insert(key: Key, primaries: Vec<(Option<Hop>, Vec<usize>)>, others: Vec<Option<Hop>>, backups: &mut Backups) {
    let protected = primaries.into_iter().filter_map(|(primary, indexes)| {
        let backups = indexes.iter().filter_map(|&index| others.get(index)?.clone()).collect();
        Some(Protected {
            primary: primary?,
            backups,
        })
    });
    let protected: Box<[Protected]> = protected.filter(|protected| !protected.backups.is_empty()).collect();
    if !protected.is_empty() {
        backups.insert(key, protected);
    }
}

/// Calls `take` for each entry of an object. An empty text is an empty object. The entries are not held in memory together.
fn each_entry<V: for<'de> Deserialize<'de>>(text: &[u8], take: impl FnMut(Box<str>, V)) -> serde_json::Result<()> {
    if text.trim_ascii().is_empty() {
        return Ok(());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    deserializer.deserialize_map(Entries(take, PhantomData))?;
    deserializer.end()
}

struct Entries<V, F>(F, PhantomData<V>);

impl<'de, V: Deserialize<'de>, F: FnMut(Box<str>, V)> Visitor<'de> for Entries<V, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of labels or prefixes")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry()? {
            (self.0)(key, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Of FRR 8.4.4, from PR of the lab `ti-lfa`.
    const TABLE: &str = include_str!("fixtures/mpls-table.json");
    const ROUTES: &str = include_str!("fixtures/ip-route-isis.json");

    fn parsed(
        parse: impl Fn(&[u8], &mut Names, &mut Backups) -> serde_json::Result<()>,
        text: &str,
    ) -> serde_json::Result<Backups> {
        let mut backups = Backups::new();
        parse(text.as_bytes(), &mut Names::default(), &mut backups)?;
        Ok(backups)
    }

    fn hop(address: &str, dev: Option<&str>, labels: &[u32]) -> Hop {
        Hop {
            via: Via::Inet(address.parse().unwrap()),
            dev: dev.map(Into::into),
            labels: labels.iter().map(|&label| Label::new(label).unwrap()).collect(),
        }
    }

    fn one(primary: Hop, backup: Hop) -> Box<[Protected]> {
        let backups = Box::new([backup]);
        Box::new([Protected { primary, backups }])
    }

    #[test]
    fn the_labels_of_frr() {
        let key = |label| Key::Label(Label::new(label).unwrap());
        let expected = Backups::from([
            (
                key(15004),
                one(hop("10.0.2.1", None, &[]), hop("10.0.3.4", None, &[16004, 15000])),
            ),
            (
                key(16002),
                one(
                    hop("10.0.2.1", None, &[16002]),
                    hop("10.0.3.4", None, &[16004, 15000, 16002]),
                ),
            ),
        ]);
        assert_eq!(parsed(parse_labels, TABLE).unwrap(), expected);
        // Later versions name the interfaces.
        let named = TABLE.replace("\"10.0.3.4\"", "\"10.0.3.4\",\"interface\":\"to-P2\"");
        let backups = parsed(parse_labels, &named).unwrap();
        let backup = hop("10.0.3.4", Some("to-P2"), &[16004, 15000]);
        assert_eq!(backups[&key(15004)], one(hop("10.0.2.1", None, &[]), backup));
    }

    #[test]
    fn the_prefixes_of_frr() {
        let key = |prefix: &str| Key::Prefix(MAIN, prefix.parse().unwrap());
        let (pe2, p2) = (Some("to-PE2"), Some("to-P2"));
        let expected = Backups::from([
            (
                key("10.255.0.2/32"),
                one(
                    hop("10.0.2.1", pe2, &[16002]),
                    hop("10.0.3.4", p2, &[16004, 15000, 16002]),
                ),
            ),
            (
                key("10.255.0.4/32"),
                one(hop("10.0.3.4", p2, &[]), hop("10.0.2.1", pe2, &[16002, 15000])),
            ),
        ]);
        assert_eq!(parsed(parse_prefixes, ROUTES).unwrap(), expected);
    }

    #[test]
    fn nothing_is_an_empty_table() {
        for text in ["", " \n", "{\n}\n", "{}"] {
            assert!(parsed(parse_labels, text).unwrap().is_empty());
            assert!(parsed(parse_prefixes, text).unwrap().is_empty());
        }
        for text in [
            "[]",
            "% no such table",
            "{} {}",
            "{\"16\":5}",
            "{\"16\":{\"nexthops\":7}}",
        ] {
            assert!(parsed(parse_labels, text).is_err(), "{text}");
        }
        for text in [
            "{\"10.0.0.0/8\":{}}",
            "{\"10.0.0.0/8\":[{\"nexthops\":[{\"ip\":\"x\"}]}]}",
        ] {
            assert!(parsed(parse_prefixes, text).is_err(), "{text}");
        }
    }

    /// A label that does not exist, a next hop that is only an interface, no index.
    #[test]
    fn what_is_no_backup_is_left_out() {
        for (from, to) in [
            ("15000", "1048576"),
            ("\"nexthop\":\"10.0", "\"interface\":\"10.0"),
            ("backupIndex", "other"),
            ("backupNexthops", "other"),
        ] {
            let text = TABLE.replace(from, to);
            assert_ne!(text, TABLE, "{from}");
            assert!(parsed(parse_labels, &text).unwrap().is_empty(), "{from}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(text in vec(any::<u8>(), 0..100), at in 0..2000_usize, byte in any::<u8>()) {
            for whole in [TABLE, ROUTES] {
                let mut changed = whole.as_bytes().to_vec();
                if let Some(place) = changed.get_mut(at) {
                    *place = byte;
                }
                for bytes in [&text, &changed] {
                    let (mut names, mut backups) = (Names::default(), Backups::new());
                    let _ = parse_labels(bytes, &mut names, &mut backups);
                    let _ = parse_prefixes(bytes, &mut names, &mut backups);
                }
            }
        }
    }
}
