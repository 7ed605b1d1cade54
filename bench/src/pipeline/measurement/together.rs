//! The launches of one cell and one block side by side: all are up, and take turns under load.
//!
//! A machine's speed changes from second to second, above all that of its memory, which it shares
//! with others. Launches one after the other meet different moods of it; launches that take turns of
//! a fraction of a second meet the same ones, so that the ratio of two subjects is known several times
//! better. (Bulej et al., "Duet benchmarking", 2020, run both at once to that end, on a core each;
//! here they would disturb each other.)

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::edges::{Between, Edges, Places};
use super::{Begun, Bench, Fault, Measured, Task, guard, join, pinned, prepare, timeline};
use crate::analyse::statistics::seed_for;
use crate::host::{self, Reading};
use crate::launch;
use crate::load::{Generator, Live, Turns};
use crate::pipeline::RunError;
use crate::pipeline::plan::Rows;
use crate::random::SplitMix;
use crate::sample::{
    Metered, Pieces, ProcessTree, Sampler, Shown, Timeline, members, resources, watch_turn,
};
use crate::scenario::Cell;

/// Measured part of a turn, about, in s.
const TURN_S: f64 = 0.2;
/// Load before it in s: the subject's working set has to come back into the caches.
const SETTLE_S: f64 = 0.05;
/// From the decision to begin a turn until the first instant of its schedule.
const LEAD: Duration = Duration::from_millis(2);

/// Launches all of them, measures them in turns, stops them and writes; returns what went wrong, which
/// is written, too.
///
/// # Errors
/// [`RunError`] if the broker cannot be emptied, a record cannot be written, or a subject does not
/// come up: then no later launch would do better.
pub(in crate::pipeline) fn measure_together(
    bench: &mut Bench<'_>,
    tasks: &[Task<'_>],
) -> Result<Vec<String>, RunError> {
    let cells: Vec<Cell> = tasks.iter().map(|task| turn_of(task.cell)).collect();
    let lanes = tasks.iter().zip(&cells).map(|(task, cell)| {
        let turn = Task { cell, ..*task };
        Begun::new(bench, &turn)
    });
    let mut lanes = lanes.collect::<Result<Vec<_>, _>>()?;
    let observed = observe(bench, &mut lanes, tasks[0].cell);
    let mut faults = Vec::new();
    for lane in lanes {
        // What ends one of them ends all, and each bears it.
        let told = observed.as_ref().copied();
        faults.extend(lane.close(bench, told.map_err(|fault| fault.to_string().into()))?);
    }
    match observed {
        Err(Fault::Launch(error)) if !bench.interrupt.load(Ordering::Relaxed) => Err(error.into()),
        _ => Ok(faults),
    }
}

/// How many turns a window is cut into.
fn count(cell: &Cell) -> u32 {
    // At least one, at most some thousands.
    (cell.window_s / TURN_S).round().max(1.0) as u32
}

/// The cell of a single turn.
fn turn_of(cell: &Cell) -> Cell {
    Cell {
        warm_up_s: SETTLE_S,
        window_s: cell.window_s / f64::from(count(cell)),
        ..cell.clone()
    }
}

/// Who has a turn when.
struct Schedule {
    /// Order of the lanes in each round, without end.
    rows: Rows,
    /// Rounds before the measured ones.
    warm_up: u32,
    /// Measured rounds.
    rounds: u32,
    /// Of a turn, for each lane.
    timelines: Vec<Timeline>,
}

impl Schedule {
    fn new(bench: &Bench<'_>, lanes: &[Begun<'_>], whole: &Cell) -> Self {
        let block = lanes[0].task.block.to_string();
        let seed = seed_for(bench.seed, &["turns", &whole.name, &block]);
        let now = Instant::now();
        let rounds = count(whole);
        let turn_s = SETTLE_S + whole.window_s / f64::from(rounds);
        Self {
            rows: Rows::new(lanes.len(), SplitMix(seed)),
            warm_up: (whole.warm_up_s / turn_s).ceil().max(1.0) as u32,
            rounds,
            timelines: lanes
                .iter()
                .map(|lane| timeline(bench, &lane.task, now))
                .collect(),
        }
    }

    /// How long all of it takes, about.
    fn length(&self) -> Duration {
        let round: Duration = self.timelines.iter().map(|it| LEAD + it.window_end).sum();
        round * (self.warm_up + self.rounds)
    }
}

/// What is sampled of one lane.
struct Sampled<'a> {
    tree: Metered<Shown<'a, ProcessTree>>,
    pieces: Pieces,
}

/// Whose turn is to be sampled when.
type Order = (usize, Timeline);

/// Everything between the start of the subjects and the order to end.
fn observe(bench: &Bench<'_>, lanes: &mut [Begun<'_>], whole: &Cell) -> Result<(), Fault> {
    let live = Arc::new(Live::default());
    let mut generators = Vec::new();
    for lane in lanes.iter_mut() {
        let running = lane.running.insert(launch::start(lane.plan.clone())?);
        let generator = prepare(bench, &lane.task, running, &mut lane.measured)?;
        generators.push(generator.shown_by(Arc::clone(&live)));
    }
    let schedule = Schedule::new(bench, lanes, whole);
    let rounds = schedule.rounds;
    let (layout, broker) = (whole.scenario.layout, bench.broker.pids());
    let roots: Vec<i32> = lanes.iter().filter_map(Begun::root).collect();
    let families: Vec<Vec<i32>> = roots.iter().map(|root| members(*root)).collect();
    let edge = |&root: &i32| Edges::new(layout, root, &broker);
    let edges: Vec<Edges<'_>> = roots.iter().map(edge).collect();
    let tree = |&root: &i32| Sampled {
        tree: Metered::new(Shown::new(ProcessTree::new(root), &live)),
        pieces: Pieces::default(),
    };
    let mut sampled: Vec<Sampled<'_>> = roots.iter().map(tree).collect();
    let display = bench.progress.display(Instant::now() + schedule.length());
    let instrument = host::instrument_cpu(layout).map(|cpu| vec![cpu]);
    let (cpus, abort) = (instrument.as_deref(), AtomicBool::new(false));
    let (shown, over) = channel();
    let (orders, ordered) = channel();
    let driven = std::thread::scope(|scope| {
        let trees = &mut sampled;
        let sampling = scope.spawn(|| pinned(cpus, || sample(trees, ordered, &abort)));
        let (edges, abort) = (&edges, &abort);
        // The sampler ends when its orders do, with the driver.
        let driving = scope.spawn(move || drive(generators, schedule, edges, &orders, abort));
        if let Some(display) = display {
            let live = &live;
            scope.spawn(move || pinned(cpus, || display.show(live, &over)));
        }
        let has_ended = || lanes.iter_mut().any(Begun::has_ended);
        guard(has_ended, bench.interrupt, abort, || driving.is_finished());
        drop(shown);
        let driven = join(driving);
        join(sampling);
        driven
    });
    let now: Vec<Vec<i32>> = roots.iter().map(|root| members(*root)).collect();
    let subjects = now.concat();
    let parts = lanes.iter_mut().zip(driven).zip(sampled).zip(&edges);
    let families = families.iter().zip(&now);
    for ((((lane, (turns, between)), sampled), edges), family) in parts.zip(families) {
        let measured = &mut lane.measured;
        measured.window_s = whole.window_s;
        measured.turns = rounds;
        measured.load = turns.finish();
        measured.sampler_ratio = sampled.tree.ratio();
        measured.samples = sampled.pieces.finish();
        measured.resources = resources(&measured.samples);
        measured.host = edges.host(&between, &subjects);
        measured.pinning = Some(edges.pinning_of(&between));
        note_changes(measured, family);
    }
    Ok(())
}

/// Processes that came in the meantime were not sampled.
fn note_changes(measured: &mut Measured, (family, now): (&Vec<i32>, &Vec<i32>)) {
    if now.iter().any(|pid| !family.contains(pid)) {
        let fault = "a process joined the subject while it was measured in turns";
        measured.faults.push(fault.to_owned());
    }
}

/// What the loads of one lane came to, and what its edges saw.
type Driven = (Turns, Between);

/// Gives each lane its turns, on one thread, so that no two of them are ever under load.
fn drive(
    mut generators: Vec<Generator>,
    mut schedule: Schedule,
    edges: &[Edges<'_>],
    orders: &Sender<Order>,
    abort: &AtomicBool,
) -> Vec<Driven> {
    let thread = generators[0].take_thread();
    for edge in edges {
        edge.i_am_the_generator();
    }
    let mut turns: Vec<Turns> = edges.iter().map(|_| Turns::default()).collect();
    for _ in 0..schedule.warm_up {
        for lane in schedule.rows.next() {
            let start = Instant::now() + LEAD;
            turns[lane].warm_up(generators[lane].run_once(&thread, start, abort));
        }
    }
    let (before, first) = look(edges);
    for _ in 0..schedule.rounds {
        for lane in schedule.rows.next() {
            if abort.load(Ordering::Relaxed) {
                break;
            }
            let start = Instant::now() + LEAD;
            let timeline = Timeline {
                start,
                ..schedule.timelines[lane]
            };
            // The sampler goes on until the last order.
            let _ = orders.send((lane, timeline));
            turns[lane].add(generators[lane].run_once(&thread, start, abort));
        }
    }
    let (after, last) = look(edges);
    let between = |places: (Places, Places)| Between::new((before.clone(), after.clone()), places);
    let places = first.into_iter().zip(last).map(between);
    turns.into_iter().zip(places).collect()
}

fn look(edges: &[Edges<'_>]) -> (Reading, Vec<Places>) {
    let places = edges.iter().map(Edges::look_at_all).collect();
    (Reading::take(), places)
}

/// Samples every turn that is ordered.
fn sample(lanes: &mut [Sampled<'_>], ordered: Receiver<Order>, abort: &AtomicBool) {
    for lane in lanes.iter_mut() {
        lane.tree.discover();
    }
    for (lane, timeline) in ordered {
        let lane = &mut lanes[lane];
        let samples = watch_turn(&mut lane.tree, timeline, abort);
        lane.pieces.add(&samples);
    }
}
