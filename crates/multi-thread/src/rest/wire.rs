//! Brings bytes to and from one client in time (`--http std`).
//!
//! Particular to threads: the thread sleeps in `read`, and the only thing that wakes it, besides
//! bytes, is the socket's own timeout. So each wait has one, and a wait in pieces (a head that
//! comes byte by byte) has a deadline that shortens it each time.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use contract::{
    Method, Problem, ProblemKind, Reply,
    http1::{self, Body, CONTINUE, Framing, Head},
    limits::{BODY_TIMEOUT, HEAD_TIMEOUT, KEEP_ALIVE_TIMEOUT},
};
use domain::rest;

use crate::state::{Flag, now};

/// Bytes that are asked for at once: a request with room to spare, or an eighth of a large body.
const READ: usize = 8 * 1024;
/// How long a client may take to make room for an answer.
const WRITE_TIMEOUT: Duration = BODY_TIMEOUT;
/// How long a client whose request was not read to its end is listened to behind the answer.
const LINGER: Duration = Duration::from_secs(1);
/// How many of its bytes are discarded meanwhile.
const LINGER_BYTES: usize = 256 * 1024;

/// One client's socket, between requests or within one.
pub struct Wire<'a> {
    stream: Arc<TcpStream>,
    /// What has come and was not used yet.
    buffer: Vec<u8>,
    /// What the buffer starts with.
    next: Next,
    /// The socket's timeout at present: setting it is a system call, and a client that sends its
    /// requests in one piece each needs none.
    patience: Duration,
    /// Whether the service is ending its connections.
    closing: &'a Flag,
}

/// What comes next.
enum Next {
    /// A head.
    Head,
    /// The body of the head that was read last.
    Body(Framing),
    /// Nobody knows: the body broke off.
    Unknown,
}

/// What came of waiting for bytes.
enum Came {
    /// Bytes.
    Bytes,
    /// None in time.
    Nothing,
    /// Nothing more will: the client has closed, or the connection is lost.
    End,
}

impl<'a> Wire<'a> {
    /// A client's socket before its first request.
    #[must_use]
    pub fn new(stream: Arc<TcpStream>, closing: &'a Flag) -> Self {
        // Fails for a duration of zero only.
        let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
        Self {
            stream,
            buffer: Vec::new(),
            next: Next::Head,
            patience: Duration::ZERO,
            closing,
        }
    }

    /// Waits for the next request's head; `None` if the client has gone, or rested for too long.
    ///
    /// # Errors
    /// 408 if the head is not complete in time, otherwise as [`http1::parse_head`].
    pub fn head(&mut self) -> Result<Option<Head>, Problem> {
        if self.buffer.is_empty() && !matches!(self.receive(KEEP_ALIVE_TIMEOUT), Came::Bytes) {
            return Ok(None);
        }
        // From the first byte on: a client may rest between requests, but not within one.
        let deadline = Instant::now() + HEAD_TIMEOUT;
        loop {
            if let Some(head) = http1::parse_head(&self.buffer)? {
                self.buffer.drain(..head.bytes);
                self.next = Next::Body(head.framing);
                return Ok(Some(head));
            }
            match self.receive_until(deadline) {
                Came::Bytes => {}
                Came::Nothing => return Err(too_slow("head", HEAD_TIMEOUT)),
                Came::End => return Ok(None),
            }
        }
    }

    /// Reads the body that belongs to `head`, after the head was found acceptable.
    ///
    /// # Errors
    /// 408 if the body is not complete in time, 400 if it never will be (503 if that is the
    /// service's own doing), otherwise as [`rest::check_head`] and [`Body::take`].
    pub fn body(&mut self, head: &Head, limit: usize) -> Result<Vec<u8>, Problem> {
        let content_type = head.content_type.as_deref();
        rest::check_head(content_type, head.declared_length(), limit)?;
        self.next = Next::Unknown;
        if head.expects_continue && self.buffer.is_empty() {
            self.write(CONTINUE);
        }
        let deadline = Instant::now() + BODY_TIMEOUT;
        let mut body = Body::new(head.framing, limit);
        loop {
            let taken = body.take(&self.buffer)?;
            self.buffer.drain(..taken);
            if body.is_complete() {
                self.next = Next::Head;
                return Ok(body.into_bytes());
            }
            match self.receive_until(deadline) {
                Came::Bytes => {}
                Came::Nothing => return Err(too_slow("body", BODY_TIMEOUT)),
                Came::End => return Err(self.incomplete()),
            }
        }
    }

    /// Whether the next request can be found: its predecessor's body was read, or is here and can
    /// be passed over. Waiting for a body that nobody wants would not be worth the connection.
    pub fn is_in_step(&mut self, limit: usize) -> bool {
        match self.next {
            Next::Head => true,
            Next::Unknown => false,
            Next::Body(framing) => {
                let mut body = Body::new(framing, limit);
                let Ok(taken) = body.take(&self.buffer) else {
                    return false;
                };
                self.buffer.drain(..taken);
                body.is_complete()
            }
        }
    }

    /// Sends an answer with one write, so that it is one packet if it fits into one; whether the
    /// client still takes it.
    pub fn send(&self, reply: &Reply, method: Method, keep_alive: bool) -> bool {
        self.write(&http1::render(reply, method, keep_alive, now().0 / 1000))
    }

    /// Ends the connection behind an answer, so that the client sees the answer.
    ///
    /// If bytes are unread when a socket is closed, the kernel tells the other side so with a reset,
    /// and that may overtake the answer: it is not closed before the client has heard it, or had
    /// time to.
    pub fn linger(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = Instant::now() + LINGER;
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            self.buffer.clear();
            match self.receive_until(deadline) {
                Came::Bytes => discarded += self.buffer.len(),
                Came::Nothing | Came::End => return,
            }
        }
    }

    /// Whether something has come that was not used.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether the service is ending its connections.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_up()
    }

    fn receive_until(&mut self, deadline: Instant) -> Came {
        self.receive(deadline.saturating_duration_since(Instant::now()))
    }

    /// Waits for bytes and puts them behind those that are here.
    fn receive(&mut self, patience: Duration) -> Came {
        // To the socket zero would mean for ever.
        if patience.is_zero() {
            return Came::Nothing;
        }
        if self.patience != patience {
            if self.stream.set_read_timeout(Some(patience)).is_err() {
                return Came::End;
            }
            self.patience = patience;
        }
        let here = self.buffer.len();
        self.buffer.resize(here + READ, 0);
        let read = loop {
            match (&*self.stream).read(&mut self.buffer[here..]) {
                // A signal that this thread happened to receive for the process.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(here + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Came::End,
            Ok(_) => Came::Bytes,
            // Unix reports a socket's timeout as the former.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Came::Nothing
            }
            Err(error) => {
                log::debug!("a client is lost: {error}");
                Came::End
            }
        }
    }

    fn write(&self, bytes: &[u8]) -> bool {
        let written = (&*self.stream).write_all(bytes);
        if let Err(error) = &written {
            log::debug!("an answer could not be written: {error}");
        }
        written.is_ok()
    }

    /// What a client is told whose body ended before its end.
    fn incomplete(&self) -> Problem {
        if self.is_closing() {
            Problem::new(ProblemKind::Draining, "the service is stopping")
        } else {
            Problem::new(ProblemKind::BadRequest, "the body is incomplete")
        }
    }
}

fn too_slow(part: &str, limit: Duration) -> Problem {
    let detail = format!("the {part} must come within {} s", limit.as_secs());
    Problem::new(ProblemKind::RequestTimeout, detail)
}
