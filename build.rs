//! The final binary needs nothing of its own: libdpdk's link arguments come from dpdk-sys, the git revision and DPDK's
//! version from podplane-version.

fn main() {
    // Else any change in the workspace, whose root is this package, would build it again.
    println!("cargo::rerun-if-changed=build.rs");
}
