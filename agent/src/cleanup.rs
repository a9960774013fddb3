//! `podplane-agent cleanup`: the node without Podplane.
//!
//! Routes, rules and reserved ports go, the uplink gets back what it had. With `--purge` the host ends of pods that still
//! run go as well, with the nftables table and what is on disk: for a node that will not see Podplane again.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::Api;
use kube::api::{Patch, PatchParams};
use podplane_config::trouble::StartTrouble;
use podplane_hostnet::{Netlink, ingress_drop, takeover};

use crate::check_api::ApiFlags;
use crate::cluster::{Cluster, explain};
use crate::{duties, publish};

/// What Podplane's taints, conditions and annotations begin with.
const OURS: &str = "podplane.io/";
/// How often it is looked whether the processes have ended.
const LOOK: Duration = Duration::from_millis(200);
/// How often a Node that others change is looked at again.
const CONFLICTS: usize = 10;
/// What the processes keep in the state folder; nothing else is removed from it.
const STATE: [&str; 5] = ["ipam.redb", "reserved-ports.json", "uplink.json.tmp", "pending-del", "checkpoint"];
/// What they leave in the run folder when they are killed.
const RUN: [&str; 2] = [publish::SOCKET, podplane_api::path::SOCKET];

/// What to remove, and when.
#[derive(Args, Clone, Debug)]
pub struct Cleanup {
    /// Directory of sockets.
    #[arg(long, default_value = "/run/podplane")]
    pub run_dir: PathBuf,
    /// Directory of what outlives the processes.
    #[arg(long, default_value = "/var/lib/podplane")]
    pub state_dir: PathBuf,
    /// Wait so long for agent and dataplane to end; without it they must have ended.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub wait: u64,
    /// Also remove pods' devices, the nftables table and what is on disk: for a node that will not see Podplane again.
    /// Pods that still run lose their network.
    #[arg(long)]
    pub purge: bool,
    /// Name of this node's Node object, to take Podplane's taints, conditions and annotations off it, where an API server
    /// is named.
    #[arg(long, env = "NODE_NAME")]
    pub node: Option<String>,
    /// How to reach it.
    #[command(flatten)]
    pub api: ApiFlags,
}

impl Cleanup {
    /// Does it, and returns what was done, for people. What is not there is no error, so it can be repeated.
    ///
    /// # Errors
    /// A process that still runs, or what could not be removed.
    pub fn run(&self) -> Result<String> {
        self.wait_for_the_end()?;
        duties::remove_all(&self.state_dir).context("cannot remove the node's routes and rules")?;
        podplane_api::enforced::clear(&self.run_dir);
        StartTrouble::clear(&self.run_dir);
        let restored = takeover::restore(&self.state_dir).context("cannot give the uplink back")?;
        let done = format!("routes and rules removed; uplink: {restored:?}");
        if !self.purge {
            return Ok(done);
        }
        let pods = remove_pods().context("cannot remove pods' devices")?;
        ingress_drop::remove_all().context("cannot remove the nftables table")?;
        remove_files(&self.state_dir, &STATE)?;
        remove_files(&self.run_dir, &RUN)?;
        Ok(format!("{done}; devices of pods removed: {pods}; files removed"))
    }

    /// Takes what is Podplane's off the Node object; `None`: no API server or no node was named.
    ///
    /// # Errors
    /// An API server that cannot be reached, or refuses.
    pub async fn leave_the_cluster(&self) -> Result<Option<String>> {
        let Some(node) = self.node.as_ref().filter(|_| self.api.is_given()) else { return Ok(None) };
        let cluster = Cluster::prepare(&self.api.options(), node).await?;
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        let wrong = |error: kube::Error| anyhow::anyhow!(explain(&cluster.url, &error));
        // Somebody else may change the taints meanwhile: then the version is another one, and we look again.
        for _ in 0..CONFLICTS {
            let Some(object) = nodes.get_opt(node).await.map_err(wrong)? else {
                return Ok(Some("no such Node".into()));
            };
            let status = serde_json::json!({"status": {"conditions": conditions_off(&object)}});
            let params = PatchParams::default();
            nodes.patch_status(node, &params, &Patch::Strategic(status)).await.map_err(wrong)?;
            let Some(patch) = marks_off(&nodes.get(node).await.map_err(wrong)?) else {
                return Ok(Some(format!("Node {node}: nothing of ours is left")));
            };
            match nodes.patch(node, &params, &Patch::Merge(patch)).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(wrong(error)),
                Ok(_) => return Ok(Some(format!("Node {node}: taints, conditions and annotations removed"))),
            }
        }
        bail!("the Node {node} is changed by others all the time: try again")
    }

    fn wait_for_the_end(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(self.wait);
        loop {
            let Some((process, socket)) = self.still_listening() else { return Ok(()) };
            if Instant::now() >= until {
                bail!(
                    "{process} still listens at {}: stop it first, or it makes again what is removed",
                    socket.display()
                );
            }
            sleep(LOOK);
        }
    }

    fn still_listening(&self) -> Option<(&'static str, PathBuf)> {
        if duties::is_listening(&self.run_dir) {
            return Some(("a dataplane", self.run_dir.join(publish::SOCKET)));
        }
        duties::is_agent_listening(&self.run_dir).then(|| ("an agent", self.run_dir.join(podplane_api::path::SOCKET)))
    }
}

/// Of a strategic merge patch: our conditions, to be deleted.
fn conditions_off(node: &Node) -> Vec<serde_json::Value> {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    let ours = |name: &str| name.starts_with(OURS) || name == "NetworkUnavailable";
    let off = |name: &str| serde_json::json!({"type": name, "$patch": "delete"});
    conditions.filter(|condition| ours(&condition.type_)).map(|condition| off(&condition.type_)).collect()
}

/// A merge patch that takes our taints and annotations off this version of the Node; `None`: there are none.
fn marks_off(node: &Node) -> Option<serde_json::Value> {
    let taints = node.spec.iter().filter_map(|spec| spec.taints.as_ref()).flatten();
    let (ours, others): (Vec<&Taint>, Vec<&Taint>) = taints.partition(|taint| taint.key.starts_with(OURS));
    let notes: serde_json::Map<_, _> = node
        .metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| key.starts_with(OURS))
        .map(|(key, _)| (key.clone(), serde_json::Value::Null))
        .collect();
    if ours.is_empty() && notes.is_empty() {
        return None;
    }
    Some(serde_json::json!({
        "metadata": {"resourceVersion": node.metadata.resource_version, "annotations": notes},
        "spec": {"taints": others},
    }))
}

/// Removes the host ends of pods, known by their alias; returns how many there were.
fn remove_pods() -> Result<usize, podplane_hostnet::Error> {
    let mut netlink = Netlink::open()?;
    let ends = netlink.links()?.into_iter().filter(|link| is_host_end(&link.name, link.alias.as_deref()));
    let indices: Vec<u32> = ends.map(|link| link.index).collect();
    for index in &indices {
        netlink.delete_link_by_index(*index)?;
    }
    Ok(indices.len())
}

/// As the plugin names and marks them: `pp` and 12 hex digits, `podplane CONTAINER IFNAME`.
fn is_host_end(name: &str, alias: Option<&str>) -> bool {
    let named =
        name.strip_prefix("pp").is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit()));
    named && alias.is_some_and(|alias| alias.starts_with("podplane "))
}

/// Removes files and folders of these names, and the folder itself if nothing else is in it. In a container it is a
/// mount point, which stays.
fn remove_files(folder: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = folder.join(name);
        let removed = match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    let _ = std::fs::remove_dir(folder);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_marked_host_ends_are_pods() {
        assert!(is_host_end("pp0123456789ab", Some("podplane c1 eth0")));
        for (name, alias) in [
            ("pp0123456789ab", None),
            ("pp0123456789ab", Some("another")),
            ("ppp0", Some("podplane c1 eth0")),
            ("podplane0", Some("podplane c1 eth0")),
        ] {
            assert!(!is_host_end(name, alias), "{name} {alias:?}");
        }
    }

    #[test]
    fn a_node_is_left_with_what_is_others() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n1", "resourceVersion": "7", "annotations": {"podplane.io/x": "1", "y": "2"}},
            "spec": {"taints": [{"key": "podplane.io/not-ready", "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "NetworkUnavailable", "status": "False"},
                {"type": "podplane.io/Ready", "status": "True"},
            ]},
        }))
        .unwrap();
        let names: Vec<_> = conditions_off(&node).into_iter().map(|condition| condition["type"].clone()).collect();
        assert_eq!(names, ["NetworkUnavailable", "podplane.io/Ready"]);
        let patch = marks_off(&node).unwrap();
        assert_eq!(
            patch["metadata"],
            serde_json::json!({"resourceVersion": "7", "annotations": {"podplane.io/x": null}})
        );
        assert_eq!(patch["spec"]["taints"], serde_json::json!([{"key": "other", "effect": "NoExecute"}]));
        assert_eq!((conditions_off(&Node::default()).len(), marks_off(&Node::default())), (0, None));
    }

    #[test]
    fn files_of_others_stay_and_so_does_their_folder() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        fs::create_dir_all(state.join("pending-del")).unwrap();
        for name in ["ipam.redb", "pending-del/1.json", "notes.txt"] {
            fs::write(state.join(name), "").unwrap();
        }
        remove_files(&state, &STATE).unwrap();
        let left: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        fs::remove_file(state.join("notes.txt")).unwrap();
        for _ in 0..2 {
            remove_files(&state, &STATE).unwrap();
            assert!(!state.exists());
        }
    }

    #[test]
    fn nothing_is_touched_while_a_process_runs() {
        let root = tempfile::tempdir().unwrap();
        let (run_dir, state_dir) = (root.path().join("run"), root.path().join("state"));
        fs::create_dir_all(&run_dir).unwrap();
        let api = ApiFlags { api_server: None, credentials: "/nowhere".into(), kubeconfig: None };
        let cleanup = Cleanup { run_dir: run_dir.clone(), state_dir, wait: 0, purge: true, node: None, api };
        for (socket, process) in [(publish::SOCKET, "a dataplane"), (podplane_api::path::SOCKET, "an agent")] {
            let listener = UnixListener::bind(run_dir.join(socket)).unwrap();
            let refused = cleanup.run().unwrap_err().to_string();
            assert!(refused.contains(process) && refused.contains(socket), "{refused}");
            drop(listener);
            assert!(cleanup.wait_for_the_end().is_ok(), "a socket that nobody listens at is no process");
        }
    }
}
