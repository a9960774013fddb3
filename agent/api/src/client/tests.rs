use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use super::*;
use crate::types::AttachmentId;

fn ready() -> ReadyRequest {
    ReadyRequest { attachment: AttachmentId { container_id: "c1".into(), ifname: "eth0".into() } }
}

/// Answers one connection with `answer` and gives back what it asked.
fn agent(answer: &str) -> (tempfile::TempDir, AgentClient, std::thread::JoinHandle<String>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(path::SOCKET);
    let listener = UnixListener::bind(&socket).unwrap();
    let answer = answer.to_owned();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut asked, mut chunk) = (Vec::new(), [0; 4096]);
        while !asked.windows(4).any(|w| w == b"\r\n\r\n") || asked.last() == Some(&b'\n') {
            let n = stream.read(&mut chunk).unwrap();
            asked.extend_from_slice(&chunk[..n]);
            if n == 0 || asked.starts_with(b"GET") {
                break;
            }
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    let client = AgentClient::new(&socket).with_timeout(Duration::from_secs(60));
    (dir, client, served)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn an_absent_and_a_deaf_agent_are_down() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(path::SOCKET);
    assert!(AgentClient::new(&socket).cni_status().unwrap_err().is_down());
    drop(UnixListener::bind(&socket).unwrap());
    let error = AgentClient::new(&socket).cni_status().unwrap_err();
    assert!(error.is_down() && error.retry(), "{error}");
}

#[test]
fn answers_with_and_without_a_body() {
    let (_dir, client, served) = agent(&http("200 OK", ""));
    client.ready(&ready()).unwrap();
    let asked = served.join().unwrap();
    assert!(asked.starts_with("POST /v1/cni/ready HTTP/1.1\r\n"), "{asked}");
    assert!(asked.ends_with(r#"{"attachment":{"container_id":"c1","ifname":"eth0"}}"#), "{asked}");

    let (_dir, client, _served) = agent(&http("200 OK", r#"{"host_ifnames":["pp1"]}"#));
    let released = client.del(&DelRequest { attachment: ready().attachment }).unwrap();
    assert_eq!(released.host_ifnames, ["pp1"]);
}

#[test]
fn the_agents_errors_are_told_apart_from_broken_answers() {
    let (_dir, client, _served) = agent(&http("503 Busy", r#"{"message":"no Node object","retry":true}"#));
    let error = client.cni_status().unwrap_err();
    assert!(matches!(&error, ClientError::Api { status: 503, .. }) && error.retry());
    assert_eq!(error.to_string(), "no Node object");

    let (_dir, client, _served) = agent(&http("404 Unknown", r#"{"message":"unknown","retry":false}"#));
    let error = client.check(&CheckRequest { attachment: ready().attachment }).unwrap_err();
    assert!(error.is_not_found() && !error.retry());

    let (_dir, client, _served) = agent(&http("500 Oops", "<html>"));
    assert!(matches!(client.cni_status().unwrap_err(), ClientError::Broken { .. }));
}

#[test]
fn a_silent_agent_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(path::SOCKET);
    let _listener = UnixListener::bind(&socket).unwrap();
    let client = AgentClient::new(&socket).with_timeout(Duration::from_millis(50));
    assert!(matches!(client.status().unwrap_err(), ClientError::Timeout { .. }));
}
