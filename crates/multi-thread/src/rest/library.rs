//! Owns the library's server, replaces one that has stopped accepting, and ends it.
//!
//! Particular to threads: tiny_http accepts on a thread that ends for good at the first error of
//! `accept`, or by a panic if only the second descriptor of a connection is missing, and tells at
//! best one worker of it. A thread cannot be begun anew, but a server can: the listener is ours, and
//! so is the decision who takes requests from which server.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tiny_http::Server;

use super::{
    reject,
    sockets::{self, Lent},
};
use crate::{
    shutdown::StopToken,
    state::{Flag, lock},
};

/// Descriptors that must be free before another server is started: without them it would end as
/// the last one did.
const ROOM: usize = 16;
/// Between two looks for room.
const LOOK: Duration = Duration::from_millis(50);
/// How long requests that were read may take to the queue, once their connections were hung up.
const LAST_CALL: Duration = Duration::from_millis(20);
/// How long newcomers may take to be accepted before the listener is closed.
const BACKLOG_PATIENCE: Duration = Duration::from_millis(250);

/// The library's server at present.
pub struct Library {
    /// Ours: the library gets duplicates, and connections wait here while it has no server.
    listener: TcpListener,
    own: SocketAddr,
    /// A mutex, because a worker looks here only when its queue says something else than a request.
    running: Mutex<Running>,
    ended: Flag,
    /// How many workers there are, each of which is to be woken.
    workers: usize,
}

struct Running {
    server: Arc<Server>,
    /// What the accepting thread has, and drops when it ends.
    accepting: Lent,
}

impl Running {
    fn start(listener: &TcpListener) -> io::Result<Self> {
        let listener = listener.try_clone()?;
        let accepting = Lent::note(&listener)?;
        let server = Server::from_listener(listener, None).map_err(io::Error::other)?;
        let server = Arc::new(server);
        Ok(Self { server, accepting })
    }
}

/// What a worker does whose queue gave it no request.
pub enum Turn {
    /// Goes on with this server.
    To(Arc<Server>),
    /// Goes on, although accepting has failed: who is connected already has more requests.
    Stay,
    /// Ends.
    End,
}

impl Library {
    /// Starts the first server.
    ///
    /// # Errors
    /// If the system has no room for another descriptor.
    pub fn start(listener: TcpListener, workers: usize) -> io::Result<Self> {
        Ok(Self {
            own: listener.local_addr()?,
            running: Mutex::new(Running::start(&listener)?),
            listener,
            ended: Flag::default(),
            workers,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn own(&self) -> SocketAddr {
        self.own
    }

    /// The server that accepts at present.
    #[must_use]
    pub fn server(&self) -> Arc<Server> {
        Arc::clone(&lock(&self.running).server)
    }

    /// Whether its accepting thread lives.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        lock(&self.running).accepting.is_open()
    }

    /// What a worker does next that has got no request from `server`.
    #[must_use]
    pub fn turn(&self, server: &Arc<Server>) -> Turn {
        let current = self.server();
        if !Arc::ptr_eq(&current, server) {
            Turn::To(current)
        } else if self.ended.is_up() {
            Turn::End
        } else {
            Turn::Stay
        }
    }

    /// Starts another server as soon as there is room for it, and sends the workers there.
    ///
    /// The connections of the one before are hung up, and what was read of them is answered: nobody
    /// would take further requests from its queue.
    ///
    /// # Errors
    /// If the connections cannot be hung up.
    pub fn replace(&self, stop: &StopToken) -> io::Result<()> {
        while !self.has_room() {
            if stop.is_stopped() {
                return Ok(());
            }
            stop.sleep(LOOK);
        }
        sockets::hang_up(self.own.port())?;
        thread::sleep(LAST_CALL);
        let next = Running::start(&self.listener)?;
        let last = std::mem::replace(&mut *lock(&self.running), next);
        for _ in 0..self.workers {
            last.server.unblock();
        }
        log::warn!("the HTTP library had stopped accepting; it was started anew");
        Ok(())
    }

    fn has_room(&self) -> bool {
        let room: io::Result<Vec<_>> = (0..ROOM).map(|_| self.listener.try_clone()).collect();
        room.is_ok()
    }

    /// Takes no more connections, hangs up on everybody, and lets the workers end behind the last
    /// request.
    ///
    /// The library would stop accepting only when it is dropped, so its listener is shut down under
    /// it.
    pub fn end(&self, deadline: Instant) {
        let patience = Instant::now() + BACKLOG_PATIENCE;
        sockets::await_empty_backlog(&self.listener, patience.min(deadline));
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        match sockets::hang_up_all(self.own.port(), reject::leaked(), deadline) {
            Ok(_) => {}
            // What is queued already is answered all the same.
            Err(error) => log::warn!("clients cannot be hung up on: {error}"),
        }
        self.ended.set(true);
        let server = self.server();
        for _ in 0..self.workers {
            server.unblock();
        }
    }
}
