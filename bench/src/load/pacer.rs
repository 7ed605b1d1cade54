//! When operations are due: fixed before the run, in closed form or from a seed.
//!
//! One schedule serves all connections: its operations go over the free ones in turn, the longest
//! unused first. So each of N connections sends with the period N/rate, and the k-th is k/rate
//! behind the first: they never send in lock-step, although nobody computes a phase for them.

mod shape;

use crate::random::SplitMix;

pub use shape::{Burst, MOST_STEPS, Ramp, Step, Steps};

/// Gives the instant of each operation.
pub trait Pacer {
    /// Instant of the operation `seq` since the start of the load, in ns.
    ///
    /// Called with `seq` = 0, 1, 2, …; the results never fall.
    fn intended_ns(&mut self, seq: u64) -> u64;
}

/// How operations arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    /// `t_k = (k + phase) / rate`, each computed from `k` so that no error adds up.
    Constant {
        /// Operations per second, above 0.
        rate_per_s: f64,
        /// Offset in periods, in `[0, 1)`: keeps two kinds from being due together.
        phase: f64,
    },
    /// Exponential gaps.
    Poisson {
        /// Operations per second, above 0.
        rate_per_s: f64,
        /// Seed of the gaps.
        seed: u64,
    },
    /// From one rate to another in a straight line.
    Ramp(Ramp),
    /// One rate after the other.
    Steps(Steps),
    /// Many operations at once, and then none.
    Burst(Burst),
}

impl Arrival {
    /// The rate that the generator must be fit for, in operations per second: the highest of a ramp
    /// or of steps, else the mean.
    #[must_use]
    pub fn rate_per_s(self) -> f64 {
        match self {
            Self::Constant { rate_per_s, .. } | Self::Poisson { rate_per_s, .. } => rate_per_s,
            Self::Ramp(ramp) => ramp.from_per_s.max(ramp.to_per_s),
            Self::Steps(steps) => steps.highest_per_s(),
            Self::Burst(burst) => burst.rate_per_s,
        }
    }

    /// Mean rate between two instants since the start of the load, in operations per second: what
    /// is planned there, divided by its length, which must be above 0.
    ///
    /// Exact for a shape; for seeded gaps the rate that they have on average.
    #[must_use]
    pub fn mean_rate_per_s(self, from_s: f64, to_s: f64) -> f64 {
        let mean = |count: f64| count / (to_s - from_s);
        match self {
            Self::Constant { rate_per_s, .. } | Self::Poisson { rate_per_s, .. } => rate_per_s,
            Self::Ramp(ramp) => mean(ramp.course().integral(to_s) - ramp.course().integral(from_s)),
            Self::Steps(steps) => {
                mean(steps.course().integral(to_s) - steps.course().integral(from_s))
            }
            Self::Burst(burst) => mean((burst.before(to_s) - burst.before(from_s)) as f64),
        }
    }

    /// The same load once more, by other chances: gaps that are drawn are drawn anew.
    #[must_use]
    pub fn again(self, turn: u64) -> Self {
        match self {
            Self::Poisson { rate_per_s, seed } => Self::Poisson {
                rate_per_s,
                // Far from the seeds of neighbouring launches.
                seed: SplitMix(seed.wrapping_add(turn << 48)).next_u64(),
            },
            same => same,
        }
    }

    /// The pacer of this arrival.
    #[must_use]
    pub fn pacer(self) -> Box<dyn Pacer + Send> {
        match self {
            Self::Constant { rate_per_s, phase } => Box::new(Constant { rate_per_s, phase }),
            Self::Poisson { rate_per_s, seed } => Box::new(Poisson {
                rate_per_s,
                random: SplitMix(seed),
                elapsed_s: 0.0,
            }),
            Self::Ramp(ramp) => Box::new(ramp.course()),
            Self::Steps(steps) => Box::new(steps.course()),
            Self::Burst(burst) => Box::new(burst),
        }
    }
}

struct Constant {
    rate_per_s: f64,
    phase: f64,
}

impl Pacer for Constant {
    fn intended_ns(&mut self, seq: u64) -> u64 {
        ((seq as f64 + self.phase) / self.rate_per_s * 1e9) as u64
    }
}

struct Poisson {
    rate_per_s: f64,
    random: SplitMix,
    elapsed_s: f64,
}

impl Pacer for Poisson {
    fn intended_ns(&mut self, _seq: u64) -> u64 {
        // 1 − u lies in (0, 1], so the logarithm is finite.
        self.elapsed_s -= (1.0 - self.random.next_unit()).ln() / self.rate_per_s;
        (self.elapsed_s * 1e9) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_schedule_does_not_drift() {
        let arrival = Arrival::Constant {
            rate_per_s: 3.0,
            phase: 0.5,
        };
        let mut pacer = arrival.pacer();
        assert_eq!(pacer.intended_ns(0), 166_666_666);
        // After 10^9 operations the sum of rounded gaps would be a third of a second off.
        let far = pacer.intended_ns(3_000_000_000);
        assert!(far.abs_diff(1_000_000_000_166_666_666) < 1_000, "{far}");
    }

    #[test]
    fn poisson_gaps_are_exponential_and_repeatable() {
        let arrival = Arrival::Poisson {
            rate_per_s: 1_000.0,
            seed: 7,
        };
        let instants = |mut pacer: Box<dyn Pacer + Send>| -> Vec<u64> {
            (0..20_000).map(|seq| pacer.intended_ns(seq)).collect()
        };
        let first = instants(arrival.pacer());
        assert_eq!(first, instants(arrival.pacer()));
        let mean = first[19_999] as f64 / 2e4;
        assert!((mean / 1e6 - 1.0).abs() < 0.03, "{mean}");
        // The share of gaps above the mean is 1/e.
        let above = first.windows(2).filter(|w| w[1] - w[0] > 1_000_000).count();
        assert!((above as f64 / 2e4 - 0.3679).abs() < 0.02, "{above}");
    }
}
