//! Checksums that a sender left to its NIC. A host that sends over a veth, a tap or a virtio NIC does not compute the
//! TCP or UDP checksum: it stores the sum of the pseudo-header in the field and leaves the rest to the hardware
//! (`CHECKSUM_PARTIAL` in Linux). XDP gets such a frame as it is, and nothing after XDP finishes it.
//!
//! The field does not say whether it holds a checksum or only the sum of the pseudo-header, but this does not matter:
//! if a correct checksum happens to equal that sum, computing it again gives the same value.

use crate::abi::MAX_PUSH;
use crate::forward::{Frame, MAX_STACK_DEPTH, is_tag, load_u16};
use crate::wire::{
    ETH_HLEN, ETH_P_IP, ETH_P_IPV6, ETH_P_MPLS_UC, IPPROTO_DSTOPTS, IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_TCP,
    IPPROTO_UDP, IPV4_HLEN, IPV6_HLEN, LSE_LEN, Lse,
};

/// The deepest stack that a frame leaves with.
const DEEPEST: usize = MAX_STACK_DEPTH + MAX_PUSH;
/// A mask that holds every offset of an IP header.
const IP_OFFSET_MASK: usize = 511;
const _: () = assert!(ETH_HLEN + 8 + DEEPEST * LSE_LEN <= IP_OFFSET_MASK);
/// A mask that holds every offset of a TCP or UDP header that is looked at.
const L4_OFFSET_MASK: usize = 4095;
/// How many IPv6 extension headers there may be in front of TCP or UDP.
const MAX_EXTENSIONS: usize = 4;
/// The shortest TCP and UDP headers, and the offset of the checksum in each.
const TCP_HLEN: usize = 20;
const TCP_CHECKSUM: usize = 16;
const UDP_HLEN: usize = 8;
const UDP_CHECKSUM: usize = 6;

/// Computes the TCP or UDP checksum of `frame` if it is unfinished. The frame may have VLAN tags and labels. Returns
/// whether the checksum was unfinished.
pub fn finish<F: Frame>(frame: &mut F) -> bool {
    let Some(segment) = Segment::from_code(find(frame)) else {
        return false;
    };
    let Some(sum) = frame.sum(segment.offset, segment.len) else {
        return false;
    };
    let checksum = match !sum {
        // RFC 768: a computed checksum of 0 is sent as all ones; 0 says that there is none.
        0 if segment.is_udp => 0xffff,
        checksum => checksum,
    };
    frame.store(segment.checksum_at(), checksum.to_be_bytes()).is_some()
}

/// Whether the TCP or UDP checksum of `frame` is unfinished. The frame may have VLAN tags and labels.
pub fn is_unfinished<F: Frame>(frame: &F) -> bool {
    find(frame) != 0
}

/// A TCP segment or UDP datagram.
#[derive(Clone, Copy)]
struct Segment {
    offset: usize,
    /// Length in bytes, header included.
    len: usize,
    is_udp: bool,
}

impl Segment {
    const UDP: u64 = 1 << 63;

    fn checksum_at(self) -> usize {
        self.offset + if self.is_udp { UDP_CHECKSUM } else { TCP_CHECKSUM }
    }

    /// The segment as one number, so that a function that the XDP program calls without inlining can return it. Never
    /// 0.
    const fn to_code(self) -> u64 {
        (self.offset as u64) | (self.len as u64) << 32 | if self.is_udp { Self::UDP } else { 0 }
    }

    fn from_code(code: u64) -> Option<Self> {
        (code != 0).then_some(Self {
            offset: code as u32 as usize & L4_OFFSET_MASK,
            len: (code >> 32) as usize & 0x1_ffff,
            is_udp: code & Self::UDP != 0,
        })
    }
}

/// The segment with an unfinished checksum in `frame` as a code, 0 if there is none.
#[inline(never)]
fn find<F: Frame>(frame: &F) -> u64 {
    find_ip(frame)
        .and_then(|offset| find_segment(frame, offset))
        .map_or(0, Segment::to_code)
}

/// The offset of a frame's IP header, after its tags and labels.
#[inline(always)]
fn find_ip<F: Frame>(frame: &F) -> Option<usize> {
    let mut l2_len = ETH_HLEN;
    let mut ethertype = load_u16(frame, ETH_HLEN - 2)?;
    for _ in 0..2 {
        if !is_tag(ethertype) {
            break;
        }
        ethertype = load_u16(frame, l2_len + 2)?;
        l2_len += 4;
    }
    // Keeps the verifier from processing what follows once for each number of tags.
    let l2_len = frame.opaque(l2_len) & IP_OFFSET_MASK;
    let offset = match ethertype {
        ETH_P_IP | ETH_P_IPV6 => l2_len,
        ETH_P_MPLS_UC => beneath_labels(frame, l2_len),
        _ => 0,
    };
    match frame.opaque(offset) & IP_OFFSET_MASK {
        0 => None,
        offset => Some(offset),
    }
}

/// The offset after the bottom of the stack at `offset`, 0 if there is none.
#[inline(never)]
fn beneath_labels<F: Frame>(frame: &F, offset: usize) -> usize {
    for index in 1..=DEEPEST {
        match frame.load(offset + (index - 1) * LSE_LEN) {
            Some(lse) if Lse::from_bytes(lse).bottom() => return offset + index * LSE_LEN,
            Some(_) => {}
            None => return 0,
        }
    }
    0
}

/// The TCP segment or UDP datagram in the IP packet at `ip`, if its checksum field holds the sum of its pseudo-header.
#[inline(always)]
fn find_segment<F: Frame>(frame: &F, ip: usize) -> Option<Segment> {
    let start = u64::from_be_bytes(frame.load(ip)?);
    let version = (start >> 60) as u8;
    let (protocol, header, addresses, end) = match version {
        4 => {
            let header = (start >> 56 & 0xf) as usize * 4;
            let is_fragment = start & 0x3fff != 0;
            if header < IPV4_HLEN || is_fragment {
                return None;
            }
            let [_, protocol, ..] = frame.load::<4>(ip + 8)?;
            let addresses = words(frame, ip + 12)?;
            (protocol, header, addresses, (start >> 32 & 0xffff) as usize)
        }
        6 => {
            let source = words(frame, ip + 8)? + words(frame, ip + 16)?;
            let destination = words(frame, ip + 24)? + words(frame, ip + 32)?;
            let (protocol, header, destination) = behind_extensions(frame, ip, (start >> 8) as u8, destination)?;
            (
                protocol,
                header,
                source + destination,
                IPV6_HLEN + (start >> 16 & 0xffff) as usize,
            )
        }
        _ => return None,
    };
    let (is_udp, shortest) = match protocol {
        IPPROTO_TCP => (false, TCP_HLEN),
        IPPROTO_UDP => (true, UDP_HLEN),
        _ => return None,
    };
    if end < header + shortest || ip + end > frame.len() {
        return None;
    }
    let segment = Segment {
        offset: frame.opaque(ip + header) & L4_OFFSET_MASK,
        len: end - header,
        is_udp,
    };
    // RFC 9293 section 3.1, RFC 768, RFC 8200 section 8.1. UDP has its own length field. It equals the length of the
    // whole payload if the sender's kernel leaves the checksum to the NIC.
    if is_udp && usize::from(load_u16(frame, segment.offset + 4)?) != segment.len {
        return None;
    }
    let pseudo_header = fold(addresses + u32::from(protocol) + segment.len as u32);
    if load_u16(frame, segment.checksum_at())? != pseudo_header {
        return None;
    }
    // Bytes beneath a label that begin like an IPv4 packet may be something else, so the header checksum must also be
    // right.
    if version == 4 && !is_right_header(frame, ip, header) {
        return None;
    }
    Some(segment)
}

/// Walks the extension headers of the IPv6 packet at `ip`; the first one is `next`. Returns the protocol after them,
/// its offset in the packet, and the sum of the destination in the pseudo-header (RFC 8200 section 8.1): the packet's
/// destination, or the last address of a routing header.
#[inline(always)]
fn behind_extensions<F: Frame>(frame: &F, ip: usize, next: u8, destination: u32) -> Option<(u8, usize, u32)> {
    /// Routing headers whose last address is at offset 8 (RFC 6275 section 6.4, RFC 8754 section 2).
    const MOBILITY: u8 = 2;
    const SEGMENTS: u8 = 4;

    let (mut next, mut offset, mut destination) = (next, IPV6_HLEN, destination);
    for _ in 0..MAX_EXTENSIONS {
        if !matches!(next, IPPROTO_HOPOPTS | IPPROTO_DSTOPTS | IPPROTO_ROUTING) {
            break;
        }
        let [following, octets, kind, left] = frame.load(ip + offset)?;
        if next == IPPROTO_ROUTING && left != 0 {
            if !matches!(kind, MOBILITY | SEGMENTS) {
                return None;
            }
            destination = words(frame, ip + offset + 8)? + words(frame, ip + offset + 16)?;
        }
        next = following;
        // Keeps the verifier from processing what follows once for each header.
        offset = frame.opaque(offset + 8 + usize::from(octets) * 8) & L4_OFFSET_MASK;
    }
    Some((next, offset, destination))
}

/// Whether the checksum of the IPv4 header at `ip` is right.
#[inline(always)]
fn is_right_header<F: Frame>(frame: &F, ip: usize, header: usize) -> bool {
    const LONGEST: usize = 60;

    let mut sum = 0;
    for at in (0..LONGEST).step_by(LSE_LEN) {
        if at >= header {
            break;
        }
        let Some([a, b, c, d]) = frame.load(ip + at) else {
            return false;
        };
        sum += u32::from(u16::from_be_bytes([a, b])) + u32::from(u16::from_be_bytes([c, d]));
    }
    fold(sum) == 0xffff
}

/// The sum of the four 16-bit words at `offset`.
#[inline(always)]
fn words<F: Frame>(frame: &F, offset: usize) -> Option<u32> {
    let bytes = u64::from_be_bytes(frame.load(offset)?);
    let pairs = (bytes & 0xffff_ffff) + (bytes >> 32);
    Some((pairs & 0xffff) as u32 + (pairs >> 16) as u32)
}

/// A ones' complement sum in 16 bits (RFC 1071 section 2).
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}
