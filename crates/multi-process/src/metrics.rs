//! Counts what happens, and gathers it for `/metrics`.
//!
//! Particular to processes: nobody reads another one's memory, so figures travel. Each REST process
//! counts without any lock and sends its totals to the AMQP process a quarter of a second after they
//! changed, or with a scrape of its own; whichever REST process is scraped answers for all of them.
//! The figures of its siblings are therefore as old as that, and those of a crashed one end with its
//! last report.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use contract::metrics::{AmqpMetrics, Histogram, HttpLabels, HttpMetrics, ProcessMetrics, Role};
use domain::process;
use serde::{Deserialize, Serialize};

use crate::{config::Front, ipc::answers::Figures};

/// Counters under a lock: several change together, and atomics would show them torn.
/// A lock that nobody else wants costs about as much as one atomic addition.
#[derive(Debug, Default)]
pub struct Slot<T>(Mutex<T>);

impl<T> Slot<T> {
    /// Locks the slot. Counters are valid after every step, so a panic of another holder (which
    /// poisons the mutex) changes nothing.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The AMQP process's counters, one slot per thread that counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// What the timers' thread counts.
    pub timers: Slot<AmqpMetrics>,
    consumer: Slot<AmqpMetrics>,
    publisher: Slot<AmqpMetrics>,
}

impl Metrics {
    /// The slot of one side of AMQP.
    #[must_use]
    pub const fn of(&self, role: Role) -> &Slot<AmqpMetrics> {
        match role {
            Role::Consumer => &self.consumer,
            Role::Publisher => &self.publisher,
        }
    }

    /// The AMQP side; each field has one writer, so there is nothing to add but the reconnects.
    pub fn amqp(&self) -> AmqpMetrics {
        let mut sum = self.consumer.lock().clone();
        let publisher = self.publisher.lock();
        sum.reconnects += publisher.reconnects;
        sum.publishes.clone_from(&publisher.publishes);
        sum.publish_outstanding = publisher.publish_outstanding;
        sum.tasks.clone_from(&self.timers.lock().tasks);
        sum
    }
}

/// Totals of a REST process, as they travel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests; a list, because a JSON object's names are strings.
    requests: Vec<(HttpLabels, u64)>,
    /// Durations of these requests.
    duration: Histogram,
    /// Requests in hand; not more than one with the library's front.
    inflight: u64,
    /// Connected clients; with the library's front, which does not say, none.
    pub connections: u64,
    /// Round trips to the AMQP process.
    pub ipc: Histogram,
}

impl Report {
    /// A snapshot of a process's counters.
    pub fn new(http: &HttpMetrics, ipc: &Histogram) -> Self {
        Self {
            requests: http
                .requests
                .iter()
                .map(|(labels, count)| (*labels, *count))
                .collect(),
            duration: http.duration,
            inflight: http.inflight,
            connections: http.connections,
            ipc: *ipc,
        }
    }

    /// Adds another process's totals; histograms of equal bounds add up without loss, which means and
    /// quantiles would not.
    pub fn merge(&mut self, other: &Self) {
        let mut requests: BTreeMap<HttpLabels, u64> = self.requests.drain(..).collect();
        for (labels, count) in &other.requests {
            *requests.entry(*labels).or_default() += count;
        }
        self.requests = requests.into_iter().collect();
        self.duration.merge(&other.duration);
        self.inflight += other.inflight;
        self.connections += other.connections;
        self.ipc.merge(&other.ipc);
    }

    /// The REST side's counters.
    pub fn http(&self) -> HttpMetrics {
        HttpMetrics {
            requests: self.requests.iter().copied().collect(),
            duration: self.duration,
            inflight: self.inflight,
            connections: self.connections,
        }
    }

    /// Its process is gone: what was counted stays, what was open has ended.
    pub const fn leave(&mut self) {
        self.inflight = 0;
        self.connections = 0;
    }
}

/// Renders everything for `/metrics`.
#[must_use]
pub fn render(figures: &Figures, pids: &[u32], front: Front) -> String {
    let process = of_processes(pids);
    let mut http = figures.rest.http();
    if front == Front::TinyHttp {
        let processes = figures.rest_pids.iter();
        http.connections = processes.map(|pid| connections_of(*pid) as u64).sum();
    }
    contract::metrics::render(
        &http,
        &figures.amqp,
        &process,
        Some(&figures.rest.ipc),
        None,
    )
}

/// Client connections of a REST process over the library, which counts them but does not tell: it
/// duplicates each one's descriptor (one to read, one to write), and nothing else there has a socket
/// twice.
pub fn connections_of(pid: u32) -> usize {
    let mut counts: HashMap<PathBuf, usize> = HashMap::new();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    let descriptors = descriptors.into_iter().flatten().flatten();
    for target in descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let name = target.as_os_str().as_encoded_bytes();
        if name.starts_with(b"socket:") {
            *counts.entry(target).or_default() += 1;
        }
    }
    counts.values().filter(|count| **count == 2).count()
}

/// A process and its children; `None` if the kernel does not say.
pub fn family_of(pid: u32) -> Option<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let children = children
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok());
    Some(std::iter::once(pid).chain(children).collect())
}

/// What the kernel says of processes, summed; one that is gone meanwhile counts nothing.
///
/// `/proc` shows a sibling's figures as well as one's own, so these need not travel.
pub fn of_processes(pids: &[u32]) -> ProcessMetrics {
    let mut total = ProcessMetrics::default();
    for figures in pids.iter().filter_map(|pid| of_process(*pid)) {
        total.merge(&figures);
    }
    total
}

/// Figures of one process; the descriptors of a process of the same user may be listed.
fn of_process(pid: u32) -> Option<ProcessMetrics> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let open_fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    process::from_stat(&stat, rustix::param::page_size() as u64, open_fds as u64)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use contract::{Method, Route};

    #[test]
    fn a_report_survives_the_journey_and_adds_up() {
        let labels = HttpLabels {
            route: Some(Route::Latest),
            method: Method::Get,
            code: 200,
        };
        let mut http = HttpMetrics::default();
        http.answered(labels, 0.001);
        let report = Report::new(&http, &Histogram::default());
        let json = serde_json::to_vec(&report).expect("serialises");
        let mut back: Report = serde_json::from_slice(&json).expect("parses");
        back.merge(&report);
        assert_eq!(back.http().requests[&labels], 2);
        assert_eq!(back.http().duration.count(), 2);
    }

    #[test]
    fn a_socket_with_two_descriptors_is_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let before = connections_of(std::process::id());
        let _twin = client.try_clone().expect("duplicates");
        assert!(connections_of(std::process::id()) > before);
    }

    #[test]
    fn this_process_has_threads_and_descriptors() {
        let own = of_processes(&[std::process::id(), u32::MAX]);
        assert!(own.threads > 0 && own.open_fds > 0 && own.resident_bytes > 0);
    }
}
