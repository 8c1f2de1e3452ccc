//! What outlives the process (`load --persist`): the routes and ports that are not from the configuration.
//!
//! An instance has a directory. A *snapshot* has everything as of some moment; *journals* have what changed since, one
//! after the other. A change is appended before its client gets the answer, so a killed process loses nothing that was
//! answered. When the journals are larger than the snapshot, a new one takes their place.
//!
//! ```text
//!   switch -- changes, in order --> Store: a thread --> journal.7, journal.8, ...
//!     ^                               |
//!     +---- asks for routes in parts -+---------------> snapshot.new, renamed to snapshot
//! ```
//!
//! * [`text`]: lines with checksums
//! * [`record`]: what a line says
//! * [`recovery`]: the files of a directory, read again
//! * [`store`]: the thread that writes

#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
pub mod record;
pub mod recovery;
pub mod store;
#[cfg(test)]
mod tests;
pub mod text;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use record::{Port, Start};
pub use recovery::{Damage, Problem, Recovered, Saved};
pub use store::{Directory, Request, Store, StoreStatus};

use crate::route::{Owner, Route, RouteKey, Source};

/// The environment variable that replaces [`DIR`].
pub const DIR_VARIABLE: &str = "MPLSXDP_STATE_DIR";
/// Where the directories of all instances are.
pub const DIR: &str = "/var/lib/mplsxdp";

/// The directory of an instance.
pub fn directory(instance: &str) -> PathBuf {
    let base = std::env::var_os(DIR_VARIABLE).map_or_else(|| DIR.into(), PathBuf::from);
    base.join(instance)
}

/// New interface names, by the old ones.
pub type Names = HashMap<Arc<str>, Arc<str>>;

/// A change that was made. It is appended as a whole or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub parts: Vec<Part>,
    /// Interfaces that were renamed while the change was being made, in this order. Its routes have the old names.
    pub renamed: Vec<Names>,
}

/// Routes and ports that a change has set or deleted. The routes are shared with the switch, so passing them on costs
/// it nothing.
#[derive(Clone, Debug)]
pub enum Part {
    /// Routes of one owner. Those of the configuration are not kept, and take the place of static ones.
    Routes {
        owner: Owner,
        routes: Arc<Vec<Route>>,
    },
    /// Routes of several owners.
    Settled(Arc<Vec<(Owner, Route)>>),
    Deleted {
        source: Source,
        keys: Arc<Vec<RouteKey>>,
    },
    Port(Port),
    /// There is no such port, or it is as the configuration says.
    NoPort(String),
    Renamed(Names),
}

impl Part {
    /// How many records it has.
    fn records(&self) -> usize {
        match self {
            Self::Routes { routes, .. } => routes.len(),
            Self::Settled(routes) => routes.len(),
            Self::Deleted { keys, .. } => keys.len(),
            Self::Port(_) | Self::NoPort(_) | Self::Renamed(_) => 1,
        }
    }
}

impl From<Part> for Batch {
    fn from(part: Part) -> Self {
        Self {
            parts: vec![part],
            renamed: Vec::new(),
        }
    }
}

/// A part of what a snapshot has, as the switch has it now.
#[derive(Debug, Default)]
pub struct Piece {
    pub ports: Vec<Port>,
    pub routes: Vec<(Owner, Route)>,
    /// It continues after this key; `None` at the end.
    pub after: Option<RouteKey>,
}
