//! Counts what happens, and gathers it for `/metrics`.
//!
//! Particular to threads: each writer has a slot of its own and nobody shares a counter.
//! A lock that nobody else wants costs about as much as one atomic addition, and guards a whole
//! struct; only a scrape, every few seconds, meets the writers.

use std::{
    fs,
    sync::{Mutex, MutexGuard},
};

use contract::metrics::{AmqpMetrics, HttpMetrics, ProcessMetrics, Role};

use crate::{
    config::{Config, HttpFront},
    state::{State, lock},
};

/// Slots for threads whose number changes; a thread per connection would be a slot per connection,
/// and a scrape would have to look into a thousand. Sixteen threads of a thousand rarely meet in
/// one.
const SHARED_SLOTS: usize = 16;

/// A mutex on cache lines of its own.
///
/// Two slots on one line would make two cores fight for the line though no datum is shared (false
/// sharing); 128 bytes, because processors fetch lines of 64 bytes in pairs.
#[repr(align(128))]
#[derive(Debug, Default)]
pub struct Slot<T>(Mutex<T>);

impl<T> Slot<T> {
    /// Locks the slot.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.0)
    }
}

/// All slots.
#[derive(Debug)]
pub struct Metrics {
    /// One per REST worker, or [`SHARED_SLOTS`] for the threads of connections.
    http: Box<[Slot<HttpMetrics>]>,
    /// What the threads of the background tasks count.
    pub timers: Slot<AmqpMetrics>,
    consumer: Slot<AmqpMetrics>,
    publisher: Slot<AmqpMetrics>,
}

impl Metrics {
    /// Slots for whoever writes under `config`.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let slots = match config.front {
            HttpFront::TinyHttp => config.settings.http_workers,
            HttpFront::Std => SHARED_SLOTS,
        };
        Self {
            http: (0..slots).map(|_| Slot::default()).collect(),
            timers: Slot::default(),
            consumer: Slot::default(),
            publisher: Slot::default(),
        }
    }

    /// Where a REST worker counts, by its number.
    #[must_use]
    pub fn http(&self, worker: usize) -> &Slot<HttpMetrics> {
        &self.http[worker % self.http.len()]
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
    fn all_http(&self) -> HttpMetrics {
        let mut sum = HttpMetrics::default();
        for slot in &self.http {
            let counts = slot.lock();
            for (labels, count) in &counts.requests {
                *sum.requests.entry(*labels).or_default() += count;
            }
            sum.duration.merge(&counts.duration);
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
    amqp.sink_dropped = state.sink().dropped();
    let http = HttpMetrics {
        inflight: state.inflight.taken() as u64,
        connections: state.connections.taken() as u64,
        ..state.metrics.all_http()
    };
    contract::metrics::render(&http, &amqp, &process(), None, None)
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
