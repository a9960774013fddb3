//! The environment of a call, checked. The runtime is trusted to be root, not to be careful.

use podplane_api::{AttachmentId, MAX_CONTAINER_ID, PodRef};

use crate::{CniError, Code};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Compare with what ADD made.
    Check,
    /// Remove what nobody uses.
    Gc,
    /// Whether ADD could work now.
    Status,
    /// Supported versions.
    Version,
}

/// The variables that the command needs.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Command.
    pub command: Command,
    /// `CNI_CONTAINERID` and `CNI_IFNAME`; empty for GC and STATUS.
    pub attachment: AttachmentId,
    /// `CNI_NETNS`; DEL may come without.
    pub netns: Option<String>,
    /// From `CNI_ARGS`; `None` where the runtime names no pod (cnitool).
    pub pod: Option<PodRef>,
}

/// Reads `CNI_COMMAND`.
pub(crate) fn command(var: &dyn Fn(&str) -> Option<String>) -> Result<Command, CniError> {
    let text = var("CNI_COMMAND").unwrap_or_default();
    Ok(match text.as_str() {
        "ADD" => Command::Add,
        "DEL" => Command::Del,
        "CHECK" => Command::Check,
        "GC" => Command::Gc,
        "STATUS" => Command::Status,
        "VERSION" => Command::Version,
        _ => return Err(invalid(format!("CNI_COMMAND=\"{text}\": expected ADD, DEL, CHECK, GC, STATUS or VERSION"))),
    })
}

impl Environment {
    /// Reads and checks what `command` needs.
    pub fn read(command: Command, var: &dyn Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let needs_attachment = matches!(command, Command::Add | Command::Del | Command::Check);
        if !needs_attachment {
            let attachment = AttachmentId { container_id: String::new(), ifname: String::new() };
            return Ok(Environment { command, attachment, netns: None, pod: None });
        }
        let value = |name: &str| var(name).filter(|v| !v.is_empty());
        let need = |name: &str| value(name).ok_or_else(|| invalid(format!("{name} is not set")));
        let attachment = AttachmentId { container_id: need("CNI_CONTAINERID")?, ifname: need("CNI_IFNAME")? };
        check_container_id(&attachment.container_id)?;
        podplane_hostnet::links::check_name(&attachment.ifname).map_err(|e| invalid(format!("CNI_IFNAME: {e}")))?;
        if attachment.ifname == "lo" {
            return Err(invalid("CNI_IFNAME=\"lo\" is the loopback interface; use eth0"));
        }
        let netns = if command == Command::Del { value("CNI_NETNS") } else { Some(need("CNI_NETNS")?) };
        if let Some(path) = &netns {
            check_netns(path)?;
        }
        let pod = pod_of(&value("CNI_ARGS").unwrap_or_default())?;
        Ok(Environment { command, attachment, netns, pod })
    }
}

fn invalid(message: impl Into<String>) -> CniError {
    CniError::new(Code::InvalidEnvironment, message)
}

/// The specification: starts with an alphanumeric character, then these and `_`, `.`, `-`.
fn check_container_id(id: &str) -> Result<(), CniError> {
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    let starts_well = id.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    match plain && starts_well && id.len() <= MAX_CONTAINER_ID {
        true => Ok(()),
        false => Err(invalid(format!(
            "CNI_CONTAINERID=\"{}\": expected a letter or digit, then letters, digits, '_', '.' and '-', at most \
             {MAX_CONTAINER_ID} in all",
            id.chars().take(80).collect::<String>().escape_debug()
        ))),
    }
}

fn check_netns(path: &str) -> Result<(), CniError> {
    match path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == "..") {
        true => Ok(()),
        false => {
            Err(invalid(format!("CNI_NETNS=\"{}\": expected an absolute path without \"..\"", path.escape_debug())))
        }
    }
}

/// `K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;...`: unknown keys are the business of other plugins.
fn pod_of(args: &str) -> Result<Option<PodRef>, CniError> {
    let mut pod = PodRef::default();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid(format!("CNI_ARGS: \"{}\" is not KEY=VALUE", pair.escape_debug())));
        };
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value.to_string(),
            "K8S_POD_NAME" => pod.name = value.to_string(),
            "K8S_POD_UID" => pod.uid = value.to_string(),
            _ => {}
        }
    }
    for (key, value) in [("NAMESPACE", &pod.namespace), ("NAME", &pod.name), ("UID", &pod.uid)] {
        // What Kubernetes allows in names, with room to spare; it ends up in files and messages.
        let fits =
            value.len() <= 253 && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !fits {
            return Err(invalid(format!("CNI_ARGS: K8S_POD_{key}=\"{}\" is no Kubernetes name", value.escape_debug())));
        }
    }
    match (pod.name.is_empty(), pod.namespace.is_empty()) {
        (true, _) => Ok(None),
        (false, false) => Ok(Some(pod)),
        (false, true) => Err(invalid("CNI_ARGS: K8S_POD_NAME without K8S_POD_NAMESPACE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: Command, vars: &[(&str, &str)]) -> Result<Environment, CniError> {
        Environment::read(command, &|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string()))
    }

    const GOOD: [(&str, &str); 3] = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/run/netns/x")];

    #[test]
    fn each_bad_variable_is_named() {
        for (name, value) in [
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "way-too-long-for-one"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "a\u{1b}b"),
            ("CNI_IFNAME", "lo"),
            ("CNI_NETNS", ""),
            ("CNI_NETNS", "relative"),
            ("CNI_NETNS", "/run/netns/../../etc"),
            ("CNI_ARGS", "nonsense"),
            ("CNI_ARGS", "K8S_POD_NAME=a"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=a"),
        ] {
            let mut vars = vec![(name, value)];
            vars.extend(GOOD.into_iter().filter(|(k, _)| *k != name));
            let error = read(Command::Add, &vars).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(error.message.contains(name), "{error}");
        }
        let long = "a".repeat(MAX_CONTAINER_ID + 1);
        assert!(read(Command::Add, &[("CNI_CONTAINERID", &long), GOOD[1], GOOD[2]]).is_err());
    }

    #[test]
    fn what_is_optional() {
        assert!(read(Command::Del, &GOOD[..2]).unwrap().netns.is_none());
        assert!(read(Command::Check, &GOOD[..2]).is_err());
        assert!(read(Command::Status, &[]).is_ok());
        assert_eq!(read(Command::Add, &GOOD).unwrap().pod, None);
        let args = ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u-1");
        let pod = read(Command::Add, &[GOOD[0], GOOD[1], GOOD[2], args]).unwrap().pod.unwrap();
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("ns", "web-0", "u-1"));
    }
}
