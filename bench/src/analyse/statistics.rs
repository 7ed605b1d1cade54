//! Estimates over blocks: the unit of replication is the launch, never the request.

use serde::{Deserialize, Serialize};

use super::significance::{LEVEL, student_p};
use crate::random::SplitMix;

/// Resamples of one bootstrap.
pub const RESAMPLES: usize = 10_000;

/// Fewest blocks from which an interval may name a winner.
pub const FEWEST_BLOCKS: usize = 3;

/// Smallest relative difference that may name a winner: the spread that repeated runs of one
/// and the same subject are known to show even in CPU per operation, the steadiest metric.
pub const SMALLEST_EFFECT: f64 = 0.02;

/// Largest relative difference that is no difference for a user: within it two subjects may be
/// shown to be equal.
pub const EQUIVALENCE_MARGIN: f64 = 0.05;

/// Two-sided 95 % quantiles of Student's t for 1, 2, … degrees of freedom.
const STUDENT_T: [f64; 20] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
];

/// A 95 % confidence interval, in the unit of the estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies in the closed interval.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    fn hull(self, other: Interval) -> Interval {
        Interval {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
        }
    }

    fn exp(self) -> Interval {
        Interval {
            low: self.low.exp(),
            high: self.high.exp(),
        }
    }
}

/// Ratio of one subject to another, or of one run to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RatioEstimate {
    /// Ratio of the geometric means over blocks; if paired, the geometric mean of the blocks' ratios.
    pub ratio: f64,
    /// 95 % confidence interval; absent with fewer than two blocks.
    pub interval: Option<Interval>,
    /// Blocks in which both launches are valid; of two runs, those of the one that has fewer.
    pub blocks: usize,
    /// How often chance alone would show as much of a paired ratio, by Student's t over the blocks'
    /// log ratios; absent with fewer than two blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
    /// The same, adjusted for all the comparisons that the ratio is one of (Holm).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adjusted_p_value: Option<f64>,
}

impl RatioEstimate {
    /// Whether the data tell the two apart: enough blocks, an interval without 1, an effect of at
    /// least [`SMALLEST_EFFECT`] whichever way round the ratio is taken, and, as one of many
    /// comparisons, an adjusted p value of at most 5 %.
    pub fn is_decided(&self) -> bool {
        self.blocks >= FEWEST_BLOCKS
            && self.ratio.ln().abs() >= SMALLEST_EFFECT.ln_1p()
            && self.interval.is_some_and(|i| !i.contains(1.0))
            && self.adjusted_p_value.is_none_or(|p| p <= LEVEL)
    }

    /// Whether the data show the two to be equal: enough blocks, and the whole interval within
    /// [`EQUIVALENCE_MARGIN`]. That is two one-sided tests (Schuirmann, 1987) at 2.5 % each, where 5 %
    /// would do; a wide interval shows nothing, however near to 1 its middle is.
    #[must_use]
    pub fn is_equivalent(&self) -> bool {
        self.blocks >= FEWEST_BLOCKS
            && self.interval.is_some()
            && self.reach() <= EQUIVALENCE_MARGIN.ln_1p()
    }

    /// How far from 1 the ratio may be, as the larger of the interval's logarithms; without an
    /// interval that of the ratio itself.
    #[must_use]
    pub fn reach(&self) -> f64 {
        let ends = self
            .interval
            .map_or([self.ratio; 2], |interval| [interval.low, interval.high]);
        ends.map(|end| end.ln().abs())
            .into_iter()
            .fold(0.0, f64::max)
    }

    /// The ratio seen from the other side.
    pub fn inverse(&self) -> RatioEstimate {
        RatioEstimate {
            ratio: 1.0 / self.ratio,
            interval: self.interval.map(|i| Interval {
                low: 1.0 / i.high,
                high: 1.0 / i.low,
            }),
            ..*self
        }
    }
}

/// Median; sorts its argument, and is `None` for none.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Slope of a line through points `(x, y)`: the median of the slopes of all pairs, which up to 29 %
/// outliers do not sway; `None` without two points of different `x`.
pub fn theil_sen(points: &[(f64, f64)]) -> Option<f64> {
    let from = |(n, &(x, y)): (usize, &(f64, f64))| {
        let later = points[n + 1..].iter().filter(move |later| later.0 != x);
        later.map(move |later| (later.1 - y) / (later.0 - x))
    };
    median(&mut points.iter().enumerate().flat_map(from).collect::<Vec<_>>())
}

/// Median over blocks with its bootstrap interval.
pub fn median_over_blocks(values: &[f64], seed: u64) -> Option<(f64, Option<Interval>)> {
    let estimate = median(&mut values.to_vec())?;
    let interval = bootstrap(values, seed, |sample| {
        median(sample).expect("a resample is as long as the sample, which is not empty")
    });
    Some((estimate, interval))
}

/// Ratio `a / b` from pairs of the same block; `None` without a pair or with one that is not positive.
///
/// The interval is the hull of the bootstrap's and Student's: with a handful of blocks the
/// percentile bootstrap never leaves the range of the data and is therefore too narrow
/// (three blocks that happen to agree in sign would always name a winner).
pub fn paired_ratio(pairs: &[(f64, f64)], seed: u64) -> Option<RatioEstimate> {
    if pairs.is_empty() || pairs.iter().any(|&(a, b)| a <= 0.0 || b <= 0.0) {
        return None;
    }
    let logs: Vec<f64> = pairs.iter().map(|(a, b)| (a / b).ln()).collect();
    let resampled = bootstrap(&logs, seed, |sample| mean(sample));
    Some(RatioEstimate {
        ratio: mean(&logs).exp(),
        interval: resampled.zip(student(&logs)).map(|(a, b)| a.hull(b).exp()),
        blocks: pairs.len(),
        p_value: chance(&logs),
        adjusted_p_value: None,
    })
}

/// Ratio `a / b` of values of two runs, whose blocks have nothing to do with each other; `None`
/// without a value on either side or with one that is not positive.
///
/// The interval is the hull of the bootstrap's over both runs and of Welch's ("The generalization of
/// Student's problem when several different population variances are involved", 1947), for which
/// the degrees of freedom of the shorter run are taken: they err on the wide side.
pub fn independent_ratio(a: &[f64], b: &[f64], seed: u64) -> Option<RatioEstimate> {
    let blocks = a.len().min(b.len());
    if blocks == 0 || a.iter().chain(b).any(|&value| value <= 0.0) {
        return None;
    }
    let logs = |values: &[f64]| -> Vec<f64> { values.iter().map(|value| value.ln()).collect() };
    let (a, b) = (logs(a), logs(b));
    let difference = mean(&a) - mean(&b);
    let interval = (blocks > 1).then(|| {
        let (of_a, of_b) = (resampled_means(&a, seed), resampled_means(&b, !seed));
        let mut differences: Vec<f64> = of_a.iter().zip(of_b).map(|(a, b)| a - b).collect();
        let squared = squared_error(&a) + squared_error(&b);
        let margin = student_t(blocks - 1) * squared.sqrt();
        let welch = Interval {
            low: difference - margin,
            high: difference + margin,
        };
        percentiles(&mut differences).hull(welch).exp()
    });
    Some(RatioEstimate {
        ratio: difference.exp(),
        interval,
        blocks,
        p_value: None,
        adjusted_p_value: None,
    })
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / count(values)
}

fn count(values: &[f64]) -> f64 {
    u32::try_from(values.len()).map_or(f64::MAX, f64::from)
}

/// Student's 95 % interval of the mean; `None` for fewer than two values.
fn student(values: &[f64]) -> Option<Interval> {
    let freedom = values.len().checked_sub(1).filter(|&f| f > 0)?;
    let (centre, margin) = (
        mean(values),
        student_t(freedom) * squared_error(values).sqrt(),
    );
    Some(Interval {
        low: centre - margin,
        high: centre + margin,
    })
}

/// Two-sided p value of a mean of 0 by Student's t; `None` for fewer than two values.
///
/// Not that of a permutation of signs, which with ten blocks cannot fall below 1 in 512 and would
/// leave nothing to adjust.
fn chance(values: &[f64]) -> Option<f64> {
    let freedom = values.len().checked_sub(1).filter(|&f| f > 0)?;
    let centre = mean(values);
    // Without any scatter the quotient is infinite, or no number if the mean is 0, too.
    let t = centre / squared_error(values).sqrt();
    Some(if t.is_nan() {
        1.0
    } else {
        student_p(t, freedom)
    })
}

/// Squared standard error of the mean of at least two values.
pub(super) fn squared_error(values: &[f64]) -> f64 {
    let centre = mean(values);
    let squares: f64 = values.iter().map(|v| (v - centre).powi(2)).sum();
    squares / (count(values) - 1.0) / count(values)
}

/// Two-sided 95 % quantile for at least one degree of freedom; beyond the table the last entry is
/// kept, which errs on the wide side.
fn student_t(freedom: usize) -> f64 {
    STUDENT_T[freedom.min(STUDENT_T.len()) - 1]
}

/// Percentile bootstrap (95 %); `None` for fewer than two values.
fn bootstrap(values: &[f64], seed: u64, statistic: impl Fn(&mut [f64]) -> f64) -> Option<Interval> {
    let (first, rest) = values.split_first().filter(|(_, rest)| !rest.is_empty())?;
    if rest.iter().all(|value| value == first) {
        // Every resample is the sample.
        let estimate = statistic(&mut values.to_vec());
        return Some(Interval {
            low: estimate,
            high: estimate,
        });
    }
    Some(percentiles(&mut resample(values, seed, statistic)))
}

/// The statistic of [`RESAMPLES`] samples that are drawn from the values with replacement.
fn resample(values: &[f64], seed: u64, statistic: impl Fn(&mut [f64]) -> f64) -> Vec<f64> {
    let mut random = SplitMix(seed);
    let mut sample = vec![0.0; values.len()];
    let draw = |_| {
        sample.fill_with(|| values[random.below(values.len())]);
        statistic(&mut sample)
    };
    (0..RESAMPLES).map(draw).collect()
}

fn resampled_means(values: &[f64], seed: u64) -> Vec<f64> {
    resample(values, seed, |sample| mean(sample))
}

/// The middle 95 % of [`RESAMPLES`] estimates; sorts them.
fn percentiles(estimates: &mut [f64]) -> Interval {
    estimates.sort_unstable_by(f64::total_cmp);
    Interval {
        low: estimates[RESAMPLES / 40],
        high: estimates[RESAMPLES - 1 - RESAMPLES / 40],
    }
}

/// Seed of one estimate: the run's seed mixed with the estimate's name (FNV-1a), so that
/// adding a cell or a subject does not change the intervals of the others.
pub fn seed_for(run_seed: u64, name: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ run_seed;
    for byte in name.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_the_midpoint() {
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn the_slope_is_recovered_in_spite_of_outliers() {
        let mut points: Vec<(f64, f64)> = (0..60)
            .map(|n| (f64::from(n), 7.0 - 0.5 * f64::from(n)))
            .collect();
        points[3].1 += 1e9;
        points[50].1 -= 1e9;
        let slope = theil_sen(&points).expect("sixty points");
        assert!((slope + 0.5).abs() < 1e-9, "{slope}");
        assert_eq!(theil_sen(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(theil_sen(&[]), None);
    }

    #[test]
    fn three_agreeing_but_scattered_blocks_decide_nothing() {
        let pairs = [(1.02, 1.0), (1.3, 1.0), (1.1, 1.0)];
        let ratio = paired_ratio(&pairs, 7).expect("positive pairs");
        assert!(!ratio.is_decided(), "{ratio:?}");
    }

    #[test]
    fn three_tight_blocks_decide_a_clear_difference() {
        let pairs = [(1.98, 1.0), (2.0, 1.0), (2.03, 1.0)];
        let ratio = paired_ratio(&pairs, 7).expect("positive pairs");
        assert!(ratio.is_decided(), "{ratio:?}");
    }

    #[test]
    fn a_difference_of_one_percent_decides_nothing_however_steady() {
        let ratio = paired_ratio(&[(1.01, 1.0); 20], 7).expect("positive pairs");
        assert!(!ratio.is_decided() && !ratio.inverse().is_decided());
    }

    #[test]
    fn two_blocks_never_decide() {
        let ratio = paired_ratio(&[(2.0, 1.0), (2.0, 1.0)], 7).expect("positive pairs");
        assert!(!ratio.is_decided());
    }

    #[test]
    fn a_zero_has_no_ratio() {
        assert_eq!(paired_ratio(&[(0.0, 1.0)], 1), None);
        assert_eq!(paired_ratio(&[], 1), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn the_median_lies_within_its_interval(values in prop::collection::vec(0.1..1e6_f64, 2..12), seed: u64) {
            let (estimate, interval) = median_over_blocks(&values, seed).expect("values");
            prop_assert!(interval.expect("two or more").contains(estimate));
        }

        #[test]
        fn a_common_factor_is_recovered_whatever_the_blocks_share(
            blocks in prop::collection::vec(0.1..1e6_f64, 3..12), factor in 0.2..5.0_f64, seed: u64,
        ) {
            let pairs: Vec<_> = blocks.iter().map(|b| (b * factor, *b)).collect();
            let found = paired_ratio(&pairs, seed).expect("positive pairs");
            prop_assert!((found.ratio / factor - 1.0).abs() < 1e-9);
        }

        #[test]
        fn the_inverse_of_the_inverse_is_the_ratio(a in 0.1..10.0_f64, b in 0.1..10.0_f64, c in 0.1..10.0_f64) {
            let found = paired_ratio(&[(a, 1.0), (b, 1.0), (c, 1.0)], 3).expect("positive pairs");
            prop_assert!((found.inverse().inverse().ratio - found.ratio).abs() < 1e-9);
            prop_assert_eq!(found.inverse().is_decided(), found.is_decided());
        }

        #[test]
        fn the_same_seed_gives_the_same_interval(values in prop::collection::vec(0.1..10.0_f64, 2..8), seed: u64) {
            prop_assert_eq!(median_over_blocks(&values, seed), median_over_blocks(&values, seed));
        }
    }
}
