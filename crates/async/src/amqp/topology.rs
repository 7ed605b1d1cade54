//! Declares the exchanges and queues of the contract.
//!
//! Particular to tasks: nothing. The declarations wait for one another, because each builds on the
//! one before; running them side by side would only be faster where nobody is waiting.

use contract::{
    QueueType,
    amqp::{ArgumentValue, EXCHANGES, Queue, queues},
};
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString},
};
use tokio::sync::Mutex;

use super::{AmqpError, failed};

/// Lets one connection at a time declare: both start together, and a broker that gets the same new
/// quorum queue from two connections at once may refuse one of them.
///
/// tokio's mutex and not the standard one: it is held while waiting for the broker, and whoever
/// comes second must give way to the loop instead of blocking it.
static DECLARING: Mutex<()> = Mutex::const_new(());

/// Declares everything; what exists already with the same properties stays as it is.
///
/// # Errors
/// [`AmqpError::Failed`], above all if an object exists with other properties; the remedy is to
/// delete it or to set `--queue-type` to what it has.
pub async fn declare(channel: &Channel, queue_type: QueueType) -> Result<(), AmqpError> {
    let _alone = DECLARING.lock().await;
    for exchange in EXCHANGES {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        channel
            .exchange_declare(
                exchange.into(),
                ExchangeKind::Topic,
                options,
                FieldTable::default(),
            )
            .await
            .map_err(failed("declare an exchange"))?;
    }
    for queue in queues(queue_type) {
        declare_queue(channel, &queue).await?;
    }
    Ok(())
}

async fn declare_queue(channel: &Channel, queue: &Queue) -> Result<(), AmqpError> {
    let options = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare(queue.name.into(), options, arguments(queue))
        .await
        .map_err(failed("declare a queue"))?;
    channel
        .queue_bind(
            queue.name.into(),
            queue.bound_to.into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(failed("bind a queue"))
}

fn arguments(queue: &Queue) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            ArgumentValue::Text(text) => AMQPValue::LongString(LongString::from(*text)),
            ArgumentValue::Number(number) => AMQPValue::LongInt(*number),
        };
        table.insert((*name).into(), value);
    }
    table
}
