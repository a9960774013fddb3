//! Version, git revision and the DPDK in use: what every `--version` prints.
#![forbid(unsafe_code)]

/// The version of this workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The git revision of a release build (`-dirty` where the tree differed), else `debug-build`.
pub const REVISION: &str = env!("PODPLANE_REVISION");

/// The DPDK that was found when this was built. The dataplane reports the one that it runs with beside it.
pub const DPDK: &str = env!("PODPLANE_DPDK");

/// One line for `--version`, without the program's name: `0.1.0 (git 0123456789ab, DPDK 22.11.11)`.
pub const fn line() -> &'static str {
    concat!(env!("CARGO_PKG_VERSION"), " (git ", env!("PODPLANE_REVISION"), ", DPDK ", env!("PODPLANE_DPDK"), ")")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_line_names_all_three() {
        let line = super::line();
        assert!(line.contains(super::VERSION) && line.contains(super::REVISION) && line.contains(super::DPDK));
    }
}
