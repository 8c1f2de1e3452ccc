//! The tables of the data plane: in memory, or in the kernel.

pub mod preflight;
