//! The backups that FRR computes (TI-LFA), for the routes of other sources. Neither the kernel nor FPM hears of them, so
//! zebra is asked for them over the socket that vtysh uses, from time to time. No socket here, no clock.

mod backups;
mod json;
mod schedule;
mod vty;

pub use backups::{Backups, Hop, Protected, changed, kept, with_backups};
pub use json::{Names, parse_labels, parse_prefixes};
pub use schedule::Schedule;
pub use vty::{Answer, Unreadable};

/// What is asked, in this order. Routes of other protocols have no backups of their own, and may be a million.
pub const COMMANDS: [(&str, Kind); 4] = [
    ("show mpls table json", Kind::Labels),
    ("show ip route isis json", Kind::Prefixes),
    ("show ip route ospf json", Kind::Prefixes),
    ("show ipv6 route isis json", Kind::Prefixes),
];

/// What an answer is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Labels,
    Prefixes,
}
