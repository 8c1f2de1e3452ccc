//! The one door to the kernel's networking: [`Netlink`] makes rtnetlink requests, [`subscription`] follows what changes,
//! [`netdev`] asks what drivers can do with XDP (generic netlink), [`ethtool`] reads and sets what drivers do, [`sysctl`] the
//! settings of the kernel's own IP, and [`netns`] does something in another network namespace.

mod decoding;
pub mod ethtool;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
mod local_route;
pub mod netdev;
pub mod netns;
mod requests;
pub mod subscription;
pub mod sysctl;

pub use local_route::LocalRoute;
pub use requests::{Error, NeighbourEntry, Netlink};
pub use subscription::Interests;
