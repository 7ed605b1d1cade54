//! Runs the tasks that nobody asks for: `broadcast`, `cleanup` and `flush`; and, below it, the jobs
//! that clients do ask for.
//!
//! Particular to tasks: a timer is an entry in the loop's timer wheel and costs nothing until it
//! fires. It fires late by as long as other tasks keep the loop, and that is measured here: the
//! lag is the event loop's pulse.

pub mod jobs;
mod sink;

use std::{sync::Arc, time::Duration};

use contract::{
    limits::{CLEANUP_INTERVAL, FLUSH_INTERVAL},
    metrics::Task,
    shapes::Settlement,
};
use domain::broadcast;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{
    amqp::publisher::Publisher,
    metrics::store_size,
    shutdown::{Phase, PhaseView},
    state::{State, now},
};
use sink::SinkFile;

/// Publishes the service's state now and then, until the drain.
pub async fn broadcast(state: Arc<State>, publisher: Arc<Publisher>, mut view: PhaseView) {
    let period = Duration::from_secs(state.config.settings.broadcast_s);
    let mut ticks = every(period);
    while tick(&state, &mut ticks, &mut view, Phase::NoConsuming).await {
        // The guard of the store is gone at the end of this statement, before the wait below.
        let (keys, points) = store_size(&state.store());
        let ingested = state.metrics.amqp(|amqp| amqp.deliveries(Settlement::Ok));
        let told = broadcast::State {
            keys,
            points,
            ingested,
        };
        let event = broadcast::event(&state.config.settings.name, told);
        let ok = publisher.broadcast(&event);
        state.metrics.amqp(|amqp| amqp.ran(Task::Broadcast, ok));
    }
}

/// Drops what has expired, now and then, until the drain.
pub async fn cleanup(state: Arc<State>, mut view: PhaseView) {
    let mut ticks = every(CLEANUP_INTERVAL);
    while tick(&state, &mut ticks, &mut view, Phase::NoConsuming).await {
        // On the loop and not on a thread: what expires in ten seconds is gone in microseconds.
        let dropped = state.store().cleanup(now());
        log::debug!("{dropped} keys expired");
        state.metrics.amqp(|amqp| amqp.ran(Task::Cleanup, true));
    }
}

/// Writes the file sink now and then, and once more when the last delivery is settled; returns at
/// once if there is no sink.
pub async fn flush(state: Arc<State>, mut view: PhaseView) {
    let Some(path) = state.config.settings.sink.clone() else {
        return;
    };
    let mut file = SinkFile::new(path);
    let mut ticks = every(FLUSH_INTERVAL);
    while tick(&state, &mut ticks, &mut view, Phase::NoServing).await {
        flush_once(&state, &mut file).await;
    }
    flush_once(&state, &mut file).await;
}

async fn flush_once(state: &State, file: &mut SinkFile) {
    // The guard goes with the statement: while the disk is waited for, events find the sink free.
    let batch = state.sink().take();
    let written = file.append(batch).await;
    if let Err(batch) = &written {
        state.sink().lost(batch);
    }
    let ok = written.is_ok();
    state.metrics.amqp(|amqp| amqp.ran(Task::Flush, ok));
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

/// Waits for the next tick and notes how late it came; `false` once `end` has begun.
async fn tick(state: &State, ticks: &mut Interval, view: &mut PhaseView, end: Phase) -> bool {
    tokio::select! {
        due = ticks.tick() => {
            state.metrics.late(due.into_std(), Instant::now().into_std());
            true
        }
        () = view.reached(end) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, shutdown::Phases};

    #[tokio::test]
    async fn a_full_disk_is_counted_and_the_service_goes_on() {
        // A device of the kernel that is always full.
        let config = Config::parse(&["--sink=/dev/full"]).expect("valid");
        let state = Arc::new(State::new(config));
        let reading = domain::decode(br#"{"key":"s","data":{"t":1}}"#).expect("an event");
        state.apply(reading, now());
        let phases = Phases::new();
        phases.enter(Phase::NoServing);
        // What waits at the end of the drain is written, or counted as lost.
        flush(Arc::clone(&state), phases.view()).await;
        assert_eq!(state.sink().dropped(), 1);
        let text = state.metrics.render((0, 0), 0, state.sink().dropped());
        for line in [
            "sink_dropped_total 1\n",
            "task_runs_total{task=\"flush\",ok=\"false\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }
}
