//! The connection to the cluster's API server.
//!
//! Nothing here waits for the API server: it may be away for an hour, and the agent starts without it. What is wrong is
//! said with its cure by [`explain`]; only a configuration that can never work keeps the agent from starting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::Uri;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Where a pod finds its service account's token and the certificate of who signs the API server's.
pub const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a connection may take to come up.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may stay silent: API servers send bookmarks once a minute where nothing else happens, and
/// whoever is silent for longer is gone without having said so.
const SILENT_AT_MOST: Duration = Duration::from_secs(150);

/// How to reach the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Its real address; may be missing where `kubeconfig` states it.
    pub api_server: Option<String>,
    /// A folder with `token`, which is read again as it rotates, and `ca.crt`.
    pub credentials: PathBuf,
    /// Instead of `credentials`: a kubeconfig.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there cannot be a connection with these options, ever.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The address is no URL of a server.
    #[error("--api-server {0:?} is no address such as https://192.0.2.1:6443")]
    Url(String),
    /// The address is that of the Service `kubernetes`.
    #[error(
        "the API server's address {0} is the Service \"kubernetes\", which only answers once Podplane serves it: give the \
         address that the API server itself listens at, or that of the load balancer before it (--api-server)"
    )]
    ClusterIp(String),
    /// A file of the credentials cannot be used.
    #[error(
        "cannot use {}: {reason} (the service account's folder is mounted into the agent's pod unless \
         automountServiceAccountToken is false; --credentials names another folder, --kubeconfig a file)",
        .path.display()
    )]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}: {reason}", .path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The client cannot be made.
    #[error("cannot prepare the connection to the API server {url}: {reason}")]
    Client {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
}

/// A connection to the API server; clones share it.
#[derive(Clone)]
pub struct Cluster {
    /// For all calls. It does not repeat what failed: whoever calls decides.
    pub client: Client,
    /// The name of this node's Node object.
    pub node: String,
    /// The API server's address, as configured.
    pub url: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node", &self.node).field("url", &self.url).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Prepares the connection for the agent of `node`. Reads files, and asks nobody yet; must be called in a runtime,
    /// to which the connections then belong.
    ///
    /// # Errors
    /// What can never work as it is configured.
    pub async fn prepare(options: &ClusterOptions, node: &str) -> Result<Cluster, ClusterError> {
        let mut config = match &options.kubeconfig {
            Some(file) => from_kubeconfig(file, options.api_server.as_deref()).await?,
            None => from_folder(&options.credentials, options.api_server.as_deref()).await?,
        };
        let url = config.cluster_url.to_string();
        let url = url.trim_end_matches('/').to_owned();
        check_address(&config.cluster_url, std::env::var("KUBERNETES_SERVICE_HOST").ok().as_deref())?;
        config.connect_timeout = Some(CONNECT_WITHIN);
        config.read_timeout = Some(SILENT_AT_MOST);
        // Else time that a connection lay idle would count as silence of the next answer.
        config.reset_reader_on_write = true;
        // It would repeat calls for minutes without saying so.
        config.default_retry = false;
        let client = Client::try_from(config);
        let client = client.map_err(|e| ClusterError::Client { url: url.clone(), reason: causes(&e) })?;
        Ok(Cluster { client, node: node.to_owned(), url })
    }

    /// Asks the API server for its version, and for this node's object: the first calls of an agent, which tell most of
    /// what can be wrong.
    ///
    /// # Errors
    /// What is wrong and what to do, as [`explain`] says it.
    pub async fn check(&self) -> Result<String, String> {
        let version = self.client.apiserver_version().await.map_err(|e| explain(&self.url, &e))?;
        let nodes = kube::Api::<k8s_openapi::api::core::v1::Node>::all(self.client.clone());
        nodes.get_metadata_opt(&self.node).await.map_err(|e| explain(&self.url, &e))?;
        Ok(version.git_version)
    }
}

impl Cluster {
    /// Whether the address is that of the Service `kubernetes` after all: something else than Podplane serves it then,
    /// and once that is gone nothing does.
    pub(crate) async fn doubt(&self) -> Option<String> {
        let services = kube::Api::<k8s_openapi::api::core::v1::Service>::namespaced(self.client.clone(), "default");
        let spec = services.get("kubernetes").await.ok()?.spec?;
        let uri: Uri = self.url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let is_it = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()).any(|address| *address == host);
        is_it.then(|| ClusterError::ClusterIp(self.url.clone()).to_string())
    }
}

async fn from_kubeconfig(path: &Path, api_server: Option<&str>) -> Result<Config, ClusterError> {
    let wrong = |reason: String| ClusterError::Kubeconfig { path: path.to_owned(), reason };
    let file = Kubeconfig::read_from(path).map_err(|e| wrong(causes(&e)))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|e| wrong(causes(&e)))?;
    if let Some(url) = api_server {
        config.cluster_url = parse(url)?;
    }
    Ok(config)
}

async fn from_folder(folder: &Path, api_server: Option<&str>) -> Result<Config, ClusterError> {
    let mut config = Config::new(parse(api_server.unwrap_or_default())?);
    if config.cluster_url.scheme_str() == Some("https") {
        let (token, ca) = (folder.join("token"), folder.join("ca.crt"));
        for path in [&token, &ca] {
            let read = std::fs::read_to_string(path).map_err(|e| e.to_string());
            let text = read.map_err(|reason| ClusterError::Credentials { path: path.clone(), reason })?;
            if text.trim().is_empty() {
                return Err(ClusterError::Credentials { path: path.clone(), reason: "it is empty".into() });
            }
        }
        config.auth_info.token_file = Some(token.display().to_string());
        config.root_cert_file = Some(ca);
        // The file decides, which is read again as it changes. With nothing here kube would ask for the system's
        // certificates as well and fail where there are none, as in our image.
        config.root_cert = Some(Vec::new());
    }
    Ok(config)
}

fn parse(url: &str) -> Result<Uri, ClusterError> {
    let parsed: Option<Uri> = url.parse().ok();
    let usable = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|host| !host.is_empty())
    };
    parsed.filter(usable).ok_or_else(|| ClusterError::Url(url.to_owned()))
}

/// Refuses the ClusterIP of the Service `kubernetes`, which nobody serves before this agent is connected: by its name,
/// or by the address that kubelet tells every pod.
fn check_address(url: &Uri, told_by_kubelet: Option<&str>) -> Result<(), ClusterError> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let name = host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc")).unwrap_or(&host);
    let is_service = ["kubernetes", "kubernetes.default"].contains(&name);
    if is_service || told_by_kubelet.is_some_and(|told| told.trim_matches(['[', ']']) == host) {
        return Err(ClusterError::ClusterIp(url.to_string()));
    }
    Ok(())
}

/// What went wrong with a call to the API server at `url`, and what to do.
pub fn explain(url: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => answered(url, status),
        other => unanswered(url, &causes(other)),
    }
}

/// What an answer with an error means.
fn answered(url: &str, status: &kube::core::Status) -> String {
    let said = match (status.message.trim(), status.code) {
        ("", code) => format!("HTTP status {code}"),
        (message, _) => message.to_owned(),
    };
    match status.code {
        401 => format!(
            "the API server {url} does not know this agent (401, {said}): its token is for another cluster or has expired; \
             look at the folder of --credentials, or the kubeconfig"
        ),
        403 => format!(
            "the API server {url} forbids it (403, {said}): the agent's ClusterRole or its binding is missing; apply \
             Podplane's RBAC manifests again"
        ),
        429 => format!("the API server {url} asks for patience (429, {said})"),
        500.. => format!("the API server {url} has trouble of its own ({}, {said})", status.code),
        code => format!("the API server {url} refused ({code}, {said})"),
    }
}

/// What a call means that got no answer.
fn unanswered(url: &str, causes: &str) -> String {
    let lower = causes.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["unknownissuer", "unknown issuer", "certificate", "cert ", "notvalidforname"]) {
        return format!(
            "the API server {url} cannot prove who it is ({causes}): ca.crt is for another cluster, its certificate does \
             not name this address, or a clock is wrong"
        );
    }
    if has(&["tls", "corrupt message", "invalidcontenttype"]) {
        return format!("{url} does not speak TLS as an API server does ({causes}): is it another service's address?");
    }
    if has(&["dns error", "lookup"]) {
        return format!("the name of the API server {url} cannot be resolved ({causes}): give its address instead");
    }
    format!(
        "the API server {url} cannot be reached ({causes}): is --api-server its real address, and does this node have a \
         route to it?"
    )
}

/// An error with all that caused it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
