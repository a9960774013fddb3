//! See `podplane_fuzzing::reassembly`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podplane_fuzzing::reassembly(data));
