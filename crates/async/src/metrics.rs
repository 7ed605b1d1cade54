//! Counters and how they are gathered.
//!
//! Particular to tasks: nothing is gathered. The loop is the only writer, so one set of counters
//! serves every task; the price shows in the variant with several threads, which contend here.

use std::{
    fs, process,
    sync::Mutex,
    time::{Duration, Instant},
};

use contract::metrics::{AmqpMetrics, Histogram, HttpMetrics, ProcessMetrics};
use domain::Store;

use crate::state::lock;

/// The counters of the service.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Apart from the AMQP counters only for the variant with several threads: there, REST and
    /// AMQP run on different cores and would fight for one lock and one cache line.
    http: Mutex<HttpMetrics>,
    amqp: Mutex<AmqpMetrics>,
    /// How late timers fire: what a task waits for the loop, since others run first.
    lag: Mutex<Histogram>,
}

impl Metrics {
    /// Changes the REST counters; `change` cannot wait, so the lock is short.
    pub fn http<T>(&self, change: impl FnOnce(&mut HttpMetrics) -> T) -> T {
        change(&mut lock(&self.http))
    }

    /// Changes the AMQP counters.
    pub fn amqp<T>(&self, change: impl FnOnce(&mut AmqpMetrics) -> T) -> T {
        change(&mut lock(&self.amqp))
    }

    /// Notes that something planned for `due` ran at `now`.
    pub fn late(&self, due: Instant, now: Instant) {
        let lag: Duration = now.saturating_duration_since(due);
        lock(&self.lag).observe(lag.as_secs_f64());
    }

    /// Everything as Prometheus text.
    #[must_use]
    pub fn render(&self, store: (u64, u64), outstanding: u64, sink_dropped: u64) -> String {
        // Copies under the locks, formatting outside: writing text takes longer than counting.
        let http = lock(&self.http).clone();
        let mut amqp = lock(&self.amqp).clone();
        let lag = *lock(&self.lag);
        (amqp.store_keys, amqp.store_points) = store;
        amqp.publish_outstanding = outstanding;
        amqp.sink_dropped = sink_dropped;
        contract::metrics::render(&http, &amqp, &process_metrics(), None, Some(&lag))
    }
}

/// Keys and points of a store, for [`Metrics::render`] and broadcasts.
#[must_use]
pub fn store_size(store: &Store) -> (u64, u64) {
    (store.len() as u64, store.points() as u64)
}

/// What the kernel says of this process; zeros where `/proc` is missing.
///
/// These are blocking reads on the loop, which is right here: `/proc` is memory, nothing is waited
/// for, and handing the reads to a thread would cost more than doing them.
#[must_use]
pub fn process_metrics() -> ProcessMetrics {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let open_fds = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
    domain::process::from_stat(&stat, rustix::param::page_size() as u64, open_fds)
        .unwrap_or_default()
}

/// Every process of the service: this one.
#[must_use]
pub fn pids() -> Vec<u32> {
    vec![process::id()]
}
