//! What became of the frames that came up, counted.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $name:ident, $text:literal;)+) => {
        /// What became of a frame. Each frame has one of these in the end, and while it is held, none;
        /// [`Outcome::RouterAlert`], [`Outcome::Held`] and [`Outcome::HoldExpired`] are counted besides.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Outcome { $($(#[doc = $doc])+ $name,)+ }

        impl Outcome {
            /// Every outcome, in order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name that the CLI and the control socket use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// One sentence for a person who reads the counter.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

outcomes! {
    #[doc = "Forwarded: what stood in the way was gone, or it had a Router Alert label."]
    Forwarded, "forwarded";
    #[doc = "Forwarded after it had waited for the next hop's MAC address."]
    Released, "released";
    #[doc = "Handed to the kernel: its last label was popped for this box."]
    Delivered, "delivered";
    #[doc = "Dropped: it could not be sent, as the port is gone, or its queue is full."]
    NotSent, "not-sent";
    #[doc = "Dropped: the kernel could not be given it, as the port is gone, or the frame is longer than about 3400 bytes."]
    NotDelivered, "not-delivered";
    #[doc = "Answered by ICMP Time Exceeded."]
    TimeExceeded, "time-exceeded";
    #[doc = "Answered by ICMP Host Unreachable."]
    HostUnreachable, "host-unreachable";
    #[doc = "Answered by ICMP Fragmentation Needed or Packet Too Big."]
    TooBigAnswered, "too-big-answered";
    #[doc = "Forwarded in fragments that fit the next hop's MTU."]
    Fragmented, "fragmented";
    #[doc = "Forwarded without the bytes behind the IP packet, with which the frame was larger than the next hop's MTU."]
    TrailerCut, "trailer-cut";
    #[doc = "Dropped without an answer: the rate limit of ICMP errors."]
    AnswerLimited, "answer-limited";
    #[doc = "Dropped without an answer: it is no packet that gets an ICMP error."]
    NoAnswerDue, "no-answer-due";
    #[doc = "Dropped without an answer: this box has no address to answer from."]
    NoSource, "no-source";
    #[doc = "Dropped without an answer: this box has no route to the packet's source, or cannot send by the one that it has."]
    NoWayBack, "no-way-back";
    #[doc = "Dropped: no route for the label."]
    UnknownLabel, "unknown-label";
    #[doc = "Held until the next hop's MAC address is known (counted besides)."]
    Held, "held";
    #[doc = "Dropped: as many frames as may wait for the next hop did so already."]
    HoldFull, "hold-full";
    #[doc = "The next hop's MAC address was not found in time (counted besides)."]
    HoldExpired, "hold-expired";
    #[doc = "Dropped: larger than the next hop's MTU, and no IP packet whose source could mend it."]
    TooBig, "too-big";
    #[doc = "It had a Router Alert label (counted besides)."]
    RouterAlert, "router-alert";
    #[doc = "Dropped: an OAM or G-ACh label, which nobody here handles."]
    Oam, "oam";
    #[doc = "Dropped: an MPLS echo request, which nobody here answers."]
    LspPing, "lsp-ping";
    #[doc = "Dropped: only part of the frame came up, so it cannot be forwarded."]
    Trimmed, "trimmed";
    #[doc = "Dropped: no label stack or IP packet as it should be."]
    Malformed, "malformed";
    #[doc = "Dropped: nothing for the slow path to do."]
    NotHandled, "not-handled";
}

/// How many frames had each outcome.
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
