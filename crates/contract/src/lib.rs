//! What is visible of the service from outside: routes, JSON shapes, problem documents, AMQP
//! names, settings and metric names.
//!
//! The crate does no input or output and decides nothing: the three services speak it, and the
//! instrument checks it. The prose version is the `README.md` beside this crate.

pub mod amqp;
pub mod broker;
pub mod http1;
pub mod limits;
pub mod metrics;
pub mod problem;
pub mod reply;
pub mod routes;
pub mod settings;
pub mod shapes;
pub mod start_ok;

pub use broker::BrokerUrl;
pub use problem::{Problem, ProblemKind};
pub use reply::Reply;
pub use routes::{Method, Resolution, Route};
pub use settings::{Profile, QueueType, Settings};
