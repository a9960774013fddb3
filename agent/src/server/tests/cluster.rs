//! The agent as a whole, with an API server as its source.

use serde_json::json;

use super::*;
use crate::testing::api::Api;

const PODS: &str = "/api/v1/pods";

fn cluster() -> (Node, Api) {
    let node = Node::new();
    let api = Api::start();
    api.apply(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [10.0.1.0/24]}\n\
         status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n",
    );
    (node, api)
}

fn pod(name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": "u"}})
}

#[test]
fn a_pod_is_asked_for_once_and_then_comes_another_time() {
    let (node, mut api) = cluster();
    let (dataplane, _agent) = (node.dataplane(), node.agent_of(SourceOptions::Cluster(api.options())));
    let client = node.ready_client();
    // The watch tells of no pod any more.
    api.lock().refuse.insert(PODS, (usize::MAX, 500, json!(null)));
    api.cut();
    api.put(pod("c1"));
    let reply = client.add(&node.add_unknown("c1")).unwrap();
    node.links.0.lock().unwrap().insert(reply.host_ifname);
    client.ready(&ReadyRequest { attachment: id("c1") }).unwrap();
    assert!(dataplane.lock().state.endpoints.contains_key("c1/eth0"));
    let status = client.status().unwrap();
    assert!(status.ready && status.conditions[0].contains("heard of pods"), "{status:?}");
    assert_eq!(api.lock().asked.iter().filter(|(_, uri)| uri == "/api/v1/namespaces/default/pods/c1").count(), 1);

    api.go_away();
    let reply = client.add(&node.add_unknown("c2")).unwrap();
    node.links.0.lock().unwrap().insert(reply.host_ifname);
    let (status, retry, message) = refusal(client.ready(&ReadyRequest { attachment: id("c2") }));
    assert_eq!((status, retry), (503, true), "{message}");
    assert!(message.contains("default/c2"), "{message}");
}

#[test]
fn everything_restarts_while_the_server_is_away() {
    let (node, mut api) = cluster();
    let source = SourceOptions::Cluster(api.options());
    let (dataplane, agent) = (node.dataplane(), node.agent_of(source.clone()));
    let client = node.ready_client();
    api.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny, namespace: default}\n\
         spec: {podSelector: {}, policyTypes: [Ingress]}\n",
    );
    api.put(pod("c1"));
    let reply = client.add(&node.add_unknown("c1")).unwrap();
    node.links.0.lock().unwrap().insert(reply.host_ifname);
    client.ready(&ReadyRequest { attachment: id("c1") }).unwrap();
    let policy = |dataplane: &Dataplane| dataplane.lock().state.endpoints.get("c1/eth0").map(|it| it.policy);
    until("the policy", || policy(&dataplane).is_some_and(|policy| policy != Default::default()));
    drop((agent, dataplane));
    api.go_away();

    let (dataplane, _agent) = (node.dataplane(), node.agent_of(source));
    let client = node.ready_client();
    until("the pod with its policy", || policy(&dataplane).is_some_and(|policy| policy != Default::default()));
    let status = client.status().unwrap();
    assert!(status.ready && status.attachments.len() == 1 && status.attachments[0].ready, "{status:?}");
    assert!(status.conditions.iter().any(|it| it.contains("cannot be reached")), "{status:?}");
}
