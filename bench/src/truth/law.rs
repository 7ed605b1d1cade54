//! Service times that are known beforehand, and the response times that follow from them.

use std::time::Duration;

use crate::load::nanoseconds;
use crate::random::SplitMix;

/// How long the server takes for each request, in the order in which it gets to them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Law {
    /// The same for each.
    Constant(Duration),
    /// `slow` for a share of them, `fast` for the others, in a seeded order.
    Bimodal {
        /// The usual.
        fast: Duration,
        /// The unusual.
        slow: Duration,
        /// Share of the slow ones, in `[0, 1]`.
        slow_ratio: f64,
        /// Seed of the order.
        seed: u64,
    },
    /// Exponential.
    Exponential {
        /// Mean.
        mean: Duration,
        /// Seed of the draws.
        seed: u64,
    },
}

impl Law {
    /// The service times in ns, the same whenever they are drawn; without end.
    pub fn draws(self) -> impl Iterator<Item = u64> + Send {
        let mut random = SplitMix(match self {
            Self::Constant(_) => 0,
            Self::Bimodal { seed, .. } | Self::Exponential { seed, .. } => seed,
        });
        std::iter::repeat_with(move || match self {
            Self::Constant(time) => nanoseconds(time),
            Self::Bimodal {
                fast,
                slow,
                slow_ratio,
                ..
            } => nanoseconds(if random.next_unit() < slow_ratio {
                slow
            } else {
                fast
            }),
            // 1 − u lies in (0, 1], so the logarithm is finite.
            Self::Exponential { mean, .. } => {
                (-(1.0 - random.next_unit()).ln() * mean.as_secs_f64() * 1e9) as u64
            }
        })
    }
}

/// Whether requests wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    /// Each is served at once, however many there are.
    Parallel,
    /// One after the other, in the order of their arrival.
    Single,
}

/// A time in which the server does nothing at all, in ns since the start of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freeze {
    /// First instant inside.
    pub start_ns: u64,
    /// First instant behind.
    pub end_ns: u64,
}

impl Freeze {
    /// An instant, or the end of the freeze if it lies inside.
    pub(super) fn behind(self, at_ns: u64) -> u64 {
        if (self.start_ns..self.end_ns).contains(&at_ns) {
            self.end_ns
        } else {
            at_ns
        }
    }
}

/// The response time of every arrival in ns: what a faultless instrument would measure.
///
/// For one server this is Lindley's recursion (Lindley, 1952, *The theory of queues with a single
/// server*) over the very arrivals and service times of the trial. It is exact for each schedule,
/// where the formulas of queueing theory hold for the mean of endlessly many of them.
/// The arrivals must not fall.
pub fn responses_ns(
    arrivals_ns: impl IntoIterator<Item = u64>,
    law: Law,
    discipline: Discipline,
    freeze: Option<Freeze>,
) -> Vec<u64> {
    let behind = |at_ns: u64| freeze.map_or(at_ns, |freeze| freeze.behind(at_ns));
    let mut free_ns = 0;
    let served = arrivals_ns.into_iter().zip(law.draws());
    let response = |(arrival_ns, draw_ns): (u64, u64)| {
        let seen_ns = behind(arrival_ns);
        let begun_ns = match discipline {
            Discipline::Parallel => seen_ns,
            Discipline::Single => seen_ns.max(free_ns),
        };
        free_ns = begun_ns + draw_ns;
        behind(free_ns) - arrival_ns
    };
    served.map(response).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Arrival;

    const MS: u64 = 1_000_000;

    fn mean_s(values: &[u64]) -> f64 {
        values.iter().sum::<u64>() as f64 / values.len() as f64 / 1e9
    }

    fn poisson(rate_per_s: f64, count: u64) -> Vec<u64> {
        let mut pacer = Arrival::Poisson {
            rate_per_s,
            seed: 11,
        }
        .pacer();
        (0..count).map(|seq| pacer.intended_ns(seq)).collect()
    }

    #[test]
    fn one_server_lets_the_second_wait_for_the_first() {
        let law = Law::Constant(Duration::from_millis(3));
        let alone = responses_ns([0, MS, 10 * MS], law, Discipline::Parallel, None);
        assert_eq!(alone, [3 * MS; 3]);
        let queued = responses_ns([0, MS, 10 * MS], law, Discipline::Single, None);
        assert_eq!(queued, [3 * MS, 5 * MS, 3 * MS]);
    }

    #[test]
    fn a_freeze_holds_back_what_arrives_and_what_is_due_in_it() {
        let law = Law::Constant(Duration::from_millis(1));
        let freeze = Freeze {
            start_ns: 10 * MS,
            end_ns: 20 * MS,
        };
        let arrivals = [5 * MS, 9 * MS + 1, 15 * MS, 16 * MS, 30 * MS];
        let responses = responses_ns(arrivals, law, Discipline::Single, Some(freeze));
        // The second is at work when the freeze begins and is answered at its end.
        let expected = [MS, 11 * MS - 1, 6 * MS, 6 * MS, MS];
        assert_eq!(responses, expected);
    }

    #[test]
    fn the_recursion_agrees_with_the_formulas_of_queueing_theory() {
        let service_s = 0.001;
        for load in [0.3, 0.5, 0.7] {
            let arrivals = poisson(load / service_s, 400_000);
            let service = Duration::from_secs_f64(service_s);
            let of = |law| {
                mean_s(&responses_ns(
                    arrivals.clone(),
                    law,
                    Discipline::Single,
                    None,
                ))
            };
            let markov = of(Law::Exponential {
                mean: service,
                seed: 5,
            });
            let expected = service_s / (1.0 - load);
            assert!((markov / expected - 1.0).abs() < 0.05, "M/M/1 at {load}");
            let constant = of(Law::Constant(service));
            let expected = service_s + load * service_s / (2.0 * (1.0 - load));
            assert!((constant / expected - 1.0).abs() < 0.05, "M/D/1 at {load}");
        }
    }

    #[test]
    fn a_bimodal_law_has_its_share_of_slow_ones() {
        let law = Law::Bimodal {
            fast: Duration::from_millis(1),
            slow: Duration::from_millis(20),
            slow_ratio: 0.1,
            seed: 3,
        };
        let slow = law.draws().take(10_000).filter(|ns| *ns > MS).count();
        assert!((900..1_100).contains(&slow), "{slow}");
    }
}
