//! Tests that need a newer kernel than the oldest supported one, and the reason. Test programs of libtest cannot skip a
//! test themselves; the end-to-end tests can, and are not listed here.

use std::fmt;

/// Major and minor number of a kernel.
pub type Pair = (u32, u32);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(Pair);

impl Version {
    /// From a release, such as "6.1.0-50-cloud-amd64".
    pub fn of(release: &str) -> Option<Self> {
        let mut numbers = release.split(['.', '-', '+']).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some(Self((major, minor))),
            _ => None,
        }
    }
}

/// A test, and what it needs.
#[derive(Clone, Copy)]
pub struct Lacking {
    pub program: &'static str,
    pub test: &'static str,
    since: Pair,
    what: &'static str,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.since;
        write!(f, "the kernel is older than {major}.{minor}, which has {}", self.what)
    }
}

const NETDEV_FAMILY: &str = "the netdev netlink family";

const IN_BUFFERS: &str = "a choice of how much of a frame is in the first buffer of a test run";

const TESTS: [Lacking; 8] = [
    Lacking {
        program: "budget",
        test: "the_maps_take_no_more_memory_than_they_may",
        since: (6, 4),
        what: "the memory of a map as it is",
    },
    Lacking {
        program: "differential",
        test: "what_is_beyond_the_first_buffer_is_not_misread",
        since: (6, 18),
        what: IN_BUFFERS,
    },
    Lacking {
        program: "differential",
        test: "random_frames_beyond_the_first_buffer_agree",
        since: (6, 18),
        what: IN_BUFFERS,
    },
    Lacking {
        program: "differential",
        test: "labels_that_the_headroom_does_not_take_are_dropped_as_they_came",
        since: (6, 3),
        what: "XDP metadata of more than 32 bytes, by which the test takes headroom away",
    },
    Lacking {
        program: "kernel",
        test: "preflight::interfaces_that_will_not_do_are_refused",
        since: (6, 3),
        what: NETDEV_FAMILY,
    },
    Lacking {
        program: "kernel",
        test: "preflight::a_veth_is_fit_once_its_peer_takes_redirected_frames",
        since: (6, 3),
        what: NETDEV_FAMILY,
    },
    Lacking {
        program: "kernel",
        test: "preflight::a_peer_in_the_same_namespace_is_named",
        since: (6, 3),
        what: NETDEV_FAMILY,
    },
    Lacking {
        program: "xsk",
        test: "frames_larger_than_a_chunk_come_up_and_go_out_whole",
        since: (6, 6),
        what: "AF_XDP frames in several buffers",
    },
];

/// The tests of a program that a kernel cannot run.
pub fn lacking(program: &str, kernel: Version) -> impl Iterator<Item = Lacking> {
    TESTS
        .into_iter()
        .filter(move |test| test.program == program && kernel < Version(test.since))
}

#[cfg(test)]
mod tests {
    use super::{Version, lacking};

    #[test]
    fn an_old_kernel_lacks_what_a_new_one_has() {
        let version = |release| Version::of(release).unwrap();
        assert!(lacking("xsk", version("6.1.0-50-cloud-amd64")).count() > 0);
        assert_eq!(lacking("xsk", version("6.12.107+deb13-cloud-amd64")).count(), 0);
        assert!(Version::of("six.one").is_none());
    }
}
