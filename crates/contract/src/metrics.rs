//! The metrics, as plain data: a model decides how its copies are shared, guarded and merged.

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};

use crate::{
    routes::{Method, Route},
    shapes::Settlement,
};

/// Upper bounds of the duration histograms in seconds: 50 µs to 5 s in steps of about three.
pub const BOUNDS_S: [f64; 11] = [
    0.000_05, 0.000_15, 0.000_5, 0.001_5, 0.005, 0.015, 0.05, 0.15, 0.5, 1.5, 5.0,
];

/// A Prometheus histogram of durations.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Histogram {
    /// Observations per bound, the last above every bound; not cumulative.
    pub buckets: [u64; BOUNDS_S.len() + 1],
    /// Sum of all observations in seconds.
    pub sum_s: f64,
}

impl Histogram {
    /// Counts one duration in seconds.
    pub fn observe(&mut self, seconds: f64) {
        self.buckets[BOUNDS_S.partition_point(|bound| *bound < seconds)] += 1;
        self.sum_s += seconds;
    }

    /// Adds another histogram's observations.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_s += other.sum_s;
    }

    /// Number of observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Labels of one HTTP counter; an unknown path has no route and the label `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HttpLabels {
    /// Route.
    pub route: Option<Route>,
    /// Method.
    pub method: Method,
    /// Status.
    pub code: u16,
}

/// Which of the two AMQP connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Ingests events.
    Consumer,
    /// Publishes events, replies and broadcasts.
    Publisher,
}

/// How a publish ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PublishResult {
    /// The broker took responsibility.
    Confirmed,
    /// No queue takes it: the broker refused it (full queue), or returned it (no queue).
    Refused,
    /// No confirm in time.
    TimedOut,
    /// No connection, or the window was full.
    Unavailable,
}

/// A background task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Task {
    /// Publishes the service's state.
    Broadcast,
    /// Drops what has expired.
    Cleanup,
    /// Writes the file sink.
    Flush,
}

/// Metrics of the REST side.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HttpMetrics {
    /// Requests by labels.
    pub requests: BTreeMap<HttpLabels, u64>,
    /// Duration from the parsed head to the answer.
    pub duration: Histogram,
    /// Requests being handled.
    pub inflight: u64,
    /// Connections from clients.
    pub connections: u64,
}

impl HttpMetrics {
    /// Counts one answered request.
    pub fn answered(&mut self, labels: HttpLabels, seconds: f64) {
        *self.requests.entry(labels).or_default() += 1;
        self.duration.observe(seconds);
    }
}

/// Metrics of the AMQP side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AmqpMetrics {
    /// Deliveries settled, by outcome; counted when the ack or reject was handed over.
    pub deliveries: BTreeMap<Settlement, u64>,
    /// Deliveries with the redelivered flag.
    pub redelivered: u64,
    /// Publisher's clock to visible effect.
    pub end_to_end: Histogram,
    /// Connections that are up.
    pub up: BTreeMap<Role, bool>,
    /// Connections made after the first of their role.
    pub reconnects: u64,
    /// Publishes by result.
    pub publishes: BTreeMap<PublishResult, u64>,
    /// Publishes without a confirm yet.
    pub publish_outstanding: u64,
    /// Runs of background tasks, by success.
    pub tasks: BTreeMap<Task, [u64; 2]>,
    /// Keys in the store.
    pub store_keys: u64,
    /// Points in the store.
    pub store_points: u64,
    /// Lines that the file sink dropped.
    pub sink_dropped: u64,
}

impl AmqpMetrics {
    /// Counts `n` settled deliveries.
    pub fn settled(&mut self, settlement: Settlement, n: u64) {
        *self.deliveries.entry(settlement).or_default() += n;
    }

    /// Counts one publish.
    pub fn published(&mut self, result: PublishResult) {
        *self.publishes.entry(result).or_default() += 1;
    }

    /// Counts one run of a background task.
    pub fn ran(&mut self, task: Task, ok: bool) {
        self.tasks.entry(task).or_default()[usize::from(ok)] += 1;
    }

    /// Deliveries that were settled with `settlement`.
    #[must_use]
    pub fn deliveries(&self, settlement: Settlement) -> u64 {
        self.deliveries
            .get(&settlement)
            .copied()
            .unwrap_or_default()
    }
}

/// What the kernel says of the service, summed over its processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessMetrics {
    /// User and system time in seconds.
    pub cpu_s: f64,
    /// Resident set.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_fds: u64,
}

impl ProcessMetrics {
    /// Adds another process's figures.
    pub fn merge(&mut self, other: &Self) {
        self.cpu_s += other.cpu_s;
        self.resident_bytes += other.resident_bytes;
        self.threads += other.threads;
        self.open_fds += other.open_fds;
    }
}

/// Renders everything as Prometheus text 0.0.4; `ipc` is the round trip between processes, for the
/// model that has one, and `lag` how late the service's own clock ticks or queues run.
#[must_use]
pub fn render(
    http: &HttpMetrics,
    amqp: &AmqpMetrics,
    process: &ProcessMetrics,
    ipc: Option<&Histogram>,
    lag: Option<&Histogram>,
) -> String {
    let mut text = String::with_capacity(4096);
    render_http(&mut text, http);
    render_amqp(&mut text, amqp);
    render_publishes(&mut text, amqp);
    render_store_and_tasks(&mut text, amqp);
    render_sink(&mut text, amqp);
    render_process(&mut text, process);
    if let Some(ipc) = ipc {
        histogram(
            &mut text,
            "ipc_roundtrip_seconds",
            "Round trip between the processes.",
            ipc,
        );
    }
    if let Some(lag) = lag {
        histogram(
            &mut text,
            "scheduling_lag_seconds",
            "Lateness of the loop or the queue.",
            lag,
        );
    }
    text
}

fn render_http(text: &mut String, http: &HttpMetrics) {
    head(text, "http_requests_total", "counter", "Answered requests.");
    for (labels, count) in &http.requests {
        let route = labels.route.map_or("other", Route::template);
        let (method, code) = (labels.method.as_str(), labels.code);
        line(
            text,
            "http_requests_total",
            &format!(r#"{{route="{route}",method="{method}",code="{code}"}}"#),
            *count,
        );
    }
    histogram(
        text,
        "http_request_duration_seconds",
        "Head parsed to answer.",
        &http.duration,
    );
    single(
        text,
        "http_inflight",
        "gauge",
        "Requests being handled.",
        http.inflight,
    );
    single(
        text,
        "http_connections",
        "gauge",
        "Connections from clients.",
        http.connections,
    );
}

fn render_amqp(text: &mut String, amqp: &AmqpMetrics) {
    head(
        text,
        "amqp_connection_up",
        "gauge",
        "Whether the connection is up.",
    );
    for (role, name) in [(Role::Consumer, "consumer"), (Role::Publisher, "publisher")] {
        let up = amqp.up.get(&role).copied().unwrap_or_default();
        line(
            text,
            "amqp_connection_up",
            &format!(r#"{{role="{name}"}}"#),
            u64::from(up),
        );
    }
    single(
        text,
        "amqp_reconnects_total",
        "counter",
        "Connections re-made.",
        amqp.reconnects,
    );
    head(
        text,
        "amqp_deliveries_total",
        "counter",
        "Settled deliveries.",
    );
    for settlement in Settlement::ALL {
        let label = format!(r#"{{outcome="{}"}}"#, settlement.as_str());
        line(
            text,
            "amqp_deliveries_total",
            &label,
            amqp.deliveries(settlement),
        );
    }
    single(
        text,
        "amqp_redelivered_total",
        "counter",
        "Delivered again.",
        amqp.redelivered,
    );
    histogram(
        text,
        "amqp_e2e_seconds",
        "Publisher's clock to visible effect.",
        &amqp.end_to_end,
    );
}

fn render_publishes(text: &mut String, amqp: &AmqpMetrics) {
    head(
        text,
        "amqp_publish_total",
        "counter",
        "Publishes by result.",
    );
    for (result, name) in [
        (PublishResult::Confirmed, "confirmed"),
        (PublishResult::Refused, "refused"),
        (PublishResult::TimedOut, "timeout"),
        (PublishResult::Unavailable, "unavailable"),
    ] {
        let count = amqp.publishes.get(&result).copied().unwrap_or_default();
        line(
            text,
            "amqp_publish_total",
            &format!(r#"{{result="{name}"}}"#),
            count,
        );
    }
    let outstanding = amqp.publish_outstanding;
    single(
        text,
        "amqp_publish_outstanding",
        "gauge",
        "Without a confirm yet.",
        outstanding,
    );
}

fn render_store_and_tasks(text: &mut String, amqp: &AmqpMetrics) {
    single(
        text,
        "store_keys",
        "gauge",
        "Keys in the store.",
        amqp.store_keys,
    );
    single(
        text,
        "store_points",
        "gauge",
        "Points in the store.",
        amqp.store_points,
    );
    head(
        text,
        "task_runs_total",
        "counter",
        "Runs of background tasks.",
    );
    for (task, name) in [
        (Task::Broadcast, "broadcast"),
        (Task::Cleanup, "cleanup"),
        (Task::Flush, "flush"),
    ] {
        let runs = amqp.tasks.get(&task).copied().unwrap_or_default();
        for (ok, count) in [(false, runs[0]), (true, runs[1])] {
            line(
                text,
                "task_runs_total",
                &format!(r#"{{task="{name}",ok="{ok}"}}"#),
                count,
            );
        }
    }
}

fn render_sink(text: &mut String, amqp: &AmqpMetrics) {
    let dropped = amqp.sink_dropped;
    let help = "Lines that the file sink dropped.";
    single(text, "sink_dropped_total", "counter", help, dropped);
}

fn render_process(text: &mut String, process: &ProcessMetrics) {
    head(
        text,
        "process_cpu_seconds_total",
        "counter",
        "User and system time.",
    );
    let _ = writeln!(text, "process_cpu_seconds_total {}", process.cpu_s);
    let resident = process.resident_bytes;
    single(
        text,
        "process_resident_memory_bytes",
        "gauge",
        "Resident set.",
        resident,
    );
    single(
        text,
        "process_threads",
        "gauge",
        "Threads.",
        process.threads,
    );
    single(
        text,
        "process_open_fds",
        "gauge",
        "Open file descriptors.",
        process.open_fds,
    );
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    let _ = writeln!(text, "{name}{labels} {value}");
}

fn single(text: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    head(text, name, kind, help);
    line(text, name, "", value);
}

fn histogram(text: &mut String, name: &str, help: &str, histogram: &Histogram) {
    head(text, name, "histogram", help);
    let mut cumulative = 0;
    for (bound, count) in BOUNDS_S.iter().zip(histogram.buckets) {
        cumulative += count;
        let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {cumulative}");
    }
    let count = histogram.count();
    let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum {}\n{name}_count {count}", histogram.sum_s);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for seconds in [0.000_05, 0.000_051, 99.0] {
            histogram.observe(seconds);
        }
        assert_eq!(histogram.buckets[0], 1);
        assert_eq!(histogram.buckets[1], 1);
        assert_eq!(histogram.buckets[BOUNDS_S.len()], 1);
        assert_eq!(histogram.count(), 3);
    }

    #[test]
    fn buckets_are_rendered_cumulatively() {
        let mut http = HttpMetrics::default();
        let labels = HttpLabels {
            route: Some(Route::Healthz),
            method: Method::Get,
            code: 200,
        };
        http.answered(labels, 0.000_1);
        http.answered(labels, 0.001);
        let text = render(
            &http,
            &AmqpMetrics::default(),
            &ProcessMetrics::default(),
            None,
            None,
        );
        assert!(
            text.contains(r#"http_requests_total{route="/healthz",method="GET",code="200"} 2"#)
        );
        assert!(text.contains("http_request_duration_seconds_bucket{le=\"0.00015\"} 1\n"));
        assert!(text.contains("http_request_duration_seconds_bucket{le=\"+Inf\"} 2\n"));
        assert!(!text.contains("ipc_roundtrip_seconds"));
    }
}
