//! The gates: whether a launch's figures may be used at all.
//!
//! A launch that fails a gate is kept and shown, and never ranked.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::LaunchData;
use super::metric::{answered, tag};
use super::steady::{Course, Quantity, SteadyState};
use crate::record::{Conservation, Drain, Kind, Launch, OperationCounts};

/// Resolution of the kernel's CPU accounting for other processes and for steal, in s.
const TICK_S: f64 = 0.01;

/// Operations from which Little's law is checked: below, the edges of the window dominate.
const LITTLE_FROM: u64 = 1_000;

/// Observations beyond the quantile of the send lag; fewer than a printed quantile needs,
/// because a gate may err on the strict side.
const BEYOND_LAG_QUANTILE: f64 = 10.0;

/// Largest send lag as a share of the response time that is judged.
pub const MOST_LAG: f64 = 0.1;

/// Most steal, as a share of all CPU time.
pub const MOST_STEAL_RATIO: f64 = 0.005;
/// Most CPU of others, in cores.
pub const MOST_FOREIGN_CORES: f64 = 0.02;

/// Whether the figures of a launch may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Every gate held.
    Valid,
    /// The host was noisy; the subject may be as fast as shown or faster.
    Disturbed,
    /// The figures mean nothing: wrong answers, lost messages, a generator that did not
    /// do what it was asked, or a fault.
    Invalid,
}

impl Standing {
    /// The word in tables.
    pub fn word(self) -> &'static str {
        match self {
            Standing::Valid => "valid",
            Standing::Disturbed => "disturbed",
            Standing::Invalid => "invalid",
        }
    }
}

/// How a gate's numbers are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateUnit {
    /// A ratio in `[0, 1]` that is printed in percent.
    Ratio,
    /// Nanoseconds, printed in µs.
    Nanoseconds,
    /// A count.
    Count,
    /// Cores, printed in percent of one.
    Cores,
}

/// The range in which a gate holds; a missing end is open.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// Smallest allowed value.
    pub min: Option<f64>,
    /// Largest allowed value.
    pub max: Option<f64>,
}

impl Limit {
    fn at_most(max: f64) -> Limit {
        Limit {
            min: None,
            max: Some(max),
        }
    }

    fn between(min: f64, max: f64) -> Limit {
        Limit {
            min: Some(min),
            max: Some(max),
        }
    }

    /// Whether the value is a number and lies in the range.
    pub fn admits(&self, value: f64) -> bool {
        !value.is_nan()
            && self.min.is_none_or(|min| value >= min)
            && self.max.is_none_or(|max| value <= max)
    }
}

/// One gate of one launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// What is limited, such as `rest send lag`.
    pub name: String,
    /// Unit of the limit and of the value.
    pub unit: GateUnit,
    /// Allowed range.
    pub limit: Limit,
    /// Value of this launch.
    pub value: f64,
    /// Whether the value lies in the range.
    pub passed: bool,
    /// What the launch becomes if it does not; it stays valid if that voids only some of its figures.
    pub on_failure: Standing,
    /// Whether a failure is the subject's doing and not the measurement's.
    pub blames_subject: bool,
    /// What a reader must know about this value.
    pub note: Option<String>,
}

impl Gate {
    fn new(name: impl Into<String>, unit: GateUnit, limit: Limit, value: f64) -> Gate {
        Gate {
            name: name.into(),
            unit,
            limit,
            value,
            passed: limit.admits(value),
            on_failure: Standing::Invalid,
            blames_subject: false,
            note: None,
        }
    }

    fn disturbing(mut self) -> Gate {
        self.on_failure = Standing::Disturbed;
        self
    }

    fn blaming(mut self) -> Gate {
        self.blames_subject = true;
        self
    }

    fn noted(mut self, note: impl Into<String>) -> Gate {
        self.note = Some(note.into());
        self
    }
}

/// The worst of what the failed gates make of the launch.
pub fn standing(gates: &[Gate]) -> Standing {
    gates
        .iter()
        .filter(|gate| !gate.passed)
        .map(|gate| gate.on_failure)
        .max()
        .unwrap_or(Standing::Valid)
}

/// Every gate that applies to the launch on a machine with that many cores, on which the generator
/// reaches that many REST requests per second, if this was measured.
///
/// It is judged by itself; see [`judge_as`].
pub fn judge(data: &LaunchData, cores: u32, ceiling_per_s: Option<f64>) -> Vec<Gate> {
    judge_as(data, SteadyState::of(data).as_ref(), cores, ceiling_per_s)
}

/// The same of a launch whose courses are known, beside those that took turns with it.
pub fn judge_as(
    data: &LaunchData,
    state: Option<&SteadyState>,
    cores: u32,
    ceiling_per_s: Option<f64>,
) -> Vec<Gate> {
    let launch = &data.launch;
    let mut gates = vec![faults(&launch.faults)];
    for (&kind, &rate) in &launch.arrival_rate_per_s {
        gates.extend(schedule(launch, kind, rate));
        gates.extend(send_lag(data, kind));
    }
    gates.extend(
        launch
            .operations
            .iter()
            .flat_map(|(&kind, counts)| answers(kind, counts)),
    );
    gates.extend(
        launch
            .operations
            .iter()
            .filter_map(|(&kind, counts)| recorded(data, kind, counts)),
    );
    gates.extend(launch.conservation.iter().flat_map(conservation));
    gates.extend(launch.drain.iter().map(drained));
    if !launch.operations.is_empty() {
        gates.extend(generator(launch));
    }
    gates.extend(ceiling_per_s.and_then(|ceiling| sends::ceiling(launch, ceiling)));
    gates.extend(sends::as_scheduled(data));
    gates.extend(launch.pinning.iter().map(instrument::pinning));
    gates.extend(
        launch
            .sampler_ratio
            .map(|ratio| instrument::sampler(data, ratio)),
    );
    gates.extend(little(data));
    gates.extend(host(launch, f64::from(cores.max(1))));
    let is_quiet = is_quiet(&gates);
    gates.extend(state.into_iter().flat_map(|state| steady(state, is_quiet)));
    gates
}

fn faults(faults: &[String]) -> Gate {
    let gate = Gate::new(
        "faults",
        GateUnit::Count,
        Limit::at_most(0.0),
        faults.len() as f64,
    )
    .blaming();
    if faults.is_empty() {
        gate
    } else {
        gate.noted(faults.join("; "))
    }
}

/// The share of a whole; nothing of nothing is 0, so that an empty launch fails its gates.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Rest => "REST",
        Kind::Amqp => "AMQP",
    }
}

/// Whether the generator did what the schedule asked for, and the schedule what the rate asks for.
fn schedule(launch: &Launch, kind: Kind, rate_per_s: f64) -> [Gate; 3] {
    let nothing = OperationCounts::default();
    let counts = launch.operations.get(&kind).unwrap_or(&nothing);
    let (planned, expected) = (counts.planned as f64, rate_per_s * launch.window_s);
    // Four standard deviations of a Poisson count; a constant schedule stays well inside.
    let slack = 4.0 / expected.max(1.0).sqrt();
    let word = word(kind);
    [
        Gate::new(
            format!("{word} planned/(rate × window)"),
            GateUnit::Ratio,
            Limit::between(1.0 - slack, 1.0 + slack),
            share(planned, expected),
        ),
        Gate::new(
            format!("{word} issued/planned"),
            GateUnit::Ratio,
            Limit::between(0.99, 1.0),
            share(counts.issued as f64, planned),
        ),
        Gate::new(
            format!("{word} achieved/asked"),
            GateUnit::Ratio,
            Limit::between(0.99, 1.01),
            share(answered(counts) as f64, planned),
        ),
    ]
}

/// A wrong answer is the subject's fault; a late one may also mean that the load was too much for it.
fn answers(kind: Kind, counts: &OperationCounts) -> [Gate; 2] {
    let none = Limit::at_most(0.0);
    let wrong = (counts.wrong + counts.failed) as f64;
    let late = counts.timed_out as f64;
    let word = word(kind);
    [
        Gate::new(
            format!("{word} wrong or failed"),
            GateUnit::Count,
            none,
            wrong,
        )
        .blaming(),
        Gate::new(format!("{word} timed out"), GateUnit::Count, none, late),
    ]
}

/// Whether every operation that ended has its time, and no other: a histogram that loses values
/// loses the worst ones first.
fn recorded(data: &LaunchData, kind: Kind, counts: &OperationCounts) -> Option<Gate> {
    let histogram = data.histograms.get(&tag(kind, "response"))?;
    let ended = counts.ok + counts.wrong + counts.failed + counts.timed_out;
    Some(Gate::new(
        format!("{} recorded − ended", word(kind)),
        GateUnit::Count,
        Limit::between(0.0, 0.0),
        histogram.len() as f64 - ended as f64,
    ))
}

/// The highest quantile that the number of operations supports, with its name.
fn lag_quantile(operations: u64) -> (f64, &'static str) {
    const CHOICES: [(f64, &str); 4] = [(0.99, "p99"), (0.95, "p95"), (0.9, "p90"), (0.75, "p75")];
    CHOICES
        .into_iter()
        .find(|(q, _)| operations as f64 * (1.0 - q) >= BEYOND_LAG_QUANTILE - 1e-6)
        .unwrap_or((0.5, "p50"))
}

fn send_lag(data: &LaunchData, kind: Kind) -> Option<Gate> {
    let lag = data.histograms.get(&tag(kind, "send_lag"))?;
    let response = data.histograms.get(&tag(kind, "response"))?;
    let (quantile, name) = lag_quantile(lag.len());
    let limit_ns = lag_limit_ns(response);
    let gate = Gate::new(
        format!("{} send lag", word(kind)),
        GateUnit::Nanoseconds,
        Limit::at_most(limit_ns),
        value_at(lag, quantile),
    );
    Some(if quantile < 0.99 {
        gate.noted(format!("{name} of {} operations", lag.len()))
    } else {
        gate
    })
}

/// Largest send lag that does not falsify response times such as these, in ns.
fn lag_limit_ns(response: &Histogram<u64>) -> f64 {
    (MOST_LAG * value_at(response, 0.5)).max(100_000.0)
}

fn value_at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64
}

/// Both differences are signed, so that a surplus is as visible as a loss.
fn conservation(c: &Conservation) -> [Gate; 2] {
    let unconfirmed = c.published as f64 - c.confirmed as f64;
    // The subject counts a redelivered message at each ack.
    let accounted =
        c.acked as f64 - c.duplicates as f64 + (c.still_queued + c.dead_lettered) as f64;
    [
        Gate::new(
            "published − confirmed",
            GateUnit::Count,
            Limit::between(0.0, 0.0),
            unconfirmed,
        ),
        Gate::new(
            "confirmed − accounted for",
            GateUnit::Count,
            Limit::between(0.0, 0.0),
            c.confirmed as f64 - accounted,
        )
        .blaming(),
    ]
}

/// Blames nobody: on a busy machine a queue that is not empty in time is no proof of a loss.
fn drained(drain: &Drain) -> Gate {
    Gate::new(
        "acked/prefilled",
        GateUnit::Ratio,
        Limit::between(1.0, 1.0),
        share(drain.acked as f64, drain.prefilled as f64),
    )
}

fn generator(launch: &Launch) -> [Gate; 2] {
    let generator = &launch.generator;
    // A closed loop has no schedule to be late for; it only must not be the bottleneck.
    let closed = launch.arrival_rate_per_s.is_empty();
    let busy = if closed { 0.9 } else { 0.7 };
    [
        Gate::new(
            "generator busy",
            GateUnit::Ratio,
            Limit::at_most(busy),
            generator.busy_ratio,
        ),
        Gate::new(
            "generator waiting for a core",
            GateUnit::Ratio,
            Limit::at_most(0.02),
            generator.wait_ratio,
        )
        .disturbing(),
    ]
}

/// Little's law, L = λW with W the mean service time: an independent check of the clocks.
fn little(data: &LaunchData) -> Option<Gate> {
    let launch = &data.launch;
    let total: u64 = launch.operations.values().map(answered).sum();
    let in_flight = launch.generator.mean_in_flight;
    if launch.arrival_rate_per_s.is_empty() || total < LITTLE_FROM {
        return None;
    }
    if in_flight <= 0.0 || launch.window_s <= 0.0 {
        return None;
    }
    let lambda_w: f64 = launch
        .operations
        .iter()
        .filter_map(|(&kind, counts)| {
            let service = data.histograms.get(&tag(kind, "service"))?;
            Some(answered(counts) as f64 / launch.window_s * service.mean() / 1e9)
        })
        .sum();
    Some(Gate::new(
        "Little's law |L − λW|/L",
        GateUnit::Ratio,
        Limit::at_most(0.02),
        (in_flight - lambda_w).abs() / in_flight,
    ))
}

/// Whether no gate says that the host was noisy.
#[must_use]
pub fn is_quiet(gates: &[Gate]) -> bool {
    gates
        .iter()
        .all(|gate| gate.passed || gate.on_failure != Standing::Disturbed)
}

/// Two gates: on what the subject does, and on its memory.
///
/// A launch that moves on a quiet host is invalid and not disturbed: its figure is the mean of two states
/// and belongs to neither. A disturbed launch may be made again; what is made again because of its own
/// figures would select among them. On a noisy host, it is the host that moves.
///
/// A launch whose memory alone moves stays what it is, and only its memory figures are void: see
/// [`Metric::rests_on`](super::metric::Metric::rests_on).
fn steady(state: &SteadyState, is_quiet: bool) -> [Gate; 2] {
    let (memory, work): (Vec<_>, Vec<_>) = state
        .moving()
        .partition(|course| course.quantity == Quantity::Pss);
    let gate = |name: &str, moving: &[&Course], on_failure| {
        let count = moving.len() as f64;
        let mut gate = Gate::new(name, GateUnit::Count, Limit::at_most(0.0), count);
        gate.on_failure = on_failure;
        let complaints: Vec<_> = moving.iter().map(|it| it.complaint()).collect();
        gate.note = Some(complaints.join("; ")).filter(|note| !note.is_empty());
        gate
    };
    let moved = if is_quiet {
        Standing::Invalid
    } else {
        Standing::Disturbed
    };
    [
        gate("steady state", &work, moved),
        gate("steady memory", &memory, Standing::Valid),
    ]
}

/// The limits are never finer than the ticks in which the kernel counts: in half a second
/// one tick is 2 % of a core.
fn host(launch: &Launch, cores: f64) -> [Gate; 2] {
    let tick = TICK_S / launch.window_s.max(TICK_S);
    [
        Gate::new(
            "steal",
            GateUnit::Ratio,
            Limit::at_most((tick / cores).max(MOST_STEAL_RATIO)),
            launch.host.steal_ratio,
        )
        .disturbing(),
        Gate::new(
            "foreign CPU",
            GateUnit::Cores,
            Limit::at_most((2.0 * tick).max(MOST_FOREIGN_CORES)),
            launch.host.foreign_cores,
        )
        .disturbing(),
    ]
}

mod instrument;
mod sends;

pub use sends::MOST_OF_CEILING;
#[cfg(test)]
mod tests;
