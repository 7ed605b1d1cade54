//! Servers whose response times are known beforehand: what the instrument is held against.
//!
//! A figure that nobody can check is no figure. So the generator is sent against a server that
//! takes exactly as long as it was told to, and must find what the server did; the report shows
//! both. [`Law`] says what must come out; [`TruthServer`] and [`TruthConsumer`] do it.

mod consumer;
mod law;
mod server;

pub use consumer::TruthConsumer;
pub use law::{Discipline, Freeze, Law, responses_ns};
pub use server::{Behaviour, TruthServer};
