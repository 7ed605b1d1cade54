//! An AMQP 0-9-1 client for the instrument, on the codec of `amq-protocol`.
//!
//! [`Connection`] does no input or output, so that one epoll loop can drive HTTP and AMQP on one
//! schedule; [`Session`] is the blocking client around it for preparation and verification.
//! A client library would bring its own threads or runtime, and with them its own delays into
//! every figure.

mod admin;
mod assemble;
mod codec;
mod connection;
mod error;
mod message;
mod session;
mod topology;
mod url;

pub use amq_protocol::{
    protocol::{AMQPClass, BasicProperties},
    types::{AMQPValue, FieldTable},
};

pub use assemble::{Delivery, Returned};
pub use codec::{Decoder, Route, append_frame, append_method, append_publish};
pub use connection::{Connection, Event, Server};
pub use error::Error;
pub use message::{Batch, Confirm, Message};
pub use session::Session;
pub use topology::{declare_queue, declare_topology, queue_table};
pub use url::{Url, redact};

/// Queue name with which RabbitMQ returns replies without declaring anything.
pub const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";
