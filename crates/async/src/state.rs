//! What REST and AMQP share: the store, metrics, readiness flags and ids.
//!
//! Particular to tasks: on one thread only one task runs at a time, and it is interrupted nowhere
//! but at an `await`. What stands between two `await`s is therefore atomic without any lock; this
//! is the "no thread safety worries" that an event loop promises.
//! The types do not let us cash that promise in: axum demands shared state that is `Send + Sync`,
//! because the same handlers may run on a multi-threaded runtime (and here they do, in the variant
//! `--runtime multi-thread`), and a `RefCell` would not compile.
//! So there are locks after all. They cost a compare-and-swap each, because on one thread nobody
//! ever waits for them, and they never live across an `await`, which a lint holds: a task that
//! slept with a lock in hand would stop every other task of the thread, for good.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use contract::shapes::{Check, Checks};
use domain::{Reading, Store, UnixMs, readiness};

use crate::{config::Config, metrics::Metrics};

/// What REST and AMQP share; lives behind one `Arc` as long as the process.
#[derive(Debug)]
pub struct State {
    /// Settings.
    pub config: Config,
    /// Counters.
    pub metrics: Metrics,
    /// State of the parts.
    pub flags: Flags,
    /// Ids of requests and messages.
    pub ids: Ids,
    /// When the process started.
    pub started: UnixMs,
    /// A plain mutex and not `RwLock`: a reader copies a few values out and is gone within a
    /// microsecond, and a read lock costs more than that to take.
    /// Not tokio's own mutex either: that one queues tasks across `await`s, which is just what
    /// must not happen here.
    store: Mutex<Store>,
}

impl State {
    /// The state of a service that has neither connections nor data yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let bounds = (&config.settings).into();
        Self {
            config,
            metrics: Metrics::default(),
            flags: Flags::default(),
            ids: Ids::new(),
            started: now(),
            store: Mutex::new(Store::new(bounds)),
        }
    }

    /// The store, for as long as the guard lives; never keep it across an `await`.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Makes a reading visible to REST: when this returns, a `GET` sees it (invariant I1).
    pub fn apply(&self, reading: Reading, now: UnixMs) {
        self.store().apply(reading, now);
    }
}

/// Takes a lock whether or not a panic happened under it.
///
/// The data behind our locks is consistent after each of its methods, and a handler's panic is
/// caught at its edge; refusing service for ever after would be the greater harm.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock as data.
#[must_use]
pub fn now() -> UnixMs {
    UnixMs::from_system(SystemTime::now())
}

/// State of the parts as plain flags.
///
/// Atomics and not one mutex: each flag has one writer and stands for itself. `Relaxed` is enough,
/// because no other data is published through them.
#[derive(Debug, Default)]
pub struct Flags {
    /// The consumer gets deliveries.
    consuming: AtomicBool,
    /// The publisher's connection is up.
    publishing: AtomicBool,
    /// The broker refuses publishes.
    blocked: AtomicBool,
    /// The service is stopping.
    draining: AtomicBool,
}

impl Flags {
    /// Notes whether the consumer gets deliveries.
    pub fn set_consuming(&self, on: bool) {
        self.consuming.store(on, Ordering::Relaxed);
    }

    /// Notes whether the publisher's connection is up, and whether the broker blocks it.
    pub fn set_publishing(&self, on: bool, blocked: bool) {
        self.publishing.store(on, Ordering::Relaxed);
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Notes that the service is stopping.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The parts as `/readyz` tells them.
    #[must_use]
    pub fn checks(&self) -> Checks {
        let on = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if on(&self.draining) {
            return Checks {
                http: Check::Draining,
                amqp: Check::Draining,
                ipc: Check::Up,
            };
        }
        Checks {
            http: Check::Up,
            amqp: readiness::amqp_check(
                on(&self.consuming),
                on(&self.publishing),
                on(&self.blocked),
            ),
            // Tasks of one process have nothing between them that could break.
            ipc: Check::Up,
        }
    }
}

/// Ids that no other instance and no other run makes: a random prefix and a counter.
///
/// A counter costs a nanosecond, a random UUID per request some hundred.
#[derive(Debug)]
pub struct Ids {
    prefix: u64,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        Self {
            prefix: fastrand::u64(..),
            next: AtomicU64::new(1),
        }
    }

    /// A new id of visible ASCII.
    #[must_use]
    pub fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number:x}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_when_it_consumes_and_publishes_until_it_drains() {
        let flags = Flags::default();
        assert_eq!(flags.checks().amqp, Check::Connecting);
        flags.set_consuming(true);
        flags.set_publishing(true, false);
        assert_eq!(flags.checks().amqp, Check::Up);
        flags.set_publishing(true, true);
        assert_eq!(flags.checks().amqp, Check::Blocked);
        flags.set_draining();
        assert_eq!(flags.checks().http, Check::Draining);
    }

    #[test]
    fn ids_differ() {
        let ids = Ids::new();
        assert_ne!(ids.next(), ids.next());
        assert_ne!(Ids::new().next(), Ids::new().next());
    }
}
