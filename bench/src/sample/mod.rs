//! Sampling: counters of the subject's whole process tree, over time and at the window's edges.

mod metered;
mod pieces;
mod process_tree;
mod progress;
mod shown;
mod task;

pub use metered::Metered;
pub use pieces::Pieces;
pub use process_tree::{Family, ProcessTree, descendants, members};
pub use progress::{Progress, drain, read_metric, watch_drain};
pub use shown::Shown;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::record::{Resources, Sample};

/// Where samples come from.
pub trait Sampler {
    /// Counters now; `t_ms` is since the start of the load. `None` if the subject has ended.
    fn sample(&mut self, t_ms: f64) -> Option<Sample>;

    /// The counters now, with the sizes of the last sample: much cheaper.
    fn counters(&mut self, t_ms: f64) -> Option<Sample> {
        self.sample(t_ms)
    }

    /// Looks for processes that joined the tree; slower than a sample.
    fn discover(&mut self);

    /// Whether another sample costs no more than what sampling may cost; the edges of a window are
    /// sampled whatever they cost.
    fn affords(&self) -> bool {
        true
    }
}

/// When to sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timeline {
    /// Start of the load.
    pub start: Instant,
    /// Start of the measured window, since the start of the load.
    pub window_start: Duration,
    /// End of the measured window, since the start of the load.
    pub window_end: Duration,
    /// Time between two samples.
    pub interval: Duration,
}

/// Samples until the end of the window, at its edges exactly, and between them as often as the sampler
/// affords.
///
/// Ends early when `stop` is set or the subject has ended.
pub fn watch(sampler: &mut impl Sampler, timeline: Timeline, stop: &AtomicBool) -> Vec<Sample> {
    sampler.discover();
    follow(sampler, timeline, stop, false)
}

/// The same for a turn: without looking for processes that have joined the tree, and with sizes only
/// where the sampler affords them.
pub fn watch_turn(
    sampler: &mut impl Sampler,
    timeline: Timeline,
    stop: &AtomicBool,
) -> Vec<Sample> {
    follow(sampler, timeline, stop, true)
}

fn follow(
    sampler: &mut impl Sampler,
    timeline: Timeline,
    stop: &AtomicBool,
    is_turn: bool,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    for instant in instants(timeline) {
        if !sleep_until(timeline.start + instant, stop) {
            break;
        }
        let (is_begin, is_end) = (
            instant <= timeline.window_start,
            instant >= timeline.window_end,
        );
        let affords = sampler.affords();
        if !is_begin && !is_end && !affords {
            continue;
        }
        if is_end && !is_turn {
            sampler.discover();
        }
        let t_ms = timeline.start.elapsed().as_secs_f64() * 1e3;
        let sample = if is_turn && (is_begin || !affords) {
            sampler.counters(t_ms)
        } else {
            sampler.sample(t_ms)
        };
        match sample {
            Some(sample) => samples.push(sample),
            None => break,
        }
    }
    samples
}

/// Instants since the start of the load: the window's start, every interval, the window's end.
fn instants(timeline: Timeline) -> Vec<Duration> {
    let window = timeline.window_end.saturating_sub(timeline.window_start);
    let steps = (window.as_secs_f64() / timeline.interval.as_secs_f64()).floor() as u32;
    let mut instants: Vec<_> = (0..=steps)
        .map(|step| timeline.window_start + timeline.interval * step)
        .collect();
    // An edge right behind a step would be two readings of the same thing.
    if instants
        .last()
        .is_some_and(|last| timeline.window_end.saturating_sub(*last) < timeline.interval / 2)
    {
        instants.pop();
    }
    instants.push(timeline.window_end);
    instants
}

/// Sleeps in slices, so that an abort is seen; false if it was.
fn sleep_until(instant: Instant, stop: &AtomicBool) -> bool {
    const SLICE: Duration = Duration::from_millis(100);
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = instant.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// The window's resources: differences of counters, medians of sizes.
#[must_use]
pub fn resources(samples: &[Sample]) -> Resources {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return Resources::default();
    };
    let grown = |counter: fn(&Sample) -> u64| counter(last).saturating_sub(counter(first));
    let median = |size: fn(&Sample) -> u64| {
        let mut sizes: Vec<_> = samples.iter().map(size).collect();
        sizes.sort_unstable();
        sizes[sizes.len() / 2]
    };
    Resources {
        cpu_ns: grown(|s| s.cpu_ns),
        user_ns: grown(|s| s.user_ns),
        system_ns: grown(|s| s.system_ns),
        run_queue_wait_ns: grown(|s| s.run_queue_wait_ns),
        voluntary_switches: grown(|s| s.voluntary_switches),
        involuntary_switches: grown(|s| s.involuntary_switches),
        pss_bytes: median(|s| s.pss_bytes),
        uss_bytes: median(|s| s.uss_bytes),
        rss_bytes: median(|s| s.rss_bytes),
        page_table_bytes: median(|s| s.page_table_bytes),
        pss_max_bytes: samples.iter().map(|s| s.pss_bytes).max().unwrap_or(0),
        threads: last.threads,
        processes: last.processes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends after a number of samples, as a subject does that dies.
    struct Fake {
        left: u32,
    }

    impl Sampler for Fake {
        fn sample(&mut self, t_ms: f64) -> Option<Sample> {
            self.left = self.left.checked_sub(1)?;
            let cpu_ns = (t_ms * 1e6) as u64;
            Some(Sample {
                t_ms,
                cpu_ns,
                pss_bytes: 5,
                ..Sample::default()
            })
        }

        fn discover(&mut self) {}
    }

    fn timeline() -> Timeline {
        Timeline {
            start: Instant::now(),
            window_start: Duration::from_millis(10),
            window_end: Duration::from_millis(52),
            interval: Duration::from_millis(10),
        }
    }

    #[test]
    fn the_edges_of_the_window_are_sampled_exactly() {
        let instants = instants(timeline());
        assert_eq!(instants[0], Duration::from_millis(10));
        assert_eq!(instants.last(), Some(&Duration::from_millis(52)));
        assert_eq!(instants.len(), 5);
    }

    #[test]
    fn resources_are_differences_of_counters_and_medians_of_sizes() {
        let samples = watch(&mut Fake { left: 9 }, timeline(), &AtomicBool::new(false));
        let resources = resources(&samples);
        assert!(resources.cpu_ns >= 35_000_000, "{resources:?}");
        assert_eq!(resources.pss_bytes, 5);
    }

    #[test]
    fn sampling_ends_with_the_subject() {
        let samples = watch(&mut Fake { left: 2 }, timeline(), &AtomicBool::new(false));
        assert_eq!(samples.len(), 2);
    }
}
