//! Holds what REST and AMQP share: the store, counters, readiness and identity.
//!
//! Particular to threads: sharing is an `Arc` and a lock. Each field says which lock, and why not
//! its neighbour.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use contract::{
    metrics::Role,
    shapes::{Check, Checks, Info, Settlement},
};
use domain::{Store, UnixMs, readiness::amqp_check};

use crate::{
    amqp::publisher::Outbox, config::Config, device::Pool, metrics, metrics::Metrics,
    shutdown::Alarm,
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

/// Everything that more than one thread uses.
pub struct State {
    /// Configuration; immutable, so it needs no lock.
    pub config: Arc<Config>,
    /// The latest values and series.
    ///
    /// A mutex, because an access is about a microsecond of computing and never waits: a holder is
    /// practically never met.
    /// An owner thread would cost two context switches per read, five times the work itself, and
    /// an `RwLock` writes the same cache line to let readers in; it pays only where reads are long.
    store: Mutex<Store>,
    /// What readiness depends on.
    pub flags: Flags,
    /// Counters, one slot per writer.
    pub metrics: Metrics,
    /// Way to the publisher.
    pub outbox: Outbox,
    /// Connections to the device.
    pub device: Pool,
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
        // A worker holds at most one connection, so more than workers would never be used.
        let connections = settings.device_pool.min(settings.http_workers);
        Self {
            store: Mutex::new(Store::new(settings.into())),
            flags: Flags::default(),
            metrics: Metrics::new(settings.http_workers),
            outbox,
            device: Pool::new(settings.device_addr, connections),
            alarm,
            started: UnixMs::from_system(SystemTime::now()),
            boot: fastrand::u64(..),
            config,
        }
    }

    /// Locks the store. A panic of another holder poisons the mutex; the store's operations leave
    /// it usable, and a service that answered 500 for ever would help nobody.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A unique id from the number of its maker and that maker's own count: a counter shared by
    /// all workers would be the one cache line that every request writes.
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
