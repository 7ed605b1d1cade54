//! Makes the messages that the contract describes: events, replies, broadcasts.
//!
//! Particular to tasks: nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use contract::{
    amqp::{
        CONTENT_TYPE, HEADER_SENT_NS, HEADER_SEQ, HISTORY_EXCHANGE, PERSISTENT, STATE_EXCHANGE,
        TRANSIENT,
    },
    shapes::Event,
};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

/// Begin of the names that stand for a client's channel instead of a queue.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A message with its address.
#[derive(Debug)]
pub struct Message {
    /// Exchange.
    pub exchange: &'static str,
    /// Routing key.
    pub routing_key: ShortString,
    /// Whether the broker returns it if no queue takes it.
    pub mandatory: bool,
    /// Properties.
    pub properties: BasicProperties,
    /// Body.
    pub body: Vec<u8>,
}

/// An event of a client.
pub fn event(event: &Event, message_id: &str, seq: i64) -> Message {
    let sent = since_epoch();
    let mut headers = FieldTable::default();
    // Nanoseconds fit into 63 bits until the year 2262.
    let sent_ns = i64::try_from(sent.as_nanos()).unwrap_or(i64::MAX);
    headers.insert(HEADER_SENT_NS.into(), AMQPValue::LongLongInt(sent_ns));
    headers.insert(HEADER_SEQ.into(), AMQPValue::LongLongInt(seq));
    Message {
        exchange: HISTORY_EXCHANGE,
        routing_key: event.key.as_str().into(),
        // Or the broker would confirm, and drop, what no queue takes.
        mandatory: true,
        properties: BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(message_id.into())
            .with_timestamp(sent.as_secs())
            .with_headers(headers),
        body: to_json(event),
    }
}

/// A reply to whoever published an event, transient: he is waiting now or not at all.
pub fn reply(reply_to: ShortString, correlation_id: Option<ShortString>, body: Vec<u8>) -> Message {
    let mut properties = BasicProperties::default()
        .with_content_type(CONTENT_TYPE.into())
        .with_delivery_mode(TRANSIENT);
    if let Some(id) = correlation_id {
        properties = properties.with_correlation_id(id);
    }
    Message {
        exchange: "",
        // The broker delivers direct replies past its queues, and so it would return each of
        // them as unroutable although it arrived.
        mandatory: !reply_to.as_str().starts_with(DIRECT_REPLY_TO),
        routing_key: reply_to,
        properties,
        body,
    }
}

/// The service's state for everybody, transient: the next one replaces it.
pub fn broadcast(event: &Event) -> Message {
    Message {
        exchange: STATE_EXCHANGE,
        routing_key: event.key.as_str().into(),
        mandatory: false,
        properties: BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(TRANSIENT)
            .with_timestamp(since_epoch().as_secs()),
        body: to_json(event),
    }
}

fn to_json(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("an event serialises: its maps have string keys")
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
