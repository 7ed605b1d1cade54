//! The server: one thread, one epoll loop, and a clock that decides when each answer goes out.
//!
//! It computes when an answer is due from when the request arrived by the kernel's stamp, and never
//! from when it got to reading it or to writing the one before: its own lateness does not add up. A
//! machine that holds it up makes late only the answers that are due meanwhile, where in a queue each
//! later one would wait the longer for it, and it keeps to its law under any load which it can
//! carry. It never sleeps, because a thread that is woken on a virtual machine is some 50 µs late,
//! and to wake it costs whoever sends to it as much: the truth would be the machine's and not the
//! law's. It speaks enough HTTP/1.1 for the generator and for other load tools
//! (`GET /api/v1/latest/…` and `POST /api/v1/flatten`).

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::event::{
    EventfdFlags, Timespec,
    epoll::{self, EventData, EventFlags},
    eventfd,
};

use super::law::{Discipline, Freeze, Law};
use crate::host::{self, priority::prefer_thread};
use crate::load::{Clock, Inbox, nanoseconds};

/// Epoll token of the listener.
const LISTENER: u64 = 0;
/// Epoll token of the stop signal.
const STOP: u64 = 1;
/// First epoll token of a connection.
const FIRST_CONNECTION: u64 = 2;
/// Bytes read at once: some ten requests.
const READ_BYTES: usize = 2 * 1024;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// A round of the loop that takes longer than this was held up: with 64 requests at hand it takes
/// some 200 µs.
const HELD_UP: Duration = Duration::from_micros(400);
/// No waiting in the kernel.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// What the token stands behind in a flatten request.
const TOKEN: &[u8] = br#""token":"#;
/// Digits of a token.
const TOKEN_DIGITS: usize = 10;

/// What the server does with its requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Behaviour {
    /// How long each takes.
    pub law: Law,
    /// Whether they wait for each other.
    pub discipline: Discipline,
}

impl Behaviour {
    /// Answers at once: what remains is the instrument and the kernel.
    pub const NULL: Self = Self {
        law: Law::Constant(Duration::ZERO),
        discipline: Discipline::Parallel,
    };
}

/// When the server freezes.
type Plan = Arc<OnceLock<(Instant, Freeze)>>;

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct TruthServer {
    address: SocketAddr,
    stop: Arc<OwnedFd>,
    plan: Plan,
    held_ns: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<Vec<Instant>>>>,
}

impl TruthServer {
    /// Listens on a free port of the loopback interface, on the core `cpu` if one is named.
    ///
    /// # Errors
    /// If there is no free port, or the core cannot be had.
    pub fn start(behaviour: Behaviour, cpu: Option<usize>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let plan = Plan::default();
        let mut server = Server::new(listener, &stop, Arc::clone(&plan), behaviour)?;
        let held_ns = Arc::clone(&server.held_ns);
        let cpus = cpu.map(|cpu| vec![cpu]);
        let spawn = || {
            std::thread::Builder::new()
                .name("truth".to_owned())
                .spawn(move || {
                    // Never in the real-time class: it does not sleep.
                    prefer_thread(false);
                    server.run()?;
                    Ok(server.served)
                })
        };
        Ok(Self {
            address,
            stop,
            plan,
            held_ns,
            thread: Some(host::with_cpus(cpus.as_deref(), spawn)??),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has it do nothing at all in a time relative to `start`; the first such time counts.
    pub fn freeze(&self, start: Instant, freeze: Freeze) {
        self.plan.get_or_init(|| (start, freeze));
    }

    /// How long the machine has kept it from its loop in all.
    ///
    /// It never sleeps, so a long round is the machine's doing: a stall by the hypervisor, which
    /// the kernel's count of stolen time need not show, or another program on its core. (jHiccup
    /// by Gil Tene watches a machine in the same way.)
    #[must_use]
    pub fn held(&self) -> Duration {
        Duration::from_nanos(self.held_ns.load(Ordering::Relaxed))
    }

    /// Stops it, and tells when its requests arrived, in the order in which it served them; nothing
    /// of [`Behaviour::NULL`].
    ///
    /// # Errors
    /// The fault that ended it before.
    pub fn stop(mut self) -> io::Result<Vec<Instant>> {
        self.end()
    }

    fn end(&mut self) -> io::Result<Vec<Instant>> {
        let Some(thread) = self.thread.take() else {
            return Ok(Vec::new());
        };
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes())?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the server's thread panicked")))
    }
}

impl Drop for TruthServer {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::warn!("truth server: {error}");
        }
    }
}

/// One client.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A request that has come: when, on which connection, and its answer.
type Arrived = (Instant, usize, Vec<u8>);

/// An answer that is not due yet; earliest first, in the order of arrival among equals.
type Due = Reverse<(Instant, usize, usize, Vec<u8>)>;

struct Server {
    poll: OwnedFd,
    listener: TcpListener,
    plan: Plan,
    inbox: Inbox,
    clock: Clock,
    /// Requests of a round, which belong in the order of their arrival.
    arrived: Vec<Arrived>,
    draws: Box<dyn Iterator<Item = u64> + Send>,
    behaviour: Behaviour,
    /// When the only server is free again.
    free: Instant,
    connections: Vec<Option<Connection>>,
    due: BinaryHeap<Due>,
    /// When the requests came that it has served.
    served: Vec<Instant>,
    held_ns: Arc<AtomicU64>,
}

impl Server {
    fn new(
        listener: TcpListener,
        stop: &OwnedFd,
        plan: Plan,
        behaviour: Behaviour,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &poll,
            &listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        epoll::add(&poll, stop, EventData::new_u64(STOP), EventFlags::IN)?;
        Ok(Self {
            poll,
            listener,
            plan,
            inbox: Inbox::new(READ_BYTES),
            clock: Clock::new(Instant::now()),
            arrived: Vec::new(),
            draws: Box::new(behaviour.law.draws()),
            behaviour,
            free: Instant::now(),
            connections: Vec::new(),
            due: BinaryHeap::new(),
            served: Vec::new(),
            held_ns: Arc::default(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = [epoll::Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; EVENTS];
        let mut round = Instant::now();
        loop {
            round = self.note_round(round);
            if self.sit_out() {
                round = Instant::now();
            }
            self.answer_due();
            let count = match epoll::wait(self.poll.as_fd(), &mut events, Some(&AT_ONCE)) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => return Err(error.into()),
            };
            // What woke it in a freeze is seen at its end.
            if self.sit_out() {
                round = Instant::now();
            }
            for event in &events[..count] {
                match event.data.u64() {
                    STOP => return Ok(()),
                    LISTENER => self.accept()?,
                    token => self.read((token - FIRST_CONNECTION) as usize),
                }
            }
            self.schedule();
        }
    }

    /// Adds up the rounds in which it was held up.
    fn note_round(&self, begun: Instant) -> Instant {
        let now = Instant::now();
        let took = now - begun;
        if took > HELD_UP {
            self.held_ns.fetch_add(nanoseconds(took), Ordering::Relaxed);
        }
        now
    }

    /// Sleeps to the end of a freeze; whether there was one.
    fn sit_out(&self) -> bool {
        let now = Instant::now();
        let until = self.behind_freeze(now);
        let is_frozen = until > now;
        if is_frozen {
            std::thread::sleep(until - now);
        }
        is_frozen
    }

    /// An instant, or the end of the freeze if it lies inside.
    fn behind_freeze(&self, at: Instant) -> Instant {
        let Some((start, freeze)) = self.plan.get() else {
            return at;
        };
        let since = at.checked_duration_since(*start);
        since.map_or(at, |since| {
            *start + Duration::from_nanos(freeze.behind(nanoseconds(since)))
        })
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client is gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            // To answer at once takes no stamp, and other load tools shall not pay for one.
            if self.is_timed() {
                Inbox::register(&stream)?;
            }
            let token = EventData::new_u64(FIRST_CONNECTION + self.connections.len() as u64);
            epoll::add(&self.poll, &stream, token, EventFlags::IN)?;
            self.connections.push(Some(Connection {
                stream,
                unread: Vec::new(),
            }));
        }
    }

    /// Whether it keeps to a law, and does not answer at once.
    fn is_timed(&self) -> bool {
        self.behaviour != Behaviour::NULL
    }

    /// Reads what has come; a connection that breaks or is not understood is closed.
    fn read(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        match connection.requests(&mut self.inbox, self.clock) {
            Ok((at, answers)) => {
                let arrivals = answers.into_iter().map(|answer| (at, index, answer));
                self.arrived.extend(arrivals);
            }
            Err(error) => {
                log::debug!("truth server: {error}");
                self.connections[index] = None;
            }
        }
    }

    /// Decides when the answers to what has come are due.
    fn schedule(&mut self) {
        let mut arrived = std::mem::take(&mut self.arrived);
        arrived.sort_by_key(|(at, ..)| *at);
        for (at, index, answer) in arrived.drain(..) {
            let seen = self.behind_freeze(at);
            let begun = match self.behaviour.discipline {
                Discipline::Parallel => seen,
                Discipline::Single => seen.max(self.free),
            };
            self.free = begun + Duration::from_nanos(self.draws.next().unwrap_or_default());
            if self.is_timed() {
                self.served.push(at);
                let order = self.served.len();
                self.due.push(Reverse((self.free, order, index, answer)));
            } else {
                self.send(index, &answer);
            }
        }
        self.arrived = arrived;
    }

    fn answer_due(&mut self) {
        let is_due = |Reverse((due, ..)): &Due| *due <= Instant::now();
        while self.due.peek().is_some_and(is_due) {
            if let Some(Reverse((_, _, index, answer))) = self.due.pop() {
                self.send(index, &answer);
            }
        }
    }

    /// An answer is small and its client waits for it, so the socket takes all of it.
    fn send(&mut self, index: usize, answer: &[u8]) {
        let Some(connection) = &mut self.connections[index] else {
            return;
        };
        if connection.stream.write_all(answer).is_err() {
            self.connections[index] = None;
        }
    }
}

impl Connection {
    /// When the last bytes came, and the answers to every whole request among them.
    fn requests(&mut self, inbox: &mut Inbox, clock: Clock) -> io::Result<(Instant, Vec<Vec<u8>>)> {
        let received = match inbox.read(&self.stream, clock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok((Instant::now(), Vec::new()));
            }
            received => received?,
        };
        if received.bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(received.bytes);
        let at = clock.instant(received.at_ns);
        let mut answers = Vec::new();
        while let Some((length, answer)) = answer_to(&self.unread)? {
            self.unread.drain(..length);
            answers.push(answer);
        }
        Ok((at, answers))
    }
}

/// The length of the first request and its answer; `None` if it is not whole yet.
fn answer_to(bytes: &[u8]) -> io::Result<Option<(usize, Vec<u8>)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(bytes).map_err(io::Error::other)?;
    let httparse::Status::Complete(head) = parsed else {
        return Ok(None);
    };
    let length = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("Content-Length"))
        .map_or(Some(0), |header| {
            std::str::from_utf8(header.value).ok()?.parse().ok()
        })
        .ok_or_else(|| io::Error::other("a Content-Length is no number"))?;
    let Some(body) = bytes.get(head..head + length) else {
        return Ok(None);
    };
    let path = request.path.unwrap_or_default();
    Ok(Some((head + length, response(path, body))))
}

fn response(path: &str, body: &[u8]) -> Vec<u8> {
    let (status, body) = if let Some(key) = path.strip_prefix("/api/v1/latest/") {
        ("200 OK", format!(r#"{{"key":"{key}","fields":{{}}}}"#))
    } else if let Some(token) = token(body) {
        let body = format!(r#"{{"a/b/0":1.0,"a/b/1":1.0,"token":{token}.0}}"#);
        ("200 OK", body)
    } else {
        ("404 Not Found", "{}".to_owned())
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The token of a flatten request, which its answer repeats.
fn token(body: &[u8]) -> Option<&str> {
    let at = body.windows(TOKEN.len()).position(|part| part == TOKEN)? + TOKEN.len();
    let token = std::str::from_utf8(body.get(at..at + TOKEN_DIGITS)?).ok()?;
    token.bytes().all(|it| it.is_ascii_digit()).then_some(token)
}

#[cfg(test)]
mod tests;
