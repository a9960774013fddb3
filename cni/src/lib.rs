//! The CNI plugin: wires a pod's namespace to the dataplane. CNI 1.1.0 and back to 0.3.0.
//!
//! The plugin is the only part of Podplane that enters pods' namespaces. It asks the agent what the pod gets, makes the
//! devices, tells the agent, and answers once every worker forwards for the pod. It keeps no state of its own: what a
//! killed ADD left is found again by DEL through the agent, the pod's interface, or the alias of the host end.
#![forbid(unsafe_code)]

use std::io::Read;

mod config;
mod env;
mod error;
mod host_end;
pub mod install;
mod output;
mod ports;
mod verbs;
mod wire;

pub use config::{Config, MAX_CONFIG, Version};
pub use env::{Command, Environment};
pub use error::{CniError, Code};

/// What the process writes and how it ends.
#[derive(Debug)]
pub struct Outcome {
    /// JSON for stdout; empty where the verb has no result.
    pub stdout: String,
    /// What failed, for stderr and the exit code.
    pub failure: Option<String>,
}

/// The supported versions of the specification, for people.
pub fn supported() -> String {
    Version::ALL.map(Version::as_str).join(", ")
}

/// Executes one CNI call: `var` looks the environment up, `stdin` holds the configuration.
pub fn run(var: &dyn Fn(&str) -> Option<String>, stdin: &mut dyn Read) -> Outcome {
    let (version, result) = call(var, stdin);
    match result {
        Ok(stdout) => Outcome { stdout, failure: None },
        Err(error) => Outcome { stdout: error.to_json(version), failure: Some(error.to_string()) },
    }
}

fn call(var: &dyn Fn(&str) -> Option<String>, stdin: &mut dyn Read) -> (Version, Result<String, CniError>) {
    let bytes = match config::read(stdin) {
        Ok(bytes) => bytes,
        Err(error) => return (Version::NEWEST, Err(error)),
    };
    let command = match env::command(var) {
        Ok(Command::Version) => return (Version::NEWEST, config::version_answer(&bytes)),
        other => other,
    };
    let config = match Config::parse(&bytes) {
        Ok(config) => config,
        Err(error) => return (Version::NEWEST, Err(error)),
    };
    let result = command.and_then(|command| {
        let environment = Environment::read(command, var)?;
        verbs::execute(&environment, &config)
    });
    (config.version, result)
}
