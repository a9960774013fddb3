//! `podplane-agent check-api`: whether the API server can be reached with these options, for `podplane doctor`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::Request;
use clap::Args;
use kube::client::Body;
use serde::Serialize;

use crate::cluster::{Cluster, ClusterOptions, SERVICE_ACCOUNT, explain};

/// How to reach the API server; the same options as of the agent itself.
#[derive(Args, Clone, Debug)]
pub struct ApiFlags {
    /// The API server's own address.
    #[arg(long, value_name = "URL", env = "PODPLANE_API_SERVER")]
    pub api_server: Option<String>,
    /// Folder with token and ca.crt.
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT)]
    pub credentials: PathBuf,
    /// Instead of --credentials: a kubeconfig.
    #[arg(long, value_name = "FILE", conflicts_with = "credentials")]
    pub kubeconfig: Option<PathBuf>,
}

impl ApiFlags {
    /// Whether an API server was named at all.
    pub fn is_given(&self) -> bool {
        self.api_server.is_some() || self.kubeconfig.is_some()
    }

    /// As the connection takes them.
    pub fn options(&self) -> ClusterOptions {
        let ApiFlags { api_server, credentials, kubeconfig } = self.clone();
        ClusterOptions { api_server, credentials, kubeconfig }
    }
}

/// What came of asking; its JSON form is what `podplane doctor` reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The address that was asked.
    pub url: String,
    /// The API server's version.
    pub version: Option<String>,
    /// What is wrong, and the cure.
    pub error: Option<String>,
    /// How many seconds the API server's clock is ahead of ours.
    pub clock_ahead_seconds: Option<i64>,
}

/// Asks for the version, and for the time by the answer's `Date` (RFC 9110 section 6.6.1).
pub async fn check(flags: &ApiFlags) -> Answer {
    let cluster = match Cluster::prepare(&flags.options(), "").await {
        Ok(cluster) => cluster,
        Err(error) => {
            let url = flags.api_server.clone().unwrap_or_default();
            return Answer { url, error: Some(error.to_string()), ..Answer::default() };
        }
    };
    let mut answer = Answer { url: cluster.url.clone(), ..Answer::default() };
    match cluster.client.apiserver_version().await {
        Ok(version) => answer.version = Some(version.git_version),
        Err(error) => answer.error = Some(explain(&cluster.url, &error)),
    }
    if answer.error.is_none() {
        answer.clock_ahead_seconds = clock_ahead(&cluster).await;
    }
    answer
}

async fn clock_ahead(cluster: &Cluster) -> Option<i64> {
    let request = Request::get("/version").body(Body::empty()).ok()?;
    let response = cluster.client.send(request).await.ok()?;
    let theirs = seconds(response.headers().get("date")?.to_str().ok()?)?;
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(theirs - i64::try_from(ours).ok()?)
}

/// Seconds since 1970 of an IMF-fixdate (RFC 9110 section 5.6.7), such as "Sun, 06 Nov 1994 08:49:37 GMT".
fn seconds(date: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = date.split_once(", ")?.1.strip_suffix(" GMT")?;
    let mut words = rest.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Days from 0000-03-01, when each leap day is the last of its year (Hinnant, "chrono-compatible algorithms").
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days =
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        for (date, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Tue, 29 Feb 2000 12:00:00 GMT", Some(951_825_600)),
            ("Fri, 31 Dec 2027 23:59:59 GMT", Some(1_830_297_599)),
            ("yesterday", None),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
        ] {
            assert_eq!(seconds(date), expected, "{date}");
        }
    }

    #[tokio::test]
    async fn an_answer_says_what_is_wrong() {
        let flags =
            |url: &str| ApiFlags { api_server: Some(url.into()), credentials: "/nowhere".into(), kubeconfig: None };
        let refused = check(&flags("https://192.0.2.1:6443")).await;
        assert!(refused.error.unwrap().contains("/nowhere/token"));
        // A port of this machine that nobody listens at.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let gone = check(&flags(&format!("http://127.0.0.1:{port}"))).await;
        assert!(gone.version.is_none() && gone.error.unwrap().contains("cannot be reached"));
    }
}
