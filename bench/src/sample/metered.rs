//! What sampling itself costs.

use std::time::Instant;

use super::Sampler;
use crate::host;
use crate::load::nanoseconds;
use crate::record::Sample;

/// Share of a core that sampling may cost: below the limit of its gate, since the waiting and the look
/// for new processes at the end come on top.
const BUDGET: f64 = 0.004;

/// A sampler that keeps account of the CPU of its own thread, and within its budget.
///
/// It looks right before each sample, so that the window holds the first sample and not the last
/// one, just as the window of the subject's counters does.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    first: Option<Look>,
    last: Option<Look>,
    /// What the last sample cost.
    cost_ns: u64,
}

/// The thread's own CPU at an instant.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    own_ns: u64,
}

impl Look {
    fn now() -> Self {
        Self {
            at: Instant::now(),
            own_ns: host::own_cpu_ns(),
        }
    }

    /// CPU since then as a share of a core, with `more_ns` of it still to come.
    fn ratio_until(self, later: Self, more_ns: u64) -> f64 {
        let used_ns = later.own_ns.saturating_sub(self.own_ns) + more_ns;
        let elapsed_ns = nanoseconds(later.at.duration_since(self.at)).max(1);
        used_ns as f64 / elapsed_ns as f64
    }
}

impl<S> Metered<S> {
    /// A sampler that has not cost anything yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            first: None,
            last: None,
            cost_ns: 0,
        }
    }

    fn look(&mut self) -> Look {
        let look = Look::now();
        self.first.get_or_insert(look);
        self.last = Some(look);
        look
    }

    /// CPU of the sampling thread between the first and the last sample, as a share of a core; `None`
    /// without two samples.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let (first, last) = (self.first?, self.last?);
        (last.at > first.at).then(|| first.ratio_until(last, 0))
    }
}

impl<S: Sampler> Sampler for Metered<S> {
    fn sample(&mut self, t_ms: f64) -> Option<Sample> {
        let look = self.look();
        let sample = self.inner.sample(t_ms);
        self.cost_ns = host::own_cpu_ns().saturating_sub(look.own_ns);
        sample
    }

    fn counters(&mut self, t_ms: f64) -> Option<Sample> {
        self.look();
        self.inner.counters(t_ms)
    }

    fn affords(&self) -> bool {
        let first = self.first;
        first.is_none_or(|first| first.ratio_until(Look::now(), self.cost_ns) <= BUDGET)
    }

    fn discover(&mut self) {
        self.inner.discover();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Timeline, watch};
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    /// Burns 4 ms of each of its samples.
    struct Greedy;

    impl Sampler for Greedy {
        fn sample(&mut self, t_ms: f64) -> Option<Sample> {
            let from = host::own_cpu_ns();
            while host::own_cpu_ns() - from < 4_000_000 {
                std::hint::spin_loop();
            }
            Some(Sample {
                t_ms,
                ..Sample::default()
            })
        }

        fn discover(&mut self) {}
    }

    #[test]
    fn the_samplers_own_cpu_is_a_share_of_the_time_between_its_first_and_last_sample() {
        let mut sampler = Metered::new(Greedy);
        assert_eq!(sampler.ratio(), None);
        let start = Instant::now();
        for turn in 1..=4 {
            sampler.sample(start.elapsed().as_secs_f64() * 1e3);
            let next = Duration::from_millis(20) * turn;
            std::thread::sleep(next.saturating_sub(start.elapsed()));
        }
        let ratio = sampler.ratio().expect("four samples");
        // Three samples of 4 ms in 60 ms; longer if others hold the core.
        assert!((0.02..=0.25).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_sampler_that_costs_too_much_samples_the_edges_and_little_between() {
        let timeline = Timeline {
            start: Instant::now(),
            window_start: Duration::ZERO,
            window_end: Duration::from_millis(300),
            interval: Duration::from_millis(10),
        };
        let mut sampler = Metered::new(Greedy);
        let samples = watch(&mut sampler, timeline, &AtomicBool::new(false));
        // The first one alone costs more than the budget of the whole window.
        assert_eq!(samples.len(), 2);
    }
}
