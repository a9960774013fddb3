//! What is counted as it happens.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// How a CNI call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// As it should.
    Ok,
    /// It may succeed later.
    Retry,
    /// It was refused, or failed.
    Error,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Retry => "retry",
            Outcome::Error => "error",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Verb {
    verb: &'static str,
    result: &'static str,
}

/// Counts and times the CNI plugin's calls. Clones count together.
#[derive(Clone, Debug)]
pub struct CniCalls(Family<Verb, Histogram, fn() -> Histogram>);

impl Default for CniCalls {
    fn default() -> Self {
        // From a millisecond to half a minute, which is the plugin's patience.
        CniCalls(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 16))))
    }
}

impl CniCalls {
    /// A call of `verb` took so long and ended so.
    pub fn done(&self, verb: &'static str, took: Duration, outcome: Outcome) {
        self.0.get_or_create(&Verb { verb, result: outcome.name() }).observe(took.as_secs_f64());
    }

    pub(super) fn family(&self) -> Family<Verb, Histogram, fn() -> Histogram> {
        self.0.clone()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Written {
    what: &'static str,
    result: &'static str,
}

/// Counts what the agent says to the cluster (or to its log): conditions, taints, events. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Writes(Family<Written, Counter>);

impl Writes {
    /// Something was said, or could not be, or was held back.
    pub fn count(&self, what: &'static str, result: &'static str) {
        self.0.get_or_create(&Written { what, result }).inc();
    }

    pub(super) fn family(&self) -> Family<Written, Counter> {
        self.0.clone()
    }
}
