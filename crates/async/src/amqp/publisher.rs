//! Publishes events of REST clients until the broker's confirm, and what nobody waits for without:
//! replies and broadcasts.
//!
//! Particular to tasks: waiting for a confirm is a task of a few hundred bytes, so each message has
//! its own, and hundreds of confirms are awaited side by side without a table that maps delivery
//! tags to whoever waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use contract::{
    Problem, ProblemKind,
    amqp::{
        CONTENT_TYPE, HEADER_SENT_NS, HEADER_SEQ, HISTORY_EXCHANGE, PERSISTENT, STATE_EXCHANGE,
        TRANSIENT,
    },
    limits::{CONFIRM_TIMEOUT, CONNECT_TIMEOUT, PUBLISH_WINDOW},
    metrics::{PublishResult, Role},
    shapes::Event,
};
use futures_util::stream::StreamExt;
use lapin::{
    BasicProperties, Channel, Confirmation, Event as LinkEvent, PublisherConfirm,
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
    state::State,
};

/// Replies and broadcasts that wait for the socket at once, apart from the window of REST clients: a
/// flood of requests for replies must not make REST answer 503, nor the other way round.
const NOTICES: usize = 256;
/// How long a notice waits for a place in its window before it is dropped.
const NOTICE_PATIENCE: Duration = Duration::from_secs(1);
/// Begin of the names that stand for a client's channel instead of a queue.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

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
/// Apart, because confirms are switched on for a channel as a whole: a notice, a reply or a
/// broadcast, is worth nothing later, so its confirm would be work for nothing on both sides.
#[derive(Debug)]
struct Channels {
    events: Channel,
    notices: Channel,
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
    notices: Arc<Semaphore>,
    /// Events so far, for [`HEADER_SEQ`].
    events: AtomicI64,
}

impl Publisher {
    /// A publisher without a connection yet.
    #[must_use]
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state,
            outlet: watch::Sender::new(Outlet::Down),
            clients: Arc::new(Semaphore::new(PUBLISH_WINDOW)),
            notices: Arc::new(Semaphore::new(NOTICES)),
            events: AtomicI64::new(0),
        }
    }

    /// Events without a confirm yet.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        PUBLISH_WINDOW.saturating_sub(self.clients.available_permits()) as u64
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
        let seq = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        let message = event_message(event, &message_id, seq);
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

    /// Sends a reply, without a confirm.
    ///
    /// Returns at once unless [`NOTICES`] replies are on their way: then the consumer waits for
    /// a place, which is the back-pressure that keeps their number bounded.
    /// A reply that cannot be sent is dropped: whoever asked will time out and ask again, while
    /// keeping it would stop the ingest.
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
        if !self.notify(message).await {
            log::warn!("a reply could not be sent and was dropped");
        }
    }

    /// Sends the service's state, without a confirm: the next one replaces it. Returns whether it
    /// could be sent.
    pub async fn broadcast(&self, event: &Event) -> bool {
        let message = Message {
            exchange: STATE_EXCHANGE,
            routing_key: event.key.as_str().into(),
            mandatory: false,
            properties: BasicProperties::default()
                .with_content_type(CONTENT_TYPE.into())
                .with_delivery_mode(TRANSIENT)
                .with_timestamp(since_epoch().as_secs()),
            body: to_json(event),
        };
        self.notify(message).await
    }

    /// Waits until nothing is on its way any more.
    pub async fn drained(&self) {
        // All places free means nothing on its way. The permits are given back when they are
        // dropped, at the end of this function.
        let _clients = self.clients.acquire_many(PUBLISH_WINDOW as u32).await;
        let _notices = self.notices.acquire_many(NOTICES as u32).await;
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
        let notices = link.open_channel().await?;
        let confirms = link.channel.confirm_select(ConfirmSelectOptions::default());
        deadline("turn confirms on", CONNECT_TIMEOUT, confirms).await?;
        let channels = Arc::new(Channels {
            events: link.channel.clone(),
            notices,
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

    /// Sends a notice in a task of its own, as soon as there is a place for it; `false` if there is
    /// no connection or no place in time.
    async fn notify(&self, message: Message) -> bool {
        let Ok(channels) = self.channels() else {
            return false;
        };
        let places = Arc::clone(&self.notices);
        let Ok(Ok(place)) = timeout(NOTICE_PATIENCE, places.acquire_owned()).await else {
            return false;
        };
        tokio::spawn(async move {
            if let Err(error) = write(&channels.notices, message).await {
                log::debug!("a notice was lost: {error}");
            }
            // Without confirms lapin keeps what was returned until somebody asks for it.
            for returned in channels
                .notices
                .wait_for_confirms()
                .await
                .into_iter()
                .flatten()
            {
                log::info!("nobody takes replies at {}", returned.routing_key);
            }
            drop(place);
        });
        true
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
            // Nobody may be listening: the client has hung up.
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
    // Two waits: the first for the frames to be written, the second for the broker's confirm.
    let confirmed = async { write(channel, message).await?.await };
    match confirmed.await {
        Ok(Confirmation::Ack(_) | Confirmation::NotRequested) => PublishResult::Confirmed,
        Ok(Confirmation::Nack(_)) => PublishResult::Refused,
        Err(error) => {
            log::debug!("publish failed: {error}");
            PublishResult::Unavailable
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

fn event_message(event: &Event, message_id: &str, seq: i64) -> Message {
    let sent = since_epoch();
    let mut headers = FieldTable::default();
    // Nanoseconds fit into 63 bits until the year 2262.
    let sent_ns = i64::try_from(sent.as_nanos()).unwrap_or(i64::MAX);
    headers.insert(HEADER_SENT_NS.into(), AMQPValue::LongLongInt(sent_ns));
    headers.insert(HEADER_SEQ.into(), AMQPValue::LongLongInt(seq));
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

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
