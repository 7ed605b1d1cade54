//! The bare client loop beside the event loop: lapin on tokio's `current_thread`, consume and ack.
//!
//! usage: `bare-lapin URL QUEUE PREFETCH ACK_BATCH MESSAGES`; prints one line of JSON.

use anyhow::Context;
use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};

#[path = "drain.rs"]
mod drain;
use drain::{Arguments, Stopwatch};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse()?;
    let url = format!(
        "amqp://{}:{}@{}:{}/%2f?frame_max=8192",
        arguments.user, arguments.password, arguments.host, arguments.port
    );
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .basic_qos(arguments.prefetch, BasicQosOptions::default())
        .await?;
    let mut consumer = channel
        .basic_consume(
            arguments.queue.as_str().into(),
            "bare".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut watch = Stopwatch::default();
    loop {
        let delivery = consumer
            .next()
            .await
            .context("the broker ended the consumer")??;
        let tag = watch.count(&arguments);
        if tag.ack {
            delivery
                .acker
                .ack(BasicAckOptions { multiple: true })
                .await?;
        }
        if tag.last {
            break;
        }
    }
    watch.print();
    Ok(connection.close(200, "done".into()).await?)
}
