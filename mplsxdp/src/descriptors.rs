//! The limit of file descriptors: raised as far as possible, and named when it is reached.

use std::error::Error;
use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// How many a process needs before it has a port: with fewer, it could not even report the shortage.
const LEAST: u64 = 24;

/// A limit with which nothing can be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the hard limit of file descriptors is {limit}; mplsxdp needs at least {LEAST}, and 3 more for each port: raise the limit \
     with `ulimit -n 65536` before `mplsxdp load`, or with `LimitNOFILE=65536` in the service's unit"
)]
pub struct TooFew {
    limit: u64,
}

/// Raises this process's soft limit to its hard limit.
pub fn raise_limit() -> Result<(), TooFew> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    match limits {
        Ok((_, limit)) if limit < LEAST => return Err(TooFew { limit }),
        _ => {}
    }
    let raised = limits.and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the limit of file descriptors");
    }
    Ok(())
}

/// Which limit was reached when descriptors ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// EMFILE: this process has as many as it may have.
    Process,
    /// ENFILE: the machine has as many as it can have.
    Machine,
}

impl Shortage {
    /// The shortage behind an error or one of its causes, if there is one.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        match os_error(error)? {
            libc::EMFILE => Some(Self::Process),
            libc::ENFILE => Some(Self::Machine),
            _ => None,
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => {
                let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft);
                let limit = limit.map(|limit| format!(" {limit}")).unwrap_or_default();
                write!(
                    f,
                    "this process has used up its limit of{limit} file descriptors; a port takes 3, and one more for each receive \
                     queue but the first: raise the limit with `ulimit -n 65536` before `mplsxdp load`, or with \
                     `LimitNOFILE=65536` in the service's unit"
                )
            }
            Self::Machine => f.write_str(
                "all file descriptors of this machine are in use (`sysctl fs.file-nr`): raise the limit with \
                 `sysctl fs.file-max=NUMBER`",
            ),
        }
    }
}

/// The errno at the bottom of an error.
fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        // An error that wraps another has the same source as that error.
        return error
            .raw_os_error()
            .or_else(|| error.get_ref().and_then(|inner| os_error(inner)));
    }
    if let Some(errno) = error.downcast_ref::<Errno>() {
        return Some(*errno as i32);
    }
    if let Some(errno) = error.downcast_ref::<rustix::io::Errno>() {
        return Some(errno.raw_os_error());
    }
    error.source().and_then(os_error)
}

/// `; HINT`, to follow an error message; if descriptors ran out, what to do about that instead.
pub fn hint_unless_short(error: &(dyn Error + 'static), hint: &str) -> String {
    match Shortage::of(error) {
        Some(_) => String::new(),
        None => format!("; {hint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_found_beneath_other_errors() {
        let emfile = || io::Error::from_raw_os_error(libc::EMFILE);
        assert_eq!(Shortage::of(&emfile()), Some(Shortage::Process));
        assert_eq!(
            Shortage::of(&io::Error::other(io::Error::other(emfile()))),
            Some(Shortage::Process)
        );
        assert_eq!(Shortage::of(&io::Error::other(Errno::ENFILE)), Some(Shortage::Machine));
        assert_eq!(Shortage::of(&Errno::EPERM), None);
        assert_eq!(Shortage::of(&io::Error::other("Too many open files")), None);
    }

    #[test]
    fn a_shortage_says_what_to_do_and_capabilities_are_not_it() {
        let message = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            hint_unless_short(&error, "this needs CAP_BPF")
        };
        assert_eq!([message(libc::EMFILE), message(libc::ENFILE)], ["", ""]);
        assert_eq!(message(libc::EPERM), "; this needs CAP_BPF");
        let process = Shortage::Process.to_string();
        assert!(
            process.contains("`ulimit -n 65536`") && process.contains("`LimitNOFILE=65536`"),
            "{process}"
        );
        assert!(Shortage::Machine.to_string().contains("`sysctl fs.file-max=NUMBER`"));
    }
}
