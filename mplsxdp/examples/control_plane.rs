//! The least that a control plane does: it makes the routes of an instance its own, all in one step, and reads back what
//! they forwarded.
//!
//! ```sh
//! cargo run --example control_plane -- default < routes.txt
//! ```

use std::error::Error;
use std::io::Read as _;

use mplsxdp::control::Instance;
use mplsxdp::control::api::{self, Committed, ListRoutes};
use mplsxdp::control::client::Client;
use mplsxdp::route::Route;

/// How many routes are in one message.
const BATCH: usize = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "default".into());
    let mut lines = String::new();
    std::io::stdin().read_to_string(&mut lines)?;
    let mut client = Client::connect(&Instance::new(&name)?)?;
    let committed = install(&mut client, &lines)?;
    println!(
        "{} added, {} deleted",
        committed.changes.added, committed.changes.deleted
    );
    for (route, packets) in forwarded(&mut client)? {
        println!("{packets:>12}  {route}");
    }
    Ok(())
}

/// Makes the static routes of the instance those of `lines`, one route a line. If any is refused, nothing changes. Routes
/// that cannot reach their next hops yet are installed, wait, and are listed in the result.
pub fn install(client: &mut Client, lines: &str) -> Result<Committed, Box<dyn Error>> {
    let routes = lines.lines().map(str::parse::<Route>).collect::<Result<Vec<_>, _>>()?;
    let routes: Vec<api::Route> = routes.iter().map(api::Route::from).collect();
    // Dropped without a commit, a transaction is rolled back.
    let mut transaction = client.begin(true)?;
    for batch in routes.chunks(BATCH) {
        transaction.stage(batch)?;
    }
    Ok(transaction.commit(false)?)
}

/// The installed routes, with the packets that each has forwarded.
pub fn forwarded(client: &mut Client) -> Result<Vec<(String, u64)>, Box<dyn Error>> {
    let list = ListRoutes {
        counters: Some(true),
        ..ListRoutes::default()
    };
    let mut found = Vec::new();
    client.routes(&list, |installed| {
        let route = installed.route.check()?;
        let packets = installed.counter.map_or(0, |counter| counter.packets);
        found.push((route.to_string(), packets));
        Ok::<_, Box<dyn Error>>(())
    })?;
    Ok(found)
}
