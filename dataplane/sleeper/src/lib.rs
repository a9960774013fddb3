//! How one thread sleeps and others wake it, without a lost wake-up and without a system call while it is awake.
//!
//! The sleeper raises its flag, fences, looks at every input once more and only then waits. A producer pushes, fences,
//! and looks at the flag. Of the two fences one comes first: either the sleeper sees what was pushed, or the producer
//! sees the flag. Checked by loom: `make loom`.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Ends the sleeper's wait. Stays rung until the sleeper silences it, so a ring before the wait is not lost.
pub trait Bell {
    /// Rings. Must not block.
    fn ring(&self);
}

/// One thread's sleep. Shared by the sleeper and all who may wake it.
#[derive(Debug)]
pub struct Sleeper<B> {
    /// Raised by the sleeper alone; lowered by the sleeper, or by the producer that is going to ring.
    asleep: AtomicBool,
    bell: B,
}

impl<B: Bell> Sleeper<B> {
    /// A thread that is awake.
    pub fn new(bell: B) -> Self {
        Sleeper { asleep: AtomicBool::new(false), bell }
    }

    /// The bell, to be waited on and silenced by the sleeper.
    pub fn bell(&self) -> &B {
        &self.bell
    }

    /// For the sleeper alone: announces that it is about to wait on the bell. It must then look at every input that
    /// producers push to before [`wake`](Self::wake), and wait only if none has something.
    pub fn doze(&self) -> Doze<'_> {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Doze(&self.asleep)
    }

    /// For producers, after pushing (any number of times): wakes the sleeper if it sleeps.
    #[inline]
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        // The exchange lets one of several producers pay for the ring. One that fails writes nothing: a late write of
        // "awake" over the flag of the next sleep would silence the producers after it.
        let lower = || self.asleep.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if self.asleep.load(Ordering::Relaxed) && lower() {
            self.bell.ring();
        }
    }
}

/// The time between the announcement and the end of a wait.
#[derive(Debug)]
#[must_use = "without it producers do not ring"]
pub struct Doze<'a>(&'a AtomicBool);

impl Drop for Doze<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::{Arc, Notify};
    use loom::thread;

    use super::*;

    // Like an eventfd: what is rung before the wait ends it at once.
    impl Bell for Arc<Notify> {
        fn ring(&self) {
            self.notify();
        }
    }

    /// Producers push `each` items; the sleeper must get all of them. A lost wake-up is a deadlock, which loom reports.
    fn all_arrive(producers: usize, each: usize) {
        loom::model(move || {
            let bell = Arc::new(Notify::new());
            let sleeper = Arc::new(Sleeper::new(bell.clone()));
            // What was pushed, as a queue's tail would say it.
            let pushed: Arc<Vec<AtomicUsize>> = Arc::new((0..producers).map(|_| AtomicUsize::new(0)).collect());
            let threads: Vec<_> = (0..producers)
                .map(|i| {
                    let (sleeper, pushed) = (sleeper.clone(), pushed.clone());
                    thread::spawn(move || {
                        for n in 1..=each {
                            pushed[i].store(n, Ordering::Release);
                            sleeper.wake();
                        }
                    })
                })
                .collect();
            let seen = || pushed.iter().map(|p| p.load(Ordering::Acquire)).sum::<usize>();
            let mut taken = 0;
            while taken < producers * each {
                let doze = sleeper.doze();
                if seen() == taken {
                    bell.wait();
                }
                drop(doze);
                taken = seen();
            }
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
    }

    #[test]
    fn no_wake_up_is_lost_with_one_producer() {
        all_arrive(1, 2);
    }

    #[test]
    fn no_wake_up_is_lost_with_two_producers() {
        all_arrive(2, 1);
    }
}

#[cfg(all(test, not(loom)))]
mod std_tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Count(AtomicUsize);

    impl Bell for &Count {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_bell_rings_once_for_each_sleep_and_never_for_one_who_is_awake() {
        let count = Count(AtomicUsize::new(0));
        let rung = || count.0.load(Ordering::Relaxed);
        let sleeper = Sleeper::new(&count);
        sleeper.wake();
        assert_eq!(rung(), 0);
        let doze = sleeper.doze();
        sleeper.wake();
        sleeper.wake();
        assert_eq!(rung(), 1);
        drop(doze);
        sleeper.wake();
        assert_eq!(rung(), 1);
        let _doze = sleeper.doze();
        sleeper.wake();
        assert_eq!(rung(), 2);
    }
}
