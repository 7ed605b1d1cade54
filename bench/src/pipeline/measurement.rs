//! One launch: from empty queues to a written record.

mod draining;
mod edges;
mod together;
mod written;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use contract::QueueType;
use contract::amqp::{DEAD_LETTER_QUEUE, INGEST_QUEUE};

use draining::observe_drain;
use edges::Edges;
pub(super) use together::measure_together;

use super::RunError;
use super::inquiry;
use super::progress::Progress;
use crate::broker::{Broker, Room};
use crate::host;
use crate::launch::{self, LaunchError, LaunchPlan, OwnFile, Running};
use crate::load::{
    AmqpPlan, Exchange, Generator, KEYS, Live, LoadPlan, LoadResult, RestPlan, seed_message,
};
use crate::profile::Profile;
use crate::record::{Conservation, HostDuring, Pinning, Resources, Sample};
use crate::run_dir::{LaunchDir, RunDir};
use crate::sample::{Metered, ProcessTree, Shown, Timeline, members, resources, watch};
use crate::scenario::{Cell, RestRequest};
use crate::subject::BuiltSubject;

/// Longest time from launch to ready.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Longest time from SIGTERM to the end: the contract's grace and a margin.
const STOP_WITHIN: Duration = Duration::from_secs(12);
/// From the decision to start until the first instant of the schedule.
const LEAD: Duration = Duration::from_millis(10);
/// Samples of a launch at the most: half an hour is as well known from one in a second.
const MOST_SAMPLES: f64 = 2_000.0;
/// Look at the subject's life and at Ctrl-C this often while it is under load.
const WATCH: Duration = Duration::from_millis(5);

/// What all launches share.
pub(super) struct Bench<'a> {
    pub(super) broker: &'a mut Broker,
    /// One for each subject that takes turns with others; none if nobody does.
    pub(super) rooms: Vec<Room>,
    pub(super) device: SocketAddr,
    pub(super) profile: &'a Profile,
    pub(super) run: &'a RunDir,
    pub(super) seed: u64,
    pub(super) interrupt: &'a Arc<AtomicBool>,
    pub(super) progress: Rc<Progress>,
}

impl Bench<'_> {
    /// Where that many launches at once have their queues.
    pub(super) fn rooms_for(&self, launches: usize) -> Vec<Room> {
        match launches {
            1 => vec![self.broker.room()],
            several => self.rooms[..several].to_vec(),
        }
    }
}

/// One launch of the plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) ordinal: u32,
    pub(super) block: u32,
    pub(super) cell: &'a Cell,
    pub(super) subject: &'a BuiltSubject,
    pub(super) sampling: Sampling,
    /// Where its queues are.
    pub(super) room: &'a Room,
}

/// How often the process tree is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sampling {
    /// All through the window.
    Throughout,
    /// At its edges only, without which there would be no CPU per operation.
    Edges,
}

impl Task<'_> {
    pub(super) fn name(&self) -> &str {
        &self.subject.subject.name
    }

    fn is_drain(&self) -> bool {
        self.cell.prefill > 0
    }

    fn reads_latest(&self) -> bool {
        let rest = self.cell.load.rest.as_ref();
        rest.is_some_and(|rest| rest.mix.contains(&RestRequest::Latest))
    }
}

/// What was measured of one launch.
#[derive(Default)]
struct Measured {
    load: LoadResult,
    samples: Vec<Sample>,
    resources: Resources,
    drain: Option<crate::record::Drain>,
    host: HostDuring,
    pinning: Option<Pinning>,
    sampler_ratio: Option<f64>,
    window_s: f64,
    /// Pieces of the window, with other launches between them; 1 for a window of one piece.
    turns: u32,
    /// Events that were published beside the load: seeds and prefill.
    published: u64,
    confirmed: u64,
    deliveries: inquiry::Deliveries,
    ready_s: f64,
    stop_s: f64,
    faults: Vec<String>,
}

/// Launches, measures, stops and writes; returns what went wrong, which is written, too.
///
/// # Errors
/// [`RunError`] if the broker cannot be emptied or the record cannot be written: then no later
/// launch would do better.
pub(super) fn measure(bench: &mut Bench<'_>, task: &Task<'_>) -> Result<Vec<String>, RunError> {
    let mut begun = Begun::new(bench, task)?;
    let observed = observe(bench, &mut begun);
    begun.close(bench, observed)
}

/// A launch whose queues are empty and whose folder is there.
struct Begun<'a> {
    task: Task<'a>,
    dir: LaunchDir,
    plan: LaunchPlan,
    running: Option<Running>,
    measured: Measured,
    /// Behind the subject, which may start children from it.
    _own: OwnFile,
}

impl<'a> Begun<'a> {
    fn new(bench: &Bench<'_>, task: &Task<'a>) -> Result<Self, RunError> {
        let dir = bench
            .run
            .begin_launch(task.ordinal, &task.cell.name, task.name(), task.block)?;
        task.room.reset(QueueType::Quorum)?;
        let own = OwnFile::copy(&task.subject.executable, task.ordinal).map_err(|error| {
            RunError::Machine("cannot copy the subject's executable".into(), error)
        })?;
        Ok(Self {
            task: *task,
            plan: launch_plan(bench, task, own.path(), dir.stderr_path()),
            _own: own,
            dir,
            running: None,
            measured: Measured::default(),
        })
    }

    fn root(&self) -> Option<i32> {
        self.running.as_ref().map(Running::root)
    }

    fn has_ended(&mut self) -> bool {
        let running = self.running.as_mut();
        running.is_some_and(|running| running.ended().is_some())
    }

    /// Asks for its accounts, stops it, and writes everything down.
    fn close(
        mut self,
        bench: &Bench<'_>,
        observed: Result<(), Fault>,
    ) -> Result<Vec<String>, RunError> {
        let (task, measured) = (&self.task, &mut self.measured);
        if let Some(running) = self.running.take() {
            end(running, measured);
        }
        if let Err(fault) = &observed {
            measured.faults.push(fault.to_string());
        }
        if bench.interrupt.load(Ordering::Relaxed) {
            measured
                .faults
                .push("the run was interrupted in this launch".into());
        }
        let mut faults = std::mem::take(&mut measured.faults);
        faults.append(&mut measured.load.faults);
        let conservation = conservation(task.room, measured)?;
        let launch = written::record(task, &self.plan, measured, conservation, faults);
        let times = (&measured.load.histograms, &measured.load.intervals);
        self.dir.finish(&launch, times, &measured.samples)?;
        match observed {
            Err(Fault::Launch(error)) if !bench.interrupt.load(Ordering::Relaxed) => {
                Err(error.into())
            }
            _ => Ok(launch.faults),
        }
    }
}

/// What ended a launch early.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// It did not come up: the same would happen again.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl From<String> for Fault {
    fn from(words: String) -> Self {
        Self::Other(words)
    }
}

fn launch_plan(
    bench: &Bench<'_>,
    task: &Task<'_>,
    executable: &Path,
    stderr: PathBuf,
) -> LaunchPlan {
    let mut environment = task.cell.environment.clone();
    let fixed = [
        ("BC_HTTP_ADDR", "127.0.0.1:0".to_owned()),
        ("BC_AMQP_URL", task.room.url.clone()),
        ("BC_DEVICE_ADDR", bench.device.to_string()),
        ("BC_NAME", "bench".to_owned()),
    ];
    environment.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
    let mut words = task.subject.before.clone();
    words.push(executable.to_string_lossy().into_owned());
    words.extend(task.subject.subject.args.iter().cloned());
    LaunchPlan {
        name: task.name().to_owned(),
        executable: words.remove(0).into(),
        args: words,
        environment,
        cpus: host::subject_cpus(task.cell.scenario.layout),
        stderr,
        ready_within: READY_WITHIN,
    }
}

/// Everything between the start of the subject and the order to end.
fn observe(bench: &Bench<'_>, begun: &mut Begun<'_>) -> Result<(), Fault> {
    let (task, measured) = (&begun.task, &mut begun.measured);
    if task.is_drain() {
        publish(bench, task, task.cell.prefill, measured)?;
    }
    let running = begun.running.insert(launch::start(begun.plan.clone())?);
    if task.is_drain() {
        observe_drain(bench, task, running, measured)
    } else {
        observe_load(bench, task, running, measured)
    }
}

/// What the subject has to say of itself, and its end.
fn end(mut running: Running, measured: &mut Measured) {
    if running.ended().is_none() {
        let expected = measured.confirmed + measured.load.confirmed;
        measured.deliveries = inquiry::deliveries(&running, expected);
    }
    measured.ready_s = running.ready_s();
    let stopped = running.stop(STOP_WITHIN);
    measured.stop_s = stopped.stop_s;
    measured.faults.extend(stopped.faults);
}

fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// Publishes events beside the load: seeds of keys, or a drain's prefill.
fn publish(
    bench: &Bench<'_>,
    task: &Task<'_>,
    count: u64,
    measured: &mut Measured,
) -> Result<(), String> {
    let plan = amqp_plan(bench, task, "s");
    let publish = || {
        let mut session = task.room.session()?;
        let batch = session.publish_batch((0..count).map(|seq| seed_message(&plan, seq)))?;
        session.close()?;
        Ok(batch)
    };
    let batch = publish().map_err(|error: crate::amqp::Error| chain(error))?;
    measured.published += batch.published;
    measured.confirmed += batch.acked;
    Ok(())
}

/// Message ids are unique over all launches: run's seed, ordinal, and purpose.
fn amqp_plan(bench: &Bench<'_>, task: &Task<'_>, purpose: &str) -> AmqpPlan {
    let payload_bytes = task
        .cell
        .load
        .amqp
        .as_ref()
        .map_or(128, |amqp| amqp.payload_bytes);
    AmqpPlan {
        url: task.room.url.clone(),
        id_prefix: format!("{:x}-{}-{purpose}", bench.seed, task.ordinal),
        payload_bytes,
    }
}

fn observe_load(
    bench: &Bench<'_>,
    task: &Task<'_>,
    running: &mut Running,
    measured: &mut Measured,
) -> Result<(), Fault> {
    let live = Arc::new(Live::default());
    // It is held until the last sample is taken: closing its connections is work for the subject.
    let mut generator = prepare(bench, task, running, measured)?.shown_by(Arc::clone(&live));
    let mut tree = Metered::new(Shown::new(ProcessTree::new(running.root()), &live));
    let start = Instant::now() + LEAD;
    let timeline = timeline(bench, task, start);
    let display = bench.progress.display(start + timeline.window_end);
    let (shown, over) = channel();
    let abort = AtomicBool::new(false);
    let instrument = host::instrument_cpu(task.cell.scenario.layout).map(|cpu| vec![cpu]);
    let broker = bench.broker.pids();
    let edges = Edges::new(task.cell.scenario.layout, running.root(), &broker);
    let (load, samples, between) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            edges.i_am_the_generator();
            generator.run_once(&generator.take_thread(), start, &abort)
        });
        let sampler = || watch(&mut tree, timeline, &abort);
        let samples = scope.spawn(|| pinned(instrument.as_deref(), sampler));
        let between =
            scope.spawn(|| pinned(instrument.as_deref(), || edges.watch(timeline, &abort)));
        if let Some(display) = display {
            let (live, cpus) = (&live, instrument.as_deref());
            scope.spawn(move || pinned(cpus, || display.show(live, &over)));
        }
        let has_ended = || running.ended().is_some();
        guard(has_ended, bench.interrupt, &abort, || load.is_finished());
        drop(shown);
        // The window is over: whoever still sleeps (idle has no load to wait for) may finish.
        (join(load), join(samples), join(between))
    });
    measured.window_s = task.cell.window_s;
    measured.turns = 1;
    measured.load = load;
    measured.resources = resources(&samples);
    measured.samples = samples;
    if let Some(between) = between {
        measured.host = edges.host(&between, &members(running.root()));
        measured.pinning = Some(edges.pinning_of(&between));
    }
    measured.sampler_ratio = tree.ratio();
    Ok(())
}

/// A subject that answers and has what the load reads, and the connections to it.
fn prepare(
    bench: &Bench<'_>,
    task: &Task<'_>,
    running: &mut Running,
    measured: &mut Measured,
) -> Result<Generator, Fault> {
    running.await_ready()?;
    inquiry::verify(running, &task.subject.subject.model)?;
    if task.reads_latest() {
        publish(bench, task, KEYS, measured)?;
        inquiry::await_keys(running, KEYS)?;
    }
    let plan = load_plan(bench, task, running.address());
    Ok(Generator::prepare(plan).map_err(chain)?)
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `work` on the instrument's core; on any core if that one cannot be had.
fn pinned<T>(cpus: Option<&[usize]>, work: impl FnOnce() -> T) -> T {
    if let Some(cpus) = cpus
        && let Err(error) = host::pin_current_thread(cpus)
    {
        log::warn!("a thread of the instrument cannot be pinned: {error}");
    }
    work()
}

/// Sets `abort` when a subject has ended or Ctrl-C was pressed, until `is_over`.
fn guard(
    mut has_ended: impl FnMut() -> bool,
    interrupt: &AtomicBool,
    abort: &AtomicBool,
    is_over: impl Fn() -> bool,
) {
    while !is_over() {
        if has_ended() || interrupt.load(Ordering::Relaxed) {
            abort.store(true, Ordering::Relaxed);
        }
        std::thread::sleep(WATCH);
    }
}

fn timeline(bench: &Bench<'_>, task: &Task<'_>, start: Instant) -> Timeline {
    let window_start = Duration::from_secs_f64(task.cell.warm_up_s);
    Timeline {
        start,
        window_start,
        window_end: window_start + Duration::from_secs_f64(task.cell.window_s),
        interval: Duration::from_secs_f64(match task.sampling {
            Sampling::Throughout => interval_s(bench.profile.sample_rate_per_s, task.cell.window_s),
            Sampling::Edges => task.cell.window_s,
        }),
    }
}

/// Seconds between two samples: by the profile, but in long windows so that there are no more than
/// [`MOST_SAMPLES`].
fn interval_s(rate_per_s: f64, window_s: f64) -> f64 {
    (1.0 / rate_per_s).max(window_s / MOST_SAMPLES)
}

fn load_plan(bench: &Bench<'_>, task: &Task<'_>, address: SocketAddr) -> LoadPlan {
    let cell = task.cell;
    let seed = bench.seed ^ (u64::from(task.ordinal) << 32);
    let rest = cell.load.rest.as_ref().map(|rest| RestPlan {
        address,
        turns: Exchange::turns(&rest.mix, address),
        connections: cell.scenario.connections,
        arrival: rest.arrival.schedule(cell.pace(rest.rate_per_s), 0.0, seed),
    });
    let amqp = cell.load.amqp.as_ref().and_then(|amqp| {
        // Half a period behind the REST requests of the same rate.
        let pace = cell.pace(amqp.rate_per_s);
        let arrival = amqp.arrival.schedule(pace, 0.5, seed + 1)?;
        Some((amqp_plan(bench, task, "e"), arrival))
    });
    LoadPlan {
        rest,
        amqp,
        warm_up: Duration::from_secs_f64(cell.warm_up_s),
        window: Duration::from_secs_f64(cell.window_s),
        timeout: Duration::from_secs_f64(cell.scenario.timeout_s),
        cpu: host::instrument_cpu(cell.scenario.layout),
    }
}

/// Every event accounted for, after the subject has ended and its queues are at rest.
fn conservation(room: &Room, measured: &Measured) -> Result<Option<Conservation>, RunError> {
    let published = measured.published + measured.load.published;
    if published == 0 {
        return Ok(None);
    }
    Ok(Some(Conservation {
        published,
        confirmed: measured.confirmed + measured.load.confirmed,
        acked: measured.deliveries.acked,
        duplicates: measured.deliveries.duplicates,
        still_queued: room.depth(INGEST_QUEUE)?.into(),
        dead_lettered: room.depth(DEAD_LETTER_QUEUE)?.into(),
    }))
}
