//! Builds the service, starts it, owns its lifetimes and stops it in order.
//!
//! Particular to processes: there is one such function per kind of process, and each runs in a
//! process of its own: [`supervise`] in p1, [`serve_rest`] in every p2, [`serve_amqp`] in p3, and
//! [`jobs::run_here`] in those that p3 starts for a while.
//! What they have in common they have by a socket that was handed down, or not at all.
//! Nobody orders the stop as a whole: the signal goes to all at once, each finishes what is its own,
//! and p3 stays until the sockets of the p2s are closed, which the kernel does for them.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use contract::settings::{EXIT_BIND, EXIT_CONFIG, EXIT_DROPPED};
use tiny_http::Server;

use crate::{
    amqp::{consumer, publisher},
    background::{self, jobs, sink},
    config::{self, Config, Part, Role},
    ipc::{Client, answers},
    nudge::Nudge,
    rest::{
        self,
        api::Api,
        listener::Front,
        sockets::Lent,
        tiny::{Accepting, Worker},
    },
    shutdown::{Deadline, Fatal, Group, Signals, StopSource, StopToken, stop_pair},
    state::{Flag, State},
    supervisor,
};

/// Threads of a REST process that do not belong to the library's pool: the worker, the one that waits
/// for signals, and the library's own that accepts.
const OTHER_THREADS: usize = 3;
/// How long the supervisor may take to close the listener for all.
const CLOSING: Duration = Duration::from_secs(1);
/// Part of the grace period that is kept for the last confirms and the closing of connections.
const RESERVE: u32 = 5;

/// Why the service ends otherwise than by a signal and in good order.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address is taken or not ours.
    #[error("cannot listen on {0}; choose another BC_HTTP_ADDR")]
    Bind(SocketAddr, #[source] io::Error),
    /// No room for a process, a thread, a descriptor or a signal handler.
    #[error("the system refuses us what we need")]
    System(#[from] io::Error),
    /// The service gave up by itself.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The grace period was over.
    #[error("the grace period is over; dropped: {0}")]
    Dropped(String),
}

impl ServiceError {
    /// Exit code of the process.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Bind(..) => EXIT_BIND,
            Self::Fatal(Fatal::Refused(_) | Fatal::GaveUp(_)) => EXIT_CONFIG,
            Self::Fatal(Fatal::ListenerLost) | Self::System(_) | Self::Dropped(_) => EXIT_DROPPED,
        }
    }
}

/// Runs whichever process this is, to its end.
///
/// # Errors
/// [`ServiceError`] says why it ended early.
pub fn run(config: Config) -> Result<(), ServiceError> {
    let config = Arc::new(config);
    match (&config.part, &config.job) {
        (None, None) => supervise(&config),
        (None, Some((job, parent))) => {
            rustix::thread::set_name(c"job").map_err(io::Error::from)?;
            Ok(jobs::run_here(job, *parent)?)
        }
        (Some(part), _) => {
            start_as_child(part)?;
            match part.role {
                Role::Amqp => serve_amqp(&config, part.supervisor.is_some()),
                Role::Rest => serve_rest(&config, part),
            }
        }
    }
}

/// The first process: binds what the others serve, and starts them.
///
/// The line on stdout comes before the children run: a client that connects meanwhile waits in the
/// backlog and is answered as soon as one of them accepts.
fn supervise(config: &Config) -> Result<(), ServiceError> {
    // First of all, and before the line that invites others: whoever has read it may send a signal.
    let signals = Signals::install(true)?;
    let address = config.settings.http_addr;
    let listener = rest::bind(address).map_err(|error| ServiceError::Bind(address, error))?;
    println!("listening on http://{}", listener.local_addr()?);
    supervisor::run(config, listener, &signals)
}

/// What every child does first.
fn start_as_child(part: &Part) -> Result<(), ServiceError> {
    // Otherwise `ps` and `top` show the link that the program was started through.
    let name = match part.role {
        Role::Amqp => c"p3-amqp",
        Role::Rest => c"p2-rest",
    };
    rustix::thread::set_name(name).map_err(io::Error::from)?;
    Ok(part.supervisor.map_or(Ok(()), supervisor::tie_to)?)
}

/// The socket that was passed as stdin.
///
/// A descriptor under any other number could only be adopted by `unsafe` code, which has to promise
/// that it is open and nobody else's; what stdin is, the standard library knows.
fn inherited_socket() -> io::Result<OwnedFd> {
    let stdin = std::io::stdin();
    let socket = stdin.as_fd().try_clone_to_owned()?;
    // One descriptor per socket: the second would keep it open behind our back.
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(socket)
}

/// A REST process, with whichever front is configured.
fn serve_rest(config: &Arc<Config>, part: &Part) -> Result<(), ServiceError> {
    // First of all: a signal that comes before its handler ends the process there and then.
    let signals = Signals::install(false)?;
    // Again, in each: whoever has lowered the limit of a process that ended for it has not lowered ours.
    rest::lift_descriptor_limit();
    let listener = TcpListener::from(inherited_socket()?);
    let api = Arc::new(Api::new(Arc::clone(config)));
    match config.front {
        config::Front::TinyHttp => serve_by_library(&api, part, signals, listener),
        config::Front::Std => serve_by_threads(&api, part, &signals, listener),
    }
}

/// One worker, and a thread that waits for the signals.
fn serve_by_library(
    api: &Arc<Api>,
    part: &Part,
    signals: Signals,
    listener: TcpListener,
) -> Result<(), ServiceError> {
    let own = listener.local_addr()?;
    let accepting = Accepting {
        listener: Lent::note(&listener)?,
        port: own.port(),
        suspected: Arc::default(),
        alarm: signals.alarm()?,
        until: None,
    };
    let server = Arc::new(Server::from_listener(listener, None).map_err(io::Error::other)?);
    accepting.hear_panics(&server);
    let stopping = Arc::new(Flag::default());
    let workers = api.config.settings.http_workers;
    let worker = Worker {
        api: Arc::clone(api),
        server: Arc::clone(&server),
        stopping: Arc::clone(&stopping),
        client: Client::new(&part.ipc_name),
        nudge: Nudge::new(own, workers, OTHER_THREADS),
        accepting,
        report_due: None,
    };
    let api = Arc::clone(api);
    let nudge = Nudge::new(own, workers, OTHER_THREADS);
    // The worker sleeps in the library's queue, which no signal wakes, or waits for a client or the
    // device, who know nothing of our grace period; this thread does both.
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let asked = signals.wait_for_stop();
            api.draining.set(true);
            await_closing(&api.config, nudge, asked);
            stopping.set(true);
            server.unblock();
            thread::sleep(Duration::from_secs(api.config.settings.grace_s));
            let error = ServiceError::Dropped("the request in hand".to_owned());
            eprintln!("error: {error}");
            std::process::exit(error.exit_code().into());
        })?;
    worker.run();
    Ok(())
}

/// Waits from the signal until nothing more is to be accepted.
///
/// A process that has lost its listener ends at once, and with success, for it drops nothing: what it
/// has read it answers, new clients go to its siblings, and the supervisor starts another.
fn await_closing(config: &Config, mut nudge: Nudge, asked: Result<(), Fatal>) {
    let closing = Instant::now() + config.drain_delay();
    match asked {
        Ok(()) => {
            // The worker may be waiting for the device, and does not look now.
            nudge.look();
            thread::sleep(closing.saturating_duration_since(Instant::now()));
        }
        Err(fatal) => log::error!("{fatal}"),
    }
}

/// A thread per connection, one that accepts and one that reports; this one waits for the signals.
fn serve_by_threads(
    api: &Arc<Api>,
    part: &Part,
    signals: &Signals,
    listener: TcpListener,
) -> Result<(), ServiceError> {
    let front = Arc::new(Front::new(Arc::clone(api), &part.ipc_name));
    let reporting = Arc::clone(&front);
    thread::Builder::new()
        .name("report".to_owned())
        .spawn(move || reporting.report_all())?;
    let mut accepting = Group::default();
    accepting.spawn("accept", {
        let front = Arc::clone(&front);
        move || front.accept_all(&listener)
    })?;

    signals.wait_for_stop()?;
    api.draining.set(true);
    thread::sleep(api.config.drain_delay());
    // `accept` of a socket that is shared with others cannot be woken here: the supervisor does so, for
    // all at once. Without one nobody does, and whoever is accepted from here on is told nothing, as if
    // he had come a moment later.
    if part.supervisor.is_some() {
        let _ = accepting.wait(Instant::now() + CLOSING);
    }
    front.open.close();
    let late = front
        .open
        .wait_until_gone(Duration::from_secs(api.config.settings.grace_s));
    front.report();
    match late {
        0 => Ok(()),
        late => Err(ServiceError::Dropped(format!("{late} requests in hand"))),
    }
}

/// The AMQP process: owner of the store, and of everything that the broker sees.
///
/// Inside it is a program with threads, since the client library has no other way: one each for
/// consumer, publisher and timers, one per REST process, and one that accepts those.
/// One process for both connections, and not one each: an answer to an event would otherwise cross
/// the socket as well, and the consumer is the one who knows when it may be sent.
fn serve_amqp(config: &Arc<Config>, supervised: bool) -> Result<(), ServiceError> {
    let signals = Signals::install(false)?;
    let listener = inherited_socket()?.into();
    let (outbox, inbox) = publisher::mailbox();
    let state = Arc::new(State::new(Arc::clone(config), outbox, signals.alarm()?));

    let shared = Arc::clone(&state);
    thread::Builder::new()
        .name("ipc-accept".to_owned())
        .spawn(move || answers::serve(&shared, &listener))?;
    // Each with a stop of its own, because they end one after the other.
    let consumer = Running::start("consumer", &state, consumer::run)?;
    let timers = Running::start("timers", &state, background::run)?;
    let flush = Running::start("flush", &state, sink::run)?;
    let publisher = Running::start("publisher", &state, move |state, stop| {
        publisher::run(state, &inbox, stop)
    })?;

    signals.wait_for_stop()?;
    state.flags.draining.set(true);
    // Not ready, but at work: whoever sends clients here needs a while to notice.
    thread::sleep(config.drain_delay());
    // From here on there is one deadline for everything, and each step gets what is left of it.
    let deadline = Deadline::after(Duration::from_secs(config.settings.grace_s));
    state.jobs.close();
    let mut late = consumer.stop(deadline);
    late.extend(timers.stop(deadline));
    // Behind the consumer, whose last events are written as well.
    late.extend(flush.stop(deadline));
    // The REST processes were told to stop as well; what they still have in hand may be published.
    // Detached ones know nothing of this and are not waited for.
    let patience = deadline.left() - deadline.left() / RESERVE;
    let connected =
        state
            .siblings
            .wait_until_gone(if supervised { patience } else { Duration::ZERO });
    if supervised && connected > 0 {
        late.push(format!("requests of {connected} REST processes"));
    }
    // Last: only now does nobody publish any more.
    late.extend(publisher.stop(deadline));
    if late.is_empty() {
        Ok(())
    } else {
        Err(ServiceError::Dropped(late.join(", ")))
    }
}

/// A thread with the means to end it.
struct Running {
    stop: StopSource,
    group: Group,
}

impl Running {
    fn start(
        name: &str,
        state: &Arc<State>,
        work: impl FnOnce(&Arc<State>, &StopToken) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, token) = stop_pair();
        let state = Arc::clone(state);
        let mut group = Group::default();
        group.spawn(name, move || work(&state, &token))?;
        Ok(Self { stop, group })
    }

    /// Ends the thread; its name, if it has not ended at the deadline.
    fn stop(self, deadline: Deadline) -> Vec<String> {
        drop(self.stop);
        self.group.wait(deadline.at()).err().unwrap_or_default()
    }
}
