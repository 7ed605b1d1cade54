//! Faults of clients and publishers, and none at all.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Resource, getrlimit};

use super::super::stage::{Setup, Stage};
use super::Cause;
use crate::http::{Client, Request};

/// No fault: what fails here, and how the memory grows, is the load's doing.
pub(in crate::faults) struct Nothing;

impl Cause for Nothing {
    fn cause(&mut self, _stage: &mut Stage<'_>) -> anyhow::Result<()> {
        Ok(())
    }
}

/// One event in a hundred is no event.
pub(in crate::faults) struct Poison;

impl Cause for Poison {
    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        stage.load.poison(true);
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        stage.load.poison(false);
        let count = stage.load.journal().poison.len();
        stage.note("poison messages", count as f64);
        Ok(())
    }
}

/// Connections of the slow clients.
const SLOW_CLIENTS: usize = 200;
/// Between two bytes of each.
const SLOW_PAUSE: Duration = Duration::from_secs(1);

/// Clients that send their request a byte per second.
#[derive(Default)]
pub(in crate::faults) struct SlowLoris {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Cause for SlowLoris {
    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let address = stage.address()?;
        let clients = (0..SLOW_CLIENTS)
            .map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(1)))
            .collect::<Result<Vec<_>, _>>()
            .context("it does not take 200 clients")?;
        let stop = Arc::clone(&self.stop);
        let builder = std::thread::Builder::new().name("slow-loris".to_owned());
        self.thread = Some(builder.spawn(move || send_slowly(clients, &stop))?);
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let left = self.thread.take().and_then(|thread| thread.join().ok());
        let left = left.unwrap_or_default();
        stage.note("slow clients that held on", left as f64);
        Ok(())
    }
}

/// Returns how many connections were open at the end.
fn send_slowly(mut clients: Vec<TcpStream>, stop: &AtomicBool) -> usize {
    let head = b"GET /healthz HTTP/1.1\r\nHost: slow\r\nX-Padding: ".iter();
    for byte in head.chain(std::iter::repeat(&b'x')) {
        clients.retain_mut(|client| client.write_all(&[*byte]).is_ok());
        let next = Instant::now() + SLOW_PAUSE;
        while Instant::now() < next {
            if stop.load(Ordering::Relaxed) {
                return clients.len();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    clients.len()
}

/// Idle connections that are tried, if the descriptors suffice.
const MOST_IDLE: u64 = 10_000;
/// Descriptors that a service may need for one connection: a blocking library may duplicate each.
const DESCRIPTORS_EACH: u64 = 2;
/// Descriptors that ourselves and the service need besides.
const OTHER_DESCRIPTORS: u64 = 1_000;
/// Failures in a row after which the limit counts as reached: a single one may be the answer to
/// somebody else's burst.
const LIMIT_REACHED: usize = 3;

/// Time in which they are opened: a pool that starves new connections would take minutes.
const OPENING: Duration = Duration::from_secs(10);
/// Our own descriptors do not suffice for two crowds at once: lanes take turns.
static CROWD: Mutex<()> = Mutex::new(());

/// Connections that were served once and then stay silent, as many as are taken.
#[derive(Default)]
pub(in crate::faults) struct IdleConnections {
    clients: Vec<Client>,
    turn: Option<MutexGuard<'static, ()>>,
}

impl Cause for IdleConnections {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        // Whether the contract's limit of 1,024 is kept the conformance suite tries.
        let limit = ("BC_MAX_CONNS", (2 * MOST_IDLE).to_string());
        setup.environment.insert(limit.0.to_owned(), limit.1);
        self.turn = Some(CROWD.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let address = stage.address()?;
        let (most, before) = (most_idle(), stage.pss_bytes());
        let (mut refused, begun) = (0, Instant::now());
        let is_open = |held, refused| refused < LIMIT_REACHED && held < most;
        while is_open(self.clients.len(), refused) && begun.elapsed() < OPENING {
            match served(address) {
                Some(client) => {
                    refused = 0;
                    self.clients.push(client);
                }
                None => refused += 1,
            }
        }
        stage.note("s until they were open", begun.elapsed().as_secs_f64());
        let held = self.clients.len();
        let each = stage.pss_bytes().saturating_sub(before) / held.max(1) as u64;
        stage.note("idle connections held", held as f64);
        stage.note("KiB of PSS for each of them", each as f64 / 1024.0);
        Ok(())
    }

    fn heal(&mut self, _stage: &mut Stage<'_>) -> anyhow::Result<()> {
        self.clients.clear();
        self.turn = None;
        Ok(())
    }
}

/// [`MOST_IDLE`], or what the hard limit of descriptors leaves of it.
fn most_idle() -> usize {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let room = limit.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_EACH;
    usize::try_from(room.min(MOST_IDLE)).expect("at most MOST_IDLE")
}

/// A connection that was answered once and is kept.
fn served(address: SocketAddr) -> Option<Client> {
    let mut client = Client::connect(address, Duration::from_millis(500)).ok()?;
    let response = client.exchange(&Request::new("GET", "/healthz")).ok()?;
    (response.status == 200 && response.keep_alive).then_some(client)
}
