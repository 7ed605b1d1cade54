//! Speaks AMQP: connects, supervises and reconnects the consumer and the publisher.
//!
//! Particular to tasks: each role is a task that owns its connection and waits for everything at
//! once. Behind the scenes lapin is no pure event loop: it keeps one thread per connection that
//! reads and writes the socket, and wakes our tasks; what it wakes runs on our loop, so a handler
//! that blocks would stop acks and heartbeats as well.
//! None of lapin's calls has a deadline of its own, and a broker that has gone silent answers
//! none of them; here a deadline is a wrapper around any future, which is what tasks do best.

mod confirm;
pub mod consumer;
mod message;
pub mod publisher;
mod topology;

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use contract::{
    limits::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT},
    metrics::Role,
};
use domain::Backoff;
use futures_util::stream::{BoxStream, StreamExt};
use lapin::{
    AsyncTcpStream, Channel, Connection, ConnectionProperties, ErrorKind, Event,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    runtime,
    uri::AMQPUri,
};
use tokio::time::{sleep, timeout};

use crate::{
    shutdown::{Phase, PhaseView},
    state::{State, lock},
};

/// Why a connection was not made or did not last.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The broker does not answer; check that it runs and is reachable.
    #[error("no answer within {within:?} to: {what}")]
    Silent {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        within: Duration,
    },
    /// The broker or the connection failed.
    ///
    /// lapin's error is no `#[source]` here, because its message repeats its own causes.
    #[error("failed to {what}: {error}")]
    Failed {
        /// What was asked for.
        what: &'static str,
        /// The library's error.
        error: lapin::Error,
    },
    /// The broker ended the consumer, for instance because the queue was deleted.
    #[error("the broker ended the consumer")]
    ConsumerEnded,
    /// The connection ended without a reason.
    #[error("the connection ended")]
    Ended,
}

impl AmqpError {
    /// Whether the broker answered, and will answer the same next time: wrong credentials, no such
    /// virtual host, or objects that exist with other properties.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let Self::Failed { error, .. } = self else {
            return false;
        };
        let ErrorKind::ProtocolError(error) = error.kind() else {
            return false;
        };
        matches!(
            error.kind(),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED | AMQPSoftError::PRECONDITIONFAILED)
                | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH)
        )
    }
}

/// Waits for a call to the broker, but not for ever.
///
/// # Errors
/// [`AmqpError::Silent`] after `within`, [`AmqpError::Failed`] if the call fails.
async fn deadline<T>(
    what: &'static str,
    within: Duration,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    match timeout(within, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(AmqpError::Failed { what, error }),
        Err(_) => Err(AmqpError::Silent { what, within }),
    }
}

/// An open connection with one channel, on which the topology has been declared.
pub struct Link {
    connection: Connection,
    /// Channel for whoever owns the link.
    pub channel: Channel,
    /// What the broker says unasked: blocked, unblocked, closed. Subscribed to before anything is
    /// published, since lapin keeps no event for later subscribers.
    pub events: BoxStream<'static, Event>,
    /// Further channels, kept until the connection has said good-bye: a channel that is dropped says
    /// one of its own, and lapin takes that for an error on a connection that is closing.
    further: Vec<Channel>,
    /// Last field, so that it is dropped last.
    _socket: Socket,
}

impl Link {
    /// Connects, and declares the topology.
    ///
    /// # Errors
    /// [`AmqpError::Silent`] if the whole of it takes longer than [`CONNECT_TIMEOUT`]; otherwise
    /// what failed.
    async fn open(state: &State, role: Role) -> Result<Self, AmqpError> {
        let opening = Self::open_unhurried(state, role);
        match timeout(CONNECT_TIMEOUT, opening).await {
            Ok(result) => result,
            Err(_) => Err(AmqpError::Silent {
                what: "connect",
                within: CONNECT_TIMEOUT,
            }),
        }
    }

    async fn open_unhurried(state: &State, role: Role) -> Result<Self, AmqpError> {
        let socket = Socket::default();
        let call = connect(state, role, &socket);
        let connection = deadline("shake hands", HANDSHAKE_TIMEOUT, call).await?;
        let events = connection.events_listener().boxed();
        let channel = connection
            .create_channel()
            .await
            .map_err(failed("open a channel"))?;
        topology::declare(&channel, state.config.settings.queue_type).await?;
        Ok(Self {
            connection,
            channel,
            events,
            further: Vec::new(),
            _socket: socket,
        })
    }

    /// Opens a further channel, which lives as long as the link.
    ///
    /// # Errors
    /// As every call to the broker.
    async fn open_channel(&mut self) -> Result<Channel, AmqpError> {
        let call = self.connection.create_channel();
        let channel = deadline("open a channel", CONNECT_TIMEOUT, call).await?;
        self.further.push(channel.clone());
        Ok(channel)
    }

    /// Says good-bye and waits for the answer: only then has the broker read everything that was
    /// written before, above all the last acks.
    ///
    /// While the broker blocks the connection lapin writes nothing, not even a good-bye; then the
    /// socket is cut, which loses nothing, since whatever was published had its confirm before.
    async fn close(self) {
        if self.connection.status().blocked() {
            return;
        }
        let call = self.connection.close(200, "done".into());
        if let Err(error) = deadline("close", CONNECT_TIMEOUT, call).await {
            log::warn!("{:#}", anyhow::Error::from(error));
        }
    }
}

/// Names what failed.
fn failed(what: &'static str) -> impl FnOnce(lapin::Error) -> AmqpError {
    move |error| AmqpError::Failed { what, error }
}

/// A second handle on a connection's socket, which cuts it when dropped.
///
/// Giving up a future stops our waiting, not lapin's thread: facing a peer that accepts and then
/// says nothing, that thread would wait for ever, one more for each attempt to connect. Cutting
/// the socket under it makes it end, and rejects whatever was still waiting for the connection.
#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Option<OwnedFd>>>);

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(fd) = lock(&self.0).take() {
            // An error means that it is cut already.
            let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Both);
        }
    }
}

/// Connects with our own name and a socket that can be cut.
async fn connect(state: &State, role: Role, socket: &Socket) -> lapin::Result<Connection> {
    let slot = Arc::clone(&socket.0);
    let runtime = runtime::default_runtime()?;
    let dialler = runtime.clone();
    // lapin calls this on its own thread, where it may wait for the loop.
    let dial = async move |uri: AMQPUri, _| {
        let authority = (uri.authority.host.as_str(), uri.authority.port);
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host(authority).await?.collect();
        // Sets TCP_NODELAY: without it a lone small frame waits for the peer's delayed ACK.
        let dialling = AsyncTcpStream::connect(&dialler, addresses);
        let stream = timeout(HANDSHAKE_TIMEOUT, dialling)
            .await
            .map_err(std::io::Error::from)??;
        if let AsyncTcpStream::Plain(plain) = &stream {
            *lock(&slot) = Some(plain.get_ref().as_fd().try_clone_to_owned()?);
        }
        Ok(stream)
    };
    let name = format!("async-{}-{}", state.config.settings.name, role_name(role));
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let uri = state.config.broker.clone();
    Connection::connector(uri, runtime, dial, properties).await
}

const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Consumer => "consumer",
        Role::Publisher => "publisher",
    }
}

/// Makes one connection after the other for a role, until a phase begins.
///
/// Our own loop and not lapin's recovery: that gives up after 16 attempts, sleeps on its thread in
/// between, and restores neither a cancelled consumer nor a channel that was closed.
struct Supervisor {
    state: Arc<State>,
    role: Role,
    view: PhaseView,
    /// The phase that ends it.
    until: Phase,
    backoff: Backoff,
    /// When the latest connection was made.
    up_since: Instant,
    /// Whether the broker has taken us before.
    known: bool,
}

impl Supervisor {
    fn new(state: Arc<State>, role: Role, view: PhaseView, until: Phase) -> Self {
        Self {
            state,
            role,
            view,
            until,
            backoff: Backoff::default(),
            up_since: Instant::now(),
            known: false,
        }
    }

    /// The next connection, however long it takes; none if the phase begins first.
    ///
    /// # Errors
    /// What the broker refused at the very first contact, since no patience mends that.
    /// Once it has taken us, every failure is a matter of time and is only logged.
    async fn connect(&mut self) -> Result<Option<Link>, AmqpError> {
        loop {
            let opened = tokio::select! {
                opened = Link::open(&self.state, self.role) => opened,
                () = self.view.reached(self.until) => return Ok(None),
            };
            match opened {
                Ok(link) => {
                    self.note_up();
                    return Ok(Some(link));
                }
                Err(error) if !self.known && error.is_refusal() => return Err(error),
                Err(error) => {
                    if !self.pause(error).await {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Disposes of a connection; returns whether there should be another.
    async fn disconnect(&mut self, link: Link, ended: Result<(), AmqpError>) -> bool {
        self.state
            .metrics
            .amqp(|amqp| amqp.up.insert(self.role, false));
        self.backoff.lived(self.up_since.elapsed());
        match ended {
            Ok(()) => {
                link.close().await;
                false
            }
            Err(error) => {
                drop(link);
                self.pause(error).await
            }
        }
    }

    /// Waits before the next attempt; returns whether there should be one.
    async fn pause(&mut self, error: AmqpError) -> bool {
        // In a long outage each attempt says the same.
        let level = match self.backoff.is_repeated() {
            true => log::Level::Debug,
            false => log::Level::Warn,
        };
        let delay = self.backoff.next(fastrand::f64());
        let (name, error) = (role_name(self.role), anyhow::Error::from(error));
        log::log!(level, "{name}: {error:#}; again in {delay:?}");
        tokio::select! {
            () = sleep(delay) => true,
            () = self.view.reached(self.until) => false,
        }
    }

    fn note_up(&mut self) {
        log::info!("{}: connected", role_name(self.role));
        self.state.metrics.amqp(|amqp| {
            amqp.up.insert(self.role, true);
            amqp.reconnects += u64::from(self.known);
        });
        self.known = true;
        self.up_since = Instant::now();
    }
}
