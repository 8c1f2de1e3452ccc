//! Where the facts come from: the netdev netlink family, sysfs and /proc.

use std::io;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator, Parseable,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, Socket, SocketAddr, TokioSocket};

use super::{Capabilities, XdpFeatures};
use crate::kernel::netlink::error_of;
use crate::neighbour::LinkInfo;

const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;
const NETDEV_A_DEV_IFINDEX: u16 = 1;

/// A socket of its own, and what the kernel says of the netdev family; `None` on kernels that have none (before Linux 6.3).
fn netdev_family() -> io::Result<Option<(Socket, Generic)>> {
    const CONTROLLER: u16 = 16;
    const CTRL_CMD_GETFAMILY: u8 = 3;
    const CTRL_ATTR_FAMILY_NAME: u16 = 2;

    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = DefaultNla::new(CTRL_ATTR_FAMILY_NAME, b"netdev\0".to_vec());
    match ask(&socket, CONTROLLER, CTRL_CMD_GETFAMILY, name) {
        Ok(family) => Ok(Some((socket, family))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `None` on kernels that have no netdev family (before Linux 6.3).
pub fn xdp_features(ifindex: u32) -> io::Result<Option<XdpFeatures>> {
    const NETDEV_CMD_DEV_GET: u8 = 1;
    const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

    let Some((socket, family)) = netdev_family()? else {
        return Ok(None);
    };
    let Some(family) = family.number::<2>(CTRL_ATTR_FAMILY_ID).map(u16::from_ne_bytes) else {
        return Ok(None);
    };
    let ifindex = DefaultNla::new(NETDEV_A_DEV_IFINDEX, ifindex.to_ne_bytes().to_vec());
    let device = ask(&socket, family, NETDEV_CMD_DEV_GET, ifindex)?;
    let features = device.number::<8>(NETDEV_A_DEV_XDP_FEATURES).map(u64::from_ne_bytes);
    Ok(features.map(XdpFeatures))
}

/// Hears of interfaces whose XDP features change.
pub struct FeatureChanges {
    socket: TokioSocket,
}

impl FeatureChanges {
    /// `None` on kernels that have no netdev family (before Linux 6.3). Must be called within a tokio runtime.
    pub fn follow() -> io::Result<Option<Self>> {
        const NAME: &[u8] = b"mgmt\0";
        let Some((_, family)) = netdev_family()? else {
            return Ok(None);
        };
        let groups = family.nested(CTRL_ATTR_MCAST_GROUPS);
        let groups = groups.iter().map(|group| nested(group));
        let group = groups.filter_map(|attributes| {
            let of = |kind| {
                attributes
                    .iter()
                    .find(|(found, _)| *found == kind)
                    .map(|(_, value)| &value[..])
            };
            (of(CTRL_ATTR_MCAST_GRP_NAME)? == NAME).then_some(of(CTRL_ATTR_MCAST_GRP_ID)?.try_into().ok())?
        });
        let group = Vec::from_iter(group).first().copied().map(u32::from_ne_bytes);
        let group = group.ok_or_else(|| io::Error::other("the netdev family has no group `mgmt`"))?;
        let mut socket = TokioSocket::new(NETLINK_GENERIC)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_mut().add_membership(group)?;
        Ok(Some(Self { socket }))
    }

    /// The next interface that changed; `None`: it may be any. May be dropped and called anew at any time.
    pub async fn next(&mut self) -> Option<u32> {
        let (datagram, _) = self.socket.recv_from_full().await.ok()?;
        let changed = read(&datagram).ok()?.number::<4>(NETDEV_A_DEV_IFINDEX)?;
        Some(u32::from_ne_bytes(changed))
    }
}

/// The driver of a device on a bus, or the kind of a virtual interface. /sys/bus is the same in all network namespaces.
pub fn driver(link: &LinkInfo) -> Option<String> {
    if let Some(parent) = &link.parent {
        let driver = std::fs::read_link(format!("/sys/bus/{}/devices/{}/driver", parent.bus, parent.device)).ok()?;
        return Some(driver.file_name()?.to_str()?.to_owned());
    }
    link.kind.clone()
}

/// Whether a virtio NIC has negotiated that its host may leave checksums unfinished (VIRTIO_NET_F_GUEST_CSUM).
pub fn guest_checksum(link: &LinkInfo) -> bool {
    const GUEST_CSUM: usize = 1;
    let Some(parent) = link.parent.as_ref().filter(|parent| &*parent.bus == "virtio") else {
        return false;
    };
    // One digit for each feature, the first one first. If the file cannot be read, to look is what does no harm.
    let features = std::fs::read_to_string(format!("/sys/bus/virtio/devices/{}/features", parent.device));
    features.map_or(true, |features| features.as_bytes().get(GUEST_CSUM) == Some(&b'1'))
}

pub fn capabilities() -> io::Result<Capabilities> {
    let status = std::fs::read_to_string("/proc/thread-self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    effective
        .map(Capabilities)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

pub fn page_size_bytes() -> u32 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| size.try_into().ok()).unwrap_or(4096)
}

/// Sends one request with one attribute, and waits for its answer, which the kernel has ready at once.
fn ask(socket: &Socket, family: u16, command: u8, attribute: DefaultNla) -> io::Result<Generic> {
    let mut message = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::InnerMessage(Generic {
            family,
            command,
            attributes: vec![attribute],
        }),
    );
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    read(&answer)
}

/// The answer in a datagram, or the error that it tells of.
pub(super) fn read(datagram: &[u8]) -> io::Result<Generic> {
    let invalid = |error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    match NetlinkMessage::<Generic>::deserialize(datagram)
        .map_err(invalid)?
        .payload
    {
        NetlinkPayload::InnerMessage(answer) => Ok(answer),
        NetlinkPayload::Error(error) => Err(error_of(&error)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A generic netlink message (`struct genlmsghdr` and attributes).
#[derive(Debug)]
pub(super) struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<DefaultNla>,
}

/// Command, version and two reserved bytes.
const GENL_HDRLEN: usize = 4;
const GENL_VERSION: u8 = 1;

/// The attributes within the value of another one, as kind and value.
fn nested(value: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let attributes = NlasIterator::new(value).map_while(Result::ok);
    attributes
        .map(|attribute| (attribute.kind(), attribute.value().to_vec()))
        .collect()
}

impl Generic {
    /// The values of the attributes within an attribute.
    fn nested(&self, kind: u16) -> Vec<Vec<u8>> {
        use netlink_packet_core::Nla;
        let attribute = self.attributes.iter().find(|attribute| attribute.kind() == kind);
        let value = attribute.map(|attribute| {
            let mut value = vec![0; attribute.value_len()];
            attribute.emit_value(&mut value);
            value
        });
        let inner = nested(&value.unwrap_or_default()).into_iter();
        inner.map(|(_, value)| value).collect()
    }

    pub(super) fn number<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        use netlink_packet_core::Nla;
        let attribute = self.attributes.iter().find(|attribute| attribute.kind() == kind)?;
        let mut value = [0; N];
        if attribute.value_len() != N {
            return None;
        }
        attribute.emit_value(&mut value);
        Some(value)
    }
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        GENL_HDRLEN + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(GENL_HDRLEN);
        header.copy_from_slice(&[self.command, GENL_VERSION, 0, 0]);
        self.attributes.as_slice().emit(attributes);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let (generic, attributes) = payload
            .split_at_checked(GENL_HDRLEN)
            .ok_or_else(|| DecodeError::from("a generic netlink message without its header"))?;
        let attributes = NlasIterator::new(attributes).map(|attribute| DefaultNla::parse(&attribute?));
        Ok(Self {
            family: header.message_type,
            command: generic[0],
            attributes: attributes.collect::<Result<_, _>>()?,
        })
    }
}
