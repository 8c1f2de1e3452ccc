//! The `mplsxdp` command.

fn main() -> std::process::ExitCode {
    mplsxdp::cli::main()
}
