//! Runs the background tasks: broadcast and cleanup.
//!
//! Particular to tasks: a timer is an entry in the loop's timer wheel and costs nothing until it
//! fires. It fires late by as long as other tasks keep the loop, and that is measured here: the
//! lag is the event loop's pulse.

use std::{sync::Arc, time::Duration};

use contract::{limits::CLEANUP_INTERVAL, metrics::Task, shapes::Settlement};
use domain::broadcast;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{
    amqp::publisher::Publisher,
    metrics::store_size,
    shutdown::{Phase, PhaseView},
    state::{State, now},
};

/// Publishes the service's state now and then, until the drain.
pub async fn broadcast(state: Arc<State>, publisher: Arc<Publisher>, mut view: PhaseView) {
    let period = Duration::from_secs(state.config.settings.broadcast_s);
    let mut ticks = every(period);
    while tick(&state, &mut ticks, &mut view).await {
        // The guard of the store is gone at the end of this statement, before the wait below.
        let (keys, points) = store_size(&state.store());
        let ingested = state.metrics.amqp(|amqp| amqp.deliveries(Settlement::Ok));
        let told = broadcast::State {
            keys,
            points,
            ingested,
        };
        let event = broadcast::event(&state.config.settings.name, told);
        let ok = publisher.broadcast(&event).await;
        state.metrics.amqp(|amqp| amqp.ran(Task::Broadcast, ok));
    }
}

/// Drops what has expired, now and then, until the drain.
pub async fn cleanup(state: Arc<State>, mut view: PhaseView) {
    let mut ticks = every(CLEANUP_INTERVAL);
    while tick(&state, &mut ticks, &mut view).await {
        // On the loop and not on a thread: what expires in ten seconds is gone in microseconds.
        let dropped = state.store().cleanup(now());
        log::debug!("{dropped} keys expired");
        state.metrics.amqp(|amqp| amqp.ran(Task::Cleanup, true));
    }
}

/// Ticks from one period on.
///
/// An `Interval` and not a `sleep` in a loop: it does not drift by the time that each run takes.
/// A tick that was missed is not made up for in a burst, since one broadcast is as good as three.
fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the next tick and notes how late it came; `false` once the service drains.
async fn tick(state: &State, ticks: &mut Interval, view: &mut PhaseView) -> bool {
    tokio::select! {
        due = ticks.tick() => {
            state.metrics.late(due.into_std(), Instant::now().into_std());
            true
        }
        () = view.reached(Phase::NoConsuming) => false,
    }
}
