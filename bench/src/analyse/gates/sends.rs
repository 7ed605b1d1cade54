//! What was sent: within the generator's means, and when the schedule said?

use hdrhistogram::Histogram;

use super::{Gate, GateUnit, Limit, lag_limit_ns, share, word};
use crate::analyse::LaunchData;
use crate::analyse::metric::{answered, tag};
use crate::analyse::significance::kolmogorov_limit;
use crate::analyse::statistics::theil_sen;
use crate::record::{Kind, Launch, Slice};

/// Highest offered rate, as a share of the generator's ceiling.
pub const MOST_OF_CEILING: f64 = 1.0 / 3.0;
/// Highest result of a closed loop, as a share of the same: nearer to it, it may be the generator's.
const MOST_OF_CEILING_CLOSED: f64 = 0.8;
/// Fewest parts of the window whose send lags show a drift.
const FEWEST_PARTS: usize = 8;
/// Fewest gaps between sends that show a distribution.
const FEWEST_GAPS: u64 = 100;
/// Distance from the exponential distribution that does not matter: gaps shorter than it takes to
/// serve an event cannot be kept exactly, and there are some among any.
const GAPS_SLACK: f64 = 0.05;

/// Whether REST stays clear of what the generator can do; AMQP has no null server to measure that with.
pub(super) fn ceiling(launch: &Launch, ceiling_per_s: f64) -> Option<Gate> {
    if let Some(rate_per_s) = launch.arrival_rate_per_s.get(&Kind::Rest) {
        return Some(Gate::new(
            "REST rate/ceiling of the generator",
            GateUnit::Ratio,
            Limit::at_most(MOST_OF_CEILING),
            share(*rate_per_s, ceiling_per_s),
        ));
    }
    let answers = answered(launch.operations.get(&Kind::Rest)?) as f64;
    Some(Gate::new(
        "REST answers/ceiling of the generator",
        GateUnit::Ratio,
        Limit::at_most(MOST_OF_CEILING_CLOSED),
        share(answers / launch.window_s, ceiling_per_s),
    ))
}

/// Whether the sends kept to the schedule over the whole window, and in their distribution.
pub(super) fn as_scheduled(data: &LaunchData) -> Vec<Gate> {
    let launch = &data.launch;
    let mut gates = Vec::new();
    for (&kind, &rate_per_s) in &launch.arrival_rate_per_s {
        gates.extend(drift(data, kind));
        if launch.poisson.contains(&kind) {
            gates.extend(exponential(data, kind, rate_per_s));
        }
    }
    gates
}

/// How much later the sends were at the end than at the start, by the slope of the send lag: a loop
/// that falls behind its schedule drifts long before p99 of the lag tells.
fn drift(data: &LaunchData, kind: Kind) -> Option<Gate> {
    let slices = data.slices.get(&tag(kind, "send_lag"))?;
    let response = data.histograms.get(&tag(kind, "response"))?;
    let point = |it: &Slice| (it.start_s, it.median_ns as f64);
    let sent = slices.iter().filter(|it| it.operations > 0);
    let points: Vec<(f64, f64)> = sent.map(point).collect();
    if points.len() < FEWEST_PARTS {
        return None;
    }
    let drift_ns = theil_sen(&points)? * data.launch.window_s;
    Some(Gate::new(
        format!("{} send drift", word(kind)),
        GateUnit::Nanoseconds,
        Limit::at_most(lag_limit_ns(response) / 2.0),
        drift_ns.abs(),
    ))
}

/// Kolmogorov and Smirnov's distance of the gaps between sends from the exponential distribution
/// of the rate that was asked for.
fn exponential(data: &LaunchData, kind: Kind, rate_per_s: f64) -> Option<Gate> {
    let gaps = data.histograms.get(&tag(kind, "send_gap"))?;
    (gaps.len() >= FEWEST_GAPS).then(|| {
        Gate::new(
            format!("{} gaps from exponential", word(kind)),
            GateUnit::Ratio,
            Limit::at_most(kolmogorov_limit(gaps.len()).max(GAPS_SLACK)),
            distance(gaps, rate_per_s),
        )
    })
}

/// Largest difference of the two distribution functions, looked at on both sides of each step.
fn distance(gaps: &Histogram<u64>, rate_per_s: f64) -> f64 {
    let (mut below, mut largest) = (0, 0.0_f64);
    let count = gaps.len().max(1) as f64;
    for step in gaps.iter_recorded() {
        let at = |ns: u64| 1.0 - (-rate_per_s * ns as f64 / 1e9).exp();
        let value = step.value_iterated_to();
        let before = below as f64 / count;
        below += step.count_at_value();
        let after = below as f64 / count;
        let (low, high) = (at(gaps.lowest_equivalent(value)), at(value));
        largest = largest.max(low - before).max(after - high);
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;

    fn gaps(draw: impl Fn(f64) -> f64) -> Histogram<u64> {
        let mut random = SplitMix(5);
        let mut gaps = Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("valid bounds");
        for _ in 0..4_000 {
            let ns = draw(random.next_unit()) * 1e9;
            gaps.saturating_record(ns as u64);
        }
        gaps
    }

    #[test]
    fn exponential_gaps_of_the_rate_are_near_and_all_others_far() {
        let exponential = |mean_s: f64| gaps(move |unit| -(1.0 - unit).ln() * mean_s);
        assert!(distance(&exponential(0.001), 1_000.0) < kolmogorov_limit(4_000));
        // Half the rate: e^(−x/2) − e^(−x) is largest at x = 2 ln 2, where it is a quarter.
        let slow = distance(&exponential(0.002), 1_000.0);
        assert!((slow - 0.25).abs() < 0.02, "{slow}");
        let equal = distance(&gaps(|_| 0.001), 1_000.0);
        assert!((equal - (1.0 - (-1.0_f64).exp())).abs() < 0.01, "{equal}");
        // Sends that a timer of one millisecond lets go in bursts.
        let bursts = gaps(|unit| (-(1.0 - unit).ln()).floor() * 0.001);
        assert!(distance(&bursts, 1_000.0) > 0.5);
    }
}
