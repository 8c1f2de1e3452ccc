//! Pseudowires that carry the Ethernet frames of a port through an LSP (VPWS, RFC 4448): the names of attachment circuits,
//! and what stands between the labels and a frame.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::interface::{InvalidInterface, check_interface};

/// The longest name: an interface's, and two VLAN identifiers.
const NAME_LEN: usize = libc::IFNAMSIZ - 1 + 2 * ".4094".len();

/// The name of a port, where it has to be small.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName([u8; NAME_LEN]);

impl PortName {
    /// Before all names.
    pub(super) const FIRST: Self = Self([0; NAME_LEN]);

    /// The error says why a port cannot have this name.
    pub fn new(name: &str) -> Result<Self, InvalidInterface> {
        check_interface(name)?;
        let mut bytes = [0; NAME_LEN];
        match bytes.get_mut(..name.len()) {
            Some(start) => start.copy_from_slice(name.as_bytes()),
            None => return Err(InvalidInterface::NotAName(name.into())),
        }
        Ok(Self(bytes))
    }

    /// Takes the new name of the port, if `names` has one for its old name.
    pub fn rename(&mut self, names: &HashMap<Arc<str>, Arc<str>>) {
        let new = names.get(self.as_str()).and_then(|new| Self::new(new).ok());
        *self = new.unwrap_or(*self);
    }

    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(NAME_LEN);
        // It was made of text.
        std::str::from_utf8(&self.0[..len]).unwrap_or_default()
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// As text.
impl Serialize for PortName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for PortName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// Which VLAN tag delimits the service in the frames of a pseudowire (RFC 4448 section 4.4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ServiceTag {
    /// None: raw mode.
    #[default]
    Raw,
    /// Tagged mode. Frames get the outer tag of the port where they arrive, or VLAN 0 if that has none; it is taken off
    /// where they leave.
    Tagged,
    /// Tagged mode with this VLAN in the pseudowire, or where the frames leave.
    Vlan(u16),
}

/// What stands between the labels of a pseudowire and a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pseudowire {
    /// RFC 4448 section 4.6, RFC 8469.
    pub control_word: bool,
    /// A label for the flow beneath the pseudowire's (RFC 6391).
    pub flow_label: bool,
    pub service_tag: ServiceTag,
}

/// Raw mode with a control word, which RFC 8469 recommends.
impl Default for Pseudowire {
    fn default() -> Self {
        Self {
            control_word: true,
            flow_label: false,
            service_tag: ServiceTag::Raw,
        }
    }
}

/// The words of a line, each with a space in front.
impl fmt::Display for Pseudowire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.service_tag {
            ServiceTag::Raw => {}
            ServiceTag::Tagged => f.write_str(" tagged")?,
            ServiceTag::Vlan(vid) => write!(f, " vlan {vid}")?,
        }
        if !self.control_word {
            f.write_str(" no-cw")?;
        }
        if self.flow_label {
            f.write_str(" flow-label")?;
        }
        Ok(())
    }
}

/// `type Pseudowire`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenPseudowire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_word: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_label: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tagged: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

impl From<Pseudowire> for GivenPseudowire {
    fn from(pseudowire: Pseudowire) -> Self {
        Self {
            control_word: Some(pseudowire.control_word),
            flow_label: Some(pseudowire.flow_label),
            tagged: Some(pseudowire.service_tag != ServiceTag::Raw),
            vlan: match pseudowire.service_tag {
                ServiceTag::Vlan(vid) => Some(vid),
                ServiceTag::Raw | ServiceTag::Tagged => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_name_is_as_long_as_they_get() {
        for name in ["a", "eth1.100", "fifteen-is-fine.4094.4094", "\u{e9}th0"] {
            assert_eq!(PortName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "a b", "sixteen-is-a-lot", "fifteen-is-fine.4094.40940"] {
            assert!(PortName::new(name).is_err(), "{name}");
        }
        assert!(size_of::<crate::route::RouteKey>() <= 32);
    }
}
