//! Faults of clients and publishers, and none at all.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::load::POISON_EVERY;
use super::super::stage::Stage;
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
        stage
            .notes
            .push(format!("{count} poison messages, one in {POISON_EVERY}"));
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
        stage
            .notes
            .push(format!("{left} of {SLOW_CLIENTS} slow clients held on"));
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

/// Most idle connections that are tried: more than the contract's limit of 1,024, so that a service
/// without a limit is told from one that keeps it.
const MOST_IDLE: usize = 1_100;
/// Failures in a row after which the limit counts as reached: a single one may be the answer to
/// somebody else's burst.
const LIMIT_REACHED: usize = 3;

/// Connections that were served once and then stay silent, as many as are taken.
#[derive(Default)]
pub(in crate::faults) struct IdleConnections {
    clients: Vec<Client>,
}

impl Cause for IdleConnections {
    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let address = stage.address()?;
        let before = getrlimit(Resource::Nofile);
        // Our own limit must not be the one that is found.
        let raised = Rlimit {
            current: before.maximum,
            ..before
        };
        setrlimit(Resource::Nofile, raised).context("our own limit of descriptors")?;
        let mut refused = 0;
        while refused < LIMIT_REACHED && self.clients.len() < MOST_IDLE {
            match served(address) {
                Some(client) => {
                    refused = 0;
                    self.clients.push(client);
                }
                None => refused += 1,
            }
        }
        // Subjects that are launched later inherit the limit.
        setrlimit(Resource::Nofile, before).context("our own limit of descriptors")?;
        let held = self.clients.len();
        let limit = match refused {
            0 => "and no limit was met",
            _ => "and no more were taken",
        };
        let note = format!("{held} idle connections were held, {limit}");
        stage.notes.push(note);
        Ok(())
    }

    fn heal(&mut self, _stage: &mut Stage<'_>) -> anyhow::Result<()> {
        self.clients.clear();
        Ok(())
    }
}

/// A connection that was answered once and is kept.
fn served(address: SocketAddr) -> Option<Client> {
    let mut client = Client::connect(address, Duration::from_millis(500)).ok()?;
    let response = client.exchange(&Request::new("GET", "/healthz")).ok()?;
    (response.status == 200 && response.keep_alive).then_some(client)
}
