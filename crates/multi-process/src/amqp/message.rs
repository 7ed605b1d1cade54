//! Makes the messages that the contract describes: events, replies, broadcasts.
//!
//! Particular to processes: nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use amiquip::{AmqpProperties, AmqpValue, FieldTable, Publish};
use contract::{
    amqp::{CONTENT_TYPE, HEADER_SENT_NS, HEADER_SEQ, PERSISTENT, TRANSIENT},
    shapes::Event,
};

use super::publisher::Answer;

/// How the names start that the broker makes for direct replies.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to.";

/// An event as the body of a message, which borrows it.
pub fn body(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("an event serialises: its maps have string keys")
}

/// An event of a client, with its body.
pub fn event(event: Event, body: &[u8], message_id: String, seq: u64) -> Publish<'_> {
    let properties = event_properties(message_id, seq);
    let mut publish = Publish::with_properties(body, event.key, properties);
    // Or the broker would confirm, and drop, what no queue takes.
    publish.mandatory = true;
    publish
}

/// A reply to whoever published an event, transient: he is waiting now or not at all.
pub fn answer(answer: Answer, body: &[u8]) -> Publish<'_> {
    let mut properties = AmqpProperties::default()
        .with_content_type(CONTENT_TYPE.to_owned())
        .with_delivery_mode(TRANSIENT);
    if let Some(id) = answer.correlation_id {
        properties = properties.with_correlation_id(id);
    }
    // The broker counts its pseudo-queue for direct replies as no queue: every answer to it would be
    // delivered and returned.
    let mandatory = !answer.reply_to.starts_with(DIRECT_REPLY_TO);
    let mut publish = Publish::with_properties(body, answer.reply_to, properties);
    publish.mandatory = mandatory;
    publish
}

/// The service's state for everybody, transient: the next one replaces it.
pub fn broadcast(event: Event, body: &[u8]) -> Publish<'_> {
    let properties = AmqpProperties::default()
        .with_content_type(CONTENT_TYPE.to_owned())
        .with_delivery_mode(TRANSIENT)
        .with_timestamp(since_epoch().as_secs());
    Publish::with_properties(body, event.key, properties)
}

/// Properties that the contract asks of every event.
fn event_properties(message_id: String, seq: u64) -> AmqpProperties {
    let now = since_epoch();
    let sent_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    let headers = FieldTable::from([
        (HEADER_SENT_NS.to_owned(), AmqpValue::LongLongInt(sent_ns)),
        (HEADER_SEQ.to_owned(), AmqpValue::LongLongInt(seq)),
    ]);
    AmqpProperties::default()
        .with_content_type(CONTENT_TYPE.to_owned())
        .with_delivery_mode(PERSISTENT)
        .with_message_id(message_id)
        .with_timestamp(now.as_secs())
        .with_headers(headers)
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
