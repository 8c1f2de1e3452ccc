#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mplsxdp::fuzz::lsp_ping(data));
