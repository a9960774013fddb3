//! `runtimeConfig.portMappings` (capability `portMappings`).

use std::net::IpAddr;

use podplane_api::{PortMapping, Protocol};
use serde_json::{Map, Value};

use crate::{CniError, Code};

/// The mappings that the runtime asks for, sorted, each once. As with the reference plugin, one whose `hostPort` is 0
/// asks for nothing.
pub(crate) fn mappings(config: &Map<String, Value>) -> Result<Vec<PortMapping>, CniError> {
    let list = match config.get("runtimeConfig").and_then(|runtime| runtime.get("portMappings")) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong("it is not a list")),
    };
    let mut mappings = Vec::new();
    for value in list {
        mappings.extend(mapping(value)?);
    }
    mappings.sort_unstable();
    mappings.dedup();
    Ok(mappings)
}

fn wrong(what: &str) -> CniError {
    CniError::new(Code::InvalidConfig, format!("\"runtimeConfig.portMappings\": {what}"))
}

/// A field by its name in any case: containerd writes "HostPort", and the reference plugin's JSON library takes that.
fn field<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let fields = value.as_object()?;
    fields.get(key).or_else(|| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value))
}

fn mapping(value: &Value) -> Result<Option<PortMapping>, CniError> {
    let port = |key: &str| {
        let number = field(value, key).and_then(Value::as_u64);
        number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| wrong(&format!("{value}: \"{key}\" is no port")))
    };
    let (host_port, container_port) = (port("hostPort")?, port("containerPort")?);
    if host_port == 0 {
        return Ok(None);
    }
    let text = |key: &str| field(value, key).and_then(Value::as_str).unwrap_or_default();
    let protocol = match text("protocol").to_ascii_lowercase().as_str() {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(wrong(&format!("\"{other}\" is no protocol: tcp, udp or sctp"))),
    };
    let host_ip = match text("hostIP") {
        "" => None,
        text => Some(text.parse().map_err(|_| wrong(&format!("hostIP \"{text}\" is no IP address")))?),
    };
    Ok(Some(PortMapping {
        protocol,
        host_ip: host_ip.filter(|a: &IpAddr| !a.is_unspecified()),
        host_port,
        container_port,
    }))
}

/// Why the lease is not what the runtime asks for. One address of many is served where all are.
pub(crate) fn missing(asked: &[PortMapping], leased: &[PortMapping]) -> Option<String> {
    let is_there = |mapping: &&PortMapping| {
        leased.contains(mapping) || leased.contains(&PortMapping { host_ip: None, ..**mapping })
    };
    let absent = asked.iter().find(|mapping| !is_there(mapping))?;
    let PortMapping { host_port, container_port, protocol, .. } = absent;
    Some(format!("host port {host_port} to {container_port} ({protocol:?}) is asked for, the lease has it not"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn parse(list: &str) -> Result<Vec<PortMapping>, CniError> {
        let text = format!(r#"{{"cniVersion": "1.1.0", "name": "n", "runtimeConfig": {{"portMappings": {list}}}}}"#);
        Config::parse(text.as_bytes()).map(|config| config.host_ports)
    }

    #[test]
    fn mappings_as_runtimes_write_them() {
        let list = r#"[{"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "192.0.2.1"},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": ""},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "0.0.0.0"},
            {"hostPort": 0, "containerPort": 81}, {"hostPort": 9, "containerPort": 9, "protocol": "sctp"}]"#;
        let mapping = |protocol, host_ip: Option<&str>, host_port, container_port| {
            let host_ip = host_ip.map(|ip| ip.parse().unwrap());
            PortMapping { protocol, host_ip, host_port, container_port }
        };
        let expected = [
            mapping(Protocol::Tcp, Some("192.0.2.1"), 8080, 80),
            mapping(Protocol::Udp, None, 53, 5353),
            mapping(Protocol::Sctp, None, 9, 9),
        ];
        assert_eq!(parse(list).unwrap(), expected);
        assert_eq!(parse("null").unwrap(), []);
        let containerd = r#"[{"ContainerPort":8080,"HostIP":"127.0.0.1","HostPort":54323,"Protocol":"tcp"}]"#;
        assert_eq!(parse(containerd).unwrap(), [mapping(Protocol::Tcp, Some("127.0.0.1"), 54323, 8080)]);
        let everywhere = [mapping(Protocol::Tcp, None, 8080, 80), expected[1], expected[2]];
        assert_eq!(missing(&expected, &everywhere), None);
        assert!(missing(&everywhere, &expected).unwrap().contains("host port 8080"));
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        for (list, reason) in [
            ("{}", "not a list"),
            (r#"[{"hostPort": 65536, "containerPort": 80}]"#, "\"hostPort\" is no port"),
            (r#"[{"hostPort": 80}]"#, "\"containerPort\" is no port"),
            (r#"[{"hostPort": 80, "containerPort": -1}]"#, "\"containerPort\" is no port"),
            (r#"[{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]"#, "no protocol"),
            (r#"[{"hostPort": 80, "containerPort": 80, "hostIP": "here"}]"#, "no IP address"),
        ] {
            let refused = parse(list).unwrap_err();
            assert_eq!(refused.code, Code::InvalidConfig);
            assert!(refused.to_string().contains(reason), "{refused}");
        }
    }
}
