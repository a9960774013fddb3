//! Policies as text: whose addresses are whose, and the rules of pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podplane_packet::wire::proto;
use podplane_pipeline::snapshot::{PolicyMap, PortPolicy};
use podplane_tables::policy::{Action, NetSpec, PeersSpec, Ports, RuleId, RuleSetId, RuleSpec, SelectorId, Tier};
use serde::Deserialize;

use crate::packet::Names;

/// The selectors that match each address with a known owner, by the address's name.
pub type Owners = BTreeMap<String, Vec<String>>;

/// Policies by the pod's name.
pub type Policies = BTreeMap<String, PodPolicy>;

/// The rules of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodPolicy {
    /// Of what others open to it.
    pub ingress: Option<Vec<String>>,
    /// Of what it opens.
    pub egress: Option<Vec<String>>,
}

/// Numbers for texts, the same for equal texts as long as the cluster lives.
#[derive(Debug, Default)]
struct Interned(BTreeMap<String, u32>);

impl Interned {
    fn id(&mut self, text: &str) -> u32 {
        let next = self.0.len() as u32 + 1;
        *self.0.entry(text.to_owned()).or_insert(next)
    }
}

/// The agent's part in a scenario.
#[derive(Debug, Default)]
pub struct Book {
    selectors: Interned,
    rules: Interned,
    sets: Interned,
}

type Net = (IpAddr, u8);

/// What the words of rules may name.
struct Known<'a> {
    names: &'a Names,
    nets: &'a BTreeMap<String, Vec<String>>,
    v6: bool,
}

impl Known<'_> {
    fn net(&self, name: &str) -> Result<Net, String> {
        let Some(both) = self.nets.get(name) else {
            let address = self.names.address(name)?;
            return Ok((address, if self.v6 { 128 } else { 32 }));
        };
        let parsed = both.iter().map(|text| {
            let (address, len) = text.split_once('/').ok_or_else(|| format!("'{text}' is not ADDRESS/LENGTH"))?;
            let address: IpAddr = address.parse().map_err(|_| format!("'{address}' is no address"))?;
            Ok((address, len.parse().map_err(|_| format!("'{len}' is no length"))?))
        });
        let parsed = parsed.collect::<Result<Vec<Net>, String>>()?;
        let mine = parsed.into_iter().find(|(a, _)| a.is_ipv6() == self.v6);
        mine.ok_or_else(|| format!("the net '{name}' has no range of this family"))
    }
}

impl Book {
    /// What the packet path is told, and the rules of each pod.
    pub fn compile(
        &mut self,
        owners: &Owners,
        policies: &Policies,
        nets: &BTreeMap<String, Vec<String>>,
        names: &Names,
        v6: bool,
    ) -> Result<(PolicyMap, BTreeMap<String, PortPolicy>), String> {
        let known = Known { names, nets, v6 };
        let mut map = PolicyMap::default();
        for (name, selectors) in owners {
            let mut ids: Vec<SelectorId> = selectors.iter().map(|s| SelectorId(self.selectors.id(s))).collect();
            ids.sort_unstable();
            map.addresses.insert(names.address(name)?, ids.into());
        }
        let mut pods = BTreeMap::new();
        for (pod, policy) in policies {
            let mut set = |rules: &Option<Vec<String>>| {
                let rules = rules.as_ref()?;
                Some(self.set(rules, &known, &mut map).map_err(|e| format!("policy of {pod}: {e}")))
            };
            let policy =
                PortPolicy { ingress: set(&policy.ingress).transpose()?, egress: set(&policy.egress).transpose()? };
            pods.insert(pod.clone(), policy);
        }
        Ok((map, pods))
    }

    fn set(&mut self, rules: &[String], known: &Known<'_>, map: &mut PolicyMap) -> Result<RuleSetId, String> {
        let mut ids = Vec::new();
        for text in rules {
            let id = RuleId(self.rules.id(text));
            let spec = self.rule(text, known).map_err(|e| format!("'{text}': {e}"))?;
            map.rules.insert(id, Arc::new(spec));
            ids.push(id);
        }
        let set = RuleSetId(self.sets.id(&rules.join("; ")));
        map.sets.insert(set, ids.into());
        Ok(set)
    }

    /// `[admin|baseline] accept|deny|pass PEERS [on PROTOCOL:PORTS...] [named BINDING]`, or `isolate`.
    fn rule(&mut self, text: &str, known: &Known<'_>) -> Result<RuleSpec, String> {
        let mut words = text.split_whitespace().peekable();
        if words.next_if_eq(&"isolate").is_some() {
            let (tier, action) = (Tier::NetworkPolicy, Action::Deny);
            return Ok(RuleSpec { tier, action, peers: PeersSpec::Any, named: None, ports: None });
        }
        let tier = match words.next_if(|w| matches!(*w, "admin" | "baseline")) {
            Some("admin") => Tier::Admin,
            Some(_) => Tier::Baseline,
            None => Tier::NetworkPolicy,
        };
        let action = match words.next() {
            Some("accept") => Action::Accept,
            Some("deny") => Action::Deny,
            Some("pass") => Action::Pass,
            other => return Err(format!("{other:?} is no action")),
        };
        let peers = self.peers(words.next().ok_or("peers are missing")?, known)?;
        let mut spec = RuleSpec { tier, action, peers, named: None, ports: None };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("something is missing behind '{word}'"))?;
            match word {
                "on" => spec.ports = Some(value.split(',').map(ports).collect::<Result<_, _>>()?),
                "named" => spec.named = Some(SelectorId(self.selectors.id(value))),
                _ => return Err(format!("'{word}' means nothing here")),
            }
        }
        Ok(spec)
    }

    /// `any`, `nobody`, or several of: `net:NAME[-EXCEPT...]`, a selector.
    fn peers(&mut self, text: &str, known: &Known<'_>) -> Result<PeersSpec, String> {
        let (mut selectors, mut nets) = (Vec::new(), Vec::new());
        for word in text.split('+').filter(|w| !matches!(*w, "any" | "nobody")) {
            match word.strip_prefix("net:") {
                None => selectors.push(SelectorId(self.selectors.id(word))),
                Some(net) => {
                    let mut parts = net.split('-');
                    let net = known.net(parts.next().unwrap_or_default())?;
                    nets.push(NetSpec { net, except: parts.map(|p| known.net(p)).collect::<Result<_, _>>()? });
                }
            }
        }
        Ok(match text {
            "any" => PeersSpec::Any,
            _ => PeersSpec::Of { selectors: selectors.into(), nets: nets.into() },
        })
    }
}

fn ports(text: &str) -> Result<Ports, String> {
    let (protocol, range) = text.split_once(':').ok_or_else(|| format!("'{text}' is not PROTOCOL:PORTS"))?;
    let protocol = match protocol {
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        "sctp" => proto::SCTP,
        _ => return Err(format!("'{protocol}' is no protocol with ports")),
    };
    let number = |n: &str| n.parse::<u16>().map_err(|_| format!("'{n}' is no port"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    Ok(Ports { protocol, first: number(first)?, last: number(last)? })
}
