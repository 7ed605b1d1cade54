//! What REST and AMQP share: the store, the sink, metrics, readiness flags and ids.
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
    hint::black_box,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use contract::{
    Profile,
    shapes::{Check, Checks},
};
use domain::{Reading, Sink, Store, UnixMs, readiness, work};
use rustix::time::{ClockId, clock_gettime};

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
    /// Apart from the store: whoever reads values has nothing to do with lines for a file.
    sink: Mutex<Sink>,
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
            sink: Mutex::new(Sink::new()),
        }
    }

    /// The store, for as long as the guard lives; never keep it across an `await`.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// The lines for the file sink, for as long as the guard lives; never across an `await`.
    pub fn sink(&self) -> MutexGuard<'_, Sink> {
        lock(&self.sink)
    }

    /// Takes a reading over: when this returns, a `GET` sees it (invariant I1), and its line waits
    /// for the sink.
    pub fn apply(&self, reading: Reading, now: UnixMs) {
        let settings = &self.config.settings;
        if settings.sink.is_some() {
            self.sink().push(&reading, now);
        }
        if settings.profile == Profile::Shared {
            self.store().apply(reading, now);
        }
    }

    /// Computes for as long as `--cpu-us` says.
    ///
    /// On the loop, and not on a thread where such work belongs: the setting is there to show what
    /// everybody else waits for when somebody computes in a handler.
    pub fn compute(&self) {
        let us = self.config.settings.cpu_us;
        if us > 0 {
            burn(Duration::from_micros(us));
        }
    }
}

/// Computes until this thread has used up `share` of processor time.
///
/// The thread's clock and not the wall's: work does not become less because the kernel lets
/// somebody else run in between, and a busy machine is when it matters.
fn burn(share: Duration) {
    let until = processor_time() + share;
    let mut hash = 0;
    while processor_time() < until {
        hash = black_box(work::slice(hash));
    }
}

/// Processor time that this thread has used so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's time does not run backwards")
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

    /// Whether the service is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The parts as `/readyz` tells them.
    #[must_use]
    pub fn checks(&self) -> Checks {
        let on = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if self.is_draining() {
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
    fn an_event_reaches_the_store_and_the_sink_as_the_settings_say() {
        for (arguments, keys, lines) in [
            (&[][..], 1, 0),
            (&["--sink=/dev/null"], 1, 1),
            (&["--sink=/dev/null", "--profile=isolated"], 0, 1),
        ] {
            let state = State::new(Config::parse(arguments).expect("valid"));
            let reading = domain::decode(br#"{"key":"s","data":{"t":1}}"#).expect("an event");
            state.apply(reading, UnixMs(0));
            assert_eq!(state.store().len(), keys, "{arguments:?}");
            assert_eq!(state.sink().take().lines, lines, "{arguments:?}");
        }
    }

    #[test]
    fn computing_takes_as_much_processor_time_as_was_asked_for() {
        let share = Duration::from_millis(5);
        let begun = processor_time();
        burn(share);
        assert!(processor_time() - begun >= share);
    }

    #[test]
    fn ids_differ() {
        let ids = Ids::new();
        assert_ne!(ids.next(), ids.next());
        assert_ne!(Ids::new().next(), Ids::new().next());
    }
}
