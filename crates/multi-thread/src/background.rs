//! Runs the tasks that nobody asks for: `broadcast` and `cleanup`.
//!
//! Particular to threads: one thread for all timers; a thread per task would cost a stack to sleep
//! on. Its ticks are channels, so that one `select!` waits for whichever is next and for the stop.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use contract::{amqp::STATE_EXCHANGE, limits::CLEANUP_INTERVAL, metrics::Task};
use crossbeam_channel::{select, tick};
use domain::UnixMs;

use crate::{shutdown::StopToken, state::State};

/// Runs the tasks until `stop`.
pub fn run(state: &Arc<State>, stop: &StopToken) {
    let broadcasts = tick(Duration::from_secs(state.config.settings.broadcast_s));
    let cleanups = tick(CLEANUP_INTERVAL);
    let mut count = 0_u64;
    while !stop.is_stopped() {
        select! {
            recv(broadcasts) -> _ => {
                count += 1;
                let ok = broadcast(state, count);
                state.metrics.timers.lock().ran(Task::Broadcast, ok);
            }
            recv(cleanups) -> _ => {
                cleanup(state);
                state.metrics.timers.lock().ran(Task::Cleanup, true);
            }
            recv(stop.channel()) -> _ => {}
        }
    }
}

/// Publishes the service's state; whether the broker confirmed it.
///
/// A tick that falls due meanwhile is not lost: `tick` keeps one.
fn broadcast(state: &State, count: u64) -> bool {
    let event = domain::broadcast::event(&state.config.settings.name, state.broadcast());
    // The timers come behind the REST workers in the numbering of makers of ids.
    let message_id = state.id(state.config.settings.http_workers, count);
    let result = state
        .outbox
        .publish(state, STATE_EXCHANGE, event, message_id);
    result
        .inspect_err(|problem| log::debug!("no broadcast: {}", problem.detail))
        .is_ok()
}

/// Drops what has expired.
fn cleanup(state: &State) {
    let dropped = state
        .store()
        .cleanup(UnixMs::from_system(SystemTime::now()));
    log::debug!("{dropped} keys have expired");
}
