//! Lanes: threads that take one job after the other, each on a broker of its own.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::RunError;
use crate::broker::{self, Broker};

/// A broker for each lane.
///
/// The first is what the user named or what is found; only private nodes can be had in any number,
/// so with several lanes each has one.
///
/// # Errors
/// [`broker::Error`] of the first that does not start.
pub(super) fn brokers(
    lanes: u32,
    options: &broker::Options,
    acquire: fn(&broker::Options) -> Result<Broker, broker::Error>,
) -> Result<Vec<Broker>, broker::Error> {
    match lanes {
        0 | 1 => Ok(vec![acquire(options)?]),
        _ => (0..lanes).map(|_| broker::start_private(options)).collect(),
    }
}

/// Hands every job to the lane that is free first, until `interrupt`.
///
/// # Errors
/// The first that a lane ended with; the others end after the job that they are at.
pub(super) fn work<J: Copy + Send + Sync>(
    brokers: &mut [Broker],
    jobs: &[J],
    interrupt: &AtomicBool,
    perform: impl Fn(&mut Broker, usize, J) -> Result<(), RunError> + Sync,
) -> Result<(), RunError> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let lane = |broker: &mut Broker| {
        while !interrupt.load(Ordering::Relaxed) && !failed.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(place) else { break };
            let performed = perform(broker, place, *job);
            failed.fetch_or(performed.is_err(), Ordering::Relaxed);
            performed?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let spawned: Vec<_> = brokers
            .iter_mut()
            .map(|broker| scope.spawn(|| lane(broker)))
            .collect();
        let ended = spawned.into_iter().map(|lane| {
            let ended = lane.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        // All of them have ended before the first error is told.
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}
