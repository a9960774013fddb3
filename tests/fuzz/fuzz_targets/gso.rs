//! See `podplane_packet::testing::fuzz::gso`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podplane_packet::testing::fuzz::gso(data));
