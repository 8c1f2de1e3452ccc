//! Next hops: from an address to an interface and a MAC.
