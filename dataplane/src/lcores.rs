//! The workers' threads: each registered with DPDK as an lcore, bound to a CPU where one is named.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use dpdk_glue::{Eal, Lcore, LcoreError};
use podplane_packet::id::WorkerId;

use crate::args::CpuList;
use crate::worker::Worker;
use crate::worker::shared::Shared;

/// Why the workers did not start.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// No thread.
    #[error("cannot start the thread of worker {0}: {1}; raise the limit of threads (ulimit -u)")]
    Thread(u8, std::io::Error),
    /// No lcore.
    #[error("worker {0}: {1}")]
    Lcore(u8, LcoreError),
}

/// The workers at work. They end when this is dropped.
#[derive(Debug)]
pub struct Crew {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// Starts the workers, and returns once each is ready. If one cannot start, none goes on.
    ///
    /// # Errors
    /// No thread, or DPDK or the kernel refuses its place.
    pub fn start(
        eal: &Eal,
        workers: Vec<Worker>,
        cpus: Option<&CpuList>,
        shared: &Arc<Shared>,
    ) -> Result<Crew, CrewError> {
        let mut crew = Crew { shared: Arc::clone(shared), threads: Vec::with_capacity(workers.len()) };
        for (i, worker) in workers.into_iter().enumerate() {
            let id = WorkerId(i as u8);
            let (eal, cpu, shared) = (eal.clone(), cpus.map(|cpus| cpus.of(id)), Arc::clone(shared));
            let (ready, started) = mpsc::sync_channel(1);
            let thread = std::thread::Builder::new().name(format!("worker-{i}")).spawn(move || {
                // Declared before the worker is run, so dropped after the worker's buffers went through its caches.
                let lcore = match cpu {
                    Some(cpu) => Lcore::register_on(&eal, cpu),
                    None => Lcore::register(&eal),
                };
                let (_lcore, result) = match lcore {
                    Ok(lcore) => (Some(lcore), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                let go_on = result.is_ok();
                let _ = ready.send(result);
                if go_on {
                    let _alarm = Alarm(shared);
                    worker.run();
                }
            });
            crew.threads.push(thread.map_err(|error| CrewError::Thread(id.0, error))?);
            if let Ok(Err(error)) = started.recv() {
                return Err(CrewError::Lcore(id.0, error));
            }
        }
        Ok(crew)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}

/// Tells control when a worker ends by itself.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if !self.0.is_stopped() {
            self.0.set_broken();
        }
    }
}
