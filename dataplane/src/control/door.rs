//! The dataplane's socket: agents are shown in, questions are answered. On threads of their own, because visitors may
//! be slow; the packet path and control never wait for one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use podplane_config::link::{self, DataplaneLink, Facts, LinkError, Visitor};

use super::answers::Answers;
use crate::worker::shared::Shared;

/// Visitors that are heard at once; one more is turned away.
const VISITORS: usize = 16;

/// The newest agent that came and was not yet taken over by control. An older one is replaced: it is gone or will be.
#[derive(Debug, Default)]
pub struct Hall(Mutex<Option<Arrival>>);

/// An agent that was let in.
#[derive(Debug)]
pub struct Arrival {
    /// Its connection.
    pub link: DataplaneLink,
    /// What it kept of the dataplane before.
    pub kept: Option<OwnedFd>,
}

impl Hall {
    /// The agent that waits, if there is one.
    pub fn take(&self) -> Option<Arrival> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn put(&self, agent: Arrival) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(agent);
    }
}

/// The open socket; closed and removed on drop.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    closing: Arc<AtomicBool>,
}

/// What agents are told and given.
#[derive(Debug)]
pub struct Welcome {
    /// The facts, less the MTU.
    pub facts: Facts,
    /// The uplink's MTU, which may change.
    pub mtu: Arc<AtomicU16>,
    /// The flow memory, to be kept.
    pub flows: Option<OwnedFd>,
}

/// What visitors are served from.
struct Reception {
    welcome: Welcome,
    answers: Arc<Answers>,
    hall: Arc<Hall>,
    shared: Arc<Shared>,
    inside: AtomicUsize,
}

impl Door {
    /// Serves the visitors of `listener`, which listens at `path`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(
        listener: UnixListener,
        path: &Path,
        welcome: Welcome,
        answers: Arc<Answers>,
        hall: Arc<Hall>,
        shared: Arc<Shared>,
    ) -> io::Result<Door> {
        let closing = Arc::new(AtomicBool::new(false));
        let door = Door { path: path.to_owned(), closing: Arc::clone(&closing) };
        let inside = AtomicUsize::new(0);
        let reception = Arc::new(Reception { welcome, answers, hall, shared, inside });
        std::thread::Builder::new().name("door".to_owned()).spawn(move || serve(&listener, &reception, &closing))?;
        Ok(door)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(&self.path);
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket was gone already");
        }
    }
}

fn serve(listener: &UnixListener, reception: &Arc<Reception>, closing: &AtomicBool) {
    loop {
        let visitor = listener.accept();
        if closing.load(Ordering::Acquire) {
            return;
        }
        match visitor {
            Ok((stream, _)) => admit(stream, reception),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a visitor");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn admit(stream: UnixStream, reception: &Arc<Reception>) {
    if reception.inside.fetch_add(1, Ordering::AcqRel) >= VISITORS {
        reception.inside.fetch_sub(1, Ordering::AcqRel);
        tracing::warn!("more than {VISITORS} visitors at once: one was turned away");
        return;
    }
    let own = Arc::clone(reception);
    let spawned = std::thread::Builder::new().name("visitor".to_owned()).spawn(move || {
        if let Err(error) = own.receive(stream) {
            tracing::debug!(%error, "a visitor left without an answer");
        }
        own.inside.fetch_sub(1, Ordering::AcqRel);
    });
    if let Err(error) = spawned {
        reception.inside.fetch_sub(1, Ordering::AcqRel);
        tracing::warn!(%error, "cannot start a thread for a visitor");
    }
}

impl Reception {
    fn receive(&self, stream: UnixStream) -> Result<(), LinkError> {
        match link::greet(stream)? {
            Visitor::Introspect { question, answer } => match self.answers.answer(question) {
                Ok(json) => answer.send(&json),
                Err(reason) => answer.refuse(&reason),
            },
            Visitor::Agent(mut agent) => {
                let kept = agent.take_kept();
                let facts =
                    Facts { uplink_mtu: self.welcome.mtu.load(Ordering::Relaxed), ..self.welcome.facts.clone() };
                let link = agent.welcome_with(&facts, self.welcome.flows.as_ref().map(AsFd::as_fd))?;
                self.hall.put(Arrival { link, kept });
                self.shared.control.wake();
                Ok(())
            }
        }
    }
}
