//! The order of a run, and the only module that knows it.
//!
//! `broker → build → quiet → ceiling → (launch → verify → load ∥ sample → stop → write)* → analyse → report`.

mod campaign;
mod capacity;
mod ceilings;
mod doctor;
mod inquiry;
mod lanes;
mod measurement;
mod plan;
mod progress;
mod reading;
mod resolution;
mod slot;
mod verification;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use contract::amqp::{DEAD_LETTER_QUEUE, INGEST_QUEUE};

use crate::analyse::Summary;
use crate::analyse::objective::Objective;
use crate::broker::{self, Broker, Room};
use crate::calibrate;
use crate::device::Simulator;
use crate::launch::LaunchError;
use crate::profile::ProfileName;
use crate::record::{Layout, Manifest};
use crate::run_dir::{RunDir, RunDirError};
use crate::scenario::{self, Cell, DefinitionError};
use crate::subject::{self, BuildError, BuiltSubject, Subject};
use crate::{host, report};

pub use campaign::{CampaignOptions, campaign};
pub use capacity::{CapacityOptions, capacity};
pub use doctor::{DoctorOptions, doctor};
use measurement::{Bench, Sampling, Task};
use plan::Slot;
use progress::{Progress, Step};
use reading::read_last;
pub use reading::{read_run, write_report};
pub use resolution::{ResolveOptions, resolve};
pub use verification::{Suite, VerifyOptions, verify};

/// Wait of the device simulator before each answer.
const DEVICE_LATENCY: Duration = Duration::from_millis(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// How thorough.
    pub profile: ProfileName,
    /// Scenarios; none for the default ones.
    pub scenarios: Vec<String>,
    /// Subjects; none for the default ones.
    pub subjects: Vec<String>,
    /// Layout instead of the scenarios' own; one for the whole run, because the broker is pinned once.
    pub layout: Option<Layout>,
    /// Blocks instead of the profile's number.
    pub blocks: Option<u32>,
    /// Seed of orders, schedules and bootstrap; from the clock if none.
    pub seed: Option<u64>,
    /// Whether a broker that was not started here may be emptied.
    pub purge: bool,
    /// What is demanded of the figures.
    pub objectives: Vec<Objective>,
    /// Parent of the run folder; `results` below the workspace if none.
    pub out: Option<PathBuf>,
}

/// What a run ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Every launch was made, and no subject was at fault; the report tells which launches the
    /// host or the generator has spoilt.
    Complete,
    /// In at least one launch the subject itself was wrong.
    Faulty,
    /// No subject was at fault, but an objective was not held.
    Missed,
    /// Ctrl-C, or a fault that ended the run early.
    Interrupted,
}

/// A finished run.
#[derive(Debug)]
pub struct RunReport {
    /// Its folder.
    pub folder: PathBuf,
    /// How it ended.
    pub end: RunEnd,
    /// The answer and the validity, as text to print.
    pub text: String,
}

/// Why there is no run at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file or a name is wrong.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A subject does not build.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No broker.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// The run folder.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The run ended early; what was measured is kept, marked and reported.
    #[error("the run ended early; what was measured until then is in {}", folder.display())]
    Partial {
        /// Run folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: Box<RunError>,
    },
    /// Ctrl-C before the first launch.
    #[error("interrupted before the first launch; there is nothing to keep")]
    Interrupted,
    /// A subject did not come up; it would not in any later launch either.
    #[error("a subject cannot be measured")]
    Launch(#[from] LaunchError),
    /// The ceiling of the generator cannot be measured.
    #[error("the ceiling of the generator cannot be measured")]
    Ceiling(#[from] calibrate::CalibrateError),
    /// Something of the machine.
    #[error("{0}")]
    Machine(String, #[source] std::io::Error),
}

/// The cells and subjects that the options name.
///
/// # Errors
/// [`RunError::Definition`] for a wrong file or an unknown name.
pub fn choose(options: &RunOptions, root: &Path) -> Result<(Vec<Cell>, Vec<Subject>), RunError> {
    let scenarios = scenario::read_all(&root.join("bench/scenarios"))?;
    let chosen = scenario::select(scenarios, &options.scenarios)?;
    let in_layout = |cell: Cell| match options.layout {
        Some(layout) => cell.in_layout(layout),
        None => cell,
    };
    let cells = chosen
        .iter()
        .flat_map(|scenario| scenario.cells(options.profile))
        .map(in_layout)
        .collect();
    let subjects = subject::read_all(&root.join("bench/subjects"))?;
    let subjects = subject::select(&subjects, &options.subjects)?;
    Ok((cells, subjects))
}

fn texts(objectives: &[Objective]) -> Vec<String> {
    objectives.iter().map(|it| it.text.clone()).collect()
}

/// An objective whose scope names nothing of this run would never be judged.
fn check_scopes(
    objectives: &[Objective],
    cells: &[Cell],
    subjects: &[Subject],
) -> Result<(), DefinitionError> {
    let scenarios = cells.iter().map(|cell| cell.scenario.name.as_str());
    let mut known: Vec<&str> = scenarios
        .chain(cells.iter().map(|cell| cell.name.as_str()))
        .chain(subjects.iter().map(|subject| subject.name.as_str()))
        .collect();
    known.sort_unstable();
    known.dedup();
    let scopes = objectives.iter().filter_map(|it| it.scope.as_deref());
    match scopes.into_iter().find(|scope| !known.contains(scope)) {
        None => Ok(()),
        Some(scope) => Err(DefinitionError::Unknown {
            what: "scope of --slo (a scenario, cell or subject of this run)",
            name: scope.to_owned(),
            known: known.join(", "),
        }),
    }
}

/// Runs everything and reports; `interrupt` ends it after the current launch is given up.
///
/// # Errors
/// [`RunError`] if it could not begin; what was measured before a later fault is kept, marked
/// and reported.
pub fn run(options: &RunOptions, interrupt: &Arc<AtomicBool>) -> Result<RunReport, RunError> {
    let root = host::workspace();
    let (cells, subjects) = choose(options, &root)?;
    check_scopes(&options.objectives, &cells, &subjects)?;
    let out = results_folder(options.out.as_deref(), &root)?;
    raise_open_files()?;
    let broker_options = broker::Options {
        purge: options.purge,
        ..broker::Options::from_environment(root.clone())
    };
    let mut broker = broker::acquire(&broker_options)?;
    pin_broker(&mut broker, &cells)?;
    let visit = Visit::begin(&broker)?;
    let mut built = build(&subjects, &root, interrupt)?;
    let wants_twin = |cell: &Cell| cell.scenario.twin;
    if let Some(first) = built.first().filter(|_| cells.iter().any(wants_twin)) {
        built.push(first.twin());
    }
    let device = start_device()?;
    let seed = options.seed.unwrap_or_else(plan::seed_of_the_clock);
    let profile = options.profile.profile();
    let slots = plan::slots(
        &cells,
        &built,
        options.blocks.unwrap_or(profile.blocks),
        seed,
    );
    let mut manifest = plan::manifest(&profile, seed, &root, &cells, &built, &slots);
    manifest.broker = broker.facts.clone();
    manifest.objectives = texts(&options.objectives);
    let run = RunDir::create(&out, &manifest.run_id)?;
    run.write_manifest(&manifest)?;
    let rooms = rooms(&broker, &cells, built.len())?;
    let groups = plan::groups(&slots, !rooms.is_empty());
    let mut bench = Bench {
        rooms,
        broker: &mut broker,
        device: device.address(),
        profile: &profile,
        run: &run,
        seed,
        interrupt,
        progress: planned(&groups),
    };
    let measured = measure_ceilings(&bench, &cells, &mut manifest)
        .and_then(|()| measure_all(&mut bench, &groups, 0, &mut manifest));
    visit.end(&broker);
    broker.stop();
    end(&run, &mut manifest, measured)
}

/// Completes the manifest and reports, also on what was measured before a fault.
fn end(
    run: &RunDir,
    manifest: &mut Manifest,
    measured: Result<(), RunError>,
) -> Result<RunReport, RunError> {
    manifest.interrupted |= measured.is_err();
    run.write_manifest(manifest)?;
    let summary = write_report(run)?;
    match measured {
        Ok(()) => Ok(conclude(run, &summary)),
        Err(source) => Err(RunError::Partial {
            folder: run.path().to_owned(),
            source: Box::new(source),
        }),
    }
}

/// Parent of the run folder: `out`, or `results` below the workspace.
///
/// Asked for before anything is built or started, which may take minutes.
fn results_folder(out: Option<&Path>, root: &Path) -> Result<PathBuf, RunError> {
    let folder = out.map_or_else(|| root.join("results"), Path::to_owned);
    RunDir::check_parent(&folder)?;
    Ok(folder)
}

/// Lets this process, and the subjects that it starts, open as many files as may be.
fn raise_open_files() -> Result<(), RunError> {
    let failed = |error| RunError::Machine("cannot raise the limit of open files".into(), error);
    host::raise_open_files().map_err(failed)
}

/// Leaves a broker that is not ours as it was: queues that were not there go with the run.
struct Visit {
    made_here: Vec<&'static str>,
}

impl Visit {
    fn begin(broker: &Broker) -> Result<Self, RunError> {
        let mut made_here = Vec::new();
        if !broker.is_ours() {
            let mut session = broker.session().map_err(broker::Error::from)?;
            for queue in [INGEST_QUEUE, DEAD_LETTER_QUEUE] {
                let depth = session.depth(queue).map_err(broker::Error::from)?;
                if depth.is_none() {
                    made_here.push(queue);
                }
            }
        }
        Ok(Self { made_here })
    }

    fn end(self, broker: &Broker) {
        let remove = || {
            let mut session = broker.session()?;
            self.made_here
                .iter()
                .try_for_each(|queue| session.delete_queue(queue))
        };
        if !self.made_here.is_empty()
            && let Err(error) = remove()
        {
            log::warn!("cannot delete {}: {error}", self.made_here.join(", "));
        }
    }
}

/// The broker shares the generator's core if any cell leaves the subject a core of its own.
fn pin_broker(broker: &mut Broker, cells: &[Cell]) -> Result<(), RunError> {
    let isolated = cells
        .iter()
        .any(|cell| cell.scenario.layout == Layout::Isolated);
    if isolated && let Some(cpu) = host::instrument_cpu(Layout::Isolated) {
        let pinned = broker.pin(&[cpu])?;
        if !pinned {
            log::warn!("the broker is not ours: it may use the subject's core");
        }
    }
    Ok(())
}

fn build(
    subjects: &[Subject],
    root: &Path,
    interrupt: &AtomicBool,
) -> Result<Vec<BuiltSubject>, RunError> {
    let spinner = progress::building(subjects.len());
    let built = subjects
        .iter()
        .map(|subject| {
            spinner.next(&subject.name);
            let built = subject.build(root);
            // Ctrl-C reaches cargo, too: its failure is no defect of the package.
            if interrupt.load(Ordering::Relaxed) {
                return Err(RunError::Interrupted);
            }
            Ok(built?)
        })
        .collect::<Result<_, _>>()?;
    spinner.finish();
    Ok(built)
}

/// Removes a folder of temporary files.
fn remove(scratch: &Path) {
    if let Err(error) = std::fs::remove_dir_all(scratch) {
        log::warn!("cannot remove {}: {error}", scratch.display());
    }
}

fn start_device() -> Result<Simulator, RunError> {
    let cpu = host::instrument_cpu(Layout::Isolated).map(|cpu| vec![cpu]);
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    host::with_cpus(cpu.as_deref(), || Simulator::start(address, DEVICE_LATENCY))
        .and_then(|started| started)
        .map_err(|error| RunError::Machine("cannot start the device simulator".into(), error))
}

/// Waits for a quiet machine as long as the profile allows.
///
/// Before anything of ours has run: the kernel's pressure would tell of that as well for a while.
fn await_quiet(bench: &Bench<'_>) {
    let broker = bench.broker.pids();
    let limit = Duration::from_secs_f64(bench.profile.quiet_wait_s);
    if let Some(noise) = host::wait_until_quiet(limit, &broker, bench.interrupt) {
        log::warn!("{noise}; launches that it disturbs will say so");
    }
}

/// What the generator can do at all in the layouts of the cells.
fn measure_ceilings(
    bench: &Bench<'_>,
    cells: &[Cell],
    manifest: &mut Manifest,
) -> Result<(), RunError> {
    await_quiet(bench);
    manifest.ceiling_per_s = ceilings::measure(cells, bench.interrupt)?;
    bench.run.write_manifest(manifest)?;
    Ok(())
}

/// The display of launches whose lengths are known about.
fn planned(groups: &[&[Slot<'_>]]) -> Rc<Progress> {
    let steps = groups.iter().map(|it| Step::of(it[0].cell, it.len()));
    Rc::new(Progress::planned(steps.collect()))
}

/// Rooms for the subjects that take turns; none if nobody does, or if the broker has none.
fn rooms(broker: &Broker, cells: &[Cell], subjects: usize) -> Result<Vec<Room>, RunError> {
    let turns = cells.iter().find(|cell| cell.scenario.turns);
    let Some(cell) = turns.filter(|_| subjects > 1) else {
        return Ok(Vec::new());
    };
    let rooms = broker.rooms(subjects)?;
    if rooms.is_empty() {
        log::warn!(
            "the broker is no private node, so each subject of {} has the machine for itself \
             instead of taking turns: differences must be larger to be seen",
            cell.name
        );
    }
    Ok(rooms)
}

/// Every launch in its order, numbered from `first` on; the manifest says how far it came.
fn measure_all(
    bench: &mut Bench<'_>,
    groups: &[&[Slot<'_>]],
    first: usize,
    manifest: &mut Manifest,
) -> Result<(), RunError> {
    let (started, before_s) = (Instant::now(), manifest.elapsed_s);
    let mut ordinal = u32::try_from(first).unwrap_or(u32::MAX);
    for group in groups {
        if bench.interrupt.load(Ordering::Relaxed) {
            break;
        }
        let rooms = bench.rooms_for(group.len());
        let launches = group.iter().zip(&rooms);
        let tasks = launches.map(|(slot, room)| Task {
            ordinal: 0,
            block: slot.block,
            cell: slot.cell,
            subject: slot.subject,
            sampling: Sampling::Throughout,
            room,
        });
        let tasks: Vec<_> = tasks.collect();
        let filled = slot::fill(bench, &tasks, &mut ordinal);
        manifest.elapsed_s = before_s + started.elapsed().as_secs_f64();
        filled?;
    }
    manifest.interrupted |= bench.interrupt.load(Ordering::Relaxed);
    bench.progress.finish();
    Ok(())
}

/// Replaces the answer between the markers of a README.
///
/// # Errors
/// If the file cannot be read or written, or has no markers.
pub fn write_answer(readme: &Path, summary: &Summary) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(readme)
        .with_context(|| format!("cannot read {}", readme.display()))?;
    let text = report::with_answer(&text, summary).with_context(|| {
        let (begin, end) = (report::ANSWER_BEGIN, report::ANSWER_END);
        format!("{} has no lines `{begin}` and `{end}`", readme.display())
    })?;
    std::fs::write(readme, text).with_context(|| format!("cannot write {}", readme.display()))
}

fn conclude(run: &RunDir, summary: &Summary) -> RunReport {
    let validity = &summary.validity;
    let end = if validity.interrupted {
        RunEnd::Interrupted
    } else if validity.faulty > 0 {
        RunEnd::Faulty
    } else if summary.objectives.iter().any(|it| !it.is_met) {
        RunEnd::Missed
    } else {
        RunEnd::Complete
    };
    let mut text = report::answer::answer(summary).join("\n");
    text += "\n";
    if !validity.is_search_only() {
        text += &format!(
            "\n{} of {} planned launches are valid, {} disturbed, {} invalid.\n",
            validity.valid, validity.planned, validity.disturbed, validity.invalid
        );
    }
    for (gate, launches) in &validity.failed_gates {
        text += &format!("  {launches} × {gate}\n");
    }
    text += &report::objectives::text(summary);
    RunReport {
        folder: run.path().to_owned(),
        end,
        text,
    }
}
