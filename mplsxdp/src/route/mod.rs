//! Routes as they are asked for, whoever asks and however they are written.
//!
//! * [`model`]: what a route is
//! * [`line`]: the grammar of iproute2, both ways
//! * [`wire`]: the JSON form of the control socket, both ways
//! * [`filter`]: which routes are meant
//! * [`interface`]: names of interfaces
//! * [`protocols`]: the names of routing protocols on this machine

pub mod filter;
pub mod interface;
pub mod line;
pub mod model;
pub mod protocols;
pub mod wire;

pub use model::{
    Action, Attributes, InvalidRoute, MAX_PATHS, MAX_WEIGHT, NEVER, NextHop, NextHopId, OutLabels, Owner, Path,
    Protocol, Route, RouteKey, Via, check_explicit_null, check_key,
};
