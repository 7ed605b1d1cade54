//! From a run folder's values to its summary: a pure function, repeatable from the folder.

pub mod capacity;
pub mod change;
pub mod comparison;
pub mod gates;
pub mod ladder;
pub mod metric;
pub mod objective;
pub mod resolution;
pub mod significance;
pub mod statistics;
pub mod steady;
#[cfg(test)]
pub mod synthetic;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::record::{Host, Launch, Manifest, Sample, Slice};
use capacity::CapacitySummary;
use comparison::CellSummary;
use gates::{Gate, Standing};
use ladder::LadderSummary;
use metric::{Metric, Reading};
use objective::ObjectiveSummary;
use steady::{SteadyState, companies};

/// Everything that a run folder holds.
#[derive(Debug, Clone)]
pub struct RunData {
    /// What the run was made of.
    pub manifest: Manifest,
    /// The launches in the order in which they were made.
    pub launches: Vec<LaunchData>,
}

/// Everything that was written down about one launch.
#[derive(Debug, Clone)]
pub struct LaunchData {
    /// Counts and facts.
    pub launch: Launch,
    /// Times in ns by tag: `rest.response`, `rest.service`, `rest.send_lag`, `rest.send_gap`,
    /// the same with `amqp`, and `amqp.confirm`.
    pub histograms: BTreeMap<String, Histogram<u64>>,
    /// The course of `*.response` and `*.send_lag` over the window, as far as it was kept.
    pub slices: BTreeMap<String, Vec<Slice>>,
    /// Rows of `samples.csv`.
    pub samples: Vec<Sample>,
}

/// What the run says: written to `summary.json`, and the source of every report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of the method.
    pub method_version: u32,
    /// Folder name.
    pub run_id: String,
    /// `smoke`, `standard` or `full`.
    pub profile: String,
    /// Names of the subjects in tables and plots.
    pub titles: BTreeMap<String, String>,
    /// The machine.
    pub host: Host,
    /// How many launches may be used, and what the others failed.
    pub validity: Validity,
    /// What was demanded of the figures, and what became of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<ObjectiveSummary>,
    /// Cells in the order of the manifest.
    pub cells: Vec<CellSummary>,
    /// What a search for capacities found, if the run is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<CapacitySummary>,
    /// Scenarios whose cells are read together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ladders: Vec<LadderSummary>,
    /// Launches in the order in which they were made.
    pub launches: Vec<LaunchSummary>,
}

/// One launch, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchSummary {
    /// Position in the run.
    pub ordinal: u32,
    /// Block.
    pub block: u32,
    /// Cell.
    pub cell: String,
    /// Subject.
    pub subject: String,
    /// Whether it is a probe of a search, which may fail without being wrong.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub probe: bool,
    /// Whether its figures may be used.
    pub standing: Standing,
    /// How it ran while it was measured, where that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady: Option<SteadyState>,
    /// Every gate with its value.
    pub gates: Vec<Gate>,
    /// Its figures, whatever its standing.
    pub readings: BTreeMap<Metric, Reading>,
}

impl LaunchSummary {
    /// Whether the launch's figure of that metric may be used.
    #[must_use]
    pub fn standing_of(&self, metric: Metric) -> Standing {
        let mut moving = self.steady.iter().flat_map(SteadyState::moving);
        if moving.any(|course| metric.rests_on(course.quantity)) {
            Standing::Invalid
        } else {
            self.standing
        }
    }
}

/// How much of the run may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// Launches in the order that was fixed before the run.
    pub planned: usize,
    /// Launches that were made, repetitions of disturbed ones included.
    pub made: usize,
    /// Launches that held every gate.
    pub valid: usize,
    /// Launches on a noisy host.
    pub disturbed: usize,
    /// Launches whose figures mean nothing.
    pub invalid: usize,
    /// Launches in which the subject itself was wrong: an answer, a message, its life.
    pub faulty: usize,
    /// Launches by the gate that they failed.
    pub failed_gates: BTreeMap<String, usize>,
    /// Probes of a search, which none of the counts above holds.
    #[serde(default)]
    pub probes: usize,
    /// Whether the run was ended early.
    pub interrupted: bool,
}

impl Validity {
    /// Whether the run was a search and nothing else, so that there is no launch to count.
    #[must_use]
    pub fn is_search_only(&self) -> bool {
        self.probes > 0 && self.planned == 0
    }

    /// Whether every planned launch was made and is valid, if need be behind disturbed ones in its
    /// slot.
    pub fn is_complete(&self) -> bool {
        !self.interrupted
            && self.made + self.probes > 0
            && self.valid + self.disturbed == self.made
            && self.valid >= self.planned
    }

    fn of(manifest: &Manifest, launches: &[LaunchSummary]) -> Validity {
        let all = launches.len();
        let launches: Vec<_> = launches.iter().filter(|launch| !launch.probe).collect();
        let with = |standing| launches.iter().filter(|l| l.standing == standing).count();
        let mut failed_gates = BTreeMap::new();
        for gate in launches.iter().flat_map(|l| &l.gates).filter(|g| !g.passed) {
            *failed_gates.entry(gate.name.clone()).or_default() += 1;
        }
        let is_faulty =
            |launch: &&&LaunchSummary| launch.gates.iter().any(|g| !g.passed && g.blames_subject);
        let faulty = launches.iter().filter(is_faulty).count();
        Validity {
            planned: manifest.order.iter().map(Vec::len).sum(),
            made: launches.len(),
            probes: all - launches.len(),
            valid: with(Standing::Valid),
            disturbed: with(Standing::Disturbed),
            invalid: with(Standing::Invalid),
            faulty,
            failed_gates,
            interrupted: manifest.interrupted,
        }
    }
}

/// Judges every launch, aggregates over valid blocks, compares, and answers.
pub fn analyse(run: &RunData) -> Summary {
    let manifest = &run.manifest;
    let launches = judge_all(run);
    let judged: Vec<_> = launches.iter().zip(&run.launches).collect();
    let cells: Vec<_> = manifest
        .cells
        .iter()
        .map(|cell| CellSummary::of(manifest, cell, &judged))
        .collect();
    let validity = Validity::of(manifest, &launches);
    let capacity = CapacitySummary::of(manifest, &judged);
    let ladders = ladder::ladders(manifest, &judged);
    Summary {
        method_version: manifest.method_version,
        run_id: manifest.run_id.clone(),
        profile: manifest.profile.clone(),
        titles: titles(manifest),
        host: manifest.host.clone(),
        validity,
        objectives: objective::judge(manifest, &cells, &judged),
        cells,
        capacity,
        ladders,
        launches,
    }
}

fn titles(manifest: &Manifest) -> BTreeMap<String, String> {
    let subjects = manifest.subjects.iter();
    subjects
        .map(|s| (s.name.clone(), s.title.clone()))
        .collect()
}

/// Each launch, beside those that took turns with it.
fn judge_all(run: &RunData) -> Vec<LaunchSummary> {
    let companies = companies(&run.launches);
    let launches = run.launches.iter().zip(&companies);
    launches
        .map(|(data, others)| judge(&run.manifest, data, others))
        .collect()
}

fn judge(manifest: &Manifest, data: &LaunchData, others: &[&LaunchData]) -> LaunchSummary {
    let launch = &data.launch;
    let ceiling = manifest.ceiling_per_s.get(&launch.layout).copied();
    let state = SteadyState::beside(data, others);
    let gates = gates::judge_as(data, state.as_ref(), manifest.host.cores, ceiling);
    let facts = manifest.cells.iter().find(|c| c.cell == launch.cell);
    let readings = facts
        .map(metric::activity)
        .map_or_else(BTreeMap::new, |activity| {
            let read = |m: Metric| m.read(data, activity).map(|reading| (m, reading));
            Metric::ALL.into_iter().filter_map(read).collect()
        });
    LaunchSummary {
        ordinal: launch.ordinal,
        block: launch.block,
        cell: launch.cell.clone(),
        subject: launch.subject.clone(),
        probe: manifest.is_probe(&launch.cell),
        standing: gates::standing(&gates),
        steady: state,
        gates,
        readings,
    }
}

#[cfg(test)]
mod tests {
    use super::comparison::Verdict;
    use super::*;
    use crate::record::Kind;

    fn steady(summary: &Summary) -> &CellSummary {
        let mut cells = summary.cells.iter();
        cells
            .find(|c| c.facts.scenario == "steady-mixed")
            .expect("cell")
    }

    #[test]
    fn the_planted_ratio_of_cpu_is_recovered() {
        let summary = analyse(&synthetic::run(6));
        let cpu = steady(&summary)
            .comparison(Metric::CpuPerOperation)
            .expect("metric");
        let ratio = cpu.ratio("multi-process", "async").expect("both are valid");
        let planted = synthetic::CPU_NS_PER_OPERATION["multi-process"]
            / synthetic::CPU_NS_PER_OPERATION["async"];
        assert!((ratio.ratio / planted - 1.0).abs() < 0.02, "{ratio:?}");
        assert!(ratio.is_decided());
        assert_eq!(
            cpu.verdict,
            Verdict::Winner {
                subject: "async".into()
            }
        );
    }

    #[test]
    fn equal_subjects_have_no_winner_and_are_equal_only_if_that_is_shown() {
        let verdict = |step_bytes| {
            let mut run = synthetic::run(6);
            for data in &mut run.launches {
                // Each model meets each of the three values equally often.
                let place =
                    data.launch.block + u32::try_from(data.launch.subject.len()).expect("short");
                data.launch.resources.pss_bytes = 4_000_000 + u64::from(place % 3) * step_bytes;
            }
            let summary = analyse(&run);
            let pss = steady(&summary).comparison(Metric::Pss).expect("metric");
            pss.verdict.clone()
        };
        let near = verdict(20_000);
        assert!(
            matches!(&near, Verdict::Equivalent { subjects } if subjects.len() == 3),
            "{near:?}"
        );
        let wide = verdict(400_000);
        assert!(
            matches!(&wide, Verdict::NoDifference { subjects } if subjects.len() == 3),
            "{wide:?}"
        );
    }

    #[test]
    fn an_invalid_launch_is_kept_and_not_aggregated() {
        let mut run = synthetic::run(4);
        let bad = run
            .launches
            .iter_mut()
            .find(|l| l.launch.cell == "steady-mixed")
            .expect("launch");
        bad.launch
            .operations
            .get_mut(&Kind::Rest)
            .expect("REST")
            .wrong = 1;
        bad.launch.resources.pss_bytes = 1;
        let subject = bad.launch.subject.clone();
        let summary = analyse(&run);
        let row = &steady(&summary)
            .comparison(Metric::Pss)
            .expect("metric")
            .rows[&subject];
        assert_eq!((row.blocks.len(), row.used), (4, 3));
        assert!(row.median.expect("three valid") > 1e6);
        assert_eq!(
            (summary.validity.invalid, summary.validity.made),
            (1, 4 * 3 * 8)
        );
        assert_eq!(summary.validity.failed_gates["REST wrong or failed"], 1);
    }

    #[test]
    fn a_quantile_without_enough_operations_is_withheld_with_the_reason() {
        let summary = analyse(&synthetic::run(3));
        let low = summary
            .cells
            .iter()
            .find(|c| c.facts.cell == "low-load")
            .expect("cell");
        let row = &low.comparison(Metric::RestP99).expect("metric").rows["async"];
        assert_eq!(row.median, None);
        assert_eq!(row.too_few, Some((300, 10_000)));
    }

    #[test]
    fn a_repeated_launch_takes_the_place_of_the_disturbed_one() {
        let mut run = synthetic::run(3);
        let place = run
            .launches
            .iter()
            .position(|l| l.launch.cell == "idle")
            .expect("launch");
        let again = run.launches[place].clone();
        run.launches[place].launch.host.steal_ratio = 0.2;
        run.launches[place].launch.resources.cpu_ns *= 50;
        run.launches.insert(place + 1, again);
        let summary = analyse(&run);
        let subject = &run.launches[place].launch.subject;
        let row = &summary.cells[0]
            .comparison(Metric::CpuPerSecond)
            .expect("metric")
            .rows[subject];
        assert_eq!((row.blocks.len(), row.used), (4, 3));
        assert_eq!(summary.validity.disturbed, 1);
    }

    #[test]
    fn a_run_without_launches_has_a_summary_that_says_so() {
        let mut run = synthetic::run(3);
        run.launches.clear();
        run.manifest.interrupted = true;
        let summary = analyse(&run);
        assert!(!summary.validity.is_complete());
        assert!(summary.cells.iter().all(|cell| cell.metrics.is_empty()));
    }

    #[test]
    fn a_closed_loop_has_a_ceiling_and_no_response_times() {
        let mut run = synthetic::run(3);
        let cell = &mut run.manifest.cells[2];
        cell.closed_loop = true;
        cell.arrival_rate_per_s.clear();
        for data in &mut run.launches {
            data.launch.arrival_rate_per_s.clear();
        }
        let summary = analyse(&run);
        let cell = steady(&summary);
        assert_eq!(cell.comparison(Metric::RestP50), None);
        let ceiling = cell.comparison(Metric::Ceiling).expect("metric");
        assert_eq!(ceiling.rows["async"].median, Some(250.0));
    }

    #[test]
    fn memory_that_grows_is_seen_in_a_long_window_only() {
        let mut data = synthetic::one_launch();
        let sample = |second: u32| Sample {
            t_ms: f64::from(second) * 1e3,
            // 2 MiB per hour beside a saw-tooth of 64 KiB.
            pss_bytes: 5_000_000
                + u64::from(second) * 2 * 1_048_576 / 3_600
                + u64::from(second % 7) * 9_362,
            ..Sample::default()
        };
        let growth = |data: &LaunchData| Metric::PssSlope.read(data, metric::Activity::Load);
        data.samples = (0..1_800).map(sample).collect();
        let slope = growth(&data)
            .and_then(Reading::value)
            .expect("half an hour");
        assert!((slope / 1_048_576.0 - 2.0).abs() < 0.05, "{slope}");
        data.samples.truncate(290);
        assert_eq!(growth(&data), None);
        assert!(
            Metric::PssSlope.bears(Standing::Disturbed) && !Metric::Pss.bears(Standing::Disturbed)
        );
    }

    #[test]
    fn the_summary_survives_its_json_form() {
        let summary = analyse(&synthetic::run(3));
        let text = serde_json::to_string(&summary).expect("serialisable");
        let read: Summary = serde_json::from_str(&text).expect("readable");
        assert_eq!(read.validity, summary.validity);
        let verdicts = |s: &Summary| -> Vec<Verdict> {
            let metrics = s.cells.iter().flat_map(|c| &c.metrics);
            metrics.map(|m| m.verdict.clone()).collect()
        };
        assert_eq!(verdicts(&read), verdicts(&summary));
    }
}
