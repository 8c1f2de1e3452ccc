//! The names of instances, and where their files are.

use std::path::{Path, PathBuf};

/// The environment variable that replaces [`RUN_DIR`].
pub const RUN_DIR_VARIABLE: &str = "MPLSXDP_RUN_DIR";
/// Where the sockets of all instances are.
pub const RUN_DIR: &str = "/run/mplsxdp";
/// The default instance.
pub const DEFAULT_INSTANCE: &str = "default";

/// Where the files of one instance are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    dir: PathBuf,
    name: String,
}

impl Instance {
    /// Longest path of a socket: the size of `sun_path` minus its NUL (unix(7)).
    const MAX_SOCKET_PATH: usize = 107;

    /// An instance in the run directory of this process.
    pub fn new(name: &str) -> Result<Self, InvalidInstance> {
        let dir = std::env::var_os(RUN_DIR_VARIABLE).map_or_else(|| RUN_DIR.into(), PathBuf::from);
        Self::in_dir(dir, name)
    }

    pub fn in_dir(dir: impl Into<PathBuf>, name: &str) -> Result<Self, InvalidInstance> {
        let instance = Self {
            dir: dir.into(),
            name: name.to_owned(),
        };
        let refuse = |reason| {
            Err(InvalidInstance {
                name: name.to_owned(),
                reason,
            })
        };
        if name.is_empty() {
            return refuse(InvalidName::Empty);
        }
        let ordinary = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if name.starts_with('.') || !name.bytes().all(ordinary) {
            return refuse(InvalidName::Characters);
        }
        let length = instance.socket().as_os_str().len();
        match length.checked_sub(Self::MAX_SOCKET_PATH) {
            None | Some(0) => Ok(instance),
            Some(excess) => refuse(InvalidName::Long { length, excess }),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join(format!("{}.sock", self.name))
    }

    /// Locked by the process that runs the instance, for as long as it lives.
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join(format!("{}.lock", self.name))
    }
}

/// A name that no instance can have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the instance name `{name}` {reason}")]
pub struct InvalidInstance {
    name: String,
    reason: InvalidName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
enum InvalidName {
    #[error("is empty")]
    Empty,
    #[error("may contain only letters, digits, `_`, `-` and `.`, and may not start with `.`")]
    Characters,
    /// In bytes.
    #[error("makes the socket's path {length} bytes long; it must be {excess} shorter")]
    Long { length: usize, excess: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names_are_file_names_that_fit_a_socket_address() {
        let path = |name: &str| Instance::in_dir("/run/mplsxdp", name).map(|instance| instance.socket());
        assert_eq!(path("pe-1.a_b"), Ok("/run/mplsxdp/pe-1.a_b.sock".into()));
        for (name, error) in [
            ("", "the instance name `` is empty"),
            (
                "../x",
                "the instance name `../x` may contain only letters, digits, `_`, `-` and `.`, and may not start with `.`",
            ),
            (
                ".x",
                "the instance name `.x` may contain only letters, digits, `_`, `-` and `.`, and may not start with `.`",
            ),
            (
                "a b",
                "the instance name `a b` may contain only letters, digits, `_`, `-` and `.`, and may not start with `.`",
            ),
        ] {
            assert_eq!(path(name).map_err(|error| error.to_string()), Err(error.to_owned()));
        }
        assert!(path(&"x".repeat(89)).is_ok());
        assert!(
            path(&"x".repeat(90))
                .is_err_and(|error| error.to_string().ends_with(" 108 bytes long; it must be 1 shorter"))
        );
    }
}
