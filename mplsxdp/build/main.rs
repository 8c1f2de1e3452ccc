//! Compiles the XDP programs, so that they can be embedded.

mod embed;
mod toolchain;

fn main() {
    embed::embed("mplsxdp");
    embed::embed("capture");
}
