//! The whole distribution of a trial beside its truth, thin enough to be kept in a file.

use serde::{Deserialize, Serialize};

use super::trials::{quantile_in, quantile_of};
use crate::load::LoadResult;

/// Distance of two points, in decades of 1/(1 − q).
const STEP: f64 = 0.1;
/// Operations beyond the last point.
const BEYOND: f64 = 10.0;

/// One quantile q of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// log₁₀ of 1/(1 − q): 1 for p90, 2 for p99.
    pub decades: f64,
    /// Response time that must come out, in ns.
    pub expected_ns: f64,
    /// Response time that the instrument found, in ns.
    pub observed_ns: f64,
    /// The generator's own lateness, in ns.
    pub send_lag_ns: f64,
}

/// The quantiles that the number of operations supports; `expected` is sorted.
pub(super) fn curve(expected: &[u64], result: &LoadResult) -> Vec<Point> {
    let end = (expected.len() as f64 / BEYOND).log10();
    let point = |decades: f64| {
        let quantile = 1.0 - 10_f64.powf(-decades);
        Point {
            decades,
            expected_ns: quantile_in(expected, quantile),
            observed_ns: quantile_of(result, "rest.response", quantile),
            send_lag_ns: quantile_of(result, "rest.send_lag", quantile),
        }
    };
    (0_i32..)
        .map(|step| f64::from(step) * STEP)
        .take_while(|decades| *decades <= end + 1e-9)
        .map(point)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_ten_operations_lie_beyond_and_never_falls() {
        let expected: Vec<u64> = (1..=1_000).collect();
        let curve = curve(&expected, &LoadResult::default());
        assert_eq!(curve.len(), 21);
        assert_eq!(curve[10].expected_ns, 900.0);
        assert!(curve.is_sorted_by(|a, b| a.expected_ns <= b.expected_ns));
        assert!(super::curve(&[], &LoadResult::default()).is_empty());
    }
}
