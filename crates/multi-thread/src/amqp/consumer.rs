//! Ingests events: decodes, deduplicates, stores, answers and acknowledges them.
//!
//! Particular to threads: one thread takes the deliveries in their order, so that acks may be
//! `multiple` and duplicates need no lock.
//! More consumer threads would not help: the broker is the bottleneck of a single queue.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Instant, SystemTime},
};

use amiquip::{
    AmqpValue, Channel, Connection, Consumer as Subscription, ConsumerMessage, ConsumerOptions,
    Delivery,
};
use contract::{
    amqp::{HEADER_SENT_NS, INGEST_QUEUE},
    limits::{ACK_DELAY, REMEMBERED_IDS, REQUEUE_DELAY},
    metrics::Role,
    shapes::{Settled, Settlement},
};
use crossbeam_channel::{Receiver, at, never, select};
use domain::{Ack, AckBatcher, Dedup, UnixMs, time::end_to_end_s};

use super::{AmqpError, Link, publisher::Answer, supervise};
use crate::{config::Config, shutdown::StopToken, state::State};

/// Deliveries taken per look at the clock and at the stop token.
const TURN: usize = 64;

/// The consumer's connection.
pub struct ConsumerLink {
    channel: Channel,
    connection: Connection,
}

impl Link for ConsumerLink {
    const ROLE: Role = Role::Consumer;

    fn open(mut connection: Connection, config: &Config) -> Result<Self, amiquip::Error> {
        let channel = connection.open_channel(None)?;
        // Per consumer, not per channel: the latter is deprecated, and quorum queues refuse it.
        channel.qos(0, config.settings.prefetch, false)?;
        Ok(Self {
            channel,
            connection,
        })
    }

    fn close(self) -> Result<(), amiquip::Error> {
        self.channel.close()?;
        self.connection.close()
    }
}

/// Ingests until `stop`, over as many connections as it takes.
pub fn run(state: &Arc<State>, stop: &StopToken) {
    // Lives here and not in a session: a redelivery after a reconnect must be recognised.
    let mut dedup = Dedup::new(REMEMBERED_IDS);
    supervise::<ConsumerLink>(state, stop, |link| {
        let subscription = link
            .channel
            .basic_consume(INGEST_QUEUE, ConsumerOptions::default())?;
        let _up = state.flags.consuming.raise();
        Session {
            state,
            channel: &link.channel,
            dedup: &mut dedup,
            batch: Batch::new(&state.config),
        }
        .run(&subscription, stop)
    });
    let metrics = state.metrics.of(Role::Consumer).lock();
    log::info!("acknowledged and rejected: {:?}", metrics.deliveries);
}

/// Deliveries that are neither acknowledged nor given back yet.
///
/// The library acknowledges by delivery and not by number, so those that stand for a number are
/// kept.
struct Batch {
    /// Decides when; pure, so the clock is an argument.
    acks: AckBatcher,
    /// The last one that was settled: stands for itself and, mostly, for everything before it.
    newest: Option<Delivery>,
    /// Those that failed for a reason that may pass, until they are given back; at most as many as
    /// the prefetch lets come.
    held: BTreeMap<u64, Delivery>,
    /// Deliveries that were ok and duplicate, counted when their ack is handed over.
    outcomes: [u64; 2],
}

impl Batch {
    fn new(config: &Config) -> Self {
        let settings = &config.settings;
        Self {
            acks: AckBatcher::new(settings.ack_batch, settings.prefetch, ACK_DELAY),
            newest: None,
            held: BTreeMap::new(),
            outcomes: [0, 0],
        }
    }

    /// Adds a settled delivery; returns the ack if one is to be sent now.
    fn add(&mut self, delivery: Delivery, settlement: Settlement, now: Instant) -> Option<Ack> {
        let ack = self.acks.settled(delivery.delivery_tag(), now);
        self.outcomes[usize::from(settlement == Settlement::Duplicate)] += 1;
        self.newest = Some(delivery);
        ack
    }

    /// Holds a delivery back that failed; returns the ack of what was settled before it.
    ///
    /// Held back here and not slept over: the thread goes on with the others, and the broker sees
    /// one place of the prefetch taken.
    fn hold(&mut self, delivery: Delivery, now: Instant) -> Option<Ack> {
        let tag = delivery.delivery_tag();
        self.held.insert(tag, delivery);
        self.acks.hold(tag, now + REQUEUE_DELAY)
    }

    /// A delivery that was held back long enough.
    fn take_released(&mut self, now: Instant) -> Option<Delivery> {
        let tag = self.acks.take_released(now)?;
        self.held.remove(&tag)
    }
}

/// What lasts as long as a connection.
struct Session<'a> {
    state: &'a State,
    /// Borrowed from the link: a channel may change its thread but not be used by two.
    channel: &'a Channel,
    /// Outlives the session.
    dedup: &'a mut Dedup,
    /// Does not: the broker delivers again what a lost connection left unacknowledged.
    batch: Batch,
}

impl Session<'_> {
    /// Takes deliveries until `stop` (then what is here already is finished and acknowledged) or
    /// until the connection is lost.
    fn run(mut self, subscription: &Subscription<'_>, stop: &StopToken) -> Result<(), AmqpError> {
        let result = self.take_until(subscription.receiver(), stop);
        let result = result.and_then(|()| self.drain(subscription));
        if result.is_err() {
            // The effects stand though the acks are lost: the redeliveries will be duplicates.
            self.count_outcomes();
        }
        result
    }

    /// The loop: take what is here, acknowledge what is due, wait for whatever comes first.
    fn take_until(
        &mut self,
        deliveries: &Receiver<ConsumerMessage>,
        stop: &StopToken,
    ) -> Result<(), AmqpError> {
        while !stop.is_stopped() {
            // What is here already is taken without a `select!`, which would register with every
            // channel, and without a system call: a full prefetch window costs one wake-up.
            for message in deliveries.try_iter().take(TURN) {
                self.take(message)?;
            }
            self.settle_due()?;
            // `at` and `never` instead of a time-out: an idle consumer has no reason to wake up, and
            // a lone delivery is acknowledged on time without polling.
            let due = self.batch.acks.due().map_or_else(never, at);
            select! {
                recv(deliveries) -> message => self.take(message.map_err(|_| AmqpError::Gone)?)?,
                recv(due) -> _ => self.settle_due()?,
                recv(stop.channel()) -> _ => {}
            }
        }
        Ok(())
    }

    /// Cancels the consumer, then settles and acknowledges what had been delivered before, and gives
    /// back at once what was held back.
    fn drain(&mut self, subscription: &Subscription<'_>) -> Result<(), AmqpError> {
        subscription.cancel()?;
        // Up to the library's own word that this is the end: it comes behind the broker's answer, and
        // the library gives up the connection, and with it the acks, if it finds nobody to tell.
        for message in subscription.receiver() {
            if let ConsumerMessage::Delivery(delivery) = message {
                self.settle(delivery)?;
            }
        }
        let ack = self.batch.acks.flush();
        self.acknowledge(ack)?;
        for delivery in std::mem::take(&mut self.batch.held).into_values() {
            self.give_back(delivery)?;
        }
        Ok(())
    }

    /// Deals with one message of the library's queue, which carries more than deliveries: each way
    /// to lose the subscription arrives here, and each ends the session, because the library itself
    /// resumes nothing.
    fn take(&mut self, message: ConsumerMessage) -> Result<(), AmqpError> {
        match message {
            ConsumerMessage::Delivery(delivery) => self.settle(delivery),
            ConsumerMessage::ServerCancelled => Err(AmqpError::Cancelled),
            ConsumerMessage::ServerClosedChannel(error)
            | ConsumerMessage::ServerClosedConnection(error) => Err(error.into()),
            ConsumerMessage::ClientCancelled
            | ConsumerMessage::ClientClosedChannel
            | ConsumerMessage::ClientClosedConnection => Err(AmqpError::Gone),
        }
    }

    /// Gives a delivery its effect, answers it, and acknowledges or rejects it in due time.
    ///
    /// One whose failure may pass has not come to its end: it gets neither answer nor ack.
    fn settle(&mut self, delivery: Delivery) -> Result<(), AmqpError> {
        if delivery.redelivered {
            self.state.metrics.of(Role::Consumer).lock().redelivered += 1;
        }
        let settlement = self.attempt(&delivery);
        let now = Instant::now();
        let ack = match settlement {
            Settlement::Transient => self.batch.hold(delivery, now),
            Settlement::Invalid => {
                self.answer(&delivery, settlement);
                delivery.reject(self.channel, false)?;
                self.count(Settlement::Invalid, 1);
                None
            }
            Settlement::Ok | Settlement::Duplicate => {
                self.answer(&delivery, settlement);
                self.batch.add(delivery, settlement, now)
            }
        };
        self.acknowledge(ack)
    }

    /// Applies a delivery. A panic is a bug that may concern this one delivery: it comes again, and
    /// after a few times the broker takes it out of the way, while the thread goes on with others.
    fn attempt(&mut self, delivery: &Delivery) -> Settlement {
        caught(|| self.apply(delivery)).unwrap_or_else(|| {
            // It counted as seen, but has no effect yet.
            self.dedup.forget(message_id(delivery));
            Settlement::Transient
        })
    }

    /// Makes the effect visible to REST; only afterwards may the delivery be acknowledged (I1).
    fn apply(&mut self, delivery: &Delivery) -> Settlement {
        let message_id = message_id(delivery);
        // On the consumer's thread, where the real work would be done: the next delivery waits for
        // it, requests on other threads share the processors with it.
        self.state.compute(|| true);
        let reading = match domain::decode(&delivery.body) {
            Ok(reading) => reading,
            Err(error) => {
                log::info!("invalid event {}: {error}", message_id.unwrap_or_default());
                return Settlement::Invalid;
            }
        };
        if self.state.config.settings.fault_key.as_ref() == Some(&reading.key) {
            return Settlement::Transient;
        }
        if !self.dedup.is_new(message_id) {
            return Settlement::Duplicate;
        }
        let now = SystemTime::now();
        // Locked per delivery and not per batch: the lock is free practically always (some 20 ns),
        // and a reader never waits for more than one event. Decoding was done outside of it.
        self.state.apply(reading, UnixMs::from_system(now));
        self.observe(delivery, now);
        Settlement::Ok
    }

    /// Counts what is known when the effect is visible; the lock is this thread's own slot.
    fn observe(&self, delivery: &Delivery, now: SystemTime) {
        let mut metrics = self.state.metrics.of(Role::Consumer).lock();
        if let Some(seconds) = end_to_end_s(sent_ns(delivery), now) {
            metrics.end_to_end.observe(seconds);
        }
    }

    /// Hands the answer, if one is wanted, to the publisher's thread.
    ///
    /// Publishing from here would save that hand-off, but a broker that blocks publishers would
    /// then block the consumer as well.
    fn answer(&self, delivery: &Delivery, settlement: Settlement) {
        let Some(reply_to) = delivery.properties.reply_to() else {
            return;
        };
        let settled = Settled {
            message_id: message_id(delivery).unwrap_or_default().to_owned(),
            outcome: settlement,
        };
        self.state.outbox.answer(Answer {
            reply_to: reply_to.clone(),
            correlation_id: delivery.properties.correlation_id().clone(),
            settled,
        });
    }

    /// Gives back what was held back long enough, and acknowledges what is due.
    fn settle_due(&mut self) -> Result<(), AmqpError> {
        let now = Instant::now();
        while let Some(delivery) = self.batch.take_released(now) {
            self.give_back(delivery)?;
        }
        let ack = self.batch.acks.take_due(now);
        self.acknowledge(ack)
    }

    /// Sends an ack, if there is one.
    fn acknowledge(&mut self, ack: Option<Ack>) -> Result<(), AmqpError> {
        let Some(ack) = ack else {
            return Ok(());
        };
        let newest = self.batch.newest.take();
        let newest = newest.expect("an ack stands for a delivery that was added");
        if ack.multiple {
            newest.ack_multiple(self.channel)?;
        } else {
            newest.ack(self.channel)?;
        }
        self.count_outcomes();
        Ok(())
    }

    /// Puts a delivery back to the queue; the broker counts how often it came.
    fn give_back(&self, delivery: Delivery) -> Result<(), AmqpError> {
        delivery.reject(self.channel, true)?;
        self.count(Settlement::Transient, 1);
        Ok(())
    }

    /// Counts what was settled since the last time.
    fn count_outcomes(&mut self) {
        let [ok, duplicate] = std::mem::take(&mut self.batch.outcomes);
        self.count(Settlement::Ok, ok);
        self.count(Settlement::Duplicate, duplicate);
    }

    fn count(&self, settlement: Settlement, deliveries: u64) {
        let mut metrics = self.state.metrics.of(Role::Consumer).lock();
        metrics.settled(settlement, deliveries);
    }
}

/// What `work` returns; `None` if it panicked.
fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    // What it may have left half done: the session's own counts, and what is behind locks that say
    // why that is harmless.
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Id of a delivery's message.
fn message_id(delivery: &Delivery) -> Option<&str> {
    delivery.properties.message_id().as_deref()
}

/// The publisher's clock, if the delivery carries it.
fn sent_ns(delivery: &Delivery) -> Option<i64> {
    match delivery
        .properties
        .headers()
        .as_ref()?
        .get(HEADER_SENT_NS)?
    {
        AmqpValue::LongLongInt(ns) => Some(*ns),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_attempt_and_not_the_thread() {
        assert_eq!(caught(|| 1), Some(1));
        assert_eq!(caught(|| -> u8 { panic!("a bug") }), None);
    }
}
