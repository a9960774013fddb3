//! See `podplane_fuzzing::pipeline`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podplane_fuzzing::pipeline(data));
