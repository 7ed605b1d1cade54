//! Turns observations into counts and histograms; knows the window, but no clock and no socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use hdrhistogram::Histogram;

use super::engine::{Observation, Window};
use super::live::Live;
use crate::record::{Kind, OperationCounts, OperationOutcome};
use crate::run_dir::{Histograms, Intervals};

/// Highest value that a histogram holds, in ns; higher ones are recorded as this.
const HIGHEST_NS: u64 = 120_000_000_000;
/// Significant decimal digits.
const DIGITS: u8 = 3;
/// Equal parts of the window for which [`IN_PARTS`] are kept apart.
const PARTS: u64 = 20;

/// What is recorded of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Response,
    SendLag,
    SendGap,
    ConnectionWait,
    Service,
    Confirm,
}

impl Time {
    const ALL: [Self; 6] = [
        Self::Response,
        Self::SendLag,
        Self::SendGap,
        Self::ConnectionWait,
        Self::Service,
        Self::Confirm,
    ];

    /// Whether its course over the window is looked at: is the subject in a steady state, and does
    /// the generator drift?
    fn is_in_parts(self) -> bool {
        matches!(self, Self::Response | Self::SendLag)
    }

    fn tag(self, kind: Kind) -> String {
        let what = match self {
            Self::Response => "response",
            Self::SendLag => "send_lag",
            Self::SendGap => "send_gap",
            Self::ConnectionWait => "connection_wait",
            Self::Service => "service",
            Self::Confirm => "confirm",
        };
        match kind {
            Kind::Rest => format!("rest.{what}"),
            Kind::Amqp => format!("amqp.{what}"),
        }
    }
}

/// One of the two kinds of operation, as it happens.
#[derive(Debug, Default)]
struct Series {
    counts: OperationCounts,
    /// By [`Time`]: one histogram for each part of the window, or one for the whole.
    times: [Vec<Histogram<u64>>; Time::ALL.len()],
    /// When the loop got to the last operation.
    last_ready_ns: Option<u64>,
}

/// Counts and histograms of the operations whose intended instant lies in the window.
#[derive(Debug)]
pub(super) struct Recorder {
    window: Window,
    rest: Series,
    amqp: Series,
    in_flight: InFlight,
    faults: Vec<String>,
    live: Arc<Live>,
}

/// Operations between first byte and answer, integrated over time: an independent witness for
/// Little's law.
#[derive(Debug, Default)]
struct InFlight {
    now: i64,
    max: i64,
    since_ns: u64,
    integral_ns: f64,
}

impl InFlight {
    fn change(&mut self, at_ns: u64, by: i64) {
        // Two targets report in the order in which they were looked at, which may differ by
        // some microseconds from the order of their instants.
        let elapsed = at_ns as f64 - self.since_ns as f64;
        self.integral_ns += elapsed * self.now as f64;
        self.since_ns = at_ns;
        self.now += by;
        self.max = self.max.max(self.now);
    }
}

impl Recorder {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window,
            rest: Series::default(),
            amqp: Series::default(),
            in_flight: InFlight::default(),
            faults: Vec::new(),
            live: Arc::default(),
        }
    }

    /// Feeds these counts as well, which others look at meanwhile.
    pub(super) fn shown_by(mut self, live: Arc<Live>) -> Self {
        self.live = live;
        self
    }

    fn of(&mut self, kind: Kind) -> &mut Series {
        match kind {
            Kind::Rest => &mut self.rest,
            Kind::Amqp => &mut self.amqp,
        }
    }

    /// The schedule's next operation has become due, or never will.
    pub(super) fn planned(&mut self, kind: Kind, intended_ns: u64) {
        if self.window.contains(intended_ns) {
            self.of(kind).counts.planned += 1;
        }
    }

    /// An operation that was never handed to its target.
    pub(super) fn not_sent(&mut self, kind: Kind, intended_ns: u64) {
        if self.window.contains(intended_ns) {
            self.of(kind).counts.not_sent += 1;
        }
    }

    /// The loop got to an operation: how late, and how long after the one before.
    pub(super) fn lag(&mut self, kind: Kind, intended_ns: u64, ready_ns: u64) {
        let before_ns = self.of(kind).last_ready_ns.replace(ready_ns);
        self.live.lag(ready_ns.saturating_sub(intended_ns));
        if self.window.contains(intended_ns) {
            self.record(kind, Time::SendLag, intended_ns, (intended_ns, ready_ns));
            if let Some(before_ns) = before_ns {
                self.record(kind, Time::SendGap, intended_ns, (before_ns, ready_ns));
            }
        }
    }

    /// Makes the histograms of a kind, before the load begins so that no operation is late by it: their
    /// memory is asked for at once and taken page by page as values come.
    ///
    /// Each value goes into the histogram of its part alone; the sum is made at the end.
    pub(super) fn prepare(&mut self, kind: Kind) {
        let times = &mut self.of(kind).times;
        for time in Time::ALL.into_iter().filter(|time| time.is_in_parts()) {
            times[time as usize] = (0..PARTS).map(|_| empty()).collect();
        }
    }

    pub(super) fn observe(&mut self, observation: &Observation) {
        self.live.observe(observation);
        match observation {
            Observation::Sent {
                kind,
                intended_ns,
                ready_ns,
                sent_ns,
            } if self.window.contains(*intended_ns) => {
                self.in_flight.change(*sent_ns, 1);
                self.of(*kind).counts.issued += 1;
                if *kind == Kind::Rest {
                    let wait = (*ready_ns, *sent_ns);
                    self.record(*kind, Time::ConnectionWait, *intended_ns, wait);
                }
            }
            Observation::Done { operation, sent } => {
                if self.window.contains(operation.intended_ns) {
                    self.done(operation, *sent);
                }
            }
            Observation::Confirmed {
                intended_ns,
                sent_ns,
                at_ns,
            } if self.window.contains(*intended_ns) => {
                self.record(Kind::Amqp, Time::Confirm, *intended_ns, (*sent_ns, *at_ns));
            }
            Observation::Fault(fault) => self.fault(fault.clone()),
            Observation::Sent { .. } | Observation::Confirmed { .. } => {}
        }
    }

    fn done(&mut self, operation: &crate::record::Operation, sent: bool) {
        let counts = &mut self.of(operation.kind).counts;
        counts.bytes += u64::from(operation.bytes);
        match operation.outcome {
            OperationOutcome::Ok => counts.ok += 1,
            OperationOutcome::Wrong => counts.wrong += 1,
            OperationOutcome::Failed => counts.failed += 1,
            OperationOutcome::TimedOut => counts.timed_out += 1,
            OperationOutcome::NotSent => counts.not_sent += 1,
        }
        if operation.outcome == OperationOutcome::NotSent {
            return;
        }
        let kind = operation.kind;
        let (intended_ns, done_ns) = (operation.intended_ns, operation.done_ns);
        self.record(kind, Time::Response, intended_ns, (intended_ns, done_ns));
        if sent {
            self.in_flight.change(done_ns, -1);
            let service = (operation.sent_ns, done_ns);
            self.record(kind, Time::Service, intended_ns, service);
        }
    }

    /// A negative duration is a defect of the instrument and never a small number.
    fn record(&mut self, kind: Kind, time: Time, intended_ns: u64, (from_ns, to_ns): (u64, u64)) {
        let Some(duration) = to_ns.checked_sub(from_ns) else {
            return self.fault(format!("{}: a duration is negative", time.tag(kind)));
        };
        let window = self.window;
        let parts = &mut self.of(kind).times[time as usize];
        if parts.is_empty() {
            parts.push(empty());
        }
        let part = match parts.len() {
            1 => 0,
            count => part(window, intended_ns).min(count - 1),
        };
        parts[part].saturating_record(duration);
    }

    /// Notes a fault once, however often it is seen.
    pub(super) fn fault(&mut self, fault: String) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    pub(super) fn finish(self) -> Recorded {
        let window_ns = (self.window.end_ns - self.window.start_ns).max(1) as f64;
        let mut recorded = Recorded {
            max_in_flight: u64::try_from(self.in_flight.max).unwrap_or(0),
            mean_in_flight: (self.in_flight.integral_ns / window_ns).max(0.0),
            faults: self.faults,
            ..Recorded::default()
        };
        recorded.take(Kind::Rest, self.rest);
        recorded.take(Kind::Amqp, self.amqp);
        recorded
    }
}

/// The part of the window in which an instant lies.
fn part(window: Window, at_ns: u64) -> usize {
    let length_ns = (window.end_ns - window.start_ns).max(1);
    let since_ns = at_ns.saturating_sub(window.start_ns);
    // Twenty times a window of a whole year fits.
    usize::try_from(since_ns.saturating_mul(PARTS) / length_ns).unwrap_or(usize::MAX)
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, HIGHEST_NS, DIGITS).expect("the bounds are valid")
}

fn sum(parts: &[Histogram<u64>]) -> Histogram<u64> {
    let mut whole = empty();
    for part in parts {
        whole.add(part).expect("all have the same bounds");
    }
    whole
}

/// What a recorder holds at the end.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) counts: BTreeMap<Kind, OperationCounts>,
    pub(super) histograms: Histograms,
    pub(super) intervals: Intervals,
    pub(super) max_in_flight: u64,
    pub(super) mean_in_flight: f64,
    pub(super) faults: Vec<String>,
}

impl Recorded {
    /// A kind of which nothing was planned leaves nothing.
    fn take(&mut self, kind: Kind, series: Series) {
        if series.counts != OperationCounts::default() {
            self.counts.insert(kind, series.counts);
        }
        for (time, parts) in Time::ALL.into_iter().zip(series.times) {
            let whole = sum(&parts);
            if whole.is_empty() {
                continue;
            }
            self.histograms.insert(time.tag(kind), whole);
            if parts.len() > 1 {
                self.intervals.insert(time.tag(kind), parts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Operation;

    fn recorder() -> Recorder {
        let mut recorder = Recorder::new(Window {
            start_ns: 100,
            end_ns: 1_100,
        });
        recorder.prepare(Kind::Rest);
        recorder.prepare(Kind::Amqp);
        recorder
    }

    fn operation(intended_ns: u64, done_ns: u64, outcome: OperationOutcome) -> Observation {
        Observation::Done {
            operation: Operation {
                seq: 0,
                kind: Kind::Rest,
                intended_ns,
                sent_ns: intended_ns + 10,
                done_ns,
                outcome,
                bytes: 3,
            },
            sent: true,
        }
    }

    fn sent(intended_ns: u64) -> Observation {
        Observation::Sent {
            kind: Kind::Rest,
            intended_ns,
            ready_ns: intended_ns + 4,
            sent_ns: intended_ns + 10,
        }
    }

    #[test]
    fn only_operations_intended_in_the_window_count() {
        let mut recorder = recorder();
        for intended_ns in [99, 100, 1_099, 1_100] {
            recorder.planned(Kind::Rest, intended_ns);
            recorder.observe(&sent(intended_ns));
            recorder.observe(&operation(intended_ns, 2_000, OperationOutcome::Ok));
        }
        let recorded = recorder.finish();
        let counts = &recorded.counts[&Kind::Rest];
        assert_eq!((counts.planned, counts.issued, counts.ok), (2, 2, 2));
        assert_eq!(counts.bytes, 6);
    }

    #[test]
    fn response_time_counts_from_the_intended_instant_and_waits_are_kept_apart() {
        let mut recorder = recorder();
        recorder.observe(&sent(200));
        recorder.observe(&operation(200, 700, OperationOutcome::TimedOut));
        let recorded = recorder.finish();
        assert_eq!(recorded.histograms["rest.response"].max(), 500);
        assert_eq!(recorded.histograms["rest.service"].max(), 490);
        assert_eq!(recorded.histograms["rest.connection_wait"].max(), 6);
    }

    #[test]
    fn each_operation_is_kept_in_the_part_of_its_intended_instant() {
        let mut recorder = recorder();
        recorder.planned(Kind::Rest, 100);
        for intended_ns in [100, 149, 150, 1_099] {
            recorder.observe(&operation(
                intended_ns,
                intended_ns + 700,
                OperationOutcome::Ok,
            ));
        }
        let recorded = recorder.finish();
        let parts: Vec<u64> = recorded.intervals["rest.response"]
            .iter()
            .map(Histogram::len)
            .collect();
        let mut expected = vec![0; 20];
        (expected[0], expected[1], expected[19]) = (2, 1, 1);
        assert_eq!(parts, expected);
        assert_eq!(recorded.histograms["rest.response"].len(), 4);
        assert!(!recorded.histograms.contains_key("rest.send_lag"));
    }

    #[test]
    fn a_gap_is_the_time_between_two_sends_and_reaches_back_into_the_warm_up() {
        let mut recorder = recorder();
        for (intended_ns, ready_ns) in [(50, 60), (150, 155), (250, 290)] {
            recorder.lag(Kind::Rest, intended_ns, ready_ns);
        }
        let gaps = &recorder.finish().histograms["rest.send_gap"];
        assert_eq!((gaps.len(), gaps.min(), gaps.max()), (2, 95, 135));
    }

    #[test]
    fn in_flight_obeys_littles_law() {
        let mut recorder = recorder();
        for intended_ns in (100..1_100).step_by(100) {
            recorder.observe(&sent(intended_ns));
            recorder.observe(&operation(
                intended_ns,
                intended_ns + 60,
                OperationOutcome::Ok,
            ));
        }
        // Ten operations of 50 ns each in 1,000 ns.
        assert!((recorder.finish().mean_in_flight - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_negative_duration_is_a_fault() {
        let mut recorder = recorder();
        recorder.observe(&operation(200, 150, OperationOutcome::Ok));
        assert!(!recorder.finish().faults.is_empty());
    }
}
