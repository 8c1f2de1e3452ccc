//! Reads the kernel's routes for an audit.

use std::collections::BTreeSet;

use crate::feeds::Mirror;
use crate::kernel::dump;
use crate::route::Source;
use crate::switch::Reading;

/// All of the kernel's label routes and nexthop objects, and its IP routes in these tables. Blocks for as long as that takes.
pub fn read_routes(tables: BTreeSet<u32>) -> Result<Reading, String> {
    let mut mirror = Box::new(Mirror::new(Source::Kernel, tables));
    dump::routing(|message| mirror.take(message)).map_err(|error| error.to_string())?;
    mirror.forget_changes();
    let has_mpls = dump::has_mpls();
    Ok(Reading { mirror, has_mpls })
}
