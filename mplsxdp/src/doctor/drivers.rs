//! What is known of drivers beyond what the kernel reports of an interface.

/// A driver that runs XDP natively.
pub struct Driver {
    pub name: &'static str,
    /// The first kernel in which it does.
    pub since: &'static str,
    /// The kernels on which mplsxdp was tried with it.
    pub tried: Option<&'static str>,
    pub limits: Option<&'static str>,
}

const fn untried(name: &'static str, since: &'static str) -> Driver {
    Driver {
        name,
        since,
        tried: None,
        limits: None,
    }
}

impl Driver {
    const fn limited(self, limits: &'static str) -> Self {
        Self {
            limits: Some(limits),
            ..self
        }
    }

    const fn tried(self, kernels: &'static str) -> Self {
        Self {
            tried: Some(kernels),
            ..self
        }
    }
}

const PAGE: &str = "MTU at most about 3500";
const NO_REDIRECT: &str = "neither redirects frames nor transmits redirected ones: use `--mode generic`";

/// By name. The kernels are those of the kernel's change log; the limits are from the drivers' sources.
pub const DRIVERS: &[Driver] = &[
    untried("atlantic", "5.19"),
    untried("bnxt_en", "4.11"),
    untried("cpsw", "5.3"),
    untried("dpaa2-eth", "5.0"),
    untried("ena", "5.6").limited("needs half of its queues for XDP: `ethtool -L IFACE combined N`"),
    untried("enetc", "5.13"),
    untried("fec", "6.2"),
    untried("gve", "6.4"),
    untried("hv_netvsc", "5.6"),
    untried("i40e", "4.13"),
    untried("ice", "5.5"),
    untried("igb", "5.10").limited(PAGE),
    untried("igc", "5.13").limited("MTU at most 1500"),
    untried("ionic", "6.9"),
    untried("ixgbe", "4.12").limited("MTU at most about 3000"),
    untried("ixgbevf", "4.17").limited(NO_REDIRECT),
    untried("lan966x", "6.2"),
    untried("mana", "5.17"),
    untried("mlx4_en", "4.8").limited("transmits no redirected frames; MTU at most about 3500"),
    untried("mlx5_core", "4.9").limited("refuses a program while hardware LRO is on"),
    untried("mtk_eth_soc", "6.0"),
    untried("mvneta", "5.5"),
    untried("mvpp2", "5.9").limited(PAGE),
    untried("nfp", "4.10").limited(NO_REDIRECT),
    untried("nicvf", "4.12").limited("MTU at most about 1500"),
    untried("qede", "4.11"),
    untried("sfc", "5.5"),
    untried("stmmac", "5.13").limited("MTU at most 1500"),
    untried("tun", "4.14").tried("6.1, 6.12, 6.18, 7.3"),
    untried("veth", "4.19").tried("6.1, 6.12, 6.18, 7.3"),
    untried("virtio_net", "4.10").tried("6.1, 6.12, 7.3").limited(
        "the VM's host must let the guest switch its offloads off, and give it a queue pair more for each CPU",
    ),
    untried("vmxnet3", "6.6"),
    untried("xen-netfront", "5.9").limited("needs a backend with `feature-xdp-headroom`"),
];

pub fn find(name: &str) -> Option<&'static Driver> {
    DRIVERS.iter().find(|driver| driver.name == name)
}
