//! The instrument held against known truth: what it finds beside what must come out.
//!
//! `trial → server of known truth → load → figures`. The generator, its schedule and its
//! histograms are the very ones of a run; only the subject is replaced by one that is understood.

mod broker;
mod ceiling;
mod curve;
mod timers;
mod trials;

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::analyse::gates::{MOST_FOREIGN_CORES, MOST_STEAL_RATIO};
use crate::analyse::resolution::Resolution;
use crate::host;
use crate::load::{Exchange, Generator, LoadError, LoadPlan, LoadResult, RestPlan, nanoseconds};
use crate::record::{Host, HostDuring, Layout};
use crate::truth::{Behaviour, Freeze, TruthServer};

pub use broker::through_broker;
pub use ceiling::{Ceiling, Step, ceiling, step};
pub use curve::Point;
pub use timers::{Lateness, lateness};
pub use trials::{Trial, stall_p99_s, trials};

/// Longest time that the machine keeps the server from its loop, as a share of the load.
const MOST_HELD_RATIO: f64 = 0.002;
/// Latest that the generator may be at p99 in a trial, in ns.
const LATEST_SEND_NS: f64 = 100_000.0;
/// What the transport over loopback and the generator's wake-up may add to what the server did.
pub const ALLOWED_NS: f64 = 50_000.0;
/// And what the histograms and the scheduler may, as a share.
pub const ALLOWED_RATIO: f64 = 0.03;
/// From the decision to start until the first instant of the schedule.
const LEAD: Duration = Duration::from_millis(10);
/// Deadline of an operation: longer than any trial's longest response.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a trial could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CalibrateError {
    /// The server of known truth.
    #[error("the server of known truth failed")]
    Server(#[from] io::Error),
    /// The generator.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The broker itself.
    #[error("the broker cannot be used")]
    Broker(#[from] crate::broker::Error),
    /// The consumer of known truth.
    #[error("the consumer of known truth failed")]
    Consumer(#[from] crate::amqp::Error),
}

/// One figure beside its truth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Such as `p99`.
    pub name: String,
    /// What must come out, in ns.
    pub expected_ns: f64,
    /// What the instrument found, in ns.
    pub observed_ns: f64,
    /// How far the two may lie apart, in ns.
    pub allowed_ns: f64,
}

impl Figure {
    fn new(name: &str, expected_ns: f64, observed_ns: f64) -> Self {
        Self {
            name: name.to_owned(),
            expected_ns,
            observed_ns,
            allowed_ns: ALLOWED_NS + ALLOWED_RATIO * expected_ns,
        }
    }

    /// Observed minus expected, in ns.
    #[must_use]
    pub fn error_ns(&self) -> f64 {
        self.observed_ns - self.expected_ns
    }

    /// Whether the instrument found the truth.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.error_ns().abs() <= self.allowed_ns
    }
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The trial.
    pub name: String,
    /// What the server did, in words.
    pub truth: String,
    /// Operations in the window.
    pub operations: u64,
    /// The figures.
    pub figures: Vec<Figure>,
    /// The same p99 as a client would tell it that counts from the actual send, in ns: blind to
    /// the requests that a stalled server kept it from sending. Only where requests wait for a
    /// connection.
    pub blind_p99_ns: Option<f64>,
    /// What the formula of queueing theory says of the mean over all schedules, in ns, if there
    /// is one; the figures are held against the trial's own schedule, which is exact.
    pub theory_mean_ns: Option<f64>,
    /// 99th percentile of the generator's own lateness, in ns.
    pub send_lag_p99_ns: f64,
    /// Share of the load in which the machine kept the server from its loop.
    #[serde(default)]
    pub held_ratio: f64,
    /// The whole distribution, where the truth has one.
    #[serde(default)]
    pub curve: Vec<Point>,
    /// What else the machine did.
    pub host: HostDuring,
    /// What makes the trial worthless: wrong answers, timeouts, faults.
    pub faults: Vec<String>,
}

impl Calibration {
    /// Whether every figure is right and nothing went wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.faults.is_empty() && self.figures.iter().all(Figure::holds)
    }

    /// Whether others used the machine meanwhile: told by what they used, by how long they kept the
    /// server from its loop, and by how late the generator was, and never by the figures.
    #[must_use]
    pub fn is_disturbed(&self) -> bool {
        self.host.steal_ratio > MOST_STEAL_RATIO
            || self.host.foreign_cores > MOST_FOREIGN_CORES
            || self.held_ratio > MOST_HELD_RATIO
            || self.send_lag_p99_ns > LATEST_SEND_NS
    }
}

/// What `doctor` found out about this machine and the instrument on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// The machine.
    pub host: Host,
    /// What others did on it while nothing was measured.
    pub noise: HostDuring,
    /// Why it was not quiet at the start, if it was not.
    pub disturbance: Option<String>,
    /// How late it wakes a thread up.
    pub timers: Vec<Lateness>,
    /// How much the generator can do.
    pub ceilings: Vec<Ceiling>,
    /// What it does at fixed rates.
    pub steps: Vec<Step>,
    /// What it finds where the truth is known.
    pub calibrations: Vec<Calibration>,
    /// What a comparison can tell apart here.
    #[serde(default)]
    pub resolution: Option<Resolution>,
    /// Why that is not known, if it is not.
    #[serde(default)]
    pub unresolved: Option<String>,
    /// Whether Ctrl-C ended it early.
    pub interrupted: bool,
}

impl Examination {
    /// Whether every trial was made and found the truth.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.interrupted && self.calibrations.iter().all(Calibration::holds)
    }
}

/// Where the server and the generator run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cores {
    /// Core of the server.
    pub server: Option<usize>,
    /// Core of the generator.
    pub generator: Option<usize>,
}

impl Cores {
    /// Those of a layout; the server takes the subject's place.
    #[must_use]
    pub fn of(layout: Layout) -> Self {
        Self {
            server: host::subject_cpus(layout).and_then(|cpus| cpus.first().copied()),
            generator: host::instrument_cpu(layout),
        }
    }
}

/// The load on a server of known truth, REST only.
struct Drive {
    turns: fn(std::net::SocketAddr) -> Vec<Exchange>,
    connections: usize,
    arrival: Option<crate::load::Arrival>,
    warm_up: Duration,
    window: Duration,
}

/// What came of it.
struct Driven {
    result: LoadResult,
    /// When the requests came to the server, in ns since the start of the load.
    arrivals_ns: Vec<u64>,
    /// Share of the load in which the machine kept the server from its loop.
    held_ratio: f64,
}

/// Starts a server, loads it, and stops it.
fn drive(
    behaviour: Behaviour,
    load: &Drive,
    freeze: Option<Freeze>,
    cores: Cores,
    interrupt: &AtomicBool,
) -> Result<Driven, CalibrateError> {
    let server = TruthServer::start(behaviour, cores.server)?;
    let address = server.address();
    let generator = Generator::prepare(LoadPlan {
        rest: Some(RestPlan {
            address,
            turns: (load.turns)(address),
            connections: load.connections,
            arrival: load.arrival,
        }),
        amqp: None,
        warm_up: load.warm_up,
        window: load.window,
        timeout: TIMEOUT,
        cpu: cores.generator,
    })?;
    let start = Instant::now() + LEAD;
    if let Some(freeze) = freeze {
        server.freeze(start, freeze);
    }
    let held_before = server.held();
    let result = generator.run_apart(start, interrupt);
    let held = server.held() - held_before;
    let arrivals = server.stop()?.into_iter();
    Ok(Driven {
        result,
        arrivals_ns: arrivals.map(|at| nanoseconds(at - start)).collect(),
        held_ratio: held.as_secs_f64() / (load.warm_up + load.window).as_secs_f64(),
    })
}
