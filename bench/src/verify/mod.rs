//! The black-box suite: what a subject must do, seen from outside only.
//!
//! Each case is one sentence with one function or one table row.
//! The rows share one launch; every other case launches the subject itself, because it needs
//! another environment or ends the subject.
//! Cases that wait for most of their time need no broker and run beside the others.

mod alarm;
mod aliases;
mod case;
mod crash;
mod crowds;
mod device;
mod drain;
mod events;
mod framing;
mod health;
mod ingest;
mod jobs;
mod junit;
mod latest;
mod lifecycle;
mod limits;
mod methods;
mod outage;
mod redelivery;
mod rows;
mod scene;
mod secrets;
mod series;
mod silence;
mod sink;
mod smuggling;
mod stalls;
mod table;
mod verdict;

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread::Scope,
    time::Instant,
};

use crate::broker::Broker;

use self::{
    case::{Case, Check, Skip},
    rows::Row,
    scene::Scene,
    table::ROWS,
};

pub use junit::document as junit;
pub use verdict::{CaseResult, Verdict, judge, text};

/// Cases that run beside the others at once: more would start so many subjects that the cases
/// which measure time noticed.
const LANES: usize = 4;

/// What is verified.
#[derive(Debug, Clone)]
pub struct Target {
    /// Name of the subject, for messages.
    pub name: String,
    /// Its executable.
    pub executable: PathBuf,
    /// Its arguments at every launch.
    pub args: Vec<String>,
    /// Folder for the subject's stderr and files; it must exist.
    pub scratch: PathBuf,
}

/// What the suite needs.
#[derive(Debug)]
pub struct Context<'a> {
    /// What is verified.
    pub target: Target,
    /// The broker; its queues are emptied, and a private node is disturbed and restarted.
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

impl Class {
    /// Name in lists.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Hardening => "hardening",
        }
    }
}

/// Runs every case whose name contains `filter` (all of them if it is empty); the results stand in
/// the order of [`names`].
#[must_use]
pub fn run(context: &mut Context<'_>, filter: &str) -> Vec<CaseResult> {
    let chosen = cases().filter(|case| case.name.contains(filter));
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for (place, case) in chosen.enumerate() {
        match case.check {
            Check::Beside(check) => beside.push((place, case, check)),
            Check::Alone(check) => alone.push((place, case, check)),
        }
    }
    let target = context.target.clone();
    let sleepers = Mutex::new(beside.into_iter());
    let mut placed = Vec::new();
    let mut results = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| spawn_lane(scope, &target, &sleepers))
            .collect();
        let results = run_rows(context, filter);
        for (place, case, check) in alone {
            placed.push((place, timed(case, || check(context))));
        }
        for lane in lanes {
            let done = lane.join();
            placed.extend(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
    placed.sort_by_key(|(place, _)| *place);
    results.extend(placed.into_iter().map(|(_, result)| result));
    results
}

/// A case with its place in the order and its check.
type Sleeper = (usize, &'static Case, fn(&Target) -> anyhow::Result<()>);

/// A thread that runs one sleeper after another until none is left.
fn spawn_lane<'scope>(
    scope: &'scope Scope<'scope, '_>,
    target: &'scope Target,
    sleepers: &'scope Mutex<std::vec::IntoIter<Sleeper>>,
) -> std::thread::ScopedJoinHandle<'scope, Vec<(usize, CaseResult)>> {
    let next = move || {
        let mut sleepers = sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers.next()
    };
    scope.spawn(move || {
        let mut done = Vec::new();
        while let Some((place, case, check)) = next() {
            done.push((place, timed(case, || check(target))));
        }
        done
    })
}

fn timed(case: &Case, check: impl FnOnce() -> anyhow::Result<()>) -> CaseResult {
    let started = Instant::now();
    let verdict = verdict_of(check());
    CaseResult {
        name: case.name,
        class: case.class,
        verdict,
        took: started.elapsed(),
    }
}

/// The name and class of every case in their order.
pub fn names() -> impl Iterator<Item = (&'static str, Class)> {
    ROWS.iter()
        .map(|row| (row.name, Class::Required))
        .chain(cases().map(|case| (case.name, case.class)))
}

fn cases() -> impl Iterator<Item = &'static Case> {
    let groups: [&[Case]; 23] = [
        // First those that sleep longest.
        stalls::CASES,
        health::CASES,
        methods::CASES,
        limits::CASES,
        framing::CASES,
        smuggling::CASES,
        aliases::CASES,
        secrets::CASES,
        crowds::CASES,
        latest::CASES,
        series::CASES,
        jobs::CASES,
        events::CASES,
        device::CASES,
        ingest::CASES,
        redelivery::CASES,
        sink::CASES,
        lifecycle::CASES,
        drain::CASES,
        crash::CASES,
        silence::CASES,
        alarm::CASES,
        outage::CASES,
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;
    use crate::subject;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let distinct: BTreeMap<_, _> = names().collect();
        assert_eq!(distinct.len(), names().count());
        assert!(distinct.len() > 120, "{}", distinct.len());
    }

    #[test]
    fn every_declared_deviation_is_one_of_a_hardening_case() {
        let classes: BTreeMap<_, _> = names().collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("subjects");
        for subject in subject::read_all(&folder).expect("the files are valid") {
            for deviation in &subject.deviations {
                let class = classes.get(deviation.case.as_str());
                let name = (&subject.name, &deviation.case);
                assert_eq!(class, Some(&Class::Hardening), "{name:?}");
            }
        }
    }
}
