//! The generator: connections that are open before the run, and the thread that drives them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll;

use super::LoadError;
use super::alarm::Alarm;
use super::amqp::{Amqp, AmqpPlan};
use super::clock::Clock;
use super::engine::{EVENTS, Engine, Stream, Window, await_start};
use super::live::Live;
use super::meter::Meter;
use super::pacer::Arrival;
use super::recorder::Recorder;
use super::request::Exchange;
use super::rest::Rest;
use crate::host::{self, priority::prefer_thread};
use crate::record::{GeneratorFacts, Kind, OperationCounts};
use crate::run_dir::{Histograms, Intervals};

/// Highest rate at which the loop asks for the real-time class, per second.
///
/// The kernel takes the core from a real-time thread for 50 ms of every second in which it does not
/// sleep by itself for as long. A loop that is woken some 30 µs before each send sleeps enough below
/// this rate; at 50,000 per second, and in a closed loop, p99 of the send lag was 30 ms in that
/// class and 0.1 ms with a better nice value.
const REAL_TIME_RATE_PER_S: f64 = 15_000.0;

/// The stamps of answers that came before and behind that instant contradict each other.
const TIME_WAS_SET: &str = "somebody set the time during the load";
/// Without it the gates on the generator would judge a zero.
const UNMETERED: &str = "the kernel does not tell how busy the generator was";

/// REST part of a plan.
#[derive(Debug, Clone)]
pub struct RestPlan {
    /// Subject.
    pub address: SocketAddr,
    /// Requests in turn.
    pub turns: Vec<Exchange>,
    /// Keep-alive connections.
    pub connections: usize,
    /// Schedule; `None` for a closed loop over the connections.
    pub arrival: Option<Arrival>,
}

/// What to send and for how long.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// REST.
    pub rest: Option<RestPlan>,
    /// AMQP with its schedule.
    pub amqp: Option<(AmqpPlan, Arrival)>,
    /// Load before the window.
    pub warm_up: Duration,
    /// Measured window.
    pub window: Duration,
    /// Deadline of an operation after its intended instant.
    pub timeout: Duration,
    /// Core of the generator's thread.
    pub cpu: Option<usize>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct LoadResult {
    /// Counts of the window by kind.
    pub operations: BTreeMap<Kind, OperationCounts>,
    /// Times of the window by tag.
    pub histograms: Histograms,
    /// Some of them for each equal part of the window.
    pub intervals: Intervals,
    /// The generator's own behaviour.
    pub generator: GeneratorFacts,
    /// Events published, warm-up included.
    pub published: u64,
    /// Of these, confirmed.
    pub confirmed: u64,
    /// What makes the launch invalid.
    pub faults: Vec<String>,
}

/// Open connections and a schedule, ready to start.
pub struct Generator {
    poll: Arc<OwnedFd>,
    streams: Vec<Stream>,
    window: Window,
    timeout_ns: u64,
    cpu: Option<usize>,
    /// Sends per second of all schedules together; without end in a closed loop.
    rate_per_s: f64,
    live: Arc<Live>,
    /// How often the schedule was run.
    runs: u64,
    /// What it has learnt of this machine's timers.
    alarm: Alarm,
}

impl Generator {
    /// Opens every connection.
    ///
    /// # Errors
    /// [`LoadError`] if the subject or the broker cannot be reached.
    pub fn prepare(plan: LoadPlan) -> Result<Self, LoadError> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| LoadError::Poll(error.into()))?;
        let warm_up_ns = nanoseconds(plan.warm_up);
        let mut generator = Self {
            poll: Arc::new(poll),
            streams: Vec::new(),
            window: Window {
                start_ns: warm_up_ns,
                end_ns: warm_up_ns + nanoseconds(plan.window),
            },
            timeout_ns: nanoseconds(plan.timeout),
            cpu: plan.cpu,
            rate_per_s: 0.0,
            live: Arc::default(),
            runs: 0,
            alarm: Alarm::default(),
        };
        if let Some(rest) = plan.rest {
            generator.add_rest(rest)?;
        }
        if let Some((amqp, arrival)) = plan.amqp {
            generator.add_amqp(amqp, arrival)?;
        }
        Ok(generator)
    }

    /// Feeds these counts while it runs.
    #[must_use]
    pub fn shown_by(mut self, live: Arc<Live>) -> Self {
        self.live = live;
        self
    }

    fn next_token(&self) -> u64 {
        (self.streams.len() as u64) << 32
    }

    fn add_rest(&mut self, plan: RestPlan) -> Result<(), LoadError> {
        let address = plan.address;
        let rest = Rest::connect(
            Arc::clone(&self.poll),
            self.next_token(),
            address,
            plan.turns,
            plan.connections,
            self.timeout_ns,
        )
        .map_err(|source| LoadError::Connect { address, source })?;
        self.rate_per_s += plan.arrival.map_or(f64::INFINITY, Arrival::rate_per_s);
        self.streams.push(match plan.arrival {
            Some(arrival) => Stream::open(Box::new(rest), arrival),
            None => Stream::closed(Box::new(rest), plan.connections),
        });
        Ok(())
    }

    fn add_amqp(&mut self, plan: AmqpPlan, arrival: Arrival) -> Result<(), LoadError> {
        let amqp = Amqp::connect(&self.poll, self.next_token(), plan, self.timeout_ns)
            .map_err(LoadError::Broker)?;
        self.rate_per_s += arrival.rate_per_s();
        self.streams.push(Stream::open(Box::new(amqp), arrival));
        Ok(())
    }

    /// Runs the schedule from `start` on a thread of its own, which it pins and prefers, and waits
    /// for its end.
    #[must_use]
    pub fn run_apart(self, start: Instant, abort: &AtomicBool) -> LoadResult {
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| self.run(start, abort));
            loading
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs the schedule from `start`; call it on a thread of its own.
    #[must_use]
    pub fn run(mut self, start: Instant, abort: &AtomicBool) -> LoadResult {
        let thread = self.take_thread();
        self.run_once(&thread, start, abort)
    }

    /// Makes the calling thread fit for the load: exact timers, the generator's core, and its turn
    /// first.
    #[must_use]
    pub fn take_thread(&self) -> GeneratorThread {
        GeneratorThread::take(self.cpu, self.rate_per_s)
    }

    /// Runs the schedule from `start` on a thread that was taken. Called again, it runs it once more
    /// over the same connections; its counts of published messages go on.
    #[must_use]
    pub fn run_once(
        &mut self,
        thread: &GeneratorThread,
        start: Instant,
        abort: &AtomicBool,
    ) -> LoadResult {
        for stream in self.streams.iter_mut().filter(|_| self.runs > 0) {
            stream.rewind(self.runs);
        }
        self.runs += 1;
        let mut recorder = Recorder::new(self.window).shown_by(Arc::clone(&self.live));
        for stream in &self.streams {
            recorder.prepare(stream.target.kind());
        }
        await_start(start);
        let mut engine = Engine {
            poll: &self.poll,
            streams: &mut self.streams,
            window: self.window,
            timeout_ns: self.timeout_ns,
            abort,
            recorder,
            clock: Clock::new(start),
            meter: Meter::default(),
            alarm: std::mem::take(&mut self.alarm),
            read_ns: 0,
            events: Vec::with_capacity(EVENTS),
        };
        let broken = engine.run().err();
        for fault in faults(&engine, thread, broken) {
            engine.recorder.fault(fault);
        }
        let own = engine.meter.own_time().unwrap_or_default();
        self.alarm = engine.alarm;
        let recorded = engine.recorder.finish();
        let window_ns = (self.window.end_ns - self.window.start_ns).max(1) as f64;
        let (published, confirmed) = self
            .streams
            .iter()
            .map(|stream| stream.target.published_and_confirmed())
            .fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
        LoadResult {
            operations: recorded.counts,
            histograms: recorded.histograms,
            intervals: recorded.intervals,
            generator: GeneratorFacts {
                busy_ratio: own.busy_ns as f64 / window_ns,
                polling_ratio: own.polling_ns as f64 / window_ns,
                wait_ratio: own.wait_ns as f64 / window_ns,
                max_in_flight: recorded.max_in_flight,
                mean_in_flight: recorded.mean_in_flight,
                priority: thread.priority.clone(),
            },
            published,
            confirmed,
            faults: recorded.faults,
        }
    }
}

/// A thread that was made fit to be a generator's.
#[derive(Debug)]
pub struct GeneratorThread {
    /// Which priority it got.
    priority: String,
    /// Why it does not keep to its core.
    unpinned: Option<String>,
}

impl GeneratorThread {
    fn take(cpu: Option<usize>, rate_per_s: f64) -> Self {
        // A slack of 1 ns; without it the kernel may delay each wake-up by 50 µs.
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            log::warn!("the timer slack cannot be set: {error}");
        }
        // The broker shares the core.
        let priority = prefer_thread(rate_per_s <= REAL_TIME_RATE_PER_S);
        let pinned = cpu.map(|cpu| host::pin_current_thread(&[cpu]));
        let unpinned = pinned
            .and_then(Result::err)
            .map(|error| format!("the generator cannot be pinned: {error}"));
        Self { priority, unpinned }
    }
}

/// What makes the launch invalid, whatever its figures are.
fn faults(
    engine: &Engine<'_>,
    thread: &GeneratorThread,
    broken: Option<std::io::Error>,
) -> Vec<String> {
    let was_left = broken.is_some() || engine.abort.load(Ordering::Relaxed);
    let unmetered = engine.meter.own_time().is_none() && !was_left;
    [
        thread.unpinned.clone(),
        broken.map(|error| format!("the generator's loop broke: {error}")),
        engine.clock.was_set().then(|| TIME_WAS_SET.to_owned()),
        unmetered.then(|| UNMETERED.to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A duration in ns; the longest that fits if it is longer.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;
    use crate::scenario::RestRequest;

    /// Answers every flatten request of every connection correctly, after `delay`.
    fn null_server(delay: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream, delay));
            }
        });
        address
    }

    fn serve(mut stream: std::net::TcpStream, delay: Duration) {
        let mut bytes = [0; 4096];
        while let Ok(count) = stream.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..count]);
            let Some((_, rest)) = text.split_once(r#""token":"#) else {
                return;
            };
            let body = format!(r#"{{"a/b/0":1.0,"a/b/1":1.0,"token":{}.0}}"#, &rest[..10]);
            std::thread::sleep(delay);
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn plan(address: SocketAddr, rate_per_s: f64, connections: usize) -> LoadPlan {
        LoadPlan {
            rest: Some(RestPlan {
                address,
                turns: Exchange::turns(&[RestRequest::Flatten], address),
                connections,
                arrival: Some(Arrival::Constant {
                    rate_per_s,
                    phase: 0.0,
                }),
            }),
            amqp: None,
            warm_up: Duration::from_millis(50),
            window: Duration::from_millis(300),
            timeout: Duration::from_millis(200),
            cpu: None,
        }
    }

    fn run(plan: LoadPlan) -> LoadResult {
        let generator = Generator::prepare(plan).expect("the server listens");
        generator.run_apart(Instant::now(), &AtomicBool::new(false))
    }

    #[test]
    fn every_answer_is_checked_and_a_fixed_delay_is_recovered() {
        let address = null_server(Duration::from_millis(5));
        let result = run(plan(address, 200.0, 8));
        let counts = &result.operations[&Kind::Rest];
        assert_eq!((counts.planned, counts.ok), (60, 60), "{:?}", result.faults);
        let p50 = result.histograms["rest.response"].value_at_quantile(0.5);
        assert!((5_000_000..6_500_000).contains(&p50), "{p50}");
    }

    #[test]
    fn a_schedule_is_run_again_over_the_same_connections() {
        let address = null_server(Duration::from_millis(1));
        let mut generator = Generator::prepare(plan(address, 200.0, 8)).expect("it listens");
        std::thread::scope(|scope| {
            let runs = scope.spawn(|| {
                let thread = generator.take_thread();
                let abort = AtomicBool::new(false);
                let mut run = || generator.run_once(&thread, Instant::now(), &abort);
                [run(), run()]
            });
            for result in runs.join().expect("no panic") {
                let counts = &result.operations[&Kind::Rest];
                assert_eq!((counts.planned, counts.ok), (60, 60), "{:?}", result.faults);
            }
        });
    }

    #[test]
    fn waiting_for_a_busy_connection_is_response_time_and_not_send_lag() {
        // One connection answers 50 per second and is asked 200 times per second.
        let address = null_server(Duration::from_millis(20));
        let result = run(plan(address, 200.0, 1));
        let lag = result.histograms["rest.send_lag"].value_at_quantile(0.5);
        let wait = result.histograms["rest.connection_wait"].value_at_quantile(0.5);
        assert!(lag < 5_000_000, "{lag}");
        assert!(wait > 20_000_000, "{wait}");
        let counts = &result.operations[&Kind::Rest];
        assert!(counts.timed_out > 0, "{counts:?}");
        assert_eq!(
            result.histograms["rest.response"].len(),
            counts.ok + counts.timed_out
        );
    }

    #[test]
    fn a_server_that_goes_away_makes_failures_and_no_hang() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let generator = Generator::prepare(plan(address, 100.0, 2)).expect("it listens");
        drop(listener);
        let result = generator.run(Instant::now(), &AtomicBool::new(false));
        let counts = &result.operations[&Kind::Rest];
        assert_eq!(counts.planned, 30);
        assert_eq!(counts.failed, 30, "{counts:?}");
    }
}
