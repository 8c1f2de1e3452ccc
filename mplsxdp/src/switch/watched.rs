//! What happens, for the clients that watch it. Without a client that watches, none of this is made.

use super::{Effect, Input, Switch};
use crate::control::api::{self, EventChange, EventKind, InstalledRoute, NextHopState, Request};
use crate::control::events::{Event, Kinds};
use crate::dataplane::Tables;
use crate::lfib::next_hops::NextHopId;
use crate::lfib::{Listed, Made};
use crate::neighbour;
use crate::neighbour::resolver::HopState;
use crate::route::{NextHop, Owner, Route};

/// What clients watch.
#[derive(Default, Debug)]
pub(super) struct Watched {
    kinds: Kinds,
    /// The ports as they were reported last, if they are watched.
    links: Option<Vec<api::Link>>,
    /// The ports may have changed since.
    links_may_differ: bool,
}

impl Watched {
    pub fn contains(&self, kind: EventKind) -> bool {
        self.kinds.contains(kind)
    }

    /// Notes an input after which ports may be different.
    pub fn note(&mut self, input: &Input) {
        self.links_may_differ |= self.links.is_some() && concerns_links(input);
    }
}

/// News of a next hop, to be logged and reported.
#[derive(Debug)]
pub(super) struct News {
    pub id: NextHopId,
    pub next_hop: NextHop,
    pub what: What,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Changed(HopState),
    /// Whether its frames go to its backup may have changed. Only those who watch get this.
    Backup,
    /// No route uses it any more; this is how it was. Only those who watch get this.
    Removed(Option<HopState>),
}

impl<T: Tables> Switch<T> {
    /// Clients watch these kinds of events from now on.
    pub fn watch(&mut self, kinds: Kinds) {
        self.watched.kinds = kinds;
        self.lfib.watch(kinds.contains(EventKind::Route));
        match (kinds.contains(EventKind::Link), &self.watched.links) {
            (true, None) => self.watched.links = Some(self.list_links()),
            (false, Some(_)) => self.watched.links = None,
            (true, Some(_)) | (false, None) => {}
        }
    }

    pub fn watched(&self) -> Kinds {
        self.watched.kinds
    }

    /// Reports what a change has made of the routes.
    pub(super) fn tell_routes(&mut self, made: Option<Made>) {
        let made = made.filter(|made| !made.is_empty());
        self.effects.extend(made.map(|made| Effect::Tell(Event::Routes(made))));
    }

    /// Reports a next hop.
    pub(super) fn tell_next_hop(&mut self, news: &News) {
        if !self.watched.contains(EventKind::Neigh) {
            return;
        }
        let News { id, next_hop, what } = news;
        let is_known = self.lfib.next_hops().get(*id) == Some(next_hop);
        let (change, state) = match *what {
            What::Changed(state) => (EventChange::Changed, Some(state)),
            What::Backup if is_known => (EventChange::Changed, self.resolver.state(*id)),
            What::Backup => return,
            What::Removed(state) => (EventChange::Deleted, state),
        };
        let now = match is_known {
            true => self.next_hop_state(*id, self.lfib.next_hops().backup(*id)),
            false => self.unused_next_hop(next_hop, state),
        };
        let neighbor = NextHopState {
            lladdr: state.and_then(HopState::mac).map(|mac| mac.to_string()),
            state: self.state_of(state),
            ..now
        };
        self.effects.push_back(Effect::Tell(Event::NextHop(change, neighbor)));
    }

    /// A next hop that no route uses any more.
    fn unused_next_hop(&self, next_hop: &NextHop, state: Option<HopState>) -> NextHopState {
        let ifindex = state.and_then(HopState::ifindex);
        let found = ifindex.and_then(|ifindex| self.interface_name(ifindex));
        NextHopState {
            via: next_hop.via.into(),
            dev: found.map(Into::into).or_else(|| next_hop.dev.clone()),
            lladdr: None,
            state: self.state_of(state),
            redirect_lost: false,
            routes: 0,
            backup: None,
            own_backups: false,
            kernel: None,
        }
    }

    /// Reports the ports that are different from how they were reported last.
    pub(super) fn tell_links(&mut self) {
        if !std::mem::take(&mut self.watched.links_may_differ) {
            return;
        }
        let Some(before) = self.watched.links.take() else {
            return;
        };
        let now = self.list_links();
        let named = |links: &[api::Link], name: &str| links.iter().position(|link| link.ifname == name);
        let gone = before.iter().filter(|link| named(&now, &link.ifname).is_none());
        let gone = gone.map(|link| (EventChange::Deleted, link));
        let others = now.iter().filter_map(|link| match named(&before, &link.ifname) {
            None => Some((EventChange::Added, link)),
            Some(index) => (before[index] != *link).then_some((EventChange::Changed, link)),
        });
        let events = gone.chain(others);
        let events = events.map(|(change, link)| Effect::Tell(Event::Link(change, Box::new(link.clone()))));
        self.effects.extend(events);
        self.watched.links = Some(now);
    }

    /// Routes that were installed, with their state if they still are.
    pub(super) fn describe(&self, routes: &[(Owner, Route)]) -> Vec<InstalledRoute> {
        let found = |(owner, route): &(Owner, Route)| {
            let listed = self.lfib.get(route.key());
            listed.filter(|listed: &Listed| listed.owner == *owner && listed.route == *route)
        };
        let found: Vec<Option<Listed>> = routes.iter().map(found).collect();
        let is_there: Vec<bool> = found.iter().map(Option::is_some).collect();
        let mut installed = self.installed(found.into_iter().flatten(), false).into_iter();
        let described = routes.iter().zip(is_there).map(|((owner, route), is_there)| {
            let installed = if is_there { installed.next() } else { None };
            installed.unwrap_or_else(|| InstalledRoute {
                route: route.into(),
                owner: owner.to_string(),
                ..InstalledRoute::default()
            })
        });
        described.collect()
    }
}

/// Whether ports may be different after this input.
fn concerns_links(input: &Input) -> bool {
    match input {
        Input::Call(call) => matches!(
            call.request,
            Request::AddLink { .. }
                | Request::DeleteLink { .. }
                | Request::SetLink { .. }
                | Request::AddCrossConnect { .. }
                | Request::DeleteCrossConnect { .. }
        ),
        Input::Kernel(events) => {
            let is_link = |event: &neighbour::Event| {
                use neighbour::Event::{Link, LinkGone, Synced};
                matches!(event, Link(_) | LinkGone(_) | Synced)
            };
            events.iter().any(is_link)
        }
        Input::Start
        | Input::Reread(_)
        | Input::Port(_)
        | Input::Interference(_)
        | Input::PutBack { .. }
        | Input::Replaced { .. }
        | Input::Features { .. }
        | Input::TakenOver { .. } => true,
        Input::LinksFailed(_)
        | Input::LookedUp { .. }
        | Input::Wanted(_)
        | Input::Feed(_)
        | Input::Frr(_)
        | Input::RoutesRead(_)
        | Input::FeaturesChanged(_)
        | Input::SnapshotWanted(_)
        | Input::Tick
        | Input::Busiest { .. }
        | Input::ShutDown => false,
    }
}
