//! Builds the service, starts its parts, owns their lifetimes, and stops them in order.
//!
//! Particular to threads: the parts are threads of one process, so starting is spawning, a part
//! that fails takes nothing down by itself, and stopping is asking each and waiting with a
//! deadline.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use contract::settings::{EXIT_BIND, EXIT_CONFIG, EXIT_DROPPED};

use crate::{
    amqp::{consumer, publisher},
    background,
    config::Config,
    rest::{self, Front},
    shutdown::{self, Fatal, Part, StopToken, Waiter},
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

/// The running service.
pub struct Server {
    state: Arc<State>,
    waiter: Waiter,
    consumer: Part,
    publisher: Part,
    timers: Part,
    /// Only with a file sink.
    flush: Option<Part>,
    front: Front,
}

impl Server {
    /// Binds the address and starts every part; the broker may be away.
    ///
    /// # Errors
    /// [`ServiceError::Bind`] or [`ServiceError::System`].
    pub fn start(config: Config) -> Result<Self, ServiceError> {
        rest::lift_descriptor_limit();
        let address = config.settings.http_addr;
        let listener = rest::bind(address).map_err(|error| ServiceError::Bind(address, error))?;
        let own = listener.local_addr()?;
        let (waiter, alarm) = shutdown::install()?;
        let (outbox, inbox) = publisher::mailbox();
        let state = Arc::new(State::new(Arc::new(config), outbox, alarm));

        // The consumers of work first, so that nothing is handed over to a part that is not there.
        let publisher = part("publisher", &state, move |state, stop| {
            publisher::run(state, &inbox, stop);
        })?;
        let sink = state.config.settings.sink.clone();
        let flush = sink.map(|path| {
            part("flush", &state, |state, stop| {
                background::flush(state, path, stop);
            })
        });
        let flush = flush.transpose()?;
        let consumer = part("consumer", &state, consumer::run)?;
        let timers = part("timers", &state, background::run)?;
        let front = Front::start(&state, listener)?;
        println!("listening on http://{own}");
        Ok(Self {
            state,
            waiter,
            consumer,
            publisher,
            timers,
            flush,
            front,
        })
    }

    /// Serves until a signal or the alarm, then stops in order: what feeds a part stops before it.
    ///
    /// # Errors
    /// [`ServiceError::Fatal`] if the service stopped by itself, [`ServiceError::Dropped`] if the
    /// grace period was too short.
    pub fn run(self) -> Result<(), ServiceError> {
        self.waiter.wait();
        self.state.flags.draining.set(true);
        let settings = &self.state.config.settings;
        if self.state.alarm.reason().is_none() {
            // Everything goes on meanwhile, in the other threads. A second signal ends this sleep
            // too: its handler ends the process, whatever its threads are doing.
            thread::sleep(Duration::from_secs(settings.drain_delay_s));
        }
        let grace = settings.grace_s;
        let end = Instant::now() + Duration::from_secs(grace);
        // Each stage leaves time for those behind it, should it use up its own: a broker that has
        // fallen silent must not cost the clients their answers, nor a slow client the confirms.
        let tenth = Duration::from_secs(grace) / 10;
        let mut late = Vec::new();

        // No more deliveries; those here are finished, and acknowledged by closing in order.
        self.state.jobs.cancel_all();
        for threads in [self.consumer.stop(), self.timers.stop()] {
            late.extend(threads.wait(end - 4 * tenth));
        }
        // No more connections; requests that are here are answered.
        late.extend(self.front.stop(end - tenth));
        // Nobody brings events or publishes any more: write the last lines, await the confirms.
        let flush = self.flush.map(Part::stop);
        let publisher = self.publisher.stop();
        for threads in flush.into_iter().chain([publisher]) {
            late.extend(threads.wait(end));
        }
        report(self.state.alarm.reason(), grace, &late)
    }
}

/// Starts a part that works on the state.
fn part(
    name: &str,
    state: &Arc<State>,
    work: impl FnOnce(&Arc<State>, &StopToken) + Send + 'static,
) -> io::Result<Part> {
    let state = Arc::clone(state);
    Part::start(name, move |stop| work(&state, stop))
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
        "flush" => "lines for the sink".into(),
        other => format!("the request of {other}"),
    }
}
