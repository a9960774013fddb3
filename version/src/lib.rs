//! Version, git revision and the DPDK in use, for every --version.
