//! The kernels that tests run on: their place in Debian, and the expected results.

use super::debian::Architecture;

/// A kernel of Debian.
pub struct Kernel {
    /// Major and minor number.
    pub name: &'static str,
    pub architecture: Architecture,
    /// The suite of Debian that has it.
    pub suite: &'static str,
    /// The package that depends on the newest kernel of this kind in the suite.
    pub package: &'static str,
    pub expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Every test passes, except those that name what the kernel lacks.
    Everything,
    /// The kernel is too old, and `mplsxdp load` says so.
    Refusal,
}

/// For virtual machines.
const CLOUD: &str = "linux-image-cloud-amd64";

pub const KERNELS: [Kernel; 5] = [
    Kernel {
        name: "5.10",
        architecture: Architecture::Amd64,
        suite: "bullseye",
        package: CLOUD,
        expected: Expected::Refusal,
    },
    Kernel {
        name: "6.1",
        architecture: Architecture::Amd64,
        suite: "bookworm",
        package: CLOUD,
        expected: Expected::Everything,
    },
    Kernel {
        name: "6.12",
        architecture: Architecture::Amd64,
        suite: "trixie",
        package: CLOUD,
        expected: Expected::Everything,
    },
    Kernel {
        // The newest one: its version is that of the package.
        name: "newest",
        architecture: Architecture::Amd64,
        suite: "trixie-backports",
        package: CLOUD,
        expected: Expected::Everything,
    },
    Kernel {
        name: "real-time",
        architecture: Architecture::Amd64,
        suite: "trixie-backports",
        package: "linux-image-rt-amd64",
        expected: Expected::Everything,
    },
];

/// The one that `cargo xtask test --guest` boots: the oldest that works.
pub const SHORT: &str = "6.1";
