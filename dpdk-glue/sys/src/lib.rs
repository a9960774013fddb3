//! Raw bindings to the distribution's libdpdk (22.11 or newer), with a C shim for its inline functions.
//!
//! Generated at build time from the installed headers, so the items are documented by DPDK itself
//! (<https://doc.dpdk.org/api/>). What starts with `shim_` or `SHIM_` comes from `shim/shim.h`. Only `dpdk-glue`
//! should use this crate.

// The generated code follows C's names and repeats C's undocumented items.
#[allow(
    unsafe_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;
