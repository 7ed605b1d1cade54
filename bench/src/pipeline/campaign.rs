//! The order of a fault campaign:
//! `broker → build → (repetition → write)* → report`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::plan;
use super::progress::Progress;
use super::{RunEnd, RunError, RunReport, build, write_report};
use crate::broker::{self, Broker};
use crate::faults::{self, Fault, Ground, Repetition};
use crate::load::SplitMix;
use crate::profile::ProfileName;
use crate::record::Manifest;
use crate::run_dir::RunDir;
use crate::subject::{self, BuiltSubject, Subject};
use crate::{host, report};

/// What to try.
#[derive(Debug, Clone)]
pub struct CampaignOptions {
    /// How thorough: decides the repetitions.
    pub profile: ProfileName,
    /// Faults; none for all.
    pub faults: Vec<String>,
    /// Subjects; none for the default ones.
    pub subjects: Vec<String>,
    /// Repetitions instead of the profile's number.
    pub repetitions: Option<u32>,
    /// Seed of the order; from the clock if none.
    pub seed: Option<u64>,
    /// Whether a broker that was not started here may be emptied.
    pub purge: bool,
    /// Parent of the run folder; `results` below the workspace if none.
    pub out: Option<std::path::PathBuf>,
}

/// One repetition of the plan.
#[derive(Debug, Clone, Copy)]
struct Slot<'a> {
    repetition: u32,
    fault: &'static Fault,
    subject: &'a BuiltSubject,
}

/// Causes every fault to every subject and reports; `interrupt` ends it after what was done.
///
/// # Errors
/// [`RunError`] if it could not begin; what was done before a later fault of the broker is kept,
/// marked and reported.
pub fn campaign(options: &CampaignOptions, interrupt: &AtomicBool) -> Result<RunReport, RunError> {
    let root = host::workspace();
    let faults = faults::select(&options.faults)?;
    let subjects = subject::read_all(&root.join("bench/subjects"))?;
    let subjects: Vec<Subject> = subject::select(&subjects, &options.subjects)?;
    let built = build(&subjects, &root, interrupt)?;
    let mut broker = own_broker(&broker::Options {
        purge: options.purge,
        ..broker::Options::from_environment(root.clone())
    })?;
    let seed = options.seed.unwrap_or_else(plan::seed_of_the_clock);
    let repetitions = options
        .repetitions
        .unwrap_or_else(|| repetitions(options.profile));
    let slots = slots(&faults, &built, repetitions, seed);
    let profile = options.profile.profile();
    let mut manifest = plan::manifest(&profile, seed, &root, &[], &built, &[]);
    manifest.run_id = format!("{}-{}", manifest.run_id, faults::NAME);
    manifest.broker = broker.facts.clone();
    manifest.order = (0..repetitions)
        .map(|number| order(&slots, number))
        .collect();
    let out = options.out.clone().unwrap_or_else(|| root.join("results"));
    let run = RunDir::create(&out, &manifest.run_id)?;
    run.write_manifest(&manifest)?;
    run.write_file(faults::FILE, b"")?;
    let mut done = Vec::new();
    let performed = perform_all(&mut broker, &slots, (&run, seed, interrupt), &mut done);
    broker.stop();
    manifest.interrupted = performed.is_err() || interrupt.load(Ordering::Relaxed);
    manifest.elapsed_s = done.iter().map(|(_, took_s)| took_s).sum();
    run.write_manifest(&manifest)?;
    write_report(&run)?;
    let done: Vec<Repetition> = done.into_iter().map(|(repetition, _)| repetition).collect();
    match performed {
        Ok(()) => Ok(conclude(&run, &manifest, &done)),
        Err(source) => Err(RunError::Partial {
            folder: run.path().to_owned(),
            source: Box::new(source),
        }),
    }
}

/// A node that nobody else uses, if the user named no broker: the campaign kills it.
fn own_broker(options: &broker::Options) -> Result<Broker, broker::Error> {
    if options.url.is_some() {
        return broker::acquire(options);
    }
    match broker::start_private(options) {
        // Not installed: whatever `acquire` finds or installs, some faults may be skipped then.
        Err(broker::Error::Unavailable { .. }) => broker::acquire(options),
        started => started,
    }
}

/// Repetitions in a profile.
fn repetitions(profile: ProfileName) -> u32 {
    match profile {
        ProfileName::Smoke => 1,
        ProfileName::Standard => 5,
        ProfileName::Full => 20,
    }
}

/// The repetitions in order; the order of the subjects is shuffled anew for each fault.
fn slots<'a>(
    faults: &[&'static Fault],
    subjects: &'a [BuiltSubject],
    repetitions: u32,
    seed: u64,
) -> Vec<Slot<'a>> {
    let mut random = SplitMix(seed);
    let mut slots = Vec::new();
    for repetition in 0..repetitions {
        for fault in faults {
            let mut order: Vec<_> = subjects.iter().collect();
            random.shuffle(&mut order);
            slots.extend(order.into_iter().map(|subject| Slot {
                repetition,
                fault,
                subject,
            }));
        }
    }
    slots
}

fn order(slots: &[Slot<'_>], repetition: u32) -> Vec<String> {
    slots
        .iter()
        .filter(|slot| slot.repetition == repetition)
        .map(|slot| format!("{} {}", slot.fault.name, slot.subject.subject.name))
        .collect()
}

/// Every repetition in its order, with the seconds that it took; written after each.
fn perform_all(
    broker: &mut Broker,
    slots: &[Slot<'_>],
    (run, seed, interrupt): (&RunDir, u64, &AtomicBool),
    done: &mut Vec<(Repetition, f64)>,
) -> Result<(), RunError> {
    let scratch = std::env::temp_dir().join(format!("threeways-faults-{}", std::process::id()));
    let machine = |error| RunError::Machine(format!("cannot use {}", scratch.display()), error);
    std::fs::create_dir_all(&scratch).map_err(machine)?;
    let progress = Progress::new(slots.len());
    for slot in slots {
        if interrupt.load(Ordering::Relaxed) {
            break;
        }
        let name = &slot.subject.subject.name;
        let round = slot.repetition;
        progress.next(&format!("repetition {round} {} {name}", slot.fault.name));
        let started = Instant::now();
        let mut ground = Ground {
            broker: &mut *broker,
            scratch: &scratch,
            interrupt,
            seed,
        };
        let performed = faults::perform(&mut ground, slot.fault, slot.subject, round);
        mend(broker)?;
        let Some(repetition) = performed else { break };
        if repetition.is_faulty() {
            let line = report::faults::line(&repetition);
            progress.warn(&format!("{} {name}: {line}", slot.fault.name));
        }
        done.push((repetition, started.elapsed().as_secs_f64()));
        let all: Vec<Repetition> = done.iter().map(|(it, _)| it.clone()).collect();
        run.write_file(faults::FILE, faults::lines(&all).as_bytes())?;
    }
    progress.finish();
    remove(&scratch);
    Ok(())
}

/// A repetition that was given up in the middle may have left the broker killed.
fn mend(broker: &mut Broker) -> Result<(), broker::Error> {
    match broker.session() {
        Ok(_) => Ok(()),
        Err(_) => broker.restart(),
    }
}

fn remove(scratch: &Path) {
    if let Err(error) = std::fs::remove_dir_all(scratch) {
        log::warn!("cannot remove {}: {error}", scratch.display());
    }
}

fn conclude(run: &RunDir, manifest: &Manifest, done: &[Repetition]) -> RunReport {
    let end = if manifest.interrupted {
        RunEnd::Interrupted
    } else if done.iter().any(Repetition::is_faulty) {
        RunEnd::Faulty
    } else {
        RunEnd::Complete
    };
    let answer = report::faults::answer(manifest, done).join("\n");
    RunReport {
        folder: run.path().to_owned(),
        end,
        text: format!("{answer}\n"),
    }
}
