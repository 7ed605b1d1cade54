//! The AMQP side of the load: publishes events with `reply_to` and waits for the replies.
//!
//! Replies come through an exclusive queue of their own and not through RabbitMQ's direct
//! reply-to: replies are `mandatory` by contract, and the broker returns each mandatory reply to
//! `amq.rabbitmq.reply-to` as unroutable although it delivers it, which would double the
//! subject's work (seen on 3.10).

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::clock::{Clock, Inbox};
use super::engine::{LoadTarget, Observation};
use super::request::key;
use crate::amqp::{
    AMQPValue, BasicProperties, Connection, Delivery, Event, FieldTable, Message, Route, Session,
};
use crate::record::{Kind, Operation, OperationOutcome};

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// What the AMQP load publishes.
#[derive(Debug, Clone)]
pub struct AmqpPlan {
    /// Broker.
    pub url: String,
    /// Start of every message id; unique for each launch, or the subject would take the events
    /// for duplicates of an earlier one.
    pub id_prefix: String,
    /// Length of an event's body in bytes.
    pub payload_bytes: usize,
}

/// A published event.
#[derive(Debug, Clone, Copy)]
struct Published {
    intended_ns: u64,
    sent_ns: u64,
}

/// The AMQP target.
#[derive(Debug)]
pub(super) struct Amqp {
    plan: AmqpPlan,
    reply_queue: String,
    stream: TcpStream,
    connection: Connection,
    channel: u16,
    timeout_ns: u64,
    /// Events without a reply yet, by sequence number.
    waiting: BTreeMap<u64, Published>,
    /// Events without a confirm yet, by delivery tag.
    unconfirmed: BTreeMap<u64, Published>,
    /// How much was handed to the broker, warm-up included.
    published: u64,
    /// How much of it was confirmed.
    confirmed: u64,
    broken: bool,
    inbox: Inbox,
}

impl Amqp {
    /// Connects, selects confirms and subscribes to the replies.
    pub(super) fn connect(
        poll: &Arc<OwnedFd>,
        token: u64,
        plan: AmqpPlan,
        timeout_ns: u64,
    ) -> Result<Self, crate::amqp::Error> {
        let limit = Duration::from_secs(5);
        let mut session = Session::connect(&plan.url, "threeways-load", limit)?;
        session.confirm_select()?;
        let reply_queue = session.declare_temporary()?;
        session.consume(&reply_queue, true)?;
        let (stream, connection, channel) = session.into_parts();
        let prepare = || {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Inbox::register(&stream)?;
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(poll.as_fd(), &stream, EventData::new_u64(token), flags)?;
            Ok(())
        };
        prepare().map_err(crate::amqp::Error::Broken)?;
        Ok(Self {
            plan,
            reply_queue,
            stream,
            connection,
            channel,
            timeout_ns,
            waiting: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
            published: 0,
            confirmed: 0,
            broken: false,
            inbox: Inbox::new(READ_BYTES),
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        while !self.connection.outbound().is_empty() {
            match self.stream.write(self.connection.outbound()) {
                Ok(count) => self.connection.sent(count),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what has come, hands it to the codec, and takes what it makes of it.
    fn fill(
        &mut self,
        clock: Clock,
        seen: &mut Vec<Observation>,
    ) -> Result<(), crate::amqp::Error> {
        loop {
            let received = match self.inbox.read(&self.stream, clock) {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(crate::amqp::Error::Broken(error)),
            };
            let (count, at_ns) = (received.bytes.len(), received.at_ns);
            if count == 0 {
                let closed = std::io::ErrorKind::UnexpectedEof;
                return Err(crate::amqp::Error::Broken(closed.into()));
            }
            self.connection.receive(received.bytes)?;
            while let Some(event) = self.connection.next_event() {
                self.take(event, at_ns, clock, seen);
            }
            if self.inbox.is_short(count) {
                return Ok(());
            }
        }
    }

    fn take(&mut self, event: Event, at_ns: u64, clock: Clock, seen: &mut Vec<Observation>) {
        match event {
            Event::Delivery(_, delivery) => self.replied(&delivery, at_ns, seen),
            Event::Confirmed {
                delivery_tag,
                multiple,
                ack,
                ..
            } => self.settle(delivery_tag, multiple, ack, at_ns, seen),
            Event::Returned(..) => seen.push(Observation::Fault(
                "AMQP: an event came back because no queue is bound".into(),
            )),
            Event::Blocked(reason) => seen.push(Observation::Fault(format!(
                "AMQP: the broker blocks publishers ({reason}); give it memory or disk"
            ))),
            Event::ChannelClosed { code, text, .. } | Event::Closed { code, text } => {
                self.break_off(&format!("the broker closed: {code} {text}"), clock, seen);
            }
            Event::ConsumerCancelled(_) => {
                self.break_off("the broker cancelled the replies", clock, seen);
            }
            Event::Opened(_) | Event::Unblocked | Event::Reply(..) => {}
        }
    }

    fn replied(&mut self, delivery: &Delivery, at_ns: u64, seen: &mut Vec<Observation>) {
        let seq = delivery
            .properties
            .correlation_id()
            .as_ref()
            .and_then(|id| id.as_str().parse().ok());
        let Some((seq, published)) = seq.and_then(|seq| Some((seq, self.waiting.remove(&seq)?)))
        else {
            seen.push(Observation::Fault(
                "AMQP: a reply came that nobody had asked for".into(),
            ));
            return;
        };
        let expected = format!(
            r#"{{"message_id":"{}-{seq}","outcome":"ok"}}"#,
            self.plan.id_prefix
        );
        let outcome = if is_same_json(&delivery.body, expected.as_bytes()) {
            OperationOutcome::Ok
        } else {
            let body = String::from_utf8_lossy(&delivery.body);
            seen.push(Observation::Fault(format!("AMQP: a wrong reply: {body}")));
            OperationOutcome::Wrong
        };
        let bytes = delivery.body.len();
        seen.push(done(seq, published, at_ns, outcome, bytes));
    }

    fn settle(
        &mut self,
        tag: u64,
        multiple: bool,
        ack: bool,
        at_ns: u64,
        seen: &mut Vec<Observation>,
    ) {
        let first = if multiple { 0 } else { tag };
        let tags: Vec<u64> = self
            .unconfirmed
            .range(first..=tag)
            .map(|(tag, _)| *tag)
            .collect();
        for tag in tags {
            let Some(published) = self.unconfirmed.remove(&tag) else {
                continue;
            };
            if ack {
                self.confirmed += 1;
                seen.push(Observation::Confirmed {
                    intended_ns: published.intended_ns,
                    sent_ns: published.sent_ns,
                    at_ns,
                });
            } else {
                seen.push(Observation::Fault(
                    "AMQP: the broker refused an event; is the queue full?".into(),
                ));
            }
        }
    }

    /// Nothing more can come: everything that waits has failed.
    fn break_off(&mut self, reason: &str, clock: Clock, seen: &mut Vec<Observation>) {
        self.broken = true;
        seen.push(Observation::Fault(format!("AMQP: {reason}")));
        self.unconfirmed.clear();
        let now_ns = clock.now_ns();
        for (seq, published) in std::mem::take(&mut self.waiting) {
            seen.push(done(seq, published, now_ns, OperationOutcome::Failed, 0));
        }
    }

    fn pump(&mut self, clock: Clock, seen: &mut Vec<Observation>) {
        if self.broken {
            return;
        }
        let result = self.fill(clock, seen);
        let result = result.and_then(|()| self.flush().map_err(crate::amqp::Error::Broken));
        if let Err(error) = result
            && !self.broken
        {
            self.break_off(&format!("{:#}", anyhow::Error::from(error)), clock, seen);
        }
    }
}

/// The usual byte for byte, else the same members in another order or with blanks.
fn is_same_json(body: &[u8], expected: &[u8]) -> bool {
    let parse = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    body == expected || parse(body).is_some_and(|body| Some(body) == parse(expected))
}

fn done(
    seq: u64,
    published: Published,
    done_ns: u64,
    outcome: OperationOutcome,
    bytes: usize,
) -> Observation {
    Observation::Done {
        operation: Operation {
            seq,
            kind: Kind::Amqp,
            intended_ns: published.intended_ns,
            sent_ns: published.sent_ns,
            done_ns,
            outcome,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        },
        sent: true,
    }
}

impl LoadTarget for Amqp {
    fn kind(&self) -> Kind {
        Kind::Amqp
    }

    fn submit(&mut self, seq: u64, intended_ns: u64, clock: Clock, seen: &mut Vec<Observation>) {
        let ready_ns = clock.now_ns();
        if self.broken {
            let published = Published {
                intended_ns,
                sent_ns: ready_ns,
            };
            let mut failed = done(seq, published, ready_ns, OperationOutcome::Failed, 0);
            if let Observation::Done { sent, .. } = &mut failed {
                *sent = false;
            }
            return seen.push(failed);
        }
        let message = event_message(&self.plan, seq, Some(&self.reply_queue));
        let route = Route {
            exchange: &message.exchange,
            routing_key: &message.routing_key,
            mandatory: true,
        };
        self.connection
            .publish(self.channel, route, &message.properties, &message.body);
        self.published += 1;
        let published = Published {
            intended_ns,
            sent_ns: clock.now_ns(),
        };
        seen.push(Observation::Sent {
            kind: Kind::Amqp,
            intended_ns,
            ready_ns,
            sent_ns: published.sent_ns,
        });
        self.waiting.insert(seq, published);
        self.unconfirmed.insert(self.published, published);
        if let Err(error) = self.flush() {
            self.break_off(&error.to_string(), clock, seen);
        }
    }

    fn ready(&mut self, _source: u32, clock: Clock, seen: &mut Vec<Observation>) {
        self.pump(clock, seen);
    }

    fn expire(&mut self, clock: Clock, seen: &mut Vec<Observation>) {
        let now_ns = clock.now_ns();
        while let Some(first) = self.waiting.first_entry() {
            let deadline_ns = first.get().intended_ns + self.timeout_ns;
            if deadline_ns > now_ns {
                break;
            }
            let (seq, published) = first.remove_entry();
            let done_ns = deadline_ns.max(published.sent_ns);
            seen.push(done(seq, published, done_ns, OperationOutcome::TimedOut, 0));
        }
    }

    fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn unsettled(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    fn published_and_confirmed(&self) -> (u64, u64) {
        (self.published, self.confirmed)
    }
}

/// One event as the load, the seeding and the prefill publish it.
fn event_message(plan: &AmqpPlan, seq: u64, reply_to: Option<&str>) -> Message {
    let key = key(seq);
    let mut body = format!(r#"{{"key":"{key}","data":{{"value":{seq},"pad":""#);
    let closing = r#""}}"#;
    let padding = plan
        .payload_bytes
        .saturating_sub(body.len() + closing.len());
    body.extend(std::iter::repeat_n('x', padding));
    body += closing;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut headers = FieldTable::default();
    let sent_ns = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    headers.insert("x-sent-ns".into(), AMQPValue::LongLongInt(sent_ns));
    headers.insert(
        "x-seq".into(),
        AMQPValue::LongLongInt(i64::try_from(seq).unwrap_or(i64::MAX)),
    );
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_message_id(format!("{}-{seq}", plan.id_prefix).into())
        .with_timestamp(now.as_secs())
        .with_headers(headers);
    if let Some(queue) = reply_to {
        properties = properties
            .with_reply_to(queue.into())
            .with_correlation_id(seq.to_string().into());
    }
    Message {
        exchange: contract::amqp::HISTORY_EXCHANGE.into(),
        routing_key: key,
        properties,
        body: body.into_bytes(),
    }
}

/// An event that asks for no reply, for seeding keys and for filling a queue.
#[must_use]
pub fn seed_message(plan: &AmqpPlan, seq: u64) -> Message {
    event_message(plan, seq, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_asked_length_and_a_unique_id() {
        let plan = AmqpPlan {
            url: String::new(),
            id_prefix: "r1-0".into(),
            payload_bytes: 128,
        };
        let message = event_message(&plan, 17, Some("replies"));
        assert_eq!(message.body.len(), 128);
        assert!(serde_json::from_slice::<serde_json::Value>(&message.body).is_ok());
        let id = message
            .properties
            .message_id()
            .as_ref()
            .map(|id| id.as_str().to_owned());
        assert_eq!(id.as_deref(), Some("r1-0-17"));
        assert!(seed_message(&plan, 17).properties.reply_to().is_none());
    }

    #[test]
    fn a_reply_may_order_its_members_as_it_likes() {
        assert!(is_same_json(br#"{"b": 1, "a": 2}"#, br#"{"a":2,"b":1}"#));
        assert!(!is_same_json(br#"{"a":3}"#, br#"{"a":2}"#));
        assert!(!is_same_json(b"no", b"yes"));
    }
}
