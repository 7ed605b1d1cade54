//! Talks to the device: one line of JSON there, one line back, over a pooled TCP connection.
//!
//! Particular to processes: a process that answers one request at a time needs one connection, and
//! the pool is the sum over the processes. Nothing is locked and nobody waits for a connection,
//! unless there are fewer connections than processes: then [`Question::Lease`] decides who may have
//! one, and closes it afterwards, for a connection cannot change its process.
//!
//! [`Question::Lease`]: crate::ipc::Question::Lease

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use contract::{Problem, ProblemKind, limits::DEVICE_TIMEOUT};

/// Longest line that the device may send, in bytes.
const MAX_LINE: u64 = 64 * 1024;

type Connection = BufReader<TcpStream>;

/// The device, and the connection that is kept from command to command.
#[derive(Debug)]
pub struct Device {
    address: SocketAddr,
    /// Empty before the first command and after a failure.
    place: Option<Connection>,
}

/// Why there is no reply.
enum Failure {
    /// The connection ended before the first byte of the reply: if it had been idle before, the
    /// device most likely closed it without having seen the command.
    Closed(io::Error),
    /// Anything else.
    Failed(io::Error),
}

impl Device {
    /// A device that is connected to when the first command comes.
    #[must_use]
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            place: None,
        }
    }

    /// Sends one line (without its end) and returns the device's line.
    ///
    /// # Errors
    /// 502 if the device refuses or closes, 504 if it does not answer in time.
    pub fn command(&mut self, line: &[u8]) -> Result<Vec<u8>, Problem> {
        // Put back only after a success: a late reply would be taken for that of the next command.
        let mut place = self.place.take();
        let reply = command_on(self.address, &mut place, line).map_err(|error| problem(&error))?;
        self.place = place;
        Ok(reply)
    }

    /// Closes the connection, so that another process may open one.
    pub fn disconnect(&mut self) {
        self.place = None;
    }
}

/// One command on the connection in `place`, which is made if there is none.
fn command_on(
    address: SocketAddr,
    place: &mut Option<Connection>,
    line: &[u8],
) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + DEVICE_TIMEOUT;
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

fn problem(error: &io::Error) -> Problem {
    // A socket's timeout is reported as `WouldBlock` by Unix.
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Problem::new(
            ProblemKind::DeviceTimeout,
            "the device did not answer in time",
        ),
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

    #[test]
    fn a_connection_that_broke_while_idle_is_replaced_without_anybody_noticing() {
        let mut device = Device::new(simulator(&[1, 2]));
        for command in ["{1}", "{2}", "{3}"] {
            let reply = device.command(command.as_bytes()).expect("answered");
            assert_eq!(String::from_utf8_lossy(&reply).trim(), command);
        }
    }

    #[test]
    fn a_fresh_connection_that_breaks_is_a_failure_of_the_device() {
        let mut device = Device::new(simulator(&[0]));
        let problem = device.command(b"{}").expect_err("closed");
        assert_eq!(problem.kind, ProblemKind::DeviceFailed);
    }

    #[test]
    fn a_device_that_is_not_there_is_a_failure_of_the_device() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let problem = Device::new(address).command(b"{}").expect_err("refused");
        assert_eq!(problem.kind, ProblemKind::DeviceFailed);
    }
}
