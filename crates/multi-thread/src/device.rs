//! Talks to the device: one line of JSON there, one line back, over a pooled TCP connection.
//!
//! Particular to threads: who waits for the device waits for nothing else; so many commands run at
//! once as there are workers and jobs, or connections if these are fewer.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use contract::{
    Problem, ProblemKind,
    limits::{DEVICE_POOL_TIMEOUT, DEVICE_TIMEOUT},
};
use crossbeam_channel::{Receiver, Sender, bounded};

/// Longest line that the device may send, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// Buffered: a line's end must be looked for, and without a buffer each byte were a system call.
type Connection = BufReader<TcpStream>;

/// Connections to the device, made when they are needed.
///
/// A channel that holds the free places: waiting for one with a deadline is its `recv_timeout`,
/// and what guards a place is that it is not in the channel.
pub struct Pool {
    address: SocketAddr,
    free: Receiver<Option<Connection>>,
    give_back: Sender<Option<Connection>>,
}

/// Why there is no reply.
enum Failure {
    /// The connection ended before the first byte of the reply: if it had been idle before, the
    /// device most likely closed it without having seen the command.
    Closed(io::Error),
    /// Anything else.
    Failed(io::Error),
}

impl Pool {
    /// A pool of `size` connections.
    #[must_use]
    pub fn new(address: SocketAddr, size: usize) -> Self {
        let (give_back, free) = bounded(size);
        for _ in 0..size {
            give_back.send(None).expect("the channel has room for all");
        }
        Self {
            address,
            free,
            give_back,
        }
    }

    /// Sends one line (without its end) and returns the device's line, before `deadline`.
    ///
    /// The deadline is a handler's own: nobody can take a thread out of a system call, so each of
    /// its waits has to end in time by itself.
    ///
    /// # Errors
    /// 503 without a free connection in time, 502 if the device refuses or closes, 504 if it does
    /// not answer in time.
    pub fn command(&self, line: &[u8], deadline: Instant) -> Result<Vec<u8>, Problem> {
        let patience = deadline.min(Instant::now() + DEVICE_POOL_TIMEOUT);
        let Ok(mut place) = self.free.recv_deadline(patience) else {
            let detail = "every connection to the device is busy";
            return Err(Problem::new(ProblemKind::Overloaded, detail));
        };
        // One deadline for connecting, writing and every read: a device that sends a byte now and
        // then would never exceed a time-out per call.
        let patience = deadline.min(Instant::now() + DEVICE_TIMEOUT);
        let result = command_on(&mut place, self.address, line, patience);
        if result.is_err() {
            // A late reply would be taken for that of the next command.
            place = None;
        }
        self.give_back
            .send(place)
            .expect("the place was taken from here");
        result.map_err(|error| problem(&error, deadline))
    }
}

/// One command on the connection in `place`, which is made if there is none.
fn command_on(
    place: &mut Option<Connection>,
    address: SocketAddr,
    line: &[u8],
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    if let Some(idle) = place {
        match exchange(idle, line, deadline) {
            Ok(reply) => return Ok(reply),
            Err(Failure::Failed(error)) => return Err(error),
            Err(Failure::Closed(error)) => log::debug!("the device had closed: {error}"),
        }
    }
    let stream = TcpStream::connect_timeout(&address, remaining(deadline)?)?;
    stream.set_nodelay(true)?;
    let fresh = place.insert(BufReader::new(stream));
    exchange(fresh, line, deadline).map_err(|failure| match failure {
        Failure::Closed(error) | Failure::Failed(error) => error,
    })
}

/// One line there and one back.
fn exchange(
    connection: &mut Connection,
    line: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, Failure> {
    send(connection.get_mut(), line, deadline).map_err(|error| classify(error, true))?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\n") {
        let at_start = reply.is_empty();
        let read = receive(connection, &mut reply, deadline);
        match read.map_err(|error| classify(error, at_start))? {
            0 => return Err(classify(io::ErrorKind::UnexpectedEof.into(), at_start)),
            _ if reply.len() as u64 >= MAX_LINE => {
                return Err(Failure::Failed(io::ErrorKind::InvalidData.into()));
            }
            _ => {}
        }
    }
    Ok(reply)
}

/// One write for the line and its end: with `TCP_NODELAY` each write is a packet.
fn send(stream: &mut TcpStream, line: &[u8], deadline: Instant) -> io::Result<()> {
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    stream.write_all(&[line, b"\n"].concat())
}

/// Reads on to the line's end, or as far as the bytes come in time.
fn receive(
    connection: &mut Connection,
    reply: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<usize> {
    connection
        .get_ref()
        .set_read_timeout(Some(remaining(deadline)?))?;
    connection.by_ref().take(MAX_LINE).read_until(b'\n', reply)
}

/// Whether the device had closed before it can have seen the command.
fn classify(error: io::Error, at_start: bool) -> Failure {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let closed = matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    );
    if closed && at_start {
        Failure::Closed(error)
    } else {
        Failure::Failed(error)
    }
}

/// Time until `deadline`; a socket's timeout must not be zero, which would mean for ever.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(rest) if !rest.is_zero() => Ok(rest),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What the client is told, whose handler had time until `deadline`.
fn problem(error: &io::Error, deadline: Instant) -> Problem {
    // A socket's timeout is reported as `WouldBlock` by Unix.
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            let kind = if Instant::now() < deadline {
                ProblemKind::DeviceTimeout
            } else {
                ProblemKind::HandlerTimeout
            };
            Problem::new(kind, "the device did not answer in time")
        }
        _ => Problem::new(
            ProblemKind::DeviceFailed,
            format!("the device failed: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_silent_device_is_told_from_a_handler_whose_time_is_over() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let pool = Pool::new(silent.local_addr().expect("bound"), 1);
        let kind = |deadline| {
            let refused = pool.command(b"{}", deadline).expect_err("silent");
            refused.kind
        };
        let now = Instant::now();
        let short = now + Duration::from_millis(50);
        assert_eq!(kind(short), ProblemKind::HandlerTimeout);
        assert_eq!(kind(now + 2 * DEVICE_TIMEOUT), ProblemKind::DeviceTimeout);
        let busy = pool.free.recv().expect("a place");
        let short = Instant::now() + Duration::from_millis(50);
        assert_eq!(kind(short), ProblemKind::Overloaded);
        pool.give_back.send(busy).expect("room");
    }
}
