//! Results of ADD in the form of each version.

use std::net::IpAddr;

use podplane_api::AddReply;
use serde_json::{Map, Value, json};

use crate::{CniError, Code, Config, Version};

/// What the result says about the devices that were made.
pub(crate) struct Made<'a> {
    pub(crate) lease: &'a AddReply,
    pub(crate) host_mac: String,
    pub(crate) ifname: &'a str,
    pub(crate) netns: &'a str,
}

/// The prefix length of a pod's address.
pub(crate) fn full_length(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The result of ADD in the input's version; what an earlier plugin of the chain reported is kept in front of it.
pub(crate) fn result(config: &Config, made: &Made<'_>) -> Result<String, CniError> {
    let mut result = config.prev_result.clone().unwrap_or_default();
    result.insert("cniVersion".into(), json!(config.version.as_str()));
    let interfaces = list(&mut result, "interfaces")?;
    let pod = interfaces.len() + 1;
    interfaces.extend(interface_pair(config.version, made));
    let gateway_for = |address: &IpAddr| made.lease.gateways.iter().find(|g| g.is_ipv4() == address.is_ipv4());
    let ips = list(&mut result, "ips")?;
    for address in &made.lease.addresses {
        let mut ip = Map::new();
        if config.version < Version::V100 {
            ip.insert("version".into(), json!(if address.is_ipv4() { "4" } else { "6" }));
        }
        ip.insert("interface".into(), json!(pod));
        ip.insert("address".into(), json!(format!("{address}/{}", full_length(address))));
        ip.extend(gateway_for(address).map(|g| ("gateway".to_string(), json!(g))));
        ips.push(ip.into());
    }
    let routes = list(&mut result, "routes")?;
    for gateway in &made.lease.gateways {
        let dst = if gateway.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        routes.push(json!({"dst": dst, "gw": gateway}));
    }
    if let Some(dns) = &config.dns {
        result.insert("dns".into(), dns.clone());
    }
    Ok(Value::Object(result).to_string())
}

fn interface_pair(version: Version, made: &Made<'_>) -> [Value; 2] {
    let mut host = json!({"name": made.lease.host_ifname, "mac": made.host_mac});
    let mut pod = json!({"name": made.ifname, "mac": made.lease.mac, "sandbox": made.netns});
    if version >= Version::V110 {
        host["mtu"] = json!(made.lease.mtu);
        pod["mtu"] = json!(made.lease.mtu);
    }
    [host, pod]
}

fn list<'a>(result: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, CniError> {
    let value = result.entry(key).or_insert_with(|| json!([]));
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().ok_or_else(|| CniError::new(Code::Decode, format!("prevResult: \"{key}\" is not a list")))
}

/// Names of the host's interfaces in a `prevResult`: those without a sandbox.
pub(crate) fn host_interfaces(config: &Config) -> Vec<String> {
    let interfaces = config.prev_result.as_ref().and_then(|r| r.get("interfaces")?.as_array());
    let on_host = |i: &&Value| i.get("sandbox").and_then(Value::as_str).is_none_or(str::is_empty);
    let name = |i: &Value| i.get("name")?.as_str().map(str::to_string);
    interfaces.into_iter().flatten().filter(on_host).filter_map(name).collect()
}

/// The addresses that a `prevResult` says the pod got.
pub(crate) fn addresses(config: &Config) -> Vec<String> {
    let ips = config.prev_result.as_ref().and_then(|r| r.get("ips")?.as_array());
    ips.into_iter().flatten().filter_map(|ip| Some(ip.get("address")?.as_str()?.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(config: &str) -> Value {
        let config = Config::parse(config.as_bytes()).unwrap();
        let lease = AddReply {
            host_ifname: "pp0123456789ab".into(),
            mac: "02:00:00:00:00:01".into(),
            addresses: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            gateway_mac: "02:50:50:00:00:01".into(),
            mtu: 1450,
            host_ports: Vec::new(),
        };
        let made = Made { lease: &lease, host_mac: "02:00:00:00:00:02".into(), ifname: "eth0", netns: "/run/netns/x" };
        serde_json::from_str(&result(&config, &made).unwrap()).unwrap()
    }

    #[test]
    fn each_version_has_its_form() {
        for version in Version::ALL {
            let got =
                made(&format!(r#"{{"cniVersion": "{}", "name": "n", "dns": {{"search": ["x"]}}}}"#, version.as_str()));
            assert_eq!(got["cniVersion"], version.as_str());
            let ip = &got["ips"][1];
            assert_eq!(ip["address"], "fd00::5/128");
            assert_eq!(ip["gateway"], "fe80::1");
            assert_eq!(ip.get("version").and_then(Value::as_str), (version < Version::V100).then_some("6"));
            assert_eq!(got["interfaces"][1].get("mtu").is_some(), version >= Version::V110);
            assert_eq!(got["interfaces"][ip["interface"].as_u64().unwrap() as usize]["sandbox"], "/run/netns/x");
            assert_eq!(got["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"}));
            assert_eq!(got["dns"]["search"][0], "x");
        }
    }

    #[test]
    fn an_earlier_result_is_kept() {
        let got = made(
            r#"{"cniVersion": "1.0.0", "name": "n", "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "a"}],
                "ips": [{"address": "192.0.2.1/24", "interface": 0}], "extra": 7}}"#,
        );
        assert_eq!(got["extra"], 7);
        assert_eq!(got["ips"][0]["interface"], 0);
        assert_eq!(got["ips"][1]["interface"], 2);
        assert_eq!(got["interfaces"][2]["name"], "eth0");
    }
}
