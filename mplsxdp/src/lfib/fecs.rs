//! The prefixes that have routes, for all ports and for the ports of each routing table, and which of the routes
//! applies at which ports. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{AddAssign, Bound};

use ipnet::IpNet;

use crate::route::{Fec, RoutingTable};

/// The number of prefixes of each family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Families {
    pub v4: usize,
    pub v6: usize,
}

impl Families {
    /// The number for the family of `prefix`.
    pub fn of(&mut self, prefix: IpNet) -> &mut usize {
        match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }
}

impl AddAssign for Families {
    fn add_assign(&mut self, other: Self) {
        self.v4 += other.v4;
        self.v6 += other.v6;
    }
}

/// The FECs that have a route.
#[derive(Default, Debug)]
pub struct Fecs {
    everywhere: BTreeSet<IpNet>,
    everywhere_count: Families,
    by_table: BTreeMap<RoutingTable, OfTable>,
}

/// The FECs of one table.
#[derive(Default, Debug)]
struct OfTable {
    prefixes: BTreeSet<IpNet>,
    /// How many of `prefixes` have no route without a table.
    further: Families,
}

impl Fecs {
    /// Whether the FEC itself has a route.
    pub fn contains(&self, fec: Fec) -> bool {
        match fec.table {
            None => self.everywhere.contains(&fec.prefix),
            Some(table) => self.is_in(table, fec.prefix),
        }
    }

    pub fn insert(&mut self, fec: Fec) {
        let Fec { prefix, table } = fec;
        if let Some(table) = table {
            if self.is_in(table, prefix) {
                return;
            }
            let is_further = !self.everywhere.contains(&prefix);
            let of_table = self.by_table.entry(table).or_default();
            of_table.prefixes.insert(prefix);
            *of_table.further.of(prefix) += usize::from(is_further);
        } else if self.everywhere.insert(prefix) {
            *self.everywhere_count.of(prefix) += 1;
            for of_table in self.of_tables_with(prefix) {
                *of_table.further.of(prefix) -= 1;
            }
        }
    }

    pub fn remove(&mut self, fec: Fec) {
        let Fec { prefix, table } = fec;
        if let Some(table) = table {
            if !self.is_in(table, prefix) {
                return;
            }
            let is_further = !self.everywhere.contains(&prefix);
            if let Some(of_table) = self.by_table.get_mut(&table) {
                of_table.prefixes.remove(&prefix);
                *of_table.further.of(prefix) -= usize::from(is_further);
                if of_table.prefixes.is_empty() {
                    self.by_table.remove(&table);
                }
            }
        } else if self.everywhere.remove(&prefix) {
            *self.everywhere_count.of(prefix) -= 1;
            for of_table in self.of_tables_with(prefix) {
                *of_table.further.of(prefix) += 1;
            }
        }
    }

    /// The FEC whose route applies to `prefix` at ports of `table`: the table's own comes first.
    pub fn find(&self, table: RoutingTable, prefix: IpNet) -> Option<Fec> {
        if self.is_in(table, prefix) {
            Some(Fec::new(prefix, Some(table)))
        } else {
            self.everywhere.contains(&prefix).then(|| prefix.into())
        }
    }

    /// How many prefixes have a route that applies at ports of `table`.
    pub fn count(&self, table: RoutingTable) -> Families {
        let mut count = self.everywhere_count;
        if let Some(of_table) = self.by_table.get(&table) {
            count += of_table.further;
        }
        count
    }

    /// Prefixes that have a route that applies at ports of `table`: at least the first `most` in this range, in any
    /// order.
    pub fn first(&self, table: RoutingTable, from: IpNet, most: usize) -> impl Iterator<Item = IpNet> {
        let sets = self.sets(table);
        sets.flat_map(move |prefixes| prefixes.range(from..).take(most).copied())
    }

    /// The same from the end.
    pub fn last(&self, table: RoutingTable, before: Bound<IpNet>, most: usize) -> impl Iterator<Item = IpNet> {
        let sets = self.sets(table);
        sets.flat_map(move |prefixes| {
            let range = prefixes.range((Bound::Unbounded, before));
            range.rev().take(most).copied()
        })
    }

    fn sets(&self, table: RoutingTable) -> impl Iterator<Item = &BTreeSet<IpNet>> {
        let of_table = self.by_table.get(&table).map(|of_table| &of_table.prefixes);
        std::iter::once(&self.everywhere).chain(of_table)
    }

    fn is_in(&self, table: RoutingTable, prefix: IpNet) -> bool {
        let of_table = self.by_table.get(&table);
        of_table.is_some_and(|of_table| of_table.prefixes.contains(&prefix))
    }

    fn of_tables_with(&mut self, prefix: IpNet) -> impl Iterator<Item = &mut OfTable> {
        let of_tables = self.by_table.values_mut();
        of_tables.filter(move |of_table| of_table.prefixes.contains(&prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_of_a_table_comes_before_the_one_without() {
        let (red, blue) = (RoutingTable(10), RoutingTable(20));
        let prefix: IpNet = "10.0.0.0/8".parse().unwrap();
        let everywhere = Fec::from(prefix);
        let of_red = Fec::new(prefix, Some(red));
        let mut fecs = Fecs::default();
        let state = |fecs: &Fecs| {
            let found = [red, blue].map(|table| fecs.find(table, prefix));
            (found, [red, blue].map(|table| fecs.count(table).v4))
        };
        fecs.insert(of_red);
        assert_eq!(state(&fecs), ([Some(of_red), None], [1, 0]));
        fecs.insert(everywhere);
        fecs.insert(everywhere);
        assert_eq!(state(&fecs), ([Some(of_red), Some(everywhere)], [1, 1]));
        fecs.remove(of_red);
        fecs.remove(of_red);
        assert_eq!(state(&fecs), ([Some(everywhere); 2], [1, 1]));
        fecs.insert(of_red);
        fecs.remove(everywhere);
        assert_eq!(state(&fecs), ([Some(of_red), None], [1, 0]));
        fecs.remove(of_red);
        assert_eq!(state(&fecs), ([None; 2], [0, 0]));
        assert!(fecs.by_table.is_empty());
    }
}
