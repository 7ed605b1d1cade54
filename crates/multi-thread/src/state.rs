//! Holds what REST and AMQP share: the store, the sink, counters, readiness and identity.
//!
//! Particular to threads: sharing is an `Arc` and a lock. Each field says which lock, and why not
//! its neighbour.

use std::{
    hint::black_box,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use contract::{
    Profile,
    metrics::Role,
    shapes::{Check, Checks, Info, Settlement},
};
use domain::{Reading, Sink, Store, UnixMs, readiness::amqp_check, work};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    amqp::publisher::Outbox, background::jobs::Jobs, config::Config, device::Pool, metrics,
    metrics::Metrics, shutdown::Alarm,
};

/// A condition that others may look at.
///
/// An atomic and not a mutex: it is a single word, and nothing else is published by it.
/// `Relaxed` therefore: whoever needs order gets it from the channel that carries the work.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// Whether it is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set(&self, up: bool) {
        self.0.store(up, Ordering::Relaxed);
    }

    /// Raises it until the guard is dropped, by whatever way the scope is left.
    pub fn raise(&self) -> Raised<'_> {
        self.set(true);
        Raised(self)
    }
}

/// Lowers its flag when dropped.
pub struct Raised<'a>(&'a Flag);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// What readiness depends on.
#[derive(Debug, Default)]
pub struct Flags {
    /// The consumer runs.
    pub consuming: Flag,
    /// The publisher has its connection.
    pub publishing: Flag,
    /// The broker takes no publishes for the moment.
    pub blocked: Flag,
    /// The service is stopping.
    pub draining: Flag,
}

/// A bound to how many do the same thing at once.
///
/// An atomic counter and not a semaphore: nobody waits for a place, who finds none is refused.
/// `Relaxed` throughout: only the number counts, nothing is published by it.
#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    most: usize,
}

/// A place that is free again when this is dropped, also by a panic.
#[derive(Debug)]
pub struct Place<'a>(&'a Places);

impl Places {
    /// Room for so many.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        let taken = AtomicUsize::new(0);
        Self { taken, most }
    }

    /// A place, if there is one.
    pub fn take(&self) -> Option<Place<'_>> {
        // Added first and looked at afterwards: two who looked first might both take the last one.
        let place = Place(self);
        (self.taken.fetch_add(1, Ordering::Relaxed) < self.most).then_some(place)
    }

    /// Places that are taken; a moment too many while somebody is refused.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed).min(self.most)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything that more than one thread uses.
pub struct State {
    /// Configuration; immutable, so it needs no lock.
    pub config: Arc<Config>,
    /// The latest values and series.
    ///
    /// A mutex, because most accesses are about a microsecond of computing and none waits: a holder
    /// is practically never met.
    /// An owner thread would cost two context switches per read, five times the work itself, and
    /// an `RwLock` writes the same cache line to let readers in; it would pay only if long reads
    /// were frequent, and the longest (a series query of a hundred full fields, 1.2 ms) is rare.
    store: Mutex<Store>,
    /// Lines for the file sink; apart from the store, because whoever reads values has nothing to
    /// do with them. Two use it, the consumer and, every few seconds, the thread that writes.
    sink: Mutex<Sink>,
    /// What readiness depends on.
    pub flags: Flags,
    /// Counters, one slot per writer.
    pub metrics: Metrics,
    /// Requests in handlers. Unlike the counters this is one word for all, because a bound is:
    /// every request writes it, which costs as much as a cache line's way to another core.
    pub inflight: Places,
    /// Clients' connections, as far as they are ours: the library does not tell how many it has.
    pub connections: Places,
    /// Way to the publisher.
    pub outbox: Outbox,
    /// Connections to the device.
    pub device: Pool,
    /// Jobs of clients.
    pub jobs: Jobs,
    /// Stops the service.
    pub alarm: Alarm,
    started: UnixMs,
    /// Random per start: makes ids unique among instances and restarts.
    boot: u64,
}

impl State {
    /// The state of a service that starts now.
    #[must_use]
    pub fn new(config: Arc<Config>, outbox: Outbox, alarm: Alarm) -> Self {
        let settings = &config.settings;
        Self {
            store: Mutex::new(Store::new(settings.into())),
            sink: Mutex::new(Sink::new()),
            flags: Flags::default(),
            metrics: Metrics::new(&config),
            inflight: Places::new(settings.max_inflight),
            connections: Places::new(settings.max_conns),
            outbox,
            device: Pool::new(settings.device_addr, settings.device_pool),
            jobs: Jobs::default(),
            alarm,
            started: now(),
            boot: fastrand::u64(..),
            config,
        }
    }

    /// Locks the store.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Locks the lines for the file sink.
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

    /// Computes for as long as `--cpu-us` says, or until there is no reason to `go_on`: nobody can
    /// stop a thread from outside, so it asks between its steps.
    pub fn compute(&self, go_on: impl Fn() -> bool) {
        let us = self.config.settings.cpu_us;
        if us > 0 {
            burn(Duration::from_micros(us), go_on);
        }
    }

    /// A unique id from the number of its maker and that maker's own count: a counter shared by
    /// all workers would be one more cache line that every request writes.
    #[must_use]
    pub fn id(&self, maker: usize, count: u64) -> String {
        format!("{:016x}-{maker:x}-{count:x}", self.boot)
    }

    /// State of the parts, for `/readyz`.
    #[must_use]
    pub fn checks(&self) -> Checks {
        let flags = &self.flags;
        let (http, amqp) = if flags.draining.is_up() {
            (Check::Draining, Check::Draining)
        } else {
            let (consuming, publishing) = (flags.consuming.is_up(), flags.publishing.is_up());
            let amqp = amqp_check(consuming, publishing, flags.blocked.is_up());
            (Check::Up, amqp)
        };
        // There is no inter-process communication that could be down.
        let ipc = Check::Up;
        Checks { http, amqp, ipc }
    }

    /// Who answers, for `/info`.
    #[must_use]
    pub fn info(&self) -> Info {
        let settings = &self.config.settings;
        Info {
            model: crate::config::MODEL.into(),
            variant: self.config.variant().into(),
            profile: settings.profile.as_str().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: settings.name.clone(),
            pids: vec![std::process::id()],
            threads: u32::try_from(metrics::process().threads).unwrap_or(u32::MAX),
            started_at: self.started.rfc3339(),
            http_workers: settings.http_workers,
        }
    }

    /// What the service says of itself in a broadcast.
    #[must_use]
    pub fn broadcast(&self) -> domain::broadcast::State {
        // A guard is dropped at the end of its statement: nobody here holds two locks at once.
        let consumer = self.metrics.of(Role::Consumer);
        let ingested = consumer.lock().deliveries(Settlement::Ok);
        let store = self.store();
        domain::broadcast::State {
            keys: store.len() as u64,
            points: store.points() as u64,
            ingested,
        }
    }
}

/// Locks a mutex whether or not a holder panicked, which poisons it: what our locks guard is sound
/// after each step, and a service that answered 500 for ever would help nobody.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock as data.
#[must_use]
pub fn now() -> UnixMs {
    UnixMs::from_system(SystemTime::now())
}

/// Computes until this thread has used up `share` of processor time.
///
/// The thread's clock and not the wall's: work does not become less because the kernel lets
/// another thread run in between.
fn burn(share: Duration, go_on: impl Fn() -> bool) {
    let until = processor_time() + share;
    let mut hash = 0;
    while processor_time() < until && go_on() {
        hash = black_box(work::slice(hash));
    }
}

/// Processor time that this thread has used so far.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread's time does not run backwards")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{amqp::publisher, shutdown};

    /// The state of a service with these arguments, of which no part runs.
    pub fn state(arguments: &[&str]) -> Arc<State> {
        let config = Config::parse(arguments).expect("valid");
        let (outbox, _) = publisher::mailbox();
        let (_, alarm) = shutdown::install().expect("handlers");
        Arc::new(State::new(Arc::new(config), outbox, alarm))
    }

    #[test]
    fn who_finds_no_place_leaves_none_taken() {
        let places = Places::new(2);
        let (first, second) = (places.take(), places.take());
        assert!(first.is_some() && second.is_some());
        assert!(places.take().is_none() && places.take().is_none());
        assert_eq!(places.taken(), 2);
        drop(first);
        assert_eq!(places.taken(), 1);
        assert!(places.take().is_some());
    }

    #[test]
    fn an_event_reaches_the_store_and_the_sink_as_the_settings_say() {
        for (arguments, keys, lines) in [
            (&[][..], 1, 0),
            (&["--sink=/dev/null"], 1, 1),
            (&["--sink=/dev/null", "--profile=isolated"], 0, 1),
        ] {
            let state = state(arguments);
            let reading = domain::decode(br#"{"key":"s","data":{"t":1}}"#).expect("an event");
            state.apply(reading, UnixMs(0));
            assert_eq!(state.store().len(), keys, "{arguments:?}");
            assert_eq!(state.sink().take().lines, lines, "{arguments:?}");
        }
    }

    #[test]
    fn computing_takes_as_much_processor_time_as_was_asked_for_and_can_be_ended() {
        let share = Duration::from_millis(5);
        let begun = processor_time();
        burn(share, || true);
        assert!(processor_time() - begun >= share);
        burn(Duration::MAX / 2, || false);
    }
}
