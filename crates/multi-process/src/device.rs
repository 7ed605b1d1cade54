//! Talks to the device: one line of JSON there, one line back, over a pooled TCP connection.
//!
//! Particular to processes: a connection cannot change its process, so the pool is the sum over the
//! processes: each has its share ([`Config::device_share`]), and the AMQP process has the rest.
//! With fewer connections than processes nobody has a share; then [`Question::Lease`] decides who may
//! open one, and closes it afterwards.
//!
//! [`Config::device_share`]: crate::config::Config::device_share
//! [`Question::Lease`]: crate::ipc::Question::Lease

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

/// This process's connections to the device, made when they are needed.
///
/// A channel that holds the free places: waiting for one with a deadline is its `recv_timeout`,
/// and what guards a place is that it is not in the channel.
/// A semaphore between the processes themselves (in shared memory, or tokens in a pipe) would lose the
/// place of a process that is killed.
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

    /// Whether this process has connections of its own; otherwise it may use [`Pool::command_once`],
    /// with permission.
    #[must_use]
    pub fn has_share(&self) -> bool {
        self.free.capacity() != Some(0)
    }

    /// Sends one line (without its end) and returns the device's line, before `deadline`.
    ///
    /// # Errors
    /// 503 without a free connection in time, 502 if the device refuses or closes, 504 if it does
    /// not answer in time.
    pub fn command(&self, line: &[u8], deadline: Instant) -> Result<Vec<u8>, Problem> {
        let mut place = self.take(DEVICE_POOL_TIMEOUT)?;
        let result = command_on(self.address, &mut place, line, deadline);
        if result.is_err() {
            // A late reply would be taken for that of the next command.
            place = None;
        }
        self.put_back(place);
        result
    }

    /// Like [`Pool::command`], over a connection that is opened for it and closed behind it.
    ///
    /// # Errors
    /// 502 if the device refuses or closes, 504 if it does not answer in time.
    pub fn command_once(&self, line: &[u8], deadline: Instant) -> Result<Vec<u8>, Problem> {
        command_on(self.address, &mut None, line, deadline)
    }

    /// Lends a place to another process.
    ///
    /// # Errors
    /// 503 without a free place in time.
    pub fn lend(&self) -> Result<(), Problem> {
        // The connection in it is closed, or the borrower's would be one too many.
        self.take(DEVICE_POOL_TIMEOUT).map(drop)
    }

    /// Takes a lent place back.
    pub fn take_back(&self) {
        self.put_back(None);
    }

    fn take(&self, patience: Duration) -> Result<Option<Connection>, Problem> {
        self.free.recv_timeout(patience).map_err(|_| {
            let detail = "every connection to the device is in use";
            Problem::new(ProblemKind::Overloaded, detail)
        })
    }

    fn put_back(&self, place: Option<Connection>) {
        self.give_back
            .send(place)
            .expect("the place was taken from here");
    }
}

/// One command on the connection in `place`, which is made if there is none.
///
/// One deadline for connecting, writing and every read: a device that sends a byte now and then would
/// never exceed a time-out per call.
fn command_on(
    address: SocketAddr,
    place: &mut Option<Connection>,
    line: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, Problem> {
    let devices = Instant::now() + DEVICE_TIMEOUT;
    let reply = try_command_on(address, place, line, deadline.min(devices));
    // Whose patience was the shorter one: the device's own, or that of the whole request.
    reply.map_err(|error| problem(&error, deadline < devices))
}

fn try_command_on(
    address: SocketAddr,
    place: &mut Option<Connection>,
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

/// What the client is told; `of_request` if the whole request's time was over before the device's.
fn problem(error: &io::Error, of_request: bool) -> Problem {
    // A socket's timeout is reported as `WouldBlock` by Unix.
    let timed_out = matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    );
    match (timed_out, of_request) {
        (true, true) => Problem::new(
            ProblemKind::HandlerTimeout,
            "waiting for the device took too long",
        ),
        (true, false) => Problem::new(
            ProblemKind::DeviceTimeout,
            "the device did not answer in time",
        ),
        (false, _) => Problem::new(
            ProblemKind::DeviceFailed,
            format!("the device failed: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A device that answers each of its connections with as many lines as are listed.
    fn simulator(lines_per_connection: &'static [usize]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for lines in lines_per_connection {
                let (stream, _) = listener.accept().expect("client");
                let mut reader = BufReader::new(stream);
                for _ in 0..*lines {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("a line");
                    reader.get_mut().write_all(line.as_bytes()).expect("sent");
                }
            }
        });
        address
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(3)
    }

    #[test]
    fn a_connection_that_broke_while_idle_is_replaced_without_anybody_noticing() {
        let pool = Pool::new(simulator(&[1, 2]), 1);
        for command in ["{1}", "{2}", "{3}"] {
            let reply = pool.command(command.as_bytes(), soon()).expect("answered");
            assert_eq!(String::from_utf8_lossy(&reply).trim(), command);
        }
    }

    #[test]
    fn a_fresh_connection_that_breaks_is_a_failure_of_the_device() {
        let pool = Pool::new(simulator(&[0]), 1);
        let problem = pool.command(b"{}", soon()).expect_err("closed");
        assert_eq!(problem.kind, ProblemKind::DeviceFailed);
    }

    #[test]
    fn a_device_that_is_not_there_is_a_failure_of_the_device() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let problem = Pool::new(address, 0).command_once(b"{}", soon());
        let problem = problem.expect_err("refused");
        assert_eq!(problem.kind, ProblemKind::DeviceFailed);
    }

    #[test]
    fn a_request_whose_time_is_over_does_not_wait_for_the_device() {
        let silent = TcpListener::bind("127.0.0.1:0").expect("free port");
        let pool = Pool::new(silent.local_addr().expect("bound"), 1);
        let deadline = Instant::now() + Duration::from_millis(50);
        let problem = pool.command(b"{}", deadline).expect_err("silent");
        assert_eq!(problem.kind, ProblemKind::HandlerTimeout);
    }

    #[test]
    fn no_more_places_are_lent_than_there_are() {
        let pool = Pool::new(simulator(&[]), 1);
        assert!(pool.has_share());
        pool.lend().expect("a place");
        let problem = pool.lend().expect_err("none left");
        assert_eq!(problem.kind, ProblemKind::Overloaded);
        pool.take_back();
        pool.lend().expect("a place again");
    }
}
