//! Podplane's dataplane process.
