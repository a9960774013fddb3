//! Finds the git revision and the DPDK version that this build belongs to.

use std::process::Command;

fn main() {
    // Only release builds follow every commit: tracking HEAD in debug builds would rebuild each binary after each one.
    let release = std::env::var("PROFILE").is_ok_and(|p| p == "release");
    let revision = if release { revision() } else { "debug-build".to_owned() };
    let dpdk = output("pkg-config", &["--modversion", "libdpdk"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PODPLANE_REVISION={revision}");
    println!("cargo::rustc-env=PODPLANE_DPDK={dpdk}");
    println!("cargo::rerun-if-changed=build.rs");
}

/// The short revision, marked when the tree differs from it; "unknown" outside a checkout (a source archive).
fn revision() -> String {
    // --git-path also answers in a worktree, where .git is a file.
    for path in ["HEAD", "logs/HEAD", "index"] {
        if let Some(file) = output("git", &["rev-parse", "--path-format=absolute", "--git-path", path]) {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    let Some(rev) = output("git", &["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    match output("git", &["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => format!("{rev}-dirty"),
        _ => rev,
    }
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok().filter(|out| out.status.success())?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
}
