//! `spec.healthCheckNodePort`: where a load balancer asks whether this node has endpoints of a Service.
//!
//! kube-proxy's answer, byte for byte (pkg/proxy/healthcheck/service_health.go): 200 where a ready endpoint of the
//! address's family is on this node and the proxy works, else 503; what only terminates does not count. Served at the
//! addresses that serve node ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use podplane_index::{HealthCheck, Index};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::desired::Desired;
use crate::publish::Observer;
use crate::status::Trouble;

/// After which time a port that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// The least time between two looks at what is wanted.
const BREATH: Duration = Duration::from_millis(50);
/// Connections that wait to be accepted at one port.
const BACKLOG: u32 = 64;

/// Where each Service is answered for.
type Places = BTreeMap<SocketAddr, String>;

/// Answers for all Services that want it.
pub struct Health {
    /// The configuration that should be in force.
    pub desired: Arc<Desired>,
    /// The dataplane.
    pub observer: Observer,
    /// Where to say which port could not be opened.
    pub trouble: Trouble,
}

/// One port that is open.
struct Open {
    service: String,
    server: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Health {
    /// Does it until the runtime ends.
    pub async fn run(self) {
        let mut ticks = self.desired.subscribe();
        let mut open: BTreeMap<SocketAddr, Open> = BTreeMap::new();
        loop {
            let wanted = self.desired.read(places);
            // First those that go: another Service may want the port.
            open.retain(|place, open| wanted.get(place) == Some(&open.service) && !open.server.is_finished());
            let mut failed = None;
            for (place, service) in wanted {
                if open.contains_key(&place) {
                    continue;
                }
                match listen(place) {
                    Ok(listener) => drop(open.insert(place, self.serve(listener, place, service))),
                    Err(e) => {
                        failed = Some(format!("{service}: spec.healthCheckNodePort cannot be served at {place}: {e}"))
                    }
                }
            }
            let retry = failed.is_some();
            if let Some(trouble) = &failed
                && self.trouble.get().as_ref() != Some(trouble)
            {
                tracing::error!("{trouble}");
            }
            self.trouble.set(failed);
            sleep(BREATH).await;
            match retry {
                true => drop(timeout(AGAIN, ticks.changed()).await),
                false => drop(ticks.changed().await),
            }
        }
    }

    fn serve(&self, listener: TcpListener, place: SocketAddr, service: String) -> Open {
        let asked = Asked {
            desired: self.desired.clone(),
            observer: self.observer.clone(),
            service: service.clone(),
            v4: place.is_ipv4(),
        };
        let router = Router::new().fallback(answer).with_state(asked);
        let server = tokio::spawn(async move {
            if let Err(e) = axum::serve(listener, router).await {
                tracing::warn!(%place, reason = %e, "a health check server ended");
            }
        });
        Open { service, server }
    }
}

fn listen(place: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if place.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(place)?;
    socket.listen(BACKLOG)
}

fn places(index: &Index) -> Places {
    let Some(traffic) = index.node_traffic() else { return Places::new() };
    let mut places = Places::new();
    for check in index.health_checks() {
        for address in &traffic.node_port_addresses {
            if count(check, address.is_ipv4()).is_some() {
                places.insert(SocketAddr::new(*address, check.port), check.service.clone());
            }
        }
    }
    places
}

fn count(check: &HealthCheck, v4: bool) -> Option<usize> {
    if v4 { check.v4 } else { check.v6 }
}

#[derive(Clone)]
struct Asked {
    desired: Arc<Desired>,
    observer: Observer,
    service: String,
    v4: bool,
}

async fn answer(State(asked): State<Asked>) -> Response {
    let local = asked.desired.read(|index| {
        let check = index.health_checks().find(|check| check.service == asked.service);
        check.and_then(|check| count(check, asked.v4)).unwrap_or_default()
    });
    // Without a dataplane that forwards by our word this node serves nobody.
    let healthy = asked.observer.look(|progress| progress.connected && progress.version.is_some());
    let (namespace, name) = asked.service.split_once('/').unwrap_or(("", &asked.service));
    let status = if local > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (HeaderName::from_static("x-load-balancing-endpoint-weight"), local.to_string()),
    ];
    (status, headers, body(namespace, name, local, healthy)).into_response()
}

fn body(namespace: &str, name: &str, local: usize, healthy: bool) -> String {
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\
         \t\"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    )
}

#[cfg(test)]
mod tests;
