//! Rooms: virtual hosts of one broker, each with queues of its own.
//!
//! Subjects that are up at the same time use queues of the same names; each in a room of its own,
//! they do not meet.

use contract::QueueType;

use super::{Broker, Error, HANDSHAKE_LIMIT, connect, reset};
use crate::amqp::{self, Session, Url};

/// The queues of one virtual host.
#[derive(Debug, Clone)]
pub struct Room {
    /// URL with password: never print it, see [`amqp::redact`].
    pub url: String,
    may_destroy: bool,
}

impl Room {
    /// A new session in it.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub fn session(&self) -> Result<Session, amqp::Error> {
        connect(&self.url, HANDSHAKE_LIMIT)
    }

    /// Declares the contract's topology with empty queues.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] or [`Error::Mismatch`] if that would destroy something on a broker
    /// that is not ours and `--purge` was not given.
    pub fn reset(&self, queue_type: QueueType) -> Result<(), Error> {
        reset::patiently(|| reset::reset(&mut self.session()?, queue_type, self.may_destroy))
    }

    /// Number of ready messages in a queue, 0 if there is no such queue.
    ///
    /// # Errors
    /// [`Error::Amqp`].
    pub fn depth(&self, queue: &str) -> Result<u32, Error> {
        Ok(self.session()?.depth(queue)?.unwrap_or_default())
    }
}

impl Broker {
    /// The room in which everybody is who names none.
    #[must_use]
    pub fn room(&self) -> Room {
        Room {
            url: self.url.clone(),
            may_destroy: self.is_ours() || self.purge,
        }
    }

    /// That many rooms beside that one; none if the broker is no private node, for only its own
    /// tool can make them. A private node that goes on keeps them.
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Unavailable`].
    pub fn rooms(&self, count: usize) -> Result<Vec<Room>, Error> {
        if self.node.is_none() {
            return Ok(Vec::new());
        }
        let url = Url::parse(&self.url)?;
        let known = self.control(&["--quiet", "list_vhosts", "name"])?;
        let room = |place| {
            let name = format!("room-{place}");
            if !known.lines().any(|line| line.trim() == name) {
                self.control(&["add_vhost", &name])?;
                self.control(&["set_permissions", "-p", &name, &url.user, ".*", ".*", ".*"])?;
            }
            Ok(Room {
                url: format!(
                    "amqp://{}:{}@{}/{name}",
                    url.user,
                    url.password,
                    url.address()
                ),
                may_destroy: true,
            })
        };
        (0..count).map(room).collect()
    }
}
