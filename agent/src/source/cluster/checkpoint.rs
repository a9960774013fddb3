//! What was applied last, on the node's disk: with the API server away, an agent that starts goes on from there.
//!
//! Kept are the objects as the index reads them, not what the dataplane was told: a new version of the agent then judges
//! them by its own rules, and a pod that is made while the API server is away finds its policies.
//!
//! A thread of its own writes: at once where nothing was written for a while, so that a policy is on the disk when the
//! agent ends with the API server, and else at most once a second and a twentieth of the time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use podplane_index::{Kind, ObjectKey};

use super::journal::{Journal, Record, Refused};
use crate::status::Trouble;

/// Between two batches, at least.
const REST: Duration = Duration::from_secs(1);
/// So many times the time that the last batch took.
const SHARE: u32 = 20;
/// Between two batches, at most.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// Objects in a batch, at most.
const PIECE: usize = 2000;
/// No more is kept: a cluster of any size that this agent can serve is far smaller.
const MOST_BYTES: u64 = 512 * 1024 * 1024;

/// What was found at the start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No file, or not all that there was.
    Nothing,
    /// All that was applied, as it was this long ago.
    Whole(Duration),
}

/// The checkpoint; dropping it writes what is not written yet.
#[derive(Debug)]
pub(super) struct Checkpoint {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    batch: BTreeMap<ObjectKey, Record>,
    complete: bool,
    stop: bool,
}

impl Checkpoint {
    /// Reads the file at `path`, calls `each` with every object in it, and goes on writing it. One that was not written
    /// for `owner`, or is damaged, is refused and begun anew; `trouble` says what goes wrong with writing.
    pub(super) fn open(
        path: &Path,
        owner: &str,
        trouble: &Trouble,
        mut each: impl FnMut(Kind, &str),
    ) -> (Option<Checkpoint>, Found) {
        let written = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default();
        let journal = Journal::open(path, owner).and_then(|journal| journal.read(&mut each).map(|()| journal));
        let found = match &journal {
            Ok(journal) if journal.is_complete() => Found::Whole(age),
            _ => Found::Nothing,
        };
        let journal = journal.or_else(|reason| {
            let is_new = matches!(&reason, Refused::Io(e) if e.kind() == std::io::ErrorKind::NotFound);
            if !is_new {
                tracing::error!(path = %path.display(), %reason, "the checkpoint is not used, and written anew");
            }
            Journal::create(path, owner)
        });
        let started = journal.map_err(|e| e.to_string()).and_then(|journal| {
            let shared = Arc::new(Shared::default());
            let writer = Writer { shared: shared.clone(), journal, trouble: trouble.clone() };
            let thread = std::thread::Builder::new().name("checkpoint".into()).spawn(move || writer.run());
            thread.map(|thread| Checkpoint { shared, thread: Some(thread) }).map_err(|e| e.to_string())
        });
        match started {
            Ok(checkpoint) => (Some(checkpoint), found),
            Err(reason) => {
                trouble.set(Some(lacking(&reason)));
                (None, found)
            }
        }
    }

    /// Has this written soon.
    pub(super) fn write(&self, batch: impl IntoIterator<Item = (ObjectKey, Record)>) {
        self.shared.lock().add(batch);
        self.shared.wake.notify_one();
    }

    /// All that there is has been handed over.
    pub(super) fn complete(&self) {
        self.shared.lock().complete = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn add(&mut self, batch: impl IntoIterator<Item = (ObjectKey, Record)>) {
        for (key, record) in batch {
            let record = match (self.batch.get(&key), record) {
                (Some(Record::Put(_) | Record::PutIfNew(_)), Record::PutIfNew(_)) => continue,
                (Some(Record::Gone), Record::PutIfNew(text)) => Record::Put(text),
                (_, record) => record,
            };
            self.batch.insert(key, record);
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    journal: Journal,
    trouble: Trouble,
}

impl Writer {
    fn run(mut self) {
        let (mut complete, mut rest) = (self.journal.is_complete(), Duration::ZERO);
        loop {
            let mut pending = self.shared.lock();
            let resting = Instant::now();
            loop {
                let left = rest.saturating_sub(resting.elapsed());
                let news = !pending.batch.is_empty() || pending.complete != complete;
                if pending.stop || (news && left.is_zero()) {
                    break;
                }
                let wait = if left.is_zero() { LONGEST_REST } else { left };
                let woken = self.shared.wake.wait_timeout(pending, wait);
                pending = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            let (batch, stop) = (std::mem::take(&mut pending.batch), pending.stop);
            complete |= pending.complete;
            pending.complete = complete;
            drop(pending);
            let began = Instant::now();
            match self.write(batch, complete) {
                Ok(()) => drop(self.trouble.set(None)),
                Err((reason, batch)) => {
                    if self.trouble.set(Some(lacking(&reason))) {
                        tracing::error!("{}", lacking(&reason));
                    }
                    // What came meanwhile is newer.
                    let mut pending = self.shared.lock();
                    let newer = std::mem::replace(&mut pending.batch, batch);
                    pending.add(newer);
                }
            }
            if stop {
                return;
            }
            rest = (began.elapsed() * SHARE).clamp(REST, LONGEST_REST);
        }
    }

    fn write(
        &mut self,
        batch: BTreeMap<ObjectKey, Record>,
        complete: bool,
    ) -> Result<(), (String, BTreeMap<ObjectKey, Record>)> {
        if self.journal.size() > MOST_BYTES {
            let reason = format!("the objects of this cluster are more than {} MiB", MOST_BYTES / 1024 / 1024);
            return Err((reason, BTreeMap::new()));
        }
        let mut left = batch;
        loop {
            // In pieces, so that the text of a whole cluster is not kept twice.
            let rest = left.keys().nth(PIECE).cloned().map(|key| left.split_off(&key)).unwrap_or_default();
            if let Err(e) = self.journal.append(&left, complete && rest.is_empty()) {
                left.extend(rest);
                return Err((e.to_string(), left));
            }
            if rest.is_empty() {
                return Ok(());
            }
            left = rest;
        }
    }
}

fn lacking(reason: &str) -> String {
    format!(
        "the checkpoint cannot be written ({reason}): an agent that starts while the API server is away will not know what \
         has changed since"
    )
}
