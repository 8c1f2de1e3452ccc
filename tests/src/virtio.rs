//! The virtio NICs of a guest that `cargo xtask guest test` boots: qemu cables 0 to 1, and 2 to 3. They are identified
//! by their place on the virtio bus, because names and MAC addresses change.

use std::env;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::netns::End;
use crate::{tidy, wait};

/// Devices on the virtio bus, separated by commas, for the tests only.
const VARIABLE: &str = "MPLSXDP_VIRTIO";
const BUS: &str = "/sys/bus/virtio/devices";
const COUNT: usize = 4;
/// How long the kernel may take to return NICs after their namespace is gone.
const RETURN: Duration = Duration::from_secs(20);

/// Only one test at a time has them.
static TURN: Mutex<()> = Mutex::new(());

/// All of the NICs. The next test gets them once the namespaces that they are in are gone.
pub struct Nics {
    devices: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

/// Why they are not available; `None` if they are.
pub fn missing() -> Option<String> {
    match devices() {
        Ok(_) => None,
        Err(error) => Some(format!("{error:#}: `cargo xtask guest test` has them")),
    }
}

fn devices() -> Result<Vec<String>> {
    let names = env::var(VARIABLE).context("no virtio NICs that tests may have")?;
    let devices: Vec<_> = names.split(',').map(str::to_owned).collect();
    ensure!(
        devices.len() == COUNT,
        "{VARIABLE} is not a list of {COUNT} devices: {names}"
    );
    for device in &devices {
        ensure!(
            Path::new(BUS).join(device).exists(),
            "no device {device} on the virtio bus"
        );
    }
    Ok(devices)
}

impl Nics {
    /// Waits until they are free.
    pub fn take() -> Result<Self> {
        // A test that panicked with them has given them back.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let nics = Self {
            devices: devices()?,
            _turn: turn,
        };
        for device in &nics.devices {
            wait::until(&format!("return of {device}"), RETURN, || Ok(interface(device)))?;
        }
        Ok(nics)
    }

    /// The cable of this number, as [`crate::link`] makes one: up at both ends.
    pub fn link(&self, cable: usize, a: End<'_>, b: End<'_>) -> Result<()> {
        let ends = self.devices.chunks(2).nth(cable);
        let Some([device_a, device_b]) = ends else {
            bail!("there is no cable {cable}");
        };
        for (end, device) in [(&a, device_a), (&b, device_b)] {
            let interface = interface(device).with_context(|| format!("{device} is in use"))?;
            let (netns, name) = (end.netns().name(), end.interface());
            tidy::ip(&["link", "set", "dev", &interface, "netns", netns, "name", name])?;
        }
        crate::netns::set_up(a, b)
    }
}

/// The name of a device's interface, if that is in this thread's network namespace.
fn interface(device: &str) -> Option<String> {
    let mut interfaces = fs::read_dir(Path::new(BUS).join(device).join("net")).ok()?;
    Some(interfaces.next()?.ok()?.file_name().to_string_lossy().into_owned())
}
