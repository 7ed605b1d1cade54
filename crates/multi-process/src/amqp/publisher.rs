//! Publishes events with confirms, and what nobody waits for without: answers and broadcasts.
//!
//! Particular to processes: the REST processes have no connection to the broker; their events come
//! through the socket and are handed on by the threads that answer it.
//! One thread owns the connection, everybody else hands it work through bounded channels and waits,
//! if at all, with a deadline of his own.
//! A full channel is the back-pressure: REST answers 503, a notice is dropped.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use amiquip::{Channel, Confirm, Connection, ConnectionBlockedNotification, Return};
use contract::{
    Problem, ProblemKind,
    amqp::{HISTORY_EXCHANGE, STATE_EXCHANGE},
    limits::{CONFIRM_TIMEOUT, NOTICES_MAX, PUBLISH_WINDOW},
    metrics::{PublishResult, Role},
    shapes::{Event, Settled},
};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, never, select};

use super::{AmqpError, Link, message, supervise};
use crate::{config::Config, shutdown::StopToken, state::State};

/// Notices sent per look at the other channels.
const TURN: usize = 64;

/// An event on its way to the broker.
pub struct Outgoing {
    /// The event; its key is the routing key.
    pub event: Event,
    /// Id of the message.
    pub message_id: String,
    /// Where the outcome goes; nobody may be waiting any more.
    pub done: Sender<PublishResult>,
}

/// A message that is worth nothing later: sent without a confirm, and gone if the broker restarts.
pub enum Notice {
    /// An answer.
    Answer(Answer),
    /// The service's state, for [`STATE_EXCHANGE`].
    State(Event),
}

/// The answer to an event that carried `reply_to`.
pub struct Answer {
    /// Queue that wants it.
    pub reply_to: String,
    /// Copied from the event.
    pub correlation_id: Option<String>,
    /// What became of the event.
    pub settled: Settled,
}

/// The end for those who publish.
///
/// `Sender` and not a lock around the connection: with a lock, whoever publishes while the broker
/// is slow would hold up all others, and none of them could give up after a while.
pub struct Outbox {
    /// Events; `try_send` refuses when the window is full.
    outgoing: Sender<Outgoing>,
    /// Notices; `try_send` again, because the consumer must not wait for the publisher.
    notices: Sender<Notice>,
}

/// The publisher's end.
pub struct Inbox {
    outgoing: Receiver<Outgoing>,
    notices: Receiver<Notice>,
}

/// The two ends; separate channels, so that notices never take a place in the window for REST.
#[must_use]
pub fn mailbox() -> (Outbox, Inbox) {
    let (outgoing, outgoing_end) = bounded(PUBLISH_WINDOW);
    let (notices, notices_end) = bounded(NOTICES_MAX);
    (
        Outbox { outgoing, notices },
        Inbox {
            outgoing: outgoing_end,
            notices: notices_end,
        },
    )
}

impl Outbox {
    /// Hands over an event and waits for its confirm, for at most [`CONFIRM_TIMEOUT`].
    ///
    /// # Errors
    /// 503 at once if the broker is away, blocks, refuses, has no queue for it or the window is full,
    /// 504 without a confirm in time.
    pub fn publish(&self, state: &State, event: Event, message_id: String) -> Result<(), Problem> {
        let result = if is_open(state) {
            self.hand_over(event, message_id)
        } else {
            Ok(PublishResult::Unavailable)
        };
        let counted = result.as_ref().map_or(PublishResult::Unavailable, |it| *it);
        state.metrics.of(Role::Publisher).lock().published(counted);
        match result? {
            PublishResult::Confirmed => Ok(()),
            PublishResult::Refused => Err(unavailable(
                "no queue takes the event: it is full, or there is none",
            )),
            PublishResult::Unavailable => Err(unavailable("the broker takes no messages now")),
            PublishResult::TimedOut => Err(Problem::new(
                ProblemKind::ConfirmTimeout,
                "the broker did not confirm in time; the message may have arrived",
            )),
        }
    }

    /// Gives the event to the publisher's thread and waits for what becomes of it.
    fn hand_over(&self, event: Event, message_id: String) -> Result<PublishResult, Problem> {
        // One channel per publish and not one per worker: a late confirm must not be taken for
        // that of the next message.
        let (done, outcome) = bounded(1);
        let outgoing = Outgoing {
            event,
            message_id,
            done,
        };
        match self.outgoing.try_send(outgoing) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(overloaded()),
            Err(TrySendError::Disconnected(_)) => return Ok(PublishResult::Unavailable),
        }
        match outcome.recv_timeout(CONFIRM_TIMEOUT) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Timeout) => Ok(PublishResult::TimedOut),
            // The publisher dropped it unanswered: the window was full.
            Err(RecvTimeoutError::Disconnected) => Err(overloaded()),
        }
    }

    /// Hands over an answer without waiting; drops it if too many notices wait already.
    pub fn answer(&self, answer: Answer) {
        if self.notices.try_send(Notice::Answer(answer)).is_err() {
            log::warn!("too many answers wait for the broker; one was dropped");
        }
    }

    /// Hands over a state to broadcast; `false` if it cannot be sent now, for then it would be old
    /// news when it can.
    pub fn broadcast(&self, state: &State, event: Event) -> bool {
        is_open(state) && self.notices.try_send(Notice::State(event)).is_ok()
    }
}

/// Whether the broker takes messages at present.
fn is_open(state: &State) -> bool {
    state.flags.publishing.is_up() && !state.flags.blocked.is_up()
}

fn unavailable(detail: &str) -> Problem {
    Problem::new(ProblemKind::BrokerUnavailable, detail)
}

fn overloaded() -> Problem {
    let detail = format!("{PUBLISH_WINDOW} publishes wait for their confirm already");
    Problem::new(ProblemKind::Overloaded, detail)
}

/// The publisher's connection.
pub struct PublisherLink {
    /// Events, with confirms.
    events: Channel,
    /// Notices, without: whoever wants one asks again, or hears the next, if it is lost.
    notices: Channel,
    confirms: Receiver<Confirm>,
    /// Events that no queue took; each is here before its confirm is in the channel above, because the
    /// broker sends them so and one thread of the library hands both over.
    returned_events: Receiver<Return>,
    /// Answers that no queue took.
    returned_answers: Receiver<Return>,
    blocked: Receiver<ConnectionBlockedNotification>,
    connection: Connection,
}

impl Link for PublisherLink {
    const ROLE: Role = Role::Publisher;

    fn open(mut connection: Connection, _: &Config) -> Result<Self, amiquip::Error> {
        let blocked = connection.listen_for_connection_blocked()?;
        let events = connection.open_channel(None)?;
        let confirms = events.listen_for_publisher_confirms()?;
        let returned_events = events.listen_for_returns()?;
        events.enable_publisher_confirms()?;
        let notices = connection.open_channel(None)?;
        let returned_answers = notices.listen_for_returns()?;
        Ok(Self {
            events,
            notices,
            confirms,
            returned_events,
            returned_answers,
            blocked,
            connection,
        })
    }

    fn close(self) -> Result<(), amiquip::Error> {
        self.notices.close()?;
        self.events.close()?;
        self.connection.close()
    }
}

/// Publishes until `stop`, over as many connections as it takes.
pub fn run(state: &Arc<State>, inbox: &Inbox, stop: &StopToken) {
    supervise::<PublisherLink>(state, stop, |link| {
        let up = state.flags.publishing.raise();
        let mut session = Session {
            state,
            inbox,
            link,
            blocked: false,
            next_tag: 1,
            unconfirmed: BTreeMap::new(),
            returned: HashSet::new(),
        };
        let result = session.serve(stop).and_then(|()| session.drain());
        // First the flag, then the answers: nobody may queue behind them and wait in vain.
        drop(up);
        session.set_blocked(false);
        session.give_up();
        result
    });
}

/// What lasts as long as a connection.
struct Session<'a> {
    state: &'a State,
    inbox: &'a Inbox,
    link: &'a PublisherLink,
    blocked: bool,
    /// The broker numbers the publishes of a channel from 1; so do we.
    next_tag: u64,
    /// Who waits for which confirm. Sorted, because a confirm may be `multiple`; the library's
    /// `ConfirmSmoother` would hold a confirm back until all earlier ones have come.
    unconfirmed: BTreeMap<u64, Unconfirmed>,
    /// Ids of events that no queue took and whose confirm is still to come.
    returned: HashSet<String>,
}

/// An event that waits for its confirm.
struct Unconfirmed {
    message_id: String,
    /// `None` if he was told already; the place in the window stays taken all the same.
    done: Option<Sender<PublishResult>>,
}

impl Session<'_> {
    /// Serves until `stop` or until the connection is lost.
    fn serve(&mut self, stop: &StopToken) -> Result<(), AmqpError> {
        while !stop.is_stopped() {
            self.step(stop)?;
        }
        Ok(())
    }

    /// Waits for whatever comes first and deals with it.
    fn step(&mut self, stop: &StopToken) -> Result<(), AmqpError> {
        // A channel that never gets ready takes the place of one that is not to be looked at: the
        // `select!` stays the same.
        let nothing = never();
        // While the broker blocks, notices stay where they are: their channel is their bound.
        let notices = if self.blocked {
            &nothing
        } else {
            &self.inbox.notices
        };
        select! {
            recv(self.inbox.outgoing) -> outgoing => match outgoing {
                Ok(outgoing) => self.publish(outgoing),
                Err(_) => Err(AmqpError::Gone),
            },
            recv(notices) -> notice => match notice {
                Ok(notice) => self.tell_all(notice),
                Err(_) => Err(AmqpError::Gone),
            },
            recv(self.link.confirms) -> confirm => {
                self.settle(confirm.map_err(|_| AmqpError::Gone)?);
                Ok(())
            }
            recv(self.link.returned_answers) -> returned => {
                let queue = returned.map_err(|_| AmqpError::Gone)?.routing_key;
                log::info!("nobody takes answers at {queue}");
                Ok(())
            }
            recv(self.link.blocked) -> notification => {
                self.on_blocked(&notification.map_err(|_| AmqpError::Gone)?);
                Ok(())
            }
            recv(stop.channel()) -> _ => Ok(()),
        }
    }

    /// Sends an event and notes who waits for its confirm.
    ///
    /// The library's call does not wait for the broker: the bytes go to its I/O thread, which
    /// buffers 16 MiB before it makes us wait, and the window is a quarter of that.
    fn publish(&mut self, outgoing: Outgoing) -> Result<(), AmqpError> {
        if self.blocked {
            let _ = outgoing.done.try_send(PublishResult::Unavailable);
            return Ok(());
        }
        // Dropping the event closes its channel, which tells its sender "overloaded".
        if self.unconfirmed.len() >= PUBLISH_WINDOW {
            return Ok(());
        }
        let body = message::body(&outgoing.event);
        let message_id = outgoing.message_id.clone();
        let publish = message::event(outgoing.event, &body, message_id, self.next_tag);
        // Noted before it is sent, so that a failure in between is answered with the others.
        let unconfirmed = Unconfirmed {
            message_id: outgoing.message_id,
            done: Some(outgoing.done),
        };
        self.unconfirmed.insert(self.next_tag, unconfirmed);
        self.next_tag += 1;
        self.show_outstanding();
        Ok(self.link.events.basic_publish(HISTORY_EXCHANGE, publish)?)
    }

    /// Sends this notice and those that wait behind it, without another wait.
    fn tell_all(&self, first: Notice) -> Result<(), AmqpError> {
        let waiting = self.inbox.notices.try_iter().take(TURN);
        for notice in std::iter::once(first).chain(waiting) {
            self.tell(notice)?;
        }
        Ok(())
    }

    /// Sends a notice; the library's call does not wait for the broker here either.
    fn tell(&self, notice: Notice) -> Result<(), AmqpError> {
        let channel = &self.link.notices;
        Ok(match notice {
            Notice::Answer(answer) => {
                let body = serde_json::to_vec(&answer.settled).expect("an answer serialises");
                channel.basic_publish("", message::answer(answer, &body))
            }
            Notice::State(event) => {
                let body = message::body(&event);
                channel.basic_publish(STATE_EXCHANGE, message::broadcast(event, &body))
            }
        }?)
    }

    /// Tells those whom a confirm concerns.
    ///
    /// What was returned is looked at first: the broker confirms an event that no queue takes as well,
    /// right behind its return.
    /// `try_send`: the channel has room for the one outcome, and he may have given up waiting.
    fn settle(&mut self, confirm: Confirm) {
        let returned = self.link.returned_events.try_iter();
        let ids = returned.filter_map(|event| event.properties.message_id().clone());
        self.returned.extend(ids);
        let (result, payload) = match confirm {
            Confirm::Ack(payload) => (PublishResult::Confirmed, payload),
            Confirm::Nack(payload) => (PublishResult::Refused, payload),
        };
        let settled = if payload.multiple {
            let later = self.unconfirmed.split_off(&(payload.delivery_tag + 1));
            std::mem::replace(&mut self.unconfirmed, later)
        } else {
            self.unconfirmed
                .remove_entry(&payload.delivery_tag)
                .into_iter()
                .collect()
        };
        for Unconfirmed { message_id, done } in settled.into_values() {
            let result = if self.returned.remove(&message_id) {
                PublishResult::Refused
            } else {
                result
            };
            let _ = done.map(|done| done.try_send(result));
        }
        self.show_outstanding();
    }

    /// The broker is short of memory or disk, or has recovered; consuming goes on either way.
    fn on_blocked(&mut self, notification: &ConnectionBlockedNotification) {
        match notification {
            ConnectionBlockedNotification::Blocked(reason) => {
                log::warn!("the broker blocks publishers: {reason}");
                self.set_blocked(true);
                // Who waits is told at once; the broker may still take the message later.
                self.tell_waiting();
            }
            ConnectionBlockedNotification::Unblocked => {
                log::warn!("the broker takes messages again");
                self.set_blocked(false);
            }
        }
    }

    fn set_blocked(&mut self, blocked: bool) {
        self.blocked = blocked;
        self.state.flags.blocked.set(blocked);
    }

    /// Publishes what was handed over before the stop and waits for the confirms.
    ///
    /// There is no deadline here: whoever stops the service does not wait beyond his own.
    fn drain(&mut self) -> Result<(), AmqpError> {
        if self.blocked {
            // Everybody was told, and the broker would not answer a close.
            return Err(AmqpError::Blocked);
        }
        for outgoing in self.inbox.outgoing.try_iter() {
            self.publish(outgoing)?;
        }
        for notice in self.inbox.notices.try_iter() {
            self.tell(notice)?;
        }
        while self.unconfirmed.values().any(|it| it.done.is_some()) {
            let confirm = self.link.confirms.recv();
            self.settle(confirm.map_err(|_| AmqpError::Gone)?);
        }
        Ok(())
    }

    /// Tells everybody that this connection will not serve him.
    fn give_up(&mut self) {
        self.tell_waiting();
        self.unconfirmed.clear();
        self.show_outstanding();
        for outgoing in self.inbox.outgoing.try_iter() {
            let _ = outgoing.done.try_send(PublishResult::Unavailable);
        }
    }

    /// Tells those who wait for a confirm that it will not come in time.
    fn tell_waiting(&mut self) {
        let waiting = self.unconfirmed.values_mut();
        for done in waiting.filter_map(|it| it.done.take()) {
            let _ = done.try_send(PublishResult::Unavailable);
        }
    }

    /// Shows the size of the window's used part in the metrics.
    fn show_outstanding(&self) {
        self.state
            .metrics
            .of(Role::Publisher)
            .lock()
            .publish_outstanding = self.unconfirmed.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::shapes::Settlement;

    #[test]
    fn without_a_connection_answers_wait_up_to_a_bound() {
        let (outbox, inbox) = mailbox();
        for _ in 0..=NOTICES_MAX {
            outbox.answer(Answer {
                reply_to: "asker".to_owned(),
                correlation_id: None,
                settled: Settled {
                    message_id: "m".to_owned(),
                    outcome: Settlement::Ok,
                },
            });
        }
        assert_eq!(inbox.notices.len(), NOTICES_MAX);
    }
}
