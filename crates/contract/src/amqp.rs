//! AMQP names and the topology that every instance declares idempotently.
//!
//! The topology is data, so that two client libraries with different table types declare the very
//! same objects.

use crate::settings::QueueType;

/// Topic exchange on which sensor events arrive.
pub const HISTORY_EXCHANGE: &str = "brewcast.history";
/// Topic exchange on which the service publishes its state.
pub const STATE_EXCHANGE: &str = "brewcast.state";
/// Dead-letter exchange.
pub const DEAD_LETTER_EXCHANGE: &str = "brewcast.dlx";
/// Every exchange, all of type `topic` and durable.
pub const EXCHANGES: [&str; 3] = [HISTORY_EXCHANGE, STATE_EXCHANGE, DEAD_LETTER_EXCHANGE];
/// Queue from which the service ingests.
pub const INGEST_QUEUE: &str = "history.ingest";
/// Queue of dead-lettered messages.
pub const DEAD_LETTER_QUEUE: &str = "history.ingest.dlq";
/// How the queues are named in which requesters want their replies: exclusive, auto-delete, and named
/// by the client, so that a name stays the same over a reconnect.
pub const REQUEST_QUEUES: &str = "history.request.";
/// Header with the publisher's clock, nanoseconds since the epoch (`long-long-int`).
pub const HEADER_SENT_NS: &str = "x-sent-ns";
/// Header with the publisher's sequence number (`long-long-int`).
pub const HEADER_SEQ: &str = "x-seq";
/// Content type of every body.
pub const CONTENT_TYPE: &str = "application/json";
/// `delivery_mode` of events: persistent.
pub const PERSISTENT: u8 = 2;
/// `delivery_mode` of answers and broadcasts: worthless after a restart of the broker.
pub const TRANSIENT: u8 = 1;

/// Value of a queue argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentValue {
    /// `longstr`.
    Text(&'static str),
    /// `signed long`.
    Number(i32),
}

/// Name and value of a queue argument.
pub type Argument = (&'static str, ArgumentValue);

/// A durable queue with its binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Name.
    pub name: &'static str,
    /// Arguments of `queue.declare`.
    pub arguments: Vec<Argument>,
    /// Exchange that it is bound to with the routing key `#`.
    pub bound_to: &'static str,
}

/// The durable queues, dead-letter queue first so that nothing can be lost in between.
///
/// A classic queue knows no delivery limit and no at-least-once dead-lettering; these arguments
/// are left out there.
#[must_use]
pub fn queues(queue_type: QueueType) -> [Queue; 2] {
    use ArgumentValue::{Number, Text};
    let mut ingest = vec![
        ("x-queue-type", Text(queue_type.as_str())),
        ("x-dead-letter-exchange", Text(DEAD_LETTER_EXCHANGE)),
        ("x-max-length", Number(100_000)),
        ("x-overflow", Text("reject-publish")),
    ];
    if queue_type == QueueType::Quorum {
        ingest.push(("x-delivery-limit", Number(3)));
        ingest.push(("x-dead-letter-strategy", Text("at-least-once")));
    }
    [
        Queue {
            name: DEAD_LETTER_QUEUE,
            arguments: vec![("x-queue-type", Text(queue_type.as_str()))],
            bound_to: DEAD_LETTER_EXCHANGE,
        },
        Queue {
            name: INGEST_QUEUE,
            arguments: ingest,
            bound_to: HISTORY_EXCHANGE,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_quorum_queue_has_a_delivery_limit() {
        let has_limit = |queue_type| {
            queues(queue_type)[1]
                .arguments
                .iter()
                .any(|(name, _)| *name == "x-delivery-limit")
        };
        assert!(has_limit(QueueType::Quorum));
        assert!(!has_limit(QueueType::Classic));
    }

    #[test]
    fn a_full_queue_refuses_publishes_instead_of_dropping_messages() {
        for queue_type in [QueueType::Quorum, QueueType::Classic] {
            let [_, ingest] = queues(queue_type);
            assert!(
                ingest
                    .arguments
                    .contains(&("x-overflow", ArgumentValue::Text("reject-publish")))
            );
        }
    }
}
