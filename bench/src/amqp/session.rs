//! The blocking client: one socket, one channel at a time, a deadline on every call.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use amq_protocol::{
    protocol::{AMQPClass, basic, confirm},
    types::FieldTable,
};

use super::{Batch, Confirm, Connection, Delivery, Error, Event, Message, Route, Server, Url};

/// Deadline of a call unless [`Session::set_timeout`] says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Most unconfirmed publishes of [`Session::publish_batch`].
const WINDOW: usize = 1_000;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// A blocking AMQP connection with one open channel.
///
/// A channel that the broker closed is opened again by the next call; consumers and confirm mode
/// are lost with it.
#[derive(Debug)]
pub struct Session {
    url: Url,
    stream: TcpStream,
    connection: Connection,
    server: Server,
    channel: u16,
    channel_open: bool,
    confirms: bool,
    published: u64,
    outstanding: BTreeSet<u64>,
    timeout: Duration,
    deliveries: VecDeque<Delivery>,
    cancelled: bool,
}

impl Session {
    /// Connects, shakes hands and opens a channel, all within `limit`.
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::Connect`] if nobody listens, [`Error::Refused`] for a wrong name
    /// or password, [`Error::TimedOut`] for a silent peer, else as [`Session::call`].
    pub fn connect(url: &str, name: &str, limit: Duration) -> Result<Self, Error> {
        let url = Url::parse(url)?;
        let stream = connect(&url, limit)?;
        let mut session = Self {
            connection: Connection::new(url.clone(), name),
            url,
            stream,
            server: Server {
                product: String::new(),
                version: String::new(),
                frame_max: 0,
                heartbeat: Duration::ZERO,
            },
            channel: 0,
            channel_open: false,
            confirms: false,
            published: 0,
            outstanding: BTreeSet::new(),
            timeout: limit,
            deliveries: VecDeque::new(),
            cancelled: false,
        };
        session.server = session.handshake()?;
        session.open_channel()?;
        session.timeout = CALL_TIMEOUT;
        Ok(session)
    }

    /// Who answered.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Sets the deadline of each following call; 10 s at first.
    pub fn set_timeout(&mut self, limit: Duration) {
        self.timeout = limit;
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Closed`] if the broker closes the channel or the connection instead,
    /// [`Error::TimedOut`] and [`Error::Broken`].
    pub fn call(&mut self, what: &'static str, method: AMQPClass) -> Result<AMQPClass, Error> {
        if !self.channel_open {
            self.open_channel()?;
        }
        self.connection.call(self.channel, method);
        self.reply(what)
    }

    /// Asks the broker to confirm every publish on this channel.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn confirm_select(&mut self) -> Result<(), Error> {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        self.call("confirm.select", AMQPClass::Confirm(select))?;
        self.confirms = true;
        self.published = 0;
        Ok(())
    }

    /// Publishes one message as mandatory and waits for the broker's confirm; selects confirm
    /// mode if that was not done yet.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn publish(&mut self, message: &Message) -> Result<Confirm, Error> {
        let batch = self.publish_batch(std::iter::once(message.clone()))?;
        Ok(match batch {
            Batch { returned: 1, .. } => Confirm::Returned,
            Batch { nacked: 0, .. } => Confirm::Ack,
            Batch { .. } => Confirm::Nack,
        })
    }

    /// Publishes messages with up to 1,000 unconfirmed ones and waits for every confirm.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn publish_batch(
        &mut self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<Batch, Error> {
        if !self.confirms || !self.channel_open {
            self.confirm_select()?;
        }
        let mut batch = Batch::default();
        for message in messages {
            self.queue_publish(&message);
            self.outstanding.insert(self.published);
            batch.published += 1;
            // Half a window at a time, so that socket writes and confirms come in groups.
            if self.outstanding.len() == WINDOW / 2 {
                self.flush()?;
            }
            while self.outstanding.len() >= WINDOW {
                self.settle(&mut batch)?;
            }
        }
        self.flush()?;
        while !self.outstanding.is_empty() {
            self.settle(&mut batch)?;
        }
        Ok(batch)
    }

    /// Publishes without asking for a confirm; needed for direct reply-to, whose consumer and
    /// publisher must share a channel.
    ///
    /// # Errors
    /// [`Error::Broken`] and [`Error::TimedOut`] if the socket takes nothing.
    pub fn publish_unconfirmed(&mut self, message: &Message) -> Result<(), Error> {
        self.queue_publish(message);
        self.flush()
    }

    /// Starts a consumer on `queue`; `no_ack` is required for direct reply-to.
    ///
    /// # Errors
    /// As [`Session::call`]; code 404 if there is no such queue.
    pub fn consume(&mut self, queue: &str, no_ack: bool) -> Result<(), Error> {
        let consume = basic::Consume {
            queue: queue.into(),
            consumer_tag: "".into(),
            no_local: false,
            no_ack,
            exclusive: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        self.cancelled = false;
        let method = AMQPClass::Basic(basic::AMQPMethod::Consume(consume));
        self.call("basic.consume", method).map(drop)
    }

    /// Limits the unacked deliveries of each following consumer.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn prefetch(&mut self, count: u16) -> Result<(), Error> {
        let qos = basic::Qos {
            prefetch_count: count,
            global: false,
        };
        self.call("basic.qos", AMQPClass::Basic(basic::AMQPMethod::Qos(qos)))
            .map(drop)
    }

    /// The next delivery of a consumer; `None` if none came within `limit`.
    ///
    /// # Errors
    /// [`Error::Closed`] if the consumer was cancelled, else as [`Session::call`].
    pub fn next_delivery(&mut self, limit: Duration) -> Result<Option<Delivery>, Error> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(delivery) = self.deliveries.pop_front() {
                return Ok(Some(delivery));
            }
            if self.cancelled {
                return Err(closed(
                    "channel",
                    200,
                    "the consumer was cancelled".to_owned(),
                ));
            }
            match self.event("a delivery", deadline) {
                Ok(event) => self.note(event)?,
                Err(Error::TimedOut { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes one message from a queue without a consumer; acked at once. `None` if it is empty.
    ///
    /// # Errors
    /// As [`Session::call`]; code 404 if there is no such queue.
    pub fn get(&mut self, queue: &str) -> Result<Option<Delivery>, Error> {
        if !self.channel_open {
            self.open_channel()?;
        }
        let get = basic::Get {
            queue: queue.into(),
            no_ack: true,
        };
        let method = AMQPClass::Basic(basic::AMQPMethod::Get(get));
        self.connection.call(self.channel, method);
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.event("basic.get", deadline)? {
                Event::Delivery(_, delivery) => return Ok(Some(delivery)),
                Event::Reply(_, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_))) => {
                    return Ok(None);
                }
                event => self.note(event)?,
            }
        }
    }

    /// Acknowledges a delivery, or every one up to it.
    ///
    /// # Errors
    /// [`Error::Broken`] and [`Error::TimedOut`] if the socket takes nothing.
    pub fn ack(&mut self, delivery_tag: u64, multiple: bool) -> Result<(), Error> {
        self.connection.ack(self.channel, delivery_tag, multiple);
        self.flush()
    }

    /// Socket, protocol state and open channel, for a loop that drives them itself.
    #[must_use]
    pub fn into_parts(self) -> (TcpStream, Connection, u16) {
        (self.stream, self.connection, self.channel)
    }

    /// Closes the connection and waits for the broker's answer.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn close(mut self) -> Result<(), Error> {
        self.connection.close();
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Event::Closed { .. } = self.event("connection.close", deadline)? {
                return Ok(());
            }
        }
    }

    fn queue_publish(&mut self, message: &Message) {
        let route = Route {
            exchange: &message.exchange,
            routing_key: &message.routing_key,
            mandatory: true,
        };
        let (properties, body) = (&message.properties, &message.body);
        self.connection
            .publish(self.channel, route, properties, body);
        self.published += 1;
    }

    /// Waits for one confirm and counts the publishes that it settles.
    fn settle(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let deadline = Instant::now() + self.timeout;
        match self.event("a confirm", deadline)? {
            Event::Confirmed {
                delivery_tag,
                multiple,
                ack,
                ..
            } => {
                let count = self.forget(delivery_tag, multiple);
                let side = if ack {
                    &mut batch.acked
                } else {
                    &mut batch.nacked
                };
                *side += count;
            }
            Event::Returned(..) => batch.returned += 1,
            event => self.note(event)?,
        }
        Ok(())
    }

    /// Removes what a confirm settles from the outstanding tags and returns their number; single
    /// confirms may come in any order.
    fn forget(&mut self, tag: u64, multiple: bool) -> u64 {
        if !multiple {
            return u64::from(self.outstanding.remove(&tag));
        }
        let later = self.outstanding.split_off(&(tag + 1));
        std::mem::replace(&mut self.outstanding, later).len() as u64
    }

    fn handshake(&mut self) -> Result<Server, Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.event("the handshake", deadline) {
                Ok(Event::Opened(server)) => return Ok(server),
                Ok(Event::Closed { code: 403, .. }) => return Err(self.refused()),
                Ok(Event::Closed { code, text }) => return Err(closed("connection", code, text)),
                Ok(_) => {}
                // A broker that does not know `authentication_failure_close` just hangs up.
                Err(Error::Broken(source)) if source.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(self.refused());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn refused(&self) -> Error {
        Error::Refused {
            address: self.url.address(),
            user: self.url.user.clone(),
        }
    }

    /// Opens the next channel; numbers are not used twice, so that a late frame of a closed
    /// channel cannot be mistaken.
    fn open_channel(&mut self) -> Result<(), Error> {
        self.channel += 1;
        self.channel_open = true;
        self.confirms = false;
        self.published = 0;
        self.outstanding.clear();
        self.connection.open_channel(self.channel);
        self.reply("channel.open").map(drop)
    }

    fn reply(&mut self, what: &'static str) -> Result<AMQPClass, Error> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.event(what, deadline)? {
                Event::Reply(channel, method) if channel == self.channel => return Ok(method),
                event => self.note(event)?,
            }
        }
    }

    /// Handles an event that nobody waited for.
    fn note(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Delivery(_, delivery) => self.deliveries.push_back(delivery),
            Event::ConsumerCancelled(_) => self.cancelled = true,
            Event::ChannelClosed {
                channel,
                code,
                text,
            } if channel == self.channel => {
                self.channel_open = false;
                return Err(closed("channel", code, text));
            }
            Event::Closed { code, text } => return Err(closed("connection", code, text)),
            _ => {}
        }
        Ok(())
    }

    /// Sends what waits, then reads until there is an event.
    fn event(&mut self, what: &'static str, deadline: Instant) -> Result<Event, Error> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let mut bytes = [0; READ_BYTES];
        loop {
            self.flush()?;
            if let Some(event) = self.connection.next_event() {
                return Ok(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TimedOut { what, limit });
            }
            match self.read(&mut bytes, left) {
                Ok(0) => return Err(Error::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.connection.receive(&bytes[..count])?,
                Err(error) if is_timeout(&error) => self.connection.heartbeat(),
                Err(error) => return Err(Error::Broken(error)),
            }
        }
    }

    /// Reads within `left`, but never longer than half a heartbeat, so that a waiting session
    /// stays alive.
    fn read(&mut self, bytes: &mut [u8], left: Duration) -> io::Result<usize> {
        let pause = match self.server.heartbeat {
            Duration::ZERO => left,
            interval => left.min(interval / 2),
        };
        self.stream
            .set_read_timeout(Some(pause.max(Duration::from_millis(1))))?;
        self.stream.read(bytes)
    }

    fn flush(&mut self) -> Result<(), Error> {
        while !self.connection.outbound().is_empty() {
            match self.stream.write(self.connection.outbound()) {
                Ok(count) => self.connection.sent(count),
                Err(error) if is_timeout(&error) => {
                    let (what, limit) = ("a write", CALL_TIMEOUT);
                    return Err(Error::TimedOut { what, limit });
                }
                Err(error) => return Err(Error::Broken(error)),
            }
        }
        Ok(())
    }
}

fn connect(url: &Url, limit: Duration) -> Result<TcpStream, Error> {
    let address = url.address();
    let failed = |source| Error::Connect {
        address: address.clone(),
        source,
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in address.to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&candidate, limit) {
            Ok(stream) => {
                // Small frames both ways: with Nagle's algorithm each would wait for an ACK.
                stream.set_nodelay(true).map_err(failed)?;
                stream
                    .set_write_timeout(Some(CALL_TIMEOUT))
                    .map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn closed(scope: &'static str, code: u16, text: String) -> Error {
    Error::Closed { scope, code, text }
}
