//! A question to the kernel's FIB and its answer, in the kernel's layout: `struct bpf_fib_lookup` of linux/bpf.h.

use crate::ip::Family;
use crate::wire::Mac;

/// `AF_INET` and `AF_INET6` of Linux.
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;

/// Which way the kernel's FIB would send a packet that it forwards. Asked with `BPF_FIB_LOOKUP_DIRECT` and the index of a VRF
/// device, the kernel looks in the table of this VRF alone (`l3mdev_fib_table_rcu`).
///
/// Eight words, because the verifier requires aligned accesses to the stack:
///
/// | bytes | asked | answered |
/// |---|---|---|
/// | 0 | address family | |
/// | 1 | protocol | |
/// | 2-3, 4-5 | source and destination port, as on the wire | |
/// | 6-7 | length of the IP packet, u16 | |
/// | 8-11 | index of the VRF device, u32 | index of the interface to leave by |
/// | 12-15 | IPv4: TOS; IPv6: traffic class and flow label, as on the wire | |
/// | 16-31 | source address | |
/// | 32-47 | destination address | |
/// | 48-51 | zero | |
/// | 52-57 | zero | source MAC address |
/// | 58-63 | zero | destination MAC address |
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FibLookup {
    words: [u64; 8],
}

impl FibLookup {
    /// Of an IP packet of `len` bytes. `flow` is bytes 12-15, and `addresses` are the two addresses, as on the wire: an IPv4
    /// address is followed by zeros.
    #[inline(always)]
    pub const fn new(
        family: Family,
        protocol: u8,
        ports: [u8; 4],
        len: u16,
        vrf: u32,
        flow: u32,
        addresses: [u64; 4],
    ) -> Self {
        let family = match family {
            Family::V4 => AF_INET,
            Family::V6 => AF_INET6,
        };
        let [source, source_rest, destination, destination_rest] = addresses;
        let ports = (u32::from_le_bytes(ports) as u64) << 16;
        let first = family | (protocol as u64) << 8 | ports | (len as u64) << 48;
        Self {
            words: [
                first,
                vrf as u64 | (flow as u64) << 32,
                source,
                source_rest,
                destination,
                destination_rest,
                0,
                0,
            ],
        }
    }

    /// The interface index: of the VRF device, then of the way out.
    #[inline(always)]
    pub const fn ifindex(&self) -> u32 {
        self.words[1] as u32
    }

    /// Length in bytes of the packet.
    pub const fn len(&self) -> usize {
        (self.words[0] >> 48) as usize
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub const fn family(&self) -> Family {
        match self.words[0] & 0xff {
            AF_INET => Family::V4,
            _ => Family::V6,
        }
    }

    /// Of IPv4, the first four bytes.
    pub const fn destination(&self) -> [u8; 16] {
        let mut address = [0; 16];
        let (first, rest) = address.split_at_mut(8);
        first.copy_from_slice(&self.words[4].to_le_bytes());
        rest.copy_from_slice(&self.words[5].to_le_bytes());
        address
    }

    /// The same with an answer.
    pub const fn answered(self, ifindex: u32, source: Mac, destination: Mac) -> Self {
        let mut words = self.words;
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (source.0, destination.0);
        words[1] = words[1] & !0xffff_ffff | ifindex as u64;
        words[6] = u64::from_le_bytes([0, 0, 0, 0, a, b, c, d]);
        words[7] = u64::from_le_bytes([e, f, g, h, i, j, k, l]);
        Self { words }
    }

    #[inline(always)]
    pub const fn source_mac(&self) -> Mac {
        let [_, _, _, _, a, b, c, d] = self.words[6].to_le_bytes();
        let [e, f, ..] = self.words[7].to_le_bytes();
        Mac([a, b, c, d, e, f])
    }

    #[inline(always)]
    pub const fn destination_mac(&self) -> Mac {
        let [_, _, a, b, c, d, e, f] = self.words[7].to_le_bytes();
        Mac([a, b, c, d, e, f])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_where_the_kernel_has_them() {
        let words = |bytes: [u8; 16]| {
            let (first, rest) = bytes.split_at(8);
            [first, rest].map(|half| u64::from_le_bytes(half.try_into().unwrap()))
        };
        let (source, destination) = ([1; 16], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
        let ([a, b], [c, d]) = (words(source), words(destination));
        let asked = FibLookup::new(
            Family::V6,
            17,
            [0x12, 0x34, 0x56, 0x78],
            1280,
            9,
            0x1234_5678,
            [a, b, c, d],
        );
        let bytes = asked.words.map(u64::to_le_bytes).concat();
        assert_eq!(bytes[..8], [10, 17, 0x12, 0x34, 0x56, 0x78, 0, 5]);
        assert_eq!(bytes[8..16], [9, 0, 0, 0, 0x78, 0x56, 0x34, 0x12]);
        assert_eq!((&bytes[16..32], &bytes[32..48]), (&source[..], &destination[..]));
        assert_eq!(bytes[48..], [0; 16]);
        assert_eq!((asked.family(), asked.len(), asked.ifindex()), (Family::V6, 1280, 9));
        assert_eq!(asked.destination(), destination);
        let (from, to) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let answered = asked.answered(7, from, to);
        assert_eq!(
            answered.words.map(u64::to_le_bytes).concat()[52..],
            [from.0, to.0].concat()
        );
        assert_eq!(
            (answered.ifindex(), answered.source_mac(), answered.destination_mac()),
            (7, from, to)
        );
        assert_eq!(answered.destination(), destination);
    }
}
