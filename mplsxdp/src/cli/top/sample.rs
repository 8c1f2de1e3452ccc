//! What the switch says at one moment.

use std::time::{Duration, Instant};

use crate::control::api::{self, GetBusiestRoutes, InstalledRoute, Link, Lookup, NextHopState, Stats};
use crate::control::client::{Client, ClientError};

/// What is to be asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    pub interval: Duration,
    pub order: api::BusyOrder,
    /// Next hops, of which there may be very many.
    pub next_hops: bool,
    /// A route to look at closely.
    pub route: Option<Lookup>,
}

/// The busiest routes that are asked for.
const ROUTES: u32 = 200;

#[derive(Debug)]
pub struct Sample {
    /// When its counters were read.
    pub at: Instant,
    pub links: Vec<Link>,
    pub stats: Stats,
    /// Empty if they were not wanted.
    pub next_hops: Vec<NextHopState>,
    /// `None` if none was wanted, or it is gone.
    pub route: Option<InstalledRoute>,
    pub routes: api::BusiestRoutes,
}

impl Sample {
    /// Takes as long as `interval`, in which the busiest routes are found.
    pub fn take(client: &mut Client, wanted: &Wanted) -> Result<Self, ClientError> {
        let milliseconds = u32::try_from(wanted.interval.as_millis()).unwrap_or(u32::MAX);
        let routes = client.busiest_routes(&GetBusiestRoutes {
            count: Some(ROUTES),
            milliseconds: Some(milliseconds),
            order: Some(wanted.order),
        })?;
        let at = Instant::now();
        let route = match wanted.route.map(|lookup| client.route(lookup)) {
            Some(Err(ClientError::Refused(_))) | None => None,
            Some(route) => Some(route?),
        };
        Ok(Self {
            at,
            routes,
            route,
            links: client.links(true)?,
            stats: client.stats(false)?,
            next_hops: match wanted.next_hops {
                true => client.neighbors(false)?,
                false => Vec::new(),
            },
        })
    }
}
