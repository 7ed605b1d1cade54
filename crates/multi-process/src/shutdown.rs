//! Brings the service from the first signal to the last ack.
//!
//! Particular to processes: a process waits for its signals by reading one byte from a pipe, which
//! needs no thread; the supervisor's orders reach the children as signals too, so `kill PID` and an
//! orderly stop of the whole service are the same path.

use std::{
    convert::Infallible,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use contract::settings::EXIT_SECOND_SIGNAL;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

/// Why the service stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The broker refuses the credentials or has another topology.
    #[error("the broker refuses us, check BC_AMQP_URL and BC_QUEUE_TYPE: {0}")]
    Refused(String),
    /// The HTTP library's accept thread ended, and with it the listener.
    #[error("the HTTP listener is gone; most often the descriptor limit was reached")]
    ListenerLost,
    /// A process that cannot do its work; it has said why.
    #[error("the {0} process gave up")]
    GaveUp(&'static str),
}

/// The signals of this process, turned into something that a thread can wait for.
///
/// A handler may do next to nothing (signal-safety(7)): it sets a flag and writes a byte to a
/// socket pair, and whoever reads the other end does the work: the self-pipe trick.
/// A condition variable in its place could not be notified from a handler.
#[derive(Debug)]
pub struct Signals {
    /// Set by the handler itself, so it has to be an atomic: a lock could be held by the very code
    /// that the handler interrupts.
    asked_to_stop: Arc<AtomicBool>,
    /// Becomes readable with every signal.
    read_end: UnixStream,
    write_end: UnixStream,
    /// What the alarm was raised for.
    failure: Arc<Mutex<Option<Fatal>>>,
}

impl Signals {
    /// Installs the handlers: the first SIGTERM or SIGINT asks for a stop, the second one exits
    /// with 130 there and then. `children` adds SIGCHLD.
    ///
    /// # Errors
    /// If the kernel refuses a descriptor or a handler.
    pub fn install(children: bool) -> io::Result<Self> {
        let asked_to_stop = Arc::new(AtomicBool::new(false));
        let (read_end, write_end) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT] {
            // The order matters: the conditional exit looks at the flag that the next line sets.
            let exit = i32::from(EXIT_SECOND_SIGNAL);
            signal_hook::flag::register_conditional_shutdown(
                signal,
                exit,
                Arc::clone(&asked_to_stop),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&asked_to_stop))?;
            signal_hook::low_level::pipe::register(signal, write_end.try_clone()?)?;
        }
        if children {
            signal_hook::low_level::pipe::register(SIGCHLD, write_end.try_clone()?)?;
        }
        Ok(Self {
            asked_to_stop,
            read_end,
            write_end,
            failure: Arc::default(),
        })
    }

    /// Sleeps until a signal or failure arrives or `deadline` passes; several may arrive as one.
    pub fn wait_until(&self, deadline: Option<Instant>) {
        let now = Instant::now();
        let patience = deadline.map(|at| at.saturating_duration_since(now));
        if patience == Some(Duration::ZERO) {
            return;
        }
        // A socket has a read timeout, which a pipe has not: that is why it is a socket pair.
        let _ = self.read_end.set_read_timeout(patience);
        let _ = (&self.read_end).read(&mut [0; 64]);
    }

    /// Whether a stop was asked for.
    pub fn asked_to_stop(&self) -> bool {
        self.asked_to_stop.load(Ordering::Acquire)
    }

    /// Sleeps until a stop is asked for.
    ///
    /// # Errors
    /// The [`Fatal`] that was reported in the meantime.
    pub fn wait_for_stop(&self) -> Result<(), Fatal> {
        while !self.asked_to_stop() {
            self.wait_until(None);
            if let Some(failure) = self.failure.lock().expect("no panic while held").take() {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// A handle through which another thread can end [`Signals::wait_for_stop`].
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn alarm(&self) -> io::Result<Alarm> {
        Ok(Alarm {
            failure: Arc::clone(&self.failure),
            write_end: Arc::new(self.write_end.try_clone()?),
        })
    }
}

/// Reports a failure to the thread that waits for signals.
#[derive(Debug, Clone)]
pub struct Alarm {
    failure: Arc<Mutex<Option<Fatal>>>,
    write_end: Arc<UnixStream>,
}

impl Alarm {
    /// Hands the failure over and wakes the waiting thread, by the same byte that a signal writes.
    pub fn raise(&self, failure: Fatal) {
        *self.failure.lock().expect("no panic while held") = Some(failure);
        let _ = (&*self.write_end).write_all(&[0]);
    }
}

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

    /// Waits until all have ended.
    ///
    /// # Errors
    /// The names of those that had not at the deadline; they are left behind.
    pub fn wait(self, deadline: Instant) -> Result<(), Vec<String>> {
        drop(self.alive);
        if self.ended.recv_deadline(deadline) == Err(RecvTimeoutError::Disconnected) {
            return Ok(());
        }
        let late = self
            .threads
            .into_iter()
            .filter(|(_, thread)| !thread.is_finished());
        Err(late.map(|(name, _)| name).collect())
    }
}

/// A moment after which a stopping process no longer waits.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The end of a grace period that starts now.
    pub fn after(grace: Duration) -> Self {
        Self(Instant::now() + grace)
    }

    /// The moment itself.
    pub const fn at(self) -> Instant {
        self.0
    }

    /// Time left, zero if none.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(group.wait(deadline), Ok(()));
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
        assert_eq!(group.wait(deadline), Err(vec!["slow".to_owned()]));
    }
}
