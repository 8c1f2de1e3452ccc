//! The values of options that are not a text, an address or the name of an interface.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use mplsxdp_common::abi::{self, TtlMode};
use serde::de::{Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::control::api::{Checksum, UnknownChecksum};
use crate::dataplane::class_maps::InvalidClassMap;
use crate::dataplane::label_ranges::{AcceptLabels, InvalidLabelRanges};
use crate::dataplane::mpls_mtu::{InvalidMplsMtu, MplsMtu};
use crate::route::{Source, UnknownSource};
use crate::text::serde_as_text;

/// Token buckets count nanoseconds.
const MAX_RATE: u32 = 1_000_000_000;

/// Per second; 0: no limit.
pub type Rate = Number<u32, 0, MAX_RATE>;

/// A whole number within bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Number<T, const MIN: u32, const MAX: u32>(pub(super) T);

impl<T: Copy + TryFrom<i64>, const MIN: u32, const MAX: u32> Number<T, MIN, MAX> {
    pub fn new(number: i64) -> Option<Self> {
        let within = (i64::from(MIN)..=i64::from(MAX)).contains(&number);
        within.then(|| T::try_from(number).ok().map(Self)).flatten()
    }

    pub fn get(self) -> T {
        self.0
    }
}

/// A text is not a number within the bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it must be a number, {min} to {max}")]
pub struct InvalidNumber {
    min: u32,
    max: u32,
}

impl<T: fmt::Display, const MIN: u32, const MAX: u32> fmt::Display for Number<T, MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Copy + TryFrom<i64>, const MIN: u32, const MAX: u32> FromStr for Number<T, MIN, MAX> {
    type Err = InvalidNumber;

    fn from_str(text: &str) -> Result<Self, InvalidNumber> {
        let number = text.parse().ok().and_then(Self::new);
        number.ok_or(InvalidNumber { min: MIN, max: MAX })
    }
}

impl<'de, T: Copy + TryFrom<i64>, const MIN: u32, const MAX: u32> Deserialize<'de> for Number<T, MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Within<T, const MIN: u32, const MAX: u32>(std::marker::PhantomData<T>);

        impl<T: Copy + TryFrom<i64>, const MIN: u32, const MAX: u32> Visitor<'_> for Within<T, MIN, MAX> {
            type Value = Number<T, MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number, {MIN} to {MAX}")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
                Number::new(number).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
                let within = i64::try_from(number).ok().and_then(Number::new);
                within.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_i64(Within(std::marker::PhantomData))
    }
}

/// The names of a [`TtlMode`] on the command line and in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TtlPropagation {
    /// Every pushed label carries the TTL, and a pop copies it to what is beneath (RFC 3443).
    Uniform,
    /// A tunnel counts as one hop for the packets in it (RFC 3443).
    Pipe,
    /// Like the Linux kernel: uniform between label and IP, label TTLs beneath a popped one untouched.
    Linux,
}

impl From<TtlPropagation> for TtlMode {
    fn from(name: TtlPropagation) -> Self {
        match name {
            TtlPropagation::Uniform => Self::Uniform,
            TtlPropagation::Pipe => Self::Pipe,
            TtlPropagation::Linux => Self::Linux,
        }
    }
}

/// What happens to a frame whose label has no route. It is counted in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownPolicy {
    /// The slow path counts it by its label and drops it.
    #[default]
    Punt,
    /// Dropped at once.
    Drop,
    /// Left to the kernel unchanged.
    Pass,
}

impl From<UnknownPolicy> for abi::UnknownPolicy {
    fn from(policy: UnknownPolicy) -> Self {
        match policy {
            UnknownPolicy::Punt => Self::Punt,
            UnknownPolicy::Drop => Self::Drop,
            UnknownPolicy::Pass => Self::Pass,
        }
    }
}

/// `trust`, or `eth1=trust`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChecksumMode {
    /// `None`: for all interfaces without a mode of their own.
    pub iface: Option<String>,
    pub mode: Checksum,
}

impl FromStr for ChecksumMode {
    type Err = UnknownChecksum;

    fn from_str(text: &str) -> Result<Self, UnknownChecksum> {
        let (iface, mode) = match text.rsplit_once('=') {
            Some((iface, mode)) => (Some(iface.to_owned()), mode),
            None => (None, text),
        };
        let mode = mode.parse()?;
        Ok(Self { iface, mode })
    }
}

impl fmt::Display for ChecksumMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.iface {
            Some(iface) => write!(f, "{iface}={}", self.mode.name()),
            None => f.write_str(self.mode.name()),
        }
    }
}

serde_as_text!(ChecksumMode);

/// `eth1 eth2`, `eth1 eth2 one-way`: two ports that are cross-connected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortPair {
    pub from: String,
    pub to: String,
    /// Frames go from the first to the second only.
    pub one_way: bool,
}

/// Why a text is not a [`PortPair`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not two interfaces, such as `eth1 eth2` or `eth1 eth2 one-way`")]
pub struct InvalidPortPair(Box<str>);

impl FromStr for PortPair {
    type Err = InvalidPortPair;

    fn from_str(text: &str) -> Result<Self, InvalidPortPair> {
        let words: Vec<_> = text.split_whitespace().collect();
        let (from, to, one_way) = match *words {
            [from, to] => (from, to, false),
            [from, to, "one-way"] => (from, to, true),
            _ => return Err(InvalidPortPair(text.into())),
        };
        let (from, to) = (from.to_owned(), to.to_owned());
        Ok(Self { from, to, one_way })
    }
}

impl fmt::Display for PortPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_way = if self.one_way { " one-way" } else { "" };
        write!(f, "{} {}{one_way}", self.from, self.to)
    }
}

serde_as_text!(PortPair);

/// `eth1=100-199,300`: the labels that an interface accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortLabels {
    pub iface: String,
    pub accept: AcceptLabels,
}

/// Why a text is not a [`PortLabels`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidPortLabels {
    #[error("`{0}` is not IFACE=RANGES, such as eth1=100-199,300")]
    Form(Box<str>),
    #[error(transparent)]
    Ranges(#[from] InvalidLabelRanges),
}

impl FromStr for PortLabels {
    type Err = InvalidPortLabels;

    fn from_str(text: &str) -> Result<Self, InvalidPortLabels> {
        let (iface, accept) = text
            .rsplit_once('=')
            .ok_or_else(|| InvalidPortLabels::Form(text.into()))?;
        Ok(Self {
            iface: iface.to_owned(),
            accept: accept.parse()?,
        })
    }
}

impl fmt::Display for PortLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.iface, self.accept)
    }
}

serde_as_text!(PortLabels);

/// `eth1=1508`: the MPLS MTU of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortMplsMtu {
    pub iface: String,
    pub mtu: MplsMtu,
}

/// Why a text is not a [`PortMplsMtu`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidPortMplsMtu {
    #[error("`{0}` is not IFACE=BYTES, such as eth1=1508")]
    Form(Box<str>),
    #[error(transparent)]
    Mtu(#[from] InvalidMplsMtu),
}

impl FromStr for PortMplsMtu {
    type Err = InvalidPortMplsMtu;

    fn from_str(text: &str) -> Result<Self, InvalidPortMplsMtu> {
        let (iface, mtu) = text
            .rsplit_once('=')
            .ok_or_else(|| InvalidPortMplsMtu::Form(text.into()))?;
        Ok(Self {
            iface: iface.to_owned(),
            mtu: mtu.parse()?,
        })
    }
}

impl fmt::Display for PortMplsMtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.iface, self.mtu)
    }
}

serde_as_text!(PortMplsMtu);

/// `eth1=46=5,34=4`: a map between DSCPs and TCs of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortMap<M> {
    pub iface: String,
    pub map: M,
}

/// Why a text is not a [`PortMap`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidPortMap {
    #[error("`{0}` is not IFACE=MAP, such as eth1=5=46")]
    Form(Box<str>),
    #[error(transparent)]
    Map(#[from] InvalidClassMap),
}

impl<M: FromStr<Err = InvalidClassMap>> FromStr for PortMap<M> {
    type Err = InvalidPortMap;

    fn from_str(text: &str) -> Result<Self, InvalidPortMap> {
        let (iface, map) = text.split_once('=').ok_or_else(|| InvalidPortMap::Form(text.into()))?;
        Ok(Self {
            iface: iface.to_owned(),
            map: map.parse()?,
        })
    }
}

impl<M: fmt::Display> fmt::Display for PortMap<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.iface, self.map)
    }
}

impl<M: fmt::Display> Serialize for PortMap<M> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, M: FromStr<Err = InvalidClassMap>> Deserialize<'de> for PortMap<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// `kernel=5`: the preference of an owner's routes over those of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preference {
    pub source: Source,
    pub number: Number<u8, 1, 255>,
}

/// Why a text is not a [`Preference`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidPreference {
    #[error("`{0}` is not OWNER=N, such as kernel=5")]
    Form(Box<str>),
    #[error(transparent)]
    Owner(#[from] UnknownSource),
    #[error("the preference of `{owner}`: {error}")]
    Number { owner: Source, error: InvalidNumber },
}

impl FromStr for Preference {
    type Err = InvalidPreference;

    fn from_str(text: &str) -> Result<Self, InvalidPreference> {
        let form = || InvalidPreference::Form(text.into());
        let (owner, number) = text.split_once('=').ok_or_else(form)?;
        let owner = owner.parse()?;
        let number = number.parse();
        let number = number.map_err(|error| InvalidPreference::Number { owner, error })?;
        let source = owner;
        Ok(Self { source, number })
    }
}

impl fmt::Display for Preference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.source, self.number)
    }
}

serde_as_text!(Preference);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_names_an_owner_and_a_number() {
        for text in ["static=1", "fpm=255", "kernel=5"] {
            assert_eq!(text.parse::<Preference>().unwrap().to_string(), text);
        }
        for (text, reason) in [
            ("kernel", "`kernel` is not OWNER=N, such as kernel=5"),
            (
                "bgp=5",
                "`bgp` is not an owner of routes: `static`, `fpm`, `kernel` or `frr`",
            ),
            ("fpm=0", "the preference of `fpm`: it must be a number, 1 to 255"),
            ("fpm=256", "the preference of `fpm`: it must be a number, 1 to 255"),
            ("fpm=", "the preference of `fpm`: it must be a number, 1 to 255"),
        ] {
            assert_eq!(text.parse::<Preference>().unwrap_err().to_string(), reason);
        }
    }
}
