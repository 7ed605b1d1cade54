//! Publishes: events of REST clients, replies and broadcasts, each until the broker's confirm.
//!
//! Particular to tasks: waiting for a confirm is a task of a few hundred bytes, so each message has
//! its own, and hundreds of confirms are awaited side by side without a table that maps delivery
//! tags to whoever waits.

use std::{sync::Arc, time::Duration};

use contract::{
    Problem, ProblemKind,
    amqp::{CONTENT_TYPE, HEADER_SENT_NS, HISTORY_EXCHANGE, PERSISTENT, STATE_EXCHANGE},
    limits::{CONFIRM_TIMEOUT, CONNECT_TIMEOUT, PUBLISH_WINDOW},
    metrics::{PublishResult, Role},
    shapes::Event,
};
use futures_util::stream::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Event as LinkEvent,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    time::timeout,
};

use super::{AmqpError, Link, Supervisor, deadline};
use crate::{
    shutdown::{Phase, PhaseView},
    state::{State, now},
};

/// Unconfirmed replies and broadcasts at once, apart from the window of REST clients: a flood of
/// requests for replies must not make REST answer 503, nor the other way round.
const OWN_WINDOW: usize = 256;
/// How long a reply waits for a place in its window before it is dropped.
const REPLY_PATIENCE: Duration = Duration::from_secs(1);
/// Begin of the names that stand for a client's channel instead of a queue.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// `delivery_mode` of replies and broadcasts: worthless after a restart of the broker.
const TRANSIENT: u8 = 1;

/// Whether messages can be published right now.
#[derive(Debug, Clone)]
enum Outlet {
    /// No connection.
    Down,
    /// The broker takes nothing: out of memory or disk.
    Blocked,
    /// Open for messages.
    Open(Arc<Channels>),
}

/// Both channels of the publisher's connection.
///
/// Apart, because lapin hands a returned message to whichever confirm comes next on its channel:
/// only replies are mandatory, and so only replies can be returned on theirs.
#[derive(Debug)]
struct Channels {
    events: Channel,
    replies: Channel,
}

/// A message with its address.
#[derive(Debug)]
struct Message {
    exchange: &'static str,
    routing_key: ShortString,
    /// Whether the broker returns it if no queue takes it.
    mandatory: bool,
    properties: BasicProperties,
    body: Vec<u8>,
}

/// Publishes messages; shared by REST, the consumer and the background tasks.
#[derive(Debug)]
pub struct Publisher {
    state: Arc<State>,
    /// A `watch` channel and not a mutex: a request that waits for its confirm has to learn at once
    /// that the outlet is gone.
    outlet: watch::Sender<Outlet>,
    /// Places for unconfirmed messages. Semaphores and not bounded queues: the message goes out at
    /// once, and what is bounded is how many are on their way.
    clients: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

impl Publisher {
    /// A publisher without a connection yet.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state,
            outlet: watch::Sender::new(Outlet::Down),
            clients: Arc::new(Semaphore::new(PUBLISH_WINDOW)),
            own: Arc::new(Semaphore::new(OWN_WINDOW)),
        }
    }

    /// Messages without a confirm yet.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        let free = self.clients.available_permits() + self.own.available_permits();
        (PUBLISH_WINDOW + OWN_WINDOW).saturating_sub(free) as u64
    }

    /// Publishes an event; returns its message id once the broker took responsibility.
    ///
    /// # Errors
    /// 503 at once if there is no connection, if the broker is blocked or refuses the message, or
    /// if the window is full; 504 if no confirm comes within [`CONFIRM_TIMEOUT`].
    pub async fn publish_event(&self, event: &Event) -> Result<String, Problem> {
        let channels = self.channels().map_err(|reason| self.unavailable(reason))?;
        let Ok(place) = Arc::clone(&self.clients).try_acquire_owned() else {
            let detail = format!("{PUBLISH_WINDOW} events wait for their confirm already");
            return Err(self.refused(ProblemKind::Overloaded, detail));
        };
        let message_id = self.state.ids.next();
        let message = event_message(event, &message_id);
        let told = self.start(place, channels.events.clone(), message);
        let mut outlet = self.outlet.subscribe();
        // Whoever waits for a confirm is told as soon as none can come; the message itself stays
        // on its way and keeps its place.
        let result = tokio::select! {
            result = told => result.unwrap_or(PublishResult::Unavailable),
            _ = outlet.wait_for(|outlet| !matches!(outlet, Outlet::Open(_))) => {
                PublishResult::Unavailable
            }
        };
        answer(result).map(|()| message_id)
    }

    /// Publishes a reply without waiting for its confirm.
    ///
    /// Returns at once unless [`OWN_WINDOW`] replies are on their way: then the consumer waits for
    /// a place, which is the back-pressure that keeps their number bounded.
    pub async fn reply(
        &self,
        reply_to: ShortString,
        correlation_id: Option<ShortString>,
        body: Vec<u8>,
    ) {
        let mut properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(TRANSIENT);
        if let Some(id) = correlation_id {
            properties = properties.with_correlation_id(id);
        }
        let message = Message {
            exchange: "",
            // The broker delivers direct replies past its queues, and so it would return each of
            // them as unroutable although it arrived.
            mandatory: !reply_to.as_str().starts_with(DIRECT_REPLY_TO),
            routing_key: reply_to,
            properties,
            body,
        };
        // A reply that cannot be sent is dropped and counted: whoever asked will time out and ask
        // again, while keeping it would stop the ingest.
        let sent = self.send_own(message, |channels| &channels.replies);
        if sent.await.is_none() {
            self.count(PublishResult::Unavailable);
        }
    }

    /// Publishes the service's state and waits for the confirm; returns whether it came.
    pub async fn broadcast(&self, event: &Event) -> bool {
        let message = Message {
            exchange: STATE_EXCHANGE,
            routing_key: event.key.as_str().into(),
            mandatory: false,
            properties: BasicProperties::default()
                .with_content_type(CONTENT_TYPE.into())
                .with_delivery_mode(TRANSIENT)
                .with_timestamp(now().0 / 1000),
            body: to_json(event),
        };
        let sent = self.send_own(message, |channels| &channels.events);
        let Some(told) = sent.await else {
            self.count(PublishResult::Unavailable);
            return false;
        };
        told.await == Ok(PublishResult::Confirmed)
    }

    /// Waits until no confirm is outstanding any more.
    pub async fn drained(&self) {
        // All places free means nothing on its way. The permits are given back when they are
        // dropped, at the end of this function.
        let _clients = self.clients.acquire_many(PUBLISH_WINDOW as u32).await;
        let _own = self.own.acquire_many(OWN_WINDOW as u32).await;
    }

    /// Keeps a connection open until nothing is published any more.
    ///
    /// # Errors
    /// What the broker refused at the first contact.
    pub async fn run(&self, view: PhaseView) -> Result<(), AmqpError> {
        let state = Arc::clone(&self.state);
        let mut inside = view.clone();
        let mut supervisor = Supervisor::new(state, Role::Publisher, view, Phase::NoPublishing);
        while let Some(mut link) = supervisor.connect().await? {
            let ended = self.session(&mut link, &mut inside).await;
            self.set_outlet(Outlet::Down);
            if !supervisor.disconnect(link, ended).await {
                break;
            }
        }
        Ok(())
    }

    /// Opens the outlet over `link` and minds what the broker says of it.
    async fn session(&self, link: &mut Link, view: &mut PhaseView) -> Result<(), AmqpError> {
        let replies = link.open_channel().await?;
        for channel in [&link.channel, &replies] {
            let call = channel.confirm_select(ConfirmSelectOptions::default());
            deadline("turn confirms on", CONNECT_TIMEOUT, call).await?;
        }
        let channels = Arc::new(Channels {
            events: link.channel.clone(),
            replies,
        });
        self.set_outlet(Outlet::Open(Arc::clone(&channels)));
        loop {
            let event = tokio::select! {
                event = link.events.next() => event,
                () = view.reached(Phase::NoPublishing) => return Ok(()),
            };
            match event {
                Some(LinkEvent::ConnectionBlocked(reason)) => {
                    log::warn!("the broker takes no messages: {reason}");
                    self.set_outlet(Outlet::Blocked);
                }
                Some(LinkEvent::ConnectionUnblocked) => {
                    log::warn!("the broker takes messages again");
                    self.set_outlet(Outlet::Open(Arc::clone(&channels)));
                }
                Some(LinkEvent::Error(error)) => {
                    let what = "keep the connection";
                    return Err(AmqpError::Failed { what, error });
                }
                Some(_) => {}
                None => return Err(AmqpError::Ended),
            }
        }
    }

    /// Sets the outlet, and the flags that `/readyz` reads.
    fn set_outlet(&self, outlet: Outlet) {
        let (up, blocked) = match outlet {
            Outlet::Down => (false, false),
            Outlet::Blocked => (true, true),
            Outlet::Open(_) => (true, false),
        };
        self.state.flags.set_publishing(up, blocked);
        self.outlet.send_replace(outlet);
    }

    /// The channels, or why there are none.
    fn channels(&self) -> Result<Arc<Channels>, &'static str> {
        match &*self.outlet.borrow() {
            Outlet::Open(channels) => Ok(Arc::clone(channels)),
            Outlet::Blocked => Err("the broker takes no messages at present"),
            Outlet::Down => Err("no connection to the broker"),
        }
    }

    /// Sends a reply or a broadcast over the channel that `pick` names; `None` if that is not
    /// possible now.
    async fn send_own(
        &self,
        message: Message,
        pick: fn(&Channels) -> &Channel,
    ) -> Option<oneshot::Receiver<PublishResult>> {
        let channels = self.channels().ok()?;
        let places = Arc::clone(&self.own);
        let place = timeout(REPLY_PATIENCE, places.acquire_owned()).await;
        let place = place.ok()?.ok()?;
        Some(self.start(place, pick(&channels).clone(), message))
    }

    /// Sends a message and minds its confirm in a task of its own; the receiver learns the result.
    ///
    /// A task and not a future inside the caller: a client that hangs up drops the caller's future,
    /// and the message that is on its way would lose its place in the window and its count.
    /// The place stays taken until the confirm comes or the connection ends, whatever the caller
    /// was told meanwhile: an unconfirmed message is unconfirmed.
    fn start(
        &self,
        place: OwnedSemaphorePermit,
        channel: Channel,
        message: Message,
    ) -> oneshot::Receiver<PublishResult> {
        let (tell, told) = oneshot::channel();
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let mut confirm = std::pin::pin!(publish(&channel, message));
            let in_time = timeout(CONFIRM_TIMEOUT, &mut confirm).await;
            let result = in_time.unwrap_or(PublishResult::TimedOut);
            state.metrics.amqp(|amqp| amqp.published(result));
            // Nobody may be listening, as for replies.
            let _ = tell.send(result);
            if result == PublishResult::TimedOut {
                confirm.await;
            }
            drop(place);
        });
        told
    }

    fn count(&self, result: PublishResult) {
        self.state.metrics.amqp(|amqp| amqp.published(result));
    }

    fn unavailable(&self, reason: &str) -> Problem {
        self.refused(ProblemKind::BrokerUnavailable, reason.to_owned())
    }

    fn refused(&self, kind: ProblemKind, detail: String) -> Problem {
        self.count(PublishResult::Unavailable);
        Problem::new(kind, detail)
    }
}

/// Publishes one message and waits for its confirm, as long as the connection lives.
async fn publish(channel: &Channel, message: Message) -> PublishResult {
    let options = BasicPublishOptions {
        mandatory: message.mandatory,
        ..Default::default()
    };
    let exchange = message.exchange.into();
    // Two waits: the first for the frames to be written, the second for the broker's confirm.
    let written = channel.basic_publish(
        exchange,
        message.routing_key,
        options,
        &message.body,
        message.properties,
    );
    let confirmed = async { written.await?.await };
    match confirmed.await {
        Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => PublishResult::Confirmed,
        // Returned to us: nobody would get it.
        Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(_)) => PublishResult::Refused,
        Err(error) => {
            log::debug!("publish failed: {error}");
            PublishResult::Unavailable
        }
    }
}

/// What a REST client is told.
fn answer(result: PublishResult) -> Result<(), Problem> {
    let (kind, detail) = match result {
        PublishResult::Confirmed => return Ok(()),
        PublishResult::Refused => (
            ProblemKind::BrokerUnavailable,
            "the broker refused the event",
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

fn event_message(event: &Event, message_id: &str) -> Message {
    let sent = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mut headers = FieldTable::default();
    // Nanoseconds fit into 63 bits until the year 2262.
    let sent_ns = i64::try_from(sent.as_nanos()).unwrap_or(i64::MAX);
    headers.insert(HEADER_SENT_NS.into(), AMQPValue::LongLongInt(sent_ns));
    Message {
        exchange: HISTORY_EXCHANGE,
        routing_key: event.key.as_str().into(),
        mandatory: false,
        properties: BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(message_id.into())
            .with_timestamp(sent.as_secs())
            .with_headers(headers),
        body: to_json(event),
    }
}

fn to_json(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("an event serialises: its maps have string keys")
}
