//! A sampler that others can look at while it samples.

use super::Sampler;
use crate::load::Live;
use crate::record::Sample;

/// Shows each sample of `inner` in the counts of a load.
#[derive(Debug)]
pub struct Shown<'a, S> {
    inner: S,
    live: &'a Live,
    last: Option<Sample>,
}

impl<'a, S: Sampler> Shown<'a, S> {
    /// Shows the samples of `inner` in `live`.
    #[must_use]
    pub fn new(inner: S, live: &'a Live) -> Self {
        Self {
            inner,
            live,
            last: None,
        }
    }
}

impl<S: Sampler> Sampler for Shown<'_, S> {
    fn sample(&mut self, t_ms: f64) -> Option<Sample> {
        let sample = self.inner.sample(t_ms)?;
        self.show(sample);
        Some(sample)
    }

    fn counters(&mut self, t_ms: f64) -> Option<Sample> {
        let sample = self.inner.counters(t_ms)?;
        self.show(sample);
        Some(sample)
    }

    fn discover(&mut self) {
        self.inner.discover();
    }
}

impl<S> Shown<'_, S> {
    fn show(&mut self, sample: Sample) {
        if let Some(last) = self.last.replace(sample) {
            let elapsed_ns = ((sample.t_ms - last.t_ms) * 1e6).max(1.0);
            let used_ns = sample.cpu_ns.saturating_sub(last.cpu_ns);
            self.live
                .subject(used_ns as f64 / elapsed_ns, sample.pss_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::load::Viewer;

    /// Uses a quarter of a core.
    struct Quarter;

    impl Sampler for Quarter {
        fn sample(&mut self, t_ms: f64) -> Option<Sample> {
            Some(Sample {
                t_ms,
                cpu_ns: (t_ms * 0.25e6) as u64,
                pss_bytes: 4_096,
                ..Sample::default()
            })
        }

        fn discover(&mut self) {}
    }

    #[test]
    fn cpu_is_shown_from_one_sample_to_the_next() {
        let live = Live::default();
        let mut shown = Shown::new(Quarter, &live);
        let view = |live| Viewer::new(live, Instant::now()).view(Instant::now());
        shown.sample(100.0);
        assert_eq!(view(&live).pss_bytes, 0);
        shown.sample(300.0);
        let seen = view(&live);
        assert!((seen.cores - 0.25).abs() < 1e-9 && seen.pss_bytes == 4_096);
    }
}
