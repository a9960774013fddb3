//! See `podplane_fuzzing::cni`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podplane_fuzzing::cni(data));
