//! The IP packet beneath the labels: what a pop does to it, and imposition.

use super::egress::Egress;
use super::frame::{Frame, cut_tail, move_head, store};
use super::label::{in_use, label_stack, store_labels};
use super::{Checked, OFFSET_MASK, PortView, Verdict};
use crate::abi::{Adjacency, Domain, Op, Reason, RouteEntry, Settings, TcToDscp, TtlMode};
use crate::hash::ip_flow_hash;
use crate::ip::{self, Family, Header};
use crate::wire::{
    ETH_HLEN, ETH_P_MPLS_UC, IPPROTO_HOPOPTS, IPPROTO_UDP, IPV6_HLEN, LSE_LEN, LSP_PING_PORT, Lse, VLAN_HLEN,
    checksum_update,
};

/// Hands a packet whose labels were popped to the kernel, with the first `l2_len` bytes of its Ethernet header.
#[inline(always)]
pub(super) fn hand_up<F: Frame>(frame: &mut F, ip: Ip, l2_len: usize) -> Checked<Verdict> {
    // The addresses and first tag, then the second tag. In an untagged frame these bytes are not tags, and are written
    // over.
    let (macs, tag) = (
        frame.load::<{ ETH_HLEN + 2 }>(0).ok_or(Reason::Malformed)?,
        frame.load::<VLAN_HLEN>(ETH_HLEN + 2).ok_or(Reason::Malformed)?,
    );
    move_head(frame, ip.offset as i32 - l2_len as i32)?;
    store(frame, 0, macs)?;
    store(frame, ETH_HLEN + 2, tag)?;
    store(frame, l2_len - 2, ip.family.ethertype().to_be_bytes())?;
    ip.store(frame, l2_len)?;
    Ok(Verdict::Pass)
}

/// Pushes the labels of an FTN entry on `ip`. `forwarded` means that the packet was not sent by this router, so this
/// hop counts. The labels get `tc`.
#[inline(always)]
pub(super) fn impose<F: Frame, T: PortView>(
    frame: &mut F,
    tables: &T,
    entry: RouteEntry,
    mut ip: Ip,
    tc: u8,
    forwarded: bool,
    unfinished: usize,
) -> Checked<Verdict> {
    let settings = tables.settings();
    let slot = entry.slot();
    let at = ip.offset;
    let entry = match entry.op() {
        Op::Group => {
            let hash = ip_flow_hash(frame, at, tables.hash_seed());
            tables.bucket(entry.operand(), (hash >> 24) as u8)
        }
        _ => entry,
    };
    let entry = RouteEntry::from_bits(in_use(tables, entry.to_bits()));
    let (received, ttl) = (frame.len(), ip.ttl());
    if ttl <= forwarded as u8 {
        return Err(Reason::TtlExpired);
    }
    let ttl = ttl - forwarded as u8;
    let pipe = entry.ttl_propagate().mode(settings.ttl_mode()) == TtlMode::Pipe;
    let label_ttl = if pipe { settings.tunnel_ttl() } else { ttl };
    let unlabelled = ETH_HLEN + ip.kept_len;
    ip.set_ttl(ttl);
    let egress = match entry.op() {
        Op::Label => {
            let egress = Egress::find(
                frame,
                tables,
                entry,
                unlabelled + LSE_LEN,
                Adjacency::mpls_mtu,
                unfinished,
            )?;
            let lse = Lse::new(entry.out_label(), tc, true, label_ttl);
            egress.begin(frame, ip.offset, LSE_LEN, ETH_P_MPLS_UC)?;
            store(frame, egress.l2_len(), lse.to_bytes())?;
            ip.store(frame, egress.l2_len() + LSE_LEN)?;
            ip.cut_trailer(frame);
            egress
        }
        Op::Stack => {
            let (stack, depth) = label_stack(tables, entry)?;
            let egress = Egress::find(
                frame,
                tables,
                entry,
                unlabelled + depth * LSE_LEN,
                Adjacency::mpls_mtu,
                unfinished,
            )?;
            let label_ttl = if stack.ttl() != 0 { stack.ttl() } else { label_ttl };
            egress.begin(frame, ip.offset, depth * LSE_LEN, ETH_P_MPLS_UC)?;
            store_labels(frame, egress.l2_len(), (stack, depth), tc, label_ttl, (true, label_ttl))?;
            ip.store(frame, egress.l2_len() + depth * LSE_LEN)?;
            ip.cut_trailer(frame);
            egress
        }
        _ => return Err(Reason::NoRoute),
    };
    tables.count(slot, received);
    Ok(egress.verdict())
}

/// These bits of the DSCP are the IP precedence.
const PRECEDENCE: u8 = 0x38;

/// The part of an IP header that label switching reads and rewrites: the first 12 bytes of IPv4 (up to the checksum),
/// the first 8 of IPv6 (up to the hop limit).
pub(super) struct Ip {
    pub(super) family: Family,
    pub(super) offset: usize,
    /// The first 8 bytes of the header, and the 4 after them.
    pub(super) first: u64,
    pub(super) second: u32,
    /// Length in bytes of the packet, including the padding of a short one.
    pub(super) kept_len: usize,
    /// How many bytes follow the packet in the frame.
    pub(super) excess: usize,
}

impl Ip {
    #[inline(always)]
    pub(super) fn new<F: Frame>(frame: &F, offset: usize, header: Header) -> Self {
        let available = frame.len() - offset;
        let kept_len = ip::kept_len(header.total_len, available);
        Self {
            family: header.family,
            offset,
            first: header.first,
            second: header.second,
            kept_len,
            excess: available - kept_len,
        }
    }

    /// The packet that the last label was in front of.
    #[inline(always)]
    pub(super) fn beneath_labels<F: Frame>(frame: &F, offset: usize) -> Checked<Self> {
        let header = Header::beneath_labels(frame, offset).ok_or(Reason::Malformed)?;
        Ok(Self::new(frame, offset, header))
    }

    /// Cuts off what follows the packet in the frame, as Linux does: only the datagram must fit the link's MTU (RFC
    /// 3032 section 3).
    #[inline(always)]
    pub(super) fn cut_trailer<F: Frame>(&self, frame: &mut F) {
        cut_tail(frame, self.excess);
    }

    #[inline(always)]
    pub(super) fn ttl(&self) -> u8 {
        match self.family {
            Family::V4 => (self.second >> 24) as u8,
            Family::V6 => self.first as u8,
        }
    }

    #[inline(always)]
    pub(super) fn set_ttl(&mut self, ttl: u8) {
        match self.family {
            Family::V4 => {
                let old = (self.second >> 16) as u16;
                let new = u16::from(ttl) << 8 | old & 0xff;
                self.second = u32::from(new) << 16 | self.second & 0xffff;
                self.update_checksum(old, new);
            }
            Family::V6 => self.first = self.first & !0xff | u64::from(ttl),
        }
    }

    #[inline(always)]
    pub(super) fn dscp(&self) -> u8 {
        (self.first >> (self.precedence_at() - 3) & 0x3f) as u8
    }

    /// Sets these bits of the DSCP; the ECN field stays.
    #[inline(always)]
    fn set_dscp_bits(&mut self, bits: u8, value: u8) {
        let old = self.first >> 48;
        let at = self.precedence_at() - 3;
        self.first = self.first & !(u64::from(bits) << at) | u64::from(value) << at;
        if self.family == Family::V4 {
            let (new, checksum) = (self.first >> 48, self.second as u16);
            self.update_checksum(old as u16, new as u16);
            // All ones if nothing has changed: a checksum of zero has two forms, of which one would become the other.
            let same = ((old ^ new).wrapping_sub(1) >> 63).wrapping_neg() as u16;
            let updated = self.second as u16;
            let checksum = checksum & same | updated & !same;
            self.second = self.second & !0xffff | u32::from(checksum);
        }
    }

    /// The position of the IP precedence in the first 8 bytes.
    #[inline(always)]
    pub(super) fn precedence_at(&self) -> u32 {
        match self.family {
            Family::V4 => 53,
            Family::V6 => 57,
        }
    }

    #[inline(always)]
    pub(super) fn update_checksum(&mut self, old: u16, new: u16) {
        let checksum = checksum_update(self.second as u16, old, new);
        self.second = self.second & !0xffff | u32::from(checksum);
    }

    /// Applies the last pop to the packet's TTL: `label_ttl` is the popped label's minus this hop.
    #[inline(always)]
    pub(super) fn after_pop(&mut self, mode: TtlMode, label_ttl: u8, penultimate: bool) -> Checked<()> {
        match mode {
            TtlMode::Uniform | TtlMode::Linux => self.set_ttl(label_ttl),
            TtlMode::Pipe if penultimate => {}
            TtlMode::Pipe if self.ttl() <= 1 => return Err(Reason::TtlExpired),
            TtlMode::Pipe => self.set_ttl(self.ttl() - 1),
        }
        Ok(())
    }

    /// Applies the TC of the last label to the packet: `dscps` may translate it, and the settings may have it copied.
    #[inline(always)]
    pub(super) fn set_class(&mut self, settings: Settings, tc: u8, dscps: Option<TcToDscp>) {
        match dscps {
            Some(dscps) => {
                let (mut bits, mut value) = dscps.change(tc);
                if settings.tc_propagate() {
                    let others = PRECEDENCE & !bits;
                    (bits, value) = (bits | others, value | (tc << 3) & others);
                }
                self.set_dscp_bits(bits, value);
            }
            None if settings.tc_propagate() => self.set_dscp_bits(PRECEDENCE, tc << 3),
            None => {}
        }
    }

    /// RFC 8029 section 4.3: an MPLS echo request is addressed to 127/8 so that it is never forwarded as IP. It is also
    /// protected by its TTL of 1, which a local pop that copies the TTL would undo.
    #[inline(always)]
    pub(super) fn refuse_lsp_ping<F: Frame>(&self, frame: &F) -> Checked<()> {
        let udp = match self.family {
            Family::V4 => {
                let destination = frame.load::<4>(self.offset + 16).ok_or(Reason::Malformed)?;
                let later_fragment = self.first & 0x1fff != 0;
                if destination[0] != 127 || (self.second >> 16) as u8 != IPPROTO_UDP || later_fragment {
                    return Ok(());
                }
                (self.first >> 56 & 0xf) as usize * 4
            }
            Family::V6 => {
                let destination = frame.load::<16>(self.offset + 24).ok_or(Reason::Malformed)?;
                if !is_v6_loopback(destination) {
                    return Ok(());
                }
                match (self.first >> 8) as u8 {
                    IPPROTO_UDP => IPV6_HLEN,
                    // RFC 8029 section 4.3 requires a Router Alert option; it stands here.
                    IPPROTO_HOPOPTS => match frame.load::<2>(self.offset + IPV6_HLEN) {
                        Some([IPPROTO_UDP, words]) => IPV6_HLEN + 8 + usize::from(words) * 8,
                        _ => return Ok(()),
                    },
                    _ => return Ok(()),
                }
            }
        };
        match frame.load::<2>(self.offset + udp + 2) {
            Some(port) if u16::from_be_bytes(port) == LSP_PING_PORT => Err(Reason::LspPing),
            _ => Ok(()),
        }
    }

    /// The packet's entry in a domain of the FTN. Packets from source addresses that must not be forwarded have none:
    /// the kernel drops them.
    #[inline(always)]
    pub(super) fn ftn<F: Frame, T: PortView>(&self, frame: &F, tables: &T, domain: Domain) -> Checked<RouteEntry> {
        // Bounded again here: verifiers before 6.10 do not see that a bound on one sum of this offset also bounds
        // others.
        let offset = frame.opaque(self.offset) & OFFSET_MASK;
        match self.family {
            Family::V4 => {
                let [first, ..] = frame.load::<4>(offset + 12).ok_or(Reason::Malformed)?;
                // RFC 1812 section 5.3.7: this network, loopback, multicast, class E and broadcast.
                if matches!(first, 0 | 127 | 224..) {
                    return Ok(RouteEntry::EMPTY);
                }
                frame
                    .load::<4>(offset + 16)
                    .map(|destination| tables.ftn_v4(domain, destination))
            }
            Family::V6 => {
                let (high, low) = (frame.load(offset + 8), frame.load(offset + 16));
                let high = u64::from_be_bytes(high.ok_or(Reason::Malformed)?);
                let low = u64::from_be_bytes(low.ok_or(Reason::Malformed)?);
                // RFC 4291 section 2.5.2, 2.5.3, 2.5.6, 2.7: unspecified, loopback, link-local and multicast addresses.
                if high == 0 && low <= 1 || high >> 54 == 0xfe80 >> 6 || high >> 56 == 0xff {
                    return Ok(RouteEntry::EMPTY);
                }
                frame
                    .load::<16>(offset + 24)
                    .map(|destination| tables.ftn_v6(domain, destination))
            }
        }
        .ok_or(Reason::Malformed)
    }

    /// Writes the changed bytes to the header's new place.
    #[inline(always)]
    pub(super) fn store<F: Frame>(&self, frame: &mut F, offset: usize) -> Checked<()> {
        let (first, second) = (self.first.to_be_bytes(), self.second.to_be_bytes());
        match self.family {
            Family::V4 => {
                let mut header = [0; 12];
                header[..8].copy_from_slice(&first);
                header[8..].copy_from_slice(&second);
                store(frame, offset, header)
            }
            Family::V6 => store(frame, offset, first),
        }
    }
}

/// `::1`, or IPv4 loopback mapped (RFC 8029 section 4.3).
fn is_v6_loopback(address: [u8; 16]) -> bool {
    let value = u128::from_be_bytes(address);
    value == 1 || value >> 24 == 0x00ff_ff7f
}
