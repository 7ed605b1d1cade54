//! The order of a verification: `broker → build → suite* → judge`.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use super::{RunError, build, lanes};
use crate::broker::{self, Broker};
use crate::host;
use crate::subject::{self, BuiltSubject};
use crate::verify::{self, CaseResult};

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Subjects; none for the default ones.
    pub subjects: Vec<String>,
    /// Only cases whose name contains this text.
    pub case: String,
    /// Subjects under test at once, each on a broker of its own.
    pub lanes: u32,
    /// Whether a broker that was not started here may be emptied.
    pub purge: bool,
}

/// The results of one subject, by its name.
pub type Suite = (String, Vec<CaseResult>);

/// Runs the black-box suite against each subject and judges it; `told` hears of each that is done.
///
/// The suites stand in the order of the subjects, whichever was done first; after `interrupt` those
/// that were not begun are missing.
///
/// # Errors
/// [`RunError`] if it could not begin or the broker was lost.
pub fn verify(
    options: &VerifyOptions,
    interrupt: &AtomicBool,
    told: impl Fn(&Suite) + Sync,
) -> Result<Vec<Suite>, RunError> {
    let root = host::workspace();
    let all = subject::read_all(&root.join("bench/subjects"))?;
    let subjects = subject::select(&all, &options.subjects)?;
    let broker_options = broker::Options {
        purge: options.purge,
        ..broker::Options::from_environment(root.clone())
    };
    let built = build(&subjects, &root, interrupt)?;
    let jobs: Vec<&BuiltSubject> = built.iter().collect();
    let mut brokers = lanes::brokers(options.lanes, &broker_options, broker::acquire)?;
    let base = std::env::temp_dir().join(format!("threeways-{}", std::process::id()));
    let done = Mutex::new(Vec::new());
    let worked = lanes::work(&mut brokers, &jobs, interrupt, |broker, place, subject| {
        let suite = suite(broker, subject, &options.case, &base)?;
        told(&suite);
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push((place, suite));
        Ok(())
    });
    brokers.into_iter().for_each(Broker::stop);
    super::remove(&base);
    worked?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, suite)| suite).collect())
}

/// All cases against one subject.
fn suite(
    broker: &mut Broker,
    built: &BuiltSubject,
    filter: &str,
    base: &Path,
) -> Result<Suite, RunError> {
    let subject = &built.subject;
    let scratch = base.join(&subject.name);
    let machine = |error| RunError::Machine(format!("cannot make {}", scratch.display()), error);
    std::fs::create_dir_all(&scratch).map_err(machine)?;
    let target = verify::Target {
        name: subject.name.clone(),
        executable: built.executable.clone(),
        args: subject.args.clone(),
        scratch: scratch.clone(),
    };
    let results = verify::run(&mut verify::Context { target, broker }, filter);
    Ok((
        subject.name.clone(),
        verify::judge(results, &subject.deviations),
    ))
}
