//! The constants that are frozen into the programs that count lost frames.

/// What the programs that count lost frames must know. The kernel's tracepoints report all XDP programs on the machine,
/// so the programs filter by these values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watch {
    /// The cookie of the network namespace (SO_NETNS_COOKIE).
    pub netns_cookie: u64,
    /// The kernel's id of the map `TX_PORTS`.
    pub tx_ports_id: u32,
    /// Offsets in the kernel's structures: `net_device.ifindex`, `net_device.nd_net`, `net.net_cookie`.
    pub ifindex_offset: u32,
    pub netns_offset: u32,
    pub cookie_offset: u32,
}

impl Watch {
    pub const fn words(self) -> [u64; 3] {
        [
            self.netns_cookie,
            self.tx_ports_id as u64 | (self.ifindex_offset as u64) << 32,
            self.netns_offset as u64 | (self.cookie_offset as u64) << 32,
        ]
    }

    pub const fn from_words([netns_cookie, second, third]: [u64; 3]) -> Self {
        Self {
            netns_cookie,
            tx_ports_id: second as u32,
            ifindex_offset: (second >> 32) as u32,
            netns_offset: third as u32,
            cookie_offset: (third >> 32) as u32,
        }
    }
}
