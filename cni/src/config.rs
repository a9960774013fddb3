//! The network configuration on stdin.

use std::{io::Read, path::PathBuf};

use podplane_api::{AttachmentId, PortMapping};
use serde_json::{Map, Value, json};

use crate::{CniError, Code, ports};

/// Longest configuration in bytes; GC lists every attachment of a node in it.
pub const MAX_CONFIG: u64 = 4 * 1024 * 1024;

/// A supported version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0
    V030,
    /// 0.3.1
    V031,
    /// 0.4.0: CHECK.
    V040,
    /// 1.0.0: no IP version in results.
    V100,
    /// 1.1.0: GC, STATUS; MTU in results.
    V110,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Version; 5] = [Version::V030, Version::V031, Version::V040, Version::V100, Version::V110];
    /// The newest.
    pub const NEWEST: Version = Version::V110;

    /// As in `cniVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::V030 => "0.3.0",
            Version::V031 => "0.3.1",
            Version::V040 => "0.4.0",
            Version::V100 => "1.0.0",
            Version::V110 => "1.1.0",
        }
    }

    fn of(text: &str) -> Result<Self, CniError> {
        Version::ALL.into_iter().find(|v| v.as_str() == text).ok_or_else(|| {
            let message = format!("cniVersion \"{text}\" is not supported; supported: {}", crate::supported());
            CniError::new(Code::IncompatibleVersion, message)
        })
    }
}

/// The configuration, checked. Unknown keys are accepted, as the specification asks.
#[derive(Clone, Debug)]
pub struct Config {
    /// `cniVersion`.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `agentSocket`.
    pub agent_socket: PathBuf,
    /// `stateDir`.
    pub state_dir: PathBuf,
    /// `prevResult`: of an earlier plugin in the chain (ADD), or of our ADD (CHECK, DEL).
    pub prev_result: Option<Map<String, Value>>,
    /// `dns`, passed on to the result.
    pub dns: Option<Value>,
    /// `cni.dev/valid-attachments` (GC); `None`: not given.
    pub valid_attachments: Option<Vec<AttachmentId>>,
    /// `runtimeConfig.portMappings`, sorted, each once.
    pub host_ports: Vec<PortMapping>,
}

/// Reads stdin up to [`MAX_CONFIG`].
pub(crate) fn read(stdin: &mut dyn Read) -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    let read = stdin.take(MAX_CONFIG + 1).read_to_end(&mut bytes);
    read.map_err(|e| CniError::caused(Code::Io, "cannot read the network configuration from stdin", e))?;
    if bytes.len() as u64 > MAX_CONFIG {
        let message = format!("the network configuration on stdin is longer than {MAX_CONFIG} bytes");
        return Err(CniError::new(Code::InvalidConfig, message));
    }
    Ok(bytes)
}

/// The answer to VERSION: the input's version is echoed, also one that is not supported; no input is fine.
pub(crate) fn version_answer(bytes: &[u8]) -> Result<String, CniError> {
    let input = if bytes.iter().all(u8::is_ascii_whitespace) { Map::new() } else { object(bytes)? };
    let version = string(&input, "cniVersion")?.unwrap_or(Version::NEWEST.as_str().to_string());
    Ok(json!({"cniVersion": version, "supportedVersions": Version::ALL.map(Version::as_str)}).to_string())
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, CniError> {
    serde_json::from_slice(bytes)
        .map_err(|e| CniError::caused(Code::Decode, "the network configuration on stdin is not a JSON object", e))
}

fn wrong(key: &str, wanted: &str) -> CniError {
    CniError::new(Code::Decode, format!("the network configuration's \"{key}\" is not {wanted}"))
}

fn string(object: &Map<String, Value>, key: &str) -> Result<Option<String>, CniError> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(key, "a string")),
    }
}

fn path(object: &Map<String, Value>, key: &str, default: &str) -> Result<PathBuf, CniError> {
    let path = PathBuf::from(string(object, key)?.unwrap_or(default.to_string()));
    match path.is_absolute() {
        true => Ok(path),
        false => {
            Err(CniError::new(Code::InvalidConfig, format!("\"{key}\": {} is not an absolute path", path.display())))
        }
    }
}

impl Config {
    /// Parses and checks the configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        let object = object(bytes)?;
        // No cniVersion means 0.1.0 by the specification, which is refused with the list of those that are not.
        let version = Version::of(&string(&object, "cniVersion")?.unwrap_or("0.1.0".into()))?;
        let name = string(&object, "name")?.unwrap_or_default();
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if !name.bytes().all(plain) || !name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) {
            let message = "\"name\": expected a letter or digit, then letters, digits, '_', '.' and '-'";
            return Err(CniError::new(Code::InvalidConfig, message));
        }
        if let Some(ipam) = object.get("ipam").filter(|v| v.as_object().is_some_and(|o| !o.is_empty())) {
            let message = format!("\"ipam\": {ipam}: Podplane's agent gives the addresses out; remove \"ipam\"");
            return Err(CniError::new(Code::UnsupportedField, message));
        }
        let prev_result = match object.get("prevResult") {
            None | Some(Value::Null) => None,
            Some(Value::Object(result)) => Some(result.clone()),
            Some(_) => return Err(wrong("prevResult", "an object")),
        };
        Ok(Config {
            version,
            name,
            agent_socket: path(&object, "agentSocket", "/run/podplane/agent.sock")?,
            state_dir: path(&object, "stateDir", "/var/lib/podplane")?,
            prev_result,
            dns: object.get("dns").filter(|d| d.as_object().is_some_and(|o| !o.is_empty())).cloned(),
            valid_attachments: valid_attachments(&object)?,
            host_ports: ports::mappings(&object)?,
        })
    }
}

fn valid_attachments(object: &Map<String, Value>) -> Result<Option<Vec<AttachmentId>>, CniError> {
    const KEY: &str = "cni.dev/valid-attachments";
    // libcni sends the list under the name of an early draft as well; a runtime in Go writes an empty list as null.
    let list = match object.get(KEY).or_else(|| object.get("cni.dev/attachments")) {
        None => return Ok(None),
        Some(Value::Null) => return Ok(Some(Vec::new())),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong(KEY, "a list")),
    };
    let entry = |value: &Value| {
        let text = |key: &str| value.get(key)?.as_str().filter(|t| !t.is_empty()).map(str::to_string);
        Some(AttachmentId { container_id: text("containerID")?, ifname: text("ifname")? })
    };
    // One that cannot be read must not be left out: its pod would lose its network.
    let ids: Option<Vec<_>> = list.iter().map(entry).collect();
    ids.map(Some).ok_or_else(|| wrong(KEY, "a list of objects with \"containerID\" and \"ifname\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Code {
        Config::parse(text.as_bytes()).unwrap_err().code
    }

    #[test]
    fn refusals_have_their_codes() {
        assert_eq!(code("{"), Code::Decode);
        assert_eq!(code("[]"), Code::Decode);
        assert_eq!(code(r#"{"cniVersion": 1, "name": "n"}"#), Code::Decode);
        assert_eq!(code(r#"{"name": "n"}"#), Code::IncompatibleVersion);
        assert_eq!(code(r#"{"cniVersion": "0.2.0", "name": "n"}"#), Code::IncompatibleVersion);
        assert_eq!(code(r#"{"cniVersion": "1.1.0"}"#), Code::InvalidConfig);
        assert_eq!(code(r#"{"cniVersion": "1.1.0", "name": "../x"}"#), Code::InvalidConfig);
        assert_eq!(code(r#"{"cniVersion": "1.1.0", "name": "n", "agentSocket": "x"}"#), Code::InvalidConfig);
        assert_eq!(code(r#"{"cniVersion": "1.1.0", "name": "n", "prevResult": 1}"#), Code::Decode);
        let ipam = r#"{"cniVersion": "1.1.0", "name": "n", "ipam": {"type": "host-local"}}"#;
        assert_eq!(code(ipam), Code::UnsupportedField);
        let half = r#"{"cniVersion": "1.1.0", "name": "n", "cni.dev/valid-attachments": [{"containerID": "x"}]}"#;
        assert_eq!(code(half), Code::Decode);
    }

    #[test]
    fn unknown_keys_and_defaults() {
        let text = r#"{"cniVersion": "0.4.0", "name": "n", "type": "podplane-cni", "what": {"ever": 1}}"#;
        let config = Config::parse(text.as_bytes()).unwrap();
        assert_eq!(config.version, Version::V040);
        assert_eq!(config.agent_socket, PathBuf::from("/run/podplane/agent.sock"));
        assert_eq!(config.state_dir, PathBuf::from("/var/lib/podplane"));
        assert!(config.valid_attachments.is_none());
    }

    #[test]
    fn valid_attachments_by_both_names_and_none() {
        let list = |text: &str| {
            let text = format!(r#"{{"cniVersion": "1.1.0", "name": "n"{text}}}"#);
            Config::parse(text.as_bytes()).unwrap().valid_attachments.map(|list| list.len())
        };
        assert_eq!(list(""), None);
        assert_eq!(list(r#", "cni.dev/valid-attachments": null"#), Some(0));
        let one = r#"[{"containerID": "c", "ifname": "eth0"}]"#;
        assert_eq!(list(&format!(r#", "cni.dev/valid-attachments": {one}"#)), Some(1));
        assert_eq!(list(&format!(r#", "cni.dev/attachments": {one}"#)), Some(1));
    }

    #[test]
    fn stdin_is_bounded() {
        let mut endless = std::io::repeat(b' ');
        assert_eq!(read(&mut endless).unwrap_err().code, Code::InvalidConfig);
    }
}
