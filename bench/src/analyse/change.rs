//! Two runs against each other: what has changed for each subject from one to the other?

use serde::{Deserialize, Serialize};

use super::Summary;
use super::comparison::Comparison;
use super::metric::{Better, Metric};
use super::statistics::{RatioEstimate, independent_ratio, median, seed_for};

/// What two runs say about every figure that both have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Folder name of the earlier run.
    pub before: String,
    /// Folder name of the later one.
    pub after: String,
    /// What makes the two runs hard to compare, in words.
    pub caveats: Vec<String>,
    /// Every figure that both have, in the order of the later run.
    pub changes: Vec<Change>,
}

/// One metric of one subject in one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Cell.
    pub cell: String,
    /// Subject.
    pub subject: String,
    /// Metric.
    pub metric: Metric,
    /// Median over the blocks of the earlier run.
    pub before: f64,
    /// Median over the blocks of the later one.
    pub after: f64,
    /// Ratio `after / before`.
    pub estimate: RatioEstimate,
    /// What may be said.
    pub verdict: ChangeVerdict,
}

/// What may be said of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeVerdict {
    /// Decided, beyond the threshold, in the direction that is better.
    Better,
    /// Decided, beyond the threshold, in the direction that is worse.
    Worse,
    /// Neither is shown.
    NoneShown,
    /// The metric is shown and never ranked.
    NotRanked,
}

impl Changes {
    /// Compares two summaries; `threshold` is the smallest relative change that counts, such as
    /// 0.05, and never less than what repeated runs show anyway.
    #[must_use]
    pub fn of(before: &Summary, after: &Summary, threshold: f64) -> Self {
        let mut changes = Vec::new();
        for cell in &after.cells {
            let name = &cell.facts.cell;
            let Some(earlier) = before.cells.iter().find(|it| it.facts.cell == *name) else {
                continue;
            };
            for comparison in &cell.metrics {
                let Some(earlier) = earlier.comparison(comparison.metric) else {
                    continue;
                };
                for subject in comparison.rows.keys() {
                    changes.extend(change(name, subject, earlier, comparison, threshold));
                }
            }
        }
        Self {
            before: before.run_id.clone(),
            after: after.run_id.clone(),
            caveats: caveats(before, after),
            changes,
        }
    }

    /// The changes with this verdict.
    pub fn with(&self, verdict: ChangeVerdict) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |it| it.verdict == verdict)
    }
}

fn change(
    cell: &str,
    subject: &str,
    before: &Comparison,
    after: &Comparison,
    threshold: f64,
) -> Option<Change> {
    let metric = after.metric;
    let (mut old, mut new) = (before.values(subject), after.values(subject));
    let name = serde_json::to_string(&metric).expect("a unit variant is always serialisable");
    let estimate = independent_ratio(&new, &old, seed_for(0, &[cell, &name, subject]))?;
    Some(Change {
        cell: cell.to_owned(),
        subject: subject.to_owned(),
        metric,
        before: median(&mut old)?,
        after: median(&mut new)?,
        verdict: verdict(metric, estimate, threshold),
        estimate,
    })
}

fn verdict(metric: Metric, estimate: RatioEstimate, threshold: f64) -> ChangeVerdict {
    let is_beyond = estimate.ratio.ln().abs() >= threshold.ln_1p();
    match metric.better() {
        Better::Neither => ChangeVerdict::NotRanked,
        _ if !estimate.is_decided() || !is_beyond => ChangeVerdict::NoneShown,
        better if (estimate.ratio < 1.0) == (better == Better::Lower) => ChangeVerdict::Better,
        _ => ChangeVerdict::Worse,
    }
}

fn caveats(before: &Summary, after: &Summary) -> Vec<String> {
    let mut caveats = Vec::new();
    if before.method_version != after.method_version {
        caveats.push(format!(
            "method versions {} and {}: what is measured differs",
            before.method_version, after.method_version
        ));
    }
    if before.host != after.host {
        caveats.push(
            "the machines, or what their idle cores may do, differ: a change may be theirs"
                .to_owned(),
        );
    }
    if before.profile != after.profile {
        let (before, after) = (&before.profile, &after.profile);
        caveats.push(format!(
            "profiles `{before}` and `{after}`: windows and blocks differ"
        ));
    }
    for (run, summary) in [("earlier", before), ("later", after)] {
        if !summary.validity.is_complete() {
            caveats.push(format!("not every launch of the {run} run is valid"));
        }
    }
    caveats
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::{RunData, analyse, synthetic};

    /// The run with the CPU of one subject changed by a factor.
    fn with_cpu(mut run: RunData, subject: &str, factor: f64) -> RunData {
        for data in &mut run.launches {
            if data.launch.subject == subject {
                let cpu = &mut data.launch.resources.cpu_ns;
                *cpu = (*cpu as f64 * factor) as u64;
            }
        }
        run
    }

    fn cpu_verdicts(changes: &Changes) -> Vec<(String, ChangeVerdict)> {
        let of = |it: &&Change| it.metric == Metric::CpuPerOperation;
        let verdict = |it: &Change| (it.subject.clone(), it.verdict);
        let mut verdicts: Vec<_> = changes.changes.iter().filter(of).map(verdict).collect();
        verdicts.sort_by(|a, b| a.0.cmp(&b.0));
        verdicts.dedup();
        verdicts
    }

    #[test]
    fn a_planted_slow_down_is_found_and_only_there() {
        let before = analyse(&synthetic::run(10));
        let after = analyse(&with_cpu(synthetic::run(10), "async", 1.1));
        let changes = Changes::of(&before, &after, 0.05);
        assert_eq!(
            cpu_verdicts(&changes),
            [
                ("async".to_owned(), ChangeVerdict::Worse),
                ("multi-process".to_owned(), ChangeVerdict::NoneShown),
                ("multi-thread".to_owned(), ChangeVerdict::NoneShown),
            ]
        );
        let back = Changes::of(&after, &before, 0.05);
        assert_eq!(cpu_verdicts(&back)[0].1, ChangeVerdict::Better);
    }

    #[test]
    fn a_change_below_the_threshold_is_none() {
        let before = analyse(&synthetic::run(10));
        let after = analyse(&with_cpu(synthetic::run(10), "async", 1.1));
        let changes = Changes::of(&before, &after, 0.2);
        assert_eq!(changes.with(ChangeVerdict::Worse).count(), 0);
    }

    #[test]
    fn a_run_has_not_changed_against_itself() {
        let summary = analyse(&synthetic::run(5));
        let changes = Changes::of(&summary, &summary, 0.0);
        assert!(changes.caveats.is_empty(), "{:?}", changes.caveats);
        assert!(!changes.changes.is_empty());
        for verdict in [ChangeVerdict::Worse, ChangeVerdict::Better] {
            assert_eq!(changes.with(verdict).count(), 0);
        }
    }

    #[test]
    fn what_makes_runs_hard_to_compare_is_said() {
        let before = analyse(&synthetic::run(3));
        let mut after = before.clone();
        after.method_version += 1;
        after.host.cores += 2;
        after.profile = "full".into();
        after.validity.interrupted = true;
        assert_eq!(Changes::of(&before, &after, 0.05).caveats.len(), 4);
    }
}
