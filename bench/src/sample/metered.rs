//! What sampling itself costs.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::Sampler;
use crate::load::nanoseconds;
use crate::record::Sample;

/// A sampler that keeps account of the CPU of its own thread.
///
/// It looks right before each sample, so that the window holds the first sample and not the last
/// one, just as the window of the subject's counters does.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    first: Option<Look>,
    last: Option<Look>,
}

/// The thread's own CPU at an instant.
#[derive(Debug, Clone, Copy)]
struct Look {
    t_ms: f64,
    own_ns: u64,
}

impl<S> Metered<S> {
    /// A sampler that has not cost anything yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            first: None,
            last: None,
        }
    }

    /// CPU of the sampling thread between the first and the last sample, as a share of a core; `None`
    /// without two samples.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let (first, last) = (self.first?, self.last?);
        let window_ns = (last.t_ms - first.t_ms) * 1e6;
        (window_ns > 0.0).then(|| last.own_ns.saturating_sub(first.own_ns) as f64 / window_ns)
    }
}

impl<S: Sampler> Sampler for Metered<S> {
    fn sample(&mut self, t_ms: f64) -> Option<Sample> {
        let look = Look {
            t_ms,
            own_ns: own_ns(),
        };
        self.first.get_or_insert(look);
        self.last = Some(look);
        self.inner.sample(t_ms)
    }

    fn discover(&mut self) {
        self.inner.discover();
    }
}

/// CPU of the calling thread since its start.
fn own_ns() -> u64 {
    let time = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime));
    // CPU time is never negative.
    nanoseconds(time.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Burns 4 ms of each of its samples.
    struct Greedy;

    impl Sampler for Greedy {
        fn sample(&mut self, t_ms: f64) -> Option<Sample> {
            let from = own_ns();
            while own_ns() - from < 4_000_000 {
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
}
