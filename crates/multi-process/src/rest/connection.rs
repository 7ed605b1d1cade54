//! Serves one connection with the sockets of the standard library: the front `--http std`.
//!
//! Particular to processes: a thread per connection, as the library has it, but with a deadline for
//! every wait: the kernel ends a `read` that takes too long (`SO_RCVTIMEO`), and nothing else is needed
//! to bound how long a client may hold the thread.
//! The bytes' meaning is not a matter of processes or threads and lies in [`contract::http1`].

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use contract::{
    Method, Problem, ProblemKind, Reply,
    http1::{self, Body, CONTINUE, Head},
    limits::{BODY_TIMEOUT, HEAD_TIMEOUT, KEEP_ALIVE_TIMEOUT},
    reply::{REQUEST_ID, request_id},
};
use domain::rest;

use super::{api::Asked, listener::Front};

/// Bytes asked of the socket at once.
const PIECE: usize = 8 << 10;
/// How long, and how many bytes, a refused client may go on sending what nobody wants.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 << 10;

/// Serves requests, one at a time and in their order, until either side has had enough.
///
/// Pipelined requests wait in the socket's buffer meanwhile, and when it is full the kernel stops the
/// client: a bound that nobody had to write.
pub fn serve(front: &Front, stream: &TcpStream) {
    let mut connection = Connection::new(front, stream);
    loop {
        match connection.next_request() {
            Ok(Next::Another) => {}
            Ok(Next::Close) => return linger(stream),
            Ok(Next::Gone) => return,
            Err(error) => return log::debug!("a connection ended: {error}"),
        }
    }
}

/// Answers a connection that is not served, whatever it wants.
pub fn refuse(front: &Front, stream: &TcpStream, problem: &Problem) {
    if Connection::new(front, stream).refuse(problem).is_ok() {
        linger(stream);
    }
}

/// Lets the client read its answer: closing a socket with unread bytes resets the connection, and the
/// reset overtakes what was sent before (RFC 9112, section 9.6).
fn linger(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER;
    let (mut piece, mut left) = ([0; PIECE], LINGER_BYTES);
    while left > 0 {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() || stream.set_read_timeout(Some(rest)).is_err() {
            return;
        }
        match read(stream, &mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => left = left.saturating_sub(count),
        }
    }
}

/// How a connection goes on.
enum Next {
    /// With another request.
    Another,
    /// Not behind this answer, although the client may still be sending.
    Close,
    /// Not, and nobody waits for an answer.
    Gone,
}

/// One connection.
struct Connection<'a> {
    front: &'a Front,
    /// Blocking: this thread has nothing else to do.
    stream: &'a TcpStream,
    /// Received and not yet used; it may hold the beginning of the next request.
    incoming: Vec<u8>,
    /// Kept from read to read, so that no read has to clear it first.
    piece: Vec<u8>,
    /// The read timeout as it is set at present.
    patience: Option<Duration>,
}

impl<'a> Connection<'a> {
    fn new(front: &'a Front, stream: &'a TcpStream) -> Self {
        // A client that takes nothing must not hold the thread for ever either. If that cannot be set,
        // the socket is dead, which the first read will tell.
        let _ = stream.set_write_timeout(Some(BODY_TIMEOUT));
        Self {
            front,
            stream,
            incoming: Vec::new(),
            piece: vec![0; PIECE],
            patience: None,
        }
    }

    /// Takes one request and answers it.
    fn next_request(&mut self) -> io::Result<Next> {
        match self.head() {
            Ok(Some(head)) => self.answer(&head),
            Ok(None) => Ok(Next::Gone),
            Err(problem) => {
                self.refuse(&problem)?;
                Ok(Next::Close)
            }
        }
    }

    /// Waits for a request's head; `None` if the client rests for too long, or has gone.
    ///
    /// The time for a head counts from its first byte on: a client that sends one now and then would
    /// never exceed a time-out per read.
    fn head(&mut self) -> Result<Option<Head>, Problem> {
        let mut deadline = None;
        loop {
            if !self.incoming.is_empty() {
                if let Some(head) = http1::parse_head(&self.incoming)? {
                    self.incoming.drain(..head.bytes);
                    return Ok(Some(head));
                }
                deadline.get_or_insert_with(|| Instant::now() + HEAD_TIMEOUT);
            }
            let patience = deadline.map_or(KEEP_ALIVE_TIMEOUT, time_until);
            match self.receive(patience) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if is_timeout(&error) && deadline.is_some() => {
                    return Err(too_slow("the head did not come in time"));
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Reads the body of a request, after its head was found acceptable.
    fn body(&mut self, head: &Head, limit: usize) -> Result<Vec<u8>, Problem> {
        let content_type = head.content_type.as_deref();
        rest::check_head(content_type, head.declared_length(), limit)?;
        let mut body = Body::new(head.framing, limit);
        let deadline = Instant::now() + BODY_TIMEOUT;
        if head.expects_continue && self.incoming.is_empty() && !body.is_complete() {
            // If this fails, so does the read that follows.
            let _ = write(self.stream, CONTINUE);
        }
        loop {
            let taken = body.take(&self.incoming)?;
            self.incoming.drain(..taken);
            if body.is_complete() {
                return Ok(body.into_bytes());
            }
            match self.receive(time_until(deadline)) {
                Ok(0) => return Err(incomplete()),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {
                    return Err(too_slow("the body did not come in time"));
                }
                Err(_) => return Err(incomplete()),
            }
        }
    }

    /// Answers a request.
    fn answer(&mut self, head: &Head) -> io::Result<Next> {
        let front = self.front;
        let (path, query) = head.path_and_query();
        let asked = Asked {
            method: head.method,
            path,
            query,
            if_none_match: head.if_none_match.as_deref(),
            started: Instant::now(),
        };
        let id = request_id(head.request_id.as_deref(), || front.api.ids.next());
        let mut unread = head.declared_length() != Some(0);
        let read = |limit| {
            let body = self.body(head, limit)?;
            unread = false;
            Ok(body)
        };
        let reply = front.api.answer(&asked, read, || front.clients.lend());
        let reply = reply.unwrap_or_else(|problem| Reply::problem(&problem, &id));
        let code = reply.status;
        // A body that was not read cannot be told from the next request.
        let keep = head.keep_alive && !unread && !front.api.draining.is_up();
        let sent = self.send(reply, head.method, keep, id);
        front.api.answered(&asked, code);
        front.has_changed();
        sent.map(|()| if keep { Next::Another } else { Next::Close })
    }

    /// Answers what was no request, or will not be served.
    fn refuse(&self, problem: &Problem) -> io::Result<()> {
        let id = self.front.api.ids.next();
        let reply = Reply::problem(problem, &id);
        self.send(reply, Method::Other, false, id)
    }

    /// Sends an answer with one write, which with `TCP_NODELAY` (inherited from the listener) is one
    /// packet if it fits.
    fn send(&self, reply: Reply, method: Method, keep: bool, id: String) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let reply = reply.with_header(REQUEST_ID, id);
        let bytes = http1::render(&reply, method, keep, now.unwrap_or_default().as_secs());
        write(self.stream, &bytes)
    }

    /// Receives more bytes, waiting for at most `patience`; returns how many.
    fn receive(&mut self, patience: Duration) -> io::Result<usize> {
        if patience.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A system call of its own, so only if it changes: a client whose requests come whole never
        // needs another than the first.
        if self.patience != Some(patience) {
            self.stream.set_read_timeout(Some(patience))?;
            self.patience = Some(patience);
        }
        let count = read(self.stream, &mut self.piece)?;
        self.incoming.extend_from_slice(&self.piece[..count]);
        Ok(count)
    }
}

/// Reads what is there. A signal interrupts a read that has a timeout, whatever its handler says
/// (signal(7)), and it is no reason to leave a client.
fn read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)
}

fn time_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// A socket's timeout is reported as `WouldBlock` by Unix.
fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    )
}

fn too_slow(detail: &str) -> Problem {
    Problem::new(ProblemKind::RequestTimeout, detail)
}

fn incomplete() -> Problem {
    Problem::new(ProblemKind::BadRequest, "the body is incomplete")
}
