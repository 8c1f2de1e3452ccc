//! The netdev family of generic netlink (Documentation/netlink/specs/netdev.yaml, since Linux 6.3): the XDP features of
//! drivers. In the network namespace of the calling thread.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized, parse_u32, parse_u64,
};
use netlink_packet_generic::ctrl::nlas::{GenlCtrlAttrs, McastGrpAttrs};
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket};

use super::decoding::error_of;

/// The XDP features of a driver (NETDEV_XDP_ACT_*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// Runs programs, with the verdicts ABORTED, DROP, PASS and TX.
    pub const BASIC: Self = Self(1 << 0);
    /// The verdict REDIRECT.
    pub const REDIRECT: Self = Self(1 << 1);
    /// Transmits frames that were redirected to it.
    pub const NDO_XMIT: Self = Self(1 << 2);
    /// Hands multi-buffer frames to programs.
    pub const RX_SG: Self = Self(1 << 5);
    /// Transmits redirected multi-buffer frames, too.
    pub const NDO_XMIT_SG: Self = Self(1 << 6);

    pub fn contains(self, feature: Self) -> bool {
        self.0 & feature.0 == feature.0
    }
}

/// `None` on kernels without the netdev family (before Linux 6.3).
pub fn xdp_features(ifindex: u32) -> io::Result<Option<XdpFeatures>> {
    let socket = socket()?;
    let Some(family) = Family::find(&socket)? else {
        return Ok(None);
    };
    let mut request = GenlMessage::from_payload(Device::of(ifindex));
    request.set_resolved_family_id(family.id);
    Ok(ask(&socket, request)?.xdp_features)
}

/// Interfaces whose XDP features change, as the kernel reports them.
pub struct FeatureChanges {
    socket: TokioSocket,
}

impl FeatureChanges {
    /// `None` on kernels without the netdev family (before Linux 6.3). Must be called within a tokio runtime.
    pub fn follow() -> io::Result<Option<Self>> {
        let Some(family) = Family::find(&socket()?)? else {
            return Ok(None);
        };
        let group = family.management_group;
        let group = group.ok_or_else(|| io::Error::other("the netdev family has no multicast group `mgmt`"))?;
        let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(group)?;
        Ok(Some(Self { socket }))
    }

    /// The next interface that changed; `None`: any may have. Can be dropped and called again at any time.
    pub async fn next(&mut self) -> Option<u32> {
        let (datagram, _) = self.socket.recv_from_full().await.ok()?;
        read::<Device>(&datagram).ok()?.ifindex
    }
}

/// What the generic netlink controller reports about the netdev family.
struct Family {
    id: u16,
    /// The multicast group that changes are reported to.
    management_group: Option<u32>,
}

impl Family {
    /// Asks the controller; `None` if this kernel does not have the family.
    fn find(socket: &Socket) -> io::Result<Option<Self>> {
        let request = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(Device::family_name().to_owned())],
        });
        match ask(socket, request) {
            Ok(answer) => Self::of(&answer.nlas).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn of(attributes: &[GenlCtrlAttrs]) -> io::Result<Self> {
        let id = attributes.iter().find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        let groups = attributes.iter().find_map(|attribute| match attribute {
            GenlCtrlAttrs::McastGroups(groups) => Some(groups),
            _ => None,
        });
        let management = McastGrpAttrs::Name("mgmt".to_owned());
        let management = groups.into_iter().flatten().find(|group| group.contains(&management));
        Ok(Self {
            id: id.ok_or_else(|| io::Error::other("the kernel reports no number for the netdev family"))?,
            management_group: management.into_iter().flatten().find_map(|attribute| match attribute {
                McastGrpAttrs::Id(id) => Some(*id),
                McastGrpAttrs::Name(_) => None,
            }),
        })
    }
}

/// NETDEV_CMD_DEV_GET
const DEV_GET: u8 = 1;
/// NETDEV_FAMILY_VERSION
const VERSION: u8 = 1;
/// NETDEV_A_DEV_IFINDEX, a u32.
const IFINDEX: u16 = 1;
/// NETDEV_A_DEV_XDP_FEATURES, a u64.
const XDP_FEATURES: u16 = 3;

/// What a message of the netdev family reports about a device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Device {
    pub(super) ifindex: Option<u32>,
    pub(super) xdp_features: Option<XdpFeatures>,
}

impl Device {
    fn of(ifindex: u32) -> Self {
        Self {
            ifindex: Some(ifindex),
            xdp_features: None,
        }
    }

    fn attributes(&self) -> Vec<DefaultNla> {
        let ifindex = self.ifindex.map(|ifindex| (IFINDEX, ifindex.to_ne_bytes().to_vec()));
        let features = self
            .xdp_features
            .map(|features| (XDP_FEATURES, features.0.to_ne_bytes().to_vec()));
        let attributes = ifindex.into_iter().chain(features);
        attributes.map(|(kind, value)| DefaultNla::new(kind, value)).collect()
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.attributes().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes().as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(attributes: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                IFINDEX => device.ifindex = Some(parse_u32(attribute.value())?),
                XDP_FEATURES => device.xdp_features = Some(XdpFeatures(parse_u64(attribute.value())?)),
                _ => {}
            }
        }
        Ok(device)
    }
}

fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends a request and reads its answer, which the kernel has ready at once.
fn ask<T>(socket: &Socket, request: GenlMessage<T>) -> io::Result<T>
where
    T: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Debug,
{
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    read(&answer)
}

/// The answer in a datagram, or the error that it reports.
pub(super) fn read<T>(datagram: &[u8]) -> io::Result<T>
where
    T: ParseableParametrized<[u8], GenlHeader> + Debug,
{
    let invalid = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    match NetlinkMessage::<GenlMessage<T>>::deserialize(datagram)
        .map_err(invalid)?
        .payload
    {
        NetlinkPayload::InnerMessage(answer) => Ok(answer.payload),
        NetlinkPayload::Error(error) => Err(error_of(&error)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel sends it, with its headers.
    fn datagram(device: Device, family: u16) -> Vec<u8> {
        let mut message = GenlMessage::from_payload(device);
        message.set_resolved_family_id(family);
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_device_reads_as_it_was_written() {
        let device = Device {
            ifindex: Some(7),
            xdp_features: Some(XdpFeatures(0x4b)),
        };
        let bytes = datagram(device.clone(), 0x1d);
        let expected: [&[u8]; 4] = [
            &[40, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0],
            &[8, 0, 1, 0, 7, 0, 0, 0],
            &[12, 0, 3, 0, 0x4b, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(read::<Device>(&bytes).unwrap(), device);
    }

    #[test]
    fn other_attributes_are_passed_over_and_wrong_lengths_are_not() {
        let mut bytes = datagram(Device::of(7), 0x1d);
        // The kind of the only attribute: headers of 16 and 4 bytes, and its length, come before it.
        bytes[22] = 5;
        assert_eq!(read::<Device>(&bytes).unwrap(), Device::default());
        bytes[22] = XDP_FEATURES as u8;
        assert_eq!(read::<Device>(&bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(read::<Device>(&bytes[..10]).is_err());
    }

    #[test]
    fn the_family_is_known_by_its_number_and_the_group_of_its_changes() {
        let group = |name: &str, id| vec![McastGrpAttrs::Id(id), McastGrpAttrs::Name(name.to_owned())];
        let attributes = [
            GenlCtrlAttrs::FamilyName("netdev".to_owned()),
            GenlCtrlAttrs::FamilyId(0x1d),
            GenlCtrlAttrs::McastGroups(vec![group("page-pool", 8), group("mgmt", 7)]),
        ];
        let family = Family::of(&attributes).unwrap();
        assert_eq!((family.id, family.management_group), (0x1d, Some(7)));
        let family = Family::of(&attributes[..2]).unwrap();
        assert_eq!((family.id, family.management_group), (0x1d, None));
        let error = Family::of(&attributes[..1]).err().unwrap();
        assert_eq!(error.to_string(), "the kernel reports no number for the netdev family");
    }
}
