//! Publishes events of REST clients until the broker's confirm, and what nobody waits for without:
//! replies and broadcasts.
//!
//! Particular to tasks: one task owns the connection, and within it each message is a future of its
//! own, so that hundreds of confirms are awaited side by side without a table that maps delivery
//! tags to whoever waits.
//! One task and not one per message: who sees a single confirm cannot tell whether its message was
//! returned, as `confirm.rs` explains.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use contract::{
    Problem, ProblemKind,
    limits::{CONFIRM_TIMEOUT, CONNECT_TIMEOUT, NOTICES_MAX, PUBLISH_WINDOW},
    metrics::{PublishResult, Role},
    shapes::Event,
};
use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use lapin::{
    Channel, Event as LinkEvent, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    AmqpError, Link, Supervisor,
    confirm::{Answered, Returned},
    deadline,
    message::{self, Message},
};
use crate::{
    shutdown::{Phase, PhaseView},
    state::State,
};

/// Notices that wait for the socket at once; the others stay in their channel, which is their bound.
const TURN: usize = 64;

/// Whether messages can be published right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outlet {
    /// No connection.
    Down,
    /// The broker takes nothing: out of memory or disk.
    Blocked,
    /// Open for messages.
    Open,
}

/// An event on its way to the task that owns the connection.
#[derive(Debug)]
struct Outgoing {
    message: Message,
    /// Dropped without a word if the connection cannot serve the event.
    done: oneshot::Sender<PublishResult>,
}

/// Publishes messages; shared by REST, the consumer and the background tasks.
#[derive(Debug)]
pub struct Publisher {
    state: Arc<State>,
    /// A `watch` channel and not a mutex: a request that waits for its confirm has to learn at once
    /// that the outlet is gone.
    outlet: watch::Sender<Outlet>,
    /// Places for unconfirmed events. A semaphore beside the channel below: a place is held until the
    /// confirm, and not only until the event is taken out of the channel.
    places: Arc<Semaphore>,
    /// Events; each holds a place, so there is always room.
    outgoing: mpsc::Sender<Outgoing>,
    /// Notices, replies and broadcasts; apart, so that they never take a place in the window for REST.
    notices: mpsc::Sender<Message>,
    /// Events so far, for the header `x-seq`.
    events: AtomicI64,
}

/// The end of the task that owns the connection.
#[derive(Debug)]
pub struct Inbox {
    outgoing: mpsc::Receiver<Outgoing>,
    notices: mpsc::Receiver<Message>,
}

impl Publisher {
    /// A publisher without a connection yet, and what [`Publisher::run`] needs to make one.
    #[must_use]
    pub fn new(state: Arc<State>) -> (Self, Inbox) {
        let (outgoing, outgoing_end) = mpsc::channel(PUBLISH_WINDOW);
        let (notices, notices_end) = mpsc::channel(NOTICES_MAX);
        let publisher = Self {
            state,
            outlet: watch::Sender::new(Outlet::Down),
            places: Arc::new(Semaphore::new(PUBLISH_WINDOW)),
            outgoing,
            notices,
            events: AtomicI64::new(0),
        };
        let inbox = Inbox {
            outgoing: outgoing_end,
            notices: notices_end,
        };
        (publisher, inbox)
    }

    /// Events without a confirm yet.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        PUBLISH_WINDOW.saturating_sub(self.places.available_permits()) as u64
    }

    /// Publishes an event; returns its message id once the broker took responsibility.
    ///
    /// # Errors
    /// 503 at once if there is no connection, if the broker is blocked, refuses the message or has no
    /// queue for it, or if the window is full; 504 if no confirm comes within [`CONFIRM_TIMEOUT`].
    pub async fn publish_event(&self, event: &Event) -> Result<String, Problem> {
        match *self.outlet.borrow() {
            Outlet::Open => {}
            Outlet::Blocked => {
                return Err(self.unavailable("the broker takes no messages at present"));
            }
            Outlet::Down => return Err(self.unavailable("no connection to the broker")),
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let detail = format!("{PUBLISH_WINDOW} events wait for their confirm already");
            return Err(self.refused(ProblemKind::Overloaded, detail));
        };
        let message_id = self.state.ids.next();
        let seq = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        let told = self.start(place, message::event(event, &message_id, seq));
        let mut outlet = self.outlet.subscribe();
        // Whoever waits for a confirm is told as soon as none can come; the message itself stays
        // on its way and keeps its place.
        let result = tokio::select! {
            result = told => result.unwrap_or(PublishResult::Unavailable),
            _ = outlet.wait_for(|outlet| *outlet != Outlet::Open) => PublishResult::Unavailable,
        };
        answer(result).map(|()| message_id)
    }

    /// Hands over a reply without waiting; it is sent without a confirm, as soon as there is a
    /// connection.
    ///
    /// `try_send`: with [`NOTICES_MAX`] in front of it the reply is dropped. Whoever asked will time
    /// out and ask again, while waiting here would stop the ingest.
    pub fn reply(&self, reply_to: ShortString, correlation_id: Option<ShortString>, body: Vec<u8>) {
        let message = message::reply(reply_to, correlation_id, body);
        if self.notices.try_send(message).is_err() {
            log::warn!("too many replies wait for the broker; one was dropped");
        }
    }

    /// Hands over the service's state, to be sent without a confirm; `false` if it cannot be sent
    /// now, for then it would be old news when it can.
    pub fn broadcast(&self, event: &Event) -> bool {
        let is_open = *self.outlet.borrow() == Outlet::Open;
        is_open && self.notices.try_send(message::broadcast(event)).is_ok()
    }

    /// Waits until no event is on its way any more.
    pub async fn drained(&self) {
        // All places free means nothing on its way. The permits are given back when they are
        // dropped, at the end of this statement.
        let _ = self.places.acquire_many(PUBLISH_WINDOW as u32).await;
    }

    /// Keeps a connection open until nothing is published any more.
    ///
    /// # Errors
    /// What the broker refused at the first contact.
    pub async fn run(&self, mut inbox: Inbox, view: PhaseView) -> Result<(), AmqpError> {
        let state = Arc::clone(&self.state);
        let mut inside = view.clone();
        let mut supervisor = Supervisor::new(state, Role::Publisher, view, Phase::NoPublishing);
        while let Some(mut link) = connect(&mut supervisor, &mut inbox).await? {
            let ended = self.session(&mut link, &mut inbox, &mut inside).await;
            self.set_outlet(Outlet::Down);
            if !supervisor.disconnect(link, ended).await {
                break;
            }
        }
        Ok(())
    }

    /// Opens the outlet over `link` and publishes until the last phase (`Ok`) or a failure.
    async fn session(
        &self,
        link: &mut Link,
        inbox: &mut Inbox,
        view: &mut PhaseView,
    ) -> Result<(), AmqpError> {
        let notices = link.open_channel().await?;
        let confirms = link.channel.confirm_select(ConfirmSelectOptions::default());
        deadline("turn confirms on", CONNECT_TIMEOUT, confirms).await?;
        self.set_outlet(Outlet::Open);
        let session = Session {
            publisher: self,
            inbox,
            events: link.channel.clone(),
            notices,
            blocked: false,
            unconfirmed: FuturesUnordered::new(),
            returned: Returned::default(),
            sending: FuturesUnordered::new(),
        };
        session.serve(link, view).await
    }

    /// Sets the outlet, and the flags that `/readyz` reads.
    fn set_outlet(&self, outlet: Outlet) {
        let (up, blocked) = (outlet != Outlet::Down, outlet == Outlet::Blocked);
        self.state.flags.set_publishing(up, blocked);
        self.outlet.send_replace(outlet);
    }

    /// Hands a message over and minds its confirm in a task of its own; the receiver learns the result.
    ///
    /// A task and not a future inside the caller: a client that hangs up drops the caller's future,
    /// and the message that is on its way would lose its place in the window and its count.
    /// The place stays taken until the confirm comes or the connection ends, whatever the caller
    /// was told meanwhile: an unconfirmed message is unconfirmed.
    fn start(
        &self,
        place: OwnedSemaphorePermit,
        message: Message,
    ) -> oneshot::Receiver<PublishResult> {
        let (done, mut answered) = oneshot::channel();
        // Fails only if nobody publishes any more, and then drops `done`, which tells it.
        let _ = self.outgoing.try_send(Outgoing { message, done });
        let (tell, told) = oneshot::channel();
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let result = match timeout(CONFIRM_TIMEOUT, &mut answered).await {
                Ok(answer) => answer.unwrap_or(PublishResult::Unavailable),
                Err(_) => PublishResult::TimedOut,
            };
            state.metrics.amqp(|amqp| amqp.published(result));
            // Nobody may be listening: the client has hung up.
            let _ = tell.send(result);
            if result == PublishResult::TimedOut {
                let _ = answered.await;
            }
            drop(place);
        });
        told
    }

    fn unavailable(&self, reason: &str) -> Problem {
        self.refused(ProblemKind::BrokerUnavailable, reason.to_owned())
    }

    fn refused(&self, kind: ProblemKind, detail: String) -> Problem {
        let result = PublishResult::Unavailable;
        self.state.metrics.amqp(|amqp| amqp.published(result));
        Problem::new(kind, detail)
    }
}

/// The next connection; meanwhile drops what was handed over while the last one broke, whose senders
/// were told already.
async fn connect(
    supervisor: &mut Supervisor,
    inbox: &mut Inbox,
) -> Result<Option<Link>, AmqpError> {
    let mut connecting = pin!(supervisor.connect());
    loop {
        tokio::select! {
            link = &mut connecting => return link,
            Some(_) = inbox.outgoing.recv() => {}
        }
    }
}

/// What lasts as long as a connection.
///
/// Two channels, because confirms are switched on for a channel as a whole: a notice, a reply or a
/// broadcast, is worth nothing later, so its confirm would be work for nothing on both sides.
struct Session<'a> {
    publisher: &'a Publisher,
    inbox: &'a mut Inbox,
    events: Channel,
    notices: Channel,
    blocked: bool,
    /// Events until their confirm; dropped with the session, which tells those who wait.
    unconfirmed: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Ids of events that no queue took and whose confirm has not been seen yet.
    returned: Returned,
    /// Notices until they are written: awaited, because lapin queues frames without a bound.
    sending: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Session<'_> {
    /// Publishes, and minds what the broker says of the connection.
    async fn serve(mut self, link: &mut Link, view: &mut PhaseView) -> Result<(), AmqpError> {
        loop {
            // An empty set of futures is at its end, which takes its branch out of the `select!`.
            tokio::select! {
                event = link.events.next() => self.heed(event)?,
                () = view.reached(Phase::NoPublishing) => break,
                Some(outgoing) = self.inbox.outgoing.recv() => self.publish(outgoing),
                Some(answered) = self.unconfirmed.next() => self.settle(answered),
                Some(()) = self.sending.next() => self.note_returned(),
                // While the broker blocks, notices stay where they are.
                Some(notice) = self.inbox.notices.recv(), if self.takes_notices() => {
                    self.tell(notice);
                }
            }
        }
        self.finish().await;
        Ok(())
    }

    /// Notes whether the broker takes messages.
    fn heed(&mut self, event: Option<LinkEvent>) -> Result<(), AmqpError> {
        match event {
            Some(LinkEvent::ConnectionBlocked(reason)) => {
                log::warn!("the broker takes no messages: {reason}");
                self.blocked = true;
                self.publisher.set_outlet(Outlet::Blocked);
            }
            Some(LinkEvent::ConnectionUnblocked) => {
                log::warn!("the broker takes messages again");
                self.blocked = false;
                self.publisher.set_outlet(Outlet::Open);
            }
            Some(LinkEvent::Error(error)) => {
                let what = "keep the connection";
                return Err(AmqpError::Failed { what, error });
            }
            Some(_) => {}
            None => return Err(AmqpError::Ended),
        }
        Ok(())
    }

    /// Starts an event on its way; dropped while the broker blocks, for its sender was told.
    fn publish(&mut self, outgoing: Outgoing) {
        if self.blocked {
            return;
        }
        let Outgoing { message, done } = outgoing;
        let channel = self.events.clone();
        let publishing = async move {
            let message_id = message.properties.message_id().clone();
            // Two waits: the first for the frames to be written, the second for the confirm.
            let confirmed = async { write(&channel, message).await?.await };
            Answered {
                message_id,
                confirmation: confirmed.await,
                done,
            }
        };
        self.unconfirmed.push(publishing.boxed());
    }

    /// Tells those whose confirms are here what became of their events: all together, because one
    /// confirm may say what became of another's event.
    fn settle(&mut self, first: Answered) {
        let mut answered = vec![first];
        while let Some(Some(next)) = self.unconfirmed.next().now_or_never() {
            answered.push(next);
        }
        let results = self.returned.results(&answered);
        for (answer, result) in answered.into_iter().zip(results) {
            // Nobody may be listening: the time was over.
            let _ = answer.done.send(result);
        }
    }

    fn takes_notices(&self) -> bool {
        !self.blocked && self.sending.len() < TURN
    }

    /// Starts a notice on its way.
    fn tell(&mut self, notice: Message) {
        let channel = self.notices.clone();
        let sending = async move {
            if let Err(error) = write(&channel, notice).await {
                log::debug!("a notice was lost: {error}");
            }
        };
        self.sending.push(sending.boxed());
    }

    /// Takes what was returned of the notices: without confirms lapin keeps it until somebody asks.
    fn note_returned(&self) {
        let returned = self.notices.wait_for_confirms().now_or_never();
        for message in returned.into_iter().flatten().flatten() {
            log::info!("nobody takes replies at {}", message.routing_key);
        }
    }

    /// Sends the notices that wait. There is no deadline here: whoever stops the service does not wait
    /// beyond his own.
    async fn finish(&mut self) {
        while !self.blocked
            && let Ok(notice) = self.inbox.notices.try_recv()
        {
            self.tell(notice);
        }
        if !self.blocked {
            while self.sending.next().await.is_some() {}
        }
    }
}

/// Writes the frames of a message; what it returns waits for the confirm.
async fn write(channel: &Channel, message: Message) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions {
        mandatory: message.mandatory,
        ..Default::default()
    };
    let exchange = message.exchange.into();
    let (key, properties) = (message.routing_key, message.properties);
    channel
        .basic_publish(exchange, key, options, &message.body, properties)
        .await
}

/// What a REST client is told.
fn answer(result: PublishResult) -> Result<(), Problem> {
    let (kind, detail) = match result {
        PublishResult::Confirmed => return Ok(()),
        PublishResult::Refused => (
            ProblemKind::BrokerUnavailable,
            "no queue takes the event: it is full, or there is none",
        ),
        PublishResult::TimedOut => (
            ProblemKind::ConfirmTimeout,
            "no confirm in time; the event may have arrived",
        ),
        PublishResult::Unavailable => (
            ProblemKind::BrokerUnavailable,
            "the broker went away or blocked before its confirm; the event may have arrived",
        ),
    };
    Err(Problem::new(kind, detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn without_a_connection_replies_wait_up_to_a_bound_and_broadcasts_do_not() {
        let state = State::new(Config::parse(&[]).expect("valid"));
        let (publisher, inbox) = Publisher::new(Arc::new(state));
        for _ in 0..=NOTICES_MAX {
            publisher.reply("asker".into(), None, Vec::new());
        }
        assert_eq!(inbox.notices.len(), NOTICES_MAX);
        let body = br#"{"key":"s","data":{}}"#;
        let event = domain::rest::parse_event(body).expect("an event");
        assert!(!publisher.broadcast(&event));
    }
}
