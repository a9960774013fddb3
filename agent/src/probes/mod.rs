//! What probes and tests expect of a node's proxy: `/healthz` and `/livez` on port 10256, `/proxyMode` and `/metrics` on
//! 127.0.0.1:10249, with kube-proxy's answers where their meaning is the same.
//!
//! A port that cannot be opened is a trouble in `podplane status`, tried again every few seconds, and never the end of
//! the agent.

mod health;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::sleep;

use crate::metrics::{self, Scraper};

pub use health::HealthSource;

/// After which time a port that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted at one port.
const BACKLOG: u32 = 64;
/// What serves this node's Services: none of kube-proxy's modes, and tests that skip for one of those must not.
pub const PROXY_MODE: &str = "podplane";

/// Where something is served: addresses with ports, or nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(pub Vec<SocketAddr>);

impl FromStr for Places {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Places::default());
        }
        let place = |text: &str| {
            let place = text.trim().parse::<SocketAddr>();
            place.map_err(|_| format!("\"{text}\" is no address with a port such as 127.0.0.1:10249 or [::]:10256"))
        };
        text.split(',').map(place).collect::<Result<_, _>>().map(Places)
    }
}

/// Where the agent answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeOptions {
    /// `/healthz` and `/livez`.
    pub healthz: Places,
    /// `/proxyMode`, `/healthz` and `/metrics`.
    pub status: Places,
    /// `/metrics` alone.
    pub metrics: Places,
}

/// Which ports could not be opened, and why.
#[derive(Clone, Debug, Default)]
pub struct ProbeTroubles(Arc<Mutex<BTreeMap<SocketAddr, String>>>);

impl ProbeTroubles {
    /// All of them.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn set(&self, place: SocketAddr, trouble: Option<String>) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(trouble) => {
                if troubles.get(&place) != Some(&trouble) {
                    tracing::error!("{trouble}");
                }
                troubles.insert(place, trouble);
            }
            None => drop(troubles.remove(&place)),
        }
    }
}

/// Serves it all until the runtime ends.
pub fn start(options: &ProbeOptions, health: HealthSource, scraper: Arc<Scraper>) -> ProbeTroubles {
    let troubles = ProbeTroubles::default();
    let probes = Router::new().route("/healthz", get(healthz)).route("/livez", get(livez)).with_state(health);
    let metrics = Router::new().route("/metrics", get(scrape)).with_state(scraper);
    let status = Router::new().route("/proxyMode", get(PROXY_MODE)).route("/healthz", get("ok")).merge(metrics.clone());
    for (places, flag, router) in [
        (&options.healthz, "--healthz-address", probes),
        (&options.status, "--status-address", status),
        (&options.metrics, "--metrics-address", metrics),
    ] {
        for &place in &places.0 {
            tokio::spawn(serve(place, flag, router.clone(), troubles.clone()));
        }
    }
    troubles
}

async fn serve(place: SocketAddr, flag: &'static str, router: Router, troubles: ProbeTroubles) {
    loop {
        let ended = match listen(place) {
            Ok(listener) => {
                troubles.set(place, None);
                axum::serve(listener, router.clone()).await.err()
            }
            Err(e) => Some(e),
        };
        let why = ended.map_or_else(|| "it ended".to_owned(), |e| e.to_string());
        let trouble = format!(
            "{place} cannot be served: {why}; is another agent or kube-proxy running? ({flag} names another address, or \
             none)"
        );
        troubles.set(place, Some(trouble));
        sleep(AGAIN).await;
    }
}

fn listen(place: SocketAddr) -> io::Result<TcpListener> {
    match open(place) {
        // All addresses of a machine without IPv6.
        Err(e) if place.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && is_without_ipv6(&e) => {
            open(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), place.port()))
        }
        done => done,
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let none = [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|errno| none.contains(&errno))
}

fn open(place: SocketAddr) -> io::Result<TcpListener> {
    let socket = if place.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(place)?;
    socket.listen(BACKLOG)
}

async fn healthz(State(health): State<HealthSource>) -> Response {
    answer(health.now(true))
}

async fn livez(State(health): State<HealthSource>) -> Response {
    answer(health.now(false))
}

fn answer((good, body): (bool, String)) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, body).into_response()
}

async fn scrape(State(scraper): State<Arc<Scraper>>) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], scraper.text().await).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        assert_eq!("none".parse::<Places>(), Ok(Places::default()));
        assert_eq!("127.0.0.1:1,[::1]:2".parse::<Places>().unwrap().0.len(), 2);
        for wrong in ["", "10256", "localhost:1", "127.0.0.1"] {
            assert!(wrong.parse::<Places>().unwrap_err().contains("no address with a port"), "{wrong}");
        }
    }
}
