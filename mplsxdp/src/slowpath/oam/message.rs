//! MPLS echo messages (RFC 8029 section 3): the header, the TLVs, and the FECs of RFC 8029 section 3.2 and RFC 8287
//! section 5. Reads and writes them. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mplsxdp_common::wire::{LSE_LEN, Label, Lse};
use thiserror::Error;

pub const VERSION: u16 = 1;
pub const HEADER_LEN: usize = 32;
/// Values of TLVs are padded to a multiple of this.
const UNIT: usize = 4;
/// TLVs of smaller types must be understood (RFC 8029 section 3).
const OPTIONAL: u16 = 1 << 15;

/// Types of messages.
pub const REQUEST: u8 = 1;
pub const REPLY: u8 = 2;

/// Bits of [`Header::flags`].
pub const VALIDATE_FEC: u16 = 1;
pub const ONLY_IF_TTL_EXPIRED: u16 = 2;

/// How the reply is wanted (RFC 8029 section 3.1).
pub const NO_REPLY: u8 = 1;
pub const REPLY_BY_IP: u8 = 2;
/// With a Router Alert option, which RFC 9570 deprecates.
pub const REPLY_WITH_ALERT: u8 = 3;

/// The address that routers answer for whatever their own is (RFC 8029 section 3.4).
pub const ALL_ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
pub const ALL_ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Flags of a [`Downstream`]: the reply should have an [`InterfaceAndLabelStack`].
pub const WANTS_LABEL_STACK: u8 = 2;

/// The types of multipath information that are used here (RFC 8029 section 3.4.1.1).
pub const NO_MULTIPATH: u8 = 0;
pub const BIT_MASKED_ADDRESSES: u8 = 8;

const FEC_STACK: u16 = 1;
const PAD: u16 = 3;
const VENDOR: u16 = 5;
const INTERFACE_AND_LABEL_STACK: u16 = 7;
const ERRORED: u16 = 9;
const REPLY_TOS: u16 = 10;
const DOWNSTREAM: u16 = 20;

const MULTIPATH: u16 = 1;
const LABELS: u16 = 2;
const FEC_CHANGE: u16 = 3;

macro_rules! return_codes {
    ($($name:ident = $code:literal, $letter:literal, $text:literal;)+) => {
        $(pub const $name: u8 = $code;)+

        /// The letter that Cisco's commands show for a return code, and its meaning.
        pub const fn meaning(code: u8) -> (char, &'static str) {
            match code {
                $($code => ($letter, $text),)+
                _ => ('x', "unknown return code"),
            }
        }
    };
}

// RFC 8029 section 3.1.
return_codes! {
    NO_CODE = 0, 'x', "no return code";
    MALFORMED = 1, 'M', "malformed request";
    TLV_NOT_UNDERSTOOD = 2, 'm', "a TLV was not understood";
    EGRESS = 3, '!', "egress of the FEC";
    NO_MAPPING = 4, 'F', "no mapping for the FEC";
    DOWNSTREAM_MISMATCH = 5, 'D', "downstream mapping mismatch";
    UPSTREAM_UNKNOWN = 6, 'U', "upstream interface unknown";
    LABEL_SWITCHED = 8, 'L', "label switched";
    NO_MPLS_FORWARDING = 9, 'B', "label switched, but no MPLS forwarding";
    OTHER_LABEL = 10, 'f', "the mapping for the FEC is another label";
    NO_LABEL_ENTRY = 11, 'N', "no label entry";
    OTHER_PROTOCOL = 12, 'P', "protocol not associated with the interface";
    PREMATURE_END = 13, 'p', "label stack shrank to one label";
    SEE_DOWNSTREAM = 14, 'd', "see the downstream mappings";
}

/// Why a message cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    #[error("it ends within TLV {kind}")]
    Cut { kind: u16 },
    #[error("it ends within the header of a TLV")]
    CutHeader,
    #[error("TLV {kind} has a wrong length")]
    Length { kind: u16 },
    #[error("FEC {kind} has a wrong length or prefix")]
    Fec { kind: u16 },
    #[error("TLV {kind} has an address type that is not defined")]
    AddressType { kind: u16 },
    #[error("it has no Target FEC Stack, or two")]
    FecStack,
    #[error("it has the same part twice")]
    Twice,
}

/// A time as in NTP: seconds since 1900 in the upper half, their fraction in the lower.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// From 1900 to 1970, in seconds (RFC 5905 section 6).
    const UNIX_EPOCH: u64 = 2_208_988_800;

    /// The time so long after the Unix epoch. Seconds wrap around in 2036.
    pub fn of(since_epoch: Duration) -> Self {
        let seconds = since_epoch.as_secs().wrapping_add(Self::UNIX_EPOCH);
        let fraction = (u64::from(since_epoch.subsec_nanos()) << 32) / 1_000_000_000;
        Self(seconds << 32 | fraction)
    }
}

/// The header of a message. Its fields are as on the wire, whether or not their values are defined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    pub flags: u16,
    pub kind: u8,
    pub reply_mode: u8,
    pub code: u8,
    pub subcode: u8,
    pub handle: u32,
    pub sequence: u32,
    pub sent: Timestamp,
    pub received: Timestamp,
}

impl Header {
    /// The header at the start of `bytes`, and what follows. `None` if it is not complete or of another version.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = Reader(bytes);
        if rest.u16()? != VERSION {
            return None;
        }
        let flags = rest.u16()?;
        let [kind, reply_mode, code, subcode] = rest.take()?;
        let header = Self {
            flags,
            kind,
            reply_mode,
            code,
            subcode,
            handle: rest.u32()?,
            sequence: rest.u32()?,
            sent: Timestamp(rest.u64()?),
            received: Timestamp(rest.u64()?),
        };
        Some((header, rest.0))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(VERSION.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        out.extend([self.kind, self.reply_mode, self.code, self.subcode]);
        out.extend(self.handle.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.sent.0.to_be_bytes());
        out.extend(self.received.0.to_be_bytes());
    }
}

/// A message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    pub header: Header,
    pub tlvs: Vec<Tlv>,
}

impl Message {
    /// Appends the message to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.header.write(out);
        for tlv in &self.tlvs {
            tlv.write(out);
        }
    }

    pub fn fecs(&self) -> &[Fec] {
        let mut stacks = self.tlvs.iter().filter_map(|tlv| match tlv {
            Tlv::FecStack(fecs) => Some(&fecs[..]),
            _ => None,
        });
        stacks.next_back().unwrap_or_default()
    }

    pub fn downstreams(&self) -> impl Iterator<Item = &Downstream> {
        self.tlvs.iter().filter_map(|tlv| match tlv {
            Tlv::Downstream(downstream) => Some(downstream),
            _ => None,
        })
    }
}

/// What is behind the header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tlv {
    /// The FECs of the labels, outermost first.
    FecStack(Vec<Fec>),
    Pad(Pad),
    InterfaceAndLabelStack(InterfaceAndLabelStack),
    /// TLVs that were not understood.
    Errored(Vec<u8>),
    /// The DS field for the reply.
    ReplyTos(u8),
    Downstream(Downstream),
    /// Any other, as it is.
    Other {
        kind: u16,
        value: Vec<u8>,
    },
}

/// Makes a message longer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pad {
    /// The first octet: 1 drop, 2 copy.
    pub action: u8,
    pub filler: Vec<u8>,
}

impl Pad {
    pub const DROP: u8 = 1;
    pub const COPY: u8 = 2;
}

impl Tlv {
    /// The TLVs in `bytes`.
    pub fn read_all(bytes: &[u8]) -> Result<Vec<Self>, Malformed> {
        let tlvs = framed(bytes)?.into_iter();
        tlvs.map(|(kind, value)| Self::read(kind, value)).collect()
    }

    fn read(kind: u16, value: &[u8]) -> Result<Self, Malformed> {
        let wrong = Malformed::Length { kind };
        Ok(match kind {
            FEC_STACK => {
                let fecs = framed(value)?.into_iter();
                Self::FecStack(
                    fecs.map(|(kind, value)| Fec::read(kind, value))
                        .collect::<Result<_, _>>()?,
                )
            }
            PAD => {
                let (&action, filler) = value.split_first().ok_or(wrong)?;
                let filler = filler.to_vec();
                Self::Pad(Pad { action, filler })
            }
            INTERFACE_AND_LABEL_STACK => Self::InterfaceAndLabelStack(InterfaceAndLabelStack::read(value)?),
            ERRORED => Self::Errored(value.to_vec()),
            // RFC 8029 section 3.9: one octet, and three that must be zero. The length is that of the octet, or of all.
            REPLY_TOS => Self::ReplyTos(*value.first().filter(|_| matches!(value.len(), 1 | UNIT)).ok_or(wrong)?),
            DOWNSTREAM => Self::Downstream(Downstream::read(value)?),
            kind => Self::Other {
                kind,
                value: value.to_vec(),
            },
        })
    }

    /// Whether this machine knows what the TLV means, or may ignore it.
    pub fn is_understood(&self) -> bool {
        match self {
            Self::FecStack(fecs) => fecs.iter().all(Fec::is_understood),
            Self::Downstream(downstream) => downstream
                .others
                .iter()
                .all(|&(kind, _)| kind == FEC_CHANGE || kind >= OPTIONAL),
            Self::Other { kind, .. } => *kind == VENDOR || *kind >= OPTIONAL,
            Self::Pad(_) | Self::InterfaceAndLabelStack(_) | Self::Errored(_) | Self::ReplyTos(_) => true,
        }
    }

    /// Appends the TLV to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::FecStack(fecs) => framed_by(out, FEC_STACK, |out| fecs.iter().for_each(|fec| fec.write(out))),
            Self::Pad(Pad { action, filler }) => framed_by(out, PAD, |out| {
                out.push(*action);
                out.extend(filler);
            }),
            Self::InterfaceAndLabelStack(stack) => framed_by(out, INTERFACE_AND_LABEL_STACK, |out| stack.write(out)),
            Self::Errored(tlvs) => framed_by(out, ERRORED, |out| out.extend(tlvs)),
            Self::ReplyTos(value) => framed_by(out, REPLY_TOS, |out| out.extend([*value, 0, 0, 0])),
            Self::Downstream(downstream) => framed_by(out, DOWNSTREAM, |out| downstream.write(out)),
            Self::Other { kind, value } => framed_by(out, *kind, |out| out.extend(value)),
        }
    }
}

/// The protocol that assigned a label for an IGP prefix (RFC 8287 section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Igp {
    Any,
    Ospf,
    IsIs,
    Other(u8),
}

impl Igp {
    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Any,
            1 => Self::Ospf,
            2 => Self::IsIs,
            other => Self::Other(other),
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Ospf => 1,
            Self::IsIs => 2,
            Self::Other(number) => number,
        }
    }
}

/// What assigns labels to prefixes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    Ldp,
    Bgp,
    Generic,
    Igp(Igp),
}

/// A forwarding equivalence class, as a sub-TLV of a Target FEC Stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fec {
    Prefix {
        protocol: Protocol,
        prefix: IpNet,
    },
    /// A label that has no FEC (RFC 8029 section 3.2.16).
    Nil(Label),
    /// Any other, as it is.
    Other {
        kind: u16,
        value: Vec<u8>,
    },
}

impl Fec {
    const LDP: [u16; 2] = [1, 2];
    const BGP: [u16; 2] = [12, 13];
    const GENERIC: [u16; 2] = [14, 15];
    const NIL: u16 = 16;
    const IGP: [u16; 2] = [34, 35];
    /// RSVP, VPN and layer 2 FECs (RFC 8029 section 3.2), pseudowires over IPv6 (RFC 6829), and adjacency SIDs (RFC 8287
    /// section 5.3): none of them is a FEC of this machine, so it is enough to know that they are FECs.
    const KNOWN: [u16; 11] = [3, 4, 6, 7, 8, 9, 10, 11, 24, 25, 36];

    fn read(kind: u16, value: &[u8]) -> Result<Self, Malformed> {
        let protocol = match kind {
            kind if Self::LDP.contains(&kind) => Protocol::Ldp,
            kind if Self::BGP.contains(&kind) => Protocol::Bgp,
            kind if Self::GENERIC.contains(&kind) => Protocol::Generic,
            kind if Self::IGP.contains(&kind) => Protocol::Igp(Igp::Any),
            Self::NIL => {
                let word = value.try_into().map_err(|_| Malformed::Fec { kind })?;
                return Ok(Self::Nil(Label::from_low_bits(u32::from_be_bytes(word) >> 12)));
            }
            kind => {
                return Ok(Self::Other {
                    kind,
                    value: value.to_vec(),
                });
            }
        };
        let is_v4 = [Self::LDP, Self::BGP, Self::GENERIC, Self::IGP]
            .iter()
            .any(|[v4, _]| kind == *v4);
        Self::read_prefix(protocol, is_v4, value).ok_or(Malformed::Fec { kind })
    }

    fn read_prefix(protocol: Protocol, is_v4: bool, value: &[u8]) -> Option<Self> {
        let mut rest = Reader(value);
        let address: IpAddr = match is_v4 {
            true => Ipv4Addr::from(rest.u32()?).into(),
            false => Ipv6Addr::from(rest.take::<16>()?).into(),
        };
        let [length] = rest.take()?;
        let protocol = match protocol {
            Protocol::Igp(_) => {
                let [number, _, _] = rest.take()?;
                Protocol::Igp(Igp::from_number(number))
            }
            other => other,
        };
        let prefix = IpNet::new(address, length).ok()?.trunc();
        rest.0.is_empty().then_some(Self::Prefix { protocol, prefix })
    }

    fn is_understood(&self) -> bool {
        match self {
            Self::Prefix { .. } | Self::Nil(_) => true,
            Self::Other { kind, .. } => Self::KNOWN.contains(kind) || *kind >= OPTIONAL,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Prefix { protocol, prefix } => {
                let [v4, v6] = match protocol {
                    Protocol::Ldp => Self::LDP,
                    Protocol::Bgp => Self::BGP,
                    Protocol::Generic => Self::GENERIC,
                    Protocol::Igp(_) => Self::IGP,
                };
                let (kind, address) = match prefix {
                    IpNet::V4(prefix) => (v4, &prefix.addr().octets()[..]),
                    IpNet::V6(prefix) => (v6, &prefix.addr().octets()[..]),
                };
                framed_by(out, kind, |out| {
                    out.extend(address);
                    out.push(prefix.prefix_len());
                    if let Protocol::Igp(igp) = protocol {
                        out.extend([igp.number(), 0, 0]);
                    }
                });
            }
            Self::Nil(label) => framed_by(out, Self::NIL, |out| out.extend((label.get() << 12).to_be_bytes())),
            Self::Other { kind, value } => framed_by(out, *kind, |out| out.extend(value)),
        }
    }
}

/// A router at the other end of a link, or an end of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkAddress {
    V4 { address: Ipv4Addr, interface: Ipv4Addr },
    V4Unnumbered { address: Ipv4Addr, index: u32 },
    V6 { address: Ipv6Addr, interface: Ipv6Addr },
    V6Unnumbered { address: Ipv6Addr, index: u32 },
}

impl LinkAddress {
    /// A router of which only one address is known.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4 {
                address,
                interface: address,
            },
            IpAddr::V6(address) => Self::V6 {
                address,
                interface: address,
            },
        }
    }

    /// A router of which nothing is known (RFC 8029 section 3.4).
    pub const UNKNOWN: Self = Self::V4Unnumbered {
        address: Ipv4Addr::LOCALHOST,
        index: 0,
    };

    /// The router's address.
    pub fn address(self) -> IpAddr {
        match self {
            Self::V4 { address, .. } | Self::V4Unnumbered { address, .. } => address.into(),
            Self::V6 { address, .. } | Self::V6Unnumbered { address, .. } => address.into(),
        }
    }

    const fn kind(self) -> u8 {
        match self {
            Self::V4 { .. } => 1,
            Self::V4Unnumbered { .. } => 2,
            Self::V6 { .. } => 3,
            Self::V6Unnumbered { .. } => 4,
        }
    }

    fn read(kind: u8, rest: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            1 => Self::V4 {
                address: rest.u32()?.into(),
                interface: rest.u32()?.into(),
            },
            2 => Self::V4Unnumbered {
                address: rest.u32()?.into(),
                index: rest.u32()?,
            },
            3 => Self::V6 {
                address: rest.take::<16>()?.into(),
                interface: rest.take::<16>()?.into(),
            },
            _ => Self::V6Unnumbered {
                address: rest.take::<16>()?.into(),
                index: rest.u32()?,
            },
        })
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::V4 { address, interface } => out.extend([address.octets(), interface.octets()].concat()),
            Self::V4Unnumbered { address, index } => out.extend([address.octets(), index.to_be_bytes()].concat()),
            Self::V6 { address, interface } => out.extend([address.octets(), interface.octets()].concat()),
            Self::V6Unnumbered { address, index } => {
                out.extend(address.octets());
                out.extend(index.to_be_bytes());
            }
        }
    }
}

/// Where the request arrived, and with which labels (RFC 8029 section 3.6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceAndLabelStack {
    pub link: LinkAddress,
    pub stack: Vec<Lse>,
}

impl InterfaceAndLabelStack {
    fn read(value: &[u8]) -> Result<Self, Malformed> {
        let kind = INTERFACE_AND_LABEL_STACK;
        let wrong = Malformed::Length { kind };
        let mut rest = Reader(value);
        let [address_type, ..] = rest.take::<4>().ok_or(wrong)?;
        if !matches!(address_type, 1..=4) {
            return Err(Malformed::AddressType { kind });
        }
        let link = LinkAddress::read(address_type, &mut rest).ok_or(wrong)?;
        let (stack, others) = rest.0.as_chunks::<LSE_LEN>();
        if !others.is_empty() {
            return Err(wrong);
        }
        let stack = stack.iter().map(|&bytes| Lse::from_bytes(bytes)).collect();
        Ok(Self { link, stack })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.link.kind(), 0, 0, 0]);
        self.link.write(out);
        out.extend(self.stack.iter().flat_map(|lse| lse.to_bytes()));
    }
}

/// A label of a packet on its way to a downstream router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DownstreamLabel {
    pub label: Label,
    pub tc: u8,
    pub bottom: bool,
    /// Which protocol assigned it: 0 if that is not known (RFC 8029 section 3.4.1.2).
    pub protocol: u8,
}

/// Which packets take a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Multipath {
    pub kind: u8,
    pub info: Vec<u8>,
}

/// Consecutive addresses, some of which are chosen (RFC 8029 section 3.4.1.1, type 8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressMask {
    pub base: IpAddr,
    /// Bit by bit from the top bit of the first octet, which is the base.
    pub mask: Vec<u8>,
}

impl AddressMask {
    /// The most octets of a mask that are used: a request with more addresses would take too long to answer.
    pub const MAX: usize = 128;

    /// `None` if that is of another type, or wrong.
    pub fn of(multipath: &Multipath, is_v4: bool) -> Option<Self> {
        let mut rest = Reader(&multipath.info);
        let base: IpAddr = match is_v4 {
            true => Ipv4Addr::from(rest.u32()?).into(),
            false => Ipv6Addr::from(rest.take::<16>()?).into(),
        };
        let mask = rest.0.get(..rest.0.len().min(Self::MAX))?.to_vec();
        (multipath.kind == BIT_MASKED_ADDRESSES).then_some(Self { base, mask })
    }

    /// The same with no address.
    pub fn emptied(&self) -> Self {
        Self {
            base: self.base,
            mask: vec![0; self.mask.len()],
        }
    }

    pub fn multipath(&self) -> Multipath {
        let mut info = match self.base {
            IpAddr::V4(base) => base.octets().to_vec(),
            IpAddr::V6(base) => base.octets().to_vec(),
        };
        info.extend(&self.mask);
        Multipath {
            kind: BIT_MASKED_ADDRESSES,
            info,
        }
    }

    /// The places of the chosen addresses, and the addresses.
    pub fn chosen(&self) -> impl Iterator<Item = (usize, IpAddr)> {
        let places = 0..self.mask.len() * 8;
        let chosen = places.filter(|&place| self.has(place));
        chosen.map(|place| {
            let address = match self.base {
                IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(place as u32)).into(),
                IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(place as u128)).into(),
            };
            (place, address)
        })
    }

    pub fn has(&self, place: usize) -> bool {
        let octet = self.mask.get(place / 8);
        octet.is_some_and(|octet| octet & 0x80 >> (place % 8) != 0)
    }

    pub fn choose(&mut self, place: usize) {
        if let Some(octet) = self.mask.get_mut(place / 8) {
            *octet |= 0x80 >> (place % 8);
        }
    }
}

/// A Downstream Detailed Mapping (RFC 8029 section 3.4): a router that packets of the LSP go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Downstream {
    pub mtu: u16,
    pub flags: u8,
    pub link: LinkAddress,
    pub code: u8,
    pub subcode: u8,
    pub multipath: Option<Multipath>,
    /// Outermost first.
    pub labels: Option<Vec<DownstreamLabel>>,
    /// Other sub-TLVs.
    pub others: Vec<(u16, Vec<u8>)>,
}

impl Downstream {
    fn read(value: &[u8]) -> Result<Self, Malformed> {
        let kind = DOWNSTREAM;
        let wrong = Malformed::Length { kind };
        let mut rest = Reader(value);
        let mtu = rest.u16().ok_or(wrong)?;
        let [address_type, flags] = rest.take().ok_or(wrong)?;
        if !matches!(address_type, 1..=4) {
            return Err(Malformed::AddressType { kind });
        }
        let link = LinkAddress::read(address_type, &mut rest).ok_or(wrong)?;
        let [code, subcode] = rest.take().ok_or(wrong)?;
        let length = rest.u16().ok_or(wrong)?;
        if usize::from(length) != rest.0.len() {
            return Err(wrong);
        }
        let mut downstream = Self {
            mtu,
            flags,
            link,
            code,
            subcode,
            multipath: None,
            labels: None,
            others: Vec::new(),
        };
        for (kind, value) in framed(rest.0)? {
            let is_again = match kind {
                MULTIPATH => downstream.multipath.replace(read_multipath(value)?).is_some(),
                LABELS => downstream.labels.replace(read_labels(value)?).is_some(),
                kind => {
                    downstream.others.push((kind, value.to_vec()));
                    false
                }
            };
            if is_again {
                return Err(Malformed::Twice);
            }
        }
        Ok(downstream)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.mtu.to_be_bytes());
        out.extend([self.link.kind(), self.flags]);
        self.link.write(out);
        out.extend([self.code, self.subcode]);
        let mut parts = Vec::new();
        if let Some(labels) = &self.labels {
            framed_by(&mut parts, LABELS, |out| {
                for label in labels {
                    let [a, b, c, _] = Lse::new(label.label, label.tc, label.bottom, 0).to_bytes();
                    out.extend([a, b, c, label.protocol]);
                }
            });
        }
        // Wireshark 4.0 cannot read what comes after it.
        if let Some(Multipath { kind, info }) = &self.multipath {
            framed_by(&mut parts, MULTIPATH, |out| {
                out.push(*kind);
                out.extend((info.len() as u16).to_be_bytes());
                out.push(0);
                out.extend(info);
            });
        }
        for (kind, value) in &self.others {
            framed_by(&mut parts, *kind, |out| out.extend(value));
        }
        out.extend((parts.len() as u16).to_be_bytes());
        out.extend(parts);
    }
}

fn read_multipath(value: &[u8]) -> Result<Multipath, Malformed> {
    let read = || {
        let mut rest = Reader(value);
        let [kind] = rest.take()?;
        let length = rest.u16()?;
        let [_] = rest.take()?;
        let info = rest.0.to_vec();
        (info.len() == usize::from(length)).then_some(Multipath { kind, info })
    };
    read().ok_or(Malformed::Length { kind: DOWNSTREAM })
}

fn read_labels(value: &[u8]) -> Result<Vec<DownstreamLabel>, Malformed> {
    let (labels, others) = value.as_chunks::<LSE_LEN>();
    if !others.is_empty() {
        return Err(Malformed::Length { kind: DOWNSTREAM });
    }
    let labels = labels.iter().map(|&bytes| {
        let lse = Lse::from_bytes(bytes);
        DownstreamLabel {
            label: lse.label(),
            tc: lse.tc(),
            bottom: lse.bottom(),
            protocol: lse.ttl(),
        }
    });
    Ok(labels.collect())
}

/// The types and values of TLVs. The last one need not be padded.
fn framed(bytes: &[u8]) -> Result<Vec<(u16, &[u8])>, Malformed> {
    let mut tlvs = Vec::new();
    let mut rest = Reader(bytes);
    while !rest.0.is_empty() {
        let kind = rest.u16().ok_or(Malformed::CutHeader)?;
        let length = rest.u16().ok_or(Malformed::CutHeader)?;
        let (value, after) = rest.0.split_at_checked(length.into()).ok_or(Malformed::Cut { kind })?;
        let padding = value.len().next_multiple_of(UNIT) - value.len();
        rest.0 = after.get(padding..).unwrap_or_default();
        tlvs.push((kind, value));
    }
    Ok(tlvs)
}

/// Appends a TLV whose value `write` appends, with padding.
fn framed_by(out: &mut Vec<u8>, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend(kind.to_be_bytes());
    let place = out.len();
    out.extend([0, 0]);
    write(out);
    let length = out.len() - place - 2;
    if let Some(bytes) = out.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
        *bytes = (length as u16).to_be_bytes();
    }
    out.resize(out.len() + length.next_multiple_of(UNIT) - length, 0);
}

/// Bytes that are read from the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
}

/// A prefix of one address.
pub fn host(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, 32).into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, 128).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &Message, bytes: &[u8]) {
        let mut written = Vec::new();
        message.write(&mut written);
        assert_eq!(written, bytes);
        let (header, rest) = Header::read(bytes).unwrap();
        assert_eq!(header, message.header);
        assert_eq!(Tlv::read_all(rest).as_ref(), Ok(&message.tlvs));
    }

    #[test]
    fn a_request_is_these_bytes() {
        let message = Message {
            header: Header {
                flags: VALIDATE_FEC,
                kind: REQUEST,
                reply_mode: REPLY_BY_IP,
                code: 0,
                subcode: 0,
                handle: 0x0102_0304,
                sequence: 7,
                sent: Timestamp::of(Duration::from_millis(1500)),
                received: Timestamp::default(),
            },
            tlvs: vec![
                Tlv::FecStack(vec![
                    Fec::Prefix {
                        protocol: Protocol::Ldp,
                        prefix: "10.4.4.0/24".parse().unwrap(),
                    },
                    Fec::Prefix {
                        protocol: Protocol::Igp(Igp::IsIs),
                        prefix: "2001:db8::4/128".parse().unwrap(),
                    },
                    Fec::Nil(Label::from_low_bits(16)),
                ]),
                Tlv::Pad(Pad {
                    action: Pad::COPY,
                    filler: vec![0xab; 2],
                }),
                Tlv::ReplyTos(0xb8),
            ],
        };
        #[rustfmt::skip]
        let bytes = [
            &[0, 1, 0, 1, 1, 2, 0, 0, 1, 2, 3, 4, 0, 0, 0, 7][..],
            &[0x83, 0xaa, 0x7e, 0x81, 0x80, 0, 0, 0], &[0; 8],
            &[0, 1, 0, 44],
            &[0, 1, 0, 5, 10, 4, 4, 0, 24, 0, 0, 0],
            &[0, 35, 0, 20, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 128, 2, 0, 0],
            &[0, 16, 0, 4, 0, 1, 0, 0],
            &[0, 3, 0, 3, 2, 0xab, 0xab, 0],
            &[0, 10, 0, 4, 0xb8, 0, 0, 0],
        ].concat();
        check(&message, &bytes);
    }

    #[test]
    fn a_downstream_mapping_is_these_bytes() {
        let mut mask = AddressMask {
            base: [127, 0, 0, 8].into(),
            mask: vec![0; 4],
        };
        for place in [0, 9, 31] {
            mask.choose(place);
        }
        let chosen = Vec::from_iter(mask.chosen());
        let address = |last: u8| IpAddr::from([127, 0, 0, last]);
        assert_eq!(chosen, [(0, address(8)), (9, address(17)), (31, address(39))]);
        let label = |value, bottom| DownstreamLabel {
            label: Label::from_low_bits(value),
            tc: 0,
            bottom,
            protocol: 3,
        };
        let message = Message {
            header: Header::default(),
            tlvs: vec![
                Tlv::Downstream(Downstream {
                    mtu: 1500,
                    flags: WANTS_LABEL_STACK,
                    link: LinkAddress::of([10, 0, 0, 2].into()),
                    code: LABEL_SWITCHED,
                    subcode: 2,
                    multipath: Some(mask.multipath()),
                    labels: Some(vec![label(3, false), label(200, true)]),
                    others: Vec::new(),
                }),
                Tlv::InterfaceAndLabelStack(InterfaceAndLabelStack {
                    link: LinkAddress::V4Unnumbered {
                        address: [10, 0, 0, 1].into(),
                        index: 5,
                    },
                    stack: vec![Lse::new(Label::from_low_bits(100), 0, true, 1)],
                }),
            ],
        };
        #[rustfmt::skip]
        let bytes = [
            &[0, 1][..], &[0; 30],
            &[0, 20, 0, 44, 0x05, 0xdc, 1, 2, 10, 0, 0, 2, 10, 0, 0, 2, 8, 2, 0, 28],
            &[0, 2, 0, 8, 0, 0, 0x30, 3, 0, 0x0c, 0x81, 3],
            &[0, 1, 0, 12, 8, 0, 8, 0, 127, 0, 0, 8, 0x80, 0x40, 0, 1],
            &[0, 7, 0, 16, 2, 0, 0, 0, 10, 0, 0, 1, 0, 0, 0, 5, 0, 6, 0x41, 1],
        ].concat();
        check(&message, &bytes);
    }

    #[test]
    fn what_is_wrong_is_refused_and_what_is_unknown_is_not_understood() {
        let read = |bytes: &[u8]| Tlv::read_all(bytes);
        for (bytes, error) in [
            (&[0, 1, 0][..], Malformed::CutHeader),
            (&[0, 3, 0, 4, 1], Malformed::Cut { kind: 3 }),
            (&[0, 3, 0, 0], Malformed::Length { kind: 3 }),
            (&[0, 1, 0, 8, 0, 1, 0, 4, 10, 0, 0, 0], Malformed::Fec { kind: 1 }),
            (&[0, 1, 0, 9, 0, 1, 0, 5, 10, 0, 0, 0, 33], Malformed::Fec { kind: 1 }),
            (&[0, 1, 0, 6, 0, 16, 0, 2, 0, 1], Malformed::Fec { kind: 16 }),
            (&[0, 10, 0, 2, 0, 0], Malformed::Length { kind: 10 }),
            (&[0, 20, 0, 4, 5, 220, 9, 0], Malformed::AddressType { kind: 20 }),
            (
                &[0, 20, 0, 8, 5, 220, 1, 0, 10, 0, 0, 1],
                Malformed::Length { kind: 20 },
            ),
            (&[0, 7, 0, 4, 1, 0, 0, 0], Malformed::Length { kind: 7 }),
        ] {
            assert_eq!(read(bytes), Err(error), "{bytes:?}");
        }
        for (bytes, is_understood) in [
            (&[0, 15, 0, 4, 0, 0, 0, 1][..], false),
            (&[0x80, 0, 0, 4, 0, 0, 0, 1], true),
            (&[0, 5, 0, 4, 0, 0, 0, 9], true),
            (&[0, 1, 0, 4, 0, 99, 0, 0], false),
            (&[0, 1, 0, 4, 0, 6, 0, 0], true),
        ] {
            let tlvs = read(bytes).unwrap();
            assert_eq!(tlvs[0].is_understood(), is_understood, "{bytes:?}");
            let mut written = Vec::new();
            tlvs[0].write(&mut written);
            assert_eq!(written, bytes);
        }
        assert_eq!(Header::read(&[0; 32]), None, "version 0");
        assert_eq!(Header::read(&[0, 1, 0, 0]), None);
    }
}
