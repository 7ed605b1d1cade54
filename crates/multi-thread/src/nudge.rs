//! Frees connections that the HTTP library's thread pool has left waiting.
//!
//! Particular to threads: tiny_http gives each connection a thread from a pool, and its count of
//! idle threads goes down only when a woken thread runs. Connections that arrive in between are
//! queued for threads that are spoken for already, and wait until some other connection closes.
//! Two remedies work from outside.
//! *Ballast*: four connections that are never used occupy the four threads that the pool keeps for
//! ever, so that a quiet service has no idle thread and each connection gets a new one.
//! *Nudges*: threads of closed connections idle for five seconds, so the race comes back.
//! Therefore a request is sent to the own port after new connections were seen; if it gets no
//! answer, connections are opened and closed at once, each of which makes a thread pass by the
//! queue, until the answer is there: whoever was queued before has then been served as well.
//! The same thread notices that the library has stopped accepting, and has it replaced.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    panic,
    sync::atomic::{AtomicU16, AtomicU64, Ordering},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded, select, tick};

use crate::{
    metrics::open_fds,
    rest::library::Library,
    shutdown::{Fatal, StopToken, stop_pair},
    state::State,
};

/// Threads that the pool never ends.
const BALLAST: usize = 4;
/// How often the number of descriptors is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long connections may go on arriving before they are probed for.
const SETTLE: Duration = Duration::from_millis(3);
/// How long an answer may take before the first nudges; doubled each round.
const PATIENCE: Duration = Duration::from_millis(5);
/// Longest wait between nudges.
const MAX_PATIENCE: Duration = Duration::from_millis(200);
/// Nudges per round.
const NUDGES: usize = 8;
/// Rounds per probe; a service that is merely busy is left alone after these.
const ROUNDS: usize = 24;

/// How workers tell of new connections.
///
/// A bit per remote port: a worker reads it with every request and writes it once per connection
/// and look, so that the line stays shared between the cores and costs next to nothing.
pub struct Watch {
    /// Ports that sent a request since the last look.
    recent: Ports,
    /// Ports that did between the two looks before: a connection that goes on sending is not new.
    before: Ports,
    /// Remote port of the probe, which is not to be counted as a request.
    probe: AtomicU16,
    new: Sender<()>,
}

type Ports = Box<[AtomicU64]>;

/// A watch, and what gets ready when it has seen a new connection.
#[must_use]
pub fn watch() -> (Watch, Receiver<()>) {
    // Room for one message: it says "something is new", and saying it twice adds nothing.
    let (new, seen) = bounded(1);
    let ports = || (0..1024).map(|_| AtomicU64::new(0)).collect();
    let watch = Watch {
        recent: ports(),
        before: ports(),
        probe: AtomicU16::new(0),
        new,
    };
    (watch, seen)
}

impl Watch {
    /// Whether a request is the probe's; notes its connection otherwise.
    pub fn is_probe(&self, remote: Option<&SocketAddr>) -> bool {
        let Some(port) = remote.map(SocketAddr::port) else {
            return false;
        };
        if port == self.probe.load(Ordering::Relaxed) {
            return true;
        }
        let (word, bit) = (usize::from(port / 64), 1 << (port % 64));
        let lacks = |ports: &Ports| ports[word].load(Ordering::Relaxed) & bit == 0;
        if lacks(&self.recent) {
            self.recent[word].fetch_or(bit, Ordering::Relaxed);
            if lacks(&self.before) {
                self.alert();
            }
        }
        false
    }

    /// Has the own port looked after.
    pub fn alert(&self) {
        let _ = self.new.try_send(());
    }

    /// Forgets the connections that sent nothing since the last look: ports are used again.
    fn forget(&self) {
        for (recent, before) in self.recent.iter().zip(&self.before) {
            before.store(recent.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Connections that hold the pool's permanent threads.
#[derive(Default)]
pub struct Ballast {
    _connections: Vec<TcpStream>,
}

/// Has the own port looked after whenever a thread panics.
///
/// It may be the library's accepting one, which nobody joins: the hook is the only one that hears.
pub fn hear_panics(watch: &Watch) {
    let (report, new) = (panic::take_hook(), watch.new.clone());
    panic::set_hook(Box::new(move |panic| {
        report(panic);
        let _ = new.try_send(());
    }));
}

/// Places the ballast and waits until the service answers on its own port.
///
/// The address is announced only behind this: the ballast itself makes the race that it ends, and
/// the very first client must not lose it.
///
/// # Errors
/// If the own port cannot be reached.
pub fn settle(watch: &Watch, library: &Library) -> io::Result<Ballast> {
    let connections = (0..BALLAST).map(|_| TcpStream::connect(library.own()));
    let ballast = Ballast {
        _connections: connections.collect::<Result<_, _>>()?,
    };
    let (_source, never) = stop_pair();
    probe(watch, library, &never)?;
    Ok(ballast)
}

/// Probes when there is reason to, until `stop`.
///
/// An idle service is not probed: every connection, even one that has not got a thread, has two
/// descriptors, so if their number is as before nobody new can be waiting.
pub fn run(
    state: &State,
    watch: &Watch,
    seen: &Receiver<()>,
    library: &Library,
    mut ballast: Ballast,
    stop: &StopToken,
) {
    let look = tick(LOOK);
    let mut quiet_fds = None;
    while !stop.is_stopped() {
        let fds = select! {
            recv(seen) -> _ => {
                stop.sleep(SETTLE);
                None
            }
            recv(look) -> _ => {
                watch.forget();
                Some(open_fds())
            }
            recv(stop.channel()) -> _ => return,
        };
        if !library.is_accepting() {
            // Its threads have ended and need no ballast, but the next ones need descriptors.
            drop(ballast);
            match renew(watch, library, stop) {
                Ok(placed) => ballast = placed,
                Err(error) => {
                    log::error!("the HTTP library cannot be started anew: {error}");
                    return state.alarm.raise(Fatal::ListenerLost);
                }
            }
        } else if fds.is_some() && fds == quiet_fds {
            continue;
        }
        match probe(watch, library, stop) {
            Ok(answered) => quiet_fds = fds.filter(|_| answered),
            Err(error) => {
                // Most often for want of descriptors, which is when accepting fails as well.
                log::debug!("a probe of the own port failed: {error}");
                stop.sleep(MAX_PATIENCE);
                watch.alert();
            }
        }
    }
}

/// Replaces the library; without ballast, if there is no room for it, or if the service stops.
fn renew(watch: &Watch, library: &Library, stop: &StopToken) -> io::Result<Ballast> {
    library.replace(stop)?;
    Ok(settle(watch, library).unwrap_or_default())
}

/// Probes the own port; `false` if it never answered.
fn probe(watch: &Watch, library: &Library, stop: &StopToken) -> io::Result<bool> {
    let stream = TcpStream::connect(library.own())?;
    let port = stream.local_addr()?.port();
    watch.probe.store(port, Ordering::Relaxed);
    let answered = ask(watch, library, stream, stop);
    // The kernel gives the port to a client next, who is not to be taken for the probe.
    watch.probe.store(0, Ordering::Relaxed);
    answered
}

/// Sends the probe's request and nudges until it is answered; `false` if it never was.
fn ask(
    watch: &Watch,
    library: &Library,
    mut stream: TcpStream,
    stop: &StopToken,
) -> io::Result<bool> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: self\r\nConnection: close\r\n\r\n")?;
    let mut patience = PATIENCE;
    let mut nudges = 0;
    for _ in 0..ROUNDS {
        stream.set_read_timeout(Some(patience))?;
        match stream.read(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result.map(|_| true),
        }
        if stop.is_stopped() {
            return Ok(false);
        }
        if !library.is_accepting() {
            watch.alert();
            return Ok(false);
        }
        for _ in 0..NUDGES {
            drop(TcpStream::connect(library.own())?);
        }
        nudges += NUDGES;
        patience = (patience * 2).min(MAX_PATIENCE);
    }
    log::info!("{nudges} nudges did not get the own port to answer: busy?");
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_connection_that_goes_on_sending_is_new_once() {
        let (watch, seen) = watch();
        for look in 0..3 {
            assert!(!watch.is_probe(Some(&client(5_000))));
            assert_eq!(seen.try_recv().is_ok(), look == 0, "look {look}");
            watch.forget();
        }
    }

    #[test]
    fn a_port_that_was_silent_for_two_looks_may_be_somebody_else_s() {
        let (watch, seen) = watch();
        watch.is_probe(Some(&client(5_000)));
        watch.is_probe(Some(&client(5_001)));
        assert!(seen.try_recv().is_ok());
        watch.forget();
        watch.forget();
        watch.is_probe(Some(&client(5_000)));
        assert!(seen.try_recv().is_ok());
    }
}
