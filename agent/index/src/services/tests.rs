//! Services as an API server returns them, and what their addresses get.

mod contradictions;
mod histories;
mod scale;
mod semantics;

use crate::manifest;
use crate::{Family, Index, ObjectKey, Settings};
use podplane_config::v1::{self, Choice, Key};

/// This node is `n0` in zone `a`; `n1` is another one in zone `b`.
const NODES: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: n0, labels: {topology.kubernetes.io/zone: a}},
 spec: {podCIDRs: [10.0.0.0/24, "fd00:0:0:1::/64"]},
 status: {addresses: [{type: InternalIP, address: 192.0.2.20}, {type: InternalIP, address: 192.0.2.10},
                      {type: InternalIP, address: "fd01::20"}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: b}},
 spec: {podCIDRs: [10.0.1.0/24]}, status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: kubernetes},
 spec: {cidrs: [10.96.0.0/16, "fd00:96::/112"]}}
"#;

fn settings() -> Settings {
    Settings::new("n0", Family::Ipv4, 100)
}

fn feed(index: &mut Index, text: &str) {
    for placed in manifest::parse(text).unwrap().objects {
        let _ = index.apply(placed.object);
    }
    index.settle();
}

fn index_with(settings: Settings, text: &str) -> Index {
    let mut index = Index::new(settings);
    index.set_uplink_mtu(1500);
    feed(&mut index, NODES);
    feed(&mut index, text);
    accepted(&index);
    index
}

fn index(text: &str) -> Index {
    index_with(settings(), text)
}

/// The dataplane takes all of it.
fn accepted(index: &Index) {
    let all = index.objects().iter().map(|(key, object)| (key.clone(), Some(object.clone()))).collect();
    crate::index::tests::apply_all(&podplane_config::valid::State::default(), &all, 1, true);
}

/// A Service `a/web` with one port 80; `more` goes into its `spec`.
fn web(more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{namespace: a, name: web}}, \
         spec: {{clusterIPs: [10.96.0.1], ports: [{{name: http, port: 80}}]{more}}}}}\n"
    )
}

/// A slice of `a/web` with port 8080.
fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
         metadata: {{namespace: a, name: {name}, labels: {{kubernetes.io/service-name: web}}}}, \
         ports: [{{name: http, protocol: TCP, port: 8080}}], endpoints: [{endpoints}]}}\n"
    )
}

fn endpoint(address: &str, node: &str, more: &str) -> String {
    format!("{{addresses: [\"{address}\"], nodeName: {node}{more}}}")
}

fn told<'a>(index: &'a Index, name: &str) -> Option<&'a v1::Service> {
    match index.objects().get(&Key::Service(name.into())) {
        Some(v1::Object::Service(service)) => Some(service),
        _ => None,
    }
}

/// What all frontends of `a/web` get: "kind address:port inside/outside [sources]", where a set is its addresses.
fn shown(index: &Index) -> Vec<String> {
    let Some(service) = told(index, "a/web") else { return Vec::new() };
    let mut shown = Vec::new();
    for port in &service.ports {
        let choice = |choice| match choice {
            Choice::Set(i) => {
                let set: Vec<String> = port.sets[usize::from(i)].iter().map(|b| b.address.to_string()).collect();
                set.join("+")
            }
            other => format!("{other:?}"),
        };
        for f in &port.frontends {
            let sources = f.sources.iter().flatten().map(|net| format!(" {net}")).collect::<String>();
            shown.push(format!(
                "{:?} {} {} {}/{}{sources}",
                f.kind,
                f.address,
                f.port,
                choice(f.inside),
                choice(f.outside)
            ));
        }
    }
    shown
}

fn reasons(index: &Index) -> Vec<String> {
    index.refused().map(|(key, reason): (ObjectKey, &str)| format!("{key}: {reason}")).collect()
}
