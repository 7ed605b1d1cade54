//! A consumer that answers each event after a known delay: the broker's part of the truth.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use contract::amqp::INGEST_QUEUE;

use crate::{
    amqp::{BasicProperties, Delivery, Error, Message, Session},
    host,
};

/// Longest time until it notices that it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// The last stretch of a delay, spent in polling the clock.
const SPIN: Duration = Duration::from_micros(100);

/// A running consumer of the ingest queue; dropping it stops it.
#[derive(Debug)]
pub struct TruthConsumer {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl TruthConsumer {
    /// Answers one event after the other, each `delay` after it was read, on the core `cpu` if one
    /// is named. The queue must exist.
    ///
    /// # Errors
    /// [`Error`] if the broker cannot be used; the thread and its core come with the machine.
    pub fn start(url: &str, delay: Duration, cpu: Option<usize>) -> Result<Self, Error> {
        let mut session = Session::connect(url, "threeways-truth", Duration::from_secs(5))?;
        session.consume(INGEST_QUEUE, false)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stopping);
        let cpus = cpu.map(|cpu| vec![cpu]);
        let spawn = || {
            std::thread::Builder::new()
                .name("truth".to_owned())
                .spawn(move || serve(session, delay, &told))
        };
        let thread = host::with_cpus(cpus.as_deref(), spawn)
            .and_then(|spawned| spawned)
            .map_err(Error::Broken)?;
        Ok(Self {
            stopping,
            thread: Some(thread),
        })
    }

    /// Stops it.
    ///
    /// # Errors
    /// What ended it before.
    pub fn stop(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.stopping.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for TruthConsumer {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::warn!("truth consumer: {error}");
        }
    }
}

fn serve(mut session: Session, delay: Duration, stopping: &AtomicBool) -> Result<(), Error> {
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        log::warn!("the timer slack cannot be set: {error}");
    }
    while !stopping.load(Ordering::Relaxed) {
        let Some(delivery) = session.next_delivery(LOOK)? else {
            continue;
        };
        await_instant(Instant::now() + delay);
        if let Some(reply) = reply_to(&delivery) {
            session.publish_unconfirmed(&reply)?;
        }
        session.ack(delivery.delivery_tag, false)?;
    }
    session.close()
}

fn await_instant(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    std::thread::sleep(left.saturating_sub(SPIN));
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

/// The reply of the contract, if one is asked for.
fn reply_to(delivery: &Delivery) -> Option<Message> {
    let asked = &delivery.properties;
    let queue = asked.reply_to().clone()?;
    let id = asked.message_id().clone().unwrap_or_default();
    let correlation = asked.correlation_id().clone().unwrap_or_default();
    Some(Message {
        exchange: String::new(),
        routing_key: queue.to_string(),
        properties: BasicProperties::default().with_correlation_id(correlation),
        body: format!(r#"{{"message_id":"{id}","outcome":"ok"}}"#).into_bytes(),
    })
}
