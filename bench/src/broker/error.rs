//! Why there is no broker, and what would help.

use std::{io, path::PathBuf, time::Duration};

use crate::amqp;

/// A failed operation on a broker.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker of `AMQP_URL` cannot be used.
    #[error("the broker of AMQP_URL ({url}) cannot be used; correct or unset AMQP_URL")]
    Given {
        /// The URL without its password.
        url: String,
        /// The reason.
        #[source]
        source: amqp::Error,
    },
    /// There is no broker and no way to start one.
    #[error("no broker: {tried}\n{REMEDY}")]
    Unavailable {
        /// What was looked for, in order.
        tried: String,
    },
    /// A program that was needed failed.
    #[error("{what} failed: {output}")]
    Command {
        /// Command line.
        what: String,
        /// The end of what it printed.
        output: String,
    },
    /// A private node did not get ready.
    #[error("the private RabbitMQ node did not answer within {limit:?}; see {}", log.display())]
    NotReady {
        /// Its deadline.
        limit: Duration,
        /// Folder of its logs.
        log: PathBuf,
    },
    /// A private node ended while it started.
    #[error("the private RabbitMQ node ended while it started; see {}\n{tail}", log.display())]
    Died {
        /// Folder of its logs.
        log: PathBuf,
        /// The end of its output.
        tail: String,
    },
    /// A queue of a broker that is not ours holds messages.
    #[error(
        "queue {queue} holds {messages} messages on a broker that was not started by threeways; \
         they would be lost. Drain it, or allow it with --purge"
    )]
    NotEmpty {
        /// Queue.
        queue: &'static str,
        /// Ready messages.
        messages: u32,
    },
    /// A queue of a broker that is not ours exists with other arguments.
    #[error(
        "queue {queue} exists with other arguments on a broker that was not started by \
         threeways ({reason}). Delete it, or allow it with --purge"
    )]
    Mismatch {
        /// Queue.
        queue: &'static str,
        /// What the broker says.
        reason: String,
    },
    /// Only a node that was started here can be stopped and started again.
    #[error("only a private node can be stopped and started; this broker is {origin}")]
    NotOurs {
        /// Origin of the broker.
        origin: String,
    },
    /// The broker failed.
    #[error(transparent)]
    Amqp(#[from] amqp::Error),
    /// A file or process could not be handled.
    #[error("{what}")]
    Io {
        /// Operation.
        what: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// What a user can do without a broker.
const REMEDY: &str = "Any of these gives one:
  Debian, Ubuntu: sudo apt-get install --no-install-recommends rabbitmq-server
  Fedora:         sudo dnf install rabbitmq-server
  macOS:          brew install rabbitmq && brew services start rabbitmq
  Docker:         docker-compose up -d
  elsewhere:      AMQP_URL=amqp://user:password@host:5672/%2f";

/// Names the operation of an I/O error.
pub(super) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}
