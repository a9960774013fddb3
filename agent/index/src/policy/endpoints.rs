//! This node's endpoints: whose pod they are, and what is said of their policy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podplane_config::v1::EndpointPolicy;

use super::Policy;
use super::compile;
use super::pods::{PodFacts, PodId};
use super::rules::{RuleId, Rules, SetId};

/// The pod that an endpoint belongs to, as the runtime names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty where the runtime gave none: then the name alone decides.
    pub uid: String,
}

/// What is to be said of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing yet, and why.
    Withheld(String),
    /// Its rules; with a reason where they are not those of its pod but deny everything.
    Rules(EndpointPolicy, Option<String>),
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) addresses: Vec<IpAddr>,
    /// `None`: it belongs to no pod, and nothing selects it.
    pub(super) pod: Option<PodIdentity>,
    /// It was connected before this agent started: it is not disconnected for an object that is missing, but isolated.
    kept: bool,
    /// The pod, once its object was seen.
    pub(super) bound: Option<PodId>,
    pub(super) verdict: Verdict,
    /// What it took to compile it the last time.
    pub(super) compiled: Duration,
}

/// Rules in the order of judging.
type List = Arc<[RuleId]>;

/// The rules of an endpoint as they should be.
struct Wanted {
    id: String,
    /// Ingress and egress.
    lists: [Option<List>; 2],
    /// Why it is not to be connected.
    withheld: Option<String>,
    trouble: Option<String>,
    compiled: Duration,
}

impl EndpointState {
    pub(super) fn sets(&self) -> [Option<SetId>; 2] {
        match self.verdict {
            Verdict::Rules(EndpointPolicy { ingress, egress }, _) => [ingress, egress],
            Verdict::Withheld(_) => [None, None],
        }
    }
}

impl Policy {
    /// Takes an endpoint of this node. `kept`: it was connected before this agent started.
    pub(crate) fn attach(&mut self, id: &str, addresses: &[IpAddr], pod: Option<PodIdentity>, kept: bool) {
        if self.endpoints.get(id).is_some_and(|known| known.addresses == addresses && known.pod == pod) {
            // Said again: a pod that is gone meanwhile must not be forgotten for that.
            return;
        }
        self.detach(id);
        for address in addresses {
            self.owners.endpoint(*address, Some(id));
        }
        self.changed.addresses.extend(addresses);
        self.changed.endpoints.insert(id.to_owned());
        let verdict = Verdict::Withheld("its rules are not compiled yet".into());
        let state = EndpointState {
            addresses: addresses.to_vec(),
            pod: pod.clone(),
            kept,
            bound: None,
            verdict,
            compiled: Duration::ZERO,
        };
        self.endpoints.insert(id.to_owned(), state);
        let Some(PodIdentity { namespace, name, uid }) = pod else { return };
        let name = (namespace, name);
        self.endpoints_of.entry(name.clone()).or_default().insert(id.to_owned());
        if let Some(pod) = self.pods.find(&name)
            && self.pods.get(pod).is_some_and(|pod| pod.facts.is(&uid))
        {
            self.bind(id, pod);
        }
    }

    /// Forgets an endpoint.
    pub(crate) fn detach(&mut self, id: &str) {
        let Some(state) = self.endpoints.remove(id) else { return };
        for address in &state.addresses {
            self.owners.endpoint(*address, None);
        }
        self.changed.addresses.extend(&state.addresses);
        self.changed.endpoints.remove(id);
        self.crowded.forget(id);
        for set in state.sets().into_iter().flatten() {
            self.rules.leave_set(set);
        }
        if let Some(PodIdentity { namespace, name, .. }) = state.pod {
            let name = (namespace, name);
            if let Some(ids) = self.endpoints_of.get_mut(&name) {
                ids.remove(id);
                if ids.is_empty() {
                    self.endpoints_of.remove(&name);
                }
            }
        }
        self.unbind(id, state.bound);
    }

    /// Gives the endpoints of a new pod to it.
    pub(super) fn bind_endpoints(&mut self, pod: PodId, facts: &PodFacts) {
        let Some(ids) = self.endpoints_of.get(&facts.name) else { return };
        let is_its = |id: &&String| {
            let identity = self.endpoints.get(*id).and_then(|endpoint| endpoint.pod.as_ref());
            identity.is_some_and(|identity| facts.is(&identity.uid))
        };
        for id in ids.iter().filter(is_its).cloned().collect::<Vec<_>>() {
            self.bind(&id, pod);
        }
    }

    fn bind(&mut self, id: &str, pod: PodId) {
        let Some(endpoint) = self.endpoints.get_mut(id) else { return };
        let before = endpoint.bound.replace(pod).filter(|before| *before != pod);
        self.changed.addresses.extend(&endpoint.addresses);
        self.changed.endpoints.insert(id.to_owned());
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.endpoints.insert(id.to_owned());
        }
        self.unbind(id, before);
    }

    fn unbind(&mut self, id: &str, pod: Option<PodId>) {
        let Some((pod, state)) = pod.and_then(|id| Some((id, self.pods.get_mut(id)?))) else { return };
        state.endpoints.remove(id);
        if !state.live && state.endpoints.is_empty() {
            self.forget_pod(pod);
        }
    }

    /// What is to be said of an endpoint, as of the last [`Policy::settle`].
    pub(crate) fn verdict(&self, id: &str) -> Option<&Verdict> {
        self.endpoints.get(id).map(|endpoint| &endpoint.verdict)
    }

    /// Compiles what has changed; answers the endpoints of which something else is to be said than before.
    pub(super) fn compile_all(&mut self) -> BTreeSet<String> {
        let changed = std::mem::take(&mut self.changed.endpoints);
        let wanted: Vec<Wanted> = changed.into_iter().filter_map(|id| self.wanted(id)).collect();
        self.change_alike(&wanted);
        let mut told = BTreeSet::new();
        for Wanted { id, lists, withheld, trouble, compiled } in wanted {
            let taken = lists.map(|list| list.map(|list| self.rules.take_set(&list)));
            let Some(endpoint) = self.endpoints.get_mut(&id) else { continue };
            endpoint.compiled = compiled;
            for set in endpoint.sets().into_iter().flatten() {
                self.rules.leave_set(set);
            }
            let [ingress, egress] = taken;
            let verdict = match withheld {
                Some(reason) => Verdict::Withheld(reason),
                None => Verdict::Rules(EndpointPolicy { ingress, egress }, trouble),
            };
            if endpoint.verdict != verdict {
                endpoint.verdict = verdict;
                told.insert(id);
            }
        }
        told
    }

    fn wanted(&mut self, id: String) -> Option<Wanted> {
        let started = Instant::now();
        let endpoint = self.endpoints.get(&id)?;
        let (kept, most) = (endpoint.kept, self.limits.rules_per_set);
        let mut wanted = Wanted { id, lists: [None, None], withheld: None, trouble: None, compiled: Duration::ZERO };
        match self.missing(endpoint) {
            None if self.crowded.reason(&wanted.id).is_some() => {
                wanted.trouble = self.crowded.reason(&wanted.id);
                wanted.lists = self.denied(compile::deny_crowded);
            }
            None => {
                if let Some(pod) = endpoint.bound.and_then(|id| self.pods.get(id)) {
                    let mut compiler = compile::Compiler {
                        selectors: &self.selectors,
                        policies: &mut self.policies,
                        names: &self.port_names,
                        rules: &mut self.rules,
                    };
                    wanted.lists = [true, false].map(|ingress| compiler.list(pod, ingress));
                }
                if wanted.lists.iter().flatten().any(|list| list.len() > most) {
                    let why = format!("more than {most} rules apply to it: everything is denied");
                    (wanted.trouble, wanted.lists) = (Some(why), self.denied(compile::deny_crowded));
                }
            }
            Some(reason) if kept => {
                wanted.trouble = Some(format!("{reason}: everything is denied meanwhile"));
                wanted.lists = self.denied(compile::deny_unknown);
            }
            Some(reason) => wanted.withheld = Some(reason),
        }
        wanted.compiled = started.elapsed();
        Some(wanted)
    }

    fn denied(&mut self, rule: fn(&mut Rules) -> RuleId) -> [Option<List>; 2] {
        let list: List = Arc::from([rule(&mut self.rules)]);
        [Some(list.clone()), Some(list)]
    }

    /// Why the policy of an endpoint cannot be known.
    fn missing(&self, endpoint: &EndpointState) -> Option<String> {
        let PodIdentity { namespace, name, uid } = endpoint.pod.as_ref()?;
        let Some(pod) = endpoint.bound.and_then(|id| self.pods.get(id)) else {
            let uid = if uid.is_empty() { String::new() } else { format!(" with UID {uid}") };
            return Some(format!("the object of pod {namespace}/{name}{uid} is not known, so its policy is not"));
        };
        let known = self.namespaces.get(&pod.facts.name.0).is_some_and(|namespace| namespace.labels.is_some());
        (!known).then(|| {
            format!("the object of namespace {namespace} is not known, so the policy of pod {namespace}/{name} is not")
        })
    }

    /// Changes lists in place whose pods all get the same new one: to the dataplane that is less than another list.
    fn change_alike(&mut self, wanted: &[Wanted]) {
        // By list: how many leave it, and for which one if it is the same for all.
        let mut plans: BTreeMap<SetId, (usize, Option<&List>)> = BTreeMap::new();
        for wanted in wanted {
            let Some(endpoint) = self.endpoints.get(&wanted.id) else { continue };
            for (set, list) in endpoint.sets().into_iter().zip(&wanted.lists) {
                let Some(set) = set else { continue };
                let plan = plans.entry(set).or_insert((0, list.as_ref()));
                plan.0 += 1;
                plan.1 = plan.1.filter(|other| Some(*other) == list.as_ref());
            }
        }
        for (set, (users, list)) in plans {
            if let Some(list) = list
                && users == self.rules.users(set)
                && self.rules.find_set(list).is_none()
            {
                self.rules.change_set(set, list);
            }
        }
    }
}
