//! Real sockets on loopback addresses, a dataplane that answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use podplane_index::{Family, Settings, manifest};

use super::*;
use crate::publish;
use crate::testing::Dataplane;

const SERVICE: &str = r#"
{apiVersion: v1, kind: Service, metadata: {namespace: a, name: web},
 spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: PORT, clusterIPs: [10.96.0.1],
        ports: [{name: http, port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
 metadata: {namespace: a, name: s, labels: {kubernetes.io/service-name: web}}, ports: [{name: http, port: 8080}],
 endpoints: [{addresses: [10.0.1.7], nodeName: n1, conditions: {ready: READY}}]}
"#;

fn apply(desired: &Desired, text: &str) {
    desired.edit(|index| {
        for placed in manifest::parse(text).unwrap().objects {
            index.apply(placed.object).unwrap();
        }
    });
}

/// Status line, headers and body; `None` where nobody listens (any more).
fn ask(place: &str) -> Option<String> {
    let mut stream = TcpStream::connect(place).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A server that is just being closed resets.
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_body_is_kube_proxys() {
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"a\",\n\t\t\"name\": \"web\"\n\t},\n\
                    \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(body("a", "web", 2, true), expected);
    assert!(serde_json::from_str::<serde_json::Value>(&body("a", "web", 2, true)).is_ok());
}

#[test]
fn load_balancers_get_their_answer() {
    let dir = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(dir.path(), 1500);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let desired = Arc::new(Desired::new(Index::new(Settings::new("n1", Family::Ipv4, 1))));
    desired.complete();
    let observer = publish::start(dir.path(), desired.clone());
    // Not one that the kernel gives to clients: another process could have it by the time that it is listened on.
    let mut ports = 20_000 + (std::process::id() % 10_000) as u16..30_000;
    let port = ports.find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let place = format!("127.0.0.1:{port}");
    let text = |ready: &str| SERVICE.replace("PORT", &port.to_string()).replace("READY", ready);
    apply(
        &desired,
        "{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDRs: [10.0.1.0/24]}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}",
    );
    apply(&desired, &text("true"));
    let health = Health { desired: desired.clone(), observer: observer.clone(), trouble: Trouble::default() };
    assert_eq!(
        desired.read(places),
        Places::from([(format!("192.0.2.1:{port}").parse().unwrap(), "a/web".to_owned())])
    );
    // The node's address is nobody's here: what is served there is asked for at loopback.
    let listener = listen(place.parse().unwrap()).unwrap();
    let open = health.serve(listener, place.parse().unwrap(), "a/web".into());
    let says = |words: &[&str]| {
        let text = ask(&place).unwrap_or_default();
        words.iter().all(|word| text.contains(word))
    };
    until("healthy", || says(&["200 OK", "\"localEndpoints\": 1", "\"serviceProxyHealthy\": true"]));
    assert!(says(&["content-type: application/json", "nosniff", "x-load-balancing-endpoint-weight: 1"]));
    apply(&desired, &text("false"));
    until("no endpoint", || says(&["503", "\"localEndpoints\": 0", "\"serviceProxyHealthy\": true"]));
    apply(&desired, &text("true"));
    drop(dataplane);
    until("no dataplane", || says(&["503", "\"localEndpoints\": 1", "\"serviceProxyHealthy\": false"]));
    drop(open);
    until("closed", || ask(&place).is_none());
    // At an address that is not the machine's: said, and tried again.
    let trouble = health.trouble.clone();
    runtime.spawn(health.run());
    until("trouble", || trouble.get().is_some_and(|t| t.contains("192.0.2.1") && t.contains("a/web")));
    desired.edit(|index| {
        index.delete(&podplane_index::ObjectKey {
            kind: podplane_index::Kind::Service,
            namespace: "a".into(),
            name: "web".into(),
        })
    });
    until("no trouble", || trouble.get().is_none());
    runtime.shutdown_timeout(Duration::from_millis(100));
}
