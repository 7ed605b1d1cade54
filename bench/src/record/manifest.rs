//! What a run is made of: written first, completed at the end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Kind, Ladder, Layout, SearchFacts};

/// What the run was made of; written first, completed at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`METHOD_VERSION`](super::METHOD_VERSION) of the run.
    pub method_version: u32,
    /// Folder name below `results/`.
    pub run_id: String,
    /// `smoke`, `standard` or `full`.
    pub profile: String,
    /// RFC 3339.
    pub started_at: String,
    /// Seconds from start to end, 0 while running.
    pub elapsed_s: f64,
    /// Whether Ctrl-C or a fault ended the run early.
    pub interrupted: bool,
    /// Seed of block orders and bootstrap.
    pub seed: u64,
    /// Version of the instrument.
    pub threeways_version: String,
    /// Commit of the tree, or `unknown`.
    pub commit: String,
    /// Whether the tree differed from that commit.
    pub dirty: bool,
    /// FNV-1a hash of `Cargo.lock`, hexadecimal.
    pub lock_hash: String,
    /// `rustc --version`.
    pub rustc: String,
    /// The machine.
    pub host: Host,
    /// The broker.
    pub broker: BrokerFacts,
    /// Subjects by name.
    pub subjects: Vec<SubjectFacts>,
    /// Cells in the order of the report.
    pub cells: Vec<CellFacts>,
    /// Order of the launches: per block, the pairs `cell subject`.
    pub order: Vec<Vec<String>>,
    /// Highest REST rate of the generator against the built-in null server in each layout used, in
    /// answers per second in a closed loop, measured before the first launch; empty for a run that
    /// sends no REST requests.
    #[serde(default)]
    pub ceiling_per_s: BTreeMap<Layout, f64>,
    /// Repetitions of a fault campaign that were under way at once; 0 for any other run.
    #[serde(default)]
    pub lanes: u32,
    /// What was demanded of the figures (`--slo`), as it was written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<String>,
    /// What a search for capacities asked; none for any other run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchFacts>,
    /// What was planted, in a run that asks what can be told apart; absent in any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<ResolutionFacts>,
}

/// The names under which one subject was launched to see what the instrument can resolve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResolutionFacts {
    /// The subject.
    pub subject: String,
    /// The very same under a second name.
    pub twin: String,
    /// The same with a planted slow-down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slowed: Option<String>,
    /// The same, sampled only at the edges of the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsampled: Option<String>,
    /// Cell in which all of them were compared.
    pub cell: String,
    /// CPU per operation of the slowed one over that of the subject, as planted.
    pub planted_ratio: f64,
    /// CPU that the handicap burnt to that end, in µs per second; 0 before it is known.
    pub handicap_us_per_s: f64,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Kernel release.
    pub kernel: String,
    /// CPU model.
    pub cpu_model: String,
    /// Online cores.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Hard limit of open files.
    pub open_files_limit: u64,
    /// Whether its cores were forbidden to sleep.
    #[serde(default)]
    pub cores_stay_awake: bool,
}

impl Host {
    /// What its cores do without work, in words.
    #[must_use]
    pub fn idle_cores(&self) -> &'static str {
        match self.cores_stay_awake {
            true => "kept awake",
            false => "may sleep",
        }
    }
}

/// The broker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BrokerFacts {
    /// Product and version, as the broker says.
    pub version: String,
    /// `given`, `answering`, `compose` or `private-node`.
    pub origin: String,
    /// Whether its processes could be pinned.
    pub pinned: bool,
}

impl Manifest {
    /// The subjects that are compared; a twin is not.
    pub fn compared(&self) -> impl Iterator<Item = &SubjectFacts> {
        self.subjects.iter().filter(|it| it.twin_of.is_none())
    }

    /// Whether a launch of the cell is a probe of the search: it is judged by its rate alone.
    #[must_use]
    pub fn is_probe(&self, cell: &str) -> bool {
        let scenario = cell.split_once('/').map_or(cell, |(scenario, _)| scenario);
        self.search
            .as_ref()
            .is_some_and(|it| it.scenario == scenario)
    }

    /// The second name of a subject and its first one.
    #[must_use]
    pub fn twin(&self) -> Option<(&str, &str)> {
        let twin = self.subjects.iter().find(|it| it.twin_of.is_some())?;
        Some((&twin.name, twin.twin_of.as_deref()?))
    }
}

/// One subject as it was built.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SubjectFacts {
    /// Name of the subject file.
    pub name: String,
    /// Name in tables and plots.
    pub title: String,
    /// `multi-process`, `multi-thread` or `async`.
    pub model: String,
    /// Declared deviations from the contract.
    pub deviations: Vec<String>,
    /// Size of the binary.
    pub binary_bytes: u64,
    /// Output of `cargo tree -e features` for the package.
    pub features: Vec<String>,
    /// The subject whose second name this is: the two are compared as if they were different, and
    /// what differs is the noise floor (an A/A comparison).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin_of: Option<String>,
}

/// One cell: a scenario with one value of its axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellFacts {
    /// `scenario` or `scenario/axis=value`.
    pub cell: String,
    /// Scenario name.
    pub scenario: String,
    /// What it asks, one sentence.
    pub question: String,
    /// Value of the axis, if it has one.
    pub axis: Option<String>,
    /// Layout.
    pub layout: Layout,
    /// Offered load per kind in operations per second; empty for drains and idle.
    pub arrival_rate_per_s: BTreeMap<Kind, f64>,
    /// Measured window in seconds (for a drain: messages are in `prefill`).
    pub window_s: f64,
    /// Messages in the queue before the launch, for drains.
    pub prefill: u64,
    /// Whether each connection sends as soon as it was answered: a ceiling, and no response times.
    #[serde(default)]
    pub closed_loop: bool,
    /// What grows from cell to cell, if the scenario is a ladder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Ladder>,
    /// Keep-alive connections of the REST load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
}
