//! The load: one thread, one epoll loop, one schedule for both protocols.
//!
//! The schedule is fixed before the run and never looks at an answer (open loop), so that a slow
//! subject cannot slow its own load down and hide that it is slow (coordinated omission).
//!
//! Five times are kept per kind:
//! * `send_lag`: intended instant to the instant at which the loop got to it; the generator's own
//!   lateness, and nothing else. The gate on the generator rests on it.
//! * `send_gap`: from the one such instant to the next; whether the sends were the process that they
//!   should be.
//! * `connection_wait` (REST): loop-ready to the first byte; above zero when every connection was
//!   busy. That wait is the subject's doing, so it is part of the response time and not of the lag.
//! * `service`: first byte to complete answer.
//! * `response`: *intended* instant to complete answer; the headline.
//!
//! An answer is complete when its last byte came to the client's socket, by the kernel's own stamp
//! (`SO_TIMESTAMPNS`), and not when the loop got to read it: how soon this thread is woken is no
//! property of the subject. Of several AMQP frames that are read at once, all bear the stamp of the
//! last.
//! `send_lag` and `response` are kept for twenty equal parts of the window, so that their course is seen.

mod alarm;
mod amqp;
mod clock;
mod engine;
mod generator;
#[doc(hidden)]
pub mod hot;
mod live;
mod meter;
mod pacer;
mod recorder;
mod request;
mod rest;
mod turns;

pub use amqp::{AmqpPlan, seed_message};
pub(crate) use clock::{Clock, Inbox};
pub use engine::{LoadTarget, Observation, Window};
pub(crate) use generator::nanoseconds;
pub use generator::{Generator, GeneratorThread, LoadPlan, LoadResult, RestPlan};
pub use live::{Live, View, Viewer};
pub use pacer::{Arrival, Burst, MOST_STEPS, Pacer, Ramp, Step, Steps};
pub use request::{Exchange, KEYS, key};
pub use turns::Turns;

/// Why the load could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The event queue of the kernel could not be used.
    #[error("the generator cannot use epoll")]
    Poll(#[source] std::io::Error),
    /// No connection to the subject.
    #[error("the generator cannot connect to the subject at {address}")]
    Connect {
        /// Subject.
        address: std::net::SocketAddr,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// No connection to the broker.
    #[error("the generator cannot use the broker")]
    Broker(#[source] crate::amqp::Error),
}
