//! Compiles the programs of the test rig, so that they can be embedded.

#[path = "../mplsxdp/build/embed.rs"]
mod embed;
#[path = "../mplsxdp/build/toolchain.rs"]
mod toolchain;

fn main() {
    embed::embed("rig");
}
