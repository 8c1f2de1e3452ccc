//! Route entries: what a label or a prefix maps to, in `ILM`, `FTN`, `BACKUPS` and the buckets of `GROUPS`.

use super::TtlMode;
use crate::wire::Label;

/// What a route entry does. Zero means "no entry", so that a zeroed map forwards nothing.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// No route.
    None = 0,
    /// One outgoing label: replaces the top label (ILM) or is imposed (FTN). Operand: the label.
    Label = 1,
    /// Two or more outgoing labels, or one with a configured TTL. Operand: index into `STACKS`.
    Stack = 2,
    /// Pop and send the payload on, as the egress of the LSP. Operand: none.
    Pop = 3,
    /// Pop and send the payload on, as the penultimate hop (`as implicit-null`). Operand: none.
    PenultimatePop = 4,
    /// Pop; this machine handles the payload (`dev lo`). Operand: none.
    Local = 5,
    /// The frame is left to the kernel unchanged. Operand: ignored by the XDP program; the controller stores a number
    /// of its own in it.
    Pass = 6,
    /// Several next hops: the frame's bucket in the group says what to do; it is an entry with one of the operations 1
    /// to 4, or [`Op::Protected`]. Operand: index into `GROUPS`.
    Group = 7,
    /// ILM only: like [`Op::Local`] if another label is beneath; otherwise the frame is left unchanged to the kernel,
    /// which has a route for the same label (`dev lo pass`). Operand: none.
    LocalPass = 8,
    /// ILM only: pop, and send the packet as the VRF's tables say; what needs the kernel is left to it unchanged, and the
    /// kernel has a route for the same label (`vrf NAME pass`). Operand: index into `VRFS`.
    VrfPass = 9,
    /// A next hop whose backup has labels of its own: one of two entries says what to do, each with one of the operations
    /// 1 to 4. It is the first one, if its next hop is resolved, else the second. Operand: index into `BACKUPS`.
    Protected = 10,
    /// ILM only: the label of an Ethernet pseudowire; the frame beneath leaves by its attachment circuit. Operand: index into
    /// `PSEUDOWIRES`.
    Pseudowire = 11,
}

/// A route's own TTL propagation (`ttl-propagate enabled|disabled`), which overrides the instance's mode. In an
/// instance with the Linux mode, `enabled` means what it means to the Linux kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum TtlPropagate {
    #[default]
    Default,
    Enabled,
    Disabled,
}

impl TtlPropagate {
    /// The mode to apply; `default` is the instance's mode.
    pub const fn mode(self, default: TtlMode) -> TtlMode {
        match self {
            Self::Default => default,
            Self::Enabled => match default {
                TtlMode::Linux => TtlMode::Linux,
                TtlMode::Uniform | TtlMode::Pipe => TtlMode::Uniform,
            },
            Self::Disabled => TtlMode::Pipe,
        }
    }
}

/// One entry of `ILM` or `FTN`: the NHLFE that a label or prefix maps to, in one aligned 64-bit word. A bucket of
/// `GROUPS` and the two words of `BACKUPS` are such entries too; their counter slot is 0, because frames count for the
/// entry that led there.
///
/// | bits | field |
/// |---|---|
/// | 0-3 | [`Op`] |
/// | 4-5 | [`TtlPropagate`]: 0 default, 1 enabled, 2 disabled |
/// | 6-7 | reserved |
/// | 8-27 | operand: outgoing label, or index into `STACKS`, `GROUPS`, `VRFS`, `BACKUPS` or `PSEUDOWIRES` |
/// | 28-43 | next-hop index into `ADJACENCIES` |
/// | 44-63 | counter slot in `ROUTE_COUNTERS`, 0: not counted |
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouteEntry(u64);

impl RouteEntry {
    /// No route.
    pub const EMPTY: Self = Self(0);
    /// Left to the kernel without a route: the FTN entry of the kernel's own addresses.
    pub const PASS: Self = Self(Op::Pass as u64);

    /// Fields are truncated to their bits: `operand` to 20, `slot` to 20.
    pub const fn new(op: Op, ttl: TtlPropagate, operand: u32, next_hop: u16, slot: u32) -> Self {
        let ttl = match ttl {
            TtlPropagate::Default => 0,
            TtlPropagate::Enabled => 1,
            TtlPropagate::Disabled => 2,
        };
        Self(
            op as u64
                | ttl << 4
                | ((operand & 0xf_ffff) as u64) << 8
                | (next_hop as u64) << 28
                | ((slot & 0xf_ffff) as u64) << 44,
        )
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn op(self) -> Op {
        match self.0 & 0xf {
            1 => Op::Label,
            2 => Op::Stack,
            3 => Op::Pop,
            4 => Op::PenultimatePop,
            5 => Op::Local,
            6 => Op::Pass,
            7 => Op::Group,
            8 => Op::LocalPass,
            9 => Op::VrfPass,
            10 => Op::Protected,
            11 => Op::Pseudowire,
            // Also numbers that a later version may define: this version treats them as no route.
            _ => Op::None,
        }
    }

    pub const fn ttl_propagate(self) -> TtlPropagate {
        match (self.0 >> 4) & 3 {
            1 => TtlPropagate::Enabled,
            2 => TtlPropagate::Disabled,
            _ => TtlPropagate::Default,
        }
    }

    pub const fn operand(self) -> u32 {
        (self.0 >> 8) as u32 & 0xf_ffff
    }

    /// The operand of [`Op::Label`]: the outgoing label.
    pub const fn out_label(self) -> Label {
        Label::from_low_bits(self.operand())
    }

    pub const fn next_hop(self) -> u16 {
        (self.0 >> 28) as u16
    }

    pub const fn slot(self) -> u32 {
        (self.0 >> 44) as u32
    }

    /// The same entry through another next hop.
    pub const fn with_next_hop(self, next_hop: u16) -> Self {
        Self((self.0 & !(0xffff << 28)) | (next_hop as u64) << 28)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_entry_keeps_its_fields_apart() {
        let entry = RouteEntry::new(Op::PenultimatePop, TtlPropagate::Disabled, 0xf_ffff, 0xffff, 0xf_ffff);
        assert_eq!(entry.to_bits(), 0xffff_ffff_ffff_ff24);
        assert_eq!(
            (
                entry.op(),
                entry.ttl_propagate(),
                entry.operand(),
                entry.next_hop(),
                entry.slot()
            ),
            (Op::PenultimatePop, TtlPropagate::Disabled, 0xf_ffff, 0xffff, 0xf_ffff)
        );
        let moved = entry.with_next_hop(7);
        assert_eq!(
            (moved.next_hop(), moved.operand(), moved.slot()),
            (7, 0xf_ffff, 0xf_ffff)
        );
        assert_eq!(RouteEntry::EMPTY.op(), Op::None);
        assert_eq!(RouteEntry::PASS.op(), Op::Pass);
        assert_eq!(RouteEntry::from_bits(0xf).op(), Op::None);
    }
}
