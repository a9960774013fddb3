//! `podplane-cni`: executed by the container runtime with `CNI_*` in the environment and the configuration on stdin.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use podplane_cni::install::{InstallError, Places};

const USAGE: &str =
    "podplane-cni is a CNI plugin: a container runtime executes it, with CNI_COMMAND and its companions in \
the environment and the network configuration on stdin.
`podplane-cni install` puts it and its configuration into /opt/cni/bin and /etc/cni/net.d (--bin-dir, --conf-dir, --conf-name, \
--agent-socket, --state-dir), `podplane-cni uninstall` takes them away.
To try it by hand use cnitool, or `podplane lab`. A configuration looks like this:
  {\"cniVersion\": \"1.1.0\", \"name\": \"podplane\", \"plugins\": [{\"type\": \"podplane-cni\"}]}";

fn main() -> ExitCode {
    if std::env::args().skip(1).any(|argument| argument == "--version" || argument == "-V") {
        println!("podplane-cni {}", podplane_version::line());
        return ExitCode::SUCCESS;
    }
    let mut words = std::env::args().skip(1);
    if let Some(verb @ ("install" | "uninstall")) = words.next().as_deref() {
        return match set_up(verb, words) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("podplane-cni {verb}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if std::env::var_os("CNI_COMMAND").is_none() {
        eprintln!("{USAGE}\nCNI versions: {}\npodplane-cni {}", podplane_cni::supported(), podplane_version::line());
        return ExitCode::FAILURE;
    }
    let outcome = podplane_cni::run(&|name| std::env::var(name).ok(), &mut io::stdin().lock());
    // The answer is written at once; a runtime that closed the pipe gets the exit code at least.
    let written = io::stdout().write_all(outcome.stdout.as_bytes()).and_then(|()| io::stdout().flush());
    if let Some(message) = &outcome.failure {
        eprintln!("podplane-cni: {message}");
    }
    if outcome.failure.is_none() && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn set_up(verb: &str, words: impl Iterator<Item = String>) -> Result<(), InstallError> {
    let places = Places::from_words(words)?;
    if verb == "uninstall" {
        return places.uninstall();
    }
    for warning in places.install(Path::new("/proc/self/exe"))? {
        eprintln!("podplane-cni install: {warning}");
    }
    println!("installed {} and {}", places.bin_dir.display(), places.conf_dir.join(&places.conf_name).display());
    Ok(())
}
