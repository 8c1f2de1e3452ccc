//! `upgrade`: another version goes on. `unload --force`: ends what an instance that does not run has left.

use super::{Failure, Session};
use crate::control::access::Groups;
use crate::control::api::Status;
use crate::control::socket;
use crate::error;
use crate::ports::leftovers::{self, Removed};
use crate::ports::preflight;
use crate::state::{self, Directory};

pub fn upgrade(session: &mut Session) -> Result<(), Failure> {
    let before = session.client()?.status()?.version;
    let Some(client) = session.client.take() else {
        return Ok(());
    };
    let Status {
        instance, version, pid, ..
    } = client.upgrade()?;
    let line = format!("instance {instance}: mplsxdp {version}, was {before}, in process {pid}");
    session.out.line(&line)
}

pub fn force(session: &mut Session) -> Result<(), Failure> {
    preflight::check_capabilities().map_err(|error| Failure::Refused(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("cannot start: {error}")))?;
    // Holds the name, so that the instance cannot be loaded meanwhile; and removes its socket and lock at the end.
    let held = {
        let _within = runtime.enter();
        socket::bind(&session.instance, &Groups::look_up()).map_err(|error| Failure::Refused(error.to_string()))?
    };
    let removed = leftovers::remove(&session.instance).map_err(|error| Failure::Refused(error::report(&error)));
    let state = state::directory(session.instance.name());
    let has_state = state.exists();
    let discarded = Directory::discard(&state).map_err(|error| Failure::Refused(error.to_string()));
    drop(held);
    let Removed {
        ports,
        local,
        neighbours,
    } = removed?;
    discarded?;
    let interfaces = [ports, local].concat();
    if interfaces.is_empty() && neighbours == 0 && !has_state {
        return session
            .out
            .line(&format!("instance {} has left nothing", session.instance.name()));
    }
    session.out.line(&format!(
        "instance {}: removed from {}; neighbours released: {neighbours}; saved routes and ports removed: {}",
        session.instance.name(),
        if interfaces.is_empty() {
            "no interface".to_owned()
        } else {
            interfaces.join(", ")
        },
        if has_state { "yes" } else { "none" }
    ))
}
