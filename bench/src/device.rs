//! The device simulator: a TCP server that answers each line after a fixed latency.
//!
//! One thread serves every connection, and its timer is precise to some tens of microseconds, so
//! that the wait which it stands for is the same in every model under test.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    num::NonZeroU64,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{EventfdFlags, Timespec, epoll, eventfd},
    thread::set_current_timer_slack,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest line; a peer that sends more without a line break is cut off.
const MAX_LINE_BYTES: usize = 256 * 1024;
/// Epoll token of the listener.
const LISTENER: u64 = 0;
/// Epoll token of the stop signal.
const STOP: u64 = 1;
/// First epoll token of a connection.
const FIRST_CONNECTION: u64 = 2;

/// A running simulator; dropping it stops it.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    stop: Arc<OwnedFd>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Simulator {
    /// Listens on `address` (port 0 picks a free one) and answers every line `latency` after it
    /// was read: each connection in order, all of them concurrently.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub fn start(address: SocketAddr, latency: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let stopping = Arc::new(AtomicBool::new(false));
        let server = Server::new(listener, &stop, Arc::clone(&stopping), latency)?;
        let thread = std::thread::Builder::new()
            .name("device".to_owned())
            .spawn(move || server.run())?;
        Ok(Self {
            address,
            stop,
            stopping,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the simulator ends, which it does only by a fault or when it is stopped.
    ///
    /// # Errors
    /// The fault of the simulator's thread.
    pub fn wait(mut self) -> io::Result<()> {
        self.thread.take().map_or(Ok(()), join)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        self.stopping.store(true, Ordering::Release);
        // Wakes the loop; without it the thread would end with the next client only.
        if rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).is_ok()
            && let Err(error) = join(thread)
        {
            log::warn!("device simulator: {error}");
        }
    }
}

fn join(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the simulator's thread panicked")))
}

/// The parts of a command that the reply repeats; their values are not looked into.
#[derive(Deserialize)]
struct Command {
    command: Value,
    args: Option<Value>,
}

/// The reply to a command.
#[derive(Serialize)]
struct Reply {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Value>,
}

/// The line that answers `line`, with its line break.
fn reply_to(line: &[u8]) -> Vec<u8> {
    let parsed: Option<Command> = serde_json::from_slice(line).ok();
    let ok = parsed.is_some();
    let (command, args) = parsed.map_or((None, None), |parsed| (Some(parsed.command), parsed.args));
    let reply = Reply { ok, command, args };
    let mut bytes = serde_json::to_vec(&reply).expect("JSON values serialise");
    bytes.push(b'\n');
    bytes
}

/// One client.
struct Connection {
    stream: TcpStream,
    line: Vec<u8>,
    outbound: Vec<u8>,
}

/// A reply that waits for its instant.
struct Due {
    at: Instant,
    connection: u64,
    bytes: Vec<u8>,
}

struct Server {
    listener: TcpListener,
    epoll: OwnedFd,
    stopping: Arc<AtomicBool>,
    latency: Duration,
    connections: BTreeMap<u64, Connection>,
    next_token: u64,
    // The latency is the same for all, so arrival order is due order and a queue suffices.
    due: VecDeque<Due>,
}

impl Server {
    fn new(
        listener: TcpListener,
        stop: &OwnedFd,
        stopping: Arc<AtomicBool>,
        latency: Duration,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(
            &epoll,
            &listener,
            epoll::EventData::new_u64(LISTENER),
            readable,
        )?;
        epoll::add(&epoll, stop, epoll::EventData::new_u64(STOP), readable)?;
        Ok(Self {
            listener,
            epoll,
            stopping,
            latency,
            connections: BTreeMap::new(),
            next_token: FIRST_CONNECTION,
            due: VecDeque::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        // The default slack of 50 µs would be added to every reply.
        set_current_timer_slack(NonZeroU64::new(1))?;
        let mut events = Vec::with_capacity(64);
        while !self.stopping.load(Ordering::Acquire) {
            match epoll::wait(
                &self.epoll,
                spare_capacity(&mut events),
                self.timeout().as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                self.on_event(event.data.u64())?;
            }
            self.send_due();
        }
        Ok(())
    }

    /// Time until the next reply is due; `None` if there is none.
    fn timeout(&self) -> Option<Timespec> {
        let left = self
            .due
            .front()?
            .at
            .saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    fn on_event(&mut self, token: u64) -> io::Result<()> {
        match token {
            LISTENER => self.accept(),
            STOP => Ok(()),
            connection => {
                if !self.serve(connection) {
                    self.connections.remove(&connection);
                }
                Ok(())
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.adopt(stream)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    // The peer is gone already, or descriptors ran out: the others go on.
                    log::warn!("device simulator: accept: {error}");
                    return Ok(());
                }
            }
        }
    }

    fn adopt(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let token = self.next_token;
        self.next_token += 1;
        // Edge-triggered, so that a peer that is slow to read wakes us once when it has read.
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            &stream,
            epoll::EventData::new_u64(token),
            interest,
        )?;
        let connection = Connection {
            stream,
            line: Vec::new(),
            outbound: Vec::new(),
        };
        self.connections.insert(token, connection);
        Ok(())
    }

    /// Reads every line that came and sends what the socket takes; `false` if the peer is gone.
    fn serve(&mut self, token: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&token) else {
            return true;
        };
        let alive = connection.read();
        let at = Instant::now() + self.latency;
        while let Some(line) = connection.take_line() {
            self.due.push_back(Due {
                at,
                connection: token,
                bytes: reply_to(&line),
            });
        }
        alive && connection.line.len() <= MAX_LINE_BYTES && connection.flush()
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        while self.due.front().is_some_and(|due| due.at <= now) {
            let due = self.due.pop_front().expect("looked at above");
            if let Some(connection) = self.connections.get_mut(&due.connection) {
                connection.outbound.extend_from_slice(&due.bytes);
                if !connection.flush() {
                    self.connections.remove(&due.connection);
                }
            }
        }
    }
}

impl Connection {
    /// Reads until nothing is left; `false` at the end of the stream.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return false,
                Ok(count) => self.line.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.line.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.line.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    /// Sends what the socket takes; `false` if it failed.
    fn flush(&mut self) -> bool {
        while !self.outbound.is_empty() {
            match self.stream.write(&self.outbound) {
                Ok(count) => drop(self.outbound.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    const LATENCY: Duration = Duration::from_millis(10);

    fn start() -> Simulator {
        let any = "127.0.0.1:0".parse().expect("an address");
        Simulator::start(any, LATENCY).expect("a free port")
    }

    fn connect(simulator: &Simulator) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(simulator.address()).expect("listens");
        stream.set_nodelay(true).expect("a TCP socket");
        BufReader::new(stream)
    }

    fn read_line(reader: &mut BufReader<TcpStream>) -> String {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a reply");
        line
    }

    #[test]
    fn a_command_is_repeated_after_the_latency() {
        let simulator = start();
        let mut client = connect(&simulator);
        let mut delays = vec![];
        for _ in 0..21 {
            let start = Instant::now();
            let line = b"{\"command\":\"read\",\"args\":{\"pin\":3}}\n";
            client.get_mut().write_all(line).expect("sent");
            let reply = read_line(&mut client);
            delays.push(start.elapsed());
            assert_eq!(
                reply,
                "{\"ok\":true,\"command\":\"read\",\"args\":{\"pin\":3}}\n"
            );
        }
        delays.sort();
        assert!(delays[0] >= LATENCY, "never early: {:?}", delays[0]);
        assert!(
            delays[10] < LATENCY + Duration::from_millis(2),
            "{:?}",
            delays[10]
        );
    }

    #[test]
    fn connections_wait_at_the_same_time_and_in_order() {
        let simulator = start();
        let mut clients: Vec<_> = (0..32).map(|_| connect(&simulator)).collect();
        let start = Instant::now();
        for client in &mut clients {
            let lines = b"{\"command\":1}\n{\"command\":2}\n";
            client.get_mut().write_all(lines).expect("sent");
        }
        for client in &mut clients {
            assert_eq!(read_line(client), "{\"ok\":true,\"command\":1}\n");
            assert_eq!(read_line(client), "{\"ok\":true,\"command\":2}\n");
        }
        assert!(start.elapsed() < LATENCY * 32 / 2, "{:?}", start.elapsed());
    }

    #[test]
    fn a_line_that_is_no_command_is_answered_as_such() {
        assert_eq!(reply_to(b"hello"), b"{\"ok\":false}\n");
    }

    #[test]
    fn a_stopped_simulator_refuses_connections() {
        let simulator = start();
        let address = simulator.address();
        drop(simulator);
        assert!(TcpStream::connect(address).is_err());
    }
}
