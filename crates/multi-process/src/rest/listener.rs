//! Accepts connections, keeps them within their number, and ends them: the front `--http std`.
//!
//! Particular to processes: each process accepts from the listener that all of them inherited, and
//! serves each connection on a thread of its own; what the processes add is that a crash takes only
//! its own clients along. The number of connections is limited for the service as a whole, so each new
//! one is announced to the AMQP process, which counts for all: a round trip, once per connection.

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use contract::{Problem, ProblemKind};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::{REPORT_DELAY, RETRY_DELAY, api::Api, connection};
use crate::ipc::{Clients, Question};

/// Pause after a failed `accept`, such as for want of descriptors: trying again at once would spin,
/// and giving up would leave a process that lives and refuses everybody.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections beyond the limit that are told so at the same time; more are closed without a word.
const REFUSALS: usize = 64;

/// What the threads of this front share.
pub struct Front {
    /// What answers.
    pub api: Arc<Api>,
    /// Ways to the AMQP process.
    pub clients: Clients,
    /// The connections at present.
    pub open: Open,
    /// Says that the figures have changed. One place and `try_send`: the reporter needs to hear it
    /// once, and nobody waits for him.
    changed: Sender<()>,
    changes: Receiver<()>,
}

impl Front {
    /// A front that answers by `api` and finds the AMQP process at `ipc_name`.
    pub fn new(api: Arc<Api>, ipc_name: &str) -> Self {
        let (changed, changes) = bounded(1);
        Self {
            api,
            clients: Clients::new(ipc_name),
            open: Open::default(),
            changed,
            changes,
        }
    }

    /// Accepts until the supervisor has shut the listener down, or the connections are closed; every
    /// other error passes.
    ///
    /// Blocking, in each process: the kernel wakes one of them per client, the one that has waited
    /// longest. A poll loop in each would be woken as a whole, and all but one in vain.
    pub fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        let mut failing = false;
        while !self.open.is_closed() {
            match listener.accept() {
                Ok((stream, _)) => {
                    failing = false;
                    self.admit(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                Err(error) => {
                    // Said once.
                    if !failing {
                        log::warn!("cannot accept: {error}");
                    }
                    failing = true;
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Gives a connection a thread; without one, it is closed.
    fn admit(self: &Arc<Self>, stream: TcpStream) {
        let limit = self.api.config.settings.max_conns + REFUSALS;
        let Some((id, stream)) = self.open.add(stream, limit) else {
            return;
        };
        let front = Arc::clone(self);
        let serve = move || {
            let _place = Place {
                open: &front.open,
                id,
            };
            front.serve(&stream);
        };
        if let Err(error) = thread::Builder::new().name("http".to_owned()).spawn(serve) {
            log::warn!("no thread for a connection: {error}");
            self.open.remove(id);
        }
    }

    /// Serves a connection, if the service has room for it.
    ///
    /// On the connection's own thread, the question included: if the AMQP process hangs, this client
    /// waits for it, and `accept` does not.
    fn serve(&self, stream: &TcpStream) {
        match self.enter() {
            Ok(visit) => {
                connection::serve(self, stream);
                drop(visit);
            }
            Err(problem) => connection::refuse(self, stream, &problem),
        }
    }

    /// Counts a client in.
    ///
    /// # Errors
    /// 503 if there are too many.
    fn enter(&self) -> Result<Visit<'_>, Problem> {
        let limit = self.api.config.settings.max_conns;
        let own = u32::try_from(self.api.http.lock().connections).unwrap_or(u32::MAX);
        let answer = self.clients.lend().ask(Question::Enter(own));
        let counted_there = match answer {
            Ok(_) => true,
            // Without the process that counts for all, each counts for itself.
            Err(problem)
                if problem.kind == ProblemKind::StoreUnavailable && self.open.len() <= limit =>
            {
                false
            }
            Err(problem) => return Err(problem),
        };
        self.api.http.lock().connections += 1;
        self.has_changed();
        Ok(Visit {
            front: self,
            counted_there,
        })
    }

    /// Notes that there is something to report.
    pub fn has_changed(&self) {
        let _ = self.changed.try_send(());
    }

    /// Reports this process's figures a moment after they have changed, for as long as it lives.
    ///
    /// A thread for it, because every other one here belongs to a client; it sleeps while nothing
    /// changes.
    pub fn report_all(&self) {
        // Introduces this process before its first request.
        self.has_changed();
        while self.changes.recv().is_ok() {
            while !self.report() {
                thread::sleep(RETRY_DELAY);
            }
            thread::sleep(REPORT_DELAY);
        }
    }

    /// Reports the figures; whether somebody took them.
    pub fn report(&self) -> bool {
        let roundtrips = self.clients.take_roundtrips();
        self.api.roundtrips.lock().merge(&roundtrips);
        self.api.report(&mut self.clients.lend()).is_some()
    }
}

/// A client that is connected, counted out when this is dropped, also by a panic.
struct Visit<'a> {
    front: &'a Front,
    counted_there: bool,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.front.api.http.lock().connections -= 1;
        self.front.has_changed();
        if self.counted_there {
            let _ = self.front.clients.lend().ask(Question::Leave);
        }
    }
}

/// The connections at present, so that they can be ended.
#[derive(Default)]
pub struct Open {
    /// A map under a lock with a condition variable, because who stops waits for a condition on the
    /// whole map, that it is empty; a list of join handles would grow with every client.
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    /// Shared with the connection's thread: a duplicate would be a second descriptor per client.
    streams: HashMap<u64, Arc<TcpStream>>,
    last_id: u64,
    closed: bool,
}

impl Open {
    /// Adds a connection, unless there are `limit` already or no more are served.
    fn add(&self, stream: TcpStream, limit: usize) -> Option<(u64, Arc<TcpStream>)> {
        let mut table = self.lock();
        if table.closed || table.streams.len() >= limit {
            return None;
        }
        let stream = Arc::new(stream);
        table.last_id += 1;
        let id = table.last_id;
        table.streams.insert(id, Arc::clone(&stream));
        Some((id, stream))
    }

    fn remove(&self, id: u64) {
        self.lock().streams.remove(&id);
        self.changed.notify_all();
    }

    fn len(&self) -> usize {
        self.lock().streams.len()
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends every connection behind the request that it is at.
    ///
    /// Only the direction from the client is shut, which wakes whoever waits for a request, or for the
    /// rest of one; what has arrived already is still read, and answers still go out.
    pub fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        for stream in table.streams.values() {
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    /// Waits until no connection is left; says how many are after `patience`.
    pub fn wait_until_gone(&self, patience: Duration) -> usize {
        let is_busy = |table: &mut Table| !table.streams.is_empty();
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), patience, is_busy);
        let (table, _) = waited.unwrap_or_else(PoisonError::into_inner);
        table.streams.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the table, free again when dropped, also by a panic.
struct Place<'a> {
    open: &'a Open,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.open.remove(self.id);
    }
}
