//! The one door to the kernel's networking: netlink and ethtool.

pub mod ethtool;
#[cfg(any(test, feature = "test-support"))]
pub mod fuzz;
pub mod netlink;
