//! Turns observations into counts and histograms; knows the window, but no clock and no socket.

use std::collections::BTreeMap;
use std::sync::Arc;

use hdrhistogram::Histogram;

use super::engine::{Observation, Window};
use super::live::Live;
use crate::record::{Kind, OperationCounts, OperationOutcome};
use crate::run_dir::Histograms;

/// Highest value that a histogram holds, in ns; higher ones are recorded as this.
const HIGHEST_NS: u64 = 120_000_000_000;
/// Significant decimal digits.
const DIGITS: u8 = 3;

/// Counts and histograms of the operations whose intended instant lies in the window.
#[derive(Debug)]
pub(super) struct Recorder {
    window: Window,
    counts: BTreeMap<Kind, OperationCounts>,
    histograms: BTreeMap<(Kind, &'static str), Histogram<u64>>,
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

    /// The loop got to an operation.
    pub(super) fn lag(&mut self, kind: Kind, intended_ns: u64, ready_ns: u64) {
        self.live.lag(ready_ns.saturating_sub(intended_ns));
        if self.window.contains(intended_ns) {
            self.record(kind, "send_lag", intended_ns, ready_ns);
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
                    self.record(*kind, "connection_wait", *ready_ns, *sent_ns);
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
                self.record(Kind::Amqp, "confirm", *sent_ns, *at_ns);
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
        self.record(kind, "response", operation.intended_ns, operation.done_ns);
        if sent {
            self.in_flight.change(operation.done_ns, -1);
            self.record(kind, "service", operation.sent_ns, operation.done_ns);
        }
    }

    /// A negative duration is a defect of the instrument and never a small number.
    fn record(&mut self, kind: Kind, what: &'static str, from_ns: u64, to_ns: u64) {
        let Some(duration) = to_ns.checked_sub(from_ns) else {
            return self.fault(format!("{}: a duration is negative", tag(kind, what)));
        };
        self.histograms
            .entry((kind, what))
            .or_insert_with(|| {
                Histogram::new_with_bounds(1, HIGHEST_NS, DIGITS).expect("the bounds are valid")
            })
            .saturating_record(duration);
    }

    /// Notes a fault once, however often it is seen.
    pub(super) fn fault(&mut self, fault: String) {
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    pub(super) fn finish(self) -> Recorded {
        let window_ns = (self.window.end_ns - self.window.start_ns).max(1) as f64;
        Recorded {
            counts: self.counts,
            histograms: self
                .histograms
                .into_iter()
                .map(|((kind, what), histogram)| (tag(kind, what), histogram))
                .collect(),
            max_in_flight: u64::try_from(self.in_flight.max).unwrap_or(0),
            mean_in_flight: (self.in_flight.integral_ns / window_ns).max(0.0),
            faults: self.faults,
        }
    }
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
