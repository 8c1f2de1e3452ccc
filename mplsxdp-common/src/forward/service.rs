//! Frames whose label, or whose port, is that of a service: a VRF or a pseudowire. Functions of their own handle these, which
//! keeps them out of the common case.

use super::label::load_lse;
use super::pseudowire::{enter_pseudowire, leave_pseudowire};
use super::{Frame, OFFSET_MASK, PortView, send_in_vrf};
use crate::abi::{Op, Reason};

/// What the first look at the frame of a service ends in. No frame is counted for it there.
pub(super) const SERVICE: Reason = Reason::Vrf;

/// What is known of the frame of a service after the first look at it, as a number. With a label: the TTL that applies to it
/// (bits 0-7), its offset (8-13). From an attachment circuit (bit 31): the index of that in `ATTACHMENTS` (0-30). Whether the
/// frame must not leave as it is, because its checksum is unfinished (32-63).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceFrame(u64);

impl ServiceFrame {
    const ATTACHMENT_CIRCUIT: u64 = 1 << 31;

    #[inline(always)]
    pub(super) const fn labelled(ttl: u8, offset: usize, unfinished: usize) -> Self {
        Self(ttl as u64 | (offset as u64) << 8 | (unfinished as u64) << 32)
    }

    #[inline(always)]
    pub(super) const fn at_attachment_circuit(index: u32, unfinished: usize) -> Self {
        let index = index as u64 & (Self::ATTACHMENT_CIRCUIT - 1);
        Self(index | Self::ATTACHMENT_CIRCUIT | (unfinished as u64) << 32)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) const fn ttl(self) -> u8 {
        self.0 as u8
    }

    pub(super) const fn offset(self) -> usize {
        (self.0 >> 8) as usize & OFFSET_MASK
    }

    pub(super) const fn attachment(self) -> u32 {
        (self.0 & (Self::ATTACHMENT_CIRCUIT - 1)) as u32
    }

    pub(super) const fn is_at_attachment_circuit(self) -> bool {
        self.0 & Self::ATTACHMENT_CIRCUIT != 0
    }

    pub(super) const fn is_unfinished(self) -> bool {
        self.0 >> 32 != 0
    }
}

/// What is done with the frame of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    Vrf,
    LeavePseudowire,
    EnterPseudowire,
}

impl Service {
    #[inline(always)]
    pub fn of<F: Frame, T: PortView>(frame: &F, tables: &T, received: ServiceFrame) -> Self {
        if received.is_at_attachment_circuit() {
            return Self::EnterPseudowire;
        }
        match load_lse(frame, received.offset()).map(|lse| tables.ilm(lse.label()).op()) {
            Ok(Op::Pseudowire) => Self::LeavePseudowire,
            // Also if another route has taken the place of either.
            _ => Self::Vrf,
        }
    }
}

/// Handles the frame of a service. Returns the code of a verdict.
#[inline(always)]
pub fn serve<F: Frame, T: PortView>(frame: &mut F, tables: &T, received: ServiceFrame) -> u32 {
    match Service::of(frame, tables, received) {
        Service::Vrf => send_in_vrf(frame, tables, received),
        Service::LeavePseudowire => leave_pseudowire(frame, tables, received),
        Service::EnterPseudowire => enter_pseudowire(frame, tables, received),
    }
}
