//! What a prefix route is for: an address prefix, and the ports at which it applies.

use std::fmt;

use ipnet::IpNet;

/// A routing table of the kernel, by number. Each VRF has one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoutingTable(pub u32);

impl RoutingTable {
    /// The table of ports outside of VRFs (RT_TABLE_MAIN of linux/rtnetlink.h).
    pub const MAIN: Self = Self(254);

    /// The tables that the kernel names.
    const NAMES: [(Self, &str); 3] = [(Self(253), "default"), (Self::MAIN, "main"), (Self(255), "local")];

    /// The table's standard name, if it has one.
    pub fn name(self) -> Option<&'static str> {
        let mut names = Self::NAMES.into_iter();
        names.find(|&(table, _)| table == self).map(|(_, name)| name)
    }

    /// The table with this standard name.
    pub fn named(text: &str) -> Option<Self> {
        let mut names = Self::NAMES.into_iter();
        names.find(|&(_, name)| name == text).map(|(table, _)| table)
    }
}

/// The standard name, or else the number.
impl fmt::Display for RoutingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// A forwarding equivalence class (RFC 3031 section 3.1): packets to a prefix, at all ports or at those of one routing
/// table. FECs of one prefix are ordered by table; the one without a table comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fec {
    pub prefix: IpNet,
    /// Only ports whose VRF has this table or, for [`RoutingTable::MAIN`], ports outside of VRFs; `None`: all ports. If
    /// a port's table has a route for a prefix, the route without a table does not apply there.
    pub table: Option<RoutingTable>,
}

impl Fec {
    pub fn new(prefix: IpNet, table: Option<RoutingTable>) -> Self {
        Self { prefix, table }
    }
}

/// At all ports.
impl From<IpNet> for Fec {
    fn from(prefix: IpNet) -> Self {
        Self::new(prefix, None)
    }
}

impl fmt::Display for Fec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)?;
        match self.table {
            Some(table) => write!(f, " table {table}"),
            None => Ok(()),
        }
    }
}
