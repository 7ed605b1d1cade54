//! Runs the background tasks: broadcast, cleanup and flush, and the jobs of clients.
//!
//! Particular to threads: one thread for all timers; a thread per task would cost a stack to sleep
//! on. Its ticks are channels, so that one `select!` waits for whichever is next and for the stop.
//! Only what may wait for long has a thread of its own: the disk, and each job.

pub mod jobs;
mod sink;

use std::{path::PathBuf, sync::Arc, time::Duration};

use contract::{
    limits::{CLEANUP_INTERVAL, FLUSH_INTERVAL},
    metrics::Task,
};
use crossbeam_channel::{select, tick};

use crate::{
    shutdown::StopToken,
    state::{State, now},
};
use sink::SinkFile;

/// Runs broadcast and cleanup until `stop`.
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
    let dropped = state.store().cleanup(now());
    log::debug!("{dropped} keys have expired");
}

/// Writes the file sink now and then until `stop`, and then once more.
///
/// On a thread of its own: a disk that is busy lets the caller sleep in `fsync` for seconds, and no
/// broadcast shall wait for that.
pub fn flush(state: &State, path: PathBuf, stop: &StopToken) {
    let mut file = SinkFile::new(path);
    let ticks = tick(FLUSH_INTERVAL);
    loop {
        select! {
            recv(ticks) -> _ => {}
            recv(stop.channel()) -> _ => {}
        }
        flush_once(state, &mut file);
        // Asked only now: the last lines may have come after the last tick.
        if stop.is_stopped() {
            return;
        }
    }
}

fn flush_once(state: &State, file: &mut SinkFile) {
    // The guard goes with the statement: while the disk is waited for, events find the sink free.
    let batch = state.sink().take();
    let ok = file.append(&batch);
    if !ok {
        state.sink().lost(&batch);
    }
    state.metrics.timers.lock().ran(Task::Flush, ok);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics, shutdown::stop_pair, state::tests::state};

    #[test]
    fn a_full_disk_is_counted_and_the_service_goes_on() {
        // A device of the kernel that is always full.
        let state = state(&["--sink=/dev/full"]);
        let reading = domain::decode(br#"{"key":"s","data":{"t":1}}"#).expect("an event");
        state.apply(reading, now());
        let (source, stop) = stop_pair();
        let path = state.config.settings.sink.clone().expect("given");
        let flushing = std::thread::spawn({
            let state = Arc::clone(&state);
            move || flush(&state, path, &stop)
        });
        // What waits at the end is written, or counted as lost.
        drop(source);
        flushing.join().expect("no panic");
        let text = metrics::render(&state);
        for line in [
            "sink_dropped_total 1\n",
            "task_runs_total{task=\"flush\",ok=\"false\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
