//! The measurements of whole paths, each against its peer.

pub mod change;
pub mod cni;
pub mod latency;
pub mod load;
pub mod policy;
pub mod tcp;
pub mod through;
pub mod trips;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Which of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// For arrays of both: IPv4 first.
    pub fn index(self) -> usize {
        usize::from(self == Family::V6)
    }

    /// For names of measurements.
    pub fn name(self) -> &'static str {
        ["IPv4", "IPv6"][self.index()]
    }
}

/// A lab for measuring, taken down when it goes out of scope.
#[derive(Debug)]
pub struct Lab {
    name: String,
}

impl Lab {
    /// Brings one up; `args` go to `podplane lab up`.
    pub fn up(name: &str, args: &[&str]) -> Result<Lab> {
        let lab = Lab { name: name.to_owned() };
        lab.podplane(&["down"])?;
        lab.podplane(&[&["up"], args].concat())?;
        Ok(lab)
    }

    /// `podplane lab ARGS` on this lab: what it printed.
    pub fn podplane(&self, args: &[&str]) -> Result<String> {
        let program = std::env::current_exe()?.with_file_name("podplane");
        let out = Command::new(&program)
            .args(["lab", "--name", &self.name])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", program.display()))?;
        if !out.status.success() {
            bail!("podplane lab {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Adds a pod; answers its namespace and its two addresses.
    pub fn pod(&self, name: &str, node: u8) -> Result<Pod> {
        self.podplane(&["pod", "add", name, "--node", &node.to_string()])?;
        let status: Value = serde_json::from_str(&self.podplane(&["status", "-o", "json"])?)?;
        let pods = status["pods"].as_array().context("the lab's status has no pods")?;
        let full = |p: &Value| Some(format!("{}/{}", p["namespace"].as_str()?, p["name"].as_str()?));
        let pod = pods.iter().find(|p| full(p).as_deref() == Some(name)).context("the pod is not in the status")?;
        let text = |v: &Value| v.as_str().map(str::to_owned).context("the status has an unknown form");
        Ok(Pod { netns: text(&pod["netns"])?, addresses: [text(&pod["addresses"][0])?, text(&pod["addresses"][1])?] })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.podplane(&["down"]) {
            eprintln!("taking the lab down: {error:#}");
        }
    }
}

/// A pod of a measuring lab.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: String,
    /// IPv4 and IPv6.
    pub addresses: [String; 2],
}
