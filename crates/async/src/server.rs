//! Builds the service, starts it, owns the lifetimes, stops in order.
//!
//! Particular to tasks: there is one owner of everything, the future that `block_on` drives. Tasks
//! are started with a handle to wait for and a view of the phases to end by; a deadline for the
//! whole shutdown is one `timeout` around its steps.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use contract::{
    limits::JOBS_RUNNING_MAX,
    settings::{EXIT_BIND, EXIT_CONFIG, EXIT_DROPPED},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::{JoinError, JoinHandle},
    time::{sleep, timeout},
};

use crate::{
    amqp::{AmqpError, consumer, publisher::Publisher},
    background::{self, jobs::Jobs},
    config::{Config, Flavour},
    rest::{self, Api},
    shutdown::{Phase, Phases, Signals},
    state::State,
};

/// Why the service did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A setting that cannot be used; the message says which one and what it may be.
    #[error("{0}")]
    Settings(String),
    /// The operating system refused something that the service cannot do without.
    #[error("cannot {what}")]
    System {
        /// What was refused.
        what: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The HTTP address cannot be bound; free it or choose another by `--http-addr`.
    #[error("cannot listen on {address}; choose another address by --http-addr")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The broker refused us at the first contact; correct `--amqp-url` or `--queue-type`.
    #[error("the broker at {broker} refuses the service; check --amqp-url and --queue-type")]
    Refused {
        /// Its address without the password.
        broker: String,
        /// What it said.
        #[source]
        source: AmqpError,
    },
    /// A task that must not end has ended.
    #[error("a part of the service crashed")]
    Crashed(#[source] JoinError),
    /// The grace period ended first.
    #[error("dropped after {grace:?} of grace: {what}")]
    Dropped {
        /// The grace period.
        grace: Duration,
        /// What was under way.
        what: String,
    },
}

impl ServerError {
    /// The exit code that the contract gives this failure.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Refused { .. } => EXIT_CONFIG,
            Self::Bind { .. } => EXIT_BIND,
            Self::System { .. } | Self::Crashed(_) | Self::Dropped { .. } => EXIT_DROPPED,
        }
    }
}

/// Runs the service until a signal.
///
/// # Errors
/// Each with its own exit code, see [`ServerError::exit_code`].
pub fn run(config: Config) -> Result<(), ServerError> {
    env_logger::Builder::new().filter_level(config.log).init();
    let runtime = runtime(&config).map_err(system("start the event loop"))?;
    let result = runtime.block_on(serve(config));
    // Dropping the runtime would wait for a name look-up that may hang on a thread of its own.
    runtime.shutdown_background();
    result
}

/// The loop that drives all tasks: on this thread, or on one thread per core.
fn runtime(config: &Config) -> io::Result<Runtime> {
    let mut builder = match config.flavour {
        Flavour::CurrentThread => Builder::new_current_thread(),
        Flavour::MultiThread => Builder::new_multi_thread(),
    };
    builder
        .worker_threads(config.cores)
        // For calls that block: every job, the file sink, and the name look-ups of two connections.
        // Threads are made when they are needed; this is what they may come to, so that a job never
        // waits for a thread, and nobody else for a job.
        .max_blocking_threads(JOBS_RUNNING_MAX + 3)
        .enable_io()
        .enable_time()
        .build()
}

/// What runs as long as the service, and what is needed to stop it.
struct Running {
    phases: Phases,
    publisher: Arc<Publisher>,
    jobs: Arc<Jobs>,
    consuming: JoinHandle<Result<(), AmqpError>>,
    publishing: JoinHandle<Result<(), AmqpError>>,
    serving: JoinHandle<()>,
    flushing: JoinHandle<()>,
}

async fn serve(config: Config) -> Result<(), ServerError> {
    // First of all, so that a signal during the start is not lost.
    let signals = Signals::listen().map_err(system("catch signals"))?;
    let listener = bind(config.settings.http_addr).await?;
    let address = listener
        .local_addr()
        .map_err(system("read the bound address"))?;
    let state = Arc::new(State::new(config));
    let mut running = start(&state, listener);
    println!("listening on http://{address}");
    tokio::select! {
        () = notice(signals, &state) => {}
        ended = &mut running.consuming => return Err(ended_early(&state, ended)),
        ended = &mut running.publishing => return Err(ended_early(&state, ended)),
        ended = &mut running.serving => return Err(ended_early(&state, ended.map(Ok))),
    }
    stop(&state, running).await
}

/// Waits for the first signal, and then until load balancers have noticed that we are not ready any
/// more; meanwhile everything is served as before.
async fn notice(mut signals: Signals, state: &State) {
    signals.next().await;
    state.flags.set_draining();
    // Beside the drain and not before it: the second signal must be heard while the first is obeyed.
    tokio::spawn(signals.exit_on_next());
    sleep(Duration::from_secs(state.config.settings.drain_delay_s)).await;
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Bind { address, source })
}

/// Starts every task; from here on the service is alive.
fn start(state: &Arc<State>, listener: TcpListener) -> Running {
    let phases = Phases::new();
    let (publisher, inbox) = Publisher::new(Arc::clone(state));
    let publisher = Arc::new(publisher);
    let shared = || (Arc::clone(state), Arc::clone(&publisher));
    let (of_state, of_publisher) = shared();
    let api = Arc::new(Api::new(of_state, of_publisher, phases.view()));
    let jobs = Arc::clone(&api.jobs);
    // These two end by themselves when the drain begins, and hold nothing that could be lost, so
    // nobody waits for them.
    tokio::spawn(background::cleanup(Arc::clone(state), phases.view()));
    let (of_state, of_publisher) = shared();
    tokio::spawn(background::broadcast(of_state, of_publisher, phases.view()));
    let (of_state, of_publisher) = shared();
    let consuming = tokio::spawn(consumer::run(of_state, of_publisher, phases.view()));
    let (publishes, view) = (Arc::clone(&publisher), phases.view());
    let publishing = tokio::spawn(async move { publishes.run(inbox, view).await });
    let serving = tokio::spawn(rest::serve(listener, api, phases.view()));
    let flushing = tokio::spawn(background::flush(Arc::clone(state), phases.view()));
    Running {
        phases,
        publisher,
        jobs,
        consuming,
        publishing,
        serving,
        flushing,
    }
}

/// Names what the system refused.
fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::System { what, source }
}

/// The error behind a task that ended although nobody had asked it to.
fn ended_early(state: &State, ended: Result<Result<(), AmqpError>, JoinError>) -> ServerError {
    let broker = contract::settings::redact_url(&state.config.settings.amqp_url);
    match ended {
        Ok(Ok(())) => unreachable!("a task ends by itself only when the service drains"),
        Ok(Err(source)) => ServerError::Refused { broker, source },
        Err(crash) => ServerError::Crashed(crash),
    }
}

/// How far the drain has come, for whoever has to say what was dropped.
///
/// Atomics, because the steps may be given up half-way and return nothing.
#[derive(Debug, Default)]
struct Progress {
    consumed: AtomicBool,
    flushed: AtomicBool,
}

/// Stops in order: consuming, serving, publishing; each step lets what is under way finish.
///
/// # Errors
/// [`ServerError::Dropped`] if the grace period ends first.
async fn stop(state: &State, running: Running) -> Result<(), ServerError> {
    let grace = Duration::from_secs(state.config.settings.grace_s);
    // A job may have minutes before it; it was told to be lost with the process.
    running.jobs.cancel_all();
    // Outlives the steps, which may be dropped half-way.
    let publisher = Arc::clone(&running.publisher);
    let progress = Progress::default();
    match timeout(grace, steps(running, &progress)).await {
        Ok(()) => Ok(()),
        Err(_) => {
            let requests = state.metrics.http(|http| http.inflight);
            let messages = publisher.outstanding();
            let left = |done: AtomicBool| if done.into_inner() { "no" } else { "some" };
            let acks = left(progress.consumed);
            let lines = left(progress.flushed);
            let what = format!(
                "{requests} requests, {messages} messages without a confirm, \
                 {acks} deliveries without an ack, {lines} lines of the sink"
            );
            Err(ServerError::Dropped { grace, what })
        }
    }
}

/// The steps, one behind the other.
async fn steps(running: Running, progress: &Progress) {
    let Running {
        phases,
        publisher,
        jobs: _,
        consuming,
        publishing,
        serving,
        flushing,
    } = running;
    phases.enter(Phase::NoConsuming);
    note_crash(consuming.await.map(drop));
    progress.consumed.store(true, Ordering::Relaxed);
    phases.enter(Phase::NoServing);
    // Goes on while the requests finish; it has all the events, since none is consumed any more.
    note_crash(flushing.await);
    progress.flushed.store(true, Ordering::Relaxed);
    note_crash(serving.await);
    // Requests and replies are done, so nothing new is published, and this ends.
    publisher.drained().await;
    phases.enter(Phase::NoPublishing);
    note_crash(publishing.await.map(drop));
}

/// A task that crashes during the drain has nothing left to do; the others have.
fn note_crash(ended: Result<(), JoinError>) {
    if let Err(crash) = ended {
        log::error!("a part of the service crashed: {crash}");
    }
}
