//! Lends connections to the AMQP process to requests that wait at the same time.
//!
//! Particular to processes: one connection behind a lock would make every request wait for the one
//! that waits for the broker's confirm, and one per thread would cost the AMQP process a thread for
//! each idle client of ours. So there are as many as requests have ever asked at once, up to a bound.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use contract::metrics::Histogram;

use super::Client;

/// Connections kept while nobody needs them; each is a thread of the AMQP process.
const IDLE: usize = 16;

/// The connections of one REST process whose requests are answered at the same time.
pub struct Clients {
    name: String,
    /// A mutex and not a channel: who finds nobody idle makes a connection in place of waiting.
    pool: Mutex<Pool>,
}

struct Pool {
    /// The one that was used last is taken first: under a falling load the others grow stale together.
    idle: Vec<Client>,
    /// No attempt to connect before this, by whomever.
    retry_at: Instant,
    roundtrips: Histogram,
}

impl Clients {
    /// Clients of the AMQP process that listens on `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pool: Mutex::new(Pool {
                idle: Vec::new(),
                retry_at: Instant::now(),
                roundtrips: Histogram::default(),
            }),
        }
    }

    /// Lends a client; it connects when it is asked something, so that a request that asks nothing
    /// costs no connection.
    pub fn lend(&self) -> Lent<'_> {
        let mut pool = self.lock();
        let client = pool.idle.pop().unwrap_or_else(|| Client {
            retry_at: pool.retry_at,
            ..Client::new(&self.name)
        });
        drop(pool);
        Lent {
            clients: self,
            client: Some(client),
        }
    }

    /// Durations of the round trips since the last time.
    pub fn take_roundtrips(&self) -> Histogram {
        std::mem::take(&mut self.lock().roundtrips)
    }

    fn take_back(&self, mut client: Client) {
        let mut pool = self.lock();
        pool.roundtrips.merge(&client.take_roundtrips());
        // If this one's connection did not last, those that idle meanwhile are dead as well, and each
        // would cost a request its answer.
        if std::mem::take(&mut client.lost) {
            pool.idle.clear();
        }
        if client.wire.is_some() {
            if pool.idle.len() < IDLE {
                pool.idle.push(client);
            }
        } else if client.retry_at > pool.retry_at {
            pool.retry_at = client.retry_at;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().expect("no panic while held")
    }
}

/// A client that is given back when dropped, also by a panic.
pub struct Lent<'a> {
    clients: &'a Clients,
    /// `None` only while it is being dropped.
    client: Option<Client>,
}

impl Deref for Lent<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("not dropped")
    }
}

impl DerefMut for Lent<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("not dropped")
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            self.clients.take_back(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::ipc::{Question, Wire, answer_all};

    /// A client whose questions are answered until the other end is dropped.
    fn connected() -> Client {
        let (near, far) = UnixStream::pair().expect("socket pair");
        std::thread::spawn(move || answer_all(far, |_| Ok(Vec::new())));
        Client {
            wire: Some(Wire::new(near).expect("wire")),
            ..Client::new("unused")
        }
    }

    #[test]
    fn a_connection_is_used_again() {
        let clients = Clients::new("unused");
        clients.take_back(connected());
        for _ in 0..3 {
            clients.lend().ask(Question::Status).expect("answered");
        }
        assert_eq!(clients.take_roundtrips().count(), 3);
        assert_eq!(clients.lock().idle.len(), 1);
    }

    #[test]
    fn one_dead_connection_tells_of_all_and_the_next_attempt_waits() {
        let clients = Clients::new("threeways-nobody-listens-here");
        clients.take_back(connected());
        let (near, _) = UnixStream::pair().expect("socket pair");
        clients.take_back(Client {
            wire: Some(Wire::new(near).expect("wire")),
            ..Client::new("threeways-nobody-listens-here")
        });
        assert!(clients.lend().ask(Question::Status).is_err());
        assert!(clients.lock().idle.is_empty());
        assert!(clients.lend().ask(Question::Status).is_err());
        assert!(clients.lock().retry_at > Instant::now());
    }

    #[test]
    fn no_more_than_a_few_connections_idle() {
        let clients = Clients::new("unused");
        for _ in 0..2 * IDLE {
            clients.take_back(connected());
        }
        assert_eq!(clients.lock().idle.len(), IDLE);
    }
}
