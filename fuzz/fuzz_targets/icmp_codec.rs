#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mplsxdp::slowpath::fuzz::icmp_codec(data));
