//! Readiness probes, as far as a lab needs them: a pod counts as started once its containers' probes were well for the
//! first time. Later changes of mind are the user's: `lab pod ready` and `unready`.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::state::{Lab, PodRecord};

/// How long a pod may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until all readiness probes of a pod say yes. They come from the node, as a kubelet's do.
pub fn wait(lab: &Lab, pod: &PodRecord, object: &Value) -> Result<()> {
    let containers = object.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    for probe in containers.filter_map(|container| container.get("readinessProbe")) {
        let address = object.pointer("/status/podIP").and_then(Value::as_str).unwrap_or_default();
        let Some(command) = command(probe, address) else {
            bail!("the lab knows the readiness probes httpGet, tcpSocket and exec with numbered ports, not {probe}");
        };
        let netns = if probe.get("exec").is_some() { pod.netns.clone() } else { lab.node_netns(pod.node)? };
        let deadline = Instant::now() + PATIENCE;
        while !succeeds(&netns, &command)? {
            if Instant::now() > deadline {
                bail!("not ready within {PATIENCE:?}: {}", command.join(" "));
            }
            sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn command(probe: &Value, address: &str) -> Option<Vec<String>> {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let words: Vec<String> = if let Some(http) = probe.get("httpGet") {
        let path = http.get("path").and_then(Value::as_str).unwrap_or("/");
        let url = format!("http://{host}:{}{path}", http.get("port")?.as_u64()?);
        ["curl", "-sf", "-o", "/dev/null", "--max-time", "1", &url].map(str::to_owned).into()
    } else if let Some(tcp) = probe.get("tcpSocket") {
        let connect = format!("</dev/tcp/{address}/{}", tcp.get("port")?.as_u64()?);
        ["timeout", "1", "bash", "-c", &connect].map(str::to_owned).into()
    } else {
        let exec = probe.pointer("/exec/command")?.as_array()?;
        exec.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    Some(words)
}

fn succeeds(netns: &str, command: &[String]) -> Result<bool> {
    let status = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{netns}"))
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_probe_becomes_a_command() {
        let http = command(&json!({ "httpGet": { "port": 8080, "path": "/healthz" } }), "fd00::1").unwrap();
        assert_eq!(http.last().unwrap(), "http://[fd00::1]:8080/healthz");
        let tcp = command(&json!({ "tcpSocket": { "port": 53 } }), "10.0.0.1").unwrap();
        assert_eq!(tcp.last().unwrap(), "</dev/tcp/10.0.0.1/53");
        assert_eq!(command(&json!({ "exec": { "command": ["true"] } }), ""), Some(vec!["true".to_owned()]));
        assert_eq!(command(&json!({ "grpc": { "port": 1 } }), "10.0.0.1"), None);
    }
}
