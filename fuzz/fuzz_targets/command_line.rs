#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mplsxdp::fuzz::command_line(data));
