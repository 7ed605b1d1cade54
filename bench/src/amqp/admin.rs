//! What a session does to queues.

use std::time::{SystemTime, UNIX_EPOCH};

use amq_protocol::{
    protocol::{AMQPClass, queue},
    types::FieldTable,
};
use contract::amqp::REQUEST_QUEUES;

use super::{Error, Session};

impl Session {
    /// Number of ready messages in a queue; `None` if there is no such queue.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn depth(&mut self, queue: &str) -> Result<Option<u32>, Error> {
        let declare = queue::Declare {
            queue: queue.into(),
            passive: true,
            durable: false,
            exclusive: false,
            auto_delete: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Declare(declare));
        match self.call("queue.declare", method) {
            Ok(AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))) => Ok(Some(ok.message_count)),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Declares a queue for replies, which lives as long as this connection; returns its name.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn declare_temporary(&mut self) -> Result<String, Error> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let unique = since_epoch.unwrap_or_default().as_nanos();
        let name = format!("{REQUEST_QUEUES}{:x}-{unique:x}", std::process::id());
        let declare = queue::Declare {
            queue: name.into(),
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: true,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Declare(declare));
        match self.call("queue.declare", method)? {
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) => Ok(ok.queue.into()),
            other => Err(unexpected(&other)),
        }
    }

    /// Binds a queue to an exchange.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Error> {
        let bind = queue::Bind {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: key.into(),
            nowait: false,
            arguments: FieldTable::default(),
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Bind(bind));
        self.call("queue.bind", method).map(drop)
    }

    /// Takes back what [`Session::bind`] did; a binding that does not exist is fine.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn unbind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Error> {
        let unbind = queue::Unbind {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: key.into(),
            arguments: FieldTable::default(),
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Unbind(unbind));
        self.call("queue.unbind", method).map(drop)
    }

    /// Removes every ready message from a queue and returns their number.
    ///
    /// # Errors
    /// As [`Session::call`]; code 404 if there is no such queue.
    pub fn purge(&mut self, queue: &str) -> Result<u32, Error> {
        let purge = queue::Purge {
            queue: queue.into(),
            nowait: false,
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Purge(purge));
        match self.call("queue.purge", method)? {
            AMQPClass::Queue(queue::AMQPMethod::PurgeOk(ok)) => Ok(ok.message_count),
            other => Err(unexpected(&other)),
        }
    }

    /// Deletes a queue with its messages; one that does not exist is fine.
    ///
    /// # Errors
    /// As [`Session::call`].
    pub fn delete_queue(&mut self, queue: &str) -> Result<(), Error> {
        let delete = queue::Delete {
            queue: queue.into(),
            if_unused: false,
            if_empty: false,
            nowait: false,
        };
        let method = AMQPClass::Queue(queue::AMQPMethod::Delete(delete));
        self.call("queue.delete", method).map(drop)
    }
}

fn unexpected(method: &AMQPClass) -> Error {
    Error::Protocol(format!("unexpected answer {method:?}"))
}
