//! Ingests events: decodes, makes visible, acks, replies.
//!
//! Particular to tasks: the handler is a plain function call between two `await`s, on the very
//! thread that answers REST, so a delivery crosses no queue of ours and wakes nobody. The other
//! side of the coin: the loop serves no request meanwhile, so the consumer takes a bounded burst of
//! deliveries and then lets the others run.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::{Instant, SystemTime},
};

use contract::{
    amqp::{HEADER_SENT_NS, INGEST_QUEUE},
    limits::{ACK_DELAY, CONNECT_TIMEOUT, REMEMBERED_IDS},
    metrics::Role,
    shapes::{Settled, Settlement},
};
use domain::{Ack, AckBatcher, Dedup, UnixMs, time::end_to_end_s};
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions,
        BasicRejectOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{
    task::yield_now,
    time::{sleep_until, timeout},
};

use super::{AmqpError, Supervisor, deadline, publisher::Publisher};
use crate::{
    shutdown::{Phase, PhaseView},
    state::State,
};

/// Deliveries taken before other tasks get their turn: some hundred microseconds of work, which is
/// what a REST request may have to wait.
const BURST: usize = 32;
/// Name of our consumer on its channel; it has to be unique only there.
const TAG: &str = "ingest";

/// Keeps consuming over one connection after the other until the drain.
///
/// # Errors
/// What the broker refused at the first contact.
pub async fn run(
    state: Arc<State>,
    publisher: Arc<Publisher>,
    view: PhaseView,
) -> Result<(), AmqpError> {
    let mut ingest = Ingest::new(Arc::clone(&state), publisher);
    let mut inside = view.clone();
    let mut supervisor =
        Supervisor::new(Arc::clone(&state), Role::Consumer, view, Phase::NoConsuming);
    while let Some(link) = supervisor.connect().await? {
        let ended = ingest.session(&link.channel, &mut inside).await;
        state.flags.set_consuming(false);
        if !supervisor.disconnect(link, ended).await {
            break;
        }
    }
    Ok(())
}

/// The consumer's own state; owned by one task, so it needs neither lock nor `Arc`.
struct Ingest {
    state: Arc<State>,
    publisher: Arc<Publisher>,
    /// Outlives connections: what was applied but not acked when one broke comes again on the next.
    dedup: Dedup,
    batcher: AckBatcher,
    /// Settled deliveries that the next ack will cover: new ones and duplicates.
    unacked: [u64; 2],
}

impl Ingest {
    fn new(state: Arc<State>, publisher: Arc<Publisher>) -> Self {
        let settings = &state.config.settings;
        let batcher = AckBatcher::new(settings.ack_batch, settings.prefetch, ACK_DELAY);
        Self {
            state,
            publisher,
            dedup: Dedup::new(REMEMBERED_IDS),
            batcher,
            unacked: [0; 2],
        }
    }

    /// Consumes over one channel until the drain (`Ok`) or a failure.
    async fn session(&mut self, channel: &Channel, view: &mut PhaseView) -> Result<(), AmqpError> {
        self.batcher.reset();
        self.unacked = [0; 2];
        let mut consumer = self.subscribe(channel).await?;
        self.state.flags.set_consuming(true);
        loop {
            let due = self.batcher.due();
            let due_or_never = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // In the order of the source and not at random: the drain first, and an ack that is
                // due before more deliveries, or a steady stream could put it off.
                biased;
                () = view.reached(Phase::NoConsuming) => break,
                () = due_or_never => self.ack_if_due(channel)?,
                item = consumer.next() => self.burst(channel, &mut consumer, item).await?,
            }
        }
        self.finish(channel, &mut consumer).await
    }

    async fn subscribe(&self, channel: &Channel) -> Result<Consumer, AmqpError> {
        let prefetch = self.state.config.settings.prefetch;
        // lapin buffers deliveries without a bound; the prefetch is the bound.
        let call = channel.basic_qos(prefetch, BasicQosOptions::default());
        deadline("set the prefetch", CONNECT_TIMEOUT, call).await?;
        let call = channel.basic_consume(
            INGEST_QUEUE.into(),
            TAG.into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        deadline("consume", CONNECT_TIMEOUT, call).await
    }

    /// Settles `first` and whatever else is there already.
    ///
    /// Going back to `select!` for each delivery would cost more than the delivery: it builds a
    /// timer and looks at every source anew. `now_or_never` asks the stream alone.
    async fn burst(
        &mut self,
        channel: &Channel,
        consumer: &mut Consumer,
        first: Option<lapin::Result<Delivery>>,
    ) -> Result<(), AmqpError> {
        let mut next = Some(first);
        for _ in 0..BURST {
            let Some(item) = next else {
                return Ok(());
            };
            self.settle(channel, delivered(item)?).await?;
            next = consumer.next().now_or_never();
        }
        // lapin's stream does not know tokio's budget, which makes tokio's own sockets and channels
        // give way now and then; so it is done here by hand.
        if let Some(item) = next {
            yield_now().await;
            self.settle(channel, delivered(item)?).await?;
        }
        Ok(())
    }

    /// Makes a delivery's effect visible, then acks or rejects it, then replies.
    async fn settle(&mut self, channel: &Channel, delivery: Delivery) -> Result<(), AmqpError> {
        let handled = panic::catch_unwind(AssertUnwindSafe(|| self.handle(&delivery)));
        let Ok(settlement) = handled else {
            // A panic is our bug and may pass: the broker delivers again, at most three times.
            log::error!("the handler of a delivery panicked; it is put back");
            return reject(channel, &delivery, true);
        };
        match settlement {
            Settlement::Invalid => {
                reject(channel, &delivery, false)?;
                let count = |amqp: &mut contract::metrics::AmqpMetrics| amqp.settled(settlement, 1);
                self.state.metrics.amqp(count);
            }
            Settlement::Ok | Settlement::Duplicate => {
                self.unacked[usize::from(settlement == Settlement::Duplicate)] += 1;
                if let Some(full) = self.batcher.settled(delivery.delivery_tag, Instant::now()) {
                    self.ack(channel, full)?;
                }
            }
        }
        self.reply(delivery, settlement).await;
        Ok(())
    }

    /// Decodes and applies a delivery; when this returns, REST sees its effect (invariant I1).
    fn handle(&mut self, delivery: &Delivery) -> Settlement {
        let now = SystemTime::now();
        let properties = &delivery.properties;
        let reading = match domain::decode(&delivery.data) {
            Ok(reading) => reading,
            Err(error) => {
                log::info!("dead-lettered: {:#}", anyhow::Error::from(error));
                self.observe(delivery, None);
                return Settlement::Invalid;
            }
        };
        let message_id = properties.message_id().as_ref().map(|id| id.as_str());
        if !self.dedup.is_new(message_id) {
            self.observe(delivery, None);
            return Settlement::Duplicate;
        }
        if self.state.config.settings.profile == contract::Profile::Shared {
            self.state.apply(reading, UnixMs::from_system(now));
        }
        self.observe(delivery, end_to_end_s(sent_ns(delivery), now));
        Settlement::Ok
    }

    fn observe(&self, delivery: &Delivery, end_to_end_s: Option<f64>) {
        self.state.metrics.amqp(|amqp| {
            amqp.redelivered += u64::from(delivery.redelivered);
            if let Some(seconds) = end_to_end_s {
                amqp.end_to_end.observe(seconds);
            }
        });
    }

    async fn reply(&self, delivery: Delivery, outcome: Settlement) {
        let properties = &delivery.properties;
        let Some(reply_to) = properties.reply_to().clone() else {
            return;
        };
        let message_id = properties.message_id().as_ref();
        let settled = Settled {
            message_id: message_id.map_or_else(String::new, |id| id.as_str().to_owned()),
            outcome,
        };
        let body = serde_json::to_vec(&settled).expect("two strings serialise");
        let correlation_id = properties.correlation_id().clone();
        self.publisher.reply(reply_to, correlation_id, body).await;
    }

    fn ack_if_due(&mut self, channel: &Channel) -> Result<(), AmqpError> {
        match self.batcher.take_due(Instant::now()) {
            Some(ack) => self.ack(channel, ack),
            None => Ok(()),
        }
    }

    /// Hands an ack to the connection and counts what it covers.
    fn ack(&mut self, channel: &Channel, ack: Ack) -> Result<(), AmqpError> {
        let options = BasicAckOptions { multiple: true };
        // Polled once and then dropped: the first poll queues the frame, and the rest would only
        // wait for it to be written. If the connection breaks, the stream says so, and the broker
        // delivers again what it got no ack for; waiting would change nothing but our pace.
        let handed_over = channel.basic_ack(ack.delivery_tag, options).now_or_never();
        told("ack", handed_over)?;
        let [ok, duplicate] = std::mem::take(&mut self.unacked);
        self.state.metrics.amqp(|amqp| {
            amqp.settled(Settlement::Ok, ok);
            amqp.settled(Settlement::Duplicate, duplicate);
        });
        Ok(())
    }

    /// Cancels, settles what was delivered already, and acks the rest.
    async fn finish(
        &mut self,
        channel: &Channel,
        consumer: &mut Consumer,
    ) -> Result<(), AmqpError> {
        let call = channel.basic_cancel(TAG.into(), BasicCancelOptions::default());
        deadline("cancel the consumer", CONNECT_TIMEOUT, call).await?;
        self.state.flags.set_consuming(false);
        // The stream ends behind the last delivery.
        let settled = timeout(CONNECT_TIMEOUT, async {
            while let Some(delivery) = consumer.next().await {
                self.settle(channel, delivered(Some(delivery))?).await?;
            }
            Ok(())
        });
        let finished = settled.await.unwrap_or(Err(AmqpError::Ended));
        match self.batcher.flush() {
            Some(ack) => self.ack(channel, ack).and(finished),
            None => finished,
        }
    }
}

/// The delivery, or why there is none: the end of the stream is how lapin tells that the broker
/// cancelled the consumer, while the channel looks as healthy as before.
fn delivered(item: Option<lapin::Result<Delivery>>) -> Result<Delivery, AmqpError> {
    match item {
        Some(Ok(delivery)) => Ok(delivery),
        Some(Err(error)) => Err(AmqpError::Failed {
            what: "consume",
            error,
        }),
        None => Err(AmqpError::ConsumerEnded),
    }
}

/// Rejects a delivery: to the dead-letter queue, or back into its queue if `requeue`.
fn reject(channel: &Channel, delivery: &Delivery, requeue: bool) -> Result<(), AmqpError> {
    let options = BasicRejectOptions { requeue };
    let handed_over = channel.basic_reject(delivery.delivery_tag, options);
    told("reject", handed_over.now_or_never())
}

/// The error that a frame's first poll told, if any.
fn told(what: &'static str, polled: Option<lapin::Result<()>>) -> Result<(), AmqpError> {
    match polled {
        Some(Err(error)) => Err(AmqpError::Failed { what, error }),
        Some(Ok(())) | None => Ok(()),
    }
}

/// The publisher's clock, from the header `x-sent-ns`.
fn sent_ns(delivery: &Delivery) -> Option<i64> {
    let headers = delivery.properties.headers().as_ref()?;
    match headers.inner().get(HEADER_SENT_NS)? {
        AMQPValue::LongLongInt(ns) => Some(*ns),
        _ => None,
    }
}
