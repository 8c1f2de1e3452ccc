//! What `link set` changes of a port.

use super::class_maps::{DscpMap, TcMap};
use super::label_ranges::AcceptLabels;
use super::mpls_mtu::MplsMtu;

/// `None` is left as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortChange {
    /// Whether labelled frames are accepted.
    pub mpls: Option<bool>,
    /// The labels of those frames.
    pub accept_labels: Option<AcceptLabels>,
    pub mpls_mtu: Option<MplsMtu>,
    pub dscp_map: Option<DscpMap>,
    pub tc_map: Option<TcMap>,
}

impl PortChange {
    /// Whether it changes which frames a port accepts, or what it does with them.
    pub fn is_about_labels(&self) -> bool {
        self.mpls == Some(true) || self.accept_labels.is_some() || self.dscp_map.is_some() || self.tc_map.is_some()
    }
}
