//! Events: each thing once, what happens again as a count, and not too many in all.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podplane_index::ObjectKey;
use siphasher::sip::SipHasher13;
use tokio::time::Instant;

use super::Sources;
use super::report::{About, Event, Report, Severity, Told};
use crate::attachments::name;
use crate::metrics::Writes;

/// Events that may be written at once.
const BURST: f64 = 20.0;
/// The time after which one more may.
const REFILL: Duration = Duration::from_secs(30);
/// For how long an event that happens again is only counted.
const AGAIN: Duration = Duration::from_secs(300);
/// For how long an event is remembered: the API server keeps it for an hour.
const FORGET: Duration = Duration::from_secs(3600);
/// How many events may wait; more are dropped and counted.
const WAITING: usize = 64;
/// For how long a pod may be unconnected before it is news: devices come a little later than their endpoints.
const FAILED_FOR: Duration = Duration::from_secs(5);

/// What was told, and what waits to be.
pub(super) struct Events {
    waiting: VecDeque<Event>,
    held_back: u64,
    tokens: f64,
    filled: Instant,
    seen: HashMap<Event, Seen>,
    /// Of this process: an event of its node that an earlier one told is told anew.
    born: u64,
    refused: BTreeSet<(ObjectKey, String)>,
    failed: BTreeMap<String, (String, Instant, bool)>,
}

struct Seen {
    name: String,
    count: u32,
    told: Instant,
}

impl Events {
    pub(super) fn new() -> Events {
        Events {
            waiting: VecDeque::new(),
            held_back: 0,
            tokens: BURST,
            filled: Instant::now(),
            seen: HashMap::new(),
            born: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64,
            refused: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Has it told, if it is to be.
    pub(super) fn push(&mut self, event: Event) {
        if self.waiting.len() >= WAITING {
            self.held_back += 1;
        } else {
            self.waiting.push_back(event);
        }
    }

    /// Looks for what is new at the index and the dataplane.
    pub(super) fn news(&mut self, sources: &Sources) {
        let refused: BTreeSet<(ObjectKey, String)> = sources
            .desired
            .read(|index| index.refused().map(|(key, reason)| (key, reason.to_owned())).take(WAITING).collect());
        for (key, reason) in refused.difference(&self.refused).cloned().collect::<Vec<_>>() {
            self.push(object_refused(key, reason));
        }
        self.refused = refused;
        let failed = sources.observer.look(|progress| progress.failed.clone());
        self.failed.retain(|id, (reason, ..)| failed.get(id) == Some(reason));
        for (id, reason) in failed {
            self.failed.entry(id).or_insert((reason, Instant::now(), false));
        }
    }

    /// Tells what waits.
    pub(super) async fn tell(&mut self, report: &dyn Report, told: &Told, writes: &Writes) {
        for _ in 0..std::mem::take(&mut self.held_back) {
            writes.count("event", "held-back");
        }
        let now = Instant::now();
        self.refill(now);
        while let Some(event) = self.waiting.pop_front() {
            let Some((name, count)) = self.due(&event, now) else {
                writes.count("event", "held-back");
                continue;
            };
            if count == 1 {
                told.event(&event);
            }
            match report.event(&name, &event, count).await {
                Ok(()) => writes.count("event", "ok"),
                Err(e) => {
                    // It is in the log, and an event about not telling events would not be told.
                    tracing::warn!(reason = event.reason, note = event.note, error = %e, "an event could not be written");
                    writes.count("event", "error");
                }
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let new = now.saturating_duration_since(self.filled).as_secs_f64() / REFILL.as_secs_f64();
        self.tokens = (self.tokens + new).min(BURST);
        self.filled = now;
        self.seen.retain(|_, seen| now.saturating_duration_since(seen.told) < FORGET);
    }

    /// The name and number of an event that is to be told now.
    fn due(&mut self, event: &Event, now: Instant) -> Option<(String, u32)> {
        let spend = |tokens: &mut f64| {
            let enough = *tokens >= 1.0;
            *tokens -= f64::from(u8::from(enough));
            enough
        };
        if let Some(seen) = self.seen.get_mut(event) {
            seen.count = seen.count.saturating_add(1);
            if now.saturating_duration_since(seen.told) < AGAIN || !spend(&mut self.tokens) {
                return None;
            }
            seen.told = now;
            return Some((seen.name.clone(), seen.count));
        }
        if !spend(&mut self.tokens) {
            return None;
        }
        let name = event_name(event, self.born);
        self.seen.insert(event.clone(), Seen { name: name.clone(), count: 1, told: now });
        Some((name, 1))
    }

    /// Pods that stay unconnected, each once; `pods` answers whose an endpoint is.
    pub(super) fn failures(&mut self, pods: &HashMap<String, About>) {
        let mut news = Vec::new();
        for (id, (reason, since, said)) in &mut self.failed {
            if !*said && since.elapsed() >= FAILED_FOR {
                *said = true;
                let about = pods.get(id).cloned().unwrap_or(About::Node);
                let note = format!("the dataplane cannot connect {id}: {reason}");
                news.push(Event { severity: Severity::Warning, reason: "EndpointNotConnected", note, about });
            }
        }
        news.into_iter().for_each(|event| self.push(event));
    }

    /// Whether [`Events::failures`] has something to look for.
    pub(super) fn has_failures(&self) -> bool {
        self.failed.values().any(|(_, since, said)| !said && since.elapsed() >= FAILED_FOR)
    }
}

/// Whose each endpoint is.
pub(super) async fn pods(sources: &Sources) -> HashMap<String, About> {
    let live = sources.attachments.list().await.unwrap_or_default();
    let pod = |attachment: podplane_api::Attachment| {
        let pod = attachment.pod?;
        let about = About::Pod { namespace: pod.namespace, name: pod.name, uid: pod.uid };
        Some((name(&attachment.id), about))
    };
    live.into_iter().filter_map(pod).collect()
}

fn object_refused(key: ObjectKey, reason: String) -> Event {
    let note = format!("not, or not wholly, in force: {reason}");
    let (api_version, kind) = key.kind.names();
    let about = About::Object { api_version, kind, namespace: key.namespace, name: key.name };
    Event { severity: Severity::Warning, reason: "ObjectRefused", note, about }
}

/// A name that nobody else gives: of an object's event the same on all nodes, so that the first of them writes it.
fn event_name(event: &Event, born: u64) -> String {
    let mut hasher = SipHasher13::new();
    event.hash(&mut hasher);
    if !matches!(event.about, About::Object { .. }) {
        born.hash(&mut hasher);
    }
    format!("podplane-{:016x}", hasher.finish())
}

/// A number from 0 to 1 that is another one on each node.
pub(super) fn part(node: &str) -> f64 {
    let mut hasher = SipHasher13::new();
    node.hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use podplane_index::Kind;

    use super::*;

    fn event(note: &str) -> Event {
        Event { severity: Severity::Warning, reason: "R", note: note.into(), about: About::Node }
    }

    #[test]
    fn what_happens_again_is_counted_and_a_flood_is_held_back() {
        let (mut events, start) = (Events::new(), Instant::now());
        let (_, count) = events.due(&event("a"), start).unwrap();
        assert_eq!(count, 1);
        assert_eq!(events.due(&event("a"), start), None, "a moment later");
        let later = start + AGAIN;
        assert_eq!(events.due(&event("a"), later).unwrap().1, 3, "after a while, with the number");
        let flood = (0..100).filter(|i| events.due(&event(&i.to_string()), later).is_some()).count();
        assert_eq!(flood, 18, "twenty, less those before");
        events.filled = later;
        let later = later + REFILL * 2;
        events.refill(later);
        let more = (100..200).filter(|i| events.due(&event(&i.to_string()), later).is_some()).count();
        assert_eq!(more, 2);
    }

    #[test]
    fn events_of_objects_have_one_name_in_the_cluster() {
        let key = ObjectKey { kind: Kind::Service, namespace: "a".into(), name: "b".into() };
        let object = object_refused(key, "why".into());
        assert_eq!(event_name(&object, 1), event_name(&object, 2));
        assert_ne!(event_name(&event("a"), 1), event_name(&event("a"), 2));
        assert!((0.0..1.0).contains(&part("n1")) && part("n1") != part("n2"));
    }
}
