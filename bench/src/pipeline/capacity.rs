//! The order of a search for capacities:
//! `broker → build → quiet → ceiling → (probe → judge)* → (rung of the cost ladder)* → report`.
//!
//! A probe is a fresh launch with one window. One launch with a window for each rate would be
//! quicker, but what an overload leaves behind (grown pools, full queues, a fragmented heap) would
//! be measured with the next rate; and the unit of replication is the launch.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::measurement::{self, Bench, Sampling, Task};
use super::progress::Progress;
use super::{
    RunError, RunReport, Visit, await_quiet, build, ceilings, end, measure_all, pin_broker, plan,
    planned, raise_open_files, read_last, results_folder, start_device,
};
use crate::analyse::capacity::{Bisection, CapacitySummary, Probe, operations_needed};
use crate::analyse::gates::MOST_OF_CEILING;
use crate::analyse::{analyse, gates};
use crate::broker;
use crate::host;
use crate::profile::ProfileName;
use crate::random::SplitMix;
use crate::record::{Ladder, Layout, Manifest, SearchFacts};
use crate::run_dir::{RunDir, RunDirError};
use crate::scenario::{self, ArrivalKind, Cell};
use crate::subject::{self, BuiltSubject};

/// Scenario of the probes.
const SCENARIO: &str = "capacity";
/// Scenario of the rungs.
const COST: &str = "cost";
/// Rungs of the cost ladder, in percent of the slowest subject's capacity.
const RUNGS: [u32; 4] = [10, 25, 50, 75];
/// Fresh launches that must hold at the rate that was found.
const CONFIRMATIONS: u32 = 3;
/// About how many probes a subject takes, for the display alone.
const USUAL_PROBES: usize = 20;

/// What to search for.
#[derive(Debug, Clone)]
pub struct CapacityOptions {
    /// How thorough: decides the windows, and the blocks of the ladder.
    pub profile: ProfileName,
    /// Subjects; none for the default ones.
    pub subjects: Vec<String>,
    /// Longest response time at the quantile.
    pub slo: Duration,
    /// Quantile of the objective, in `(0, 1)`.
    pub quantile: f64,
    /// Layout; the scenario's if none.
    pub layout: Option<Layout>,
    /// Whether to leave the cost ladder out.
    pub search_only: bool,
    /// Blocks of the ladder instead of the profile's number.
    pub blocks: Option<u32>,
    /// Seed of orders, schedules and bootstrap; from the clock if none.
    pub seed: Option<u64>,
    /// Whether a broker that was not started here may be emptied.
    pub purge: bool,
    /// Parent of the run folder; `results` below the workspace if none.
    pub out: Option<PathBuf>,
}

/// Searches the capacity of every subject, climbs the cost ladder, and reports; `interrupt` ends it
/// after the current launch is given up.
///
/// # Errors
/// [`RunError`] if it could not begin; what was measured before a later fault is kept, marked
/// and reported.
pub fn capacity(
    options: &CapacityOptions,
    interrupt: &Arc<AtomicBool>,
) -> Result<RunReport, RunError> {
    let root = host::workspace();
    let cell = base_cell(options, &root)?;
    let subjects = subject::read_all(&root.join("bench/subjects"))?;
    let subjects = subject::select(&subjects, &options.subjects)?;
    let out = results_folder(options.out.as_deref(), &root)?;
    raise_open_files()?;
    let broker_options = broker::Options {
        purge: options.purge,
        ..broker::Options::from_environment(root.clone())
    };
    let mut broker = broker::acquire(&broker_options)?;
    pin_broker(&mut broker, std::slice::from_ref(&cell))?;
    let visit = Visit::begin(&broker)?;
    let mut built = build(&subjects, &root, interrupt)?;
    if let Some(first) = built.first().filter(|_| cell.scenario.twin) {
        built.push(first.twin());
    }
    let device = start_device()?;
    let seed = options.seed.unwrap_or_else(plan::seed_of_the_clock);
    let profile = options.profile.profile();
    let mut manifest = plan::manifest(&profile, seed, &root, &[], &built, &[]);
    manifest.run_id = format!("{}-{SCENARIO}", manifest.run_id);
    manifest.broker = broker.facts.clone();
    let run = RunDir::create(&out, &manifest.run_id)?;
    run.write_manifest(&manifest)?;
    let mut bench = Bench {
        broker: &mut broker,
        rooms: Vec::new(),
        device: device.address(),
        profile: &profile,
        run: &run,
        seed,
        interrupt,
        progress: Rc::new(Progress::new(built.len() * USUAL_PROBES)),
    };
    let measured = measure(&mut bench, options, (&cell, &built), &mut manifest);
    visit.end(&broker);
    broker.stop();
    end(&run, &mut manifest, measured)
}

/// What every probe and every rung is made from.
fn base_cell(options: &CapacityOptions, root: &Path) -> Result<Cell, RunError> {
    let scenarios = scenario::read_all(&root.join("bench/scenarios"))?;
    let mut scenario = scenario::select(scenarios, &[SCENARIO.to_owned()])?.remove(0);
    scenario.layout = options.layout.unwrap_or(scenario.layout);
    // What is not answered long after the objective is late enough to be given up.
    scenario.timeout_s = scenario.timeout_s.max(4.0 * options.slo.as_secs_f64());
    let rest = scenario.load.rest.as_ref();
    let is_fit = rest.is_some_and(|rest| rest.arrival != ArrivalKind::ClosedLoop);
    let is_one = scenario.axis.is_none() && is_fit;
    if !is_one {
        return Err(scenario::DefinitionError::Contradiction {
            path: root.join(format!("bench/scenarios/{SCENARIO}.toml")),
            reason: "a search needs an open REST load and no axis".into(),
        }
        .into());
    }
    Ok(scenario.cells(options.profile).remove(0))
}

/// What the search asks, with the ceiling that limits it; `None` after Ctrl-C.
fn search_facts(
    options: &CapacityOptions,
    cell: &Cell,
    interrupt: &AtomicBool,
) -> Result<Option<SearchFacts>, RunError> {
    let (layout, connections) = (cell.scenario.layout, cell.scenario.connections);
    let ceilings = ceilings::measure(std::slice::from_ref(cell), interrupt)?;
    let found = ceilings.get(&layout).copied();
    let Some(ceiling_per_s) = found.filter(|_| !interrupt.load(Ordering::Relaxed)) else {
        return Ok(None);
    };
    Ok(Some(SearchFacts {
        scenario: SCENARIO.into(),
        question: format!(
            "At how many requests per second (latest values, {connections} connections) are responses still in time?"
        ),
        layout,
        window_s: cell.window_s,
        connections,
        slo_ns: options.slo.as_nanos() as f64,
        quantile: options.quantile,
        first_per_s: cell.load.rest.as_ref().map_or(1.0, |rest| rest.rate_per_s),
        most_per_s: ceiling_per_s * MOST_OF_CEILING,
        ceiling_per_s,
        confirmations: CONFIRMATIONS,
    }))
}

fn measure(
    bench: &mut Bench<'_>,
    options: &CapacityOptions,
    (cell, built): (&Cell, &[BuiltSubject]),
    manifest: &mut Manifest,
) -> Result<(), RunError> {
    await_quiet(bench);
    manifest.search = search_facts(options, cell, bench.interrupt)?;
    bench.run.write_manifest(manifest)?;
    if manifest.search.is_none() {
        manifest.interrupted = true;
        return Ok(());
    }
    let made = search_all(bench, (cell, built), manifest)?;
    if options.search_only || manifest.interrupted {
        return Ok(());
    }
    let found = analyse(&super::read_run(bench.run)?).capacity;
    let Some(slowest) = found.as_ref().and_then(CapacitySummary::slowest_per_s) else {
        log::warn!("a subject has no capacity, so there is no ladder whose rungs are shares of it");
        return Ok(());
    };
    let rungs = rungs(cell, slowest);
    let blocks = options.blocks.unwrap_or(bench.profile.blocks);
    let slots = plan::slots(&rungs, built, blocks, bench.seed);
    manifest.cells = rungs.iter().map(Cell::facts).collect();
    manifest.order = (0..blocks)
        .map(|block| plan::order(&slots, block))
        .collect();
    bench.run.write_manifest(manifest)?;
    let groups = plan::groups(&slots, false);
    bench.progress = planned(&groups);
    measure_all(bench, &groups, made, manifest)
}

/// The cells of the cost ladder.
fn rungs(cell: &Cell, slowest_per_s: f64) -> Vec<Cell> {
    let mut base = cell.clone();
    base.scenario.name = COST.into();
    base.scenario.question =
        "What does one request cost at the same rates, which are shares of the slowest subject's capacity?"
            .into();
    base.scenario.ladder = Some(Ladder::Rate);
    let rung = |percent: u32| {
        let rate = (slowest_per_s * f64::from(percent) / 100.0).round();
        // Named by the rate and not by the share: cells of two runs are compared by their names.
        let rate = rate.max(1.0);
        let mut rung = base.at_rate("rate", &rate.to_string(), rate);
        rung.axis = Some(format!("{percent} %"));
        rung
    };
    RUNGS.map(rung).to_vec()
}

/// One search of a subject.
struct Search<'a> {
    subject: &'a BuiltSubject,
    bisection: Bisection,
}

/// Probes the subjects in turn, in an order that is shuffled for each round, until every search is
/// over; returns the number of launches.
fn search_all(
    bench: &mut Bench<'_>,
    (cell, built): (&Cell, &[BuiltSubject]),
    manifest: &mut Manifest,
) -> Result<usize, RunError> {
    let facts = manifest.search.clone().expect("set before the first probe");
    let started = Instant::now();
    let compared = built.iter().filter(|subject| !subject.is_twin());
    let mut searches: Vec<Search> = compared
        .map(|subject| Search {
            subject,
            bisection: Bisection::new(&facts),
        })
        .collect();
    let progress = Rc::clone(&bench.progress);
    let (mut random, mut made) = (SplitMix(bench.seed), 0);
    for round in 0.. {
        searches.retain(|search| search.bisection.next_per_s().is_some());
        random.shuffle(&mut searches);
        for search in &mut searches {
            if bench.interrupt.load(Ordering::Relaxed) {
                break;
            }
            let probed = probe(bench, &facts, cell, search, (made, round));
            made += 1;
            manifest.elapsed_s = started.elapsed().as_secs_f64();
            probed?;
        }
        manifest.interrupted |= bench.interrupt.load(Ordering::Relaxed);
        if searches.is_empty() || manifest.interrupted {
            break;
        }
    }
    progress.finish();
    Ok(made)
}

fn probe(
    bench: &mut Bench<'_>,
    facts: &SearchFacts,
    cell: &Cell,
    search: &mut Search<'_>,
    (made, round): (usize, u32),
) -> Result<(), RunError> {
    let Some(rate_per_s) = search.bisection.next_per_s() else {
        return Ok(());
    };
    let cell = probe_cell(cell, rate_per_s, facts);
    let room = bench.broker.room();
    let task = Task {
        ordinal: u32::try_from(made).unwrap_or(u32::MAX),
        block: round,
        cell: &cell,
        subject: search.subject,
        sampling: Sampling::Throughout,
        room: &room,
    };
    bench
        .progress
        .next(&format!("{} at {rate_per_s}/s", task.name()));
    measurement::measure(bench, &task)?;
    if !bench.interrupt.load(Ordering::Relaxed) {
        let probe = judge(bench.run, facts)?;
        search.bisection.tell(probe.outcome);
    }
    Ok(())
}

/// The cell of a probe: at a low rate with a window that is long enough for the quantile.
fn probe_cell(cell: &Cell, rate_per_s: f64, facts: &SearchFacts) -> Cell {
    let mut cell = cell.at_rate("rate", &rate_per_s.to_string(), rate_per_s);
    let needed_s = operations_needed(facts.quantile) / rate_per_s;
    cell.window_s = cell.window_s.max(needed_s);
    cell
}

/// What the last launch says: read from what was written, as the analysis will read it.
fn judge(run: &RunDir, facts: &SearchFacts) -> Result<Probe, RunDirError> {
    let data = read_last(run, 1)?.remove(0);
    let gates = gates::judge(&data, host::facts().cores, Some(facts.ceiling_per_s));
    Ok(Probe::of(&data, &gates, facts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> CapacityOptions {
        CapacityOptions {
            profile: ProfileName::Smoke,
            subjects: vec![],
            slo: Duration::from_millis(50),
            quantile: 0.99,
            layout: Some(Layout::Native),
            search_only: false,
            blocks: None,
            seed: None,
            purge: false,
            out: None,
        }
    }

    #[test]
    fn a_probe_at_a_low_rate_has_a_window_long_enough_for_its_quantile() {
        let cell = base_cell(&options(), &host::workspace()).expect("the file is valid");
        assert_eq!(cell.scenario.layout, Layout::Native);
        let facts = SearchFacts::for_tests();
        let slow = probe_cell(&cell, 125.0, &facts);
        assert!((slow.window_s - 8.0).abs() < 1e-9, "{}", slow.window_s);
        assert_eq!(slow.name, "capacity/rate=125");
        let quick = probe_cell(&cell, 4_000.0, &facts);
        assert!((quick.window_s - cell.window_s).abs() < 1e-9);
    }

    #[test]
    fn the_rungs_are_shares_of_the_slowest_and_cells_of_one_ladder() {
        let cell = base_cell(&options(), &host::workspace()).expect("the file is valid");
        let rungs = rungs(&cell, 4_000.0);
        let rates: Vec<f64> = rungs
            .iter()
            .flat_map(|rung| rung.arrival_rate_per_s().into_values())
            .collect();
        assert_eq!(rates, [400.0, 1_000.0, 2_000.0, 3_000.0]);
        let facts = rungs[0].facts();
        assert_eq!(
            (&*facts.cell, facts.ladder),
            ("cost/rate=400", Some(Ladder::Rate))
        );
        assert_eq!(facts.axis.as_deref(), Some("10 %"));
    }
}
