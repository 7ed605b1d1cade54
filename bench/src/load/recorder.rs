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
/// Times whose course over the window is looked at: is the subject in a steady state, and does the
/// generator drift?
const IN_PARTS: [&str; 2] = ["response", "send_lag"];

/// Counts and histograms of the operations whose intended instant lies in the window.
#[derive(Debug)]
pub(super) struct Recorder {
    window: Window,
    counts: BTreeMap<Kind, OperationCounts>,
    /// One histogram for each part of the window, or one for the whole.
    histograms: BTreeMap<(Kind, &'static str), Vec<Histogram<u64>>>,
    /// When the loop got to the last operation of a kind.
    last_ready_ns: BTreeMap<Kind, u64>,
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
            counts: BTreeMap::new(),
            histograms: BTreeMap::new(),
            last_ready_ns: BTreeMap::new(),
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

    /// The schedule's next operation has become due, or never will.
    pub(super) fn planned(&mut self, kind: Kind, intended_ns: u64) {
        self.prepare(kind);
        if self.window.contains(intended_ns) {
            self.counts.entry(kind).or_default().planned += 1;
        }
    }

    /// An operation that was never handed to its target.
    pub(super) fn not_sent(&mut self, kind: Kind, intended_ns: u64) {
        if self.window.contains(intended_ns) {
            self.counts.entry(kind).or_default().not_sent += 1;
        }
    }

    /// The loop got to an operation: how late, and how long after the one before.
    pub(super) fn lag(&mut self, kind: Kind, intended_ns: u64, ready_ns: u64) {
        let before_ns = self.last_ready_ns.insert(kind, ready_ns);
        self.live.lag(ready_ns.saturating_sub(intended_ns));
        if self.window.contains(intended_ns) {
            self.record(kind, "send_lag", intended_ns, (intended_ns, ready_ns));
            if let Some(before_ns) = before_ns {
                self.record(kind, "send_gap", intended_ns, (before_ns, ready_ns));
            }
        }
    }

    /// Makes the histograms of a kind before its first operation, which as a rule is one of the
    /// warm-up: their memory is asked for at once and taken page by page as values come.
    ///
    /// Each value goes into the histogram of its part alone; the sum is made at the end.
    fn prepare(&mut self, kind: Kind) {
        if self.histograms.contains_key(&(kind, IN_PARTS[0])) {
            return;
        }
        for what in IN_PARTS {
            let parts = (0..PARTS).map(|_| empty()).collect();
            self.histograms.insert((kind, what), parts);
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
                self.counts.entry(*kind).or_default().issued += 1;
                if *kind == Kind::Rest {
                    let wait = (*ready_ns, *sent_ns);
                    self.record(*kind, "connection_wait", *intended_ns, wait);
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
                self.record(Kind::Amqp, "confirm", *intended_ns, (*sent_ns, *at_ns));
            }
            Observation::Fault(fault) => self.fault(fault.clone()),
            Observation::Sent { .. } | Observation::Confirmed { .. } => {}
        }
    }

    fn done(&mut self, operation: &crate::record::Operation, sent: bool) {
        let counts = self.counts.entry(operation.kind).or_default();
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
        self.record(kind, "response", intended_ns, (intended_ns, done_ns));
        if sent {
            self.in_flight.change(done_ns, -1);
            let service = (operation.sent_ns, done_ns);
            self.record(kind, "service", intended_ns, service);
        }
    }

    /// A negative duration is a defect of the instrument and never a small number.
    fn record(
        &mut self,
        kind: Kind,
        what: &'static str,
        intended_ns: u64,
        (from_ns, to_ns): (u64, u64),
    ) {
        let Some(duration) = to_ns.checked_sub(from_ns) else {
            return self.fault(format!("{}: a duration is negative", tag(kind, what)));
        };
        let parts = self
            .histograms
            .entry((kind, what))
            .or_insert_with(|| vec![empty()]);
        let part = match parts.len() {
            1 => 0,
            count => part(self.window, intended_ns).min(count - 1),
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
        let (mut histograms, mut intervals) = (Histograms::new(), Intervals::new());
        for ((kind, what), parts) in self.histograms {
            let whole = sum(&parts);
            if whole.is_empty() {
                continue;
            }
            histograms.insert(tag(kind, what), whole);
            if parts.len() > 1 {
                intervals.insert(tag(kind, what), parts);
            }
        }
        Recorded {
            counts: self.counts,
            histograms,
            intervals,
            max_in_flight: u64::try_from(self.in_flight.max).unwrap_or(0),
            mean_in_flight: (self.in_flight.integral_ns / window_ns).max(0.0),
            faults: self.faults,
        }
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

fn tag(kind: Kind, what: &str) -> String {
    match kind {
        Kind::Rest => format!("rest.{what}"),
        Kind::Amqp => format!("amqp.{what}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Operation;

    fn recorder() -> Recorder {
        Recorder::new(Window {
            start_ns: 100,
            end_ns: 1_100,
        })
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
