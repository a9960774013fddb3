use super::*;
use crate::k8s::Kind;

fn ns(name: &str, label: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{l: {label}}}}}\n")
}

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Namespace, namespace: String::new(), name: name.into() }
}

fn put(files: &mut Files, path: &str, text: &str) -> Vec<(String, Option<String>)> {
    say(files.put(Path::new(path), text).0)
}

fn say(events: Events) -> Vec<(String, Option<String>)> {
    let label = |o: Object| o.metadata().labels.as_ref().map(|l| l["l"].clone()).unwrap_or_default();
    events.into_iter().map(|(key, object)| (key.name, object.map(label))).collect()
}

#[test]
fn objects_come_change_and_go_with_their_file() {
    let mut files = Files::default();
    let two = format!("{}---\n{}", ns("a", "1"), ns("b", "1"));
    assert_eq!(put(&mut files, "f", &two), [("a".into(), Some("1".into())), ("b".into(), Some("1".into()))]);
    assert_eq!(put(&mut files, "f", &two), []);
    assert_eq!(files.place(&key("b")), Some((Path::new("f"), 5)));
    let one = format!("{}---\n", ns("b", "2"));
    assert_eq!(put(&mut files, "f", &one), [("a".into(), None), ("b".into(), Some("2".into()))]);
    assert_eq!(say(files.remove(Path::new("f"))), [("b".into(), None)]);
    assert_eq!(say(files.remove(Path::new("f"))), []);
}

#[test]
fn a_malformed_file_keeps_its_last_good_content() {
    let mut files = Files::default();
    put(&mut files, "f", &ns("a", "1"));
    assert_eq!(put(&mut files, "f", "kind: Namespace\nmetadata: {name: [}\n"), []);
    let refused = files.refused();
    assert_eq!((refused.len(), refused[0].line), (1, 2));
    assert!(refused[0].reason.ends_with("last good content stays in force"), "{refused:?}");
    assert!(files.place(&key("a")).is_some());
    assert_eq!(put(&mut files, "f", &ns("a", "2")), [("a".into(), Some("2".into()))]);
    assert_eq!(files.refused(), []);
}

#[test]
fn the_first_file_by_name_counts() {
    let mut files = Files::default();
    put(&mut files, "m", &ns("a", "m"));
    assert_eq!(put(&mut files, "z", &ns("a", "z")), []);
    assert!(files.refused()[0].reason.contains("Namespace a is also in m"), "{:?}", files.refused());
    assert_eq!(put(&mut files, "b", &ns("a", "b")), [("a".into(), Some("b".into()))]);
    assert_eq!(files.refused().len(), 2);
    assert_eq!(say(files.remove(Path::new("b"))), [("a".into(), Some("m".into()))]);
    assert_eq!(say(files.remove(Path::new("m"))), [("a".into(), Some("z".into()))]);
    assert_eq!(say(files.remove(Path::new("z"))), [("a".into(), None)]);
}

#[test]
fn an_object_twice_in_one_file_is_refused() {
    let mut files = Files::default();
    assert_eq!(put(&mut files, "f", &format!("{}---\n{}", ns("a", "1"), ns("a", "2"))), []);
    let refused = files.refused();
    assert_eq!(refused[0].line, 5);
    assert!(refused[0].reason.contains("already, in line 1"), "{refused:?}");
}
