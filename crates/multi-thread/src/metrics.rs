//! Counts what happens, and gathers it for `/metrics`.
//!
//! Particular to threads: each writer has a slot of its own and nobody shares a counter.
//! A lock that nobody else wants costs about as much as one atomic addition, and guards a whole
//! struct; only a scrape, every few seconds, meets the writers.

use std::{
    fs,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use contract::metrics::{AmqpMetrics, HttpMetrics, ProcessMetrics, Role};

use crate::state::State;

/// A mutex on cache lines of its own.
///
/// Two slots on one line would make two cores fight for the line though no datum is shared (false
/// sharing); 128 bytes, because processors fetch lines of 64 bytes in pairs.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Slot<T>(Mutex<T>);

impl<T> Slot<T> {
    /// Locks the slot. Counters are valid after every step, so a panic of another holder (which
    /// poisons the mutex) changes nothing.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one REST worker counts.
#[derive(Debug, Default)]
pub struct HttpSlot {
    /// Its requests and their durations.
    pub counts: Slot<HttpMetrics>,
    busy: AtomicBool,
}

impl HttpSlot {
    /// Notes whether the worker has a request in hand.
    /// `Relaxed`: a gauge orders nothing.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }
}

/// All slots.
#[derive(Debug)]
pub struct Metrics {
    /// One per REST worker.
    pub http: Box<[HttpSlot]>,
    /// What the timers' thread counts.
    pub timers: Slot<AmqpMetrics>,
    consumer: Slot<AmqpMetrics>,
    publisher: Slot<AmqpMetrics>,
}

impl Metrics {
    /// Slots for so many REST workers.
    #[must_use]
    pub fn new(http_workers: usize) -> Self {
        Self {
            http: (0..http_workers).map(|_| HttpSlot::default()).collect(),
            timers: Slot::default(),
            consumer: Slot::default(),
            publisher: Slot::default(),
        }
    }

    /// The slot of one side of AMQP.
    #[must_use]
    pub const fn of(&self, role: Role) -> &Slot<AmqpMetrics> {
        match role {
            Role::Consumer => &self.consumer,
            Role::Publisher => &self.publisher,
        }
    }

    /// Sum over the REST workers.
    fn http(&self) -> HttpMetrics {
        let mut sum = HttpMetrics::default();
        for slot in &self.http {
            let counts = slot.counts.lock();
            for (labels, count) in &counts.requests {
                *sum.requests.entry(*labels).or_default() += count;
            }
            sum.duration.merge(&counts.duration);
            sum.inflight += u64::from(slot.busy.load(Ordering::Relaxed));
        }
        sum
    }

    /// The AMQP side; each field has one writer, so there is nothing to add but the reconnects.
    fn amqp(&self) -> AmqpMetrics {
        let mut sum = self.consumer.lock().clone();
        let publisher = self.publisher.lock();
        sum.reconnects += publisher.reconnects;
        sum.publishes.clone_from(&publisher.publishes);
        sum.publish_outstanding = publisher.publish_outstanding;
        sum.tasks.clone_from(&self.timers.lock().tasks);
        sum
    }
}

/// Renders everything for `/metrics`.
#[must_use]
pub fn render(state: &State) -> String {
    let mut amqp = state.metrics.amqp();
    let flags = &state.flags;
    amqp.up.insert(Role::Consumer, flags.consuming.is_up());
    amqp.up.insert(Role::Publisher, flags.publishing.is_up());
    let store = state.store();
    amqp.store_keys = store.len() as u64;
    amqp.store_points = store.points() as u64;
    drop(store);
    contract::metrics::render(&state.metrics.http(), &amqp, &process(), None, None)
}

/// What the kernel says of this process; zeros where it says nothing.
#[must_use]
pub fn process() -> ProcessMetrics {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let page_bytes = rustix::param::page_size() as u64;
    domain::process::from_stat(&stat, page_bytes, open_fds()).unwrap_or_default()
}

/// Open file descriptors.
///
/// Since Linux 6.2 the folder's size says it, for a tenth of the cost of reading the folder.
#[must_use]
pub fn open_fds() -> u64 {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).map(|folder| folder.len()) {
        Ok(count) if count > 0 => count,
        // The descriptor for reading the folder is in it.
        _ => fs::read_dir(FOLDER).map_or(0, |entries| entries.count() as u64 - 1),
    }
}
