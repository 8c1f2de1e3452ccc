//! Counts of clients and calls, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::control::api::Method;

/// Calls of other interfaces, and messages that are not calls, come after the methods.
const KINDS: usize = Method::ALL.len() + 1;

/// What has come over the control socket.
#[derive(Debug)]
pub struct Counts {
    calls: [AtomicU64; KINDS],
    errors: [AtomicU64; KINDS],
    clients: AtomicU64,
    turned_away: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            calls: [const { AtomicU64::new(0) }; KINDS],
            errors: [const { AtomicU64::new(0) }; KINDS],
            clients: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
        }
    }
}

impl Counts {
    /// A call was answered; `None`: it is not one of the interface.
    pub(super) fn answered(&self, method: Option<Method>, is_error: bool) {
        let kind = method.map_or(KINDS - 1, |method| method as usize);
        self.calls[kind].fetch_add(1, Relaxed);
        if is_error {
            self.errors[kind].fetch_add(1, Relaxed);
        }
    }

    pub(super) fn accepted(&self) {
        self.clients.fetch_add(1, Relaxed);
    }

    pub(super) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    pub fn read(&self) -> MethodCounts {
        let names = Method::ALL.iter().map(|method| method.name()).chain(["other"]);
        let counts = self.calls.iter().zip(&self.errors);
        MethodCounts {
            calls: names
                .zip(counts)
                .map(|(name, (calls, errors))| (name, calls.load(Relaxed), errors.load(Relaxed)))
                .collect(),
            clients: self.clients.load(Relaxed),
            turned_away: self.turned_away.load(Relaxed),
        }
    }
}

/// What [`Counts`] have counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MethodCounts {
    /// Method, calls, and how many of them were answered by an error.
    pub calls: Vec<(&'static str, u64, u64)>,
    pub clients: u64,
    /// Clients that got no place, or may not call anything.
    pub turned_away: u64,
}
