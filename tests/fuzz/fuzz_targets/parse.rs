//! See `podplane_packet::testing::fuzz::parse_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podplane_packet::testing::fuzz::parse_frame(data));
