//! The nouns of a run folder: what is written down before anything is computed.
//!
//! Every type here is plain data with a stable JSON form; [`crate::analyse`] and [`crate::report`]
//! are pure functions of these values and of the histograms and samples beside them.
//! Durations carry their unit in the name; ratios lie in `[0, 1]`.

mod manifest;
mod search;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use manifest::{BrokerFacts, CellFacts, Host, Manifest, ResolutionFacts, SubjectFacts};
pub use search::{Ladder, SearchFacts};

/// Version of the method; results of different versions are not comparable.
pub const METHOD_VERSION: u32 = 6;
/// Folder of the launches in a run folder.
pub const LAUNCHES: &str = "launches";

/// How the subject, the generator and the broker share the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Subject on cpu0; generator, sampler, device and broker on cpu1.
    Isolated,
    /// Subject on every core; generator on cpu1.
    Shared,
    /// Nothing pinned.
    Native,
}

impl Layout {
    /// Name as written in files and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Shared => "shared",
            Self::Native => "native",
        }
    }
}

/// The two protocols that a subject serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One HTTP request; it is done when its response was read and checked.
    Rest,
    /// One event published to the broker with `reply_to`; it is done when the reply that
    /// tells that its effect is visible was received and checked.
    Amqp,
}

/// How one operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationOutcome {
    /// Answered in time, and the answer was the right one.
    Ok,
    /// Answered, but with a wrong status, length or token.
    Wrong,
    /// The connection failed.
    Failed,
    /// Not answered by its deadline; recorded at the deadline.
    TimedOut,
    /// Never sent: the generator was late by more than the deadline, or the run ended.
    NotSent,
}

/// One flat record per operation; instants are nanoseconds since the start of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Position in the schedule of its kind, from 0.
    pub seq: u64,
    /// Which protocol.
    pub kind: Kind,
    /// Instant fixed by the schedule before the run.
    pub intended_ns: u64,
    /// Instant at which the first byte was handed to the kernel.
    pub sent_ns: u64,
    /// Instant at which the answer was complete, or the deadline.
    pub done_ns: u64,
    /// How it ended.
    pub outcome: OperationOutcome,
    /// Bytes of the answer.
    pub bytes: u32,
}

/// Counts of the operations of one kind in the measured window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCounts {
    /// Operations whose intended send time lies in the window.
    pub planned: u64,
    /// Of these, how many were sent.
    pub issued: u64,
    /// Answered correctly.
    pub ok: u64,
    /// Answered wrongly: any makes the run invalid.
    pub wrong: u64,
    /// Connection failures.
    pub failed: u64,
    /// Not answered by the deadline.
    pub timed_out: u64,
    /// Never sent.
    pub not_sent: u64,
    /// Bytes of the answers.
    pub bytes: u64,
}

/// CPU, memory and switches of the subject's whole process tree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// On-CPU time in the window from `schedstat`, all threads.
    pub cpu_ns: u64,
    /// User part in the window, from `stat` (10 ms ticks).
    pub user_ns: u64,
    /// System part in the window, from `stat` (10 ms ticks).
    pub system_ns: u64,
    /// Time spent runnable but waiting for a core, from `schedstat`.
    pub run_queue_wait_ns: u64,
    /// Voluntary context switches in the window.
    pub voluntary_switches: u64,
    /// Involuntary context switches in the window.
    pub involuntary_switches: u64,
    /// Median over the window's samples of the summed PSS.
    pub pss_bytes: u64,
    /// Median of the summed USS.
    pub uss_bytes: u64,
    /// Median of the summed RSS (shown, never ranked: it counts shared pages more than once).
    pub rss_bytes: u64,
    /// Highest summed PSS seen.
    pub pss_max_bytes: u64,
    /// Median of the summed page tables (`VmPTE`): memory of the kernel, in none of the above.
    #[serde(default)]
    pub page_table_bytes: u64,
    /// Threads over the tree at the end of the window.
    pub threads: u32,
    /// Processes in the tree at the end of the window.
    pub processes: u32,
}

/// The drain of a prefilled queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// Messages that were in the queue before the launch.
    pub prefilled: u64,
    /// Messages counted as acked by the end.
    pub acked: u64,
    /// Messages between the first and the last progress reading used for the rate.
    pub counted: u64,
    /// Seconds between these readings.
    pub counted_s: f64,
    /// CPU of the tree between these readings.
    pub counted_cpu_ns: u64,
}

/// Every message accounted for; a launch whose sides differ is invalid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conservation {
    /// Events published to the ingest exchange.
    pub published: u64,
    /// Of these, confirmed by the broker.
    pub confirmed: u64,
    /// Acked by the subject, by its own count (duplicates included).
    pub acked: u64,
    /// Deliveries that the subject saw more than once.
    pub duplicates: u64,
    /// Still in the queue after the subject has stopped.
    pub still_queued: u64,
    /// In the dead-letter queue.
    pub dead_lettered: u64,
}

/// The generator's own behaviour in the window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GeneratorFacts {
    /// Share of the window in which the generator's thread was on a core and not
    /// merely spinning towards the next send.
    pub busy_ratio: f64,
    /// Share of the window in which it polled towards the next send: the price of punctuality.
    #[serde(default)]
    pub polling_ratio: f64,
    /// Share of the window in which it was runnable but waiting for a core.
    pub wait_ratio: f64,
    /// Highest number of operations in flight at once.
    pub max_in_flight: u64,
    /// Time in flight of all operations begun in the window, also what of it lies behind the
    /// window, divided by the window (L).
    pub mean_in_flight: f64,
    /// What the generator's thread was given: `fifo 10`, `nice -20`, or `none`.
    #[serde(default)]
    pub priority: String,
}

/// What else the host did in the window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostDuring {
    /// Share of all CPU time stolen by the hypervisor.
    pub steal_ratio: f64,
    /// CPU of processes other than subject, instrument and broker, in cores.
    pub foreign_cores: f64,
    /// CPU of the broker, in cores; reported apart because it competes for the cores.
    pub broker_cores: f64,
}

/// Where the threads of a launch were allowed to run, read back from the kernel before and at the
/// end of the window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinning {
    /// The subject's whole process tree.
    pub subject: Placement,
    /// The generator's thread, within the window; none where nothing is sent by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<Placement>,
    /// The broker, if it is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Placement>,
}

/// Where some threads were allowed to run, and how often they moved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Cores of the layout; none for every core.
    pub allowed: Option<Vec<usize>>,
    /// Threads at the later look.
    pub threads: u32,
    /// Threads that might have run on another core, at the look that found more of them.
    pub strays: u32,
    /// One of these in words; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub example: String,
    /// Moves to another core between both looks (`se.nr_migrations`); none if the kernel does not
    /// tell.
    pub migrations: Option<u64>,
}

/// One launch of one subject in one cell: the unit of replication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Position in the run, from 0.
    pub ordinal: u32,
    /// Block (repetition), from 0.
    pub block: u32,
    /// Cell: a scenario with one value of its axis, such as `io-wait/pool=16`.
    pub cell: String,
    /// Subject's name.
    pub subject: String,
    /// Layout.
    pub layout: Layout,
    /// Command line.
    pub command: Vec<String>,
    /// `BC_` variables, passwords removed.
    pub environment: BTreeMap<String, String>,
    /// Launch to ready.
    pub ready_s: f64,
    /// Stop signal to exit.
    pub stop_s: f64,
    /// Length of the measured window, warm-up excluded.
    pub window_s: f64,
    /// Pieces of the window, between which other launches of the block had theirs; 1 for a window of
    /// one piece.
    #[serde(default = "one")]
    pub turns: u32,
    /// Offered load per kind in operations per second.
    pub arrival_rate_per_s: BTreeMap<Kind, f64>,
    /// Kinds whose sends are a Poisson process: their gaps are exponential.
    #[serde(default)]
    pub poisson: Vec<Kind>,
    /// Counts per kind.
    pub operations: BTreeMap<Kind, OperationCounts>,
    /// The subject's resources.
    pub resources: Resources,
    /// For cells that drain a queue.
    pub drain: Option<Drain>,
    /// For cells with AMQP load.
    pub conservation: Option<Conservation>,
    /// The generator.
    pub generator: GeneratorFacts,
    /// The host.
    pub host: HostDuring,
    /// Where the threads ran; none after an abort, and in runs from before it was read.
    #[serde(default)]
    pub pinning: Option<Pinning>,
    /// Share of a core that the sampler itself used in the window; absent where nothing was sampled
    /// under a load, and in older runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler_ratio: Option<f64>,
    /// What went wrong, in words; a launch with a fault is invalid.
    pub faults: Vec<String>,
}

pub(crate) fn one() -> u32 {
    1
}

impl Launch {
    /// Folder of its raw data, relative to the run folder.
    #[must_use]
    pub fn folder(&self) -> String {
        let cell = self.cell.replace('/', "-");
        let (ordinal, subject, block) = (self.ordinal, &self.subject, self.block);
        format!("{LAUNCHES}/{ordinal:04}-{cell}-{subject}-b{block}")
    }
}

/// One row of `samples.csv`: counters since the launch, sums over the process tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Since the start of the load, in ms; warm-up rows are negative.
    pub t_ms: f64,
    /// On-CPU time from `schedstat`.
    pub cpu_ns: u64,
    /// User time (10 ms ticks).
    pub user_ns: u64,
    /// System time (10 ms ticks).
    pub system_ns: u64,
    /// Runnable but waiting.
    pub run_queue_wait_ns: u64,
    /// Voluntary context switches.
    pub voluntary_switches: u64,
    /// Involuntary context switches.
    pub involuntary_switches: u64,
    /// Summed PSS.
    pub pss_bytes: u64,
    /// Summed USS.
    pub uss_bytes: u64,
    /// Summed RSS.
    pub rss_bytes: u64,
    /// Threads.
    pub threads: u32,
    /// Processes.
    pub processes: u32,
    /// Summed page tables; 0 in runs that did not read them.
    #[serde(default)]
    pub page_table_bytes: u64,
}

/// What one equal part of the window says about one of a launch's times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Start of the part, since the start of the window, in s.
    pub start_s: f64,
    /// Length of the part in s.
    pub length_s: f64,
    /// Operations whose intended instant lies in it.
    pub operations: u64,
    /// Their median time in ns; 0 if there are none.
    pub median_ns: u64,
}

#[cfg(test)]
impl Launch {
    /// A launch without load, for tests of what is written and read.
    pub(crate) fn for_tests() -> Self {
        Self {
            ordinal: 0,
            block: 0,
            cell: "io-wait/pool=1".into(),
            subject: "async".into(),
            layout: Layout::Isolated,
            command: vec!["service-async".into()],
            environment: BTreeMap::new(),
            ready_s: 0.1,
            stop_s: 0.1,
            turns: 1,
            window_s: 1.0,
            arrival_rate_per_s: BTreeMap::new(),
            poisson: vec![],
            operations: BTreeMap::new(),
            resources: Resources::default(),
            drain: None,
            conservation: None,
            generator: GeneratorFacts::default(),
            host: HostDuring::default(),
            pinning: None,
            sampler_ratio: None,
            faults: vec![],
        }
    }
}
