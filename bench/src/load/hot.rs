//! The recorder as the benchmarks of the instrument drive it; no part of the interface.

use super::engine::{Observation, Window};
use super::recorder::Recorder;
use crate::record::{Kind, Operation, OperationOutcome};

/// Time between two operations, in ns.
const GAP_NS: u64 = 1_000_000;

/// A recorder whose window never ends.
#[derive(Debug)]
pub struct Recording(Recorder);

impl Default for Recording {
    fn default() -> Self {
        let window = Window {
            start_ns: 0,
            end_ns: u64::MAX,
        };
        let mut recorder = Recorder::new(window);
        recorder.prepare(Kind::Rest);
        Self(recorder)
    }
}

impl Recording {
    /// Everything that is recorded of one request: planned, got to, sent, and answered.
    pub fn operation(&mut self, seq: u64) {
        let (kind, intended_ns) = (Kind::Rest, seq * GAP_NS);
        let (ready_ns, sent_ns) = (intended_ns + 900, intended_ns + 1_800);
        self.0.planned(kind, intended_ns);
        self.0.lag(kind, intended_ns, ready_ns);
        self.0.observe(&Observation::Sent {
            kind,
            intended_ns,
            ready_ns,
            sent_ns,
        });
        self.0.observe(&done(seq, sent_ns));
    }
}

/// The answer to the request `seq`, 150 to 280 µs after it was sent.
#[must_use]
pub fn done(seq: u64, sent_ns: u64) -> Observation {
    let operation = Operation {
        seq,
        kind: Kind::Rest,
        intended_ns: seq * GAP_NS,
        sent_ns,
        done_ns: sent_ns + 150_000 + (seq * 7_919) % 131_072,
        outcome: OperationOutcome::Ok,
        bytes: 180,
    };
    Observation::Done {
        operation,
        sent: true,
    }
}
