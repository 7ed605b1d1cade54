//! Speaks to the device: a pool of TCP connections, one line there and one line back.
//!
//! Particular to tasks: a request that waits for the device is a suspended future, so as many wait
//! at once as the pool has connections, whatever the number of threads. Cancelling is dropping:
//! when a client hangs up, its future goes, and with it the connection whose answer nobody awaits.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Mutex,
};

use contract::{
    Problem, ProblemKind,
    limits::{DEVICE_POOL_TIMEOUT, DEVICE_TIMEOUT},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::state::lock;

/// Longest line that the device may answer, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// A connection to the device, with what was read ahead.
type Connection = BufReader<TcpStream>;

/// The pool of connections to the device.
#[derive(Debug)]
pub struct DevicePool {
    address: SocketAddr,
    /// One permit per connection that may exist. tokio's semaphore wakes waiters in the order they
    /// came; a channel of connections would do so too, but would have to be filled beforehand, and
    /// connections are made only when they are needed.
    permits: Semaphore,
    /// Connections that nobody uses, most recently used last: that one is least likely to have been
    /// closed by the device meanwhile. A plain mutex, held for a push or a pop.
    idle: Mutex<Vec<Connection>>,
}

impl DevicePool {
    /// A pool of up to `size` connections to `address`, none of which exists yet.
    #[must_use]
    pub fn new(address: SocketAddr, size: usize) -> Self {
        Self {
            address,
            permits: Semaphore::new(size),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Sends one line and returns the device's line.
    ///
    /// # Errors
    /// 503 if no connection is free within [`DEVICE_POOL_TIMEOUT`], 504 if the device does not
    /// answer within [`DEVICE_TIMEOUT`], 502 if it refuses or breaks the connection.
    pub async fn command(&self, line: Vec<u8>) -> Result<Vec<u8>, Problem> {
        let _permit = self.permit().await?;
        match timeout(DEVICE_TIMEOUT, self.exchange(line)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => {
                let detail = format!("the device failed: {error}");
                Err(Problem::new(ProblemKind::DeviceFailed, detail))
            }
            Err(_) => {
                // The connection went with the future: its answer may still come, and the next
                // command on it would take that for its own.
                let detail = "the device did not answer in time";
                Err(Problem::new(ProblemKind::DeviceTimeout, detail))
            }
        }
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match timeout(DEVICE_POOL_TIMEOUT, self.permits.acquire()).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => {
                let detail = "every connection to the device is in use";
                Err(Problem::new(ProblemKind::Overloaded, detail))
            }
        }
    }

    /// Sends a line over an idle connection, or over a fresh one if there is none or it is broken.
    async fn exchange(&self, mut line: Vec<u8>) -> io::Result<Vec<u8>> {
        line.push(b'\n');
        let idle = lock(&self.idle).pop();
        if let Some(mut connection) = idle {
            match round_trip(&mut connection, &line).await {
                Ok(reply) => return Ok(self.put_back(connection, reply)),
                // Once only, and on a fresh connection: after a restart of the device all the idle
                // ones are broken, and trying them in turn would take a command each.
                Err(error) if was_closed(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let mut connection = self.connect().await?;
        let reply = round_trip(&mut connection, &line).await?;
        Ok(self.put_back(connection, reply))
    }

    async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        // A command is one small segment; Nagle's algorithm would hold it back while the answer to
        // the one before is still unacknowledged.
        stream.set_nodelay(true)?;
        Ok(BufReader::with_capacity(1024, stream))
    }

    fn put_back(&self, connection: Connection, reply: Vec<u8>) -> Vec<u8> {
        // More than the one line means that the two sides are out of step.
        if connection.buffer().is_empty() {
            lock(&self.idle).push(connection);
        }
        reply
    }
}

/// Writes a line and reads a line.
async fn round_trip(connection: &mut Connection, line: &[u8]) -> io::Result<Vec<u8>> {
    connection.get_mut().write_all(line).await?;
    let mut reply = Vec::new();
    // `take` bounds what a device without line ends can make us keep.
    let read = connection
        .take(MAX_LINE)
        .read_until(b'\n', &mut reply)
        .await?;
    match reply.last() {
        Some(b'\n') => Ok(reply),
        None => Err(ErrorKind::UnexpectedEof.into()),
        Some(_) if read as u64 == MAX_LINE => Err(io::Error::other("its line has no end")),
        Some(_) => Err(io::Error::other("it broke off in mid-line")),
    }
}

/// Whether the peer had closed the connection before it answered anything.
fn was_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Serves connections one after the other; each answers `lines` lines and then closes.
    async fn device(lines: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accepts");
                let mut stream = BufReader::new(stream);
                for _ in 0..lines {
                    let mut line = Vec::new();
                    stream.read_until(b'\n', &mut line).await.expect("a line");
                    stream.get_mut().write_all(&line).await.expect("written");
                }
            }
        });
        address
    }

    fn kind(result: Result<Vec<u8>, Problem>) -> ProblemKind {
        result.expect_err("fails").kind
    }

    #[tokio::test]
    async fn a_connection_that_broke_while_idle_is_replaced_once() {
        let pool = DevicePool::new(device(1).await, 1);
        for _ in 0..3 {
            let reply = pool.command(b"{}".to_vec()).await.expect("answered");
            assert_eq!(reply, b"{}\n");
        }
    }

    #[tokio::test]
    async fn a_device_that_closes_at_once_has_failed() {
        let pool = DevicePool::new(device(0).await, 1);
        let result = pool.command(b"{}".to_vec()).await;
        assert_eq!(kind(result), ProblemKind::DeviceFailed);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gets_no_connection_is_told_before_whoever_gets_no_answer() {
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let pool = DevicePool::new(silent.local_addr().expect("bound"), 1);
        let first = pool.command(b"{}".to_vec());
        let second = pool.command(b"{}".to_vec());
        let (first, second) = tokio::join!(first, second);
        assert_eq!(kind(first), ProblemKind::DeviceTimeout);
        assert_eq!(kind(second), ProblemKind::Overloaded);
    }
}
