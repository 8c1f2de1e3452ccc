//! All access to the kernel's networking. [`Netlink`] makes rtnetlink requests, [`subscription`] follows changes,
//! [`failed_links`] reports failed links early, [`dump`] reads all routes once, [`netdev`] asks for the XDP features of
//! drivers (generic netlink), [`ethtool`] reads and sets driver options, [`promiscuity`] has
//! interfaces take all frames, [`sysctl`] settings of the kernel's IP,
//! [`tracepoint`] counts events, and [`netns`] runs something in another network namespace.

mod decoding;
pub mod dump;
pub mod ethtool;
pub mod failed_links;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod local_route;
pub mod netdev;
pub mod netns;
pub mod promiscuity;
mod requests;
pub mod subscription;
pub mod sysctl;
pub mod tracepoint;

pub use local_route::{InvalidLocalRoute, LocalRoute};
pub use requests::{Error, NeighbourEntry, Netlink};
pub use subscription::{Events, Interests};
