//! What is published, and what became of it.

use amq_protocol::protocol::BasicProperties;

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Exchange; empty for the default exchange.
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// Properties.
    pub properties: BasicProperties,
    /// Body.
    pub body: Vec<u8>,
}

/// What the broker did with a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirm {
    /// Taken.
    Ack,
    /// Refused, for instance by a full queue.
    Nack,
    /// Taken and given back, because no queue is bound.
    Returned,
}

/// Counts of [`super::Session::publish_batch`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Batch {
    /// Handed to the broker.
    pub published: u64,
    /// Taken by the broker.
    pub acked: u64,
    /// Refused by the broker.
    pub nacked: u64,
    /// Given back because no queue is bound.
    pub returned: u64,
}
