use super::*;

fn names(manifest: &Manifest) -> Vec<(u64, String)> {
    manifest.objects.iter().map(|placed| (placed.line, placed.object.key().to_string())).collect()
}

const NODE: &str = r#"apiVersion: v1
kind: Node
metadata:
  name: node1
  creationTimestamp: "2026-01-01T00:00:00Z"
  labels: {zone: a}
  managedFields: [{whatever: 1}]
spec:
  podCIDR: 10.0.1.0/24
  podCIDRs: [10.0.1.0/24, "fd00:1::/64"]
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.1}
  - {type: Hostname, address: node1}
  conditions: [{type: Ready, status: "True"}]
"#;

#[test]
fn a_node_as_an_api_server_returns_it() {
    let manifest = parse(NODE).unwrap();
    assert_eq!(names(&manifest), [(1, "Node node1".into())]);
    let Object::Node(node) = &manifest.objects[0].object else { panic!() };
    assert_eq!(node.spec.pod_cidrs.as_deref().unwrap(), ["10.0.1.0/24", "fd00:1::/64"]);
    assert_eq!(node.status.addresses.as_ref().unwrap().len(), 2);
    assert_eq!(node.metadata.labels.as_ref().unwrap()["zone"], "a");
}

#[test]
fn documents_lists_and_other_kinds() {
    let text = format!(
        "# a comment alone\n---\n{NODE}---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {{name: a, namespace: web}}\n  spec: {{nodeName: node1, containers: [{{name: c}}]}}\n- apiVersion: apps/v1\n  kind: Deployment\n  metadata: {{name: d}}\n  spec: 7\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: web, labels: {{a: b}}}}\nspec: {{finalizers: [kubernetes]}}\n"
    );
    let manifest = parse(&text).unwrap();
    let lines = |needle: &str| 1 + text.lines().position(|l| l.contains(needle)).unwrap() as u64;
    assert_eq!(
        names(&manifest),
        [
            (3, "Node node1".into()),
            (lines("- apiVersion: v1"), "Pod web/a".into()),
            (lines("kind: Namespace") - 1, "Namespace web".into())
        ]
    );
    assert_eq!(manifest.ignored, [Ignored { line: lines("- apiVersion: apps"), kind: "apps/v1 Deployment".into() }]);
}

#[test]
fn json_with_tabs_and_a_typed_list() {
    let text = "{\n\t\"kind\": \"NodeList\",\n\t\"apiVersion\": \"v1\",\n\t\"items\": [\n\t\t{\"metadata\": {\"name\": \"n1\"}, \"spec\": {\"podCIDRs\": [\"10.0.0.0/24\"]}}\n\t]\n}\n";
    let manifest = parse(text).unwrap();
    let Object::Node(node) = &manifest.objects[0].object else { panic!() };
    assert_eq!((manifest.objects[0].line, node.spec.pod_cidrs.clone()), (5, Some(vec!["10.0.0.0/24".into()])));
}

#[test]
fn the_order_of_fields_does_not_matter() {
    let turned = r#"{"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        "metadata": {"name": "node1"}, "kind": "Node", "spec": {"podCIDRs": ["10.0.1.0/24"]}, "apiVersion": "v1"}"#;
    let straight = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
        "spec": {"podCIDRs": ["10.0.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}"#;
    assert_eq!(parse(turned).unwrap(), parse(straight).unwrap());
}

#[test]
fn errors_name_the_line() {
    let cases = [
        ("apiVersion: v1\nkind: Node\nmetadata:\n  name: a\nspec:\n  podCIDRs: 7\n", 6, "sequence"),
        ("apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n  name: b\n", 5, "name"),
        ("apiVersion: v1\nkind: Node\nmetadata: [\n", 3, "mapping"),
        ("\n\nkind: Node\nmetadata: {name: a}\n", 3, "apiVersion"),
        ("apiVersion: v1\nmetadata: {name: a}\n", 1, "kind"),
        ("---\napiVersion: v1\nkind: Pod\nmetadata: {}\n", 2, "metadata.name"),
        ("just text\n", 1, "object"),
        ("- 1\n", 1, "object"),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: p\n  spec:\n    hostNetwork: maybe\n",
            9,
            "bool",
        ),
    ];
    for (text, line, reason) in cases {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}\n{error}");
        assert!(error.reason.contains(reason), "{text}\n{error}");
    }
}

#[test]
fn ten_thousand_pods_in_one_file() {
    use std::fmt::Write;
    let mut text = String::from("apiVersion: v1\nkind: List\nitems:\n");
    for i in 0..10_000 {
        let _ = write!(
            text,
            "- apiVersion: v1\n  kind: Pod\n  metadata: {{name: p{i}, namespace: a, labels: {{app: x, tier: y}}}}\n  spec: {{nodeName: n, containers: [{{name: c, image: i, ports: [{{containerPort: 80, name: http}}]}}]}}\n  status: {{phase: Running, podIPs: [{{ip: 10.0.0.1}}]}}\n"
        );
    }
    assert_eq!(parse(&text).unwrap().objects.len(), 10_000);
}
