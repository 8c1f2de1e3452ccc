//! Reads the kernel's routes for an audit.

use crate::feeds::Mirror;
use crate::kernel::dump;
use crate::route::Source;
use crate::switch::Reading;

/// All of the kernel's routes and nexthop objects. Blocks until they are read.
pub fn read_routes() -> Result<Reading, String> {
    let mut mirror = Box::new(Mirror::new(Source::Kernel));
    dump::routing(|message| mirror.take(message)).map_err(|error| error.to_string())?;
    mirror.forget_changes();
    let has_mpls = dump::has_mpls();
    Ok(Reading { mirror, has_mpls })
}
