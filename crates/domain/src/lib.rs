//! What the service decides: pure functions of state, command and time.
//!
//! Nothing here waits, locks, spawns, reads a clock or knows a transport: the instant is an
//! argument and effects are return values.
//! The three services share this crate, so that what differs between them is concurrency alone.

pub mod ack;
pub mod backoff;
pub mod broadcast;
pub mod dedup;
pub mod event;
pub mod flatten;
pub mod jobs;
pub mod key;
pub mod object;
pub mod process;
pub mod readiness;
pub mod rest;
pub mod series;
pub mod sink;
pub mod store;
pub mod time;
pub mod work;

pub use ack::{Ack, AckBatcher};
pub use backoff::Backoff;
pub use dedup::Dedup;
pub use event::{Reading, decode};
pub use jobs::Jobs;
pub use sink::Sink;
pub use store::Store;
pub use time::UnixMs;
