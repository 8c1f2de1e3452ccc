//! The same random label tables and frames through the kernel's MPLS and through mplsxdp in linux mode.

use std::env;

use anyhow::{Context as _, Result};
use mplsxdp_tests::Lab;
use mplsxdp_tests::differential_kernel::{DOCUMENT, compare, documented};

use crate::net;
use crate::show::{heading, title};

/// More than the end-to-end test has time for; the variable has another number.
const TABLES: usize = 250;
const TABLES_VARIABLE: &str = "MPLSXDP_TABLES";

pub fn run(lab: &Lab) -> Result<()> {
    title("The kernel's MPLS against mplsxdp --ttl-propagate linux");
    println!(
        "
              +---- [ the kernel's mpls_router ] ----+
   the lab ---+                                      +---- the lab compares what arrives
              +---- [ mplsxdp                  ] ----+

  Tables: pops, swaps and pushes of up to 16 labels, explicit null, `via inet`, `inet6` and `link`, several
  next hops, `ttl-propagate`, `dev lo`. Frames: 1 to 7 labels and special ones, all TTLs and TCs, IPv4 and
  IPv6, and what is wrong: no bottom, no IP, bad checksums, bytes behind the packet.
"
    );
    let tables = match env::var(TABLES_VARIABLE) {
        Ok(text) => text.parse().context(TABLES_VARIABLE)?,
        Err(_) => TABLES,
    };
    let rows = documented(&net::source_text(DOCUMENT)?)?;
    let report = compare(lab, tables)?;
    heading("What was compared");
    println!("{:>7} tables with {} routes in all", report.tables, report.routes);
    println!("{:>7} frames through each of the two", report.frames);
    println!("{:>7} forwarded by either", report.forwarded);
    println!("{:>7} forwarded by neither", report.by_neither);
    println!(
        "{:>7} for routes with several next hops: each was one of their frames",
        report.several
    );
    heading(&format!("Differences: each is in the list of {DOCUMENT}"));
    for row in rows {
        match row.difference {
            Some(difference) => println!("{:>7} {}", report.count(difference), row.text),
            None => println!("{:>7} {} (forwarded by neither: not compared)", "-", row.text),
        }
    }
    println!("{:>7} not in the list", 0);
    Ok(())
}
