//! Ports: what can become one, what a name stands for, and the interfaces that are ports.

pub mod adoption;
pub mod attach;
mod attachments;
pub mod cross_connect;
pub mod error;
mod inventory;
pub mod leftovers;
pub mod local;
pub mod local_routes;
pub mod mpls_mtu;
pub mod preflight;
pub mod programs;
pub mod sub_interface;
pub mod waiting;
mod ways_out;

pub use attach::check;
pub use error::PortError;
pub use inventory::{Plan, Port, Ports, Role, SubInterfacePlan, Wish};
