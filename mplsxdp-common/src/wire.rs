//! Bytes on the wire: Ethernet types, MAC addresses, MPLS labels and label stack entries, and the IPv4/IPv6 header
//! fields that label switching reads or writes. All multi-byte fields are in network byte order on the wire; the types
//! here hold host order.

use core::fmt;

/// EtherType of MPLS unicast (RFC 3032 section 5, RFC 5332).
pub const ETH_P_MPLS_UC: u16 = 0x8847;
/// EtherType of IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;
/// EtherType of ARP (RFC 826).
pub const ETH_P_ARP: u16 = 0x0806;
/// EtherType of MPLS with upstream-assigned labels (RFC 5332).
pub const ETH_P_MPLS_MC: u16 = 0x8848;
/// EtherType of PPPoE discovery (RFC 2516).
pub const ETH_P_PPP_DISC: u16 = 0x8863;
/// EtherType of PPPoE sessions.
pub const ETH_P_PPP_SES: u16 = 0x8864;
/// EtherType of MACsec (IEEE 802.1AE).
pub const ETH_P_MACSEC: u16 = 0x88e5;
/// EtherType (TPID) of an 802.1Q tag.
pub const ETH_P_8021Q: u16 = 0x8100;
/// EtherType (TPID) of an 802.1ad service tag.
pub const ETH_P_8021AD: u16 = 0x88a8;
/// Length of a VLAN tag: TPID and TCI.
pub const VLAN_HLEN: usize = 4;
/// The VLAN identifier in a TCI; above it are priority and drop eligibility.
pub const VLAN_VID_MASK: u16 = 0xfff;
/// Length of an untagged Ethernet header: destination, source, EtherType.
pub const ETH_HLEN: usize = 14;
/// The minimum length of a frame, without its checksum.
pub const ETH_ZLEN: usize = 60;
/// Length of one label stack entry (RFC 3032 section 2.1).
pub const LSE_LEN: usize = 4;
/// Length of an IPv4 header without options (RFC 791).
pub const IPV4_HLEN: usize = 20;
/// Length of the fixed IPv6 header (RFC 8200).
pub const IPV6_HLEN: usize = 40;
/// IP protocol number of TCP.
pub const IPPROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const IPPROTO_UDP: u8 = 17;
/// IP protocol number of SCTP.
pub const IPPROTO_SCTP: u8 = 132;
/// Next Header value of IPv6 Hop-by-Hop Options.
pub const IPPROTO_HOPOPTS: u8 = 0;
/// Next Header value of the IPv6 Routing header.
pub const IPPROTO_ROUTING: u8 = 43;
/// Next Header value of IPv6 Destination Options.
pub const IPPROTO_DSTOPTS: u8 = 60;
/// UDP port of MPLS echo requests, "LSP ping" (RFC 8029 section 4.3).
pub const LSP_PING_PORT: u16 = 3503;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const ZERO: Self = Self([0; 6]);

    /// Whether the group bit is set: such an address never belongs to a single neighbour.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    pub const fn is_zero(self) -> bool {
        matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// Whether it can be the address of a single interface.
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::str::FromStr for Mac {
    type Err = NotAMac;

    /// Six hexadecimal octets of one or two digits, separated by colons.
    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(NotAMac)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotAMac);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| NotAMac)?;
        }
        if parts.next().is_some() {
            Err(NotAMac)
        } else {
            Ok(Self(octets))
        }
    }
}

/// The text is not a MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAMac;

impl fmt::Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address (six hexadecimal octets, such as 52:54:00:12:34:56)")
    }
}

impl core::error::Error for NotAMac {}

/// A 20-bit label value (RFC 3032 section 2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(u32);

impl Label {
    /// IPv4 Explicit NULL.
    pub const IPV4_EXPLICIT_NULL: Self = Self(0);
    /// Router Alert.
    pub const ROUTER_ALERT: Self = Self(1);
    /// IPv6 Explicit NULL.
    pub const IPV6_EXPLICIT_NULL: Self = Self(2);
    /// Implicit NULL: signalled, never on the wire.
    pub const IMPLICIT_NULL: Self = Self(3);
    /// Entropy Label Indicator (RFC 6790).
    pub const ENTROPY_INDICATOR: Self = Self(7);
    /// Generic Associated Channel Label (RFC 5586).
    pub const GAL: Self = Self(13);
    /// OAM Alert (RFC 3429).
    pub const OAM_ALERT: Self = Self(14);
    /// Extension: an extended special-purpose label follows (RFC 7274 section 3.1).
    pub const EXTENSION: Self = Self(15);
    /// Labels below this one are special-purpose (RFC 7274).
    pub const FIRST_ORDINARY: Self = Self(16);
    /// The largest label.
    pub const MAX: Self = Self(0xf_ffff);

    /// `None` if the value does not fit in 20 bits.
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The low 20 bits of `value`.
    pub const fn from_low_bits(value: u32) -> Self {
        Self(value & Self::MAX.0)
    }

    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the label is one of the special-purpose labels 0 to 15 (RFC 7274 section 3).
    pub const fn is_special(self) -> bool {
        self.0 < Self::FIRST_ORDINARY.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A label stack entry: label (20 bits), TC (3, RFC 5462), S (1), TTL (8), from the most significant bit down
/// (RFC 3032 section 2.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Lse(u32);

impl Lse {
    pub const fn new(label: Label, tc: u8, bottom: bool, ttl: u8) -> Self {
        Self((label.0 << 12) | (((tc & 7) as u32) << 9) | ((bottom as u32) << 8) | ttl as u32)
    }

    pub const fn from_bytes(bytes: [u8; LSE_LEN]) -> Self {
        Self(u32::from_be_bytes(bytes))
    }

    pub const fn to_bytes(self) -> [u8; LSE_LEN] {
        self.0.to_be_bytes()
    }

    pub const fn label(self) -> Label {
        Label(self.0 >> 12)
    }

    pub const fn tc(self) -> u8 {
        (self.0 >> 9) as u8 & 7
    }

    /// The S bit: this is the last entry of the stack.
    pub const fn bottom(self) -> bool {
        self.0 & 0x100 != 0
    }

    pub const fn ttl(self) -> u8 {
        self.0 as u8
    }

    /// The same entry with another TTL.
    pub const fn with_ttl(self, ttl: u8) -> Self {
        Self((self.0 & !0xff) | ttl as u32)
    }

    /// The same entry with another label and TTL; TC and S stay.
    pub const fn swapped(self, label: Label, ttl: u8) -> Self {
        Self((label.0 << 12) | (self.0 & 0xf00) | ttl as u32)
    }
}

impl fmt::Debug for Lse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[{} ttl {} tc {}{}]",
            self.label(),
            self.ttl(),
            self.tc(),
            if self.bottom() { " S" } else { "" }
        )
    }
}

/// The Internet checksum after one 16-bit word of the data changed from `old` to `new` (RFC 1624 section 3, equation 3:
/// HC' = ~(~HC + ~m + m')). All three are in host order.
pub const fn checksum_update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = (!checksum) as u32 + (!old) as u32 + new as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lse_fields_are_where_rfc_3032_puts_them() {
        let lse = Lse::from_bytes([0x00, 0x06, 0x4b, 0x3f]);
        assert_eq!(
            (lse.label().get(), lse.tc(), lse.bottom(), lse.ttl()),
            (100, 5, true, 63)
        );
        assert_eq!(
            Lse::new(Label::new(100).unwrap(), 5, true, 63).to_bytes(),
            [0x00, 0x06, 0x4b, 0x3f]
        );
        assert_eq!(lse.swapped(Label::MAX, 62).to_bytes(), [0xff, 0xff, 0xfb, 62]);
        assert_eq!(lse.with_ttl(1).to_bytes(), [0x00, 0x06, 0x4b, 1]);
    }

    #[test]
    fn labels_have_20_bits() {
        assert_eq!(Label::new(1_048_575), Some(Label::MAX));
        assert_eq!(Label::new(1_048_576), None);
        assert!(Label::new(15).unwrap().is_special() && !Label::new(16).unwrap().is_special());
    }

    #[test]
    fn checksum_update_is_the_worked_example_of_rfc_1624() {
        // RFC 1624 section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285, HC' must be 0x0000.
        assert_eq!(checksum_update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn macs_are_parsed_strictly() {
        assert_eq!("52:54:00:12:34:5f".parse(), Ok(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x5f])));
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:5g",
            "+2:54:00:12:34:56",
            "1:2:3:4:5:",
        ] {
            assert_eq!(bad.parse::<Mac>(), Err(NotAMac), "{bad}");
        }
    }
}
