//! Holds what REST and AMQP share: the store, counters, readiness and identity.
//!
//! Particular to processes: the AMQP process owns all of it, and the REST processes ask through the
//! socket. Memory shared between processes would spare the round trip, but a process that dies in
//! the middle of a change would leave it to the others half-done; an owner that dies takes it along.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use contract::{
    metrics::Role,
    shapes::{Check, Settlement},
};
use domain::{Store, readiness::amqp_check};

use crate::{
    amqp::publisher::Outbox,
    background::{jobs::Jobs, sink::FileSink},
    config::Config,
    device::Pool,
    metrics::{Metrics, Report},
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

/// Everything that more than one process uses; only the AMQP process has it.
pub struct State {
    /// Configuration; immutable, so it needs no lock.
    pub config: Arc<Config>,
    /// The latest values and series.
    ///
    /// A mutex, because an access is about a microsecond of computing and never waits: the threads
    /// that answer REST processes practically never meet the consumer there.
    /// An `RwLock` writes the same cache line to let readers in, and a process-shared lock in shared
    /// memory would leave the store half-changed when a holder is killed.
    store: Mutex<Store>,
    /// What readiness depends on.
    pub flags: Flags,
    /// Counters, one slot per writer.
    pub metrics: Metrics,
    /// Way to the publisher.
    pub outbox: Outbox,
    /// The connections to the device that the REST processes have not.
    pub devices: Pool,
    /// Requests that may be in hand beyond the shares of the REST processes.
    pub in_flight: Places,
    /// What runs in the background for clients.
    pub jobs: Jobs,
    /// The file that events are appended to.
    pub sink: FileSink,
    /// The REST processes and their figures.
    pub siblings: Siblings,
    /// Stops the process.
    pub alarm: Alarm,
    /// Makes message ids.
    ids: Ids,
}

impl State {
    /// The state of a process that starts now.
    #[must_use]
    pub fn new(config: Arc<Config>, outbox: Outbox, alarm: Alarm) -> Self {
        let settings = &config.settings;
        Self {
            store: Mutex::new(Store::new(settings.into())),
            flags: Flags::default(),
            metrics: Metrics::default(),
            outbox,
            devices: Pool::new(settings.device_addr, config.device_rest()),
            in_flight: Places::new(config.inflight_rest()),
            jobs: Jobs::default(),
            sink: FileSink::new(settings.sink.clone()),
            siblings: Siblings::default(),
            alarm,
            ids: Ids::new(),
            config,
        }
    }

    /// Locks the store. A panic of another holder poisons the mutex; the store's operations leave
    /// it usable, and a service that answered 500 for ever would help nobody.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A unique message id.
    #[must_use]
    pub fn id(&self) -> String {
        self.ids.next()
    }

    /// State of the AMQP side, for `/readyz`; what the REST side adds it knows itself.
    #[must_use]
    pub fn check(&self) -> Check {
        let flags = &self.flags;
        if flags.draining.is_up() {
            return Check::Draining;
        }
        let (consuming, publishing) = (flags.consuming.is_up(), flags.publishing.is_up());
        amqp_check(consuming, publishing, flags.blocked.is_up())
    }

    /// Every process of the service, for `/info`: the supervisor if there is one, this one, the REST
    /// processes, and those of jobs.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let part = self.config.part.as_ref();
        let supervisor = part.and_then(|part| u32::try_from(part.supervisor?).ok());
        let own = supervisor.into_iter().chain([std::process::id()]);
        let own = own.chain(self.siblings.pids());
        own.chain(self.jobs.pids()).collect()
    }

    /// What the service says of itself in a broadcast.
    #[must_use]
    pub fn broadcast(&self) -> domain::broadcast::State {
        let ingested = self.metrics.of(Role::Consumer).lock();
        let ingested = ingested.deliveries(Settlement::Ok);
        let store = self.store();
        domain::broadcast::State {
            keys: store.len() as u64,
            points: store.points() as u64,
            ingested,
        }
    }
}

/// Makes ids unique among processes, instances and restarts: a random prefix and a count.
#[derive(Debug)]
pub struct Ids {
    boot: u64,
    /// `Relaxed`: the ids must differ, in whatever order.
    count: AtomicU64,
}

impl Ids {
    /// A new series.
    #[must_use]
    pub fn new() -> Self {
        Self {
            boot: fastrand::u64(..),
            count: AtomicU64::new(0),
        }
    }

    /// The next id.
    #[must_use]
    pub fn next(&self) -> String {
        format!(
            "{:016x}-{:x}",
            self.boot,
            self.count.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// Places that are taken or not, and never waited for.
///
/// An atomic and not a mutex: a single number that nothing else depends on.
#[derive(Debug)]
pub struct Places(AtomicUsize);

impl Places {
    /// So many free places.
    const fn new(count: usize) -> Self {
        Self(AtomicUsize::new(count))
    }

    /// Takes a place; whether there was one.
    pub fn take(&self) -> bool {
        let one_less = |free: usize| free.checked_sub(1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }

    /// Gives a place back.
    pub fn give_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The REST processes, by pid, with the figures that they reported last.
///
/// A map under a lock with a condition variable: who stops waits for a condition on the whole map
/// ("nobody is connected"), which a channel, that hands on single events, would have to be counted
/// for.
#[derive(Debug, Default)]
pub struct Siblings {
    known: Mutex<BTreeMap<u32, Sibling>>,
    /// Notified when a connection has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Sibling {
    /// More than one for a moment, when a process has connected anew.
    connections: usize,
    /// Its totals, not what was new: a lost report loses nothing.
    report: Report,
    /// Clients that it asked for; `None` before its first word on them.
    clients: Option<u64>,
}

impl Siblings {
    /// Notes a connection of process `pid`.
    pub fn joined(&self, pid: u32) {
        self.lock().entry(pid).or_default().connections += 1;
    }

    /// Notes that a connection ended; the figures stay, so that the totals never fall.
    pub fn left(&self, pid: u32) {
        if let Some(sibling) = self.lock().get_mut(&pid) {
            sibling.connections -= 1;
            if sibling.connections == 0 {
                sibling.clients = None;
                sibling.report.leave();
            }
        }
        self.changed.notify_all();
    }

    /// Takes the figures of process `pid`, which replace its earlier ones.
    ///
    /// Its clients are taken from there only if nothing is known of them, which is so behind a crash
    /// of this process; otherwise what was counted here is newer.
    pub fn report(&self, pid: u32, report: Report) {
        let mut known = self.lock();
        let sibling = known.entry(pid).or_default();
        sibling.clients.get_or_insert(report.connections);
        sibling.report = report;
    }

    /// Counts a client of process `pid`, which says that it has `own` others, unless all processes
    /// together have `limit` already.
    pub fn client_came(&self, pid: u32, own: u32, limit: usize) -> bool {
        let mut known = self.lock();
        let clients = &mut known.entry(pid).or_default().clients;
        clients.get_or_insert(own.into());
        let clients: u64 = known.values().filter_map(|it| it.clients).sum();
        let has_room = clients < limit as u64;
        if has_room && let Some(clients) = &mut known.entry(pid).or_default().clients {
            *clients += 1;
        }
        has_room
    }

    /// Counts a client of process `pid` out.
    pub fn client_left(&self, pid: u32) {
        if let Some(clients) = self.lock().entry(pid).or_default().clients.as_mut() {
            *clients = clients.saturating_sub(1);
        }
    }

    /// Pids of the connected processes.
    pub fn pids(&self) -> Vec<u32> {
        let known = self.lock();
        known
            .iter()
            .filter(|(_, it)| it.connections > 0)
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// Figures of all processes, those that are gone included.
    pub fn total(&self) -> Report {
        let mut total = Report::default();
        for sibling in self.lock().values() {
            total.merge(&sibling.report);
        }
        total
    }

    /// Waits until no process is connected; says how many still are after `patience`.
    pub fn wait_until_gone(&self, patience: Duration) -> usize {
        let connected =
            |known: &BTreeMap<u32, Sibling>| known.values().filter(|it| it.connections > 0).count();
        let known = self.lock();
        let (known, _) = self
            .changed
            .wait_timeout_while(known, patience, |known| connected(known) > 0)
            .expect("no panic while held");
        connected(&known)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Sibling>> {
        self.known.lock().expect("no panic while held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_lowered_however_its_guard_ends() {
        let flag = Flag::default();
        let raised = flag.raise();
        assert!(flag.is_up());
        drop(raised);
        assert!(!flag.is_up());
    }

    #[test]
    fn ids_differ_within_and_between_processes() {
        let (one, other) = (Ids::new(), Ids::new());
        assert_ne!(one.next(), one.next());
        assert_ne!(one.next(), other.next());
    }

    #[test]
    fn figures_outlive_their_process() {
        let siblings = Siblings::default();
        siblings.joined(7);
        let mut report = Report::default();
        report.ipc.observe(0.1);
        siblings.report(7, report);
        siblings.left(7);
        assert_eq!(siblings.total().ipc.count(), 1);
        assert!(siblings.pids().is_empty());
        assert_eq!(siblings.wait_until_gone(Duration::ZERO), 0);
    }

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        let places = Places::new(1);
        assert!(places.take());
        assert!(!places.take());
        places.give_back();
        assert!(places.take());
    }

    #[test]
    fn the_clients_of_all_processes_are_counted_together() {
        let siblings = Siblings::default();
        siblings.joined(7);
        siblings.joined(8);
        assert!(siblings.client_came(7, 0, 2) && siblings.client_came(8, 0, 2));
        assert!(!siblings.client_came(7, 1, 2));
        siblings.client_left(8);
        assert!(siblings.client_came(7, 1, 2));
        siblings.left(7);
        assert!(
            siblings.client_came(8, 0, 1),
            "the clients of 7 went with it"
        );
    }

    #[test]
    fn a_new_owner_learns_how_many_clients_there_are() {
        let siblings = Siblings::default();
        siblings.joined(7);
        let mut report = Report::default();
        report.connections = 2;
        siblings.report(7, report.clone());
        assert!(!siblings.client_came(7, 2, 2));
        // Later ones are older than what was counted meanwhile.
        report.connections = 0;
        siblings.report(7, report);
        assert!(!siblings.client_came(7, 2, 2));
        siblings.joined(8);
        assert!(!siblings.client_came(8, 1, 3), "2 of one, 1 of the other");
    }
}
