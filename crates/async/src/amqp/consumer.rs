//! Ingests events: decodes, makes visible, acks or gives back, replies.
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
    limits::{ACK_DELAY, CONNECT_TIMEOUT, REMEMBERED_IDS, REQUEUE_DELAY},
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
    types::{AMQPValue, DeliveryTag, FieldTable},
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
        // The effects stand though acks may be lost: the redeliveries will be duplicates.
        ingest.count_unacked();
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
                // In the order of the source and not at random: the drain first, and what is due
                // before more deliveries, or a steady stream could put it off.
                biased;
                () = view.reached(Phase::NoConsuming) => break,
                () = due_or_never => self.do_what_is_due(channel)?,
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
            self.settle(channel, &delivered(item)?)?;
            next = consumer.next().now_or_never();
        }
        // lapin's stream does not know tokio's budget, which makes tokio's own sockets and channels
        // give way now and then; so it is done here by hand.
        if let Some(item) = next {
            yield_now().await;
            self.settle(channel, &delivered(item)?)?;
        }
        Ok(())
    }

    /// Makes a delivery's effect visible, then acks or rejects it, then replies; or holds it back.
    fn settle(&mut self, channel: &Channel, delivery: &Delivery) -> Result<(), AmqpError> {
        let settlement = self.attempt(delivery, Self::handle);
        let now = Instant::now();
        match settlement {
            Settlement::Invalid => {
                reject(channel, delivery.delivery_tag, false)?;
                self.count(settlement);
            }
            Settlement::Ok | Settlement::Duplicate => {
                self.unacked[usize::from(settlement == Settlement::Duplicate)] += 1;
                if let Some(full) = self.batcher.settled(delivery.delivery_tag, now) {
                    self.ack(channel, full)?;
                }
            }
            Settlement::Transient => {
                // An entry in the batcher and not a task that sleeps: giving back must come from
                // the channel that the delivery came on, and stop when that is gone.
                let until = now + REQUEUE_DELAY;
                if let Some(before) = self.batcher.hold(delivery.delivery_tag, until) {
                    self.ack(channel, before)?;
                }
                // No reply: nothing has become of it yet.
                return Ok(());
            }
        }
        self.reply(delivery, settlement);
        Ok(())
    }

    /// Applies a delivery by `apply`; a panic in there may pass, and is no reason to stop ingesting.
    fn attempt(
        &mut self,
        delivery: &Delivery,
        apply: impl FnOnce(&mut Self, &Delivery) -> Settlement,
    ) -> Settlement {
        let applied = panic::catch_unwind(AssertUnwindSafe(|| apply(self, delivery)));
        applied.unwrap_or_else(|_| {
            log::error!("the handler of a delivery panicked; it is given back");
            // Or its next delivery would pass for a duplicate, and be acked without an effect.
            self.dedup.forget(message_id(delivery));
            Settlement::Transient
        })
    }

    /// Decodes and applies a delivery; when this returns, REST sees its effect (invariant I1).
    fn handle(&mut self, delivery: &Delivery) -> Settlement {
        self.state.compute();
        let now = SystemTime::now();
        let reading = match domain::decode(&delivery.data) {
            Ok(reading) => reading,
            Err(error) => {
                log::info!("dead-lettered: {:#}", anyhow::Error::from(error));
                self.observe(delivery, None);
                return Settlement::Invalid;
            }
        };
        if self.state.config.settings.fault_key.as_ref() == Some(&reading.key) {
            self.observe(delivery, None);
            return Settlement::Transient;
        }
        if !self.dedup.is_new(message_id(delivery)) {
            self.observe(delivery, None);
            return Settlement::Duplicate;
        }
        self.state.apply(reading, UnixMs::from_system(now));
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

    fn reply(&self, delivery: &Delivery, outcome: Settlement) {
        let properties = &delivery.properties;
        let Some(reply_to) = properties.reply_to().clone() else {
            return;
        };
        let settled = Settled {
            message_id: message_id(delivery).unwrap_or_default().to_owned(),
            outcome,
        };
        let body = serde_json::to_vec(&settled).expect("two strings serialise");
        let correlation_id = properties.correlation_id().clone();
        self.publisher.reply(reply_to, correlation_id, body);
    }

    /// Sends the ack that is due, and gives back what was held back for long enough.
    fn do_what_is_due(&mut self, channel: &Channel) -> Result<(), AmqpError> {
        let now = Instant::now();
        if let Some(ack) = self.batcher.take_due(now) {
            self.ack(channel, ack)?;
        }
        self.give_back(channel, now)
    }

    /// Gives back what was to be held back until `now` at the latest.
    ///
    /// The broker counts each return, and after the fourth delivery the event is a dead letter.
    fn give_back(&mut self, channel: &Channel, now: Instant) -> Result<(), AmqpError> {
        while let Some(delivery_tag) = self.batcher.take_released(now) {
            reject(channel, delivery_tag, true)?;
            self.count(Settlement::Transient);
        }
        Ok(())
    }

    fn count(&self, settlement: Settlement) {
        self.state.metrics.amqp(|amqp| amqp.settled(settlement, 1));
    }

    /// Hands an ack to the connection and counts what it covers.
    fn ack(&mut self, channel: &Channel, ack: Ack) -> Result<(), AmqpError> {
        let multiple = ack.multiple;
        let options = BasicAckOptions { multiple };
        // Polled once and then dropped: the first poll queues the frame, and the rest would only
        // wait for it to be written. If the connection breaks, the stream says so, and the broker
        // delivers again what it got no ack for; waiting would change nothing but our pace.
        let handed_over = channel.basic_ack(ack.delivery_tag, options).now_or_never();
        told("ack", handed_over)?;
        self.count_unacked();
        Ok(())
    }

    /// Counts what was settled since the last time.
    fn count_unacked(&mut self) {
        let [ok, duplicate] = std::mem::take(&mut self.unacked);
        self.state.metrics.amqp(|amqp| {
            amqp.settled(Settlement::Ok, ok);
            amqp.settled(Settlement::Duplicate, duplicate);
        });
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
                self.settle(channel, &delivered(Some(delivery))?)?;
            }
            Ok(())
        });
        let finished = settled.await.unwrap_or(Err(AmqpError::Ended));
        if let Some(ack) = self.batcher.flush() {
            self.ack(channel, ack)?;
        }
        // Another instance may have what is missing here, so this does not wait for its time.
        self.give_back(channel, Instant::now() + REQUEUE_DELAY)?;
        finished
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
fn reject(channel: &Channel, delivery_tag: DeliveryTag, requeue: bool) -> Result<(), AmqpError> {
    let options = BasicRejectOptions { requeue };
    let handed_over = channel.basic_reject(delivery_tag, options);
    told("reject", handed_over.now_or_never())
}

/// The error that a frame's first poll told, if any.
fn told(what: &'static str, polled: Option<lapin::Result<()>>) -> Result<(), AmqpError> {
    match polled {
        Some(Err(error)) => Err(AmqpError::Failed { what, error }),
        Some(Ok(())) | None => Ok(()),
    }
}

fn message_id(delivery: &Delivery) -> Option<&str> {
    let id = delivery.properties.message_id().as_ref();
    id.map(|id| id.as_str())
}

/// The publisher's clock, from the header `x-sent-ns`.
fn sent_ns(delivery: &Delivery) -> Option<i64> {
    let headers = delivery.properties.headers().as_ref()?;
    match headers.inner().get(HEADER_SENT_NS)? {
        AMQPValue::LongLongInt(ns) => Some(*ns),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use lapin::BasicProperties;

    fn ingest(arguments: &[&str]) -> Ingest {
        let config = Config::parse(arguments).expect("valid");
        let state = Arc::new(State::new(config));
        let (publisher, _) = Publisher::new(Arc::clone(&state));
        Ingest::new(state, Arc::new(publisher))
    }

    fn delivery(key: &str) -> Delivery {
        let body = format!(r#"{{"key":"{key}","data":{{"t":1}}}}"#);
        let mut delivery = Delivery::mock(1, "".into(), key.into(), false, body.into_bytes());
        delivery.properties = BasicProperties::default().with_message_id("m-1".into());
        delivery
    }

    #[test]
    fn a_panic_puts_the_delivery_off_and_its_next_attempt_is_no_duplicate() {
        let mut ingest = ingest(&[]);
        let delivery = delivery("s");
        let panics = |ingest: &mut Ingest, delivery: &Delivery| -> Settlement {
            assert!(ingest.dedup.is_new(message_id(delivery)));
            panic!("a bug");
        };
        let first = ingest.attempt(&delivery, panics);
        assert_eq!(first, Settlement::Transient);
        let second = ingest.attempt(&delivery, Ingest::handle);
        assert_eq!(second, Settlement::Ok);
        let third = ingest.attempt(&delivery, Ingest::handle);
        assert_eq!(third, Settlement::Duplicate);
        assert_eq!(ingest.state.store().len(), 1);
    }

    #[test]
    fn the_fault_key_fails_each_time_and_leaves_nothing_behind() {
        let mut ingest = ingest(&["--fault-key=bad"]);
        for _ in 0..4 {
            let settlement = ingest.attempt(&delivery("bad"), Ingest::handle);
            assert_eq!(settlement, Settlement::Transient);
        }
        assert!(ingest.state.store().is_empty());
        let other = ingest.attempt(&delivery("good"), Ingest::handle);
        assert_eq!(other, Settlement::Ok);
    }
}
