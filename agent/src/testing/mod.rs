//! A dataplane in memory: the real end of the link with the real checks, and nothing behind it.

pub(crate) mod api;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podplane_config::link::{self, DataplaneLink, Facts, Visitor};
use podplane_config::v1::{EndpointFailure, FromDataplane, ToDataplane};
use podplane_config::valid::{Assembler, State};
use podplane_index::{Family, Index, Object, Settings};

use crate::host::HostLinks;

/// A host without a single link.
pub(crate) struct NoLinks;

impl HostLinks for NoLinks {
    fn exists(&self, _: &str) -> podplane_hostnet::Result<bool> {
        Ok(false)
    }

    fn remove(&self, _: &str) -> podplane_hostnet::Result<()> {
        Ok(())
    }
}

/// What the dataplane in memory was told and how it is to behave.
#[derive(Default)]
pub(crate) struct Inner {
    /// What is in force.
    pub(crate) state: State,
    /// Generation, whether full, number of messages of each transaction.
    pub(crate) transactions: Vec<(u64, bool, usize)>,
    /// Endpoints that cannot be connected.
    pub(crate) fails: BTreeMap<String, String>,
    /// Refuse every transaction that creates one of these endpoints.
    pub(crate) refuses: BTreeSet<String>,
    /// Does not answer.
    pub(crate) silent: bool,
}

pub(crate) struct Dataplane {
    inner: Arc<Mutex<Inner>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dataplane {
    /// Listens in `run_dir` with an uplink of `mtu`.
    pub(crate) fn start(run_dir: &Path, mtu: u16) -> Dataplane {
        let listener = link::listen(&run_dir.join("dataplane.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (inner, stop) = (Arc::<Mutex<Inner>>::default(), Arc::<AtomicBool>::default());
        let (behaviour, stopped) = (inner.clone(), stop.clone());
        let facts = Facts {
            version: "test".into(),
            uplink: "test0".into(),
            uplink_mtu: mtu,
            workers: 1,
            host_ifname: "podplane0".into(),
        };
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                if let Ok(Visitor::Agent(agent)) = link::greet(stream) {
                    serve(agent.welcome(&facts).unwrap(), &behaviour, &stopped);
                }
            }
        });
        Dataplane { inner, stop, thread: Some(thread) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Waits until what it was told satisfies `condition`.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Inner) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition(&self.lock()) {
            assert!(Instant::now() < deadline, "not within a minute: {what}; {:?}", self.lock().transactions);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().unwrap().join());
    }
}

fn serve(mut link: DataplaneLink, behaviour: &Mutex<Inner>, stop: &AtomicBool) {
    let (mut assembler, mut messages) = (Assembler::default(), 0);
    // Answers may not fit at once to a slow agent; none of the tests is that slow.
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(10u16)).unwrap();
        if link.hush().is_err() {
            return;
        }
        while let Ok(Some(message)) = link.receive() {
            messages += 1;
            let full = matches!(message, ToDataplane::Begin { full: true, .. });
            if matches!(message, ToDataplane::Begin { .. }) {
                messages = 0;
                behaviour.lock().unwrap().transactions.push((0, full, 0));
            }
            let created = match &message {
                ToDataplane::Upsert(podplane_config::v1::Object::Endpoint(endpoint)) => Some(endpoint.id.clone()),
                _ => None,
            };
            let mut inner = behaviour.lock().unwrap();
            let refused = created.is_some_and(|id| inner.refuses.contains(&id));
            if refused {
                inner.transactions.last_mut().unwrap().2 = usize::MAX;
            }
            let Some(transaction) = assembler.message(message).unwrap() else { continue };
            let generation = transaction.generation;
            let last = inner.transactions.last_mut().unwrap();
            last.0 = generation;
            let answer = if last.2 == usize::MAX {
                FromDataplane::Refused { generation, reason: "as the test says".into() }
            } else {
                last.2 = messages - 1;
                inner.state = inner.state.apply(&transaction).unwrap();
                let connected = &inner.state.endpoints;
                let failed = inner.fails.iter().filter(|(id, _)| connected.contains_key(*id));
                let failure =
                    |(id, reason): (&String, &String)| EndpointFailure { id: id.clone(), reason: reason.clone() };
                FromDataplane::Applied { generation, failed: failed.map(failure).collect() }
            };
            if !inner.silent {
                link.send(&answer).unwrap();
            }
        }
    }
}

/// An index for node "n1" with VXLAN network 100 over IPv4.
pub(crate) fn index() -> Index {
    Index::new(Settings::new("n1", Family::Ipv4, 100))
}

/// A Node object.
pub(crate) fn node(name: &str, address: &str, cidrs: &str) -> Object {
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{cidrs}]}}\nstatus:\n  addresses: [{{type: InternalIP, address: \"{address}\"}}]\n"
    );
    podplane_index::manifest::parse(&text).unwrap().objects.remove(0).object
}
