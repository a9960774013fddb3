//! The cloud that gives Services of type LoadBalancer their addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::allocate;
use super::types::{Family, ServiceSpec, decode};

/// What the lab's cloud has to give: documentation ranges (RFC 5737, RFC 3849), which nobody else here can have.
pub const POOLS: [&str; 2] = ["198.51.100.0/24", "2001:db8:198:51::/112"];

/// `status.loadBalancer` of a Service among all: what it has already, else a new address of each of its families.
/// `None`: the Service is not the lab's to serve, or somebody wrote its status.
pub fn status(service: &Value, services: &[Value]) -> Option<Value> {
    let spec: ServiceSpec = decode(service, "spec").ok()?;
    let ours = spec.kind == "LoadBalancer" && spec.load_balancer_class.is_none();
    let given = addresses(service);
    if !ours {
        // An API server clears it when the type changes.
        return (spec.kind != "LoadBalancer" && !given.is_empty()).then(|| json!({}));
    }
    let fits = |family: &str| given.iter().any(|address| Family::of(*address).to_string() == family);
    let has_own = given.iter().any(|address| !pools().any(|pool| pool.contains(address)));
    let named = service.pointer("/status/loadBalancer/ingress/0/hostname").is_some();
    if has_own || named || (given.len() == spec.ip_families.len() && spec.ip_families.iter().all(|f| fits(f))) {
        return None;
    }
    let mut taken: BTreeSet<IpAddr> =
        services.iter().filter(|s| s["metadata"] != service["metadata"]).flat_map(addresses).collect();
    let wish = spec.load_balancer_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
    let mut ingress = Vec::new();
    for family in &spec.ip_families {
        let of_family = |address: &IpAddr| Family::of(*address).to_string() == *family;
        let pool = pools().find(|pool| of_family(&pool.network()))?;
        let free =
            |address: &IpAddr| of_family(address) && allocate::is_usable(pool, *address) && !taken.contains(address);
        let kept = given.iter().copied().find(free);
        let address = wish.filter(free).or(kept).or_else(|| allocate::address(pool, &taken))?;
        taken.insert(address);
        ingress.push(json!({ "ip": address.to_string(), "ipMode": "VIP" }));
    }
    Some(json!({ "ingress": ingress }))
}

/// The lab's ranges.
pub fn pools() -> impl Iterator<Item = IpNet> {
    POOLS.iter().filter_map(|pool| pool.parse().ok())
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array).into_iter().flatten();
    ingress.filter_map(|i| i["ip"].as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::controlplane::testing::{named_service, service};

    const DUAL: &str = "type: LoadBalancer, ipFamilies: [IPv4, IPv6]";

    #[test]
    fn a_balancer_gets_an_address_of_each_family_once() {
        let mut web = service(DUAL);
        let first = status(&web, &[]).unwrap();
        assert_eq!(first["ingress"][0], json!({ "ip": "198.51.100.17", "ipMode": "VIP" }));
        assert_eq!(first["ingress"][1]["ip"], "2001:db8:198:51::101");
        web["status"]["loadBalancer"] = first;
        assert_eq!(status(&web, std::slice::from_ref(&web)), None);
        let other = status(&named_service("other", DUAL), &[web.clone()]).unwrap();
        assert_eq!(other["ingress"][0]["ip"], "198.51.100.18");
        web["spec"]["type"] = json!("NodePort");
        assert_eq!(status(&web, &[]), Some(json!({})));
    }

    #[test]
    fn wishes_foreign_addresses_and_classes_are_respected() {
        let wish = service("type: LoadBalancer, ipFamilies: [IPv4], loadBalancerIP: 198.51.100.200");
        assert_eq!(status(&wish, &[]).unwrap()["ingress"][0]["ip"], "198.51.100.200");
        let mut by_hand = service(DUAL);
        by_hand["status"]["loadBalancer"] = json!({ "ingress": [{ "ip": "10.77.0.99", "ipMode": "Proxy" }] });
        assert_eq!(status(&by_hand, &[]), None);
        assert_eq!(
            status(&service("type: LoadBalancer, loadBalancerClass: example.com/x, ipFamilies: [IPv4]"), &[]),
            None
        );
        assert_eq!(status(&service("type: ClusterIP, ipFamilies: [IPv4]"), &[]), None);
    }
}
