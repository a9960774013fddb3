//! See `podplane_fuzzing::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podplane_fuzzing::config(data));
