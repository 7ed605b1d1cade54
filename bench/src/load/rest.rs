//! HTTP/1.1 keep-alive connections of the generator, non-blocking.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::clock::{Clock, Inbox};
use super::engine::{LoadTarget, Observation};
use super::request::Exchange;
use crate::http::{Framing, parse_chunked, parse_response_head};
use crate::record::{Kind, Operation, OperationOutcome};

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// Longest time to open a connection before the run.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time to replace a broken connection in mid-run: on loopback it takes 50 µs or is
/// refused at once, and a longer wait would make every other operation late.
const RECONNECT: Duration = Duration::from_millis(1);

/// An operation that waits for a connection or for its answer.
#[derive(Debug, Clone, Copy)]
struct Pending {
    seq: u64,
    intended_ns: u64,
    ready_ns: u64,
    sent_ns: u64,
}

impl Pending {
    fn done(
        self,
        done_ns: u64,
        outcome: OperationOutcome,
        bytes: usize,
        sent: bool,
    ) -> Observation {
        Observation::Done {
            operation: Operation {
                seq: self.seq,
                kind: Kind::Rest,
                intended_ns: self.intended_ns,
                sent_ns: self.sent_ns,
                done_ns,
                outcome,
                bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            },
            sent,
        }
    }
}

/// One connection; `stream` is `None` while it is broken.
#[derive(Debug, Default)]
struct Connection {
    stream: Option<TcpStream>,
    pending: Option<Pending>,
    unread: Vec<u8>,
    /// When the last byte of `unread` came.
    arrived_ns: u64,
    unsent: Vec<u8>,
}

/// A whole answer.
struct Answer<'a> {
    status: u16,
    body: Cow<'a, [u8]>,
    bytes: usize,
    keep_alive: bool,
}

/// The REST side of the load.
#[derive(Debug)]
pub(super) struct Rest {
    poll: Arc<OwnedFd>,
    token: u64,
    address: SocketAddr,
    turns: Vec<Exchange>,
    timeout_ns: u64,
    connections: Vec<Connection>,
    /// Free connections, the longest unused first, so that all of them are used in turn.
    free: VecDeque<usize>,
    /// Operations for which no connection was free.
    queue: VecDeque<Pending>,
    in_flight: usize,
    inbox: Inbox,
}

impl Rest {
    /// Opens `connections` connections; `token` marks their events.
    pub(super) fn connect(
        poll: Arc<OwnedFd>,
        token: u64,
        address: SocketAddr,
        turns: Vec<Exchange>,
        connections: usize,
        timeout_ns: u64,
    ) -> std::io::Result<Self> {
        let mut rest = Self {
            poll,
            token,
            address,
            turns,
            timeout_ns,
            connections: Vec::new(),
            free: (0..connections).collect(),
            queue: VecDeque::new(),
            in_flight: 0,
            inbox: Inbox::new(READ_BYTES),
        };
        for index in 0..connections {
            rest.connections.push(Connection::default());
            rest.open(index, CONNECT)?;
        }
        Ok(rest)
    }

    fn open(&mut self, index: usize, within: Duration) -> std::io::Result<()> {
        let stream = TcpStream::connect_timeout(&self.address, within)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Inbox::register(&stream)?;
        // Edge-triggered with both directions: one registration for the connection's life.
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(self.token | index as u64);
        epoll::add(self.poll.as_fd(), &stream, data, flags)?;
        self.connections[index] = Connection {
            stream: Some(stream),
            ..Connection::default()
        };
        Ok(())
    }

    fn send(
        &mut self,
        index: usize,
        mut pending: Pending,
        clock: Clock,
        seen: &mut Vec<Observation>,
    ) {
        if self.connections[index].stream.is_none() && self.open(index, RECONNECT).is_err() {
            self.free.push_back(index);
            self.in_flight -= 1;
            seen.push(pending.done(clock.now_ns(), OperationOutcome::Failed, 0, false));
            return;
        }
        let turn = pending.seq as usize % self.turns.len();
        let bytes = self.turns[turn].bytes(pending.seq);
        let connection = &mut self.connections[index];
        pending.sent_ns = clock.now_ns();
        connection.pending = Some(pending);
        connection.unsent.extend_from_slice(bytes);
        seen.push(Observation::Sent {
            kind: Kind::Rest,
            intended_ns: pending.intended_ns,
            ready_ns: pending.ready_ns,
            sent_ns: pending.sent_ns,
        });
        if !connection.flush() {
            self.fail(index, clock, seen);
        }
    }

    /// The connection broke: its operation has failed, and the next user opens it anew.
    fn fail(&mut self, index: usize, clock: Clock, seen: &mut Vec<Observation>) {
        if let Some(pending) = self.close(index) {
            seen.push(pending.done(clock.now_ns(), OperationOutcome::Failed, 0, true));
            self.release(index, clock, seen);
        }
    }

    /// Drops the stream, which also takes it out of the poll.
    fn close(&mut self, index: usize) -> Option<Pending> {
        let connection = &mut self.connections[index];
        connection.stream = None;
        connection.unread.clear();
        connection.unsent.clear();
        connection.pending.take()
    }

    /// The connection is free: the longest waiting operation gets it.
    fn release(&mut self, index: usize, clock: Clock, seen: &mut Vec<Observation>) {
        self.in_flight -= 1;
        match self.queue.pop_front() {
            Some(next) => {
                self.in_flight += 1;
                self.send(index, next, clock, seen);
            }
            None => self.free.push_back(index),
        }
    }

    fn read(&mut self, index: usize, clock: Clock, seen: &mut Vec<Observation>) {
        let is_open = self.connections[index].fill(&mut self.inbox, clock);
        self.take_answer(index, clock, seen);
        if !is_open {
            self.fail(index, clock, seen);
        }
    }

    fn take_answer(&mut self, index: usize, clock: Clock, seen: &mut Vec<Observation>) {
        let connection = &mut self.connections[index];
        let answer = match Answer::parse(&connection.unread) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(_) => return self.garbled(index, clock, seen),
        };
        let Some(pending) = connection.pending.take() else {
            seen.push(Observation::Fault(
                "REST: an answer came that nobody had asked for".into(),
            ));
            connection.unread.clear();
            return;
        };
        let turn = &self.turns[pending.seq as usize % self.turns.len()];
        let outcome = if turn.is_answered_by(pending.seq, answer.status, &answer.body) {
            OperationOutcome::Ok
        } else {
            seen.push(Observation::Fault(answer.complaint()));
            OperationOutcome::Wrong
        };
        seen.push(pending.done(connection.arrived_ns, outcome, answer.bytes, true));
        let (bytes, keep_alive) = (answer.bytes, answer.keep_alive);
        connection.unread.drain(..bytes);
        if !keep_alive {
            self.close(index);
        }
        self.release(index, clock, seen);
    }

    fn garbled(&mut self, index: usize, clock: Clock, seen: &mut Vec<Observation>) {
        seen.push(Observation::Fault("REST: an answer is not HTTP/1.1".into()));
        if let Some(pending) = self.close(index) {
            seen.push(pending.done(clock.now_ns(), OperationOutcome::Wrong, 0, true));
            self.release(index, clock, seen);
        }
    }
}

impl<'a> Answer<'a> {
    /// The answer at the start of `unread`; `None` if it is not complete yet.
    fn parse(unread: &'a [u8]) -> Result<Option<Self>, crate::http::Error> {
        let Some(head) = parse_response_head(unread)? else {
            return Ok(None);
        };
        let rest = &unread[head.head_bytes..];
        let (body, length) = match head.framing {
            Framing::Length(length) if rest.len() >= length => {
                (Cow::Borrowed(&rest[..length]), length)
            }
            Framing::Length(_) => return Ok(None),
            Framing::Chunked => match parse_chunked(rest)? {
                Some((body, length)) => (Cow::Owned(body), length),
                None => return Ok(None),
            },
            Framing::UntilClose => {
                return Err(crate::http::Error::Malformed("no length".to_owned()));
            }
        };
        Ok(Some(Self {
            status: head.status,
            body,
            bytes: head.head_bytes + length,
            keep_alive: head.keep_alive,
        }))
    }

    fn complaint(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let start: String = body.chars().take(120).collect();
        format!("REST: a wrong answer, status {}: {start}", self.status)
    }
}

impl Connection {
    /// Writes what waits; false if the connection is broken.
    fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            let Some(stream) = &mut self.stream else {
                return false;
            };
            match stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Reads what has come; false if the connection is broken or closed.
    fn fill(&mut self, inbox: &mut Inbox, clock: Clock) -> bool {
        loop {
            let Some(stream) = &self.stream else {
                return true;
            };
            match inbox.read(stream, clock) {
                Ok(received) if received.bytes.is_empty() => return false,
                Ok(received) => {
                    self.arrived_ns = received.at_ns;
                    self.unread.extend_from_slice(received.bytes);
                    let count = received.bytes.len();
                    if inbox.is_short(count) {
                        return true;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

impl LoadTarget for Rest {
    fn kind(&self) -> Kind {
        Kind::Rest
    }

    fn submit(&mut self, seq: u64, intended_ns: u64, clock: Clock, seen: &mut Vec<Observation>) {
        let pending = Pending {
            seq,
            intended_ns,
            ready_ns: clock.now_ns(),
            sent_ns: 0,
        };
        match self.free.pop_front() {
            Some(index) => {
                self.in_flight += 1;
                self.send(index, pending, clock, seen);
            }
            None => self.queue.push_back(pending),
        }
    }

    fn ready(&mut self, source: u32, clock: Clock, seen: &mut Vec<Observation>) {
        let index = source as usize;
        if !self.connections[index].flush() {
            return self.fail(index, clock, seen);
        }
        self.read(index, clock, seen);
    }

    fn expire(&mut self, clock: Clock, seen: &mut Vec<Observation>) {
        let now_ns = clock.now_ns();
        let timeout_ns = self.timeout_ns;
        let is_late = |pending: &Pending| pending.intended_ns + timeout_ns <= now_ns;
        while let Some(late) = self.queue.pop_front_if(|pending| is_late(pending)) {
            let done_ns = late.intended_ns + timeout_ns;
            seen.push(late.done(done_ns, OperationOutcome::TimedOut, 0, false));
        }
        for index in 0..self.connections.len() {
            if !self.connections[index]
                .pending
                .as_ref()
                .is_some_and(is_late)
            {
                continue;
            }
            // The connection goes with it: a late answer would be taken for the next one's.
            if let Some(late) = self.close(index) {
                let done_ns = late.intended_ns + timeout_ns;
                let done_ns = done_ns.max(late.sent_ns);
                seen.push(late.done(done_ns, OperationOutcome::TimedOut, 0, true));
                self.release(index, clock, seen);
            }
        }
    }

    fn pending(&self) -> usize {
        self.in_flight + self.queue.len()
    }

    fn may_rest(&self) -> bool {
        // With half of the connections free no send has to wait for one.
        self.free.len() > self.connections.len() / 2
    }
}
