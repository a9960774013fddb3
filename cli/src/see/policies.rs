//! `podplane policies`: what applies to each pod of this node, how often each rule decided, and what is refused.
//!
//! The agent knows what policies mean and what is wrong with them; the dataplane what is in force. Either answers
//! without the other.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use podplane_api::{AgentClient, PodPolicyStatus, PoliciesStatus, RuleStatus, RulesStatus};
use podplane_config::introspect::{Policies, Question, RuleHits};
use serde::Serialize;

use super::ask;
use crate::output::{self, Format};

/// Which pod, and how to print.
#[derive(Debug, clap::Args)]
pub struct PoliciesArgs {
    /// Only this one, NAMESPACE/NAME.
    pod: Option<String>,
    /// How to print; wide also shows rules' peers and ports.
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// What `podplane policies -o json` prints; a tested contract. The word of a process that does not answer is null.
#[derive(Debug, Serialize)]
struct All {
    /// What the agent makes of the policies.
    agent: Option<PoliciesStatus>,
    /// What the dataplane has, and how often it decided.
    dataplane: Option<Policies>,
    problems: Vec<String>,
}

/// `podplane policies`: exit status 1 where the two processes disagree or a policy is refused.
pub fn policies(run_dir: &Path, args: &PoliciesArgs) -> Result<bool> {
    let mut problems = Vec::new();
    let mut note = |error: anyhow::Error| problems.push(format!("{error:#}"));
    let dataplane: Option<Policies> = ask(run_dir, Question::Policies).map_err(&mut note).ok();
    let client = AgentClient::new(run_dir.join("agent.sock"));
    let agent = client.policies().context("asking the agent").map_err(&mut note).ok();
    if dataplane.is_none() && agent.is_none() {
        bail!("{}", problems.join("\n"));
    }
    let mut all = All { agent, dataplane, problems };
    all.keep(args.pod.as_deref())?;
    all.compare();
    match args.output {
        Format::Json => output::json(&all)?,
        Format::Table => print(&all, false),
        Format::Wide => print(&all, true),
    }
    Ok(all.problems.is_empty())
}

impl All {
    /// Leaves one pod only.
    fn keep(&mut self, pod: Option<&str>) -> Result<()> {
        let Some(pod) = pod else { return Ok(()) };
        if let Some(agent) = &mut self.agent {
            agent.pods.retain(|known| known.pod == pod);
        }
        if let Some(dataplane) = &mut self.dataplane {
            dataplane.endpoints.retain(|endpoint| endpoint.pod == pod);
            let used: Vec<u32> = dataplane.endpoints.iter().flat_map(|e| [e.ingress, e.egress]).flatten().collect();
            dataplane.sets.retain(|set| used.contains(&set.id));
            dataplane.rules.retain(|rule| dataplane.sets.iter().any(|set| set.rules.contains(&rule.id)));
        }
        let known = self.agent.as_ref().is_some_and(|agent| !agent.pods.is_empty())
            || self.dataplane.as_ref().is_some_and(|dataplane| !dataplane.endpoints.is_empty());
        if !known {
            bail!("there is no pod {pod} on this node: `podplane ports` lists those that are here");
        }
        Ok(())
    }

    /// Notes what is wrong: what is refused, what is not known, and what is not in force.
    fn compare(&mut self) {
        let Some(agent) = &self.agent else { return };
        for policy in agent.policies.iter().filter(|policy| !policy.refused.is_empty()) {
            let name = full_name(&policy.namespace, &policy.name);
            let instead =
                if policy.instead.is_empty() { String::new() } else { format!("; instead: {}", policy.instead) };
            let reasons = policy.refused.join("; ");
            self.problems.push(format!("{} {name} is refused: {reasons}{instead}", policy.kind));
        }
        for pod in &agent.pods {
            if let Some(trouble) = &pod.trouble {
                self.problems.push(format!("{}: {trouble}", who(&pod.pod, &pod.endpoint)));
            }
            let set = |rules: &Option<RulesStatus>| rules.as_ref().map(|rules| rules.set);
            let wanted = (set(&pod.ingress), set(&pod.egress));
            let Some(dataplane) = &self.dataplane else { continue };
            let endpoint = dataplane.endpoints.iter().find(|endpoint| endpoint.endpoint == pod.endpoint);
            if endpoint.is_some_and(|endpoint| (endpoint.ingress, endpoint.egress) != wanted) {
                let who = who(&pod.pod, &pod.endpoint);
                self.problems.push(format!("{who}: the dataplane has other rules; a change may be under way"));
            }
        }
    }
}

fn full_name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// The pod, or the attachment of one without.
fn who(pod: &str, endpoint: &str) -> String {
    if pod.is_empty() { endpoint.to_owned() } else { pod.to_owned() }
}

fn print(all: &All, wide: bool) {
    let hits: BTreeMap<u32, &RuleHits> =
        all.dataplane.iter().flat_map(|dataplane| &dataplane.rules).map(|rule| (rule.id, rule)).collect();
    let rows: Vec<[String; 6]> = match (&all.agent, &all.dataplane) {
        (Some(agent), _) => agent.pods.iter().flat_map(|pod| agent_rows(pod, &hits, wide)).collect(),
        (None, Some(dataplane)) => dataplane_rows(dataplane, &hits),
        (None, None) => Vec::new(),
    };
    output::table(&["POD", "DIRECTION", "RULE", "TIER", "ACTION", "HITS"], rows.into_iter());
    if let Some(agent) = &all.agent
        && !agent.policies.is_empty()
    {
        output::table(
            &["POLICY", "TIER", "PRIORITY", "PODS HERE", "STATE"],
            agent.policies.iter().map(|policy| {
                let priority = policy.priority.map_or_else(String::new, |priority| priority.to_string());
                let state = if policy.refused.is_empty() { "in force" } else { "refused" };
                let name = format!("{} {}", policy.kind, full_name(&policy.namespace, &policy.name));
                [name, policy.tier.clone(), priority, policy.selects.to_string(), state.to_owned()]
            }),
        );
    }
    if let Some(Policies { addresses, classes, table_bytes, compiled_us, .. }) = &all.dataplane {
        let kib = table_bytes.div_ceil(1024);
        println!(
            "tables     {addresses} addresses in {classes} classes, {kib} KiB; the last change took {:.1} ms to compile",
            *compiled_us as f64 / 1000.0
        );
    }
    all.problems.iter().for_each(|problem| println!("problem    {problem}"));
}

fn agent_rows(pod: &PodPolicyStatus, hits: &BTreeMap<u32, &RuleHits>, wide: bool) -> Vec<[String; 6]> {
    let who = who(&pod.pod, &pod.endpoint);
    if pod.trouble.is_some() {
        return vec![line(&who, "both", "not known yet: nothing passes", ["", "", ""])];
    }
    let mut rows = Vec::new();
    for (direction, rules) in [("ingress", &pod.ingress), ("egress", &pod.egress)] {
        let Some(rules) = rules else {
            rows.push(line(&who, direction, "no policy: everything is accepted", ["", "", ""]));
            continue;
        };
        rows.extend(rules.rules.iter().map(|rule| {
            let text = if wide { described(rule) } else { rule.name.clone() };
            let count = hits.get(&rule.id).map_or_else(|| "?".to_owned(), |rule| rule.hits.to_string());
            line(&who, direction, &text, [&rule.tier, &rule.action, &count])
        }));
    }
    rows
}

fn described(rule: &RuleStatus) -> String {
    let ports = if rule.ports.is_empty() { "all ports, ICMP".to_owned() } else { rule.ports.join(", ") };
    format!("{}: {}; {ports}", rule.name, rule.peers.join(", "))
}

/// What the dataplane alone knows.
fn dataplane_rows(dataplane: &Policies, hits: &BTreeMap<u32, &RuleHits>) -> Vec<[String; 6]> {
    let mut rows = Vec::new();
    for endpoint in &dataplane.endpoints {
        let who = who(&endpoint.pod, &endpoint.endpoint);
        for (direction, id) in [("ingress", endpoint.ingress), ("egress", endpoint.egress)] {
            let Some(set) = id.and_then(|id| dataplane.sets.iter().find(|set| set.id == id)) else {
                rows.push(line(&who, direction, "no policy: everything is accepted", ["", "", ""]));
                continue;
            };
            rows.extend(set.rules.iter().filter_map(|id| hits.get(id)).map(|rule| {
                let count = rule.hits.to_string();
                line(&who, direction, &rule.name, [&rule.tier, &rule.action, &count])
            }));
        }
    }
    rows
}

fn line(who: &str, direction: &str, rule: &str, [tier, action, hits]: [&str; 3]) -> [String; 6] {
    [who, direction, rule, tier, action, hits].map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use podplane_api::PolicyStatus;
    use podplane_config::introspect::{EndpointPolicy, RuleSet};

    use super::*;

    fn rule(id: u32, name: &str, action: &str) -> RuleStatus {
        RuleStatus {
            id,
            name: name.into(),
            tier: "NetworkPolicy".into(),
            action: action.into(),
            peers: vec!["pods app=web".into()],
            ports: vec!["TCP 80".into()],
        }
    }

    fn pod(name: &str, ingress: Option<u32>) -> PodPolicyStatus {
        let rules = vec![rule(7, "NetworkPolicy default/web ingress[0]", "Accept")];
        PodPolicyStatus {
            pod: name.into(),
            endpoint: format!("{name}-id/eth0"),
            addresses: Vec::new(),
            trouble: None,
            ingress: ingress.map(|set| RulesStatus { set, isolated: true, rules }),
            egress: None,
            compiled_us: 5,
        }
    }

    fn dataplane() -> Policies {
        let endpoint = |pod: &str, ingress| EndpointPolicy {
            endpoint: format!("{pod}-id/eth0"),
            pod: pod.into(),
            ingress,
            egress: None,
        };
        let hits = |id: u32, name: &str| RuleHits {
            id,
            name: name.into(),
            tier: "NetworkPolicy".into(),
            action: "Accept".into(),
            hits: 42,
        };
        Policies {
            endpoints: vec![endpoint("a/web", Some(1)), endpoint("a/other", Some(2))],
            sets: vec![RuleSet { id: 1, rules: vec![7] }, RuleSet { id: 2, rules: vec![8] }],
            rules: vec![hits(7, "NetworkPolicy default/web ingress[0]"), hits(8, "other")],
            ..Policies::default()
        }
    }

    fn all() -> All {
        let agent = PoliciesStatus { policies: Vec::new(), pods: vec![pod("a/web", Some(1)), pod("a/free", None)] };
        All { agent: Some(agent), dataplane: Some(dataplane()), problems: Vec::new() }
    }

    #[test]
    fn a_line_says_who_which_rule_and_how_often() {
        let all = all();
        let hits: BTreeMap<u32, &RuleHits> = all.dataplane.iter().flat_map(|d| &d.rules).map(|r| (r.id, r)).collect();
        let rows = agent_rows(&all.agent.as_ref().unwrap().pods[0], &hits, false);
        let expected = ["a/web", "ingress", "NetworkPolicy default/web ingress[0]", "NetworkPolicy", "Accept", "42"];
        assert_eq!(rows[0], expected);
        assert_eq!(rows[1][1..3], ["egress", "no policy: everything is accepted"]);
        let wide = agent_rows(&all.agent.as_ref().unwrap().pods[0], &hits, true);
        assert!(wide[0][2].ends_with("ingress[0]: pods app=web; TCP 80"), "{:?}", wide[0]);
        assert_eq!(dataplane_rows(all.dataplane.as_ref().unwrap(), &hits)[0], expected, "also without the agent");
    }

    #[test]
    fn one_pod_can_be_asked_for() {
        let mut one = all();
        one.keep(Some("a/web")).unwrap();
        let dataplane = one.dataplane.unwrap();
        assert_eq!((dataplane.endpoints.len(), dataplane.sets.len(), dataplane.rules.len()), (1, 1, 1));
        assert_eq!(one.agent.unwrap().pods.len(), 1);
        assert!(all().keep(Some("a/none")).is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut all = all();
        all.compare();
        assert_eq!(all.problems, Vec::<String>::new());
        let agent = all.agent.as_mut().unwrap();
        agent.policies.push(PolicyStatus {
            kind: "NetworkPolicy".into(),
            namespace: "a".into(),
            name: "bad".into(),
            tier: "NetworkPolicy".into(),
            priority: None,
            refused: vec!["spec.ingress[0]: no".into()],
            instead: "its pods are isolated".into(),
            selects: 1,
        });
        agent.pods[0].ingress.as_mut().unwrap().set = 9;
        agent.pods[1].trouble = Some("its namespace is not known".into());
        all.compare();
        let expected = [
            "NetworkPolicy a/bad is refused: spec.ingress[0]: no; instead: its pods are isolated",
            "a/web: the dataplane has other rules; a change may be under way",
            "a/free: its namespace is not known",
        ];
        assert_eq!(all.problems, expected);
    }
}
