//! One cell: every metric of every subject over the blocks, and the subjects against each other.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::gates::{Standing, is_quiet};
use super::metric::{Better, Metric, Reading, needed_for, tag};
use super::significance::holm;
use super::statistics::{Interval, RatioEstimate, median_over_blocks, paired_ratio, seed_for};
use super::steady::{Course, Steadiness};
use super::{LaunchData, LaunchSummary};
use crate::record::{CellFacts, Manifest};

/// Launches without a steady state from which a subject has no figure in a cell.
const UNSTEADY_LAUNCHES: usize = 2;

/// A launch with its judgement.
pub type Judged<'a> = (&'a LaunchSummary, &'a LaunchData);

/// One cell with every metric that exists in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellSummary {
    /// What the cell asks and of which load.
    pub facts: CellFacts,
    /// Turns into which the launches' windows were cut; 1 where each had the machine for itself.
    #[serde(default = "crate::record::one")]
    pub turns: u32,
    /// Subjects that the order of the run names for the cell, whether launched or not.
    pub subjects: Vec<String>,
    /// The metrics in the order of the tables.
    pub metrics: Vec<Comparison>,
}

/// One metric of one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Which.
    pub metric: Metric,
    /// One row per subject that has readings.
    pub rows: BTreeMap<String, Row>,
    /// Ratios `subject / other`, each pair once; none if the metric is not ranked.
    pub ratios: Vec<Pair>,
    /// Ratio of one subject to itself under a second name, if it had one here: the noise floor. A
    /// difference within its interval is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<RatioEstimate>,
    /// What may be said.
    pub verdict: Verdict,
}

/// One subject's values of one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Every launch's value, whatever its standing.
    pub blocks: Vec<BlockValue>,
    /// Median over the valid blocks.
    pub median: Option<f64>,
    /// 95 % bootstrap interval of the median over blocks; absent with fewer than two.
    pub interval: Option<Interval>,
    /// Blocks behind the median.
    pub used: usize,
    /// Operations per launch and operations needed, if a quantile was withheld.
    pub too_few: Option<(u64, u64)>,
    /// In that case the quantile over the operations of all valid launches together, if
    /// these are enough: shown without an interval and never ranked.
    pub pooled: Option<f64>,
    /// Launches that had no steady state on a quiet host, if there were so many that no figure is given, however many
    /// others had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsteady: Option<usize>,
}

/// The value of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BlockValue {
    /// Block.
    pub block: u32,
    /// What the launch says.
    pub reading: Reading,
    /// Whether it may be used.
    pub standing: Standing,
}

/// Two subjects compared by block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Numerator.
    pub subject: String,
    /// Denominator.
    pub other: String,
    /// The ratio.
    pub estimate: RatioEstimate,
}

/// What a metric of a cell says about its subjects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Better than every other subject, each with an interval without 1.
    Winner {
        /// Who.
        subject: String,
    },
    /// The subjects that cannot be told from the best one; others may still be worse.
    NoDifference {
        /// The best one and those not told from it, best first.
        subjects: Vec<String>,
    },
    /// Every two of them are shown to be equal within the margin of equivalence.
    Equivalent {
        /// All that have a figure, best first.
        subjects: Vec<String>,
    },
    /// Fewer than two subjects have a figure.
    NoData,
    /// The metric is shown and never ranked.
    NotRanked,
}

impl CellSummary {
    /// Aggregates the launches of one cell.
    pub fn of(manifest: &Manifest, cell: &CellFacts, launches: &[Judged]) -> CellSummary {
        let here: Vec<Judged> = launches
            .iter()
            .copied()
            .filter(|(l, _)| l.cell == cell.cell)
            .collect();
        let mut metrics: Vec<Comparison> = Metric::ALL
            .into_iter()
            .map(|metric| Comparison::of(manifest, &cell.cell, metric, &here))
            .filter(|comparison| !comparison.rows.is_empty())
            .collect();
        adjust(&mut metrics);
        for comparison in &mut metrics {
            comparison.verdict = verdict(comparison);
        }
        CellSummary {
            facts: cell.clone(),
            turns: here
                .iter()
                .map(|(_, data)| data.launch.turns)
                .max()
                .unwrap_or(1),
            subjects: planned(manifest, &cell.cell),
            metrics,
        }
    }

    /// The comparison by one metric, if the cell has it.
    pub fn comparison(&self, metric: Metric) -> Option<&Comparison> {
        self.metrics.iter().find(|c| c.metric == metric)
    }
}

impl Comparison {
    fn of(manifest: &Manifest, cell: &str, metric: Metric, launches: &[Judged]) -> Comparison {
        let name = serde_json::to_string(&metric).expect("a unit variant is always serialisable");
        let seed = |rest: &[&str]| seed_for(manifest.seed, &[&[cell, &name], rest].concat());
        let mut rows: BTreeMap<String, Row> = subjects(launches)
            .into_iter()
            .filter_map(|s| Some((s.to_owned(), Row::of(s, metric, launches, seed(&[s]))?)))
            .collect();
        let twin = manifest.twin().and_then(|(twin, original)| {
            let (twin_row, original_row) = (rows.remove(twin)?, rows.get(original)?);
            let pairs = shared_blocks(metric, &twin_row, original_row);
            paired_ratio(&pairs, seed(&[twin, original]))
        });
        let is_ranked = metric.better() != Better::Neither;
        let ratios = if is_ranked {
            pairs(metric, &rows, seed)
        } else {
            Vec::new()
        };
        Comparison {
            metric,
            rows,
            ratios,
            floor: twin.filter(|_| is_ranked),
            verdict: Verdict::NotRanked,
        }
    }

    /// Whether a ratio of two subjects is decided and beyond the noise floor.
    pub fn tells_apart(&self, ratio: RatioEstimate) -> bool {
        let floor = self.floor.map_or(0.0, |floor| floor.reach());
        ratio.is_decided() && ratio.ratio.ln().abs() > floor
    }

    /// The ratio `subject / other`, whichever way round it is stored.
    pub fn ratio(&self, subject: &str, other: &str) -> Option<RatioEstimate> {
        find_ratio(&self.ratios, subject, other)
    }

    /// The winner, provided that every one of `subjects` has a figure to be compared with.
    pub fn winner_among(&self, subjects: &[String]) -> Option<&str> {
        let has_figure = |s: &String| self.rows.get(s).is_some_and(|row| row.median.is_some());
        match &self.verdict {
            Verdict::Winner { subject } if subjects.iter().all(has_figure) => Some(subject),
            _ => None,
        }
    }

    /// The usable values of a subject, one for each block.
    pub fn values(&self, subject: &str) -> Vec<f64> {
        let row = self.rows.get(subject);
        row.map_or_else(Vec::new, |row| {
            row.usable(self.metric).into_values().collect()
        })
    }

    /// Subjects with a median, the best first (the smallest, where nothing is better).
    pub fn ranking(&self) -> Vec<&str> {
        ranking(self.metric, &self.rows)
    }
}

impl Row {
    fn of(subject: &str, metric: Metric, launches: &[Judged], seed: u64) -> Option<Row> {
        let own = launches.iter().filter(|(l, _)| l.subject == subject);
        let blocks: Vec<BlockValue> = own
            .clone()
            .filter_map(|(l, _)| {
                Some(BlockValue {
                    block: l.block,
                    reading: *l.readings.get(&metric)?,
                    standing: l.standing_of(metric),
                })
            })
            .collect();
        if blocks.is_empty() {
            return None;
        }
        let mut row = Row {
            median: None,
            interval: None,
            used: 0,
            too_few: None,
            pooled: None,
            unsteady: unsteady(metric, own.clone()),
            blocks,
        };
        let values: Vec<f64> = row.usable(metric).into_values().collect();
        let estimate = median_over_blocks(&values, seed);
        row.median = estimate.map(|(median, _)| median);
        row.interval = estimate.and_then(|(_, interval)| interval);
        row.used = values.len();
        if values.is_empty() && row.unsteady.is_none() {
            row.too_few = too_few(&row.blocks);
            row.pooled = pooled(metric, own);
        }
        Some(row)
    }

    /// The value of each block that may be used; none without a steady state.
    fn usable(&self, metric: Metric) -> BTreeMap<u32, f64> {
        match self.unsteady {
            Some(_) => BTreeMap::new(),
            None => by_block(metric, &self.blocks),
        }
    }
}

/// Launches of a subject in a cell that had no steady state on a quiet host, if there are too many to
/// believe the others: chance makes one, but seldom two.
fn unsteady<'a>(metric: Metric, launches: impl Iterator<Item = &'a Judged<'a>>) -> Option<usize> {
    let moves = |course: &Course| {
        metric.rests_on(course.quantity) && course.steadiness == Steadiness::NoSteadyState
    };
    let is_unsteady = |launch: &LaunchSummary| {
        let mut courses = launch.steady.iter().flat_map(|it| &it.courses);
        is_quiet(&launch.gates) && courses.any(moves)
    };
    let count = launches.filter(|(launch, _)| is_unsteady(launch)).count();
    (count >= UNSTEADY_LAUNCHES).then_some(count)
}

/// The usable value of each block: of repeated launches the first valid one.
fn by_block(metric: Metric, blocks: &[BlockValue]) -> BTreeMap<u32, f64> {
    let mut values = BTreeMap::new();
    for value in blocks.iter().filter(|b| metric.bears(b.standing)) {
        if let Some(figure) = value.reading.value() {
            values.entry(value.block).or_insert(figure);
        }
    }
    values
}

/// The best case of the launches whose quantile was withheld.
fn too_few(blocks: &[BlockValue]) -> Option<(u64, u64)> {
    blocks
        .iter()
        .filter_map(|b| match b.reading {
            Reading::TooFew { operations, needed } => Some((operations, needed)),
            Reading::Value(_) => None,
        })
        .max()
}

/// The quantile of the valid launches' operations taken together.
fn pooled<'a>(metric: Metric, launches: impl Iterator<Item = &'a Judged<'a>>) -> Option<f64> {
    let (kind, quantile) = metric.quantile()?;
    let tag = tag(kind, "response");
    let mut all: Option<Histogram<u64>> = None;
    for (_, data) in launches.filter(|(l, _)| l.standing == Standing::Valid) {
        let one = data.histograms.get(&tag)?;
        match &mut all {
            None => all = Some(one.clone()),
            Some(sum) => sum.add(one).ok()?,
        }
    }
    all.filter(|sum| sum.len() >= needed_for(quantile))
        .map(|sum| sum.value_at_quantile(quantile) as f64)
}

/// Subjects of the cell according to the order, whose entries are `cell subject`; without a twin.
fn planned(manifest: &Manifest, cell: &str) -> Vec<String> {
    let entries = manifest.order.iter().flatten();
    let twin = manifest.twin().map(|(twin, _)| twin);
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.split_once(' '))
        .filter(|(name, subject)| *name == cell && Some(*subject) != twin)
        .map(|(_, subject)| subject.to_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn subjects<'a>(launches: &[Judged<'a>]) -> Vec<&'a str> {
    let mut names: Vec<_> = launches.iter().map(|(l, _)| l.subject.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn pairs(metric: Metric, rows: &BTreeMap<String, Row>, seed: impl Fn(&[&str]) -> u64) -> Vec<Pair> {
    let names: Vec<&String> = rows.keys().collect();
    let mut pairs = Vec::new();
    for (place, subject) in names.iter().enumerate() {
        for other in &names[place + 1..] {
            let estimate = paired_ratio(
                &shared_blocks(metric, &rows[*subject], &rows[*other]),
                seed(&[subject, other]),
            );
            pairs.extend(estimate.map(|estimate| Pair {
                subject: (*subject).clone(),
                other: (*other).clone(),
                estimate,
            }));
        }
    }
    pairs
}

/// Adjusts the p values of a cell's pairs. The family is all pairs of all ranked metrics of one cell,
/// since a cell asks one question and everything that may be called better in it answers that one;
/// the cells ask different ones.
fn adjust(comparisons: &mut [Comparison]) {
    let pairs = comparisons.iter_mut().flat_map(|it| &mut it.ratios);
    let estimates = pairs.map(|pair| &mut pair.estimate);
    let (estimates, p_values): (Vec<_>, Vec<f64>) = estimates
        .filter_map(|estimate| estimate.p_value.map(|p| (estimate, p)))
        .unzip();
    for (estimate, adjusted) in estimates.into_iter().zip(holm(&p_values)) {
        estimate.adjusted_p_value = Some(adjusted);
    }
}

fn shared_blocks(metric: Metric, a: &Row, b: &Row) -> Vec<(f64, f64)> {
    let other = b.usable(metric);
    a.usable(metric)
        .into_iter()
        .filter_map(|(block, value)| Some((value, *other.get(&block)?)))
        .collect()
}

fn find_ratio(ratios: &[Pair], subject: &str, other: &str) -> Option<RatioEstimate> {
    ratios.iter().find_map(|pair| {
        if pair.subject == subject && pair.other == other {
            Some(pair.estimate)
        } else if pair.subject == other && pair.other == subject {
            Some(pair.estimate.inverse())
        } else {
            None
        }
    })
}

fn ranking(metric: Metric, rows: &BTreeMap<String, Row>) -> Vec<&str> {
    let mut ranked: Vec<(&str, f64)> = rows
        .iter()
        .filter_map(|(name, row)| Some((name.as_str(), row.median?)))
        .collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
    if metric.better() == Better::Higher {
        ranked.reverse();
    }
    ranked.into_iter().map(|(name, _)| name).collect()
}

fn verdict(comparison: &Comparison) -> Verdict {
    if comparison.metric.better() == Better::Neither {
        return Verdict::NotRanked;
    }
    let ranked = comparison.ranking();
    let Some((best, others)) = ranked
        .split_first()
        .filter(|(_, others)| !others.is_empty())
    else {
        return Verdict::NoData;
    };
    let close: Vec<String> = others
        .iter()
        .filter(|other| !is_better(comparison, best, other))
        .map(|other| (*other).to_owned())
        .collect();
    let subject = (*best).to_owned();
    let is_equal = |pair: &Pair| pair.estimate.is_equivalent();
    if close.is_empty() {
        Verdict::Winner { subject }
    } else if close.len() == others.len() && comparison.ratios.iter().all(is_equal) {
        let subjects = std::iter::once(subject).chain(close).collect();
        Verdict::Equivalent { subjects }
    } else {
        let subjects = std::iter::once(subject).chain(close).collect();
        Verdict::NoDifference { subjects }
    }
}

/// Whether the two are told apart, and in the direction that is better: paired means and
/// medians over different blocks may disagree.
fn is_better(comparison: &Comparison, best: &str, other: &str) -> bool {
    let lower = comparison.metric.better() == Better::Lower;
    let ratio = comparison.ratio(best, other);
    ratio.is_some_and(|r| comparison.tells_apart(r) && (r.ratio < 1.0) == lower)
}

#[cfg(test)]
mod tests;
