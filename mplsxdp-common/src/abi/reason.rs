//! `ROUTE_COUNTERS` and `REASON_COUNTERS`: what is counted, and why frames are not forwarded.

use super::{PUNT_SLOTS, REASON_SLOTS};

/// One entry of `ROUTE_COUNTERS` or `REASON_COUNTERS`, one per CPU. Bytes are those of the whole frame as received (for
/// [`Reason::NoPort`], as it would have left).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, $rfc:literal;)+) => {
        /// Why a frame was not forwarded by its label or prefix: each has a counter per port.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name = $number,)+ }

        impl Reason {
            /// Every reason, in order of number.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The reason with this number, as in `REASON_COUNTERS`.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// The name that the CLI and the control socket use.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The description of the counter, in one sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }

            /// The source of the rule.
            pub const fn source(self) -> &'static str {
                match self { $(Self::$name => $rfc,)+ }
            }
        }
    };
}

reasons! {
    #[doc = "The TTL expired here."]
    TtlExpired = 1, "ttl-expired", "RFC 3032 section 2.4, RFC 3443";
    #[doc = "No route for the incoming label."]
    NoRoute = 2, "no-route", "RFC 3031 section 3.18";
    #[doc = "The next hop's MAC address is not known, or its interface is down."]
    Unresolved = 3, "unresolved", "RFC 3031 section 3.10";
    #[doc = "The packet with its labels is larger than the next hop's MTU, or is a multi-buffer frame that its port cannot send."]
    TooBig = 4, "too-big", "RFC 3032 section 3";
    #[doc = "Router Alert label on top."]
    RouterAlert = 5, "router-alert", "RFC 3032 section 2.1";
    #[doc = "G-ACh or OAM Alert label on top."]
    Oam = 6, "oam", "RFC 5586, RFC 3429";
    #[doc = "MPLS echo request for this machine; never forwarded as IP."]
    LspPing = 7, "lsp-ping", "RFC 8029 section 4.3, RFC 9570";
    #[doc = "The stack has no bottom within the frame, or the payload is not the IP packet that the operation needs."]
    Malformed = 8, "malformed", "RFC 3032 section 2.1";
    #[doc = "A labelled frame on a port that does not accept labels."]
    PortDisabled = 9, "port-disabled", "RFC 5920 section 8.1";
    #[doc = "Implicit NULL received; it is never on the wire."]
    ImplicitNull = 10, "implicit-null", "RFC 3032 section 2.1";
    #[doc = "A special-purpose label that is not supported."]
    SpecialLabel = 11, "special-label", "RFC 7274 section 3";
    #[doc = "The driver leaves too little headroom to push the labels."]
    NoHeadroom = 12, "no-headroom", "Linux bpf_xdp_adjust_head";
    #[doc = "The outgoing port was removed."]
    NoPort = 13, "no-port", "Linux bpf_redirect_map";
    #[doc = "A labelled frame whose VLAN tags belong to no sub-interface of this port."]
    UnknownVlan = 14, "unknown-vlan", "RFC 3032 section 5, RFC 5920 section 8.1";
    #[doc = "A packet that the kernel sent into the local interface and that matches no prefix route."]
    NoFtn = 15, "no-ftn", "RFC 3031 section 3.12";
    #[doc = "The sender left the TCP or UDP checksum to its NIC; it was computed here and the frame forwarded."]
    ChecksumFinished = 16, "checksum-finished", "Linux CHECKSUM_PARTIAL";
    #[doc = "Left to the kernel untouched, as the label's route says (`pass`, `dev lo pass`)."]
    PassRoute = 17, "pass-route", "Linux mpls_router";
    #[doc = "A label that is in none of the ranges to which the port is restricted."]
    LabelNotAccepted = 18, "label-not-accepted", "RFC 4381 section 3.2, RFC 5920 section 8.1";
    #[doc = "Sent to the port that this one is cross-connected with."]
    CrossConnected = 19, "cross-connected", "IEEE 802.1Q section 6.7";
    #[doc = "For a cross-connect or pseudowire, and longer than can be sent there, or a multi-buffer frame that the port cannot send."]
    CrossTooBig = 20, "cross-too-big", "Linux bpf_redirect_map";
    #[doc = "Sent as the VRF of its label routes it."]
    Vrf = 21, "vrf", "RFC 4364 section 5, Linux bpf_fib_lookup";
    #[doc = "The control word of a pseudowire is missing, or says that it is a fragment of a frame that follows."]
    ControlWord = 22, "control-word", "RFC 4385 section 3, RFC 4623 section 4";
}

impl Reason {
    /// Whether the slow path gets frames of this reason; others are dropped.
    pub const fn is_punted(self) -> bool {
        match self {
            Self::TtlExpired
            | Self::NoRoute
            | Self::Unresolved
            | Self::TooBig
            | Self::RouterAlert
            | Self::Oam
            | Self::LspPing
            | Self::ChecksumFinished => true,
            Self::Malformed
            | Self::PortDisabled
            | Self::ImplicitNull
            | Self::SpecialLabel
            | Self::NoHeadroom
            | Self::NoPort
            | Self::UnknownVlan
            | Self::NoFtn
            | Self::PassRoute
            | Self::LabelNotAccepted
            | Self::CrossConnected
            | Self::CrossTooBig
            | Self::Vrf
            | Self::ControlWord => false,
        }
    }

    /// Whether the rate at which frames of this reason reach the slow path is limited ([`Police`]). Frames that would
    /// otherwise be forwarded are not limited.
    pub const fn is_policed(self) -> bool {
        self.is_punted() && !matches!(self, Self::ChecksumFinished)
    }

    /// The index of this reason's counter among a port's in `REASON_COUNTERS`.
    pub const fn slot(self) -> u32 {
        self as u32
    }

    /// The index of this reason among the punted ones; below [`PUNT_SLOTS`].
    const fn punt_slot(self) -> u32 {
        match self {
            // No reason has this number.
            Self::ChecksumFinished => 0,
            reason => reason as u32,
        }
    }
}

/// Why a frame that should be punted did not reach the slow path. Such a frame also counts for its reason.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Loss {
    Policed = 0,
    NoListener = 1,
}

impl Loss {
    pub const ALL: &[Self] = &[Self::Policed, Self::NoListener];

    /// The name that the CLI and the control socket use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policed => "policed",
            Self::NoListener => "no-listener",
        }
    }

    /// The description of the counter, in one sentence.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Policed => "Rate limit for this reason exceeded (--punt-rate).",
            Self::NoListener => "The slow path does not listen on the queue where the frame arrived.",
        }
    }

    /// The index, among a port's slots in `REASON_COUNTERS`, of the counter of frames of the punted reason `reason`
    /// that were lost in this way.
    pub const fn slot(self, reason: Reason) -> u32 {
        LOSS_SLOTS + self as u32 * PUNT_SLOTS + reason.punt_slot()
    }
}

/// The index of the first [`Loss`].
const LOSS_SLOTS: u32 = 32;

/// The index, among a port's slots in `REASON_COUNTERS`, of the counter of frames that were redirected to the port but
/// not sent by it. They were forwarded, so their routes have counted them. Their bytes are not known.
pub const REDIRECT_LOST_SLOT: u32 = LOSS_SLOTS - 1;

/// The name that the CLI and the control socket use for this counter.
pub const REDIRECT_LOST: &str = "redirect-lost";

/// The description of this counter, in one sentence.
pub const REDIRECT_LOST_DESCRIPTION: &str =
    "Forwarded, then lost: this port's driver did not take the redirected frames.";

const _: () = {
    assert!(Reason::ALL.len() < REDIRECT_LOST_SLOT as usize);
    assert!(LOSS_SLOTS + Loss::ALL.len() as u32 * PUNT_SLOTS == REASON_SLOTS);
    let mut index = 0;
    while index < Reason::ALL.len() {
        let reason = Reason::ALL[index];
        assert!(!reason.is_punted() || reason.punt_slot() < PUNT_SLOTS);
        assert!(!reason.is_policed() || reason.punt_slot() == reason as u32);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gaps_and_explained() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index + 1);
            assert!(reason.description().ends_with('.') && !reason.source().is_empty() && !reason.name().is_empty());
        }
    }

    #[test]
    fn every_loss_has_a_slot_of_its_own() {
        let punted = Reason::ALL.iter().filter(|reason| reason.is_punted());
        let losses = punted.flat_map(|&reason| Loss::ALL.iter().map(move |loss| loss.slot(reason)));
        let mut slots: Vec<u32> = losses.chain(Reason::ALL.iter().map(|reason| reason.slot())).collect();
        let all = slots.len();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), all);
        assert!(slots.iter().all(|&slot| slot < REASON_SLOTS));
    }
}
