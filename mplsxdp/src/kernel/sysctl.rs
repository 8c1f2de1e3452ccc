//! The kernel's IP settings (`/proc/sys/net`), in the network namespace of the calling thread. A key is a path beneath
//! that, such as `ipv4/conf/eth0/forwarding`.

use std::io;
use std::path::{Path, PathBuf};

const SETTINGS: &str = "/proc/sys/net";

/// A setting could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {value} to {}: {source}", .path.display())]
pub struct Error {
    value: Box<str>,
    path: PathBuf,
    source: io::Error,
}

/// `None` if there is no such setting, or it is not a number.
pub fn read(key: &str) -> Option<u32> {
    let value = std::fs::read_to_string(Path::new(SETTINGS).join(key)).ok()?;
    value.trim().parse().ok()
}

/// Changes a setting of one interface in a family (`ipv4`, `ipv6`). Does nothing if the interface has no settings in
/// that family: the kernel has no IPv6, or the interface's MTU is too small for it.
pub fn write_of_interface(family: &str, interface: &str, key: &str, value: &str) -> Result<(), Error> {
    let settings = Path::new(SETTINGS).join(family).join("conf").join(interface);
    if !settings.exists() {
        return Ok(());
    }
    let path = settings.join(key);
    std::fs::write(&path, value).map_err(|source| Error {
        value: value.into(),
        path,
        source,
    })
}

/// The name of a setting for sysctl(8): dots and slashes are swapped, so that the name of an interface can have dots.
pub fn name(key: &str) -> String {
    let swapped = key.chars().map(|char| match char {
        '/' => '.',
        '.' => '/',
        other => other,
    });
    format!("net.{}", swapped.collect::<String>())
}
