//! Routes as they are asked for, whoever asks and however they are written.
//!
//! * [`model`]: what a route is
//! * [`check`]: the rules of a route, for whatever one is read from
//! * [`line`]: the grammar of iproute2, both ways
//! * [`wire`]: the JSON form of the control socket, both ways
//! * [`filter`]: which routes are meant
//! * [`description`]: what must be true of a route for it to be deleted
//! * [`interface`]: names of interfaces
//! * [`protocols`]: the names of routing protocols on this machine

pub mod check;
pub mod description;
pub mod filter;
pub mod interface;
pub mod line;
pub mod model;
pub mod protocols;
pub mod wire;

pub use check::{Field, InvalidRoute, Place, Rule};
pub use description::Description;
pub use model::{
    Action, Attributes, MAX_PATHS, MAX_WEIGHT, Mode, NEVER, NextHop, NextHopId, OutLabels, Owner, PassReason, Path,
    Protocol, Route, RouteKey, Source, UnknownProtocol, UnknownSource, Via,
};
