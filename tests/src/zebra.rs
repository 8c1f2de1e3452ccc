//! Stands in for zebra on an FPM connection: sends what zebra sends, in its order, or invalid data.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use mplsxdp::feeds::fpm::{Frame, Kind, write_frame};
use mplsxdp::route::{Protocol, Via};
use mplsxdp::rtnl::{self, Destination, Labels, Message, Object, ObjectTo, Path, Position, Prefix, Route, Stack, To};
use mplsxdp_common::wire::Label;
use smallvec::SmallVec;

use crate::netns::Netns;
use crate::wait;

pub const LDP: Protocol = Protocol(193);
const MAIN: u32 = 254;
/// The metric of all routes of zebra.
const METRIC: u32 = 20;
/// How long the server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection.
pub struct Zebra(TcpStream);

impl Zebra {
    /// Connects within a namespace, once the server listens.
    pub fn connect(netns: &Netns, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait::until("an FPM server", PATIENCE, || {
            Ok(netns.within(|| Ok(TcpStream::connect(address).ok()))?.map(Self))
        })
    }

    /// Sends each message in its own frame.
    pub fn say(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            frame(&[message], &mut bytes);
        }
        self.say_bytes(&bytes)
    }

    /// Sends all messages in one frame.
    pub fn say_together(&mut self, messages: &[Message]) -> Result<()> {
        let mut bytes = Vec::new();
        frame(messages, &mut bytes);
        self.say_bytes(&bytes)
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).context("the FPM server reads no more")
    }
}

/// Appends a frame to `bytes`.
pub fn frame(messages: &[Message], bytes: &mut Vec<u8>) {
    let mut content = Vec::new();
    messages.iter().for_each(|message| rtnl::encode(message, &mut content));
    let kind = Kind::Netlink;
    write_frame(
        Frame {
            kind,
            content: &content,
        },
        bytes,
    );
}

fn labels(values: &[u32]) -> Stack {
    values.iter().map(|&value| Label::from_low_bits(value)).collect()
}

/// A path to `via` on an interface.
pub fn path(ifindex: u32, via: impl Into<IpAddr>, labels: Labels) -> Path {
    let via = match via.into() {
        IpAddr::V4(address) => Via::Inet(address),
        IpAddr::V6(address) => Via::Inet6(address),
    };
    Path {
        ifindex,
        via: Some(via),
        labels,
        weight: 1,
    }
}

/// `to`: the labels that replace the incoming one.
pub fn swap(ifindex: u32, via: impl Into<IpAddr>, to: &[u32]) -> Path {
    path(ifindex, via, Labels::Out(labels(to)))
}

pub fn impose(ifindex: u32, via: impl Into<IpAddr>, stack: &[u32]) -> Path {
    let stack = labels(stack);
    path(ifindex, via, Labels::Imposed { stack, ttl: None })
}

fn route(destination: Destination, to: To) -> Route {
    Route {
        destination,
        protocol: LDP,
        unicast: true,
        to,
        ttl_propagate: None,
    }
}

pub fn lsp(label: u32, paths: impl IntoIterator<Item = Path>) -> Message {
    let paths: SmallVec<_> = paths.into_iter().collect();
    Message::route(
        route(Destination::Label(Label::from_low_bits(label)), To::Paths(paths)),
        Position::Replaces,
    )
}

pub fn lsp_gone(label: u32) -> Message {
    let destination = Destination::Label(Label::from_low_bits(label));
    Message::gone(route(destination, To::Paths(SmallVec::new())))
}

fn prefix(prefix: IpNet) -> Destination {
    Destination::Prefix(Prefix {
        table: MAIN,
        prefix,
        metric: METRIC,
        selective: false,
    })
}

/// A route with its own paths, as with `no fpm use-next-hop-groups`.
pub fn ip(destination: IpNet, paths: impl IntoIterator<Item = Path>) -> Message {
    Message::route(
        route(prefix(destination), To::Paths(paths.into_iter().collect())),
        Position::Replaces,
    )
}

/// A route by a nexthop object.
pub fn ip_by(destination: IpNet, object: u32) -> Message {
    Message::route(route(prefix(destination), To::Object(object)), Position::Replaces)
}

pub fn ip_gone(destination: IpNet) -> Message {
    Message::gone(route(prefix(destination), To::Paths(SmallVec::new())))
}

pub fn object(id: u32, path: Path) -> Message {
    let to = ObjectTo::Path(path);
    Message::Object(Object { id, to })
}

pub fn group(id: u32, members: &[u32]) -> Message {
    let members = members.iter().map(|&id| (id, 1)).collect();
    let to = ObjectTo::Group(members);
    Message::Object(Object { id, to })
}
