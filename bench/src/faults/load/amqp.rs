//! The AMQP side: publishes events with confirms and `reply_to`, and reconnects for ever.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use contract::amqp::{CONTENT_TYPE, HISTORY_EXCHANGE, PERSISTENT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::journal::{Id, Kind, Outcome, Source};
use super::{AMQP_RATE_PER_S, POISON_EVERY, Shared, due};
use crate::amqp::{BasicProperties, Connection, Delivery, Error, Event, Route, Session};

/// Longest wait for a reply; a later one still proves that the event had its effect.
const REPLY_LIMIT: Duration = Duration::from_secs(3);
/// Time between two attempts to reach the broker.
const RECONNECT: Duration = Duration::from_millis(100);
/// Deadline of one attempt.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Between two heartbeats while nothing else may be sent; a third of what is agreed on.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Longest wait for confirms and replies after the last event.
const SETTLE_LIMIT: Duration = Duration::from_secs(4);
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// Starts the thread with the connection that it has, if it has one.
pub(super) fn start(
    shared: &Arc<Shared>,
    link: Option<Link>,
    url: &str,
    id_prefix: &str,
) -> std::io::Result<JoinHandle<()>> {
    let publisher = Publisher {
        shared: Arc::clone(shared),
        url: url.to_owned(),
        id_prefix: id_prefix.to_owned(),
        link,
        next_connect: Instant::now(),
        next_seq: 0,
        waiting: BTreeMap::new(),
        deadlines: VecDeque::new(),
    };
    std::thread::Builder::new().spawn(move || publisher.run())
}

/// A connection to the broker with its channel.
pub(super) struct Link {
    stream: TcpStream,
    connection: Connection,
    channel: u16,
    reply_queue: String,
    /// Publishes on this channel so far: the delivery tag of the last one.
    published: u64,
    /// Sequence numbers by delivery tag, of what was not confirmed yet.
    unconfirmed: BTreeMap<u64, u64>,
    /// The broker has asked publishers to stop.
    is_blocked: bool,
    next_heartbeat: Instant,
}

struct Publisher {
    shared: Arc<Shared>,
    url: String,
    id_prefix: String,
    link: Option<Link>,
    next_connect: Instant,
    next_seq: u64,
    /// Place in the journal of each event without a reply, by sequence number.
    waiting: BTreeMap<u64, usize>,
    /// When each event must have been answered, in order.
    deadlines: VecDeque<(Instant, u64)>,
}

impl Publisher {
    fn run(mut self) {
        let mut stopped_at: Option<Instant> = None;
        loop {
            if self.shared.is_stopping() {
                let since = *stopped_at.get_or_insert_with(Instant::now);
                if self.is_settled() || since.elapsed() > SETTLE_LIMIT {
                    return;
                }
            } else {
                self.submit_due();
            }
            self.reconnect();
            self.wait();
            self.pump();
            self.expire();
        }
    }

    fn is_settled(&self) -> bool {
        let unconfirmed = self.link.as_ref().map_or(0, |link| link.unconfirmed.len());
        self.waiting.is_empty() && unconfirmed == 0
    }

    /// Publishes every event that is due.
    fn submit_due(&mut self) {
        loop {
            let seq = self.next_seq;
            let intended = due(self.shared.start, seq, AMQP_RATE_PER_S);
            if intended > Instant::now() {
                return;
            }
            self.next_seq += 1;
            let shared = Arc::clone(&self.shared);
            let mut journal = shared.journal();
            let place = journal.begin(Kind::Amqp, shared.at(intended));
            let Some(link) = self.link.as_mut().filter(|link| !link.is_blocked) else {
                let at = shared.at(Instant::now());
                journal.end(place, at, Outcome::NotSent);
                continue;
            };
            let is_poison =
                shared.poisoning.load(Ordering::Relaxed) && seq.is_multiple_of(POISON_EVERY);
            if is_poison {
                journal.poison.insert(seq);
            }
            link.publish(seq, is_poison, &self.id_prefix);
            self.waiting.insert(seq, place);
            self.deadlines.push_back((intended + REPLY_LIMIT, seq));
        }
    }

    fn reconnect(&mut self) {
        if self.link.is_none() && Instant::now() >= self.next_connect {
            // While the broker is away this fails at once or after its deadline; what falls due
            // meanwhile is noted as not sent.
            self.link = Link::connect(&self.url).ok();
            self.next_connect = Instant::now() + RECONNECT;
        }
    }

    /// Sleeps until something comes or is due.
    fn wait(&self) {
        let due = due(self.shared.start, self.next_seq, AMQP_RATE_PER_S);
        let left = due.saturating_duration_since(Instant::now()).min(RECONNECT);
        let Some(link) = &self.link else {
            return std::thread::sleep(left);
        };
        let mut wanted = PollFlags::IN;
        if !link.connection.outbound().is_empty() {
            wanted |= PollFlags::OUT;
        }
        let mut sockets = [PollFd::from_borrowed_fd(link.stream.as_fd(), wanted)];
        let timeout = Timespec::try_from(left).ok();
        // An interruption only wakes the loop early.
        let _ = poll(&mut sockets, timeout.as_ref());
    }

    /// Writes what waits, reads what has come, and takes it in.
    fn pump(&mut self) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        let result = link.exchange_bytes();
        let mut is_open = result.is_ok();
        while let Some(event) = link.connection.next_event() {
            is_open &= self.take(&mut link, event);
        }
        if is_open {
            self.link = Some(link);
        } else {
            // The replies went with the connection's queue; whether the broker took what it had
            // not confirmed is unknown, so nobody answers for it.
            self.end_all(Outcome::Closed);
        }
    }

    /// Takes an event in; false if the connection is of no use any more.
    fn take(&mut self, link: &mut Link, event: Event) -> bool {
        match event {
            Event::Delivery(_, delivery) => self.replied(&delivery),
            Event::Confirmed {
                delivery_tag,
                multiple,
                ack,
                ..
            } => self.confirmed(link, delivery_tag, multiple, ack),
            Event::Returned(_, returned) => {
                let seq = seq_of(&returned.properties);
                // Its confirm follows and must not count: no queue has it.
                link.unconfirmed.retain(|_, other| Some(*other) != seq);
                self.end(seq, Outcome::Returned);
            }
            Event::Blocked(_) => link.is_blocked = true,
            Event::Unblocked => link.is_blocked = false,
            Event::ConsumerCancelled(_) | Event::ChannelClosed { .. } | Event::Closed { .. } => {
                return false;
            }
            Event::Opened(_) | Event::Reply(..) => {}
        }
        true
    }

    fn replied(&mut self, delivery: &Delivery) {
        let Some(seq) = seq_of(&delivery.properties) else {
            return;
        };
        let body: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap_or_default();
        let is_poison = {
            let mut journal = self.shared.journal();
            // Of a duplicate the first reply may have been lost with a connection.
            if body["outcome"] == "ok" {
                journal.replied(seq);
            }
            journal.poison.contains(&seq)
        };
        let is_right = match body["outcome"].as_str() {
            Some("ok" | "duplicate") => !is_poison,
            Some("invalid") => is_poison,
            _ => false,
        };
        let outcome = if is_right {
            Outcome::Ok
        } else {
            Outcome::Wrong
        };
        self.end(Some(seq), outcome);
    }

    fn confirmed(&mut self, link: &mut Link, tag: u64, multiple: bool, ack: bool) {
        let first = if multiple { 0 } else { tag };
        let tags: Vec<u64> = link
            .unconfirmed
            .range(first..=tag)
            .map(|(tag, _)| *tag)
            .collect();
        for seq in tags.iter().filter_map(|tag| link.unconfirmed.remove(tag)) {
            if ack {
                let id = Id {
                    source: Source::Amqp,
                    seq,
                };
                let at = self.shared.at(Instant::now());
                self.shared.journal().take(id, at);
            } else {
                self.end(Some(seq), Outcome::Returned);
            }
        }
    }

    /// Ends the operation of an event, if it still waits.
    fn end(&mut self, seq: Option<u64>, outcome: Outcome) {
        if let Some(place) = seq.and_then(|seq| self.waiting.remove(&seq)) {
            let at = self.shared.at(Instant::now());
            self.shared.journal().end(place, at, outcome);
        }
    }

    fn end_all(&mut self, outcome: Outcome) {
        let waiting: Vec<u64> = self.waiting.keys().copied().collect();
        for seq in waiting {
            self.end(Some(seq), outcome);
        }
    }

    /// Gives up what has waited for too long, and the connection if not even a confirm came: a
    /// channel that published to a queue that was being deleted may never hear one again
    /// (RabbitMQ 3.10), which is the load's misfortune and not the service's.
    fn expire(&mut self) {
        let now = Instant::now();
        let mut is_deaf = false;
        while let Some((_, seq)) = self.deadlines.pop_front_if(|(at, _)| *at <= now) {
            is_deaf |= self.link.as_ref().is_some_and(|link| link.misses(seq));
            self.end(Some(seq), Outcome::TimedOut);
        }
        if is_deaf {
            self.link = None;
            self.end_all(Outcome::Closed);
        }
    }
}

impl Link {
    pub(super) fn connect(url: &str) -> Result<Self, Error> {
        let mut session = Session::connect(url, "threeways-faults", CONNECT_LIMIT)?;
        session.confirm_select()?;
        let reply_queue = session.declare_temporary()?;
        session.consume(&reply_queue, true)?;
        let (stream, connection, channel) = session.into_parts();
        stream.set_nonblocking(true).map_err(Error::Broken)?;
        Ok(Self {
            stream,
            connection,
            channel,
            reply_queue,
            published: 0,
            unconfirmed: BTreeMap::new(),
            is_blocked: false,
            next_heartbeat: Instant::now() + HEARTBEAT,
        })
    }

    /// Whether the confirm of an event is missing although the broker takes messages.
    fn misses(&self, seq: u64) -> bool {
        !self.is_blocked && self.unconfirmed.values().any(|other| *other == seq)
    }

    fn publish(&mut self, seq: u64, is_poison: bool, id_prefix: &str) {
        let id = Id {
            source: Source::Amqp,
            seq,
        };
        let (key, mut body) = (id.key(), id.body());
        if is_poison {
            // The end is missing: no parser takes it for an event.
            body.truncate(body.len() / 2);
        }
        let properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(format!("{id_prefix}-{seq}").into())
            .with_correlation_id(seq.to_string().into())
            .with_reply_to(self.reply_queue.as_str().into());
        let route = Route {
            exchange: HISTORY_EXCHANGE,
            routing_key: &key,
            mandatory: true,
        };
        self.connection
            .publish(self.channel, route, &properties, body.as_bytes());
        self.published += 1;
        self.unconfirmed.insert(self.published, seq);
    }

    /// Reads all that has come and writes as much as the socket takes.
    fn exchange_bytes(&mut self) -> Result<(), Error> {
        if Instant::now() >= self.next_heartbeat {
            self.connection.heartbeat();
            self.next_heartbeat = Instant::now() + HEARTBEAT;
        }
        let mut bytes = [0; READ_BYTES];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(Error::Broken(ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.connection.receive(&bytes[..count])?,
                Err(error) if is_busy(&error) => break,
                Err(error) => return Err(Error::Broken(error)),
            }
        }
        while !self.connection.outbound().is_empty() {
            match self.stream.write(self.connection.outbound()) {
                Ok(count) => self.connection.sent(count),
                Err(error) if is_busy(&error) => break,
                Err(error) => return Err(Error::Broken(error)),
            }
        }
        Ok(())
    }
}

fn is_busy(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn seq_of(properties: &BasicProperties) -> Option<u64> {
    let id = properties.correlation_id().as_ref()?;
    id.as_str().parse().ok()
}
