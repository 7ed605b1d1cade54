//! Speaks AMQP: keeps a connection per role alive, with its topology, for as long as the service
//! runs.
//!
//! Particular to threads: each role has a thread of its own that blocks in the client library, and
//! the library (amiquip) has two more per connection, one for the socket and one for its timers.
//! No call of the library takes a deadline, so whatever may hang runs on a thread that is asked for
//! its result through a channel and, when the time is over, is left behind instead of joined.

pub mod consumer;
mod message;
pub mod publisher;
mod stream;
pub mod topology;

use std::{
    io,
    net::{TcpStream, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use amiquip::{Auth, Connection, ConnectionOptions, ConnectionTuning};
use contract::{
    limits::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT},
    metrics::Role,
};
use crossbeam_channel::{bounded, select};
use domain::Backoff;

use self::stream::NamingStream;
use crate::{
    config::Config,
    shutdown::{Fatal, StopToken},
    state::State,
};

/// How long closing a connection that is lost anyway may take.
const CLOSE_LOST: Duration = Duration::from_secs(1);
/// How long closing a sound connection may take; the grace period ends the wait earlier.
const CLOSE_SOUND: Duration = Duration::from_secs(5);

/// Why a connection could not be made or did not last.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The name has no address, or nobody answers there.
    #[error("no TCP connection to the broker")]
    Tcp(#[source] io::Error),
    /// The client library reports an error; most often the broker is gone.
    #[error("AMQP")]
    Client(#[from] amiquip::Error),
    /// The attempt took longer than [`CONNECT_TIMEOUT`].
    #[error("no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
    /// The broker cancelled the consumer: its queue was deleted or moved.
    #[error("the broker cancelled the consumer")]
    Cancelled,
    /// The broker blocks publishers, at the end of the service.
    #[error("the broker blocks us")]
    Blocked,
    /// The client's I/O thread ended without a word.
    #[error("the connection is gone")]
    Gone,
    /// A bug in this service, caught; unacknowledged deliveries come again.
    #[error("a panic, see above")]
    Panicked,
}

impl AmqpError {
    /// Whether another attempt can only fail in the same way: wrong credentials, an unknown virtual
    /// host, or objects that exist with other arguments.
    fn is_refusal(&self) -> bool {
        const ACCESS_REFUSED: u16 = 403;
        const PRECONDITION_FAILED: u16 = 406;
        const NOT_ALLOWED: u16 = 530;
        match self {
            Self::Client(amiquip::Error::InvalidCredentials) => true,
            Self::Client(
                amiquip::Error::ServerClosedConnection { code, .. }
                | amiquip::Error::ServerClosedChannel { code, .. },
            ) => matches!(*code, ACCESS_REFUSED | PRECONDITION_FAILED | NOT_ALLOWED),
            _ => false,
        }
    }
}

/// A connection with the channels of one role.
///
/// `Send`, because it is made on the thread that the deadline watches and used on the role's own.
pub trait Link: Sized + Send + 'static {
    /// Role of the connection.
    const ROLE: Role;

    /// Opens the role's channels.
    ///
    /// # Errors
    /// Whatever the client library reports.
    fn open(connection: Connection, config: &Config) -> Result<Self, amiquip::Error>;

    /// Closes the channels, then the connection.
    ///
    /// The order matters: the library passes the frames of a channel and the connection's close
    /// through different queues, so that a close alone may overtake the last ack.
    /// Closing a channel is answered by the broker, after everything sent on it before.
    ///
    /// # Errors
    /// Whatever the client library reports.
    fn close(self) -> Result<(), amiquip::Error>;
}

/// Keeps a link alive until `stop`: connects, runs `session`, and starts again after a back-off.
///
/// `session` returns `Ok` when it was stopped and `Err` when the connection was lost.
pub fn supervise<L: Link>(
    state: &Arc<State>,
    stop: &StopToken,
    mut session: impl FnMut(&L) -> Result<(), AmqpError>,
) {
    let mut backoff = Backoff::default();
    let mut connections = 0_u64;
    while !stop.is_stopped() {
        match connect::<L>(&state.config, stop) {
            Ok(Some(link)) => {
                connections += 1;
                if connections > 1 {
                    state.metrics.of(L::ROLE).lock().reconnects += 1;
                }
                let made = Instant::now();
                let result = run(&link, &mut session);
                backoff.lived(made.elapsed());
                let limit = if result.is_ok() {
                    CLOSE_SOUND
                } else {
                    CLOSE_LOST
                };
                close(link, limit);
                match result {
                    Ok(()) => return,
                    Err(error) => log::warn!("{:?} lost: {}", L::ROLE, chain(&error)),
                }
            }
            Ok(None) => return,
            Err(error) if connections == 0 && error.is_refusal() => {
                state.alarm.raise(Fatal::Refused(chain(&error)));
                return;
            }
            Err(error) => {
                // In a long outage each attempt says the same.
                let level = match backoff.is_repeated() {
                    true => log::Level::Debug,
                    false => log::Level::Warn,
                };
                log::log!(level, "{:?} cannot connect: {}", L::ROLE, chain(&error));
            }
        }
        stop.sleep(backoff.next(fastrand::f64()));
    }
}

/// Runs a session; a panic in it is a lost connection, not a lost thread: the broker delivers again
/// what was not acknowledged, and its delivery limit ends the round of a poisonous message.
fn run<L>(
    link: &L,
    session: &mut impl FnMut(&L) -> Result<(), AmqpError>,
) -> Result<(), AmqpError> {
    catch_unwind(AssertUnwindSafe(|| session(link))).unwrap_or(Err(AmqpError::Panicked))
}

/// One attempt to connect; `None` if the service stops meanwhile.
fn connect<L: Link>(config: &Arc<Config>, stop: &StopToken) -> Result<Option<L>, AmqpError> {
    let config = Arc::clone(config);
    let attempt = move || {
        let mut connection = open_connection(&config, L::ROLE)?;
        topology::declare(&mut connection, config.settings.queue_type)?;
        Ok(L::open(connection, &config)?)
    };
    // A channel for one value is Rust's future for threads: unlike `join` it can be waited for
    // together with something else and with a deadline.
    let (sender, receiver) = bounded(1);
    detach("amqp-open", move || drop(sender.send(attempt())));
    select! {
        recv(receiver) -> result => result.unwrap_or(Err(AmqpError::Panicked)).map(Some),
        recv(stop.channel()) -> _ => Ok(None),
        default(CONNECT_TIMEOUT) => Err(AmqpError::TimedOut),
    }
}

/// Opens the TCP connection ourselves, because the library offers neither a deadline for it nor
/// `TCP_NODELAY`, without which a lone reply waits for the peer's delayed ack (40 ms).
fn open_connection(config: &Config, role: Role) -> Result<Connection, AmqpError> {
    let broker = &config.broker;
    let stream = connect_tcp(&broker.host, broker.port).map_err(AmqpError::Tcp)?;
    let stream = NamingStream::new(stream, config.connection_name(role));
    let settings = &config.settings;
    let options = ConnectionOptions::default()
        .auth(Auth::Plain {
            username: broker.user.clone(),
            password: broker.password.clone(),
        })
        .virtual_host(&broker.vhost)
        .heartbeat(settings.heartbeat_s)
        .frame_max(settings.frame_max)
        .connection_timeout(Some(HANDSHAKE_TIMEOUT))
        .information(Some(contract::start_ok::PLACEHOLDER.to_owned()));
    Ok(Connection::insecure_open_stream(
        stream,
        options,
        ConnectionTuning::default(),
    )?)
}

/// Tries every address of the host.
fn connect_tcp(host: &str, port: u16) -> io::Result<mio_06::net::TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return mio_06::net::TcpStream::from_stream(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Closes a link, for at most `limit`: a broker that blocks us does not answer the close either.
fn close<L: Link>(link: L, limit: Duration) {
    let (sender, closed) = bounded(1);
    detach("amqp-close", move || drop(sender.send(link.close())));
    match closed.recv_timeout(limit) {
        Ok(Ok(())) => log::debug!("{:?} closed", L::ROLE),
        Ok(Err(error)) => log::debug!("{:?} closed: {error}", L::ROLE),
        Err(_) => log::warn!("{:?}: the broker does not answer the close", L::ROLE),
    }
}

/// Starts a thread that nobody joins: it ends with its work or with the process.
fn detach(name: &str, work: impl FnOnce() + Send + 'static) {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .expect("the system has room for another thread");
}

/// An error with its causes, in one line.
fn chain(error: &AmqpError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
