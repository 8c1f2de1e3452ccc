//! Picks the bucket of a group for a frame's flow: frames of one flow take one path (RFC 3031 section 3.12, RFC 2992).
//! Any result forwards correctly; a bad one only spreads flows unevenly.

use crate::forward::{Frame, MAX_STACK_DEPTH};
use crate::ip;
use crate::wire::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPV4_HLEN, IPV6_HLEN, LSE_LEN, Label, Lse};

/// A mask that holds every offset after the bottom of a stack.
const OFFSET_MASK: usize = 511;
/// Length of the source and destination ports.
const PORTS_LEN: usize = 4;
const _: () = assert!(64 + MAX_STACK_DEPTH * LSE_LEN <= OFFSET_MASK);

/// The hash of a labelled frame whose stack is at `offset`: of all its labels, except special-purpose and extended
/// special-purpose ones, and of the IP packet beneath. If there is an entropy label, only that one is hashed (RFC 6790
/// section 4.3), even if its indicator comes after an extension label (RFC 7274 section 3.1). Anything that is not
/// within the frame is left out.
#[inline(never)]
pub fn flow_hash<F: Frame>(frame: &F, offset: usize, seed: u32) -> u32 {
    let mut hash = seed;
    let mut is_extended = false;
    for index in 0..MAX_STACK_DEPTH {
        let at = offset + index * LSE_LEN;
        let Some(lse) = load_lse(frame, at) else { break };
        if lse.label() == Label::ENTROPY_INDICATOR {
            return match load_lse(frame, at + LSE_LEN) {
                Some(entropy) if !lse.bottom() => finish(mix(seed, entropy.label().get())),
                _ => finish(hash),
            };
        }
        if !lse.label().is_special() && !is_extended {
            hash = mix(hash, lse.label().get());
        }
        is_extended = !is_extended && lse.label() == Label::EXTENSION;
        if lse.bottom() {
            // Keeps the verifier from processing what follows once for each depth.
            let payload = frame.opaque(at + LSE_LEN) & OFFSET_MASK;
            return if ip::is_flow(frame, payload) {
                ip_flow_hash(frame, payload, hash)
            } else {
                finish(hash)
            };
        }
    }
    finish(hash)
}

/// The hash of an IP packet, beginning with `hash`: its addresses and protocol and, if it is not a fragment, the ports
/// of TCP, UDP and SCTP if they are within its length. The caller knows that it is IP.
#[inline(never)]
pub fn ip_flow_hash<F: Frame>(frame: &F, offset: usize, hash: u32) -> u32 {
    let version = frame.load(offset).map_or(0, |[byte]: [u8; 1]| byte);
    let (hash, protocol, ports) = match version >> 4 {
        4 => {
            let Some(header) = frame.load::<IPV4_HLEN>(offset) else {
                return finish(hash);
            };
            let hash = mix(mix(hash, word(&header, 12)), word(&header, 16));
            // "More fragments" is set, or the offset is not 0. Later fragments have no ports, so the first fragment's
            // are not hashed either.
            let is_fragment = header[6] & 0x3f | header[7] != 0;
            let ports = usize::from(version & 0xf) * 4;
            let has_ports = !is_fragment && (word(&header, 0) & 0xffff) as usize >= ports + PORTS_LEN;
            (hash, header[9], has_ports.then_some(offset + ports))
        }
        6 => {
            let Some(header) = frame.load::<IPV6_HLEN>(offset) else {
                return finish(hash);
            };
            let addresses = (8..IPV6_HLEN).step_by(4);
            let hash = addresses.fold(hash, |hash, at| mix(hash, word(&header, at)));
            let has_ports = (word(&header, 4) >> 16) as usize >= PORTS_LEN;
            (hash, header[6], has_ports.then_some(offset + IPV6_HLEN))
        }
        _ => return finish(hash),
    };
    let hash = mix(hash, protocol.into());
    match (protocol, ports) {
        (IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP, Some(at)) => match frame.load(at) {
            Some(ports) => finish(mix(hash, u32::from_be_bytes(ports))),
            None => finish(hash),
        },
        _ => finish(hash),
    }
}

#[inline(always)]
fn load_lse<F: Frame>(frame: &F, offset: usize) -> Option<Lse> {
    frame.load(offset).map(Lse::from_bytes)
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    match bytes.get(at..) {
        Some([a, b, c, d, ..]) => u32::from_be_bytes([*a, *b, *c, *d]),
        _ => 0,
    }
}

/// Adds a word to the hash: a multiplication by an odd number near the golden ratio, as in Fibonacci hashing.
#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let product = (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b1);
    product ^ product >> 15
}

/// Lets every bit of the hash affect every other: the top bits select the bucket.
#[inline(always)]
const fn finish(hash: u32) -> u32 {
    let hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}
