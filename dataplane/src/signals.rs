//! SIGTERM and SIGINT: an orderly end, which gives the uplink back.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::worker::shared::Shared;

/// Whether the process was asked to end.
#[derive(Debug, Default)]
pub struct Stop {
    requested: AtomicBool,
    wakes: OnceLock<Arc<Shared>>,
}

impl Stop {
    /// Hears signals from now on, with a thread of its own.
    ///
    /// # Errors
    /// Handlers or the thread cannot be set up.
    pub fn on_signals() -> io::Result<Arc<Stop>> {
        let stop = Arc::new(Stop::default());
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let own = Arc::clone(&stop);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in &mut signals {
                tracing::info!(signal, "asked to end");
                own.request();
            }
        })?;
        Ok(stop)
    }

    /// Asks for the end.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
        if let Some(shared) = self.wakes.get() {
            shared.control.wake();
        }
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// From now on a request wakes control. (An earlier one is seen before control first waits.)
    pub fn wakes(&self, shared: &Arc<Shared>) {
        let _ = self.wakes.set(Arc::clone(shared));
    }
}
