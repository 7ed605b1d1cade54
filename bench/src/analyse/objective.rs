//! Objectives: what a user demands of the figures, such as `steady-mixed:rest.p99=50ms`.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::comparison::{CellSummary, Judged};
use super::gates::Standing;
use super::metric::{Better, Metric, Unit, tag, to_u64};
use super::statistics::median;
use crate::record::{CellFacts, Manifest};

/// Names on the command line.
const NAMES: [(&str, Metric); 23] = [
    ("rest.p50", Metric::RestP50),
    ("rest.p95", Metric::RestP95),
    ("rest.p99", Metric::RestP99),
    ("amqp.p50", Metric::AmqpP50),
    ("amqp.p95", Metric::AmqpP95),
    ("amqp.p99", Metric::AmqpP99),
    ("cpu_per_op", Metric::CpuPerOperation),
    ("user_per_op", Metric::UserPerOperation),
    ("system_per_op", Metric::SystemPerOperation),
    ("cpu_per_message", Metric::CpuPerMessage),
    ("cpu_per_s", Metric::CpuPerSecond),
    ("pss", Metric::Pss),
    ("uss", Metric::Uss),
    ("rss", Metric::Rss),
    ("pss_growth", Metric::PssSlope),
    ("switches_per_op", Metric::SwitchesPerOperation),
    ("switches_per_s", Metric::SwitchesPerSecond),
    ("threads", Metric::Threads),
    ("ready", Metric::Ready),
    ("ceiling", Metric::Ceiling),
    ("messages", Metric::MessagesPerSecond),
    ("rest.throughput", Metric::RestThroughput),
    ("amqp.throughput", Metric::AmqpThroughput),
];

/// Units of a threshold with their factors to the stored value; the first stands in messages.
fn units(unit: Unit) -> &'static [(&'static str, f64)] {
    match unit {
        Unit::Milliseconds | Unit::Microseconds => &[
            ("ms", 1e6),
            ("us", 1e3),
            ("µs", 1e3),
            ("ns", 1.0),
            ("s", 1e9),
        ],
        Unit::Seconds => &[("s", 1.0), ("ms", 1e-3)],
        Unit::MillisecondsPerSecond => &[("ms/s", 1e6), ("us/s", 1e3), ("µs/s", 1e3)],
        Unit::Mebibytes => &[
            ("MiB", 1_048_576.0),
            ("KiB", 1_024.0),
            ("GiB", 1_073_741_824.0),
            ("MB", 1e6),
            ("kB", 1e3),
            ("GB", 1e9),
            ("B", 1.0),
        ],
        Unit::MebibytesPerHour => &[("MiB/h", 1_048_576.0), ("KiB/h", 1_024.0), ("MB/h", 1e6)],
        Unit::PerSecond => &[("/s", 1.0), ("", 1.0)],
        Unit::Count => &[("", 1.0)],
    }
}

/// One demand: a metric, its threshold, and where it applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// As it was written.
    pub text: String,
    /// Scenario, cell or subject; none for all.
    pub scope: Option<String>,
    /// What is limited.
    pub metric: Metric,
    /// The most that a cost may be, or the least that a rate must be; in the metric's stored unit.
    pub threshold: f64,
}

/// Why a text is no objective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectiveError {
    /// No `=`.
    #[error("an objective is METRIC=VALUE or SCOPE:METRIC=VALUE, such as rest.p99=50ms")]
    Shape,
    /// No such metric.
    #[error("unknown metric `{name}`; known are: {known}")]
    Metric {
        /// What was written.
        name: String,
        /// What there is.
        known: String,
    },
    /// The value is no positive number with a unit of the metric.
    #[error("`{value}` is no value of {metric}; write a number above 0 with one of: {units}")]
    Value {
        /// What was written.
        value: String,
        /// Name of the metric.
        metric: &'static str,
        /// Units that it may have.
        units: String,
    },
}

impl FromStr for Objective {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Self, ObjectiveError> {
        // The name of a cell holds a `=` as well, so its colon is looked for first.
        let (scope, demand) = match text.rsplit_once(':') {
            Some((scope, demand)) => (Some(scope.to_owned()), demand),
            None => (None, text),
        };
        let (name, value) = demand.split_once('=').ok_or(ObjectiveError::Shape)?;
        let found = NAMES.iter().find(|(known, _)| *known == name.trim());
        let &(name, metric) = found.ok_or_else(|| ObjectiveError::Metric {
            name: name.trim().to_owned(),
            known: NAMES.map(|(known, _)| known).join(", "),
        })?;
        Ok(Self {
            text: text.to_owned(),
            scope,
            metric,
            threshold: threshold(name, metric, value.trim())?,
        })
    }
}

fn threshold(name: &'static str, metric: Metric, value: &str) -> Result<f64, ObjectiveError> {
    let units = units(metric.unit());
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = value.split_at(end.unwrap_or(value.len()));
    let factor = units.iter().find(|(known, _)| *known == unit.trim());
    let number = number.parse().ok().filter(|number: &f64| *number > 0.0);
    match (number, factor) {
        (Some(number), Some((_, factor))) => Ok(number * factor),
        _ => Err(ObjectiveError::Value {
            value: value.to_owned(),
            metric: name,
            units: named(units),
        }),
    }
}

fn named(units: &[(&str, f64)]) -> String {
    let names = units.iter().map(|(unit, _)| match *unit {
        "" => "no unit",
        unit => unit,
    });
    names.collect::<Vec<_>>().join(", ")
}

impl Objective {
    /// Whether it speaks of this subject in this cell.
    #[must_use]
    pub fn applies_to(&self, cell: &CellFacts, subject: &str) -> bool {
        self.scope
            .as_deref()
            .is_none_or(|scope| scope == cell.cell || scope == cell.scenario || scope == subject)
    }

    /// Whether the threshold is the least that must be reached, as for a rate.
    #[must_use]
    pub fn is_least(&self) -> bool {
        matches!(self.metric, Metric::RestThroughput | Metric::AmqpThroughput)
            || self.metric.better() == Better::Higher
    }

    fn outcome(&self, figure: Option<f64>) -> Outcome {
        match figure {
            None => Outcome::NoFigure,
            Some(figure) if self.is_least() && figure >= self.threshold => Outcome::Held,
            Some(figure) if !self.is_least() && figure <= self.threshold => Outcome::Held,
            Some(_) => Outcome::Missed,
        }
    }
}

/// What became of an objective in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The figure is within the threshold.
    Held,
    /// It is not.
    Missed,
    /// No valid launch has the figure, which is not the same as held.
    NoFigure,
}

/// One objective with every place where it applies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveSummary {
    /// As it was written.
    pub objective: String,
    /// What is limited.
    pub metric: Metric,
    /// In the metric's stored unit.
    pub threshold: f64,
    /// Whether the threshold is the least that must be reached.
    pub is_least: bool,
    /// Cells by subjects, where the metric exists.
    pub rows: Vec<ObjectiveRow>,
    /// Whether no figure misses it and every subject has at least one.
    pub is_met: bool,
}

/// One subject in one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObjectiveRow {
    /// Cell.
    pub cell: String,
    /// Subject.
    pub subject: String,
    /// The figure of the tables: the median over the valid blocks, or the pooled quantile.
    pub figure: Option<f64>,
    /// For a response time: operations per second that were answered correctly and within the
    /// threshold, as the median over the valid launches. Where the threshold lies above the timeout,
    /// this is the throughput.
    pub goodput_per_s: Option<f64>,
    /// Verdict.
    pub outcome: Outcome,
}

/// Every objective of a run, judged. One that cannot be read was written by another version and has
/// been refused by none, so it is left out.
pub(super) fn judge(
    manifest: &Manifest,
    cells: &[CellSummary],
    launches: &[Judged],
) -> Vec<ObjectiveSummary> {
    let texts = manifest.objectives.iter();
    let objectives = texts.filter_map(|text| text.parse::<Objective>().ok());
    objectives
        .map(|objective| summary(&objective, manifest, cells, launches))
        .collect()
}

fn summary(
    objective: &Objective,
    manifest: &Manifest,
    cells: &[CellSummary],
    launches: &[Judged],
) -> ObjectiveSummary {
    let rows: Vec<_> = cells
        .iter()
        .flat_map(|cell| rows(objective, manifest, cell, launches))
        .collect();
    let with = |outcome| rows.iter().filter(move |row| row.outcome == outcome);
    let subjects: BTreeSet<_> = rows.iter().map(|row| &row.subject).collect();
    let holding: BTreeSet<_> = with(Outcome::Held).map(|row| &row.subject).collect();
    let is_met = !rows.is_empty() && with(Outcome::Missed).next().is_none() && holding == subjects;
    ObjectiveSummary {
        objective: objective.text.clone(),
        metric: objective.metric,
        threshold: objective.threshold,
        is_least: objective.is_least(),
        rows,
        is_met,
    }
}

/// The compared subjects in one cell; none where the metric has no meaning.
fn rows(
    objective: &Objective,
    manifest: &Manifest,
    cell: &CellSummary,
    launches: &[Judged],
) -> Vec<ObjectiveRow> {
    let Some(comparison) = cell.comparison(objective.metric) else {
        return vec![];
    };
    let names = manifest.compared().map(|subject| &subject.name);
    names
        .filter(|name| cell.subjects.contains(name) && objective.applies_to(&cell.facts, name))
        .map(|name| {
            let row = comparison.rows.get(name);
            let figure = row.and_then(|row| row.median.or(row.pooled));
            ObjectiveRow {
                cell: cell.facts.cell.clone(),
                subject: name.clone(),
                figure,
                goodput_per_s: goodput_per_s(objective, &cell.facts.cell, name, launches),
                outcome: objective.outcome(figure),
            }
        })
        .collect()
}

/// In a valid launch every recorded answer is right, so those within the threshold are good.
fn goodput_per_s(
    objective: &Objective,
    cell: &str,
    subject: &str,
    launches: &[Judged],
) -> Option<f64> {
    let (kind, _) = objective.metric.quantile()?;
    let mut rates: Vec<f64> = launches
        .iter()
        .filter(|(summary, _)| summary.cell == cell && summary.subject == subject)
        .filter(|(summary, _)| summary.standing == Standing::Valid)
        .filter_map(|(_, data)| {
            let response = data.histograms.get(&tag(kind, "response"))?;
            let good = response.count_between(0, to_u64(objective.threshold));
            Some(good as f64 / data.launch.window_s)
        })
        .collect();
    median(&mut rates)
}

#[cfg(test)]
mod tests;
