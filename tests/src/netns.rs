//! Network namespaces, and the cables between them.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use mplsxdp_common::wire::Mac;
use nix::sched::{CloneFlags, setns};

use crate::tidy;

/// A named network namespace, deleted when its last clone goes.
#[derive(Clone)]
pub struct Netns(Arc<Owned>);

struct Owned {
    name: String,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = tidy::remove_namespace(&self.name) {
            eprintln!("{error:#}");
        }
    }
}

impl Netns {
    /// With `lo` up, and IPv6 addresses that are usable at once: no duplicate address detection, no router
    /// solicitations. The kernel does not check source addresses (RFC 3704), because it may have no route to the source
    /// of a packet that leaves an LSP. It forwards nothing, whatever the settings of this machine: any packet that gets
    /// through was switched by mplsxdp.
    pub(crate) fn new(name: String) -> Result<Self> {
        tidy::add_namespace(&name)?;
        let netns = Self(Arc::new(Owned { name }));
        for (key, value) in [
            ("ipv4/ip_forward", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/all/forwarding", "0"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
        ] {
            netns.sysctl(key, value)?;
        }
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// As `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// `ip` in this namespace, with arguments as a person types them.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut words = vec!["-n", self.name()];
        words.extend(arguments.split_whitespace());
        tidy::ip(&words)
    }

    /// Sets `/proc/sys/net/KEY`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.within(|| fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| format!("cannot set {key}")))
    }

    /// Makes a VRF with this routing table.
    pub fn add_vrf(&self, name: &str, table: u32) -> Result<()> {
        self.ip(&format!("link add {name} type vrf table {table}"))?;
        self.ip(&format!("link set {name} up")).map(drop)
    }

    /// A command that runs in this namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name(), program]);
        command
    }

    /// Runs a command here, with arguments as a person types them, and returns what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let output = self.command(words.next().unwrap_or_default()).args(words).output()?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("`{line}`: {}{}", text(&output.stdout), text(&output.stderr).trim());
        }
        Ok(text(&output.stdout))
    }

    /// Runs code in this namespace, on a separate thread. Sockets that it opens stay in the namespace.
    pub fn within<T: Send>(&self, code: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name());
        let body = || {
            let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {path}"))?;
            code()
        };
        thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|_| Err(anyhow!("a panic in {path}")))
    }

    /// The MAC address of an interface.
    pub fn mac(&self, interface: &str) -> Result<Mac> {
        let shown = self.ip(&format!("-oneline link show dev {interface}"))?;
        let address = shown.split_whitespace().skip_while(|&word| word != "link/ether").nth(1);
        let address = address.with_context(|| format!("{interface} has no MAC address"))?;
        address.parse().map_err(|error| anyhow!("{address}: {error}"))
    }
}

/// One end of a cable.
pub struct End<'a> {
    netns: &'a Netns,
    interface: &'a str,
    addresses: Vec<&'a str>,
    mac: Option<&'a str>,
    mtu: u32,
}

impl<'a> End<'a> {
    pub fn new(netns: &'a Netns, interface: &'a str) -> Self {
        Self {
            netns,
            interface,
            addresses: Vec::new(),
            mac: None,
            mtu: 1500,
        }
    }

    /// With the length of its prefix, such as "10.3.3.2/24".
    pub fn address(mut self, address: &'a str) -> Self {
        self.addresses.push(address);
        self
    }

    pub fn mac(mut self, mac: &'a str) -> Self {
        self.mac = Some(mac);
        self
    }

    /// 1500 if not given.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    pub fn netns(&self) -> &Netns {
        self.netns
    }

    pub(crate) fn interface(&self) -> &str {
        self.interface
    }

    fn set_up(&self) -> Result<()> {
        let Self {
            netns, interface, mtu, ..
        } = self;
        netns.ip(&format!("link set dev {interface} mtu {mtu}"))?;
        if let Some(mac) = self.mac {
            netns.ip(&format!("link set dev {interface} address {mac}"))?;
        }
        for address in &self.addresses {
            netns.ip(&format!("address add {address} dev {interface}"))?;
        }
        netns.ip(&format!("link set dev {interface} up"))?;
        // A veth accepts redirected frames only with GRO, unless it has a program of its own; its peer notices GRO only
        // if it is switched on while the veth is up. Other offloads stay as the kernel sets them: hosts leave checksums
        // unfinished.
        netns.run(&format!("ethtool --offload {interface} gro on"))?;
        Ok(())
    }
}

/// A cable: a veth pair, up at both ends.
pub fn link(a: End<'_>, b: End<'_>) -> Result<()> {
    a.netns.ip(&format!(
        "link add name {} type veth peer name {} netns {}",
        a.interface,
        b.interface,
        b.netns.name()
    ))?;
    set_up(a, b)
}

/// Sets up both ends of an existing cable.
pub(crate) fn set_up(a: End<'_>, b: End<'_>) -> Result<()> {
    a.set_up()?;
    b.set_up()?;
    crate::wait::until("the carrier of a cable", std::time::Duration::from_secs(5), || {
        let up = |end: &End<'_>| {
            Ok::<_, anyhow::Error>(
                end.netns
                    .ip(&format!("link show dev {}", end.interface))?
                    .contains("state UP"),
            )
        };
        Ok((up(&a)? && up(&b)?).then_some(()))
    })
}

/// A cable that can be listened to: two veth pairs with a bridge between them in namespace `middle`, which has the ends
/// `a` and `b`. XDP takes and sends frames without any socket seeing them, so a direct cable between two routers shows
/// nothing.
pub fn tapped_link(left: End<'_>, middle: &Netns, right: End<'_>) -> Result<()> {
    let mtu = left.mtu.max(right.mtu);
    middle.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
    for (end, name) in [(left, "a"), (right, "b")] {
        link(end, End::new(middle, name).mtu(mtu))?;
        middle.ip(&format!("link set dev {name} master br0"))?;
    }
    middle.ip(&format!("link set dev br0 mtu {mtu} up"))?;
    Ok(())
}
