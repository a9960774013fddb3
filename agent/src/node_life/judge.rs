//! Whether the node is ready, and why not.

use podplane_config::trouble::{StartTrouble, TroubleKind};

use super::report::Condition;

/// What is known of the node.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the objects lack, or the node's own routes.
    pub obstacle: Option<String>,
    /// Whether the workers forward by this agent's word.
    pub in_force: bool,
    /// Whether the dataplane is connected.
    pub connected: bool,
    /// The generation that is in force.
    pub generation: u64,
    /// Why the dataplane refused the last configuration.
    pub refused: Option<String>,
    /// Why the dataplane does not start, as it says itself.
    pub start_trouble: Option<StartTrouble>,
    /// Why it is not connected.
    pub trouble: Option<String>,
    /// What is short although packets are forwarded: a reason, and what and how much.
    pub degraded: Option<(&'static str, String)>,
}

/// Whether the node is ready, and why (not).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether policy is enforced and pods can be added.
    pub ready: bool,
    /// One word, stable.
    pub reason: &'static str,
    /// What is wrong and what to do; without the generation.
    pub message: String,
    /// The generation in force.
    pub generation: u64,
}

/// Judges the node.
pub fn judge(facts: &Facts) -> Verdict {
    let verdict = |ready, reason, message: String| Verdict { ready, reason, message, generation: facts.generation };
    if !facts.connected {
        if let Some(StartTrouble { kind, message }) = &facts.start_trouble {
            return verdict(false, reason(*kind), format!("podplane-dataplane does not start: {message}"));
        }
        let why = facts.trouble.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        let message = format!("the dataplane is not connected{why}: is podplane-dataplane running?");
        return verdict(false, "DataplaneNotConnected", message);
    }
    // Before anything is in force the refusal is what a person can act on; later the old configuration stays.
    match (&facts.refused, facts.in_force) {
        (Some(why), false) => {
            let message = format!("the dataplane refuses the configuration: {why}");
            return verdict(false, "ConfigurationRefused", message);
        }
        (Some(why), true) => {
            let message = format!("the dataplane refused the last change and keeps what was before: {why}");
            return verdict(true, "ConfigurationRefused", message);
        }
        (None, _) => {}
    }
    if let Some(obstacle) = &facts.obstacle {
        return verdict(false, "ConfigurationMissing", obstacle.clone());
    }
    if !facts.in_force {
        let message = "the dataplane has not applied the first configuration yet".to_owned();
        return verdict(false, "ConfigurationPending", message);
    }
    match &facts.degraded {
        Some((reason, message)) => verdict(true, reason, message.clone()),
        None => verdict(true, "PodplaneIsUp", "policies and Services are in force".to_owned()),
    }
}

fn reason(kind: TroubleKind) -> &'static str {
    match kind {
        TroubleKind::Hugepages => "HugepagesShort",
        TroubleKind::Memory => "MemoryShort",
        TroubleKind::Other => "DataplaneFailed",
    }
}

impl Verdict {
    /// The conditions that say it.
    pub fn conditions(&self) -> Vec<Condition> {
        let condition = |kind, status| Condition {
            kind,
            status,
            reason: self.reason,
            message: self.message.clone(),
            generation: self.generation,
        };
        vec![condition(Condition::READY, self.ready), condition(Condition::NETWORK_UNAVAILABLE, !self.ready)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_can_act_on_comes_first() {
        let up = Facts { in_force: true, connected: true, generation: 7, ..Facts::default() };
        assert_eq!((judge(&up).ready, judge(&up).reason), (true, "PodplaneIsUp"));
        let trouble = |kind| Some(StartTrouble { kind, message: "512 MiB are required, 3 MiB are there".into() });
        for (facts, ready, reason, says) in [
            (Facts { connected: false, ..up.clone() }, false, "DataplaneNotConnected", "running?"),
            (
                Facts { connected: false, start_trouble: trouble(TroubleKind::Hugepages), ..up.clone() },
                false,
                "HugepagesShort",
                "3 MiB are there",
            ),
            (Facts { start_trouble: trouble(TroubleKind::Memory), ..up.clone() }, true, "PodplaneIsUp", "in force"),
            (Facts { refused: Some("no".into()), in_force: false, ..up.clone() }, false, "ConfigurationRefused", "no"),
            (Facts { refused: Some("no".into()), ..up.clone() }, true, "ConfigurationRefused", "keeps"),
            (Facts { obstacle: Some("no Node".into()), ..up.clone() }, false, "ConfigurationMissing", "no Node"),
            (Facts { in_force: false, ..up.clone() }, false, "ConfigurationPending", "first"),
            (Facts { degraded: Some(("BuffersShort", "4 of 4".into())), ..up }, true, "BuffersShort", "4 of 4"),
        ] {
            let verdict = judge(&facts);
            assert_eq!((verdict.ready, verdict.reason), (ready, reason), "{facts:?}");
            assert!(verdict.message.contains(says), "{verdict:?}");
            let [own, unavailable] = &verdict.conditions()[..] else { panic!("two conditions") };
            assert_eq!((own.status, unavailable.status), (ready, !ready));
        }
    }
}
