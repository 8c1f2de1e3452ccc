//! `DELIVERY`: a frame to hand to the kernel.

/// The one entry of `DELIVERY`: a frame for the kernel, and the interface on which the kernel receives it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Delivery {
    /// Index of the interface in the controller's network namespace.
    pub ifindex: u32,
    /// Length of the frame in bytes.
    pub length: u32,
    /// The frame, from the destination MAC address on.
    pub frame: [u8; Delivery::ROOM],
}

impl Delivery {
    /// Room for a frame: a little more than the largest skb that the kernel allocates in one piece (`SKB_MAX_ALLOC`,
    /// about 16,000 bytes).
    pub const ROOM: usize = (1 << 14) - 2 * size_of::<u32>();
}
