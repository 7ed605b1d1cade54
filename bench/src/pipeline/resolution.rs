//! The order of a run that asks what can be told apart:
//! `broker → build → calibration → (launch under every name)* → report`.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::measurement::{Bench, Sampling, Task};
use super::plan::{self, Rows, Slot};
use super::progress::Progress;
use super::{
    RunEnd, RunError, RunReport, Visit, await_quiet, build, pin_broker, read_run, results_folder,
    slot, start_device, write_report,
};
use crate::analyse::resolution::Resolution;
use crate::broker::{self, Broker};
use crate::profile::{Profile, ProfileName};
use crate::random::SplitMix;
use crate::record::{Manifest, ResolutionFacts};
use crate::run_dir::RunDir;
use crate::scenario::{self, Cell};
use crate::subject::{self, BuiltSubject};
use crate::{host, report};

/// Scenario whose load is used.
const SCENARIO: &str = "steady-mixed";
/// Cell of the launch from which the handicap is computed.
const CALIBRATION: &str = "calibration";
/// CPU per operation of the slowed one over that of the subject.
const PLANTED_RATIO: f64 = 1.05;
/// Load before the window, in s.
const WARM_UP_S: f64 = 0.5;

/// What to launch how often.
#[derive(Debug, Clone)]
pub struct ResolveOptions {
    /// Subject.
    pub subject: String,
    /// Blocks.
    pub blocks: u32,
    /// Measured window of each launch in s.
    pub window_s: f64,
    /// Seed of orders, schedules and splits; from the clock if none.
    pub seed: Option<u64>,
    /// Whether a broker that was not started here may be emptied.
    pub purge: bool,
    /// Parent of the run folder; `results` below the workspace if none.
    pub out: Option<PathBuf>,
}

/// A name under which the subject is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// As it is.
    Plain,
    /// As it is, under a second name.
    Twin,
    /// With a handicap.
    Slowed,
    /// With the sampler at rest.
    Unsampled,
}

impl Variant {
    /// Everything that can be asked.
    const ALL: [Self; 4] = [Self::Plain, Self::Twin, Self::Slowed, Self::Unsampled];
    /// What the noise floor needs.
    pub(super) const TWINS: [Self; 2] = [Self::Plain, Self::Twin];

    fn of(self, built: &BuiltSubject) -> BuiltSubject {
        match self {
            Self::Plain => built.clone(),
            Self::Twin => built.twin(),
            Self::Slowed => built.again("slowed"),
            Self::Unsampled => built.again("unsampled"),
        }
    }

    fn sampling(self) -> Sampling {
        match self {
            Self::Unsampled => Sampling::Edges,
            Self::Plain | Self::Twin | Self::Slowed => Sampling::Throughout,
        }
    }
}

/// Launches one subject under every name in every block and tells what can be told apart.
///
/// # Errors
/// [`RunError`] if it could not begin; what was measured before a later fault is kept and reported.
pub fn resolve(
    options: &ResolveOptions,
    interrupt: &Arc<AtomicBool>,
) -> Result<RunReport, RunError> {
    let mut broker = broker::acquire(&broker::Options {
        purge: options.purge,
        ..broker::Options::from_environment(host::workspace())
    })?;
    let made = measure(&mut broker, options, &Variant::ALL, interrupt);
    broker.stop();
    let (run, interrupted, resolution) = made?;
    let holds = resolution.as_ref().is_some_and(Resolution::holds);
    Ok(RunReport {
        folder: run.path().to_owned(),
        end: match (interrupted, holds) {
            (true, _) => RunEnd::Interrupted,
            (false, true) => RunEnd::Complete,
            (false, false) => RunEnd::Faulty,
        },
        text: report::resolution::text(resolution.as_ref()),
    })
}

/// The run folder, whether it is partial, and what it says.
pub(super) type Made = (RunDir, bool, Option<Resolution>);

/// Launches the subject under these names, on this broker, and reports.
///
/// # Errors
/// See [`resolve`].
pub(super) fn measure(
    broker: &mut Broker,
    options: &ResolveOptions,
    variants: &[Variant],
    interrupt: &Arc<AtomicBool>,
) -> Result<Made, RunError> {
    let root = host::workspace();
    let subjects = subject::read_all(&root.join("bench/subjects"))?;
    let subjects = subject::select(&subjects, std::slice::from_ref(&options.subject))?;
    let cells = cells(&root, options.window_s)?;
    let out = results_folder(options.out.as_deref(), &root)?;
    pin_broker(broker, &cells)?;
    let visit = Visit::begin(broker)?;
    let built = build(&subjects, &root, interrupt)?.remove(0);
    let built: Vec<_> = variants.iter().map(|variant| variant.of(&built)).collect();
    let device = start_device()?;
    let seed = options.seed.unwrap_or_else(plan::seed_of_the_clock);
    let profile = ProfileName::Standard.profile();
    let turns = turns(variants.len(), options.blocks, seed);
    let rooms = super::rooms(broker, &cells, variants.len())?;
    let together = rooms.len().max(1);
    let mut manifest = manifest(&profile, seed, &root, &cells, variants, &built, &turns);
    manifest.broker = broker.facts.clone();
    let run = RunDir::create(&out, &manifest.run_id)?;
    run.write_manifest(&manifest)?;
    let mut series = Series {
        bench: Bench {
            broker,
            rooms,
            device: device.address(),
            profile: &profile,
            run: &run,
            seed,
            interrupt,
            // One more for the calibration.
            progress: Rc::new(Progress::new(turns.len() / together + 1)),
        },
        cells: &cells,
        together,
        ordinal: 0,
    };
    let measured = series.measure_all(variants, built, &turns, &mut manifest);
    visit.end(broker);
    manifest.interrupted |= measured.is_err() || interrupt.load(Ordering::Relaxed);
    run.write_manifest(&manifest)?;
    let summary = write_report(&run)?;
    match measured {
        Ok(()) => {
            let resolution = Resolution::of(&read_run(&run)?, &summary.launches);
            Ok((run, manifest.interrupted, resolution))
        }
        Err(source) => Err(RunError::Partial {
            folder: run.path().to_owned(),
            source: Box::new(source),
        }),
    }
}

/// The cell in which everything is compared, and the one of the calibration, of the same load.
fn cells(root: &Path, window_s: f64) -> Result<[Cell; 2], RunError> {
    let scenarios = scenario::read_all(&root.join("bench/scenarios"))?;
    let chosen = scenario::select(scenarios, &[SCENARIO.to_owned()])?;
    let mut cells = chosen[0].cells(ProfileName::Standard);
    let mut cell = cells.remove(0);
    cell.window_s = window_s;
    cell.warm_up_s = WARM_UP_S;
    let mut calibration = cell.clone();
    calibration.name = CALIBRATION.to_owned();
    Ok([cell, calibration])
}

/// One launch of the plan: its block, and its place among the variants.
type Turn = (u32, usize);

/// Every variant once in each block, in the order of a Williams square.
fn turns(variants: usize, blocks: u32, seed: u64) -> Vec<Turn> {
    let mut rows = Rows::new(variants, SplitMix(seed));
    let of = |block| rows.next().into_iter().map(move |place| (block, place));
    (0..blocks).flat_map(of).collect()
}

fn manifest(
    profile: &Profile,
    seed: u64,
    root: &Path,
    cells: &[Cell; 2],
    variants: &[Variant],
    built: &[BuiltSubject],
    turns: &[Turn],
) -> Manifest {
    let slot = |cell, &(block, variant): &Turn| Slot {
        block,
        cell,
        subject: &built[variant],
    };
    let calibration = variants
        .contains(&Variant::Slowed)
        .then(|| slot(&cells[1], &(0, 0)));
    let launches = turns.iter().map(|turn| slot(&cells[0], turn));
    let slots: Vec<_> = calibration.into_iter().chain(launches).collect();
    let mut manifest = plan::manifest(profile, seed, root, cells, built, &slots);
    let instant = manifest.run_id.split('-').next().unwrap_or_default();
    manifest.run_id = format!("{instant}-resolve");
    manifest.resolution = Some(facts(variants, built, &cells[0]));
    manifest
}

fn facts(variants: &[Variant], built: &[BuiltSubject], cell: &Cell) -> ResolutionFacts {
    let name = |wanted| {
        let place = variants.iter().position(|variant| *variant == wanted)?;
        Some(built[place].subject.name.clone())
    };
    ResolutionFacts {
        subject: name(Variant::Plain).unwrap_or_default(),
        twin: name(Variant::Twin).unwrap_or_default(),
        slowed: name(Variant::Slowed),
        unsampled: name(Variant::Unsampled),
        cell: cell.name.clone(),
        planted_ratio: PLANTED_RATIO,
        handicap_us_per_s: 0.0,
    }
}

/// The launches of a run.
struct Series<'a> {
    bench: Bench<'a>,
    cells: &'a [Cell; 2],
    /// Variants that take turns: all, or one without rooms.
    together: usize,
    ordinal: u32,
}

impl Series<'_> {
    fn measure_all(
        &mut self,
        variants: &[Variant],
        mut built: Vec<BuiltSubject>,
        turns: &[Turn],
        manifest: &mut Manifest,
    ) -> Result<(), RunError> {
        let started = Instant::now();
        await_quiet(&self.bench);
        let slowed = variants.iter().position(|it| *it == Variant::Slowed);
        if let Some(place) = slowed {
            let us_per_s = self.calibrate(&built[0])?;
            handicap(&mut built[place], us_per_s)?;
            if let Some(facts) = &mut manifest.resolution {
                facts.handicap_us_per_s = us_per_s;
            }
            self.bench.run.write_manifest(manifest)?;
        }
        for group in turns.chunks(self.together) {
            if self.bench.interrupt.load(Ordering::Relaxed) {
                break;
            }
            self.measure(variants, &built, group)?;
            manifest.elapsed_s = started.elapsed().as_secs_f64();
        }
        self.bench.progress.finish();
        Ok(())
    }

    fn measure(
        &mut self,
        variants: &[Variant],
        built: &[BuiltSubject],
        group: &[Turn],
    ) -> Result<(), RunError> {
        let rooms = self.bench.rooms_for(group.len());
        let task = |(&(block, variant), room): (&Turn, _)| Task {
            ordinal: 0,
            block,
            cell: &self.cells[0],
            subject: &built[variant],
            sampling: variants[variant].sampling(),
            room,
        };
        let tasks: Vec<_> = group.iter().zip(&rooms).map(task).collect();
        slot::fill(&mut self.bench, &tasks, &mut self.ordinal)?;
        Ok(())
    }

    /// CPU in µs per second by which the slowed one is to cost more.
    fn calibrate(&mut self, plain: &BuiltSubject) -> Result<f64, RunError> {
        let room = self.bench.broker.room();
        let task = Task {
            ordinal: 0,
            block: 0,
            cell: &self.cells[1],
            subject: plain,
            sampling: Sampling::Throughout,
            room: &room,
        };
        let data = slot::fill(&mut self.bench, &[task], &mut self.ordinal)?;
        let launch = &data[0].launch;
        let cpu_us = launch.resources.cpu_ns as f64 / 1e3;
        Ok((PLANTED_RATIO - 1.0) * cpu_us / launch.window_s.max(f64::MIN_POSITIVE))
    }
}

/// Puts this program between the launch and the service.
fn handicap(built: &mut BuiltSubject, us_per_s: f64) -> Result<(), RunError> {
    let own = std::env::current_exe()
        .map_err(|error| RunError::Machine("cannot find this program's own file".into(), error))?;
    let share = format!("--cpu-us-per-s={us_per_s:.0}");
    let own = own.to_string_lossy().into_owned();
    built.before = vec![own, "handicap".to_owned(), share, "--".to_owned()];
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_variant_stands_in_each_place_and_behind_each_other_one_equally_often() {
        for n in [2, 4] {
            let blocks = u32::try_from(n).expect("few");
            let turns = turns(n, blocks, 7);
            let rows: Vec<Vec<usize>> = turns
                .chunks(n)
                .map(|row| row.iter().map(|(_, variant)| *variant).collect())
                .collect();
            for place in 0..n {
                let there: BTreeSet<usize> = rows.iter().map(|row| row[place]).collect();
                assert_eq!(there.len(), n, "{rows:?}");
            }
            let behind: BTreeSet<_> = rows
                .iter()
                .flat_map(|row| row.windows(2).map(|pair| (pair[0], pair[1])))
                .collect();
            assert_eq!(behind.len(), n * (n - 1), "{rows:?}");
        }
    }

    #[test]
    fn the_order_follows_from_the_seed() {
        assert_eq!(turns(4, 12, 7), turns(4, 12, 7));
        assert_ne!(turns(4, 12, 7), turns(4, 12, 8));
    }
}
