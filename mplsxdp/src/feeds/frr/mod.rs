//! The backups that FRR computes (TI-LFA), for the routes of other sources, and the pseudowires that it signals. Neither the
//! kernel nor FPM hears of them, so its daemons are asked over the sockets that vtysh uses, from time to time. No socket
//! here, no clock.

mod backups;
mod json;
mod pseudowires;
mod schedule;
mod vty;

pub use backups::{Backups, Hop, Protected, changed, kept, with_backups};
pub use json::{Names, parse_labels, parse_prefixes};
pub use pseudowires::{Binding, Wire, parse_bindings, parse_wires, pseudowire_routes};
pub use schedule::Schedule;
pub use vty::{Answer, Unreadable};

/// What is asked, in this order. Routes of other protocols have no backups of their own, and may be a million.
pub const COMMANDS: [(&str, Kind); 4] = [
    ("show mpls table json", Kind::Labels),
    ("show ip route isis json", Kind::Prefixes),
    ("show ip route ospf json", Kind::Prefixes),
    ("show ipv6 route isis json", Kind::Prefixes),
];

/// Asked after these; what it says of LDP takes the second one's answer, from ldpd.
pub const PSEUDOWIRES: [&str; 2] = ["show mpls pseudowires detail json", "show l2vpn atom binding json"];

/// What an answer is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Labels,
    Prefixes,
}
