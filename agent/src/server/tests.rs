//! The whole agent over its socket, with a dataplane in memory.

mod cluster;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use podplane_api::{AgentClient, AttachmentId, ChoiceStatus, ClientError, PodRef, PortMapping, Protocol, pending};
use podplane_index::{Family, Settings};
use tokio::sync::oneshot;

use super::*;
use crate::host::HostLinks;
use crate::run::{Options, agent};
use crate::source::SourceOptions;
use crate::testing::Dataplane;

const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [10.0.1.0/24, \"fd00:1::/64\"]}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n";

#[derive(Default)]
struct Links(Mutex<BTreeSet<String>>);

impl HostLinks for Links {
    fn exists(&self, ifname: &str) -> podplane_hostnet::Result<bool> {
        Ok(self.0.lock().unwrap().contains(ifname))
    }

    fn remove(&self, ifname: &str) -> podplane_hostnet::Result<()> {
        self.0.lock().unwrap().remove(ifname);
        Ok(())
    }
}

/// A node's directories; agents and dataplanes come and go.
struct Node {
    dir: tempfile::TempDir,
    links: Arc<Links>,
}

struct Agent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.thread.take().unwrap().join());
    }
}

impl Node {
    fn new() -> Node {
        let node = Node { dir: tempfile::tempdir().unwrap(), links: Arc::default() };
        for name in ["objects", "run", "state", "netns"] {
            fs::create_dir(node.path(name)).unwrap();
        }
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n";
        fs::write(node.path("objects/namespace.yaml"), namespace).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn with_object() -> Node {
        let node = Node::new();
        node.write(NODE);
        node
    }

    fn write(&self, text: &str) {
        self.write_to("node.yaml", text);
    }

    fn write_to(&self, file: &str, text: &str) {
        fs::write(self.path("draft"), text).unwrap();
        fs::rename(self.path("draft"), self.path("objects").join(file)).unwrap();
    }

    /// The object of the pod that `add` is for.
    fn write_pod(&self, container: &str, uid: &str) {
        let text =
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {container}, uid: {uid}, labels: {{app: a}}}}\n");
        self.write_to(&format!("pod-{container}.yaml"), &text);
    }

    fn agent(&self) -> Agent {
        self.agent_of(SourceOptions::Folder(self.path("objects")))
    }

    fn agent_of(&self, source: SourceOptions) -> Agent {
        let options = Options {
            settings: Settings::new("n1", Family::Ipv4, 100),
            source,
            run_dir: self.path("run"),
            state_dir: self.path("state"),
            cool_down: Duration::from_secs(60),
            duties: false,
            probes: Default::default(),
        };
        let links = self.links.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, running) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let stop = async move { drop(stopped.await) };
            runtime.block_on(agent(options, links, move || started.send(()).unwrap(), stop)).unwrap();
            runtime.shutdown_timeout(Duration::from_millis(50));
        });
        running.recv_timeout(Duration::from_secs(60)).unwrap();
        Agent { stop: Some(stop), thread: Some(thread) }
    }

    fn dataplane(&self) -> Dataplane {
        Dataplane::start(&self.path("run"), 1500)
    }

    fn client(&self) -> AgentClient {
        AgentClient::new(self.path("run").join(path::SOCKET)).with_timeout(Duration::from_secs(60))
    }

    /// A client of an agent that can add pods.
    fn ready_client(&self) -> AgentClient {
        let client = self.client();
        until("ready", || client.status().is_ok_and(|status| status.ready));
        client
    }

    fn add(&self, container: &str) -> AddRequest {
        self.write_pod(container, "u");
        self.add_unknown(container)
    }

    /// The same without an object of the pod.
    fn add_unknown(&self, container: &str) -> AddRequest {
        let netns = self.path("netns").join(container);
        fs::write(&netns, "").unwrap();
        AddRequest {
            attachment: id(container),
            netns: netns.display().to_string(),
            pod: Some(PodRef { namespace: "default".into(), name: container.into(), uid: "u".into() }),
            host_ports: Vec::new(),
        }
    }

    fn pod(&self, client: &AgentClient, container: &str) -> podplane_api::AddReply {
        let reply = client.add(&self.add(container)).unwrap();
        self.links.0.lock().unwrap().insert(reply.host_ifname.clone());
        client.ready(&ReadyRequest { attachment: id(container) }).unwrap();
        reply
    }
}

fn id(container: &str) -> AttachmentId {
    AttachmentId { container_id: container.into(), ifname: "eth0".into() }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> (u16, bool, String) {
    match outcome.unwrap_err() {
        ClientError::Api { status, error } => (status, error.retry, error.message),
        other => panic!("{other}"),
    }
}

#[test]
fn a_pod_comes_and_goes() {
    let node = Node::with_object();
    let (dataplane, _agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    let request = node.add("c1");
    let reply = client.add(&request).unwrap();
    assert_eq!(reply.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.1.2", "fd00:1::2"]);
    assert_eq!(reply.gateways.iter().map(ToString::to_string).collect::<Vec<_>>(), ["169.254.1.1", "fe80::1"]);
    assert_eq!((reply.mtu, reply.gateway_mac.as_str()), (1450, "02:50:50:00:00:01"));
    assert_eq!(client.add(&request).unwrap(), reply);
    assert_eq!(refusal(client.check(&CheckRequest { attachment: id("c1") })).0, 404);
    client.ready(&ReadyRequest { attachment: id("c1") }).unwrap();
    {
        let seen = dataplane.lock();
        let endpoint = &seen.state.endpoints["c1/eth0"];
        assert_eq!((endpoint.pod.as_str(), endpoint.mac.to_string()), ("default/c1", reply.mac.clone()));
    }
    assert_eq!(client.check(&CheckRequest { attachment: id("c1") }).unwrap(), reply);
    let status = client.status().unwrap();
    assert!(status.ready && status.conditions.is_empty() && status.dataplane_connected, "{status:?}");
    assert_eq!((status.attachments.len(), status.addresses[0].used, status.addresses[0].size), (1, 1, 253));
    assert!(status.attachments[0].ready && status.generation.sent == status.generation.applied);

    let delete = DelRequest { attachment: id("c1") };
    assert_eq!(client.del(&delete).unwrap().host_ifnames, [reply.host_ifname]);
    assert!(dataplane.lock().state.endpoints.is_empty());
    assert_eq!(client.del(&delete).unwrap().host_ifnames, [""; 0]);
    assert_eq!(refusal(client.check(&CheckRequest { attachment: id("c1") })).0, 404);
    // Not the same address again so soon.
    assert_eq!(client.add(&node.add("c2")).unwrap().addresses[0].to_string(), "10.0.1.3");
}

#[test]
fn add_names_what_is_missing() {
    let node = Node::new();
    let _agent = node.agent();
    let client = node.client();
    let (status, retry, why) = refusal(client.add(&node.add("c1")));
    assert!(status == 503 && retry && why.contains("no Node object \"n1\""), "{why}");
    node.write(&NODE.replace("podCIDRs", "other"));
    until("the Node", || refusal(client.cni_status()).2.contains("no spec.podCIDRs yet"));
    assert!(refusal(client.add(&node.add("c1"))).2.contains("no spec.podCIDRs yet"));
    node.write(NODE);
    until("the range", || refusal(client.cni_status()).2.contains("dataplane is not connected"));
    let (status, retry, why) = refusal(client.add(&node.add("c1")));
    assert!(
        status == 503 && retry && why.contains("MTU is not known") && why.contains("dataplane.sock")
            || why.contains("connecting"),
        "{why}"
    );
    let _dataplane = node.dataplane();
    node.ready_client().add(&node.add("c1")).unwrap();
}

#[test]
fn a_pod_that_cannot_be_connected_is_refused_with_the_reason() {
    let node = Node::with_object();
    let (dataplane, _agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    assert_eq!(refusal(client.ready(&ReadyRequest { attachment: id("c1") })).0, 404);
    client.add(&node.add("c1")).unwrap();
    dataplane.lock().fails.insert("c1/eth0".into(), "no interface pp1".into());
    let (status, _, why) = refusal(client.ready(&ReadyRequest { attachment: id("c1") }));
    assert!(status == 500 && why.contains("no interface pp1"), "{why}");
    until("the endpoint is withdrawn", || dataplane.lock().state.endpoints.is_empty());
    dataplane.lock().fails.clear();
    client.ready(&ReadyRequest { attachment: id("c1") }).unwrap();
}

#[test]
fn a_pod_is_connected_when_its_own_object_is_known() {
    let node = Node::with_object();
    let (dataplane, _agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    node.write_pod("c1", "another-uid");
    client.add(&node.add_unknown("c1")).unwrap();
    let connecting = {
        let client = client.clone();
        std::thread::spawn(move || client.ready(&ReadyRequest { attachment: id("c1") }))
    };
    let waits = || client.policies().unwrap().pods.first().is_some_and(|pod| pod.trouble.is_some());
    until("it waits for the pod's object", waits);
    assert!(dataplane.lock().state.endpoints.is_empty() && !connecting.is_finished());
    let deny =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny}\nspec: {podSelector: {}}\n";
    node.write_to("policy.yaml", deny);
    node.write_pod("c1", "u");
    connecting.join().unwrap().unwrap();
    until("its policy is in force", || {
        let seen = dataplane.lock();
        seen.state.endpoints.get("c1/eth0").is_some_and(|endpoint| endpoint.policy.ingress.is_some())
    });
    let status = client.policies().unwrap();
    assert_eq!((status.policies.len(), status.policies[0].selects, &*status.policies[0].tier), (1, 1, "NetworkPolicy"));
    let ingress = status.pods[0].ingress.as_ref().unwrap();
    assert!(ingress.isolated && ingress.rules[0].name == "NetworkPolicy isolation", "{ingress:?}");
    assert_eq!((&status.pods[0].egress, &status.pods[0].trouble), (&None, &None));
    // A wrong word is refused by its field, and what the policy said before goes on.
    node.write_to("policy.yaml", &deny.replace("{podSelector: {}}", "{podSelector: 7}"));
    until("the reason", || {
        client.policies().unwrap().policies[0].refused.iter().any(|r| r.contains("spec.podSelector"))
    });
    assert!(client.policies().unwrap().policies[0].instead.contains("stays in force"));
    assert!(client.status().unwrap().refused.iter().any(|refused| refused.place.ends_with("policy.yaml:1")));
}

#[test]
fn a_restarted_agent_isolates_a_pod_whose_object_is_gone() {
    let node = Node::with_object();
    let (dataplane, agent) = (node.dataplane(), node.agent());
    node.pod(&node.ready_client(), "c1");
    let policy = || dataplane.lock().state.endpoints["c1/eth0"].policy;
    assert_eq!(policy(), Default::default());
    drop(agent);
    fs::remove_file(node.path("objects/pod-c1.yaml")).unwrap();
    let agent = node.agent();
    let client = node.ready_client();
    until("it is denied everything", || policy().ingress.is_some() && policy().egress.is_some());
    assert!(client.status().unwrap().conditions.iter().any(|c| c.contains("everything is denied meanwhile")));
    assert!(client.policies().unwrap().pods[0].ingress.as_ref().unwrap().rules[0].action == "Deny");
    node.write_pod("c1", "u");
    until("its own policy is in force", || policy() == Default::default());
    // While the agent runs, a pod whose object goes keeps the policy that it had.
    fs::remove_file(node.path("objects/pod-c1.yaml")).unwrap();
    until("its address has no owner any more", || dataplane.lock().state.policy.addresses.is_empty());
    assert_eq!(policy(), Default::default());
    drop(agent);
}

#[test]
fn gc_keeps_what_is_listed() {
    let node = Node::with_object();
    let (dataplane, _agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    let replies: Vec<_> = ["c1", "c2", "c3"].iter().map(|c| node.pod(&client, c)).collect();
    let released = client.gc(&GcRequest { valid: vec![id("c2")] }).unwrap();
    assert_eq!(released.host_ifnames, [replies[0].host_ifname.clone(), replies[2].host_ifname.clone()]);
    assert_eq!(dataplane.lock().state.endpoints.keys().collect::<Vec<_>>(), ["c2/eth0"]);
}

#[test]
fn restarts_of_both_change_nothing_for_pods() {
    let node = Node::with_object();
    let first = node.dataplane();
    let agent = node.agent();
    let client = node.ready_client();
    let reply = node.pod(&client, "c1");
    let before = first.lock().state.clone();
    drop(agent);
    assert!(client.status().unwrap_err().is_down());
    assert_eq!(first.lock().state, before);
    let told = first.lock().transactions.len();
    let _agent = node.agent();
    let client = node.ready_client();
    assert_eq!(first.lock().state, before);
    assert!(first.lock().transactions[told..].iter().all(|t| t.1 && t.2 == 4), "{:?}", first.lock().transactions);
    assert_eq!(client.check(&CheckRequest { attachment: id("c1") }).unwrap(), reply);
    until("the first configuration counts as enforced", || enforced::is_marked(&node.path("run")));
    drop(first);
    until("the loss is seen", || client.status().unwrap().conditions.iter().any(|it| it.contains("not connected")));
    client.cni_status().expect("enforced once: a loss does not take the runtime's network down");
    let second = node.dataplane();
    node.ready_client();
    assert_eq!(second.lock().state, before);
}

#[test]
fn a_restarted_agent_without_its_object_leaves_the_dataplane_alone() {
    let node = Node::with_object();
    let (dataplane, agent) = (node.dataplane(), node.agent());
    node.pod(&node.ready_client(), "c1");
    drop(agent);
    let snapshot = || {
        let seen = dataplane.lock();
        (seen.state.clone(), seen.transactions.len())
    };
    let before = snapshot();
    fs::remove_file(node.path("objects/node.yaml")).unwrap();
    let _agent = node.agent();
    until("connected", || node.client().status().unwrap().dataplane_connected);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(snapshot(), before);
    node.write(NODE);
    node.ready_client();
    assert_eq!(dataplane.lock().state, before.0);
}

#[test]
fn what_is_gone_is_given_back_on_start_and_from_records() {
    let node = Node::with_object();
    let (dataplane, agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    let replies: Vec<_> = ["c1", "c2", "c3"].iter().map(|c| node.pod(&client, c)).collect();
    drop(agent);
    fs::remove_file(node.path("netns/c1")).unwrap();
    pending::leave(&node.path("state"), &DelRequest { attachment: id("c2") }).unwrap();
    let _agent = node.agent();
    let client = node.ready_client();
    assert_eq!(dataplane.lock().state.endpoints.keys().collect::<Vec<_>>(), ["c3/eth0"]);
    assert_eq!(*node.links.0.lock().unwrap(), [replies[2].host_ifname.clone()].into());
    assert_eq!(client.status().unwrap().attachments.len(), 1);
    // One that is left while the agent runs: it was down for a moment only.
    let record = pending::leave(&node.path("state"), &DelRequest { attachment: id("c3") }).unwrap();
    until("the record is delivered", || !record.exists());
    assert!(dataplane.lock().state.endpoints.is_empty());
    fs::write(pending::folder(&node.path("state")).join("x.json"), "{").unwrap();
    until("a bad record is put aside", || pending::folder(&node.path("state")).join("x.invalid").exists());
}

#[test]
fn host_ports_are_served_or_refused_by_their_holder_and_services_are_listed() {
    let node = Node::with_object();
    let (dataplane, _agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    let ask = |container: &str, host_port: u16| {
        let mapping = PortMapping { protocol: Protocol::Tcp, host_ip: None, host_port, container_port: 80 };
        AddRequest { host_ports: vec![mapping], ..node.add(container) }
    };
    let reply = client.add(&ask("c1", 8080)).unwrap();
    node.links.0.lock().unwrap().insert(reply.host_ifname);
    client.ready(&ReadyRequest { attachment: id("c1") }).unwrap();
    let host_ports = |dataplane: &Dataplane| dataplane.lock().state.host_ports().len();
    assert_eq!(host_ports(&dataplane), 2, "the node's address and 127.0.0.1");
    let (status, retry, message) = refusal(client.add(&ask("c2", 8080)));
    assert!(status == 409 && !retry && message.contains("default/c1 has it"), "{status} {message}");
    assert!(refusal(client.add(&ask("c2", 60_000))).2.contains("--masquerade-ports"));
    assert_eq!(client.check(&CheckRequest { attachment: id("c1") }).unwrap().host_ports, ask("c1", 8080).host_ports);
    // Two that want the same at once: the one that is ready first has it.
    let both = ["c3", "c4"].map(|container| client.add(&ask(container, 9090)).unwrap().host_ifname);
    node.links.0.lock().unwrap().extend(both);
    client.ready(&ReadyRequest { attachment: id("c3") }).unwrap();
    let (status, _, message) = refusal(client.ready(&ReadyRequest { attachment: id("c4") }));
    assert!(status == 409 && message.contains("default/c3 has it"), "{status} {message}");
    client.del(&DelRequest { attachment: id("c1") }).unwrap();
    assert_eq!(host_ports(&dataplane), 2);
    client.add(&ask("c2", 8080)).unwrap();

    assert_eq!(client.services().unwrap(), []);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: a, name: web}\nspec: {clusterIPs: [10.96.0.1], ports: [{port: PORT}]}\n";
    node.write(&format!("{NODE}---\n{}", service.replace("PORT", "80")));
    until("the Service is listed", || client.services().unwrap().len() == 1);
    let listed = client.services().unwrap();
    assert_eq!(listed[0].ports[0].frontends[0].inside, ChoiceStatus::Reject);
    until("the dataplane knows it", || dataplane.lock().state.services.contains_key("a/web"));
    node.write(&format!("{NODE}---\n{}", service.replace("PORT", "65536")));
    until("its new word is refused", || client.services().unwrap()[0].refused.len() == 1);
    assert_eq!(client.services().unwrap()[0].ports.len(), 1, "the old one stays");
}

#[test]
fn bad_requests_are_answered_as_errors() {
    let node = Node::with_object();
    let (_dataplane, _agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    let (status, retry, _) = refusal(client.add(&AddRequest { attachment: id("a/b"), ..node.add("x") }));
    assert!(status == 400 && !retry);
    assert_eq!(client.del(&DelRequest { attachment: id("a/b") }).unwrap().host_ifnames, [""; 0]);
    let socket = node.path("run").join(path::SOCKET);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    for (request, status) in [
        (
            "POST /v1/cni/add HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
            "422",
        ),
        ("GET /v2/status HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
    ] {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 2048];
        let n = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) || answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("\"message\""), "{answer}");
    }
}

/// `READY` waits for the dataplane for longer than an agent that is to end has time.
#[test]
fn a_call_that_waits_does_not_hold_up_the_end() {
    let node = Node::with_object();
    let (dataplane, agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    client.add(&node.add("c1")).unwrap();
    dataplane.lock().silent = true;
    let told = dataplane.lock().transactions.len();
    let call = std::thread::spawn(move || client.ready(&ReadyRequest { attachment: id("c1") }));
    until("the dataplane is told", || dataplane.lock().transactions.len() > told);
    drop(agent);
    // Given up, not answered with a reason.
    let outcome = call.join().unwrap();
    assert!(matches!(&outcome, Err(e) if !matches!(e, ClientError::Api { .. })), "{outcome:?}");
}

#[test]
fn a_changed_range_is_a_condition() {
    let node = Node::with_object();
    let (_dataplane, _agent) = (node.dataplane(), node.agent());
    let client = node.ready_client();
    node.pod(&client, "c1");
    node.write(&NODE.replace("10.0.1.0/24", "10.0.9.0/24"));
    until("the condition", || {
        client.status().unwrap().conditions.iter().any(|c| c.contains("outside of this node's podCIDRs"))
    });
    assert_eq!(client.add(&node.add("c2")).unwrap().addresses[0].to_string(), "10.0.9.2");
    node.write("kind: [");
    until("the file is refused", || client.status().unwrap().refused.iter().any(|r| r.place.ends_with("node.yaml:1")));
}
