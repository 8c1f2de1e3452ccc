//! The settings that are frozen into a port's copy of the program.

use super::Reason;

/// How the TTL crosses a push or a pop (RFC 3443).
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum TtlMode {
    /// Every pushed label carries the TTL; a pop copies it to what is beneath.
    Uniform = 0,
    /// The tunnel counts as one hop for the packets in it.
    Pipe = 1,
    /// Like the Linux kernel: uniform between label and IP; a pop does not touch inner label TTLs.
    Linux = 2,
}

impl TtlMode {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Pipe,
            2 => Self::Linux,
            _ => Self::Uniform,
        }
    }
}

/// The settings that are frozen into a port's copy of the program when it is loaded, in one 64-bit word.
///
/// | bits | field |
/// |---|---|
/// | 0-31 | this port's index in `PORTS` and `REASON_COUNTERS` |
/// | 32-39 | [`TtlMode`] |
/// | 40-47 | TTL of labels pushed in pipe mode |
/// | 48 | TC propagation |
/// | 49 | logging |
/// | 50-51 | [`UnknownPolicy`] |
/// | 52 | frames may be multi-buffer |
/// | 53 | multi-buffer frames come from the driver, not from the kernel's generic XDP, and stay so when they leave |
/// | 54-55 | [`Checksum`] |
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings(u64);

impl Settings {
    /// `tunnel_ttl` is the TTL of labels pushed in pipe mode; `tc_propagate` writes the last popped label's TC into the
    /// IP precedence; `log` sends a log record for each exception.
    pub const fn new(port: u32, ttl_mode: TtlMode, tunnel_ttl: u8, tc_propagate: bool, log: bool) -> Self {
        let flags = tc_propagate as u64 | (log as u64) << 1;
        Self(port as u64 | (ttl_mode as u64) << 32 | (tunnel_ttl as u64) << 40 | flags << 48)
    }

    /// The same with another policy for labels without a route; the default is to punt.
    pub const fn with_unknown(self, policy: UnknownPolicy) -> Self {
        Self((self.0 & !(3 << 50)) | (policy as u64) << 50)
    }

    /// The same for a port whose frames may be multi-buffer, or not. If not, the program does not ask the kernel for
    /// the length of frames.
    pub const fn with_frags(self, frags: bool) -> Self {
        Self((self.0 & !(1 << 52)) | (frags as u64) << 52)
    }

    /// The same for a driver that itself delivers multi-buffer frames. Any driver can send those of the kernel's
    /// generic XDP.
    pub const fn with_native_frags(self, native_frags: bool) -> Self {
        Self((self.0 & !(1 << 53)) | (native_frags as u64) << 53)
    }

    /// The same with another treatment of unfinished checksums; the default is to trust.
    pub const fn with_checksum(self, checksum: Checksum) -> Self {
        Self((self.0 & !(3 << 54)) | (checksum as u64) << 54)
    }

    /// The same for another port.
    pub const fn with_port(self, port: u32) -> Self {
        Self((self.0 & !0xffff_ffff) | port as u64)
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn port(self) -> u32 {
        self.0 as u32
    }

    pub const fn ttl_mode(self) -> TtlMode {
        TtlMode::from_bits((self.0 >> 32) as u8)
    }

    pub const fn tunnel_ttl(self) -> u8 {
        (self.0 >> 40) as u8
    }

    pub const fn tc_propagate(self) -> bool {
        self.0 >> 48 & 1 != 0
    }

    pub const fn log(self) -> bool {
        self.0 >> 49 & 1 != 0
    }

    pub const fn frags(self) -> bool {
        self.0 >> 52 & 1 != 0
    }

    pub const fn native_frags(self) -> bool {
        self.0 >> 53 & 1 != 0
    }

    /// Whether frames of `reason` go to the slow path.
    pub const fn punts(self, reason: Reason) -> bool {
        match reason {
            Reason::NoRoute => matches!(self.unknown(), UnknownPolicy::Punt),
            reason => reason.is_punted(),
        }
    }

    pub const fn checksum(self) -> Checksum {
        match self.0 >> 54 & 3 {
            1 => Checksum::Finish,
            2 => Checksum::Punt,
            _ => Checksum::Trust,
        }
    }

    pub const fn unknown(self) -> UnknownPolicy {
        match self.0 >> 50 & 3 {
            1 => UnknownPolicy::Drop,
            2 => UnknownPolicy::Pass,
            _ => UnknownPolicy::Punt,
        }
    }
}

/// What happens to a frame whose label has no route, after it is counted (`--unknown`).
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum UnknownPolicy {
    /// It goes to the slow path, like other exceptions.
    #[default]
    Punt = 0,
    /// Dropped at once.
    Drop = 1,
    /// It is left to the kernel unchanged.
    Pass = 2,
}

/// What a port's program does about TCP and UDP checksums that the sender left to its NIC.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Checksum {
    /// Does not look for them: none arrive on this port.
    #[default]
    Trust = 0,
    /// Finishes those of frames that are forwarded or punted.
    Finish = 1,
    /// Punts frames that would be forwarded, and finishes those that are punted: the slow path sends them. This is for
    /// ports where XDP runs on the kernel's own packets (skbs): the kernel notes in them that the checksum is
    /// unfinished, and XDP cannot remove that note.
    Punt = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_on_unknown_labels_is_apart_from_other_settings() {
        let settings = Settings::new(7, TtlMode::Linux, 255, true, true);
        assert_eq!(settings.unknown(), UnknownPolicy::Punt);
        for policy in [UnknownPolicy::Drop, UnknownPolicy::Pass, UnknownPolicy::Punt] {
            let changed = settings.with_unknown(UnknownPolicy::Drop).with_unknown(policy);
            assert_eq!(changed.unknown(), policy);
            assert_eq!(
                (
                    changed.port(),
                    changed.ttl_mode(),
                    changed.tunnel_ttl(),
                    changed.tc_propagate(),
                    changed.log()
                ),
                (7, TtlMode::Linux, 255, true, true)
            );
        }
    }
}
