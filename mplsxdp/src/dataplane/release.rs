//! The version of the running kernel, for messages and tests. Kernel features are probed, not derived from the version.

use std::fmt;

/// Major and minor number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Release {
    pub major: u32,
    pub minor: u32,
}

/// The first kernel that has everything that is needed, without a distributor's additions.
pub const OLDEST: Release = Release { major: 5, minor: 18 };

impl Release {
    /// `None` if the release does not begin with numbers.
    pub fn running() -> Option<Self> {
        let name = nix::sys::utsname::uname().ok()?;
        Self::parse(name.release().to_str()?)
    }

    /// From a release, such as `6.1.0-50-cloud-amd64`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-', '+']).map(str::parse);
        match (numbers.next()?, numbers.next()?) {
            (Ok(major), Ok(minor)) => Some(Self { major, minor }),
            _ => None,
        }
    }
}

/// Whether programs can preempt one another on a CPU: the kernel's version string (`uname -v`) says so.
pub fn is_preempt_rt() -> bool {
    let name = nix::sys::utsname::uname().ok();
    name.is_some_and(|name| names_preempt_rt(&name.version().to_string_lossy()))
}

fn names_preempt_rt(version: &str) -> bool {
    version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::{OLDEST, Release, names_preempt_rt};

    #[test]
    fn a_real_time_kernel_says_so() {
        assert!(names_preempt_rt("#1 SMP PREEMPT_RT Debian 6.12.115-1 (2025-11-07)"));
        assert!(!names_preempt_rt(
            "#1 SMP PREEMPT_DYNAMIC Debian 6.12.115-1 (2025-11-07)"
        ));
    }

    #[test]
    fn releases_are_compared_by_their_numbers() {
        let debian = Release::parse("5.10.0-32-cloud-amd64").unwrap();
        assert!(debian < OLDEST);
        assert_eq!(debian.to_string(), "5.10");
        assert!(Release::parse("6.12.107+deb13-cloud-amd64").unwrap() > OLDEST);
        assert!(Release::parse("6.1-rc3") > Some(OLDEST));
        assert_eq!(Release::parse("linux"), None);
    }
}
