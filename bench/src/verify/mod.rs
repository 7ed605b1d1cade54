//! The black-box suite: what a subject must do, seen from outside only.
//!
//! Each case is one sentence with one function or one table row.
//! The rows share one launch; every other case launches the subject itself, because it needs
//! another environment or ends the subject.

mod case;
mod device;
mod events;
mod health;
mod ingest;
mod lifecycle;
mod limits;
mod outage;
mod rows;
mod scene;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::broker::Broker;

use self::{
    case::{Case, Skip},
    rows::{ROWS, Row},
    scene::Scene,
};

/// What the suite needs.
#[derive(Debug)]
pub struct Context<'a> {
    /// Name of the subject, for messages.
    pub name: String,
    /// Its executable.
    pub executable: PathBuf,
    /// Its arguments at every launch.
    pub args: Vec<String>,
    /// Folder for the subject's stderr; it must exist.
    pub scratch: PathBuf,
    /// The broker; its queues are emptied, and a private node is restarted.
    pub broker: &'a mut Broker,
}

/// Whether a subject may fail a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Never.
    Required,
    /// Only if its file declares the deviation with the upstream reference.
    Hardening,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As the contract says.
    Passed,
    /// Otherwise, and how.
    Failed(String),
    /// Not tried, and why.
    Skipped(String),
}

/// One case of the suite with its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// The case as a sentence.
    pub name: &'static str,
    /// Whether it may fail.
    pub class: Class,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took, launch and stop included.
    pub took: Duration,
}

/// Runs every case whose name contains `filter` (all of them if it is empty) in their order.
#[must_use]
pub fn run(context: &mut Context<'_>, filter: &str) -> Vec<CaseResult> {
    let mut results = run_rows(context, filter);
    for case in cases().filter(|case| case.name.contains(filter)) {
        let started = Instant::now();
        let verdict = verdict_of((case.check)(context));
        results.push(CaseResult {
            name: case.name,
            class: case.class,
            verdict,
            took: started.elapsed(),
        });
    }
    results
}

/// The name of every case in the order in which they run.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter()
        .map(|row| row.name)
        .chain(cases().map(|case| case.name))
}

fn cases() -> impl Iterator<Item = &'static Case> {
    let groups: [&[Case]; 7] = [
        health::CASES,
        limits::CASES,
        events::CASES,
        device::CASES,
        ingest::CASES,
        outage::CASES,
        lifecycle::CASES,
    ];
    groups.into_iter().flatten()
}

/// Runs the table rows against one launch; if that fails, the first row says why.
fn run_rows(context: &Context<'_>, filter: &str) -> Vec<CaseResult> {
    let rows: Vec<&Row> = ROWS
        .iter()
        .filter(|row| row.name.contains(filter))
        .collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let scene = Scene::start(context, &[]).map_err(|error| format!("{error:#}"));
    rows.into_iter()
        .enumerate()
        .map(|(n, row)| {
            let started = Instant::now();
            let verdict = match &scene {
                Ok(scene) => verdict_of(row.check(scene)),
                Err(reason) if n == 0 => Verdict::Failed(reason.clone()),
                Err(_) => Verdict::Skipped("the subject did not start".to_owned()),
            };
            CaseResult {
                name: row.name,
                class: Class::Required,
                verdict,
                took: started.elapsed(),
            }
        })
        .collect()
}

fn verdict_of(outcome: anyhow::Result<()>) -> Verdict {
    match outcome {
        Ok(()) => Verdict::Passed,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => Verdict::Skipped(reason.clone()),
            None => Verdict::Failed(format!("{error:#}")),
        },
    }
}

/// The results as text: one line per case, and a last line with the counts.
#[must_use]
pub fn text(subject: &str, results: &[CaseResult]) -> String {
    let mut lines: Vec<String> = results.iter().map(line).collect();
    let count = |wanted: fn(&Verdict) -> bool| {
        results
            .iter()
            .filter(|result| wanted(&result.verdict))
            .count()
    };
    let passed = count(|verdict| matches!(verdict, Verdict::Passed));
    let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
    let skipped = count(|verdict| matches!(verdict, Verdict::Skipped(_)));
    lines.push(format!(
        "{subject}: {passed} passed, {failed} failed, {skipped} skipped"
    ));
    lines.join("\n") + "\n"
}

fn line(result: &CaseResult) -> String {
    let (mark, reason) = match &result.verdict {
        Verdict::Passed => ("✓", String::new()),
        Verdict::Failed(reason) => ("✗", format!("\n    {}", reason.replace('\n', "\n    "))),
        Verdict::Skipped(reason) => ("–", format!(" (skipped: {reason})")),
    };
    let class = match result.class {
        Class::Required => "",
        Class::Hardening => " [hardening]",
    };
    let milliseconds = result.took.as_millis();
    format!("{mark} {}{class} {milliseconds} ms{reason}", result.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let all: Vec<_> = names().collect();
        let distinct: BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(all.len() > 50, "{}", all.len());
    }

    #[test]
    fn a_failure_stands_below_its_case() {
        let result = |verdict, class| CaseResult {
            name: "water is wet",
            class,
            verdict,
            took: Duration::from_millis(12),
        };
        let results = [
            result(Verdict::Passed, Class::Required),
            result(Verdict::Failed("it is\ndry".to_owned()), Class::Hardening),
            result(Verdict::Skipped("no water".to_owned()), Class::Required),
        ];
        assert_eq!(
            text("sea", &results),
            "✓ water is wet 12 ms\n\
             ✗ water is wet [hardening] 12 ms\n    it is\n    dry\n\
             – water is wet 12 ms (skipped: no water)\n\
             sea: 1 passed, 1 failed, 1 skipped\n"
        );
    }
}
