//! What can go wrong between the instrument and a broker.

use std::{io, time::Duration};

/// A failed operation on an AMQP connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one of AMQP, or asks for TLS.
    #[error("not a usable AMQP URL ({reason}); expected amqp://user:password@host:port/vhost")]
    Url {
        /// What is wrong with it; never the URL itself, which holds a password.
        reason: String,
    },
    /// Nobody accepts connections at the address.
    #[error("no broker accepts connections at {address}")]
    Connect {
        /// Host and port.
        address: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The broker knows the user by another password, or not at all.
    #[error("the broker at {address} refuses user {user:?}: wrong name or password")]
    Refused {
        /// Host and port.
        address: String,
        /// User name.
        user: String,
    },
    /// The broker did not answer in time.
    #[error("the broker did not answer {what} within {limit:?}")]
    TimedOut {
        /// Operation that was waited for.
        what: &'static str,
        /// Its deadline.
        limit: Duration,
    },
    /// The socket failed or was closed.
    #[error("the connection to the broker broke")]
    Broken(#[source] io::Error),
    /// The broker closed the connection or the channel with a code.
    #[error("the broker closed the {scope}: {code} {text}")]
    Closed {
        /// `connection` or `channel`.
        scope: &'static str,
        /// Reply code, such as 406.
        code: u16,
        /// Reply text.
        text: String,
    },
    /// The broker sent bytes that are no AMQP frame.
    #[error("the peer does not speak AMQP 0-9-1: {0}")]
    Protocol(String),
}

impl Error {
    /// The reply code if the broker closed something, such as 404 or 406.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Closed { code, .. } => Some(*code),
            _ => None,
        }
    }
}
