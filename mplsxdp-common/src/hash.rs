//! Picks the bucket of a group for a frame's flow: frames of one flow take one path (RFC 3031 section 3.12, RFC 2992).
//! Any result forwards correctly; a bad one only spreads flows unevenly.

use crate::forward::{Frame, MAX_STACK_DEPTH, is_tag, load_u16};
use crate::ip;
use crate::wire::{
    ETH_HLEN, ETH_P_IP, ETH_P_IPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, IPV6_HLEN, LSE_LEN, Label, Lse, VLAN_HLEN,
};

/// A mask that holds every offset after the bottom of a stack.
const OFFSET_MASK: usize = 511;
/// Length of the source and destination ports.
const PORTS_LEN: usize = 4;
const _: () = assert!(64 + MAX_STACK_DEPTH * LSE_LEN <= OFFSET_MASK);

/// The hash of a labelled frame whose stack is at `offset`: of all its labels, except special-purpose and extended
/// special-purpose ones, and of the IP packet beneath. If there is an entropy label, only that one is hashed (RFC 6790
/// section 4.3), even if its indicator comes after an extension label (RFC 7274 section 3.1). Anything that is not
/// within the frame is left out.
#[inline(always)]
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

/// The hash of an Ethernet frame: its addresses, the EtherType behind up to two tags, and an IP packet behind that.
#[inline(never)]
pub fn ethernet_flow_hash<F: Frame>(frame: &F, seed: u32) -> u32 {
    let (Some(first), Some(second)) = (load_u64(frame, 0), load_u32(frame, 8)) else {
        return finish(seed);
    };
    let hash = mix(mix_u64(seed, first), second);
    let mut offset = ETH_HLEN;
    let mut ethertype = load_u16(frame, offset - 2).unwrap_or(0);
    for _ in 0..2 {
        if is_tag(ethertype) {
            offset += VLAN_HLEN;
            ethertype = load_u16(frame, offset - 2).unwrap_or(0);
        }
    }
    let hash = mix(hash, ethertype.into());
    // Keeps the verifier from processing what follows once for each number of tags.
    let offset = frame.opaque(offset) & OFFSET_MASK;
    match ethertype {
        ETH_P_IP | ETH_P_IPV6 => ip_flow_hash(frame, offset, hash),
        _ => finish(hash),
    }
}

/// The hash of all frames of an attachment circuit, by its index.
#[inline(always)]
pub const fn circuit_hash(index: u32, seed: u32) -> u32 {
    finish(mix(seed, index))
}

/// The hash of an IP packet, beginning with `hash`: its addresses and protocol and, if it is not a fragment, the ports
/// of TCP, UDP and SCTP if they are within its length. The caller knows that it is IP.
#[inline(never)]
pub fn ip_flow_hash<F: Frame>(frame: &F, offset: usize, hash: u32) -> u32 {
    let Some(first) = frame.load(offset).map(u64::from_be_bytes) else {
        return finish(hash);
    };
    let (hash, protocol, ports) = match first >> 60 {
        4 => {
            let (Some(second), Some(addresses)) = (load_u32(frame, offset + 8), load_u64(frame, offset + 12)) else {
                return finish(hash);
            };
            // "More fragments" is set, or the offset is not 0. Later fragments have no ports, so the first fragment's
            // are not hashed either.
            let is_fragment = first & 0x3fff != 0;
            let ports = (first >> 56 & 0xf) as usize * 4;
            let has_ports = !is_fragment && (first >> 32 & 0xffff) as usize >= ports + PORTS_LEN;
            let protocol = (second >> 16) as u8;
            (mix_u64(hash, addresses), protocol, has_ports.then_some(offset + ports))
        }
        6 => {
            let addresses = [8, 16, 24, 32].map(|at| load_u64(frame, offset + at));
            let [Some(a), Some(b), Some(c), Some(d)] = addresses else {
                return finish(hash);
            };
            let hash = mix_u64(mix_u64(mix_u64(mix_u64(hash, a), b), c), d);
            let has_ports = (first >> 16 & 0xffff) as usize >= PORTS_LEN;
            (hash, (first >> 8) as u8, has_ports.then_some(offset + IPV6_HLEN))
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
fn load_u32<F: Frame>(frame: &F, offset: usize) -> Option<u32> {
    frame.load(offset).map(u32::from_be_bytes)
}

#[inline(always)]
fn load_u64<F: Frame>(frame: &F, offset: usize) -> Option<u64> {
    frame.load(offset).map(u64::from_be_bytes)
}

/// Adds two words to the hash.
#[inline(always)]
const fn mix_u64(hash: u32, words: u64) -> u32 {
    mix(mix(hash, (words >> 32) as u32), words as u32)
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
