//! Accepts connections and gives each a thread (`--http std`).
//!
//! Particular to threads: a thread per connection is the oldest and plainest server there is. It
//! needs no queue, no pool and no state machine, and a slow client is slow for itself only.
//! The price is a stack per client, busy or idle (address space above all: of the two megabytes
//! that each may grow to, an idle one has touched some ten kilobytes), and a scheduler that knows
//! them all. So their number is bounded, and idle ones are sent home.

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use contract::{Problem, ProblemKind};

use super::{Api, connection::Connection, sockets, wire::Wire};
use crate::{
    shutdown::Group,
    state::{Flag, Places, State, lock},
};

/// Pause after a failed accept, such as for want of descriptors: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long newcomers may take to be accepted before the listener is closed.
const BACKLOG_PATIENCE: Duration = Duration::from_millis(250);
/// Clients beyond the bound that are told so at the same time; further ones are just closed.
const MAX_REFUSALS: usize = 64;

/// Those at present.
static REFUSALS: Places = Places::new(MAX_REFUSALS);

/// Our own server.
pub struct Front {
    /// A second descriptor of the accepting thread's listener, for closing it under it.
    listener: TcpListener,
    accepting: Group,
    clients: Arc<Clients>,
}

impl Front {
    /// Starts accepting.
    ///
    /// # Errors
    /// If the system has no room for another thread or descriptor.
    pub fn start(state: &Arc<State>, listener: TcpListener) -> io::Result<Self> {
        let clients = Arc::new(Clients::default());
        let own = listener.try_clone()?;
        let mut accepting = Group::default();
        accepting.spawn("accept", {
            let (state, clients) = (Arc::clone(state), Arc::clone(&clients));
            move || accept_all(&listener, &state, &clients)
        })?;
        Ok(Self {
            listener: own,
            accepting,
            clients,
        })
    }

    /// See [`super::Front::stop`].
    pub fn stop(self, deadline: Instant) -> Vec<String> {
        let patience = Instant::now() + BACKLOG_PATIENCE;
        sockets::await_empty_backlog(&self.listener, patience.min(deadline));
        // Wakes the thread in `accept`, which no timeout would do without waking it all the time.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let mut late = self.accepting.wait(deadline);
        // Behind the last who was accepted, so that his request is answered as well.
        self.clients.close();
        match self.clients.wait(deadline) {
            0 => {}
            1 => late.push("a connection".into()),
            left => late.push(format!("{left} connections each")),
        }
        late
    }
}

/// Accepts until the listener is shut down. No other error ends it: a listener that gives up is a
/// service that is dead without knowing it.
fn accept_all(listener: &TcpListener, state: &Arc<State>, clients: &Arc<Clients>) {
    for number in 0.. {
        let accepted = listener.accept();
        let started = accepted.and_then(|(stream, _)| {
            let client = Clients::enter(clients, number, stream);
            let state = Arc::clone(state);
            let thread = thread::Builder::new().name("http".into());
            thread.spawn(move || serve(&client, &state))
        });
        match started {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(error) => {
                log::warn!("a connection could not be taken: {error}");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Serves one connection on a thread of its own, or tells the client that it is one too many.
fn serve(client: &Client, state: &Arc<State>) {
    let limit = state.config.settings.body_limit;
    let wire = Wire::new(Arc::clone(&client.stream), &client.clients.closing);
    let api = Api::new(Arc::clone(state), client.number);
    let connection = Connection::new(api, wire, limit);
    if let Some(_place) = state.connections.take() {
        connection.serve();
    } else if let Some(_place) = REFUSALS.take() {
        let most = state.config.settings.max_conns;
        let detail = format!("{most} connections are open already");
        connection.refuse(&Problem::new(ProblemKind::Overloaded, detail));
    }
}

/// Who is connected.
///
/// A thread that sleeps in `read` cannot be told anything, but its socket can: whoever stops the
/// service shuts the reading half of each, and the sleepers wake up to an end of input. What has
/// arrived before is still read, and the writing half stays open for the answer in hand.
#[derive(Default)]
struct Clients {
    /// One entry per connection's thread. A mutex, because a connection comes and goes once.
    open: Mutex<HashMap<usize, Arc<TcpStream>>>,
    /// Notified when the last has gone. A condition variable and not a [`Group`]: a group knows its
    /// threads by name for as long as it lives, and these come and go.
    gone: Condvar,
    /// Whether the connections are being ended; apart from the map, because each answer asks.
    closing: Flag,
}

/// A client that is entered, until this is dropped.
struct Client {
    clients: Arc<Clients>,
    number: usize,
    stream: Arc<TcpStream>,
}

impl Clients {
    /// Enters a connection, on the accepting thread: when that one has ended, all are entered.
    fn enter(clients: &Arc<Self>, number: usize, stream: TcpStream) -> Client {
        let stream = Arc::new(stream);
        lock(&clients.open).insert(number, Arc::clone(&stream));
        Client {
            clients: Arc::clone(clients),
            number,
            stream,
        }
    }

    /// Ends every connection as soon as it has answered what it has read.
    fn close(&self) {
        let open = lock(&self.open);
        self.closing.set(true);
        for stream in open.values() {
            // Fails if the client has gone already.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Waits until all have gone, and returns how many had not at the deadline.
    fn wait(&self, deadline: Instant) -> usize {
        let patience = deadline.saturating_duration_since(Instant::now());
        let open = lock(&self.open);
        let waited = self
            .gone
            .wait_timeout_while(open, patience, |open| !open.is_empty());
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        open.len()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut open = lock(&self.clients.open);
        open.remove(&self.number);
        if open.is_empty() {
            self.clients.gone.notify_all();
        }
    }
}

#[cfg(test)]
mod tests;
