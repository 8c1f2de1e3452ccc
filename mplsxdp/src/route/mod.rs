//! Routes, whatever their owner and notation.
//!
//! * [`model`]: what a route is
//! * [`check`]: the rules that apply to every route, whatever it is read from
//! * [`line`]: the grammar of iproute2, both ways
//! * [`wire`]: the JSON form of the control socket, both ways
//! * [`fec`]: what a prefix route is for
//! * [`filter`]: selects routes
//! * [`description`]: what must be true of a route for it to be deleted
//! * [`interface`]: names of interfaces
//! * [`pseudowire`]: what stands between labels and the frames of a port
//! * [`protocols`] and [`tables`]: the names of routing protocols and tables on this machine, which [`iproute2`] gives
//!   them

pub mod check;
pub mod description;
pub mod fec;
pub mod filter;
pub mod interface;
mod iproute2;
pub mod line;
pub mod model;
pub mod protocols;
pub mod pseudowire;
pub mod tables;
pub mod wire;

pub use check::{Field, InvalidRoute, Place, Rule};
pub use description::Description;
pub use fec::{Fec, RoutingTable};
pub use model::{
    Action, Attributes, Backup, MAX_PATHS, MAX_WEIGHT, Mode, NEVER, NextHop, NextHopId, OutLabels, Owner, PassReason,
    Path, Protocol, Route, RouteKey, Source, UnknownProtocol, UnknownSource, Via,
};
pub use pseudowire::{PortName, Pseudowire, ServiceTag};
