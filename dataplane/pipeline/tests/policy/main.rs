//! Policy through the whole pipeline, against a slow oracle.

#[path = "../common/mod.rs"]
mod common;
mod ends;
mod model;
mod oracle;
mod random;
mod restart;
mod snapshot;
