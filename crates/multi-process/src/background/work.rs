//! Computes for its own sake: what `--cpu-us` adds, and what a job of kind `cpu` does.
//!
//! Particular to processes: computing occupies the thread that does it and nothing else; with one
//! request at a time in a process, the next request waits, in this process and in no other.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use domain::work::slice;
use rustix::time::{ClockId, clock_gettime};

/// Burns `microseconds` of this thread's processor time; 0 costs nothing.
///
/// By the thread's own clock and not by the wall's: on a busy machine a wall-clock loop would stop
/// early, having computed little, just when its cost is to be seen.
pub fn burn(microseconds: u64) {
    if microseconds == 0 {
        return;
    }
    let end = thread_time() + Duration::from_micros(microseconds);
    let mut seed = microseconds;
    while thread_time() < end {
        seed = slice(black_box(seed));
    }
    black_box(seed);
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The kernel counts up from zero, in whole and normalised nanoseconds.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Computes until `length` is over, by the wall's clock: that is what a job was asked for.
pub fn compute(length: Duration) {
    let started = Instant::now();
    let mut seed = 0;
    while started.elapsed() < length {
        seed = slice(black_box(seed));
    }
    black_box(seed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_burnt_is_processor_time() {
        let before = thread_time();
        std::thread::sleep(Duration::from_millis(5));
        let idle = thread_time() - before;
        burn(20_000);
        let burnt = thread_time() - before - idle;
        assert!(idle < Duration::from_millis(5), "{idle:?}");
        assert!(burnt >= Duration::from_millis(20), "{burnt:?}");
    }
}
