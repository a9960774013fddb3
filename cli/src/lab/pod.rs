//! Pods: what a kubelet and a runtime do for them.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::apply::{ensure_namespace, settle};
use super::args::PodAddArgs;
use super::controlplane::selector;
use super::net::{delete_netns, tool};
use super::objects::{ObjectRef, delete, get, now, patch_status, random_uid, read_file, store};
use super::state::{Lab, PodRecord};
use super::{node, probe, process};

/// Makes a pod that a manifest names, or brings a running one's metadata up to date.
pub fn apply(lab: &Lab, which: &ObjectRef, object: Value) -> Result<()> {
    // Of a running pod only what may change: its metadata, and a status given on purpose.
    if lab.pod(&which.full_name())?.is_some() { update(lab, which, object) } else { add(lab, object, None, None) }
}

/// `lab pod add`.
pub fn add_from_args(lab: &Lab, args: &PodAddArgs) -> Result<()> {
    let mut objects = match (&args.file, &args.pod) {
        (Some(file), _) => read_file(file)?,
        (None, Some(pod)) => vec![object_from_name(pod, &args.label)?],
        (None, None) => bail!("name a pod, or give a manifest with -f"),
    };
    if args.container_id.is_some() && objects.len() != 1 {
        bail!("--container-id goes with one pod, the file has {}", objects.len());
    }
    for object in objects.drain(..) {
        add(lab, object, args.node, args.container_id.clone())?;
    }
    settle(lab)
}

fn object_from_name(pod: &str, labels: &[String]) -> Result<Value> {
    let (namespace, name) = pod.split_once('/').context("a pod is named NAMESPACE/NAME")?;
    let mut map = BTreeMap::new();
    for label in labels {
        let (key, value) = label.split_once('=').with_context(|| format!("{label:?} is no label: KEY=VALUE"))?;
        map.insert(key, value);
    }
    Ok(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name, "labels": map },
        "spec": { "containers": [{ "name": "main", "image": "lab" }] },
    }))
}

/// Makes a pod: object, sandbox, plugin, commands, status.
fn add(lab: &Lab, mut object: Value, node: Option<u8>, container_id: Option<String>) -> Result<()> {
    let which = ObjectRef::of(&object)?;
    let full = which.full_name();
    if let Some(pod) = lab.pod(&full)? {
        bail!("pod {full} exists already on node {}", pod.node);
    }
    let node = node.map_or_else(|| node_of(lab, &object), Ok)?;
    let node_netns = lab.node_netns(node)?;
    if object.get("spec").is_none_or(|spec| !spec.is_object()) {
        bail!("pod {full} has no spec");
    }
    object["spec"]["nodeName"] = json!(node::name(node));
    object["status"] = json!({ "phase": "Pending" });
    selector::check_labels(&object)?;
    ensure_namespace(lab, &which.namespace)?;
    let host_network = object["spec"]["hostNetwork"].as_bool().unwrap_or(false);
    let container_id = container_id.map_or_else(|| random_uid().map(|uid| uid.replace('-', "")), Ok)?;
    // Before the plugin is called, as in a cluster: the agent waits for a pod's object to know its policy.
    let object = store(lab, object)?;
    let pod = PodRecord {
        namespace: which.namespace.clone(),
        name: which.name.clone(),
        uid: object["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
        node,
        netns: if host_network { node_netns } else { lab.netns(&format!("pod-{}", short(&container_id))) },
        container_id,
        host_network,
    };
    lab.save_pod(&pod)?;
    let started = start(lab, &pod, object);
    if started.is_err() {
        // As a kubelet does after a failed sandbox; its own failure would hide the first one.
        let _ = remove(lab, &full);
    }
    started.with_context(|| format!("starting pod {full}"))
}

/// The node that a manifest names, else the one with the fewest pods.
fn node_of(lab: &Lab, object: &Value) -> Result<u8> {
    if let Some(name) = object.pointer("/spec/nodeName").and_then(Value::as_str) {
        return lab.nodes().find(|&n| node::name(n) == name).with_context(|| format!("there is no node {name}"));
    }
    let pods = lab.pods()?;
    let load = |n: u8| pods.iter().filter(|pod| pod.node == n).count();
    lab.nodes().min_by_key(|&n| load(n)).context("the lab has no nodes")
}

/// Namespaces' names are bounded by people's patience rather than by the kernel.
fn short(container_id: &str) -> &str {
    container_id.get(..12).unwrap_or(container_id)
}

fn start(lab: &Lab, pod: &PodRecord, mut object: Value) -> Result<()> {
    let addresses = if pod.host_network {
        node::bare_addresses(pod.node).to_vec()
    } else {
        tool("ip", &["netns", "add", &pod.netns])?;
        let result = cni(lab, pod, "ADD", &port_mappings(&object))?;
        addresses_of(&result)?
    };
    start_commands(lab, pod, &object)?;
    let [host4, host6] = node::bare_addresses(pod.node);
    object["status"] = json!({
        "phase": "Running", "startTime": now(), "conditions": conditions(true),
        "hostIP": host4, "hostIPs": [{ "ip": host4 }, { "ip": host6 }],
        "podIP": addresses.first(),
        "podIPs": addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(),
    });
    probe::wait(lab, pod, &object)?;
    store(lab, object)?;
    println!("pod {} on {}: {}", pod.full_name(), node::name(pod.node), addresses.join(", "));
    Ok(())
}

fn conditions(ready: bool) -> Value {
    let condition = |kind: &str, status: bool| {
        let status = if status { "True" } else { "False" };
        json!({ "type": kind, "status": status, "lastTransitionTime": now() })
    };
    json!([
        condition("PodScheduled", true),
        condition("Initialized", true),
        condition("ContainersReady", ready),
        condition("Ready", ready),
    ])
}

/// `lab pod ready` and `unready`: what a kubelet says once a readiness probe changed its mind.
pub fn set_ready(lab: &Lab, full_name: &str, ready: bool) -> Result<()> {
    let pod = existing(lab, full_name)?;
    patch_status(lab, &reference(&pod), "conditions", conditions(ready))?;
    println!("pod {full_name} is {}", if ready { "ready" } else { "unready" });
    settle(lab)
}

/// `lab pod label`.
pub fn label(lab: &Lab, full_name: &str, words: &[String]) -> Result<()> {
    let mut object = get(lab, &reference(&existing(lab, full_name)?)).context("the pod's object is missing")?;
    if !object["metadata"]["labels"].is_object() {
        object["metadata"]["labels"] = json!({});
    }
    if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
        selector::relabel(labels, words).map_err(anyhow::Error::msg)?;
    }
    selector::check_labels(&object)?;
    store(lab, object)?;
    println!("pod {full_name} labeled");
    settle(lab)
}

/// `lab pod terminate`: somebody asked for the pod's end; it lives on until `lab pod delete`.
pub fn terminate(lab: &Lab, full_name: &str) -> Result<()> {
    let pod = existing(lab, full_name)?;
    mark_terminating(lab, &pod)?;
    println!("pod {full_name} is terminating");
    settle(lab)
}

fn mark_terminating(lab: &Lab, pod: &PodRecord) -> Result<()> {
    let Some(mut object) = get(lab, &reference(pod)) else { return Ok(()) };
    if object["metadata"].get("deletionTimestamp").is_none() {
        object["metadata"]["deletionTimestamp"] = json!(now());
        object["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        store(lab, object)?;
    }
    Ok(())
}

/// The pod of that name; an error if there is none.
pub fn existing(lab: &Lab, full_name: &str) -> Result<PodRecord> {
    lab.pod(full_name)?.with_context(|| format!("there is no pod {full_name} in lab {}", lab.name))
}

/// The containers' host ports, as a runtime passes them to a plugin that has the capability `portMappings`.
fn port_mappings(object: &Value) -> Value {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let containers = list(object.pointer("/spec/containers"));
    let ports = containers.iter().flat_map(|container| list(container.get("ports")));
    let mapping = |port: Value| {
        let host_port = port.get("hostPort").and_then(Value::as_u64).filter(|port| *port != 0)?;
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_lowercase();
        let mut mapping =
            json!({ "hostPort": host_port, "containerPort": port.get("containerPort"), "protocol": protocol });
        if let Some(ip) = port.get("hostIP").and_then(Value::as_str).filter(|ip| !ip.is_empty()) {
            mapping["hostIP"] = json!(ip);
        }
        Some(mapping)
    };
    Value::Array(ports.filter_map(mapping).collect())
}

fn start_commands(lab: &Lab, pod: &PodRecord, object: &Value) -> Result<()> {
    for container in object.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten() {
        let words = |field: &str| {
            let list = container.get(field).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(|word| word.as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        let command: Vec<String> = words("command").into_iter().chain(words("args")).collect();
        if !command.is_empty() {
            let name = container.get("name").and_then(Value::as_str).unwrap_or("main");
            process::start(lab, &format!("{}{name}", process_prefix(pod)), &pod.netns, &command)?;
        }
    }
    Ok(())
}

fn process_prefix(pod: &PodRecord) -> String {
    format!("pod-{}_{}_", pod.namespace, pod.name)
}

/// Addresses of a CNI result (specification 1.1.0, "Success").
fn addresses_of(result: &str) -> Result<Vec<String>> {
    let result: Value = serde_json::from_str(result).with_context(|| format!("the plugin's result: {result:?}"))?;
    let ips = result["ips"].as_array().context("the plugin's result has no ips")?;
    ips.iter()
        .map(|ip| {
            let address = ip["address"].as_str().context("an ip of the plugin's result has no address")?;
            Ok(address.split('/').next().unwrap_or(address).to_owned())
        })
        .collect()
}

/// Calls the plugin as a runtime does: in the node's namespace, everything in the environment and on standard input.
/// `port_mappings` is what the capability of that name brings.
fn cni(lab: &Lab, pod: &PodRecord, command: &str, port_mappings: &Value) -> Result<String> {
    let config = json!({
        "cniVersion": "1.1.0",
        "name": "podplane",
        "type": "podplane-cni",
        "agentSocket": lab.run_dir(pod.node)?.join("agent.sock"),
        "stateDir": lab.state_dir(pod.node)?,
        "runtimeConfig": { "portMappings": port_mappings },
    });
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        pod.namespace, pod.name, pod.container_id, pod.uid
    );
    let plugin = node::binary("podplane-cni")?;
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", lab.node_netns(pod.node)?))
        .arg("--")
        .arg(&plugin)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.container_id)
        .env("CNI_NETNS", format!("/run/netns/{}", pod.netns))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", args)
        .env("CNI_PATH", plugin.parent().context("the plugin has no folder")?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running nsenter (Debian: apt-get install util-linux)")?;
    let mut input = child.stdin.take().context("the plugin has no standard input")?;
    input.write_all(config.to_string().as_bytes())?;
    drop(input);
    let out = child.wait_with_output()?;
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("podplane-cni {command}: {} {}", stdout.trim(), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(stdout)
}

/// Stops a pod and removes all of it; one that is not there is no error. Services hear of its end before its processes
/// do.
pub fn remove(lab: &Lab, full_name: &str) -> Result<()> {
    let Some(pod) = lab.pod(full_name)? else { return Ok(()) };
    mark_terminating(lab, &pod)?;
    settle(lab)?;
    process::stop(lab, &process::names(lab, &process_prefix(&pod)))?;
    if !pod.host_network {
        let mappings = get(lab, &reference(&pod)).map_or_else(|| json!([]), |object| port_mappings(&object));
        cni(lab, &pod, "DEL", &mappings)?;
        delete_netns(&pod.netns)?;
    }
    delete(lab, &reference(&pod))?;
    lab.forget_pod(full_name)?;
    settle(lab)
}

/// The object of a pod.
pub fn reference(pod: &PodRecord) -> ObjectRef {
    ObjectRef { kind: "Pod".into(), namespace: pod.namespace.clone(), name: pod.name.clone() }
}

/// Replaces the metadata of a running pod, and its status where the manifest has one.
fn update(lab: &Lab, which: &ObjectRef, object: Value) -> Result<()> {
    let mut stored = get(lab, which).context("the pod's object is missing")?;
    for part in ["labels", "annotations"] {
        if let Some(value) = object.pointer(&format!("/metadata/{part}")) {
            stored["metadata"][part] = value.clone();
        }
    }
    if let Some(status) = object.get("status") {
        stored["status"] = status.clone();
    }
    selector::check_labels(&stored)?;
    store(lab, stored)?;
    println!("pod {} configured", which.full_name());
    Ok(())
}
