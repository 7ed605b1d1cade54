//! Brings the service from the first signal to the last ack.
//!
//! Particular to threads: a thread cannot be stopped from outside, it must look.
//! So every wait in the service is a `select!` (or something that can be unblocked) with a stop
//! token in it, and nobody is joined without a deadline.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use contract::settings::EXIT_SECOND_SIGNAL;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGXFSZ},
    flag,
    iterator::{Handle, Signals},
};

/// The end of a stop token that decides; dropping it stops everybody who holds the token.
pub struct StopSource {
    _alive: Sender<Infallible>,
}

/// Says whether to stop, and can be waited for.
///
/// A channel that never carries anything and is only ever closed: unlike a flag it wakes a
/// `select!`, and unlike a message it reaches any number of threads.
#[derive(Clone)]
pub struct StopToken {
    closed: Receiver<Infallible>,
}

/// A source and its token.
#[must_use]
pub fn stop_pair() -> (StopSource, StopToken) {
    let (alive, closed) = bounded(0);
    (StopSource { _alive: alive }, StopToken { closed })
}

impl StopToken {
    /// Whether the source was dropped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.closed.try_recv() == Err(crossbeam_channel::TryRecvError::Disconnected)
    }

    /// The channel, for a `select!`; it gets ready when the source was dropped.
    #[must_use]
    pub const fn channel(&self) -> &Receiver<Infallible> {
        &self.closed
    }

    /// Sleeps, but not beyond the stop.
    pub fn sleep(&self, duration: Duration) {
        let _ = self.closed.recv_timeout(duration);
    }
}

/// Why the service stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The broker refuses the credentials or has another topology.
    #[error("the broker refuses us, check BC_AMQP_URL and BC_QUEUE_TYPE: {0}")]
    Refused(String),
    /// The HTTP library's accept thread ended, and with it the listener.
    #[error("the HTTP listener is gone; most often the descriptor limit was reached")]
    ListenerLost,
}

/// Lets any thread stop the service.
pub struct Alarm {
    reason: OnceLock<Fatal>,
    wake: Handle,
}

impl Alarm {
    /// Stops the service; the first reason counts.
    pub fn raise(&self, reason: Fatal) {
        let _ = self.reason.set(reason);
        self.wake.close();
    }

    /// The reason, if the service stops by itself.
    #[must_use]
    pub fn reason(&self) -> Option<&Fatal> {
        self.reason.get()
    }
}

/// Waits for the first signal.
pub struct Waiter {
    signals: Signals,
}

/// Takes over SIGTERM and SIGINT: the first is waited for, the second ends the process at once.
///
/// # Errors
/// If the system refuses the handlers.
pub fn install() -> std::io::Result<(Waiter, Alarm)> {
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first signal finds the flag unset, passes, and sets it.
        flag::register_conditional_shutdown(signal, EXIT_SECOND_SIGNAL.into(), Arc::clone(&seen))?;
        flag::register(signal, Arc::clone(&seen))?;
    }
    // A self-pipe that the main thread blocks on: a handler may do next to nothing itself, and
    // polling a flag would wake an idle service.
    let signals = Signals::new([SIGTERM, SIGINT])?;
    let alarm = Alarm {
        reason: OnceLock::new(),
        wake: signals.handle(),
    };
    Ok((Waiter { signals }, alarm))
}

/// Lets a write beyond the largest file that the process may have fail like one to a full disk.
///
/// By default the kernel ends the process with a signal instead. Catching it is enough; nobody
/// looks at the flag.
///
/// # Errors
/// If the system refuses the handler.
pub fn outlive_the_size_limit() -> std::io::Result<()> {
    flag::register(SIGXFSZ, Arc::default()).map(drop)
}

impl Waiter {
    /// Blocks until a signal arrives or the alarm is raised.
    pub fn wait(mut self) {
        self.signals.forever().next();
    }
}

/// Threads that end together and are waited for together, with a deadline.
///
/// `JoinHandle::join` knows none; so each thread holds a sender that is dropped when the thread
/// ends, and the wait is for the channel to close.
pub struct Group {
    threads: Vec<(String, JoinHandle<()>)>,
    alive: Sender<Infallible>,
    ended: Receiver<Infallible>,
}

impl Default for Group {
    fn default() -> Self {
        let (alive, ended) = bounded(0);
        Self {
            threads: Vec::new(),
            alive,
            ended,
        }
    }
}

impl Group {
    /// Starts a thread of the group.
    ///
    /// # Errors
    /// If the system has no room for another thread.
    pub fn spawn(
        &mut self,
        name: impl Into<String>,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let name = name.into();
        let alive = self.alive.clone();
        let handle = thread::Builder::new().name(name.clone()).spawn(move || {
            work();
            drop(alive);
        })?;
        self.threads.push((name, handle));
        Ok(())
    }

    /// Waits until all have ended; returns the names of those that had not at the deadline, which
    /// are left behind.
    #[must_use]
    pub fn wait(self, deadline: Instant) -> Vec<String> {
        drop(self.alive);
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected) {
            return Vec::new();
        }
        let late = self
            .threads
            .into_iter()
            .filter(|(_, thread)| !thread.is_finished());
        late.map(|(name, _)| name).collect()
    }
}

/// A thread of the service with what stops it.
///
/// Every part has a token of its own, because the parts stop one after the other.
pub struct Part {
    threads: Group,
    stop: StopSource,
}

impl Part {
    /// Starts a part.
    ///
    /// # Errors
    /// If the system has no room for another thread.
    pub fn start(
        name: &str,
        work: impl FnOnce(&StopToken) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, token) = stop_pair();
        let mut threads = Group::default();
        threads.spawn(name, move || work(&token))?;
        Ok(Self { threads, stop })
    }

    /// Tells it to stop; what is left is to wait for it.
    #[must_use]
    pub fn stop(self) -> Group {
        drop(self.stop);
        self.threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_when_it_is_told_to() {
        let sleep = |stop: &StopToken| stop.sleep(Duration::from_secs(60));
        let part = Part::start("part", sleep).expect("room for a thread");
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(part.stop().wait(deadline).is_empty());
    }

    #[test]
    fn a_token_wakes_everybody_when_its_source_is_dropped() {
        let (source, token) = stop_pair();
        assert!(!token.is_stopped());
        let mut group = Group::default();
        for name in ["a", "b"] {
            let token = token.clone();
            let sleep = move || token.sleep(Duration::from_secs(60));
            group.spawn(name, sleep).expect("room for a thread");
        }
        drop(source);
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(group.wait(deadline).is_empty());
        assert!(token.is_stopped());
    }

    #[test]
    fn who_is_late_is_named_and_not_waited_for() {
        let (_source, token) = stop_pair();
        let mut group = Group::default();
        let sleep = move || token.sleep(Duration::from_secs(60));
        group.spawn("slow", sleep).expect("room for a thread");
        group.spawn("quick", || {}).expect("room for a thread");
        let deadline = Instant::now() + Duration::from_millis(100);
        assert_eq!(group.wait(deadline), ["slow"]);
    }
}
