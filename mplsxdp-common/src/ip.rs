//! Decides what counts as an IP packet, and where it ends. In a frame without labels the EtherType says so. Beneath a
//! label stack nothing does: it may hold the Ethernet frame of a pseudowire without a control word, which can begin
//! with any byte.

use crate::forward::Frame;
use crate::wire::{
    ETH_HLEN, ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ETH_P_MACSEC, ETH_P_MPLS_MC, ETH_P_MPLS_UC,
    ETH_P_PPP_DISC, ETH_P_PPP_SES, ETH_ZLEN, IPV4_HLEN, IPV6_HLEN, VLAN_HLEN,
};

/// The longest IPv4 header in 32-bit words.
const MAX_IHL: usize = 15;
/// A mask that holds every offset of the payload of an Ethernet frame that lies beneath a stack of this machine's own
/// labels.
const OFFSET_MASK: usize = 127;
/// An ARP header for Ethernet and IPv4 (RFC 826).
const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an EtherType that is either IPv4 or IPv6.
    pub const fn of(ethertype: u16) -> Self {
        match ethertype {
            ETH_P_IP => Self::V4,
            _ => Self::V6,
        }
    }

    pub const fn ethertype(self) -> u16 {
        match self {
            Self::V4 => ETH_P_IP,
            Self::V6 => ETH_P_IPV6,
        }
    }
}

/// What an IP header says about its packet.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub family: Family,
    /// The first 8 bytes, big-endian. A number, not bytes, because the verifier requires aligned accesses to what the
    /// compiler puts on the stack.
    pub first: u64,
    /// The 4 bytes after them, big-endian; the last two of IPv4 are the checksum.
    pub second: u32,
    /// Length of the whole packet in bytes.
    pub total_len: usize,
}

impl Header {
    /// The header at `offset`. `None` if its lengths contradict each other, or the packet is longer than the frame (RFC
    /// 1812 section 5.2.2).
    #[inline(always)]
    pub fn at<F: Frame>(frame: &F, offset: usize) -> Option<Self> {
        let first = frame.load(offset).map(u64::from_be_bytes)?;
        let second = frame.load(offset + 8).map(u32::from_be_bytes)?;
        let (family, header_len, total_len) = match first >> 60 {
            4 => (Family::V4, ihl(first) * 4, (first >> 32 & 0xffff) as usize),
            6 => (Family::V6, IPV6_HLEN, IPV6_HLEN + (first >> 16 & 0xffff) as usize),
            _ => return None,
        };
        let is_whole = header_len >= IPV4_HLEN && total_len >= header_len && offset + total_len <= frame.len();
        is_whole.then_some(Self {
            family,
            first,
            second,
            total_len,
        })
    }

    /// The header at `offset`, after the last label, if it is not IP only by chance. An IPv4 header must have a correct
    /// checksum. IPv6 has none, so there the bytes must not be an Ethernet frame with a whole packet in it.
    #[inline(always)]
    pub fn beneath_labels<F: Frame>(frame: &F, offset: usize) -> Option<Self> {
        let header = Self::at(frame, offset)?;
        let is_ip = match header.family {
            Family::V4 => has_right_checksum(frame, offset, header.first, header.second),
            Family::V6 => !names_a_protocol(frame, offset) || !is_ethernet(frame, offset),
        };
        is_ip.then_some(header)
    }

    /// Whether this header, which is at `offset`, has no IPv4 options, and a correct checksum.
    #[inline(always)]
    pub fn is_plain<F: Frame>(&self, frame: &F, offset: usize) -> bool {
        match self.family {
            Family::V4 => {
                ihl(self.first) == IPV4_HLEN / 4 && has_right_checksum(frame, offset, self.first, self.second)
            }
            Family::V6 => true,
        }
    }
}

/// Whether a flow hash may treat the bytes beneath a label stack as IP. Like [`Header::beneath_labels`], but any known
/// EtherType in the right place is enough to treat them as an Ethernet frame: hashing a packet by its labels alone does
/// no harm.
#[inline(always)]
pub fn is_flow<F: Frame>(frame: &F, offset: usize) -> bool {
    match Header::at(frame, offset) {
        Some(header) => match header.family {
            Family::V4 => has_right_checksum(frame, offset, header.first, header.second),
            Family::V6 => !names_a_protocol(frame, offset),
        },
        None => false,
    }
}

/// How many of the `available` bytes are kept of an IP packet of `total_len` when the bytes after it are cut off: the
/// packet and, if the frame is short, its padding up to Ethernet's minimum length, because not every driver pads the
/// frames that XDP sends.
#[inline(always)]
pub const fn kept_len(total_len: usize, available: usize) -> usize {
    const LEAST: usize = ETH_ZLEN - ETH_HLEN;
    if total_len >= LEAST {
        total_len
    } else if available < LEAST {
        available
    } else {
        LEAST
    }
}

/// Length of an IPv4 header in 32-bit words, from its first 8 bytes.
const fn ihl(first: u64) -> usize {
    (first >> 56 & 0xf) as usize
}

/// Whether the IPv4 header at `offset`, which begins with `first` and `second`, adds up to 0xffff (RFC 1071, RFC 1812
/// section 5.2.2).
#[inline(always)]
fn has_right_checksum<F: Frame>(frame: &F, offset: usize, first: u64, second: u32) -> bool {
    let Some(addresses) = frame.load(offset + 12).map(u64::from_be_bytes) else {
        return false;
    };
    // 32 bits at a time: the carries are folded in at the end.
    let mut sum = halves(first) + u64::from(second) + halves(addresses);
    if ihl(first) > IPV4_HLEN / 4 {
        sum += sum_of_options(frame, offset, ihl(first));
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// The sum of the two 32-bit words.
#[inline(always)]
const fn halves(words: u64) -> u64 {
    (words >> 32) + (words & 0xffff_ffff)
}

/// The sum of the options, which few packets have. The caller has checked that they are within the frame.
#[inline(never)]
fn sum_of_options<F: Frame>(frame: &F, offset: usize, words: usize) -> u64 {
    let mut sum = 0;
    for word in IPV4_HLEN / 4..MAX_IHL {
        if word >= words {
            break;
        }
        match frame.load::<4>(offset + word * 4) {
            Some(bytes) => sum += u64::from(u32::from_be_bytes(bytes)),
            None => break,
        }
    }
    sum
}

/// Whether the bytes at the EtherType's place in an Ethernet frame at `offset` are an EtherType that customers' frames
/// have.
#[inline(always)]
fn names_a_protocol<F: Frame>(frame: &F, offset: usize) -> bool {
    matches!(
        load_u16(frame, offset + ETH_HLEN - 2),
        Some(
            ETH_P_IP
                | ETH_P_IPV6
                | ETH_P_ARP
                | ETH_P_8021Q
                | ETH_P_8021AD
                | ETH_P_MPLS_UC
                | ETH_P_MPLS_MC
                | ETH_P_PPP_DISC
                | ETH_P_PPP_SES
                | ETH_P_MACSEC
        )
    )
}

/// Whether there is an Ethernet frame at `offset`, with up to two tags and a whole IP or ARP packet in it. An IPv6
/// packet can look like one if two bytes of its source address look like an EtherType and those after them like the
/// header that goes with it.
#[inline(never)]
fn is_ethernet<F: Frame>(frame: &F, offset: usize) -> bool {
    let mut at = offset + ETH_HLEN;
    let mut ethertype = load_u16(frame, at - 2);
    for _ in 0..2 {
        if matches!(ethertype, Some(ETH_P_8021Q | ETH_P_8021AD)) {
            at += VLAN_HLEN;
            ethertype = load_u16(frame, at - 2);
        }
    }
    // Keeps the verifier from processing what follows once for each number of tags.
    let at = frame.opaque(at) & OFFSET_MASK;
    let Some([first, second, high, low, v6_high, v6_low]) = frame.load(at) else {
        return false;
    };
    let available = frame.len().saturating_sub(at);
    match ethertype {
        Some(ETH_P_IP) => {
            let total_len = usize::from(u16::from_be_bytes([high, low]));
            first >> 4 == 4 && total_len <= available && is_right_header(frame, at)
        }
        // The packet must fill the frame: nothing else confirms it.
        Some(ETH_P_IPV6) => {
            first >> 4 == 6 && IPV6_HLEN + usize::from(u16::from_be_bytes([v6_high, v6_low])) == available
        }
        Some(ETH_P_ARP) => [first, second, high, low, v6_high, v6_low] == ARP_HEADER,
        _ => false,
    }
}

/// [`has_right_checksum`] of a header that nothing is known of. Not inlined: few packets get here.
#[inline(never)]
fn is_right_header<F: Frame>(frame: &F, offset: usize) -> bool {
    match (frame.load(offset), frame.load(offset + 8)) {
        (Some(first), Some(second)) => {
            has_right_checksum(frame, offset, u64::from_be_bytes(first), u32::from_be_bytes(second))
        }
        _ => false,
    }
}

#[inline(always)]
fn load_u16<F: Frame>(frame: &F, offset: usize) -> Option<u16> {
    frame.load(offset).map(u16::from_be_bytes)
}
