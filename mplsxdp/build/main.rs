//! Compiles the XDP program, so that it can be embedded.

mod embed;
mod toolchain;

fn main() {
    embed::embed("mplsxdp");
}
