//! Reads the kernel's routes for an audit.

use std::num::NonZeroU8;

use crate::feeds::{Mirror, TtlDefaults};
use crate::kernel::{dump, sysctl};
use crate::route::Source;
use crate::switch::Reading;

/// All of the kernel's routes and nexthop objects. Blocks until they are read.
pub fn read_routes() -> Result<Reading, String> {
    let mut mirror = Box::new(Mirror::new(Source::Kernel));
    dump::routing(|message| mirror.take(message)).map_err(|error| error.to_string())?;
    mirror.forget_changes();
    let has_mpls = dump::has_mpls();
    let ttl = ttl_defaults();
    Ok(Reading { mirror, has_mpls, ttl })
}

/// The settings of this network namespace; those that the kernel begins with if it has no MPLS.
pub fn ttl_defaults() -> TtlDefaults {
    let defaults = TtlDefaults::default();
    let imposed = sysctl::read("mpls/default_ttl").and_then(|ttl| u8::try_from(ttl).ok());
    TtlDefaults {
        propagates: sysctl::read("mpls/ip_ttl_propagate").map_or(defaults.propagates, |propagate| propagate != 0),
        imposed: imposed.and_then(NonZeroU8::new).unwrap_or(defaults.imposed),
    }
}
