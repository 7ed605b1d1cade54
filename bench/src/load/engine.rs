//! The loop: sends what is due, waits for answers, and accounts for its own time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::thread::{ClockId, NanosleepRelativeResult, clock_nanosleep_relative};

use super::alarm::{Alarm, LONGEST_LEAD_NS};
use super::clock::Clock;
use super::meter::Meter;
use super::pacer::{Arrival, Pacer};
use super::recorder::Recorder;
use crate::record::{Kind, Operation};

/// Longest sleep, so that deadlines and an abort are seen.
const LONGEST_SLEEP_NS: u64 = 20_000_000;
/// Longest sleep towards a send for which answers may lie in their sockets.
///
/// Being woken costs this loop 10–20 µs of CPU on a virtual machine, several times what an
/// answer costs to read. At 2,000 sends per second and more it therefore wakes up for the sends
/// only; the kernel notes when answers come.
const LONGEST_REST_NS: u64 = 500_000;
/// Time between two looks at the sockets meanwhile.
const REST_READ_NS: u64 = 1_000_000;
/// Time between two looks at the deadlines.
const EXPIRY_NS: u64 = 2_000_000;
/// Events taken from the kernel at once.
pub(super) const EVENTS: usize = 256;

/// The measured window in nanoseconds since the start of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First instant inside.
    pub start_ns: u64,
    /// First instant behind.
    pub end_ns: u64,
}

impl Window {
    /// Whether an instant lies in the window.
    #[must_use]
    pub fn contains(self, at_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&at_ns)
    }
}

/// What a target tells of its operations.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// The first byte is about to be handed to the kernel.
    Sent {
        /// Protocol.
        kind: Kind,
        /// Instant fixed by the schedule.
        intended_ns: u64,
        /// Instant at which the loop got to it.
        ready_ns: u64,
        /// Instant of the write.
        sent_ns: u64,
    },
    /// An operation has ended.
    Done {
        /// The operation.
        operation: Operation,
        /// Whether it was sent at all.
        sent: bool,
    },
    /// The broker confirmed a publish.
    Confirmed {
        /// Instant fixed by the schedule.
        intended_ns: u64,
        /// Instant of the write.
        sent_ns: u64,
        /// Instant of the confirm.
        at_ns: u64,
    },
    /// Something that makes the launch invalid.
    Fault(String),
}

/// One protocol within the loop.
pub trait LoadTarget {
    /// Which protocol.
    fn kind(&self) -> Kind;

    /// Sends the operation `seq` or queues it; never waits.
    fn submit(&mut self, seq: u64, intended_ns: u64, clock: Clock, seen: &mut Vec<Observation>);

    /// Handles readiness of its source `source`.
    fn ready(&mut self, source: u32, clock: Clock, seen: &mut Vec<Observation>);

    /// Ends every operation whose deadline has passed.
    fn expire(&mut self, clock: Clock, seen: &mut Vec<Observation>);

    /// Operations that have not ended, queued ones included.
    fn pending(&self) -> usize;

    /// Whether answers may be read later without anything being late: they bear the instant of
    /// their arrival, and nothing waits for them.
    fn may_rest(&self) -> bool {
        false
    }

    /// Whether something else than an operation is still awaited, such as a confirm.
    fn unsettled(&self) -> bool {
        false
    }

    /// Messages handed to a broker and those that it confirmed, warm-up included.
    fn published_and_confirmed(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// How the operations of a stream are due.
pub(super) enum Pacing {
    /// By a schedule.
    Open {
        arrival: Box<Arrival>,
        pacer: Box<dyn Pacer + Send>,
        next_ns: u64,
        /// Number of the schedule's first operation: higher than 0 if it was run before.
        first_seq: u64,
    },
    /// As soon as fewer than this number are pending.
    Closed { connections: usize },
}

impl Pacing {
    fn open(arrival: Arrival, now: Arrival, first_seq: u64) -> Self {
        let mut pacer = now.pacer();
        let next_ns = pacer.intended_ns(0);
        Self::Open {
            arrival: Box::new(arrival),
            pacer,
            next_ns,
            first_seq,
        }
    }
}

/// A target with its pacing.
pub(super) struct Stream {
    pub(super) target: Box<dyn LoadTarget + Send>,
    pacing: Pacing,
    seq: u64,
}

impl Stream {
    pub(super) fn open(target: Box<dyn LoadTarget + Send>, arrival: Arrival) -> Self {
        Self {
            target,
            pacing: Pacing::open(arrival, arrival, 0),
            seq: 0,
        }
    }

    /// Begins its schedule again; `turn` counts how often.
    pub(super) fn rewind(&mut self, turn: u64) {
        if let Pacing::Open { arrival, .. } = &self.pacing {
            self.pacing = Pacing::open(**arrival, arrival.again(turn), self.seq);
        }
    }

    pub(super) fn closed(target: Box<dyn LoadTarget + Send>, connections: usize) -> Self {
        Self {
            target,
            pacing: Pacing::Closed { connections },
            seq: 0,
        }
    }

    /// When the next operation is due; `None` for a closed loop.
    fn next_ns(&self) -> Option<u64> {
        match self.pacing {
            Pacing::Open { next_ns, .. } => Some(next_ns),
            Pacing::Closed { .. } => None,
        }
    }

    /// Takes the next operation if it is due: its number and its intended instant.
    fn take_due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let intended_ns = match &mut self.pacing {
            Pacing::Open {
                pacer,
                next_ns,
                first_seq,
                ..
            } => {
                let due_ns = *next_ns;
                if due_ns > now_ns {
                    return None;
                }
                *next_ns = pacer.intended_ns(self.seq + 1 - *first_seq);
                due_ns
            }
            Pacing::Closed { connections } if self.target.pending() < *connections => now_ns,
            Pacing::Closed { .. } => return None,
        };
        self.seq += 1;
        Some((self.seq - 1, intended_ns))
    }
}

/// The loop's state.
pub(super) struct Engine<'a> {
    pub(super) poll: &'a OwnedFd,
    pub(super) streams: &'a mut [Stream],
    pub(super) window: Window,
    /// Deadline of an operation after its intended instant.
    pub(super) timeout_ns: u64,
    pub(super) abort: &'a AtomicBool,
    pub(super) recorder: Recorder,
    pub(super) clock: Clock,
    pub(super) meter: Meter,
    pub(super) alarm: Alarm,
    /// When to look next for answers that lie in their sockets.
    pub(super) read_ns: u64,
    /// Room for what the kernel tells at once; empty between two looks.
    pub(super) events: Vec<epoll::Event>,
}

impl Engine<'_> {
    /// Runs the schedule to its end and waits for the last answers.
    ///
    /// # Errors
    /// If the kernel refuses to poll.
    pub(super) fn run(&mut self) -> std::io::Result<()> {
        let mut seen = Vec::with_capacity(EVENTS);
        let mut expiry_ns = 0;
        loop {
            self.send_due(&mut seen);
            let now_ns = self.clock.now_ns();
            self.meter.look(self.window, now_ns);
            if now_ns >= expiry_ns {
                self.expire(&mut seen);
                expiry_ns = now_ns + EXPIRY_NS;
            }
            if self.is_over(now_ns) {
                break;
            }
            self.wait(now_ns, &mut seen)?;
        }
        self.count_unsent();
        Ok(())
    }

    fn send_due(&mut self, seen: &mut Vec<Observation>) {
        for stream in self.streams.iter_mut() {
            let kind = stream.target.kind();
            loop {
                let now_ns = self.clock.now_ns();
                // Here as well: a loop that never gets out of this one is the busiest of all.
                self.meter.look(self.window, now_ns);
                let is_open = stream
                    .next_ns()
                    .is_some_and(|next| next < self.window.end_ns);
                let is_closed = stream.next_ns().is_none() && now_ns < self.window.end_ns;
                if !(is_open || is_closed) || self.abort.load(Ordering::Relaxed) {
                    break;
                }
                let Some((seq, intended_ns)) = stream.take_due(now_ns) else {
                    break;
                };
                self.recorder.planned(kind, intended_ns);
                self.recorder.lag(kind, intended_ns, now_ns);
                if now_ns - intended_ns > self.timeout_ns {
                    self.recorder.not_sent(kind, intended_ns);
                    continue;
                }
                stream.target.submit(seq, intended_ns, self.clock, seen);
            }
        }
        self.record(seen);
    }

    fn record(&mut self, seen: &mut Vec<Observation>) {
        for observation in seen.drain(..) {
            self.recorder.observe(&observation);
        }
    }

    fn expire(&mut self, seen: &mut Vec<Observation>) {
        for stream in self.streams.iter_mut() {
            stream.target.expire(self.clock, seen);
        }
        self.record(seen);
    }

    /// Whether nothing is due and nothing is awaited any more.
    fn is_over(&self, now_ns: u64) -> bool {
        if self.abort.load(Ordering::Relaxed) {
            return true;
        }
        let settled = |stream: &Stream| {
            stream.target.pending() == 0
                && (!stream.target.unsettled() || now_ns > self.window.end_ns + self.timeout_ns)
        };
        now_ns >= self.window.end_ns && self.streams.iter().all(settled)
    }

    /// Waits until shortly before the next send, or until something can be read.
    fn wait(&mut self, now_ns: u64, seen: &mut Vec<Observation>) -> std::io::Result<()> {
        let sleep_ns = self.sleep_ns(now_ns);
        if sleep_ns <= LONGEST_REST_NS && self.may_rest() {
            return self.rest(now_ns, sleep_ns, seen);
        }
        let woken = self.poll(sleep_ns, seen)?;
        if !woken && sleep_ns > 0 {
            self.alarm.rang(now_ns + sleep_ns, self.clock.now_ns());
        } else if !woken {
            self.meter.spun(self.clock.now_ns() - now_ns);
        }
        Ok(())
    }

    /// Waits for the next send, and reads what has come only now and then.
    fn rest(
        &mut self,
        now_ns: u64,
        sleep_ns: u64,
        seen: &mut Vec<Observation>,
    ) -> std::io::Result<()> {
        if now_ns >= self.read_ns {
            self.read_ns = now_ns + REST_READ_NS;
            self.poll(0, seen)?;
        }
        self.sleep_until(now_ns + sleep_ns);
        self.spin_until_due();
        Ok(())
    }

    fn may_rest(&self) -> bool {
        self.streams.iter().all(|stream| stream.target.may_rest())
    }

    /// Looks for readiness for at most that long; whether there was any.
    fn poll(&mut self, timeout_ns: u64, seen: &mut Vec<Observation>) -> std::io::Result<bool> {
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(self.poll.as_fd(), room, Some(&timespec(timeout_ns))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let woken = !self.events.is_empty();
        for event in self.events.drain(..) {
            let token = event.data.u64();
            let (stream, source) = ((token >> 32) as usize, token as u32);
            self.streams[stream].target.ready(source, self.clock, seen);
        }
        self.record(seen);
        Ok(woken)
    }

    /// Sleeps whatever comes; a signal may end it early, which the loop does not mind.
    fn sleep_until(&mut self, until_ns: u64) {
        let left_ns = until_ns.saturating_sub(self.clock.now_ns());
        if left_ns == 0 {
            return;
        }
        let slept = clock_nanosleep_relative(ClockId::Monotonic, &timespec(left_ns));
        if matches!(slept, NanosleepRelativeResult::Ok) {
            self.alarm.rang(until_ns, self.clock.now_ns());
        }
    }

    /// Watches the clock until the next send is due, for as long as an alarm may be early.
    fn spin_until_due(&mut self) {
        let begun_ns = self.clock.now_ns();
        let latest_ns = begun_ns + LONGEST_LEAD_NS;
        let due_ns = self
            .next_send_ns()
            .map_or(begun_ns, |due| due.min(latest_ns));
        let mut now_ns = begun_ns;
        while now_ns < due_ns {
            std::hint::spin_loop();
            now_ns = self.clock.now_ns();
        }
        self.meter.spun(now_ns - begun_ns);
    }

    fn next_send_ns(&self) -> Option<u64> {
        self.streams
            .iter()
            .filter_map(Stream::next_ns)
            .filter(|next| *next < self.window.end_ns)
            .min()
    }

    fn sleep_ns(&self, now_ns: u64) -> u64 {
        let next_send = self.next_send_ns();
        // The edges of the window are instants to wake up for, too: the meter reads there.
        let next_edge = [self.window.start_ns, self.window.end_ns]
            .into_iter()
            .find(|edge| *edge > now_ns);
        let lead_ns = self.alarm.lead_ns();
        let send_gap = next_send.map(|next| next.saturating_sub(now_ns).saturating_sub(lead_ns));
        let edge_gap = next_edge.map(|edge| edge - now_ns);
        [send_gap, edge_gap, Some(LONGEST_SLEEP_NS)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(LONGEST_SLEEP_NS)
    }

    /// After an abort: the rest of the schedule was planned and not sent.
    fn count_unsent(&mut self) {
        for stream in self.streams.iter_mut() {
            let kind = stream.target.kind();
            while stream
                .next_ns()
                .is_some_and(|next| next < self.window.end_ns)
            {
                let Some((_, intended_ns)) = stream.take_due(u64::MAX) else {
                    break;
                };
                self.recorder.planned(kind, intended_ns);
                self.recorder.not_sent(kind, intended_ns);
            }
        }
    }
}

/// At most [`LONGEST_SLEEP_NS`].
fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: 0,
        tv_nsec: i64::try_from(ns).expect("at most 20 ms"),
    }
}

/// Sleeps until `start`, precisely enough that the first operation is not late.
pub(super) fn await_start(start: Instant) {
    let left = start.saturating_duration_since(Instant::now());
    std::thread::sleep(left.saturating_sub(Duration::from_micros(100)));
}

#[cfg(test)]
mod tests;
