//! What is compared: each metric's definition, unit and direction.

use serde::{Deserialize, Serialize};

use super::LaunchData;
use super::gates::Standing;
use super::statistics::{median, theil_sen};
use super::steady::Quantity;
use crate::record::{CellFacts, Kind, OperationCounts, Sample};

/// Observations that must lie beyond a quantile before it is printed.
const BEYOND_QUANTILE: u64 = 100;
/// Shortest window whose growth says anything about an hour, in ms.
pub(super) const GROWTH_WINDOW_MS: f64 = 300_000.0;
/// Parts of a window between which its growth is looked for.
const GROWTH_PARTS: usize = 60;

/// One figure per launch. The serialised name carries the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Metric {
    /// Median response time (from the intended send) of REST.
    #[serde(rename = "rest_response_p50_ns")]
    RestP50,
    /// 95th percentile of the same.
    #[serde(rename = "rest_response_p95_ns")]
    RestP95,
    /// 99th percentile of the same.
    #[serde(rename = "rest_response_p99_ns")]
    RestP99,
    /// Median response time of AMQP: intended publish to reply.
    #[serde(rename = "amqp_response_p50_ns")]
    AmqpP50,
    /// 95th percentile of the same.
    #[serde(rename = "amqp_response_p95_ns")]
    AmqpP95,
    /// 99th percentile of the same.
    #[serde(rename = "amqp_response_p99_ns")]
    AmqpP99,
    /// On-CPU time of the tree per completed operation, both kinds together.
    #[serde(rename = "cpu_ns_per_operation")]
    CpuPerOperation,
    /// The user part of it, counted in ticks of 10 ms.
    #[serde(rename = "user_cpu_ns_per_operation")]
    UserPerOperation,
    /// The system part of it, counted in ticks of 10 ms.
    #[serde(rename = "system_cpu_ns_per_operation")]
    SystemPerOperation,
    /// On-CPU time of the tree per acked message of a drain.
    #[serde(rename = "cpu_ns_per_message")]
    CpuPerMessage,
    /// On-CPU time of the tree per second, without load.
    #[serde(rename = "cpu_ns_per_s")]
    CpuPerSecond,
    /// Acked messages per second of a drain.
    #[serde(rename = "messages_per_s")]
    MessagesPerSecond,
    /// Summed PSS of the tree: the memory figure that compares processes with threads fairly.
    #[serde(rename = "pss_bytes")]
    Pss,
    /// Summed USS of the tree.
    #[serde(rename = "uss_bytes")]
    Uss,
    /// Summed RSS of the tree, which counts shared pages once per process.
    #[serde(rename = "rss_bytes")]
    Rss,
    /// Growth of the summed PSS over the window, only for windows of five minutes or more: the
    /// Theil–Sen slope over 60 equal parts of the window, each by its median. Sen, "Estimates of
    /// the Regression Coefficient Based on Kendall's Tau", 1968.
    #[serde(rename = "pss_bytes_per_h")]
    PssSlope,
    /// Voluntary context switches per completed operation.
    #[serde(rename = "voluntary_switches_per_operation")]
    SwitchesPerOperation,
    /// Voluntary context switches per second, without load.
    #[serde(rename = "voluntary_switches_per_s")]
    SwitchesPerSecond,
    /// Threads of the tree.
    #[serde(rename = "threads")]
    Threads,
    /// Launch to ready.
    #[serde(rename = "ready_s")]
    Ready,
    /// Correct answers per second in a closed loop: a ceiling.
    #[serde(rename = "ceiling_per_s")]
    Ceiling,
    /// Correct answers per second, REST.
    #[serde(rename = "rest_throughput_per_s")]
    RestThroughput,
    /// Correct replies per second, AMQP.
    #[serde(rename = "amqp_throughput_per_s")]
    AmqpThroughput,
}

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Costs and times.
    Lower,
    /// Rates.
    Higher,
    /// Shown and never ranked: either fixed by the load or ambiguous.
    Neither,
}

/// How a value is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Stored in ns, printed in ms.
    Milliseconds,
    /// Stored in ns, printed in µs.
    Microseconds,
    /// Stored in s.
    Seconds,
    /// Stored in bytes, printed in MiB.
    Mebibytes,
    /// Stored in bytes per hour, printed in MiB per hour.
    MebibytesPerHour,
    /// Events per second.
    PerSecond,
    /// Stored in ns per second, printed in ms per second.
    MillisecondsPerSecond,
    /// A count or a ratio of counts.
    Count,
}

/// What one launch says about one metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// The figure, in the unit of the metric's name.
    Value(f64),
    /// A quantile that the number of operations does not support.
    TooFew {
        /// Operations of the launch.
        operations: u64,
        /// Operations that the quantile needs.
        needed: u64,
    },
}

impl Reading {
    /// The figure, if there is one.
    pub fn value(self) -> Option<f64> {
        match self {
            Reading::Value(value) => Some(value),
            Reading::TooFew { .. } => None,
        }
    }
}

/// What a cell does to the subject; it decides which metrics exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Nothing is sent.
    Idle,
    /// Operations at a fixed rate.
    Load,
    /// Every connection sends as soon as it was answered.
    ClosedLoop,
    /// A prefilled queue is drained.
    Drain,
}

/// The activity of a cell.
pub fn activity(cell: &CellFacts) -> Activity {
    if cell.prefill > 0 {
        Activity::Drain
    } else if cell.closed_loop {
        Activity::ClosedLoop
    } else if cell.arrival_rate_per_s.is_empty() {
        Activity::Idle
    } else {
        Activity::Load
    }
}

impl Metric {
    /// Every metric in the order of the tables.
    pub const ALL: [Metric; 23] = [
        Metric::RestP50,
        Metric::RestP95,
        Metric::RestP99,
        Metric::AmqpP50,
        Metric::AmqpP95,
        Metric::AmqpP99,
        Metric::Ceiling,
        Metric::MessagesPerSecond,
        Metric::CpuPerOperation,
        Metric::UserPerOperation,
        Metric::SystemPerOperation,
        Metric::CpuPerMessage,
        Metric::CpuPerSecond,
        Metric::Pss,
        Metric::Uss,
        Metric::Rss,
        Metric::PssSlope,
        Metric::SwitchesPerOperation,
        Metric::SwitchesPerSecond,
        Metric::Threads,
        Metric::Ready,
        Metric::RestThroughput,
        Metric::AmqpThroughput,
    ];

    /// Name in tables, without the unit.
    pub fn title(self) -> &'static str {
        match self {
            Metric::RestP50 => "REST response p50",
            Metric::RestP95 => "REST response p95",
            Metric::RestP99 => "REST response p99",
            Metric::AmqpP50 => "AMQP response p50",
            Metric::AmqpP95 => "AMQP response p95",
            Metric::AmqpP99 => "AMQP response p99",
            Metric::Ceiling => "Ceiling",
            Metric::CpuPerOperation => "CPU per operation",
            Metric::UserPerOperation => "User CPU per operation",
            Metric::SystemPerOperation => "System CPU per operation",
            Metric::CpuPerMessage => "CPU per message",
            Metric::CpuPerSecond => "CPU per second",
            Metric::MessagesPerSecond => "Messages drained",
            Metric::Pss => "PSS",
            Metric::Uss => "USS",
            Metric::Rss => "RSS",
            Metric::PssSlope => "Growth of PSS",
            Metric::SwitchesPerOperation => "Switches per operation",
            Metric::SwitchesPerSecond => "Switches per second",
            Metric::Threads => "Threads",
            Metric::Ready => "Ready after",
            Metric::RestThroughput => "REST answers",
            Metric::AmqpThroughput => "AMQP replies",
        }
    }

    /// Unit of the printed value.
    pub fn unit(self) -> Unit {
        match self {
            Metric::RestP50
            | Metric::RestP95
            | Metric::RestP99
            | Metric::AmqpP50
            | Metric::AmqpP95
            | Metric::AmqpP99 => Unit::Milliseconds,
            Metric::CpuPerOperation
            | Metric::UserPerOperation
            | Metric::SystemPerOperation
            | Metric::CpuPerMessage => Unit::Microseconds,
            Metric::CpuPerSecond => Unit::MillisecondsPerSecond,
            Metric::Pss | Metric::Uss | Metric::Rss => Unit::Mebibytes,
            Metric::PssSlope => Unit::MebibytesPerHour,
            Metric::Ready => Unit::Seconds,
            Metric::SwitchesPerOperation | Metric::Threads => Unit::Count,
            Metric::Ceiling
            | Metric::MessagesPerSecond
            | Metric::SwitchesPerSecond
            | Metric::RestThroughput
            | Metric::AmqpThroughput => Unit::PerSecond,
        }
    }

    /// Direction; the parts of the CPU time are in the whole of it, RSS counts shared pages
    /// repeatedly, growth has no ratio, threads are a fact, and the throughput of an open loop is
    /// what was asked for, so these are not ranked.
    pub fn better(self) -> Better {
        match self {
            Metric::Ceiling | Metric::MessagesPerSecond => Better::Higher,
            Metric::UserPerOperation
            | Metric::SystemPerOperation
            | Metric::Rss
            | Metric::PssSlope
            | Metric::Threads
            | Metric::RestThroughput
            | Metric::AmqpThroughput => Better::Neither,
            _ => Better::Lower,
        }
    }

    /// Whether a launch of that standing may be used: a noisy host makes a subject slow, but not its
    /// memory grow.
    pub fn bears(self, standing: Standing) -> bool {
        match standing {
            Standing::Valid => true,
            Standing::Disturbed => self == Metric::PssSlope,
            Standing::Invalid => false,
        }
    }

    /// Whether the figure means nothing if that quantity moves within the window. A subject may do
    /// its work in a steady state while its memory still fills, and then only its memory has no
    /// level; readiness comes before the window, and growth is the very movement.
    pub fn rests_on(self, quantity: Quantity) -> bool {
        match self {
            Metric::Ready | Metric::PssSlope => false,
            Metric::Pss | Metric::Uss | Metric::Rss => quantity == Quantity::Pss,
            _ => quantity != Quantity::Pss,
        }
    }

    /// Kind and quantile of a response-time metric.
    pub fn quantile(self) -> Option<(Kind, f64)> {
        match self {
            Metric::RestP50 => Some((Kind::Rest, 0.5)),
            Metric::RestP95 => Some((Kind::Rest, 0.95)),
            Metric::RestP99 => Some((Kind::Rest, 0.99)),
            Metric::AmqpP50 => Some((Kind::Amqp, 0.5)),
            Metric::AmqpP95 => Some((Kind::Amqp, 0.95)),
            Metric::AmqpP99 => Some((Kind::Amqp, 0.99)),
            _ => None,
        }
    }

    /// The metric of one launch; `None` where it has no meaning in that cell.
    pub fn read(self, data: &LaunchData, activity: Activity) -> Option<Reading> {
        if let Some((kind, quantile)) = self.quantile() {
            // A closed loop waits for the slow ones and thereby hides them.
            let offered = data.launch.arrival_rate_per_s.contains_key(&kind);
            return offered.then(|| read_quantile(data, kind, quantile))?;
        }
        self.read_figure(data, activity).map(Reading::Value)
    }

    fn read_figure(self, data: &LaunchData, activity: Activity) -> Option<f64> {
        let launch = &data.launch;
        let resources = &launch.resources;
        let closed = activity == Activity::ClosedLoop;
        let load = activity == Activity::Load;
        let idle = activity == Activity::Idle;
        match self {
            Metric::CpuPerOperation if load || closed => per(resources.cpu_ns, completed(data)),
            Metric::UserPerOperation if load || closed => per(resources.user_ns, completed(data)),
            Metric::SystemPerOperation if load || closed => {
                per(resources.system_ns, completed(data))
            }
            Metric::SwitchesPerOperation if load || closed => {
                per(resources.voluntary_switches, completed(data))
            }
            Metric::CpuPerSecond if idle => per_second(resources.cpu_ns, launch.window_s),
            Metric::SwitchesPerSecond if idle => {
                per_second(resources.voluntary_switches, launch.window_s)
            }
            Metric::CpuPerMessage => launch
                .drain
                .as_ref()
                .and_then(|d| per(d.counted_cpu_ns, d.counted)),
            Metric::MessagesPerSecond => launch
                .drain
                .as_ref()
                .and_then(|d| per_second(d.counted, d.counted_s)),
            Metric::Ceiling if closed => throughput(data, Kind::Rest),
            Metric::RestThroughput if load => throughput(data, Kind::Rest),
            Metric::AmqpThroughput if load => throughput(data, Kind::Amqp),
            Metric::Pss => positive(resources.pss_bytes),
            Metric::Uss => positive(resources.uss_bytes),
            Metric::Rss => positive(resources.rss_bytes),
            Metric::PssSlope => growth_per_h(&data.samples),
            Metric::Threads => positive(u64::from(resources.threads)),
            Metric::Ready => Some(launch.ready_s).filter(|s| *s > 0.0),
            _ => None,
        }
    }
}

/// Name of the histogram of `what` (`response`, `service`, `send_lag`, `confirm`) of a kind.
pub fn tag(kind: Kind, what: &str) -> String {
    match kind {
        Kind::Rest => format!("rest.{what}"),
        Kind::Amqp => format!("amqp.{what}"),
    }
}

/// Operations that a quantile needs before it may be printed.
pub fn needed_for(quantile: f64) -> u64 {
    // Rounded, because 1 − 0.99 is not exactly 0.01.
    to_u64((BEYOND_QUANTILE as f64 / (1.0 - quantile)).round())
}

/// Operations of a kind that were answered, rightly or wrongly.
pub fn answered(counts: &OperationCounts) -> u64 {
    counts.ok + counts.wrong
}

/// A non-negative figure as a count; a histogram's values fit.
pub fn to_u64(value: f64) -> u64 {
    // The cast saturates by definition of the language.
    value as u64
}

fn read_quantile(data: &LaunchData, kind: Kind, quantile: f64) -> Option<Reading> {
    let histogram = data.histograms.get(&tag(kind, "response"))?;
    let (operations, needed) = (histogram.len(), needed_for(quantile));
    Some(if operations < needed {
        Reading::TooFew { operations, needed }
    } else {
        Reading::Value(histogram.value_at_quantile(quantile) as f64)
    })
}

/// Bytes of PSS per hour; `None` for a window that is too short.
fn growth_per_h(samples: &[Sample]) -> Option<f64> {
    let length_ms = samples.last()?.t_ms - samples.first()?.t_ms;
    if length_ms < GROWTH_WINDOW_MS {
        return None;
    }
    let part = |samples: &[Sample]| {
        let of =
            |size: fn(&Sample) -> f64| median(&mut samples.iter().map(size).collect::<Vec<_>>());
        Some((of(|s| s.t_ms / 3.6e6)?, of(|s| s.pss_bytes as f64)?))
    };
    let parts = samples.chunks(samples.len().div_ceil(GROWTH_PARTS));
    theil_sen(&parts.filter_map(part).collect::<Vec<_>>())
}

fn completed(data: &LaunchData) -> u64 {
    data.launch.operations.values().map(answered).sum()
}

fn throughput(data: &LaunchData, kind: Kind) -> Option<f64> {
    let counts = data.launch.operations.get(&kind)?;
    per_second(counts.ok, data.launch.window_s)
}

fn positive(amount: u64) -> Option<f64> {
    (amount > 0).then_some(amount as f64)
}

fn per(amount: u64, count: u64) -> Option<f64> {
    (count > 0).then(|| amount as f64 / count as f64)
}

fn per_second(amount: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| amount as f64 / seconds)
}
