//! Finds libdpdk with pkg-config, generates the bindings with bindgen and compiles the C shim.

use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// The oldest DPDK whose sources these bindings are written for.
const MIN_VERSION: &str = "22.11";

fn main() {
    for file in ["build.rs", "shim/shim.h", "shim/shim.c"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=PODPLANE_MARCH");
    println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");

    link();
    let flags = cflags();
    bindings(&flags, &PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")));
    shim(&flags);
}

/// Checks the version and prints the link lines. The linker drops the libraries that nothing refers to.
fn link() {
    let found = pkg_config::Config::new().atleast_version(MIN_VERSION).cargo_metadata(false).probe("libdpdk");
    let library = match found {
        Ok(library) => library,
        Err(pkg_config::Error::Command { cause, .. }) => fail(&format!(
            "pkg-config cannot be run ({cause}).\nInstall it: apt-get install pkg-config libdpdk-dev libclang-dev"
        )),
        Err(error) => fail(&format!(
            "libdpdk {MIN_VERSION} or newer was not found: {error}\n\
             Install it: apt-get install libdpdk-dev libclang-dev pkg-config\n\
             (a DPDK of your own: set PKG_CONFIG_PATH to the folder with its libdpdk.pc)"
        )),
    };
    for path in &library.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for name in library.libs.iter().filter(|name| name.starts_with("rte_")) {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
}

/// The compiler flags of libdpdk.pc. The pkg-config crate drops `-include rte_config.h`, so they are asked for raw;
/// every `-m` is replaced, for the distribution's baseline is not understood by each compiler that reads the headers.
fn cflags() -> Vec<String> {
    let out = Command::new("pkg-config").args(["--cflags", "libdpdk"]).output();
    let text = match out {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).into_owned(),
        _ => fail("pkg-config --cflags libdpdk failed.\nReinstall it: apt-get install --reinstall libdpdk-dev"),
    };
    let mut flags: Vec<String> = text.split_whitespace().filter(|f| !f.starts_with("-m")).map(str::to_owned).collect();
    flags.push(format!("-march={}", march()));
    flags.extend(["-D_GNU_SOURCE", "-DALLOW_EXPERIMENTAL_API"].map(str::to_owned));
    flags
}

/// The instruction set of the shim: DPDK's own minimum, so that a binary runs on every machine that DPDK supports.
fn march() -> String {
    std::env::var("PODPLANE_MARCH").unwrap_or_else(|_| {
        match std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
            Ok("aarch64") => "armv8-a+crc",
            _ => "corei7",
        }
        .to_owned()
    })
}

fn bindings(flags: &[String], out: &Path) {
    // bindgen loads libclang at run time and panics without a hint when there is none.
    let result = std::panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header("shim/shim.h")
            .clang_args(flags)
            .allowlist_function("(rte|shim)_.*")
            .allowlist_type("(rte|shim)_.*")
            .allowlist_var("(rte|RTE|shim|SHIM)_.*")
            .blocklist_item("rte_atomic.*")
            // Packed structures that hold aligned ones, which Rust refuses (E0588).
            .opaque_type("rte_(arp|gtp|l2tpv2|ecpri|ib)_.*")
            .default_enum_style(bindgen::EnumVariation::ModuleConsts)
            .prepend_enum_name(false)
            .generate_comments(false)
            .layout_tests(false)
            .derive_debug(false)
            .generate()
    });
    let bindings = match result {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => fail(&format!("the DPDK headers do not parse: {error}\nCheck that libdpdk-dev is complete.")),
        Err(_) => fail("libclang could not be used.\nInstall it: apt-get install libclang-dev (or set LIBCLANG_PATH)"),
    };
    bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR can be written");
}

fn shim(flags: &[String]) {
    let mut build = cc::Build::new();
    build.file("shim/shim.c").warnings(false).opt_level(3);
    for flag in flags {
        build.flag(flag);
    }
    if let Err(error) = build.try_compile("podplane_dpdk_shim") {
        fail(&format!("the C shim does not compile: {error}\nInstall a compiler: apt-get install gcc libc6-dev"));
    }
}

/// Ends the build with a message that cargo shows as an error of this crate.
fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    eprintln!("{message}");
    exit(1)
}
