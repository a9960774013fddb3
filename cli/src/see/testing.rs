//! A dataplane for tests that knows one answer.

use std::thread::JoinHandle;

use podplane_config::introspect::Question;
use podplane_config::link::{self, Visitor};
use serde::Serialize;

/// Answers one question in a folder of its own, and says which it was.
pub fn dataplane<T: Serialize + Send + 'static>(answer: T) -> (tempfile::TempDir, JoinHandle<Question>) {
    let dir = tempfile::tempdir().unwrap();
    let listener = link::listen(&dir.path().join("dataplane.sock")).unwrap();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let Visitor::Introspect { question, answer: reply } = link::greet(stream).unwrap() else {
            panic!("no question")
        };
        reply.send(&answer).unwrap();
        serde_json::from_value(question).unwrap()
    });
    (dir, server)
}
