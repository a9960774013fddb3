//! Both sides in one process: the handshake, its refusals, messages in both directions.

use std::io::{Read, Write};
use std::thread;
use std::time::Instant;

use super::*;
use crate::v1::Key;

fn facts() -> Facts {
    Facts {
        version: "test".into(),
        uplink: "iface:eth0".into(),
        uplink_mtu: 1500,
        workers: 2,
        host_ifname: "podplane0".into(),
    }
}

/// Listens in a folder of its own and greets one visitor with `serve`.
fn serve_one<T: Send + 'static>(
    serve: impl FnOnce(Result<Visitor, LinkError>) -> T + Send + 'static,
) -> (tempfile::TempDir, std::path::PathBuf, thread::JoinHandle<T>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dataplane.sock");
    let listener = listen(&path).unwrap();
    let thread = thread::spawn(move || serve(greet(listener.accept().unwrap().0)));
    (dir, path, thread)
}

#[test]
fn an_agent_is_let_in_and_messages_pass() {
    let (_dir, path, server) = serve_one(|visitor| {
        let Ok(Visitor::Agent(agent)) = visitor else { panic!("no agent: {visitor:?}") };
        let mut link = agent.welcome(&facts()).unwrap();
        link.send(&FromDataplane::Refused { generation: 7, reason: "no".into() }).unwrap();
        link
    });
    let (mut agent, told) = connect(&path).unwrap();
    let mut dataplane = server.join().unwrap();
    assert_eq!(told, facts());
    agent.hush().unwrap();
    assert_eq!(agent.receive().unwrap(), Some(FromDataplane::Refused { generation: 7, reason: "no".into() }));
    assert_eq!(agent.receive().unwrap(), None);
    let message = ToDataplane::Delete(Key::Peer("node2".into()));
    agent.send(&message).unwrap();
    dataplane.hush().unwrap();
    assert_eq!(dataplane.receive().unwrap(), Some(message));
    drop(agent);
    assert!(matches!(dataplane.hush(), Err(LinkError::Closed)));
}

/// A file that says which one it is.
fn named(name: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(name.as_bytes()).unwrap();
    file.into()
}

fn name_of(file: OwnedFd) -> String {
    let mut name = String::new();
    let mut file = std::fs::File::from(file);
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut name).unwrap();
    name
}

/// One meeting: what the dataplane was given, and what it asks to be kept.
fn meet(keeper: &mut Keeper, asks: Option<&'static str>) -> Option<String> {
    let (_dir, path, server) = serve_one(move |visitor| {
        let Ok(Visitor::Agent(mut agent)) = visitor else { panic!("no agent: {visitor:?}") };
        let given = agent.take_kept().map(name_of);
        let file = asks.map(named);
        agent.welcome_with(&facts(), file.as_ref().map(AsFd::as_fd)).unwrap();
        given
    });
    connect_keeping(&path, keeper).unwrap();
    server.join().unwrap()
}

#[test]
fn the_agent_keeps_the_flow_memory_for_the_next_dataplane() {
    let mut keeper = Keeper::new();
    assert_eq!(meet(&mut keeper, Some("first")), None);
    keeper.applied();
    assert_eq!(meet(&mut keeper, Some("second")).as_deref(), Some("first"));
    // It died before it had taken the flows over.
    assert_eq!(meet(&mut keeper, Some("third")).as_deref(), Some("first"));
    keeper.applied();
    assert_eq!(meet(&mut keeper, None).as_deref(), Some("third"));
    keeper.applied();
    assert_eq!(meet(&mut keeper, None).as_deref(), Some("third"), "one without memory of its own changes nothing");
}

#[test]
fn more_files_than_asked_for_are_closed() {
    let (_dir, path, server) = serve_one(|visitor| {
        let Ok(Visitor::Introspect { answer, .. }) = visitor else { panic!("no question: {visitor:?}") };
        answer.send(&1).unwrap();
    });
    let stream = UnixStream::connect(&path).unwrap();
    let files: Vec<OwnedFd> = (0..2).map(|_| named("x")).collect();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let hello = to_line(&Hello::Introspect { question: serde_json::Value::Null }).unwrap();
    say_with(&stream, hello, &files).unwrap();
    server.join().unwrap();
    assert!(read_line(&stream, MAX_LINE, LINE_TIMEOUT).unwrap().starts_with(br#"{"answer":1"#));
}

#[test]
fn a_question_gets_its_answer() {
    let (_dir, path, server) = serve_one(|visitor| {
        let Ok(Visitor::Introspect { question, answer }) = visitor else { panic!("no question: {visitor:?}") };
        answer.send(&serde_json::json!({ "asked": question })).unwrap();
    });
    let answer: serde_json::Value = ask(&path, &serde_json::json!({ "get": "ports" })).unwrap();
    assert_eq!(answer, serde_json::json!({ "asked": { "get": "ports" } }));
    server.join().unwrap();
}

#[test]
fn a_refusal_carries_its_reason() {
    let (_dir, path, server) = serve_one(|visitor| {
        let Ok(Visitor::Agent(agent)) = visitor else { panic!("no agent: {visitor:?}") };
        agent.refuse("shutting down").unwrap();
    });
    assert!(matches!(connect(&path), Err(LinkError::Refused(reason)) if reason == "shutting down"));
    server.join().unwrap();
}

#[test]
fn another_version_and_nonsense_are_refused() {
    for (line, expected) in [(r#"{"role":"agent","api":999}"#, "version"), ("GET / HTTP/1.1", "greeting")] {
        let (_dir, path, server) = serve_one(|visitor| assert!(visitor.is_err()));
        let mut stream = UnixStream::connect(&path).unwrap();
        writeln!(stream, "{line}").unwrap();
        let reply = String::from_utf8(read_line(&stream, MAX_LINE, LINE_TIMEOUT).unwrap()).unwrap();
        assert!(reply.contains("error") && reply.contains(expected), "{reply}");
        server.join().unwrap();
    }
}

#[test]
fn a_visitor_that_says_nothing_is_not_waited_for() {
    let (_dir, path, server) = serve_one(|visitor| assert!(visitor.is_err()));
    let silent = UnixStream::connect(&path).unwrap();
    let asked = Instant::now();
    server.join().unwrap();
    assert!(asked.elapsed() < 2 * LINE_TIMEOUT);
    drop(silent);
}

#[test]
fn a_live_socket_is_not_taken_and_a_stale_one_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dataplane.sock");
    let first = listen(&path).unwrap();
    assert!(matches!(listen(&path), Err(LinkError::Refused(_))));
    drop(first);
    listen(&path).unwrap();
}
