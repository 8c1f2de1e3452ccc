//! What `link set` changes of a port.

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
}

impl PortChange {
    /// Whether it changes which frames a port accepts.
    pub fn is_about_labels(&self) -> bool {
        self.mpls == Some(true) || self.accept_labels.is_some()
    }
}
