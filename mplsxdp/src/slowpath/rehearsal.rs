//! Finds out what the slow path would do with a frame. A slow path of its own handles it, so nothing is counted, held or
//! taken from a rate limit; its actions are kept instead of carried out.

use std::time::Instant;

use super::outcome::{Counters, Outcome};
use super::{Action, Options, Rate, Received, SlowPath, World};

/// An [`Action`] that was not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Intended {
    Transmit { port: u16, frame: Vec<u8> },
    SendByIp { packet: Vec<u8> },
    Deliver { port: u16, frame: Vec<u8> },
    Resolve { adjacency: u16 },
}

/// What would be done at one time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rehearsed {
    pub outcomes: Vec<Outcome>,
    pub actions: Vec<Intended>,
}

/// What would be done with a frame that came up now, with `options` but without their rates; and what would be done later,
/// if it waits for a next hop that does not resolve. `works` says whether an action would work.
pub fn rehearse<W: World>(
    options: Options,
    received: Received<'_>,
    world: &W,
    now: Instant,
    works: impl Fn(&Action<'_>) -> bool,
) -> Vec<Rehearsed> {
    let mut slow_path = SlowPath::new(Options {
        icmp_rate: Rate::UNLIMITED,
        icmp_source_rate: Rate::UNLIMITED,
        // One frame waits, unless none may.
        hold_frames: options.hold_frames.min(1),
        ..options
    });
    let mut actions = Vec::new();
    let mut emit = |action: Action<'_>| {
        let worked = works(&action);
        actions.extend(worked.then(|| intended(action)).flatten());
        worked
    };
    slow_path.receive(received, world, now, &mut emit);
    let at_once = *slow_path.counters();
    let mut rehearsed = vec![Rehearsed {
        outcomes: since(&Counters::default(), &at_once),
        actions: std::mem::take(&mut actions),
    }];
    if let Some(deadline) = slow_path.next_deadline() {
        let mut emit = |action: Action<'_>| {
            let worked = works(&action);
            actions.extend(worked.then(|| intended(action)).flatten());
            worked
        };
        slow_path.poll(world, deadline, &mut emit);
        rehearsed.push(Rehearsed {
            outcomes: since(&at_once, slow_path.counters()),
            actions,
        });
    }
    rehearsed
}

/// `None` for what concerns only the log and those who watch.
fn intended(action: Action<'_>) -> Option<Intended> {
    Some(match action {
        Action::Transmit { port, frame } => Intended::Transmit {
            port,
            frame: frame.to_vec(),
        },
        Action::SendByIp { packet, .. } => Intended::SendByIp {
            packet: packet.to_vec(),
        },
        Action::Deliver { port, frame } => Intended::Deliver {
            port,
            frame: frame.to_vec(),
        },
        Action::Resolve { adjacency } => Intended::Resolve { adjacency },
        Action::Report(_) | Action::Handled(..) => return None,
    })
}

/// The outcomes that were counted in the meantime.
fn since(before: &Counters, after: &Counters) -> Vec<Outcome> {
    let counted = |outcome: &&Outcome| after.get(**outcome) > before.get(**outcome);
    Outcome::ALL.iter().filter(counted).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{INGRESS, MemoryWorld, UNRESOLVED, labelled};
    use super::super::icmp::checksum;
    use super::*;

    /// A UDP packet without data, from 10.0.0.2 to 10.9.9.9.
    fn packet() -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 9, 9, 9, 0, 1, 0, 2, 0, 8, 0, 0,
        ];
        let sum = checksum(0, &packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn rehearsed(frame: &[u8], options: Options) -> Vec<Rehearsed> {
        let received = Received {
            port: INGRESS,
            frame,
            trimmed: 0,
        };
        rehearse(options, received, &MemoryWorld::router(), Instant::now(), |_| true)
    }

    #[test]
    fn an_expired_ttl_is_answered_along_the_lsp_or_by_ip() {
        let deep = labelled(&[(100, 1), (200, 63)], &packet());
        let [only] = &rehearsed(&deep, Options::default())[..] else {
            panic!()
        };
        assert_eq!(only.outcomes, [Outcome::TimeExceeded]);
        assert!(matches!(&only.actions[..], [Intended::Transmit { .. }]), "{only:?}");
        let options = Options {
            icmp_via: super::super::IcmpVia::Ip,
            ..Options::default()
        };
        let [only] = &rehearsed(&deep, options)[..] else {
            panic!()
        };
        assert!(matches!(&only.actions[..], [Intended::SendByIp { .. }]), "{only:?}");
    }

    #[test]
    fn a_frame_that_waits_has_two_ends() {
        let frame = labelled(&[(500, 64)], &packet());
        let [now, later] = &rehearsed(&frame, Options::default())[..] else {
            panic!()
        };
        assert_eq!(now.outcomes, [Outcome::Held]);
        assert_eq!(now.actions, [Intended::Resolve { adjacency: UNRESOLVED }]);
        assert_eq!(later.outcomes, [Outcome::HostUnreachable, Outcome::HoldExpired]);
        assert_eq!(later.actions.len(), 1);
        let none_may_wait = Options {
            hold_frames: 0,
            ..Options::default()
        };
        let [only] = &rehearsed(&frame, none_may_wait)[..] else {
            panic!()
        };
        assert_eq!(only.outcomes, [Outcome::HoldFull]);
    }
}
