//! Compiles the programs of the measuring rig, to be embedded.

#[path = "../mplsxdp/build/embed.rs"]
mod embed;
#[path = "../mplsxdp/build/toolchain.rs"]
mod toolchain;

fn main() {
    embed::embed("rig");
}
