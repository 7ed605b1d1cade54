//! The contract's exchanges and queues, declared by the instrument.

use amq_protocol::{
    protocol::{AMQPClass, exchange, queue},
    types::{AMQPValue, FieldTable},
};
use contract::{
    QueueType,
    amqp::{ArgumentValue, EXCHANGES, Queue, queues},
};

use super::{Error, Session};

/// Declares every exchange, queue and binding of the contract; idempotent.
///
/// # Errors
/// As [`Session::call`]; code 406 means that an object exists with other arguments.
pub fn declare_topology(session: &mut Session, queue_type: QueueType) -> Result<(), Error> {
    for name in EXCHANGES {
        let declare = exchange::Declare {
            exchange: name.into(),
            kind: "topic".into(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let method = exchange::AMQPMethod::Declare(declare);
        session.call("exchange.declare", AMQPClass::Exchange(method))?;
    }
    for queue in queues(queue_type) {
        declare_queue(session, &queue)?;
        session.bind(queue.name, queue.bound_to, "#")?;
    }
    Ok(())
}

/// Declares one durable queue of the contract, without its binding.
///
/// # Errors
/// As [`Session::call`]; code 406 means that it exists with other arguments.
pub fn declare_queue(session: &mut Session, queue: &Queue) -> Result<(), Error> {
    let declare = queue::Declare {
        queue: queue.name.into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: queue_table(queue),
    };
    let method = AMQPClass::Queue(queue::AMQPMethod::Declare(declare));
    session.call("queue.declare", method).map(drop)
}

/// The arguments of a queue as an AMQP table.
#[must_use]
pub fn queue_table(queue: &Queue) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            ArgumentValue::Text(text) => AMQPValue::LongString((*text).into()),
            ArgumentValue::Number(number) => AMQPValue::LongInt(*number),
        };
        table.insert((*name).into(), value);
    }
    table
}
