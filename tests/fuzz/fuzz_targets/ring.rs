//! See `podplane_fuzzing::ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podplane_fuzzing::ring(data));
