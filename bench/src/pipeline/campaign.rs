//! The order of a fault campaign:
//! `broker → build → (repetition → write)* → report`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use contract::QueueType;

use super::lanes;
use super::plan;
use super::progress::Progress;
use super::{
    RunEnd, RunError, RunReport, build, raise_open_files, remove, results_folder, write_report,
};
use crate::broker::{self, Broker, Origin};
use crate::faults::{self, Fault, Ground, Repetition};
use crate::profile::ProfileName;
use crate::random::SplitMix;
use crate::record::Manifest;
use crate::run_dir::{RunDir, RunDirError};
use crate::subject::{self, BuiltSubject, Subject};
use crate::{host, report};

/// Attempts at a repetition on a broker that falls ill.
const ATTEMPTS: u32 = 3;

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
    /// Repetitions under way at once, each on a broker of its own.
    pub lanes: u32,
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
    let out = results_folder(options.out.as_deref(), &root)?;
    raise_open_files()?;
    let built = build(&subjects, &root, interrupt)?;
    let broker_options = broker::Options {
        purge: options.purge,
        ..broker::Options::from_environment(root.clone())
    };
    let mut brokers = lanes::brokers(options.lanes, &broker_options, own_broker)?;
    for broker in &brokers {
        broker.reset(QueueType::Quorum)?;
    }
    let seed = options.seed.unwrap_or_else(plan::seed_of_the_clock);
    let repetitions = options
        .repetitions
        .unwrap_or_else(|| repetitions(options.profile));
    let slots = slots(&faults, &built, repetitions, seed);
    let profile = options.profile.profile();
    let mut manifest = plan::manifest(&profile, seed, &root, &[], &built, &[]);
    manifest.run_id = format!("{}-{}", manifest.run_id, faults::NAME);
    manifest.broker = brokers[0].facts.clone();
    manifest.lanes = options.lanes;
    manifest.order = (0..repetitions)
        .map(|number| order(&slots, number))
        .collect();
    let run = RunDir::create(&out, &manifest.run_id)?;
    run.write_manifest(&manifest)?;
    run.write_file(faults::FILE, b"")?;
    let started = Instant::now();
    let log = Log::new(&run, slots.len());
    let performed = perform_all(
        &mut brokers,
        &slots,
        &log,
        &broker_options,
        (seed, interrupt),
    );
    brokers.into_iter().for_each(Broker::stop);
    let done = log.finish();
    manifest.interrupted = performed.is_err() || interrupt.load(Ordering::Relaxed);
    manifest.elapsed_s = started.elapsed().as_secs_f64();
    run.write_manifest(&manifest)?;
    write_report(&run)?;
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
        // It cannot be installed: whatever `acquire` finds, some faults may be skipped then.
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

/// What the lanes share.
struct Log<'a> {
    run: &'a RunDir,
    progress: Mutex<Progress>,
    /// With their places in the plan, since lanes end in any order.
    done: Mutex<Vec<(usize, Repetition)>>,
}

impl<'a> Log<'a> {
    fn new(run: &'a RunDir, slots: usize) -> Self {
        Self {
            run,
            progress: Mutex::new(Progress::new(slots)),
            done: Mutex::default(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a repetition down at once, in its place of the plan.
    fn keep(&self, place: usize, repetition: Repetition) -> Result<(), RunDirError> {
        let (fault, subject) = (&repetition.fault, &repetition.subject);
        if let Some(reason) = &repetition.invalid {
            self.progress()
                .warn(&format!("{fault} {subject}: {reason}"));
        } else if repetition.is_faulty() {
            let line = report::faults::line(&repetition);
            self.progress().warn(&format!("{fault} {subject}: {line}"));
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push((place, repetition));
        done.sort_by_key(|(place, _)| *place);
        let all: Vec<Repetition> = done.iter().map(|(_, it)| it.clone()).collect();
        self.run
            .write_file(faults::FILE, faults::lines(&all).as_bytes())
    }

    fn finish(self) -> Vec<Repetition> {
        self.progress().finish();
        let done = self.done.into_inner();
        let done = done.unwrap_or_else(PoisonError::into_inner);
        done.into_iter().map(|(_, repetition)| repetition).collect()
    }
}

/// Every repetition, each by the lane that is free first.
fn perform_all(
    brokers: &mut [Broker],
    slots: &[Slot<'_>],
    log: &Log<'_>,
    options: &broker::Options,
    (seed, interrupt): (u64, &AtomicBool),
) -> Result<(), RunError> {
    let base = std::env::temp_dir().join(format!("threeways-faults-{}", std::process::id()));
    let performed = lanes::work(brokers, slots, interrupt, |broker, place, slot| {
        let (fault, subject, round) = (slot.fault.name, slot.subject, slot.repetition);
        let name = &subject.subject.name;
        let title = format!("repetition {round} {fault} {name}");
        log.progress().next(&title);
        let scratch = base.join(place.to_string());
        let machine = |error| RunError::Machine(format!("cannot use {}", scratch.display()), error);
        std::fs::create_dir_all(&scratch).map_err(machine)?;
        for _ in 0..ATTEMPTS {
            let mut ground = Ground {
                broker: &mut *broker,
                scratch: &scratch,
                interrupt,
                seed,
            };
            let performed = faults::perform(&mut ground, slot.fault, subject, round);
            let ill = mend(broker, options)?;
            let Some(mut repetition) = performed else {
                break;
            };
            repetition.invalid = ill.filter(|_| repetition.is_faulty());
            let is_invalid = repetition.invalid.is_some();
            log.keep(place, repetition)?;
            if !is_invalid {
                break;
            }
        }
        Ok(())
    });
    remove(&base);
    performed
}

/// Leaves a broker that works and whose queues are empty, and says what was wrong with it if it had to be replaced.
///
/// A repetition that was given up in the middle may have left it killed. And RabbitMQ 3.10 may come
/// back from a SIGKILL with a quorum queue that never elects a leader ("leader call - leader not
/// known"), so that nobody can use the queue any more, neither a service nor we.
fn mend(broker: &mut Broker, options: &broker::Options) -> Result<Option<String>, broker::Error> {
    if broker.session().is_err() {
        broker.restart()?;
    }
    let Err(error) = broker.reset(QueueType::Quorum) else {
        return Ok(None);
    };
    if broker.origin() != Origin::PrivateNode {
        return Err(error);
    }
    *broker = broker::start_private(options)?;
    let error = anyhow::Error::from(error);
    Ok(Some(format!(
        "the broker was ill and was replaced: {error:#}"
    )))
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
