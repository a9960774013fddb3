//! The plugin as a runtime calls it, for tests that call it badly or stop it half-way.

use std::io::Write;
use std::process::{Child, Output, Stdio};

use serde_json::{Value, json};

use crate::{Lab, bin_dir, succeed};

/// One sandbox on a node of a lab, without a pod object: the calls that concern it.
#[derive(Debug)]
pub struct Sandbox<'l> {
    lab: &'l Lab,
    node: u8,
    /// The namespace's name; it goes with the lab at the latest.
    pub netns: String,
    /// Variables as the runtime sets them; a test may change them.
    pub env: Vec<(&'static str, String)>,
    /// The network configuration; a test may change it.
    pub config: Value,
}

impl<'l> Sandbox<'l> {
    /// Makes an empty namespace on a node; `id` is the container's.
    #[track_caller]
    pub fn new(lab: &'l Lab, node: u8, id: &str) -> Sandbox<'l> {
        let netns = format!("{}-sandbox-{id}", lab.name());
        succeed(std::process::Command::new("ip").args(["netns", "add", &netns]));
        let run_dir = lab.node(node, "run_dir").as_str().expect("a folder").to_owned();
        let state_dir = run_dir.strip_suffix("run").expect("RUN").to_owned() + "state";
        let config = json!({
            "cniVersion": "1.1.0", "name": "podplane", "type": "podplane-cni",
            "agentSocket": format!("{run_dir}/agent.sock"), "stateDir": state_dir,
        });
        let env = vec![
            ("CNI_CONTAINERID", id.to_owned()),
            ("CNI_NETNS", format!("/run/netns/{netns}")),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", bin_dir().display().to_string()),
        ];
        Sandbox { lab, node, netns, env, config }
    }

    /// Starts a call.
    #[track_caller]
    pub fn start(&self, verb: &str) -> Child {
        let plugin = bin_dir().join("podplane-cni");
        let mut command = self.lab.node_exec(self.node, &[plugin.to_str().expect("a path")]);
        command.env("CNI_COMMAND", verb).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the plugin starts");
        // A plugin that does not read its input is a test's subject, too.
        let _ = child.stdin.take().expect("piped").write_all(self.config.to_string().as_bytes());
        child
    }

    /// Calls and waits.
    #[track_caller]
    pub fn call(&self, verb: &str) -> Output {
        self.start(verb).wait_with_output().expect("our own child")
    }

    /// A call that must end well.
    #[track_caller]
    pub fn must(&self, verb: &str) -> Value {
        let out = self.call(verb);
        assert!(out.status.success(), "{verb}: {}", crate::text(&out));
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "delete", &self.netns]).output();
    }
}

/// What attachments leave on a node: leases of the agent, host ends, chains of the ingress drop.
#[track_caller]
pub fn traces(lab: &Lab, node: u8) -> [Vec<String>; 3] {
    let status = lab.ask(node, "status");
    let leases = status["agent"]["attachments"].as_array().expect("attachments");
    let leases = leases.iter().map(|a| a["id"]["container_id"].to_string()).collect();
    let words = |command: &[&str], prefix: &str| {
        let text = succeed(&mut lab.node_exec(node, command));
        let mut words: Vec<_> = text
            .split(|c: char| c.is_whitespace() || c == '@' || c == ':')
            .filter(|word| word.starts_with(prefix))
            .map(str::to_owned)
            .collect();
        words.sort();
        words.dedup();
        words
    };
    // Not podplane0, which is the node's.
    let links = words(&["ip", "-br", "link"], "pp");
    [leases, links, words(&["nft", "list", "table", "netdev", "podplane"], "drop-pp")]
}
