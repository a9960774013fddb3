//! A small blocking client over the Unix socket, for programs that live for one call.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::path;
use crate::policies::PoliciesStatus;
use crate::services::ServiceStatus;
use crate::types::{
    AddReply, AddRequest, AgentStatus, ApiError, CheckRequest, DelRequest, GcRequest, ReadyRequest, Released,
};

/// The longest answer in bytes: 100,000 endpoints of Services are well below.
const MAX_ANSWER: usize = 128 * 1024 * 1024;

/// How long a call may take unless told otherwise: above the agent's own bound for `ready`.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the agent is not running (or `socket` is not its socket).
    #[error("no agent at {socket}: {cause}; start podplane-agent, or name its --run-dir")]
    Down {
        /// The socket that was tried.
        socket: String,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The agent answered with an error.
    #[error("{}", .error.message)]
    Api {
        /// The HTTP status.
        status: u16,
        /// What the agent says.
        error: ApiError,
    },
    /// The agent did not answer in time.
    #[error("the agent did not answer {path} within {within:?}")]
    Timeout {
        /// The call.
        path: &'static str,
        /// The bound.
        within: Duration,
    },
    /// The connection broke, or what came is no answer of this version. Whether the call took effect is unknown;
    /// every call may be repeated.
    #[error("{path}: {reason}")]
    Broken {
        /// The call.
        path: &'static str,
        /// What happened.
        reason: String,
    },
    /// This process could not make a call at all.
    #[error("cannot start the client: {0}")]
    Local(std::io::Error),
}

impl ClientError {
    /// Whether no agent heard the call, so that it had no effect.
    pub fn is_down(&self) -> bool {
        matches!(self, ClientError::Down { .. })
    }

    /// Whether the same call may succeed later (CNI error code 11).
    pub fn retry(&self) -> bool {
        match self {
            ClientError::Api { error, .. } => error.retry,
            ClientError::Local(_) => false,
            ClientError::Down { .. } | ClientError::Timeout { .. } | ClientError::Broken { .. } => true,
        }
    }

    /// Whether the agent knows nothing of the attachment.
    pub fn is_not_found(&self) -> bool {
        matches!(self, ClientError::Api { status: 404, .. })
    }
}

/// Calls to the agent at one socket. Each call has a connection of its own.
#[derive(Clone, Debug)]
pub struct AgentClient {
    socket: PathBuf,
    timeout: Duration,
}

impl AgentClient {
    /// A client of the agent that listens at `socket` (`RUN/agent.sock`). Connects with the first call.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        AgentClient { socket: socket.as_ref().to_owned(), timeout: DEFAULT_TIMEOUT }
    }

    /// The same client with another bound for each whole call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Reserves addresses and a MAC.
    pub fn add(&self, request: &AddRequest) -> Result<AddReply, ClientError> {
        self.post(path::ADD, request)
    }

    /// Says that the devices exist; returns once every worker forwards for the pod.
    pub fn ready(&self, request: &ReadyRequest) -> Result<(), ClientError> {
        self.post(path::READY, request)
    }

    /// Gives everything of an attachment back.
    pub fn del(&self, request: &DelRequest) -> Result<Released, ClientError> {
        self.post(path::DEL, request)
    }

    /// The lease of an attachment that is in force; [`ClientError::is_not_found`] otherwise.
    pub fn check(&self, request: &CheckRequest) -> Result<AddReply, ClientError> {
        self.post(path::CHECK, request)
    }

    /// Gives back every attachment that is not listed.
    pub fn gc(&self, request: &GcRequest) -> Result<Released, ClientError> {
        self.post(path::GC, request)
    }

    /// Whether pods can be added (CNI STATUS); the error says why not.
    pub fn cni_status(&self) -> Result<(), ClientError> {
        self.get(path::CNI_STATUS)
    }

    /// What the agent knows of itself.
    pub fn status(&self) -> Result<AgentStatus, ClientError> {
        self.get(path::STATUS)
    }

    /// What the node makes of each Service.
    pub fn services(&self) -> Result<Vec<ServiceStatus>, ClientError> {
        self.get(path::SERVICES)
    }

    /// Which policies the node knows, and what applies to each of its pods.
    pub fn policies(&self) -> Result<PoliciesStatus, ClientError> {
        self.get(path::POLICIES)
    }

    fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &'static str, request: &Q) -> Result<A, ClientError> {
        let body = serde_json::to_vec(request).map_err(|e| ClientError::Broken { path, reason: e.to_string() })?;
        self.call(Method::POST, path, body.into())
    }

    fn get<A: DeserializeOwned>(&self, path: &'static str) -> Result<A, ClientError> {
        self.call(Method::GET, path, Bytes::new())
    }

    fn call<A: DeserializeOwned>(&self, method: Method, path: &'static str, body: Bytes) -> Result<A, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Local)?;
        let (status, answer) = runtime
            .block_on(async { tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await })
            .map_err(|_| ClientError::Timeout { path, within: self.timeout })??;
        let broken = |e: serde_json::Error| ClientError::Broken { path, reason: format!("answer {status}: {e}") };
        if status.is_success() {
            // `ready` and CNI STATUS answer with nothing.
            let answer = if answer.is_empty() { Bytes::from_static(b"null") } else { answer };
            return serde_json::from_slice(&answer).map_err(broken);
        }
        let error = serde_json::from_slice(&answer).map_err(broken)?;
        Err(ClientError::Api { status: status.as_u16(), error })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let broken = |reason: String| ClientError::Broken { path, reason };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|cause| ClientError::Down { socket: self.socket.display().to_string(), cause })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.to_string()))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "podplane-agent")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| broken(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(|e| broken(e.to_string()))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        connection.abort();
        Ok((status, answer.map_err(|e| broken(e.to_string()))?.to_bytes()))
    }
}

#[cfg(test)]
mod tests;
