//! Builds the service, starts its parts, owns their lifetimes, and stops them in order.
//!
//! Particular to threads: the parts are threads of one process, so starting is spawning, a part
//! that fails takes nothing down by itself, and stopping is asking each and waiting with a
//! deadline.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use contract::settings::{EXIT_BIND, EXIT_CONFIG, EXIT_DROPPED};
use tiny_http::Server as HttpServer;

use crate::{
    amqp::{consumer, publisher},
    background,
    config::Config,
    nudge,
    rest::{self, Worker},
    shutdown::{self, Fatal, Group, StopSource, Waiter, stop_pair},
    state::State,
};

/// Why the service ends otherwise than by a signal and in good order.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address is taken or not ours.
    #[error("cannot listen on {0}; choose another BC_HTTP_ADDR")]
    Bind(SocketAddr, #[source] io::Error),
    /// No room for a thread or a signal handler.
    #[error("the system refuses us what we need")]
    System(#[from] io::Error),
    /// The service gave up by itself.
    #[error("{0}")]
    Fatal(String, u8),
    /// The grace period was over.
    #[error("the grace period of {0} s is over; dropped: {1}")]
    Dropped(u64, String),
}

impl ServiceError {
    /// Exit code of the process.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Bind(..) => EXIT_BIND,
            Self::Fatal(_, code) => *code,
            Self::System(_) | Self::Dropped(..) => EXIT_DROPPED,
        }
    }
}

/// A group of threads and what stops it.
///
/// Every part has a token of its own, because the parts stop one after the other.
struct Part {
    threads: Group,
    stop: StopSource,
}

/// The running service.
pub struct Server {
    state: Arc<State>,
    waiter: Waiter,
    /// The HTTP library's handle, for waking its waiting workers.
    http: Arc<HttpServer>,
    /// A second descriptor of the listener that the library owns, for closing it under it.
    listener: TcpListener,
    consumer: Part,
    publisher: Part,
    timers: Part,
    nudge: Part,
    /// The workers wait in the library and not in a `select!`, so they have no token.
    rest: Group,
}

impl Server {
    /// Binds the address and starts every part; the broker may be away.
    ///
    /// # Errors
    /// [`ServiceError::Bind`] or [`ServiceError::System`].
    pub fn start(config: Config) -> Result<Self, ServiceError> {
        let address = config.settings.http_addr;
        let listener = rest::bind(address).map_err(|error| ServiceError::Bind(address, error))?;
        let own = listener.local_addr()?;
        let (waiter, alarm) = shutdown::install()?;
        let (outbox, inbox) = publisher::mailbox();
        let state = Arc::new(State::new(Arc::new(config), outbox, alarm));
        let http = HttpServer::from_listener(listener.try_clone()?, None);
        let http = Arc::new(http.map_err(io::Error::other)?);
        let (watch, seen) = nudge::watch();
        let watch = Arc::new(watch);

        // The consumers of work first, so that nothing is handed over to a part that is not there.
        let publisher = part("publisher", &state, move |state, stop| {
            publisher::run(state, &inbox, stop);
        })?;
        let consumer = part("consumer", &state, consumer::run)?;
        let timers = part("timers", &state, background::run)?;
        let mut rest = Group::default();
        for number in 0..state.config.settings.http_workers {
            let worker = Worker {
                state: Arc::clone(&state),
                server: Arc::clone(&http),
                watch: Arc::clone(&watch),
                number,
                ids: 0,
            };
            rest.spawn(format!("rest-{number}"), || worker.run())?;
        }
        let ballast = nudge::settle(&watch, own)?;
        let nudge = part("nudge", &state, move |state, stop| {
            // The ballast lies where the nudging is: both end together.
            let _ballast = ballast;
            nudge::run(state, &watch, &seen, own, stop);
        })?;
        println!("listening on http://{own}");
        Ok(Self {
            state,
            waiter,
            http,
            listener,
            consumer,
            publisher,
            timers,
            nudge,
            rest,
        })
    }

    /// Serves until a signal or the alarm, then stops in order: what feeds a part stops before it.
    ///
    /// # Errors
    /// [`ServiceError::Fatal`] if the service stopped by itself, [`ServiceError::Dropped`] if the
    /// grace period was too short.
    pub fn run(self) -> Result<(), ServiceError> {
        self.waiter.wait();
        let grace = self.state.config.settings.grace_s;
        let end = Instant::now() + Duration::from_secs(grace);
        // A tenth is kept for the confirms, should somebody before them use up his time.
        let deadline = end - Duration::from_secs(grace) / 10;
        self.state.flags.draining.set(true);
        let mut late = Vec::new();

        // No more deliveries; those here are finished, and acknowledged by closing in order.
        drop((self.consumer.stop, self.timers.stop, self.nudge.stop));
        for threads in [
            self.consumer.threads,
            self.timers.threads,
            self.nudge.threads,
        ] {
            late.extend(threads.wait(deadline).err().into_iter().flatten());
        }
        // No more connections: the library would stop accepting only when it is dropped, so its
        // listener is shut down under it. Then each worker is woken once, behind what is queued.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for _ in 0..self.state.config.settings.http_workers {
            self.http.unblock();
        }
        late.extend(self.rest.wait(deadline).err().into_iter().flatten());
        // Nobody publishes any more: await the confirms.
        drop(self.publisher.stop);
        late.extend(self.publisher.threads.wait(end).err().into_iter().flatten());
        report(self.state.alarm.reason(), grace, &late)
    }
}

/// Starts a part that consists of a single thread.
fn part(
    name: &str,
    state: &Arc<State>,
    work: impl FnOnce(&Arc<State>, &shutdown::StopToken) + Send + 'static,
) -> io::Result<Part> {
    let (stop, token) = stop_pair();
    let mut threads = Group::default();
    let state = Arc::clone(state);
    threads.spawn(name, move || work(&state, &token))?;
    Ok(Part { threads, stop })
}

/// How it ended.
fn report(reason: Option<&Fatal>, grace: u64, late: &[String]) -> Result<(), ServiceError> {
    match reason {
        Some(fatal @ Fatal::Refused(_)) => Err(ServiceError::Fatal(fatal.to_string(), EXIT_CONFIG)),
        Some(fatal @ Fatal::ListenerLost) => {
            Err(ServiceError::Fatal(fatal.to_string(), EXIT_DROPPED))
        }
        None if late.is_empty() => Ok(()),
        None => {
            let dropped: Vec<String> = late.iter().map(|name| dropped_by(name)).collect();
            Err(ServiceError::Dropped(grace, dropped.join(", ")))
        }
    }
}

/// What is lost when a thread is left behind.
fn dropped_by(thread: &str) -> String {
    match thread {
        "consumer" => "acks (the broker delivers again)".into(),
        "publisher" => "publishes without a confirm".into(),
        "timers" => "a background task".into(),
        other => format!("the request of {other}"),
    }
}
