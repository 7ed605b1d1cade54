//! What is written down about one repetition of one fault: a line of `faults.jsonl`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One fault caused once to one subject; plain data, with the units in the names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Repetition {
    /// Name of the fault.
    pub fault: String,
    /// Subject's name.
    pub subject: String,
    /// From 0.
    pub repetition: u32,
    /// Why it was not tried, if so; everything below is empty then.
    pub skipped: Option<String>,
    /// Why it says nothing of the subject, if so: the broker did not answer the instrument either.
    /// It is kept, and made again.
    #[serde(default)]
    pub invalid: Option<String>,
    /// From the cause to the end of the fault.
    pub fault_s: f64,
    /// Operations of the whole repetition by kind and by how they ended.
    pub operations: BTreeMap<String, BTreeMap<String, u64>>,
    /// Operations that ended otherwise than well; those that could not even be sent, because the
    /// broker was away or refused, are not among them.
    pub failed: u64,
    /// End of the fault to the first success of REST that one second without a failure follows;
    /// none if that did not come.
    pub rest_recovery_s: Option<f64>,
    /// The same of AMQP: the first reply.
    pub amqp_recovery_s: Option<f64>,
    /// The messages, accounted for.
    pub messages: Messages,
    /// Summed PSS of the process tree just before the fault.
    pub pss_before_bytes: u64,
    /// The same three seconds or more after the end of the fault, under the same load.
    pub pss_after_bytes: u64,
    /// What else was counted, by its name, which says the unit.
    #[serde(default)]
    pub figures: BTreeMap<String, f64>,
    /// What must not be: a death, an orphan, a fault of the instrument.
    pub problems: Vec<String>,
}

/// Every message by its sequence number, counted by what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// Published by the load and confirmed by the broker.
    pub confirmed: u64,
    /// Published by the service, which answered 202.
    pub accepted: u64,
    /// Of both, those whose effect was seen: in a reply or in the store.
    pub applied: u64,
    /// Of both, those in the dead-letter queue.
    pub dead_lettered: u64,
    /// Of both, those still queued when the service had stopped.
    pub still_queued: u64,
    /// Of both, those that were in the queue that the fault deleted.
    pub destroyed: u64,
    /// Of those accepted, those taken by a process that was killed before it could be asked.
    pub unproven: u64,
    /// Of both, those of which nothing remains: must be 0.
    pub lost: u64,
    /// Deliveries that the service took for duplicates, by its own count over all its lives.
    pub duplicates: u64,
    /// Messages that had their effect twice: in two lives of the store, or in one.
    pub repeated: u64,
    /// Some of the lost ones, such as `amqp 17`.
    pub lost_examples: Vec<String>,
}

impl Repetition {
    /// Whether the subject failed: it lost something, did not recover, or did what must not be.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        let recovered = self.rest_recovery_s.is_some() && self.amqp_recovery_s.is_some();
        let was_tried = self.skipped.is_none() && self.invalid.is_none();
        was_tried && (self.messages.lost > 0 || !recovered || !self.problems.is_empty())
    }

    /// Requests that were sent and then cut off or left without an answer.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        let rest = self.operations.iter().filter(|(kind, _)| *kind != "amqp");
        let ways = rest.flat_map(|(_, ways)| ways);
        ways.filter(|(way, _)| ["closed", "timed-out"].contains(&way.as_str()))
            .map(|(_, count)| count)
            .sum()
    }

    /// Memory that was not given back, in bytes; below 0 if there is less than before.
    #[must_use]
    pub fn retained_bytes(&self) -> f64 {
        self.pss_after_bytes as f64 - self.pss_before_bytes as f64
    }
}
