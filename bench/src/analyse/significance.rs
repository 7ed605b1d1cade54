//! Probabilities: how often chance alone would show as much.

/// Two-sided 5 %: what is rarer than that under chance counts as shown.
pub const LEVEL: f64 = 0.05;

/// Two-sided p value of Student's t with `freedom` degrees of freedom, by the finite series for
/// whole degrees (Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3 and 4).
#[must_use]
pub fn student_p(t: f64, freedom: usize) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    let angle = (t.abs() / (freedom as f64).sqrt()).atan();
    let (sine, squared) = (angle.sin(), angle.cos().powi(2));
    let is_odd = freedom % 2 == 1;
    let (mut term, mut sum) = (if is_odd { angle.cos() } else { 1.0 }, 0.0);
    let first = if is_odd { 3 } else { 2 };
    for step in (first..=freedom).step_by(2) {
        sum += term;
        term *= squared * (step as f64 - 1.0) / step as f64;
    }
    let within = if is_odd {
        (angle + sine * sum) * std::f64::consts::FRAC_2_PI
    } else {
        sine * sum
    };
    (1.0 - within).clamp(0.0, 1.0)
}

/// Two-sided p value of a standard normal deviate, by Abramowitz and Stegun 7.1.26; the error is
/// below 2·10⁻⁷.
#[must_use]
pub fn normal_p(z: f64) -> f64 {
    const TERMS: [f64; 5] = [
        0.254_829_592,
        -0.284_496_736,
        1.421_413_741,
        -1.453_152_027,
        1.061_405_429,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = TERMS.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    (series * (-x * x).exp()).clamp(0.0, 1.0)
}

/// Two-sided p value of a trend in a series, however bent: Mann and Kendall's test by its normal
/// approximation with the correction for ties (Mann, "Nonparametric tests against trend", 1945;
/// Kendall, "Rank Correlation Methods", 1975). 1 for fewer than three values.
#[must_use]
pub fn mann_kendall_p(values: &[f64]) -> f64 {
    let mut score = 0.0;
    for (place, value) in values.iter().enumerate() {
        let later = values[place + 1..].iter();
        score += later.map(|it| sign(it - value)).sum::<f64>();
    }
    let variance = (kendall_term(values.len()) - tied(values)) / 18.0;
    if values.len() < 3 || variance <= 0.0 || score == 0.0 {
        return 1.0;
    }
    normal_p((score.abs() - 1.0) / variance.sqrt())
}

fn sign(difference: f64) -> f64 {
    if difference == 0.0 {
        0.0
    } else {
        difference.signum()
    }
}

fn kendall_term(count: usize) -> f64 {
    let n = count as f64;
    n * (n - 1.0) * (2.0 * n + 5.0)
}

fn tied(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let groups = sorted.chunk_by(|a, b| a == b);
    groups.map(|group| kendall_term(group.len())).sum()
}

/// Holm's adjusted p values of a family, in its order: each at most 0.05 means that among all that
/// are called different the chance of even one false one is at most 5 %, however they depend on each
/// other (Holm, "A simple sequentially rejective multiple test procedure", 1979).
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, place) in order.into_iter().enumerate() {
        let remaining = (p_values.len() - rank) as f64;
        largest = largest.max((p_values[place] * remaining).min(1.0));
        adjusted[place] = largest;
    }
    adjusted
}

/// Largest distance of an empirical distribution of `count` values from the one that they were drawn
/// from, which chance exceeds once in a thousand (Kolmogorov's limit for large counts).
#[must_use]
pub fn kolmogorov_limit(count: u64) -> f64 {
    1.949 / (count.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-3 * b
    }

    #[test]
    fn student_agrees_with_the_printed_tables() {
        for (freedom, quantile) in [(1, 12.706), (2, 4.303), (3, 3.182), (9, 2.262), (20, 2.086)] {
            let p = student_p(quantile, freedom);
            assert!(near(p, 0.05), "{freedom}: {p}");
        }
        assert!(near(student_p(4.781, 9), 0.001));
        assert!(near(student_p(-9.925, 2), 0.01));
        assert_eq!(student_p(0.0, 7), 1.0);
        assert_eq!(student_p(f64::INFINITY, 7), 0.0);
    }

    #[test]
    fn the_normal_agrees_with_the_printed_tables() {
        for (z, p) in [(1.959_96, 0.05), (2.575_83, 0.01), (3.290_53, 0.001)] {
            assert!(near(normal_p(z), p) && near(normal_p(-z), p), "{z}");
        }
    }

    #[test]
    fn a_trend_is_seen_in_whatever_shape_and_ties_are_no_trend() {
        let bent: Vec<f64> = (0..20).map(|n| f64::from(n).sqrt()).collect();
        assert!(mann_kendall_p(&bent) < 1e-6);
        let falling: Vec<f64> = bent.iter().rev().copied().collect();
        assert_eq!(mann_kendall_p(&falling), mann_kendall_p(&bent));
        assert_eq!(mann_kendall_p(&[7.0; 20]), 1.0);
        // S = 10 of five values in order; its variance is 5 · 4 · 15 / 18.
        let p = mann_kendall_p(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!(near(p, 0.027_49), "{p}");
    }

    #[test]
    fn holm_multiplies_the_smallest_by_all_and_never_falls() {
        // Holm's procedure by hand: 4 × 0.01, 3 × 0.02, 2 × 0.03, and 0.04 no less than that.
        let adjusted = holm(&[0.02, 0.01, 0.04, 0.03]);
        let expected = [0.06, 0.04, 0.06, 0.06];
        for (a, b) in adjusted.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
