//! The reference runtime, `cnitool` of the CNI project, with each version of the specification, alone and in a chain.
//!
//! Debian 12 has no package of it: it is taken from `PATH`, or built by Go where that is installed. Where neither is
//! there these tests are skipped and say so. The same holds for `tuning`, the chain's second plugin, which Debian has in
//! `containernetworking-plugins`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use podplane_tests::cni::{Sandbox, traces};
use podplane_tests::{Lab, bin_dir, succeed, text};
use serde_json::{Value, json};

const CNITOOL: (&str, &str) = ("cnitool", "github.com/containernetworking/cni/cnitool@v1.3.0");
const TUNING: (&str, &str) = ("tuning", "github.com/containernetworking/plugins/plugins/meta/tuning@v1.9.1");

/// Tells people, not the test harness, which would swallow it.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// A foreign program: installed, or built into the tests' folder.
fn program((name, module): (&str, &str)) -> Result<PathBuf, String> {
    let built = bin_dir().join("go");
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from));
    if let Some(found) = folders.chain([built.clone()]).map(|dir| dir.join(name)).find(|file| file.is_file()) {
        return Ok(found);
    }
    let go = ["go", "/usr/local/go/bin/go"].into_iter().find(|go| Command::new(go).arg("version").output().is_ok());
    let go =
        go.ok_or_else(|| format!("there is no {name} in PATH, and no Go to build it with: go install {module}"))?;
    let out = Command::new(go).args(["install", module]).env("GOBIN", &built).env("CGO_ENABLED", "0").output();
    let out = out.map_err(|e| e.to_string())?;
    match out.status.success() {
        true => Ok(built.join(name)),
        false => Err(format!("go install {module} failed: {}", text(&out).trim())),
    }
}

/// `cnitool` on a node of a lab.
struct Tool<'l> {
    lab: &'l Lab,
    program: PathBuf,
    /// Its configurations, and where it finds plugins.
    net_dir: PathBuf,
    cni_path: String,
    /// The plugin's own keys, and the namespace that it works on.
    sandbox: Sandbox<'l>,
}

impl<'l> Tool<'l> {
    fn new(lab: &'l Lab, program: PathBuf, plugins: &[&Path]) -> Tool<'l> {
        let net_dir = std::env::temp_dir().join(lab.name());
        std::fs::create_dir_all(&net_dir).expect("a folder");
        let folders = [bin_dir()].into_iter().chain(plugins.iter().map(|p| p.parent().expect("a folder").to_owned()));
        let cni_path = std::env::join_paths(folders).expect("paths").into_string().expect("text");
        Tool { lab, program, net_dir, cni_path, sandbox: Sandbox::new(lab, 1, "cnitool") }
    }

    /// Writes the network configuration: our plugin, then `more`.
    fn configure(&self, version: &str, more: &[Value]) {
        let mut ours = self.sandbox.config.clone();
        let keys = ours.as_object_mut().expect("an object");
        keys.retain(|key, _| !matches!(key.as_str(), "cniVersion" | "name"));
        let plugins = [&[ours], more].concat();
        let list = json!({ "cniVersion": version, "name": self.lab.name(), "plugins": plugins });
        std::fs::write(self.net_dir.join("10-podplane.conflist"), list.to_string()).expect("writable");
    }

    fn call(&self, verb: &str) -> Output {
        let netns = format!("/run/netns/{}", self.sandbox.netns);
        let program = self.program.to_str().expect("a path");
        let mut command = self.lab.node_exec(1, &[program, verb, self.lab.name(), &netns]);
        command.env("NETCONFPATH", &self.net_dir).env("CNI_PATH", &self.cni_path).env("CNI_IFNAME", "eth0");
        command.output().expect("cnitool starts")
    }

    #[track_caller]
    fn must(&self, verb: &str) -> Value {
        let out = self.call(verb);
        assert!(out.status.success(), "cnitool {verb}: {}", text(&out));
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    fn in_pod(&self, command: &[&str]) -> String {
        succeed(Command::new("ip").args(["netns", "exec", &self.sandbox.netns]).args(command))
    }
}

impl Drop for Tool<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.net_dir);
    }
}

/// ADD, traffic, CHECK where the version has it, DEL twice: nothing is left.
fn life(tool: &Tool<'_>, version: &str, peer: &[String; 2], chained: bool) {
    let before = traces(tool.lab, 1);
    let result = tool.must("add");
    assert_eq!(result["cniVersion"], version, "{result}");
    assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
    for address in peer {
        tool.in_pod(&["ping", "-c", "1", "-W", "20", address]);
    }
    if chained {
        assert_eq!(tool.in_pod(&["cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter"]).trim(), "1", "the chain went on");
    }
    if version != "0.3.1" {
        tool.must("check");
    }
    if version == "1.1.0" {
        tool.must("status");
    }
    tool.must("del");
    assert_eq!(traces(tool.lab, 1), before, "leases, host ends, chains after DEL, version {version}");
    tool.must("del");
    assert!(!tool.in_pod(&["ip", "-br", "link"]).contains("eth0"));
}

/// The versions that a plugin says it supports.
fn versions_of(plugin: &Path) -> Vec<String> {
    let mut command = Command::new(plugin);
    command.env("CNI_COMMAND", "VERSION").stdin(std::fs::File::open("/dev/null").expect("/dev/null"));
    let answer: Value = serde_json::from_slice(&command.output().expect("it starts").stdout).unwrap_or_default();
    let versions = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
    versions.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

#[test]
fn the_reference_runtime_drives_the_plugin() {
    let cnitool = match program(CNITOOL) {
        Ok(cnitool) => cnitool,
        Err(reason) => return say(&format!("SKIPPED: the test of the plugin with cnitool: {reason}")),
    };
    let tuning = program(TUNING).map_err(|reason| say(&format!("SKIPPED: the plugin in a chain: {reason}"))).ok();
    let lab = Lab::up("t-cnitool", &["--nodes", "1"]);
    let peer = lab.pod("default/peer", 1);
    let tool = Tool::new(&lab, cnitool, &tuning.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        tool.configure(version, &[]);
        life(&tool, version, &peer, false);
    }
    let supported = tuning.map(|tuning| versions_of(&tuning)).unwrap_or_default();
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        if supported.iter().any(|s| s == version) {
            tool.configure(version, &[json!({"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}})]);
            life(&tool, version, &peer, true);
        } else if !supported.is_empty() {
            say(&format!("SKIPPED: the chain with version {version}, which the installed tuning does not have"));
        }
    }
    // `cnitool gc` removes what it knows of itself, then asks for GC without saying what is valid: taken at its word, that
    // would cut off every pod of the node.
    tool.configure("1.1.0", &[]);
    tool.must("add");
    let out = tool.call("gc");
    assert!(!out.status.success() && text(&out).contains("cni.dev/valid-attachments"), "{}", text(&out));
    for address in &peer {
        succeed(&mut lab.node_exec(1, &["ping", "-c", "1", "-W", "20", address]));
    }
    let [leases, ..] = traces(&lab, 1);
    assert_eq!(leases.len(), 1, "the pod that cnitool did not add stays, its own went: {leases:?}");
}
