//! The agent's Unix socket: HTTP and JSON for the CNI plugin and the operator's command, root only.

use std::future::{Future, IntoFuture};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Router, serve};
use podplane_api::{AddRequest, CheckRequest, DelRequest, GcRequest, ReadyRequest, enforced, path};
use serde::Serialize;
use tokio::net::unix::SocketAddr;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::attachments::{Attachments, Refusal, later, refuse};
use crate::metrics::{CniCalls, Outcome};
use crate::status::Status;

/// The longest request in bytes: `gc` names every attachment of the node.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// What the calls act on.
#[derive(Clone)]
pub struct Service {
    /// The CNI calls.
    pub attachments: Arc<Attachments>,
    /// The agent's own state.
    pub status: Arc<Status>,
    /// Where the mark of a first enforced configuration is.
    pub run_dir: PathBuf,
}

/// Listens at `RUN/agent.sock` with mode 0600, replacing a socket that nobody listens at any more.
pub fn listen(run_dir: &Path) -> io::Result<RootOnly> {
    let path = run_dir.join(path::SOCKET);
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        let text = format!("another agent listens at {}: stop it, or give this one another --run-dir", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(RootOnly { listener, path })
}

/// A listener that hears root and the agent's own user.
#[derive(Debug)]
pub struct RootOnly {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener for RootOnly {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() => {
                    return (stream, address);
                }
                Ok(peer) => tracing::warn!(uid = peer.uid(), pid = peer.pid(), "turned away: only root may call"),
                Err(e) => tracing::warn!(reason = %e, "turned away a caller that cannot be identified"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// For how long calls that are under way may hold up the end. One may wait for a dataplane for longer; its caller then
/// finds the connection closed and calls again, as after a crash.
const LAST_CALLS: Duration = Duration::from_secs(3);

/// Serves until `stop` is ready, then finishes the calls that are under way, within limits, and removes the socket.
pub async fn run(
    listener: RootOnly,
    service: Service,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let path = listener.path.clone();
    let router = Router::new()
        .route(path::ADD, post(add))
        .route(path::READY, post(ready))
        .route(path::DEL, post(del))
        .route(path::CHECK, post(check))
        .route(path::GC, post(gc))
        .route(path::CNI_STATUS, get(cni_status))
        .route(path::STATUS, get(status))
        .route(path::SERVICES, get(services))
        .route(path::POLICIES, get(policies))
        .fallback(async || answer::<()>(Err(refuse(404, "no such call in this version of the agent"))))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(service);
    let (stopping, stopped) = oneshot::channel();
    let stop = async move {
        stop.await;
        let _ = stopping.send(());
    };
    let late = async move {
        if stopped.await.is_err() {
            // The server ended by itself.
            std::future::pending::<()>().await;
        }
        sleep(LAST_CALLS).await;
    };
    let done = tokio::select! {
        done = serve(listener, router).with_graceful_shutdown(stop).into_future() => done,
        () = late => {
            tracing::warn!("calls that are still under way are given up; their callers will call again");
            Ok(())
        }
    };
    // Before the next agent could have made its own: it refuses to while this one listens.
    let _ = std::fs::remove_file(path);
    done
}

type Body<T> = Result<Json<T>, JsonRejection>;

async fn add(State(Service { attachments, status, .. }): State<Service>, body: Body<AddRequest>) -> Response {
    call("add", &status.shown.calls, body, |request| async move { attachments.add(&request).await }).await
}

async fn ready(State(Service { attachments, status, .. }): State<Service>, body: Body<ReadyRequest>) -> Response {
    call("ready", &status.shown.calls, body, |request| async move { attachments.ready(&request).await }).await
}

async fn del(State(Service { attachments, status, .. }): State<Service>, body: Body<DelRequest>) -> Response {
    call("del", &status.shown.calls, body, |request| async move { attachments.del(&request).await }).await
}

async fn check(State(Service { attachments, status, .. }): State<Service>, body: Body<CheckRequest>) -> Response {
    call("check", &status.shown.calls, body, |request| async move { attachments.check(&request).await }).await
}

async fn gc(State(Service { attachments, status, .. }): State<Service>, body: Body<GcRequest>) -> Response {
    call("gc", &status.shown.calls, body, |request| async move { attachments.gc(&request).await }).await
}

async fn cni_status(State(service): State<Service>) -> Response {
    // Once enforced, a loss is for the Node's condition to say: here it would take down the pods that run.
    let obstacle = service.attachments.obstacle().filter(|_| !enforced::is_marked(&service.run_dir));
    answer(obstacle.map_or(Ok(()), |obstacle| Err(later(obstacle))))
}

async fn status(State(service): State<Service>) -> Response {
    answer(service.status.now(&service.attachments).await)
}

async fn services(State(service): State<Service>) -> Response {
    let desired = service.status.desired.clone();
    // Some ten thousand Services take a while to write down: not on a thread that others need.
    let listed = tokio::task::spawn_blocking(move || desired.read(crate::services::list)).await;
    answer(listed.map_err(|e| refuse(500, e.to_string())))
}

async fn policies(State(service): State<Service>) -> Response {
    let desired = service.status.desired.clone();
    // Likewise: some hundred pods with a thousand rules each.
    let listed = tokio::task::spawn_blocking(move || desired.read(crate::policies::list)).await;
    answer(listed.map_err(|e| refuse(500, e.to_string())))
}

/// Runs a call on a task of its own: a caller that goes away must not leave it half done.
async fn call<Q, A, F>(verb: &'static str, calls: &CniCalls, body: Body<Q>, f: impl FnOnce(Q) -> F) -> Response
where
    A: Serialize + Send + 'static,
    F: Future<Output = Result<A, Refusal>> + Send + 'static,
{
    let began = Instant::now();
    let done = match body {
        Ok(Json(request)) => {
            let done = tokio::spawn(f(request)).await;
            done.unwrap_or_else(|e| Err(refuse(500, format!("the agent failed: {e}"))))
        }
        Err(e) => Err(refuse(400, e.body_text())),
    };
    let outcome = match &done {
        Ok(_) => Outcome::Ok,
        Err(refusal) if refusal.error.retry => Outcome::Retry,
        Err(_) => Outcome::Error,
    };
    calls.done(verb, began.elapsed(), outcome);
    answer(done)
}

fn answer<A: Serialize>(outcome: Result<A, Refusal>) -> Response {
    match outcome {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Json(refusal.error)).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
