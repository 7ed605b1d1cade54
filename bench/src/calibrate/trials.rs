//! The trials: a law, a schedule, and the response times that follow from both.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::curve::curve;
use super::{CalibrateError, Calibration, Cores, Drive, Driven, Figure, drive};
use crate::host::Reading;
use crate::load::{Arrival, Exchange, LoadResult, nanoseconds};
use crate::record::{Kind, OperationCounts};
use crate::scenario::RestRequest;
use crate::truth::{Behaviour, Discipline, Freeze, Law, responses_ns};

/// Load before the window.
const WARM_UP: Duration = Duration::from_millis(300);
/// Service time of the queueing trials: long against what the transport adds.
const SERVICE: Duration = Duration::from_millis(1);
/// Seed of every schedule and of every draw: a trial is the same whenever it is made.
const SEED: u64 = 20_260;
/// The stall may be found up to this share beside the formula.
const STALL_RATIO: f64 = 0.05;

/// A server with a known law under a schedule.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Name in the tables.
    pub name: String,
    truth: String,
    behaviour: Behaviour,
    arrival: Arrival,
    connections: usize,
    window: Duration,
    stall: Option<Stall>,
    theory_mean_s: Option<f64>,
}

/// A stall of a server that could otherwise serve more than it is asked for.
#[derive(Debug, Clone, Copy)]
struct Stall {
    length: Duration,
    rate_per_s: f64,
    capacity_per_s: f64,
}

/// The 99th percentile in s of a run of `window_s` at `rate_per_s` in which the server stalls for
/// `stall_s`, and afterwards serves `capacity_per_s` until the backlog is gone:
/// `S − 0.01·T·(C − R)/C`.
///
/// One arrival waits S, and each later one less by (C − R)/C of the time between them, for it also
/// has that much more of the backlog served before it; the slowest hundredth of the run is the
/// arrivals of 0.01·T. It holds while the backlog lasts for that long.
#[must_use]
pub fn stall_p99_s(stall_s: f64, window_s: f64, rate_per_s: f64, capacity_per_s: f64) -> f64 {
    stall_s - 0.01 * window_s * (capacity_per_s - rate_per_s) / capacity_per_s
}

/// What must come out of a trial.
///
/// The arrivals are those that the kernel stamped at the server, for a queue makes of one late send
/// a late answer for all behind it; how late the sends are is a figure of its own, where the
/// generator's account of itself is held against those stamps.
#[derive(Debug, Default)]
struct Expected {
    /// From the intended instant to the answer that the law wants; sorted.
    responses_ns: Vec<u64>,
    /// From the intended instant to the arrival at the server.
    send_lags_ns: Vec<u64>,
}

/// Every trial, each with a window of this length at least.
#[must_use]
pub fn trials(window: Duration) -> Vec<Trial> {
    let mut trials = vec![fixed(window), bimodal(window), stall(window)];
    for load in [0.3, 0.5, 0.7] {
        trials.push(queue("M/D/1", load, window));
        trials.push(queue("M/M/1", load, window));
    }
    trials
}

fn fixed(window: Duration) -> Trial {
    Trial {
        name: "fixed delay".to_owned(),
        truth: "each request takes 5 ms".to_owned(),
        behaviour: Behaviour {
            law: Law::Constant(Duration::from_millis(5)),
            discipline: Discipline::Parallel,
        },
        arrival: constant(1_000.0),
        connections: 64,
        window,
        stall: None,
        theory_mean_s: None,
    }
}

fn bimodal(window: Duration) -> Trial {
    Trial {
        name: "two delays".to_owned(),
        truth: "each request takes 1 ms, one in ten 20 ms".to_owned(),
        behaviour: Behaviour {
            law: Law::Bimodal {
                fast: Duration::from_millis(1),
                slow: Duration::from_millis(20),
                slow_ratio: 0.1,
                seed: SEED,
            },
            discipline: Discipline::Parallel,
        },
        arrival: constant(1_000.0),
        connections: 64,
        window,
        stall: None,
        theory_mean_s: None,
    }
}

fn stall(window: Duration) -> Trial {
    let stall = Stall {
        length: window / 10,
        rate_per_s: 1_000.0,
        capacity_per_s: 4_000.0,
    };
    let seconds = stall.length.as_secs_f64();
    Trial {
        name: "stall".to_owned(),
        truth: format!("a server of 4,000/s stops for {seconds:.1} s"),
        behaviour: Behaviour {
            law: Law::Constant(Duration::from_secs_f64(1.0 / stall.capacity_per_s)),
            discipline: Discipline::Single,
        },
        arrival: constant(stall.rate_per_s),
        connections: 16,
        window,
        stall: Some(stall),
        theory_mean_s: None,
    }
}

/// One server at a load in (0, 1) under Poisson arrivals; Pollaczek and Khinchine's means.
fn queue(name: &str, load: f64, window: Duration) -> Trial {
    let service_s = SERVICE.as_secs_f64();
    let (law, words, mean_s) = if name == "M/M/1" {
        let law = Law::Exponential {
            mean: SERVICE,
            seed: SEED + 1,
        };
        (law, "1 ms on average", service_s / (1.0 - load))
    } else {
        let waiting_s = load * service_s / (2.0 * (1.0 - load));
        (Law::Constant(SERVICE), "1 ms each", service_s + waiting_s)
    };
    Trial {
        name: format!("{name} at {load}"),
        truth: format!(
            "one server, {words}, busy {:.0} % of the time",
            load * 100.0
        ),
        behaviour: Behaviour {
            law,
            discipline: Discipline::Single,
        },
        arrival: Arrival::Poisson {
            rate_per_s: load / service_s,
            seed: SEED + 2,
        },
        connections: 64,
        window,
        stall: None,
        theory_mean_s: Some(mean_s),
    }
}

fn constant(rate_per_s: f64) -> Arrival {
    Arrival::Constant {
        rate_per_s,
        phase: 0.0,
    }
}

fn flatten(address: SocketAddr) -> Vec<Exchange> {
    Exchange::turns(&[RestRequest::Flatten], address)
}

impl Trial {
    /// Makes the trial.
    ///
    /// # Errors
    /// [`CalibrateError`] if the server or the generator cannot begin.
    pub fn make(
        &self,
        cores: Cores,
        interrupt: &AtomicBool,
    ) -> Result<Calibration, CalibrateError> {
        let load = Drive {
            turns: flatten,
            connections: self.connections,
            arrival: Some(self.arrival),
            warm_up: WARM_UP,
            window: self.window,
        };
        let before = Reading::take();
        let Driven {
            result,
            arrivals_ns,
            held_ratio,
        } = drive(self.behaviour, &load, self.freeze(), cores, interrupt)?;
        let host = Reading::take().since(&before, &[], &[]);
        let expected = self.expected(&arrivals_ns);
        Ok(Calibration {
            name: self.name.clone(),
            truth: self.truth.clone(),
            operations: counts(&result, Kind::Rest).ok,
            figures: self.figures(&expected, &result),
            curve: curve(&expected.responses_ns, &result),
            blind_p99_ns: Some(quantile_of(&result, "rest.service", 0.99)),
            theory_mean_ns: self.theory_mean_s.map(|mean_s| mean_s * 1e9),
            send_lag_p99_ns: quantile_of(&result, "rest.send_lag", 0.99),
            held_ratio,
            host,
            faults: faults(&result, Kind::Rest),
        })
    }

    /// A third into the window, so that the backlog is gone well before its end.
    fn freeze(&self) -> Option<Freeze> {
        let stall = self.stall?;
        let start_ns = nanoseconds(WARM_UP + self.window / 3);
        Some(Freeze {
            start_ns,
            end_ns: start_ns + nanoseconds(stall.length),
        })
    }

    /// The intended instants of warm-up and window.
    fn schedule_ns(&self) -> Vec<u64> {
        let until_ns = nanoseconds(WARM_UP + self.window);
        let mut pacer = self.arrival.pacer();
        (0..)
            .map(|seq| pacer.intended_ns(seq))
            .take_while(|at_ns| *at_ns < until_ns)
            .collect()
    }

    /// What must come out of the window if the requests came to the server at these instants.
    fn expected(&self, arrivals_ns: &[u64]) -> Expected {
        let Behaviour { law, discipline } = self.behaviour;
        let served_ns = responses_ns(arrivals_ns.iter().copied(), law, discipline, self.freeze());
        let mut expected = Expected::default();
        let requests = self.schedule_ns().into_iter().zip(arrivals_ns);
        for ((intended_ns, arrival_ns), served_ns) in requests.zip(served_ns) {
            if intended_ns >= nanoseconds(WARM_UP) {
                let lag_ns = arrival_ns.saturating_sub(intended_ns);
                expected.send_lags_ns.push(lag_ns);
                expected.responses_ns.push(lag_ns + served_ns);
            }
        }
        expected.responses_ns.sort_unstable();
        expected
    }

    fn figures(&self, expected: &Expected, result: &LoadResult) -> Vec<Figure> {
        let response = |quantile| quantile_of(result, "rest.response", quantile);
        let responses_ns = &expected.responses_ns;
        let of = |name, quantile| {
            Figure::new(
                name,
                quantile_in(responses_ns, quantile),
                response(quantile),
            )
        };
        // The median of M/D/1 at half load lies on the edge of those that do not wait: a microsecond
        // decides on which side.
        let middle = match self.theory_mean_s {
            None => of("p50", 0.5),
            Some(_) => of("p90", 0.9),
        };
        let mut figures = vec![middle, of("p99", 0.99)];
        if self.theory_mean_s.is_some() {
            let observed_ns = mean_of(result, "rest.response");
            figures.push(Figure::new("mean", mean(responses_ns), observed_ns));
        }
        if let Some(stall) = self.stall {
            let window_s = self.window.as_secs_f64();
            let (rate, capacity) = (stall.rate_per_s, stall.capacity_per_s);
            let theory_s = stall_p99_s(stall.length.as_secs_f64(), window_s, rate, capacity);
            figures.push(Figure {
                allowed_ns: STALL_RATIO * theory_s * 1e9,
                ..Figure::new("p99 by the formula", theory_s * 1e9, response(0.99))
            });
        } else {
            // In a stall requests wait for a connection, which is no lateness of the generator.
            let (lag_ns, told_ns) = (
                mean(&expected.send_lags_ns),
                mean_of(result, "rest.send_lag"),
            );
            figures.push(Figure::new("mean send lag", lag_ns, told_ns));
        }
        figures
    }
}

/// The counts of a kind; none if nothing was due.
pub(super) fn counts(result: &LoadResult, kind: Kind) -> OperationCounts {
    let counts = result.operations.get(&kind);
    counts.cloned().unwrap_or_default()
}

/// What went wrong beside the times.
pub(super) fn faults(result: &LoadResult, kind: Kind) -> Vec<String> {
    let mut faults = result.faults.clone();
    let counts = counts(result, kind);
    if counts.ok != counts.planned {
        let (ok, planned) = (counts.ok, counts.planned);
        faults.push(format!(
            "{ok} of {planned} operations were answered rightly"
        ));
    }
    faults
}

/// A quantile of a histogram; 0 if nothing was recorded.
pub(super) fn quantile_of(result: &LoadResult, tag: &str, quantile: f64) -> f64 {
    let histogram = result.histograms.get(tag);
    histogram.map_or(0.0, |it| it.value_at_quantile(quantile) as f64)
}

/// The mean of a histogram; 0 if nothing was recorded.
fn mean_of(result: &LoadResult, tag: &str) -> f64 {
    let histogram = result.histograms.get(tag);
    histogram.map_or(0.0, hdrhistogram::Histogram::mean)
}

/// The mean; 0 of nothing.
fn mean(values: &[u64]) -> f64 {
    values.iter().sum::<u64>() as f64 / values.len().max(1) as f64
}

/// The smallest value that at least this share of the sorted values does not exceed: what
/// `HdrHistogram` means by a quantile.
pub(super) fn quantile_in(sorted: &[u64], quantile: f64) -> f64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(rank.max(1) - 1);
    value.map_or(0.0, |value| *value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_of_the_stall_agrees_with_the_recursion() {
        for window_s in [4, 10, 30] {
            let trial = stall(Duration::from_secs(window_s));
            let expected = trial.expected(&trial.schedule_ns());
            let exact_s = quantile_in(&expected.responses_ns, 0.99) / 1e9;
            let window_s = window_s as f64;
            let theory_s = stall_p99_s(window_s / 10.0, window_s, 1_000.0, 4_000.0);
            assert!(
                (exact_s / theory_s - 1.0).abs() < 0.01,
                "{exact_s} {theory_s}"
            );
        }
    }

    #[test]
    fn a_quantile_is_the_value_at_its_rank() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(quantile_in(&sorted, 0.5), 50.0);
        assert_eq!(quantile_in(&sorted, 0.99), 99.0);
        assert_eq!(quantile_in(&sorted[..1], 0.99), 1.0);
        assert_eq!(quantile_in(&[], 0.5), 0.0);
    }

    #[test]
    fn only_the_window_is_expected() {
        let trial = fixed(Duration::from_secs(2));
        let expected = trial.expected(&trial.schedule_ns());
        assert_eq!(expected.responses_ns, vec![5_000_000; 2_000]);
        assert_eq!(expected.send_lags_ns, vec![0; 2_000]);
    }

    #[test]
    fn what_is_sent_late_is_late_in_the_lag_and_in_the_response() {
        let trial = fixed(Duration::from_secs(2));
        let late: Vec<u64> = trial
            .schedule_ns()
            .iter()
            .map(|at| at + 2_000_000)
            .collect();
        let expected = trial.expected(&late);
        assert_eq!(expected.responses_ns, vec![7_000_000; 2_000]);
        assert_eq!(expected.send_lags_ns, vec![2_000_000; 2_000]);
    }
}
