//! Runs the tasks that nobody asks for: `broadcast`, `cleanup` and `flush`; and, below it, the jobs
//! that clients do ask for.
//!
//! Particular to processes: they run in the process that owns the store; a process of their own would
//! have to ask for everything that they need. `broadcast` and `cleanup` never wait and share a thread;
//! `flush` waits for the disk and has its own.
//! The ticks are channels, so that one `select!` waits for whichever is next and for the stop.

pub mod jobs;
pub mod sink;
pub mod work;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use contract::{limits::CLEANUP_INTERVAL, metrics::Task};
use crossbeam_channel::{select, tick};
use domain::UnixMs;

use crate::{shutdown::StopToken, state::State};

/// Runs the tasks until `stop`.
pub fn run(state: &Arc<State>, stop: &StopToken) {
    let broadcasts = tick(Duration::from_secs(state.config.settings.broadcast_s));
    let cleanups = tick(CLEANUP_INTERVAL);
    while !stop.is_stopped() {
        select! {
            recv(broadcasts) -> _ => {
                let ok = broadcast(state);
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

/// Broadcasts the service's state; whether it could be sent.
///
/// Handed over and not waited for: a broadcast that is lost is replaced by the next, and a timer that
/// waits for the broker is late for whatever else is due.
fn broadcast(state: &State) -> bool {
    let event = domain::broadcast::event(&state.config.settings.name, state.broadcast());
    state.outbox.broadcast(state, event)
}

/// Drops what has expired.
fn cleanup(state: &State) {
    let dropped = state
        .store()
        .cleanup(UnixMs::from_system(SystemTime::now()));
    log::debug!("{dropped} keys have expired");
}
