//! The way out of the router.

use super::frame::{Frame, move_head, store};
use super::{Checked, PortView, Verdict};
use crate::abi::{Adjacency, Reason, RouteEntry};
use crate::wire::ETH_HLEN;

/// The way out: a resolved neighbour on a link that can carry the packet.
pub(super) struct Egress(Adjacency);

impl Egress {
    /// A way out that was found otherwise. Everything has been checked.
    #[inline(always)]
    pub(super) const fn by(adjacency: Adjacency) -> Self {
        Self(adjacency)
    }

    /// Finds the adjacency of `entry`, or its backup. `frame_len` is the length that the frame would have on leaving,
    /// with an untagged Ethernet header, and `mtu` the limit that applies to it.
    #[inline(always)]
    pub(super) fn find<F: Frame, T: PortView>(
        frame: &F,
        tables: &T,
        entry: RouteEntry,
        frame_len: usize,
        mtu: fn(Adjacency) -> u16,
        unfinished: usize,
    ) -> Checked<Self> {
        let mut adjacency = tables.adjacency(entry.next_hop()).ok_or(Reason::Unresolved)?;
        if !adjacency.is_resolved() {
            let backup = adjacency.backup().ok_or(Reason::Unresolved)?;
            adjacency = tables.adjacency(backup).ok_or(Reason::Unresolved)?;
            if !adjacency.is_resolved() {
                return Err(Reason::Unresolved);
            }
        }
        if frame_len > ETH_HLEN + usize::from(mtu(adjacency)) {
            return Err(Reason::TooBig);
        }
        if adjacency.takes_one_buffer() && tables.settings().native_frags() && frame.is_split() {
            return Err(Reason::TooBig);
        }
        if unfinished != 0 {
            return Err(Reason::ChecksumFinished);
        }
        Ok(Self(adjacency))
    }

    /// Length of the Ethernet header, tags included.
    #[inline(always)]
    pub(super) fn l2_len(&self) -> usize {
        ETH_HLEN + self.0.tags_len_bytes()
    }

    /// Makes room for `labels_len` bytes of labels in front of `payload`, and writes the Ethernet header before them.
    #[inline(always)]
    pub(super) fn begin<F: Frame>(
        &self,
        frame: &mut F,
        payload: usize,
        labels_len: usize,
        ethertype: u16,
    ) -> Checked<()> {
        move_head(frame, payload as i32 - (self.l2_len() + labels_len) as i32)?;
        let (macs, ethertype) = (self.0.macs(), ethertype.to_be_bytes());
        if self.0.tags_len_bytes() == 0 {
            let mut header = [0; ETH_HLEN];
            header[..ETH_HLEN - 2].copy_from_slice(&macs);
            header[ETH_HLEN - 2..].copy_from_slice(&ethertype);
            return store(frame, 0, header);
        }
        store(frame, 0, macs)?;
        // Always writes room for two tags; after a single tag, the next header is written over the rest.
        store(frame, ETH_HLEN - 2, self.0.tags().to_bytes())?;
        store(frame, self.l2_len() - 2, ethertype)
    }

    #[inline(always)]
    pub(super) fn verdict(&self) -> Verdict {
        Verdict::Forward { port: self.0.port() }
    }
}
