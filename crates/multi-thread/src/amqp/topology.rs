//! Declares the exchanges and queues that every instance needs, idempotently.
//!
//! Particular to threads: the calls block until the broker has answered, one after the other; the
//! thread that waits here has nothing else to do.

use amiquip::{
    AmqpValue, Connection, ExchangeDeclareOptions, ExchangeType, FieldTable, QueueDeclareOptions,
};
use contract::{
    QueueType,
    amqp::{Argument, ArgumentValue, EXCHANGES, queues},
};

/// Declares everything on a channel of its own, which is closed afterwards: a broker that finds a
/// mismatch closes the channel, and no other may suffer for it.
///
/// # Errors
/// `ServerClosedChannel` with code 406 if an object exists with other arguments.
pub fn declare(connection: &mut Connection, queue_type: QueueType) -> Result<(), amiquip::Error> {
    let channel = connection.open_channel(None)?;
    for exchange in EXCHANGES {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        channel.exchange_declare(ExchangeType::Topic, exchange, options)?;
    }
    for queue in queues(queue_type) {
        let options = QueueDeclareOptions {
            durable: true,
            arguments: queue.arguments.iter().map(argument).collect(),
            ..QueueDeclareOptions::default()
        };
        channel.queue_declare(queue.name, options)?;
        channel.queue_bind(queue.name, queue.bound_to, "#", FieldTable::new())?;
    }
    channel.close()
}

fn argument((name, value): &Argument) -> (String, AmqpValue) {
    let value = match *value {
        ArgumentValue::Text(text) => AmqpValue::LongString(text.to_owned()),
        ArgumentValue::Number(number) => AmqpValue::LongInt(number),
    };
    ((*name).to_owned(), value)
}
