//! The cross-connect: every frame that arrives at one port leaves by another, unchanged but for the tags of sub-interfaces.

use super::frame::{Frame, load_u16, move_head, store};
use super::service::SERVICE;
use super::{Arrival, Checked, OFFSET_MASK, PortView, ServiceFrame, Verdict};
use crate::abi::{CrossConnect, PortWord, Reason, SubInterfaceKey};
use crate::wire::{ETH_HLEN, VLAN_HLEN, VLAN_VID_MASK};

/// Where the tags are, after both addresses.
pub(super) const TAGS: usize = ETH_HLEN - 2;
/// The destination of PAUSE and other MAC control frames (IEEE 802.3 annex 31B), which are for the other end of the link
/// only.
pub(super) const MAC_CONTROL: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0x01];

/// The number of the cross-connected sub-interface at which a frame arrived. One with a single tag takes frames with any
/// further tags.
#[inline(always)]
pub(super) fn crossed<T: PortView>(tables: &T, arrival: &Arrival) -> Option<u32> {
    let port = tables.settings().port();
    let number = match arrival.port {
        Some(number) if number == port => return None,
        Some(number) => number,
        None => tables.sub_interface(SubInterfaceKey::new(port, arrival.outer_vid, 0))?,
    };
    tables.port(number).has(PortWord::CROSS_CONNECT).then_some(number)
}

/// Sends a frame that begins with `start`, and arrived at the port with this number, to where its cross-connect leads.
/// Nothing is written unless it can go there. Returns the code of the verdict; [`SERVICE`] if the frame enters a pseudowire,
/// and above it the index in `ATTACHMENTS`.
#[inline(never)]
pub(super) fn cross<F: Frame, T: PortView>(
    frame: &mut F,
    tables: &T,
    number: u32,
    start: [u8; 8],
    unfinished: usize,
) -> u64 {
    if start.starts_with(&MAC_CONTROL) {
        return Verdict::Pass.to_code().into();
    }
    let cross = tables.cross_connect(tables.port(number), number);
    if let Some(attachment) = cross.attachment() {
        return u64::from(attachment) << 32 | SERVICE as u64;
    }
    let verdict = send_across(frame, tables, number, cross, unfinished);
    verdict.unwrap_or_else(Verdict::Exception).to_code().into()
}

/// The verdict on a frame by what [`cross`] returned.
#[inline(always)]
pub(super) fn crossed_to(crossed: u64, unfinished: usize, service_frame: &mut ServiceFrame) -> Checked<Verdict> {
    *service_frame = ServiceFrame::at_attachment_circuit((crossed >> 32) as u32, unfinished);
    Ok(Verdict::from_code(crossed as u32))
}

#[inline(always)]
fn send_across<F: Frame, T: PortView>(
    frame: &mut F,
    tables: &T,
    number: u32,
    cross: CrossConnect,
    unfinished: usize,
) -> Checked<Verdict> {
    if cross == CrossConnect::NOWHERE {
        return Err(Reason::NoPort);
    }
    let len = frame.len();
    if len + cross.added_len() > cross.longest() + cross.removed_len() {
        return Err(Reason::CrossTooBig);
    }
    if cross.takes_one_buffer() && tables.settings().native_frags() && frame.is_split() {
        return Err(Reason::CrossTooBig);
    }
    tables.count_reason(number, Reason::CrossConnected, len);
    if unfinished != 0 {
        return Err(Reason::ChecksumFinished);
    }
    if cross.added_len() | cross.removed_len() != 0 {
        replace_tags(frame, cross)?;
    }
    Ok(Verdict::Forward { port: cross.port() })
}

/// Replaces the tags of the sub-interface where the frame arrived by those of the one where it leaves. The first tag gets
/// the priority of the one that was first (IEEE 802.1Q section 6.9).
#[inline(always)]
fn replace_tags<F: Frame>(frame: &mut F, cross: CrossConnect) -> Checked<()> {
    let addresses: [u8; TAGS] = frame.load(0).ok_or(Reason::Malformed)?;
    let (priority, removed) = arrival_tags(frame, cross.removed_len())?;
    move_head(frame, removed as i32 - cross.added_len() as i32)?;
    store_header(frame, addresses, cross, priority)
}

/// The priority in the first tag of a frame that loses `removed` bytes of tags, which are those of the sub-interface where it
/// arrived, and how many bytes it loses. The EtherType after them is within the frame.
#[inline(always)]
pub(super) fn arrival_tags<F: Frame>(frame: &F, mut removed: usize) -> Checked<(u16, usize)> {
    let mut priority = 0;
    if removed != 0 {
        let first = load_u16(frame, TAGS + 2).ok_or(Reason::Malformed)?;
        priority = first & !VLAN_VID_MASK;
        // A tag that says only the priority is in front of the sub-interface's.
        if first & VLAN_VID_MASK == 0 {
            removed += VLAN_HLEN;
        }
    }
    // What is read and written lies before this.
    let ethertype = frame.opaque(TAGS + removed) & OFFSET_MASK;
    frame.load::<2>(ethertype).ok_or(Reason::Malformed)?;
    Ok((priority, removed))
}

/// Writes the addresses of a frame, and after them the tags that it gets, the first one with this priority.
#[inline(always)]
pub(super) fn store_header<F: Frame>(
    frame: &mut F,
    addresses: [u8; TAGS],
    cross: CrossConnect,
    priority: u16,
) -> Checked<()> {
    store(frame, 0, addresses)?;
    let added = cross.added_len();
    let mut tags = cross.tags().to_bytes();
    tags[2] |= (priority >> 8) as u8;
    let [a, b, c, d, inner @ ..] = tags;
    if added != 0 {
        store(frame, TAGS, [a, b, c, d])?;
    }
    if added > VLAN_HLEN {
        store(frame, TAGS + VLAN_HLEN, inner)?;
    }
    Ok(())
}
