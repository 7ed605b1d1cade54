//! The load of the campaign: an open loop of REST requests and events at fixed rates.
//!
//! It is not the load of the measurements: that one ends a launch at the first fault of a
//! connection, while this one reconnects, goes on, and writes down what failed and how.
//! It needs no precision below a millisecond, so plain threads do.

mod amqp;
mod rest;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::journal::{Journal, Operation};

/// REST requests per second.
pub const REST_RATE_PER_S: u32 = 200;
/// Events per second that the load publishes itself.
pub const AMQP_RATE_PER_S: u32 = 200;
/// One event of this many is poison while poison is asked for.
pub(super) const POISON_EVERY: u64 = 100;

/// What the load's threads share.
#[derive(Debug)]
struct Shared {
    start: Instant,
    /// Where the service listens now; another port after each restart.
    target: Mutex<SocketAddr>,
    journal: Mutex<Journal>,
    poisoning: AtomicBool,
    stopping: AtomicBool,
}

impl Shared {
    /// What one thread wrote is complete: nothing that panics happens under the lock.
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self) -> SocketAddr {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// An instant since the start of the load.
    fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.start)
    }
}

/// A load under way; dropping it stops it.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Begins to load the service at `target` through REST and through the broker of `url`.
    ///
    /// `id_prefix` begins the id of every message.
    ///
    /// # Errors
    /// If the machine has no thread left.
    pub(super) fn start(target: SocketAddr, url: &str, id_prefix: &str) -> std::io::Result<Self> {
        // Before the clock starts, so that the first events are not late.
        let link = amqp::Link::connect(url).ok();
        let shared = Arc::new(Shared {
            start: Instant::now(),
            target: Mutex::new(target),
            journal: Mutex::default(),
            poisoning: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let mut load = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        load.threads
            .push(amqp::start(&shared, link, url, id_prefix)?);
        load.threads.extend(rest::start(&shared)?);
        Ok(load)
    }

    /// The service listens elsewhere now.
    pub(super) fn aim(&self, target: SocketAddr) {
        *self
            .shared
            .target
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Makes one event in [`POISON_EVERY`] poison, or no longer.
    pub(super) fn poison(&self, poisoning: bool) {
        self.shared.poisoning.store(poisoning, Ordering::Relaxed);
    }

    /// The store is about to begin anew: what was visible need not be.
    pub(super) fn forget_visible(&self) {
        self.journal().forget_visible();
    }

    /// The journal, held still.
    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.shared.journal()
    }

    /// A copy of the operations so far.
    pub(super) fn operations(&self) -> Vec<Operation> {
        self.journal().operations.clone()
    }

    /// An instant since the start of the load.
    pub(super) fn at(&self, instant: Instant) -> Duration {
        self.shared.at(instant)
    }

    /// Sends nothing more and waits for what is under way, at most for its deadline.
    pub(super) fn finish(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic was told by the thread; its operations count as timed out.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The instant at which operation `seq` is due.
fn due(start: Instant, seq: u64, rate_per_s: u32) -> Instant {
    start + Duration::from_nanos(seq * 1_000_000_000 / u64::from(rate_per_s))
}
