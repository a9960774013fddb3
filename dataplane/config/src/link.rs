//! How the agent and the dataplane meet.
//!
//! The dataplane listens on a Unix stream socket. A visitor sends one line of JSON that says what it wants:
//! `{"role":"agent","api":2}` or `{"role":"introspect","question":…}`, and gets one line back. An agent gets
//! `{"api":2,"facts":…}` together with the file of the rings (`SCM_RIGHTS`), after which the socket is the rings' bell;
//! introspection gets its answer. A refusal is `{"error":"…"}`.
//!
//! With its greeting an agent may hand over a file too, and gets another with the rings' one: the flow memory of a
//! dataplane that is gone, and that of this one ([`Keeper`]). Neither side believes what is in it.
//!
//! Only root and the dataplane's own user are heard. Lines are bounded in length and time.

mod keep;
mod line;

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use arrayvec::ArrayVec;
use podplane_shm_ring::channel::{self, Bell, End};
use podplane_shm_ring::ring::{Corrupt, PushError};
use rustix::net::sockopt::socket_peercred;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use keep::Keeper;
use line::{FILES, from_line, read_line, read_line_and_files, say, say_with, to_line};

use crate::v1::{API_VERSION, FromDataplane, MAX_MESSAGE, ToDataplane};

/// The longest line of a handshake or a question, in bytes.
const MAX_LINE: usize = 64 * 1024;
/// The longest answer to a question, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How long one side waits for a line of the other.
const LINE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the dataplane tells an agent about its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The dataplane's version line.
    pub version: String,
    /// The uplink, as the operator named it.
    pub uplink: String,
    /// The uplink's MTU in bytes: the longest IP packet that it carries.
    pub uplink_mtu: u16,
    /// Number of workers.
    pub workers: u8,
    /// The node's side of the host port.
    pub host_ifname: String,
}

/// Why the two did not meet or lost each other.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Its error.
        cause: std::io::Error,
    },
    /// The other side spoke something else.
    #[error("the peer does not speak this protocol: {0}")]
    Protocol(String),
    /// The other side refused.
    #[error("refused: {0}")]
    Refused(String),
    /// The versions differ.
    #[error(
        "the dataplane speaks version {theirs} of the configuration interface, this program {ours}: upgrade the older one"
    )]
    Version {
        /// This program's version.
        ours: u16,
        /// The dataplane's version.
        theirs: u16,
    },
    /// The visitor is another user.
    #[error("uid {0} may not talk to the dataplane: only root and the dataplane's own user may")]
    Forbidden(u32),
    /// The shared memory is not what was agreed.
    #[error(transparent)]
    Memory(#[from] podplane_shm_ring::map::MapError),
    /// The peer wrote something impossible into the ring.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// A record that is no message of this version.
    #[error("a record is no message of version {API_VERSION}: {0}")]
    Decode(postcard::Error),
    /// A message that could not be sent.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The peer has gone.
    #[error("the other side closed the connection")]
    Closed,
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> LinkError {
    move |cause| LinkError::Io { what, cause }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
enum Hello {
    Agent { api: u16 },
    Introspect { question: serde_json::Value },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply<T> {
    Error(String),
    Welcome { api: u16, facts: Facts },
    Answer(T),
}

/// One end of the rings with typed messages.
#[derive(Debug)]
pub struct Link<Out, In> {
    end: End,
    record: Vec<u8>,
    types: PhantomData<fn(Out) -> In>,
}

/// The agent's end.
pub type AgentLink = Link<ToDataplane, FromDataplane>;
/// The dataplane's end.
pub type DataplaneLink = Link<FromDataplane, ToDataplane>;

impl<Out: Serialize, In: DeserializeOwned> Link<Out, In> {
    fn new(rings: channel::Rings, stream: UnixStream) -> Result<Self, LinkError> {
        let end = End::new(rings, stream).map_err(io("making the bell non-blocking"))?;
        Ok(Link { end, record: Vec::new(), types: PhantomData })
    }

    /// Sends a message. `Push(Full)`: the peer has not read yet; the same message may be sent later.
    pub fn send(&mut self, message: &Out) -> Result<(), LinkError> {
        let record = postcard::to_stdvec(message).map_err(LinkError::Decode)?;
        if record.len() > MAX_MESSAGE {
            return Err(PushError::TooLong { len: record.len(), max: MAX_MESSAGE }.into());
        }
        Ok(self.end.send(&record)?)
    }

    /// The next message, if there is one. To be called until it says `None` after each [`Link::hush`].
    pub fn receive(&mut self) -> Result<Option<In>, LinkError> {
        if !self.end.receive(&mut self.record)? {
            return Ok(None);
        }
        if self.record.len() > MAX_MESSAGE {
            return Err(Corrupt("message longer than the limit").into());
        }
        let (message, rest) = postcard::take_from_bytes(&self.record).map_err(LinkError::Decode)?;
        if rest.is_empty() { Ok(Some(message)) } else { Err(LinkError::Protocol("bytes behind a message".into())) }
    }

    /// Silences the bell; `Err(Closed)` when the peer has gone (what it sent before may still be received).
    pub fn hush(&self) -> Result<(), LinkError> {
        match self.end.hush() {
            Bell::Open => Ok(()),
            Bell::Closed => Err(LinkError::Closed),
        }
    }
}

impl<Out, In> AsFd for Link<Out, In> {
    /// Readable once there is something to receive or the peer has gone.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// Listens at `path` with mode 0600, replacing a socket that nobody listens at any more.
pub fn listen(path: &Path) -> Result<UnixListener, LinkError> {
    if UnixStream::connect(path).is_ok() {
        return Err(LinkError::Refused(format!(
            "another dataplane already listens at {}: stop it, or give this one another --run-dir",
            path.display()
        )));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("removing a stale socket")(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(io("listening for the agent"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(io("closing the socket to others"))?;
    Ok(listener)
}

/// Somebody who came to the dataplane's socket.
#[derive(Debug)]
pub enum Visitor {
    /// An agent of our version.
    Agent(AgentVisitor),
    /// Somebody with a question.
    Introspect {
        /// The question.
        question: serde_json::Value,
        /// Where the answer goes.
        answer: Answer,
    },
}

/// An agent at the door.
#[derive(Debug)]
pub struct AgentVisitor {
    stream: UnixStream,
    kept: Option<OwnedFd>,
}

/// Where the answer to a question goes.
#[derive(Debug)]
pub struct Answer(UnixStream);

/// Hears what a visitor wants. Waits for at most two seconds, so it belongs on a thread that may wait.
pub fn greet(stream: UnixStream) -> Result<Visitor, LinkError> {
    let uid = socket_peercred(&stream).map_err(|e| io("asking who is calling")(e.into()))?.uid;
    if !uid.is_root() && uid != rustix::process::geteuid() {
        let error = LinkError::Forbidden(uid.as_raw());
        let _ = say(&stream, &Reply::<()>::Error(error.to_string()));
        return Err(error);
    }
    stream.set_write_timeout(Some(LINE_TIMEOUT)).map_err(io("setting a time limit"))?;
    let (line, mut files) = read_line_and_files(&stream, LINE_TIMEOUT)?;
    match serde_json::from_slice(&line) {
        Ok(Hello::Agent { api: API_VERSION }) => Ok(Visitor::Agent(AgentVisitor { stream, kept: files.pop() })),
        Ok(Hello::Agent { api }) => {
            let error = LinkError::Version { ours: API_VERSION, theirs: api };
            say(&stream, &Reply::<()>::Error(format!("this dataplane speaks version {API_VERSION}, the agent {api}")))?;
            Err(error)
        }
        Ok(Hello::Introspect { question }) => Ok(Visitor::Introspect { question, answer: Answer(stream) }),
        Err(e) => {
            say(&stream, &Reply::<()>::Error(format!("no greeting: {e}")))?;
            Err(LinkError::Protocol(e.to_string()))
        }
    }
}

impl AgentVisitor {
    /// The flow memory of a dataplane that is gone, if the agent has kept one; once.
    pub fn take_kept(&mut self) -> Option<OwnedFd> {
        self.kept.take()
    }

    /// Lets the agent in.
    pub fn welcome(self, facts: &Facts) -> Result<DataplaneLink, LinkError> {
        self.welcome_with(facts, None)
    }

    /// Lets the agent in and asks it to keep a file: our flow memory.
    pub fn welcome_with(self, facts: &Facts, keep: Option<BorrowedFd<'_>>) -> Result<DataplaneLink, LinkError> {
        let (rings, file) = channel::create()?;
        let line = to_line(&Reply::<()>::Welcome { api: API_VERSION, facts: facts.clone() })?;
        let files: ArrayVec<BorrowedFd<'_>, FILES> = [Some(file.as_fd()), keep].into_iter().flatten().collect();
        say_with(&self.stream, line, &files).map_err(io("handing the rings over"))?;
        Link::new(rings, self.stream)
    }

    /// Sends the agent away with a reason.
    pub fn refuse(self, reason: &str) -> Result<(), LinkError> {
        say(&self.stream, &Reply::<()>::Error(reason.to_owned()))
    }
}

impl Answer {
    /// Answers.
    pub fn send<T: Serialize>(self, answer: &T) -> Result<(), LinkError> {
        say(&self.0, &Reply::Answer(answer))
    }

    /// Says why there is no answer.
    pub fn refuse(self, reason: &str) -> Result<(), LinkError> {
        say(&self.0, &Reply::<()>::Error(reason.to_owned()))
    }
}

/// Connects an agent to the dataplane that listens at `path`.
pub fn connect(path: &Path) -> Result<(AgentLink, Facts), LinkError> {
    connect_keeping(path, &mut Keeper::new())
}

/// [`connect`], giving the dataplane what was kept for it. The agent calls [`Keeper::applied`] when it is told that its
/// configuration is in force.
pub fn connect_keeping(path: &Path, keeper: &mut Keeper) -> Result<(AgentLink, Facts), LinkError> {
    let stream = UnixStream::connect(path).map_err(io("connecting to the dataplane"))?;
    let hello = to_line(&Hello::Agent { api: API_VERSION })?;
    say_with(&stream, hello, keeper.file().as_slice()).map_err(io("writing to the peer"))?;
    let (line, files) = read_line_and_files(&stream, 5 * LINE_TIMEOUT)?;
    let mut files = files.into_iter();
    match from_line::<Reply<()>>(&line)? {
        Reply::Welcome { api: API_VERSION, facts } => {
            let rings = files.next().ok_or_else(|| LinkError::Protocol("a welcome without the rings' file".into()))?;
            keeper.offer(files.next());
            Ok((Link::new(channel::attach(rings)?, stream)?, facts))
        }
        Reply::Welcome { api, .. } => Err(LinkError::Version { ours: API_VERSION, theirs: api }),
        Reply::Error(reason) => Err(LinkError::Refused(reason)),
        Reply::Answer(()) => Err(LinkError::Protocol("an answer to a greeting".into())),
    }
}

/// Asks the dataplane that listens at `path` one question.
pub fn ask<Q: Serialize, A: DeserializeOwned>(path: &Path, question: &Q) -> Result<A, LinkError> {
    let stream = UnixStream::connect(path).map_err(io("connecting to the dataplane"))?;
    let question = serde_json::to_value(question).map_err(|e| LinkError::Protocol(e.to_string()))?;
    say(&stream, &Hello::Introspect { question })?;
    match from_line(&read_line(&stream, MAX_ANSWER, 5 * LINE_TIMEOUT)?)? {
        Reply::Answer(answer) => Ok(answer),
        Reply::Error(reason) => Err(LinkError::Refused(reason)),
        Reply::Welcome { .. } => Err(LinkError::Protocol("a welcome to a question".into())),
    }
}

#[cfg(test)]
mod tests;
