//! The label forwarding information base: the wanted routes, and the table writes that install them. A change is all or
//! nothing: everything that can fail is done before the first label is published. The tables are behind a trait.

mod backups;
mod change;
pub mod counters;
mod domains;
mod fecs;
mod ftn;
pub mod groups;
mod list;
mod made;
pub mod next_hops;
pub mod pass;
mod plan;
pub mod pool;
mod pseudowires;
mod reach;
mod reclaim;
mod routes;
pub mod spread;
#[cfg(test)]
mod tests;
mod unsettled;
mod vrfs;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use mplsxdp_common::abi::{LabelStack, MAX_PUSH, MAX_VRFS, Op, RouteEntry};

use crate::dataplane::{FtnKey, GracePeriod, Tables};
use crate::route::{Attributes, Owner, PassReason, Source};
use backups::Backups;
pub use change::{ChangeError, Changes, Mode, NextHopSearch, PseudowireEnd};
use counters::{Counters, Total};
pub use domains::FillError;
use domains::Vrfs;
pub use fecs::Families;
use ftn::STEP;
use groups::Groups;
pub use list::{Candidate, Listed, Page};
pub use made::{Installs, Made, MadeRoute};
use next_hops::NextHopChange;
pub use next_hops::NextHops;
use pass::PassEntries;
use plan::Plan;
pub use plan::{Budget, Change, Finished, Progress, Remains, Select};
use pool::Interner;
pub use pseudowires::PortFacts;
use pseudowires::Pseudowires;
pub use reach::Reach;
use reach::{AT_ONCE, Leaving, StaleGroups, TURNED_AT_ONCE};
use reclaim::{Freed, Resolving};
use routes::Routes;
use unsettled::Unsettled;
use vrfs::LabelVrfs;
pub use vrfs::{VrfDevice, VrfState};

/// How many different pass reasons are kept.
const MAX_PASS_REASONS: u32 = 1 << 12;

/// An installed route: its table entry and the shared tables that it points into describe all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Installed {
    entry: RouteEntry,
    owner: Owner,
    attributes: Attributes,
}

/// How many routes there are.
#[derive(Default, Debug)]
struct Counts {
    /// Routes without a counter slot.
    uncounted: usize,
    /// By source.
    by_source: [usize; Source::ALL.len()],
}

/// Every route, and the tables that hold them.
#[derive(Debug)]
pub struct Lfib<T> {
    tables: T,
    routes: Routes,
    counts: Counts,
    /// The change that is under way.
    plan: Option<Box<Plan>>,
    /// Somebody wants to know what becomes of each route.
    is_watched: bool,
    next_hops: NextHops,
    stacks: Interner<LabelStack>,
    /// How many stacks there are, by their depths.
    stack_depths: [usize; MAX_PUSH + 1],
    /// Why routes leave frames to the kernel. The operand of such an entry is the slot plus 1.
    pass_reasons: Interner<PassReason>,
    label_vrfs: LabelVrfs,
    pseudowires: Pseudowires,
    groups: Groups,
    backups: Backups,
    counters: Counters,
    pass: PassEntries,
    vrfs: Vrfs,
    /// The places where the FTN table differs from what is wanted because a write failed.
    unsettled: Unsettled,
    /// The last of these places that was tried again, and whether others are worth trying now.
    settled: Option<FtnKey>,
    settles: bool,
    /// The grace period after which the FTN may have room, if it had none.
    awaited_room: Option<GracePeriod>,
    /// How many pass entries are written or removed in one step.
    step: usize,
    leaving: Leaving,
    /// How many entries are moved to another adjacency at once; more are moved in steps.
    turned_at_once: usize,
    stale_groups: StaleGroups,
    /// How much is done at once for groups whose next hops have changed, in operations; the rest is done in steps.
    followed_at_once: usize,
    /// Buckets have moved from one member of a group to another.
    moved_buckets: bool,
    /// Slots that programs may still read, in the order of their grace periods.
    freed: VecDeque<(GracePeriod, Freed)>,
    resolving: Resolving,
}

impl<T: Tables> Lfib<T> {
    pub fn new(tables: T) -> Self {
        let capacity = tables.capacity();
        Self {
            tables,
            routes: Routes::default(),
            counts: Counts::default(),
            plan: None,
            is_watched: false,
            next_hops: NextHops::new(capacity.adjacencies),
            stacks: Interner::new(capacity.stacks),
            stack_depths: [0; MAX_PUSH + 1],
            pass_reasons: Interner::new(MAX_PASS_REASONS),
            label_vrfs: LabelVrfs::new(MAX_VRFS),
            pseudowires: Pseudowires::new(),
            groups: Groups::new(capacity.groups),
            backups: Backups::new(capacity.backups),
            counters: Counters::new(capacity.counter_slots),
            pass: PassEntries::default(),
            vrfs: Vrfs::default(),
            unsettled: Unsettled::default(),
            settled: None,
            settles: false,
            awaited_room: None,
            step: STEP,
            leaving: Leaving::default(),
            turned_at_once: TURNED_AT_ONCE,
            stale_groups: StaleGroups::default(),
            followed_at_once: AT_ONCE,
            moved_buckets: false,
            freed: VecDeque::new(),
            resolving: Resolving::default(),
        }
    }

    pub fn tables(&self) -> &T {
        &self.tables
    }

    pub fn tables_mut(&mut self) -> &mut T {
        &mut self.tables
    }

    /// Changes from now on note what has become of each route, or no longer do.
    pub fn watch(&mut self, is_watched: bool) {
        self.is_watched = is_watched;
    }

    pub fn label_routes(&self) -> usize {
        self.routes.label_count()
    }

    pub fn prefix_routes(&self) -> usize {
        self.routes.prefix_count()
    }

    /// Whether all routes are of this source.
    pub fn has_only(&self, source: Source) -> bool {
        self.counts.by_source[source as usize] == self.routes.len()
    }

    /// How many entries prefix routes have in the FTN. A route without `table` has one in each domain.
    pub fn ftn_entries(&self) -> Families {
        self.pass.route_entries(None)
    }

    /// The number of routes without a counter slot.
    pub fn uncounted_routes(&self) -> usize {
        self.counts.uncounted
    }

    pub fn stacks_in_use(&self) -> usize {
        self.stacks.len()
    }

    /// The most labels that a route pushes, if it is more than one.
    pub fn deepest_stack(&self) -> Option<usize> {
        self.stack_depths.iter().rposition(|&stacks| stacks > 0)
    }

    pub fn groups_in_use(&self) -> usize {
        self.groups.len()
    }

    /// How many different pairs of a next hop and a backup with labels of its own there are.
    pub fn backups_in_use(&self) -> usize {
        self.backups.len()
    }

    /// Starts a sum of the frames that all routes have forwarded, including deleted routes. A packet that was popped
    /// for this machine counts on the route by which it leaves, if there is one.
    pub fn forwarded(&mut self) -> Arc<Total> {
        self.counters.total()
    }

    pub fn next_hops(&self) -> &NextHops {
        &self.next_hops
    }

    /// The next hops that came into use or went out of use since the last call.
    pub fn take_next_hop_changes(&mut self) -> Vec<NextHopChange> {
        self.next_hops.take_changes(usize::MAX)
    }

    /// Up to `limit` of them; the rest stay for a later call.
    pub fn take_some_next_hop_changes(&mut self, limit: usize) -> Vec<NextHopChange> {
        self.next_hops.take_changes(limit)
    }

    /// Applies new interface names, by the old ones, to the routes that name them. No table is written.
    pub fn rename_devices(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        self.next_hops.rename_devices(names);
        self.routes.rename_ports(names);
        self.pseudowires.rename_ports(names);
        if let Some(plan) = &mut self.plan {
            plan.rename_devices(names);
        }
    }
}

/// Whether `entry` has a next-hop index.
fn uses_next_hop(entry: RouteEntry) -> bool {
    matches!(entry.op(), Op::Label | Op::Stack | Op::Pop | Op::PenultimatePop)
}
