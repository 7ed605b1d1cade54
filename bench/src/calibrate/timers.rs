//! How late this machine wakes a thread up.

use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::host;

/// Time between two deadlines.
const STEP: Duration = Duration::from_millis(1);
/// The last stretch before a deadline, spent in polling the clock.
const SPIN: Duration = Duration::from_micros(100);

/// How late deadlines were met in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lateness {
    /// How it was waited.
    pub way: String,
    /// Median in ns.
    pub p50_ns: f64,
    /// 99th percentile in ns.
    pub p99_ns: f64,
    /// Highest in ns.
    pub max_ns: f64,
    /// CPU of the waiting thread for each deadline in ns, polling included: what it costs to be
    /// woken by a timer at all.
    #[serde(default)]
    pub cpu_ns: f64,
}

/// Meets `deadlines` deadlines in each of three ways, one millisecond apart.
#[must_use]
pub fn lateness(deadlines: u32) -> [Lateness; 3] {
    let sleep = |until: Instant| thread::sleep(until.saturating_duration_since(Instant::now()));
    let spin = move |until: Instant| {
        sleep(until - SPIN);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    };
    [
        measure("sleep", None, deadlines, sleep),
        measure(
            "sleep, timer slack 1 ns",
            NonZeroU64::new(1),
            deadlines,
            sleep,
        ),
        measure(
            "sleep, then poll for 100 µs",
            NonZeroU64::new(1),
            deadlines,
            spin,
        ),
    ]
}

/// On a thread of its own, since the timer slack belongs to the thread.
fn measure(
    way: &str,
    slack: Option<NonZeroU64>,
    deadlines: u32,
    wait: impl Fn(Instant) + Sync,
) -> Lateness {
    let work = || {
        if let Err(error) = rustix::thread::set_current_timer_slack(slack) {
            log::warn!("the timer slack cannot be set: {error}");
        }
        let used_ns = host::own_cpu_ns();
        let start = Instant::now() + STEP;
        let mut late: Vec<u64> = (0..deadlines)
            .map(|number| {
                let until = start + STEP * number;
                wait(until);
                u64::try_from(until.elapsed().as_nanos()).unwrap_or(u64::MAX)
            })
            .collect();
        late.sort_unstable();
        (late, host::own_cpu_ns().saturating_sub(used_ns))
    };
    let (late, used_ns) = thread::scope(|scope| {
        let waiting = scope.spawn(work);
        waiting
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let at = |quantile: f64| {
        let place = (quantile * late.len() as f64) as usize;
        late.get(place.min(late.len().saturating_sub(1)))
            .map_or(0.0, |ns| *ns as f64)
    };
    Lateness {
        way: way.to_owned(),
        p50_ns: at(0.5),
        p99_ns: at(0.99),
        max_ns: at(1.0),
        cpu_ns: used_ns as f64 / f64::from(deadlines.max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_deadline_is_met_early_and_each_is_met() {
        for lateness in lateness(20) {
            assert!(lateness.p50_ns > 0.0, "{lateness:?}");
            assert!(lateness.cpu_ns > 0.0, "{lateness:?}");
            assert!(lateness.p50_ns <= lateness.p99_ns && lateness.p99_ns <= lateness.max_ns);
        }
    }
}
