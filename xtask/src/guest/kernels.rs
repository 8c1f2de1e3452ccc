//! The kernels that tests run on: their place in Debian, the machine, and the expected results.

use super::debian::Architecture;

/// A kernel of Debian, and the machine that runs it.
pub struct Kernel {
    /// Major and minor number, or what is special.
    pub name: &'static str,
    pub architecture: Architecture,
    /// The suite of Debian that has it.
    pub suite: &'static str,
    /// The package that depends on the newest kernel of this kind in the suite.
    pub package: &'static str,
    pub cpus: u8,
    /// Parameters of the kernel, besides those that every guest has.
    pub parameters: &'static str,
    pub expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Every test passes, except those that name what the kernel lacks.
    Everything,
    /// The kernel is too old, and `mplsxdp load` says so.
    Refusal,
}

pub const KERNELS: [Kernel; 8] = [
    Kernel {
        expected: Expected::Refusal,
        ..cloud("5.10", "bullseye")
    },
    cloud("6.1", "bookworm"),
    cloud("6.12", "trixie"),
    // Its version is that of the package.
    cloud("newest", "trixie-backports"),
    Kernel {
        package: "linux-image-rt-amd64",
        ..cloud("real-time", "trixie-backports")
    },
    // membarrier(2) waits for no programs on these. On one CPU, only a kernel that preempts programs has two of them half
    // done. BPF test runs forbid that in newer kernels.
    Kernel {
        parameters: "nohz_full=1",
        ..cloud("nohz-full", "bookworm")
    },
    Kernel {
        cpus: 1,
        parameters: "preempt=full",
        ..cloud("one-cpu", "bookworm")
    },
    Kernel {
        architecture: Architecture::Arm64,
        package: "linux-image-cloud-arm64",
        ..cloud("arm64", "bookworm")
    },
];

/// The one that `cargo xtask test --guest` boots: the oldest that works.
pub const SHORT: &str = "6.1";

/// A suite's kernel for virtual machines.
const fn cloud(name: &'static str, suite: &'static str) -> Kernel {
    Kernel {
        name,
        architecture: Architecture::Amd64,
        suite,
        package: "linux-image-cloud-amd64",
        cpus: 2,
        parameters: "",
        expected: Expected::Everything,
    }
}
