//! What a lab remembers between two commands: one folder under `/run/podplane-lab`.
//!
//! Everything is on disk before it is made, so that `down` finds what a killed command left.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::args::{Underlay, Uplink};

/// Where labs live. On a tmpfs: nothing survives a reboot, and neither do the namespaces.
const ROOT: &str = "/run/podplane-lab";

/// What `up` was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shape {
    pub nodes: u8,
    pub uplink: Uplink,
    pub workers: u8,
    pub mtu: u16,
    pub underlay: Underlay,
    pub memory: u32,
    pub no_huge: bool,
    pub busy_poll: bool,
    pub zones: Vec<String>,
    pub agent_args: Vec<String>,
    pub dataplane_args: Vec<String>,
}

/// A lab's folder, locked: two commands on one lab wait for each other.
#[derive(Debug)]
pub struct Lab {
    pub name: String,
    pub dir: PathBuf,
    pub shape: Shape,
    _lock: Flock<File>,
}

/// A pod as the lab made it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodRecord {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: u8,
    pub container_id: String,
    /// Network namespace; the node's own for a pod on the host network.
    pub netns: String,
    pub host_network: bool,
}

impl PodRecord {
    /// "namespace/name".
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn lock(dir: &Path) -> Result<Flock<File>> {
    let file = File::create(dir.join("lock")).with_context(|| format!("locking the lab in {}", dir.display()))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e).context("waiting for the lab's lock")
}

impl Lab {
    /// The folder that a lab of that name would have; an error if there is one.
    pub fn is_new(name: &str) -> Result<PathBuf> {
        let dir = Path::new(ROOT).join(name);
        if dir.exists() {
            bail!(
                "there is a lab named {name} already: take it down with `podplane lab --name {name} down`, or choose \
                 another --name"
            );
        }
        Ok(dir)
    }

    /// A new lab's folder; an error if there is one of that name.
    pub fn create(name: &str, shape: Shape) -> Result<Lab> {
        let dir = Lab::is_new(name)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("creating {} (the lab needs root: it makes network namespaces)", dir.display()))?;
        let lab = Lab { name: name.to_owned(), _lock: lock(&dir)?, dir, shape };
        for folder in ["manifests", "pods", "processes", "logs"] {
            fs::create_dir(lab.dir.join(folder))?;
        }
        write(&lab.dir.join("lab.json"), &lab.shape)?;
        Ok(lab)
    }

    /// The lab of that name.
    pub fn open(name: &str) -> Result<Lab> {
        let dir = Path::new(ROOT).join(name);
        let shape = dir.join("lab.json");
        if !shape.exists() {
            bail!("there is no lab named {name}: `podplane lab up --name {name}` makes one");
        }
        let lock = lock(&dir)?;
        Ok(Lab { name: name.to_owned(), _lock: lock, shape: read(&shape)?, dir })
    }

    /// The lab of that name, also one whose `up` was killed before it had written anything.
    pub fn open_rest(name: &str) -> Result<Option<Lab>> {
        let dir = Path::new(ROOT).join(name);
        if !dir.exists() {
            return Ok(None);
        }
        let lock = lock(&dir)?;
        let shape = read(&dir.join("lab.json")).unwrap_or(Shape {
            nodes: 9,
            uplink: Uplink::Iface,
            workers: 1,
            mtu: 1500,
            underlay: Underlay::Ipv4,
            memory: 0,
            no_huge: true,
            busy_poll: false,
            zones: Vec::new(),
            agent_args: Vec::new(),
            dataplane_args: Vec::new(),
        });
        Ok(Some(Lab { name: name.to_owned(), _lock: lock, shape, dir }))
    }

    /// Numbers of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.shape.nodes
    }

    /// The network namespace of a part: `fabric`, `outside`, `node1`, …
    pub fn netns(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }

    /// The network namespace of a node; an error if there is no such node.
    pub fn node_netns(&self, node: u8) -> Result<String> {
        if !(1..=self.shape.nodes).contains(&node) {
            bail!("there is no node {node}: this lab has nodes 1 to {}", self.shape.nodes);
        }
        Ok(self.netns(&format!("node{node}")))
    }

    /// A node's folder for sockets, made if absent.
    pub fn run_dir(&self, node: u8) -> Result<PathBuf> {
        self.node_dir(node, "run")
    }

    /// A node's folder for what survives its processes, made if absent.
    pub fn state_dir(&self, node: u8) -> Result<PathBuf> {
        self.node_dir(node, "state")
    }

    fn node_dir(&self, node: u8, part: &str) -> Result<PathBuf> {
        let dir = self.dir.join(format!("node{node}")).join(part);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// The folder that the agents watch.
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// The log file of a process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{process}.log"))
    }

    fn pod_file(&self, full_name: &str) -> PathBuf {
        self.dir.join("pods").join(format!("{}.json", full_name.replace('/', "_")))
    }

    /// Remembers a pod.
    pub fn save_pod(&self, pod: &PodRecord) -> Result<()> {
        write(&self.pod_file(&pod.full_name()), pod)
    }

    /// Forgets a pod.
    pub fn forget_pod(&self, full_name: &str) -> Result<()> {
        remove(&self.pod_file(full_name))
    }

    /// The pod of that name, if there is one.
    pub fn pod(&self, full_name: &str) -> Result<Option<PodRecord>> {
        let file = self.pod_file(full_name);
        if file.exists() { Ok(Some(read(&file)?)) } else { Ok(None) }
    }

    /// All pods by name.
    pub fn pods(&self) -> Result<Vec<PodRecord>> {
        let mut pods = Vec::new();
        for entry in fs::read_dir(self.dir.join("pods")).into_iter().flatten() {
            pods.push(read::<PodRecord>(&entry?.path())?);
        }
        pods.sort_by_key(PodRecord::full_name);
        Ok(pods)
    }

    /// Removes the lab's folder.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))?;
        // The last lab leaves no trace; others keep the folder.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }
}

/// Reads a JSON file.
pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

/// Writes a JSON file so that a reader sees the old one or the new one, never half of it.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    // The leading dot keeps a watcher of the folder from reading it.
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("object");
    let tmp = path.with_file_name(format!(".{name}.tmp"));
    let mut file = File::create(&tmp).with_context(doing)?;
    serde_json::to_writer_pretty(&mut file, value).with_context(doing)?;
    file.write_all(b"\n").with_context(doing)?;
    fs::rename(&tmp, path).with_context(doing)
}

/// Removes a file; one that is not there is no error.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
