//! Counts what happened to the frames that reached the slow path.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident, $text:literal;)+) => {
        /// What happened to a frame. Each frame ends with one of these, and has none while it is held.
        /// [`Outcome::RouterAlert`], [`Outcome::Held`] and [`Outcome::HoldExpired`] are counted in addition.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Outcome { $($(#[doc = $doc])+ $name,)+ }

        impl Outcome {
            /// Every outcome, in order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name that the CLI and the control socket use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The description of the counter, in one sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

outcomes! {
    #[doc = "Forwarded: the obstacle was gone, or it had a Router Alert label."]
    Forwarded, "forwarded";
    #[doc = "Forwarded after waiting for the next hop's MAC address."]
    Released, "released";
    #[doc = "Handed to the kernel: its last label was popped for this machine."]
    Delivered, "delivered";
    #[doc = "Dropped: it could not be sent, because the port was removed or its queue is full."]
    NotSent, "not-sent";
    #[doc = "Dropped: the kernel did not take it, because the port was removed or is down, or the frame is longer than about 16,000 bytes."]
    NotDelivered, "not-delivered";
    #[doc = "Answered by ICMP Time Exceeded."]
    TimeExceeded, "time-exceeded";
    #[doc = "Answered by ICMP Host Unreachable."]
    HostUnreachable, "host-unreachable";
    #[doc = "Answered by ICMP Fragmentation Needed or Packet Too Big."]
    TooBigAnswered, "too-big-answered";
    #[doc = "Forwarded in fragments that fit the next hop's MTU."]
    Fragmented, "fragmented";
    #[doc = "Forwarded without the bytes behind the IP packet, which made the frame larger than the next hop's MTU."]
    TrailerCut, "trailer-cut";
    #[doc = "Dropped without an answer: the rate limit of ICMP errors."]
    AnswerLimited, "answer-limited";
    #[doc = "Dropped without an answer: ICMP errors are not sent about such packets."]
    NoAnswerDue, "no-answer-due";
    #[doc = "Dropped without an answer: this machine has no address to answer from."]
    NoSource, "no-source";
    #[doc = "Dropped without an answer: this machine has no route to the packet's source, or cannot send by it."]
    NoWayBack, "no-way-back";
    #[doc = "Dropped: no route for the label."]
    UnknownLabel, "unknown-label";
    #[doc = "Held until the next hop's MAC address is known (counted in addition)."]
    Held, "held";
    #[doc = "Dropped: --hold frames were already waiting for the next hop."]
    HoldFull, "hold-full";
    #[doc = "The next hop's MAC address was not found in time (counted in addition)."]
    HoldExpired, "hold-expired";
    #[doc = "Dropped: larger than the next hop's MTU, and not an IP packet whose sender can be informed."]
    TooBig, "too-big";
    #[doc = "It had a Router Alert label (counted in addition)."]
    RouterAlert, "router-alert";
    #[doc = "Dropped: OAM and G-ACh labels are not supported."]
    Oam, "oam";
    #[doc = "Answered by an MPLS echo reply."]
    LspPingAnswered, "lsp-ping-answered";
    #[doc = "Dropped without an answer: the rate limit of MPLS echo replies."]
    LspPingLimited, "lsp-ping-limited";
    #[doc = "Dropped without an answer: not an MPLS echo request that wants a reply, or not from a host."]
    LspPing, "lsp-ping";
    #[doc = "Dropped: the slow path got only part of the frame."]
    Trimmed, "trimmed";
    #[doc = "Dropped: the label stack or IP packet is malformed."]
    Malformed, "malformed";
    #[doc = "Dropped: nothing for the slow path to do."]
    NotHandled, "not-handled";
}

/// The number of frames with each outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters([u64; Outcome::ALL.len()]);

impl Counters {
    pub fn count(&mut self, outcome: Outcome) {
        self.0[outcome as usize] += 1;
    }

    pub const fn get(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_apart_and_explained() {
        let mut counters = Counters::default();
        for (index, &outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome as usize, index);
            for _ in 0..=index {
                counters.count(outcome);
            }
            assert!(outcome.description().ends_with('.') && !outcome.name().is_empty());
        }
        for (index, &outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(counters.get(outcome), index as u64 + 1);
        }
    }
}
