//! The progress of a drain: the subject's own count of acked messages, with its CPU beside it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{ProcessTree, Sampler};
use crate::http::{Client, Request};
use crate::record::{Drain, Sample};

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Since the start of the watch.
    pub at: Duration,
    /// Messages acked, duplicates included.
    pub acked: u64,
    /// On-CPU time of the tree.
    pub cpu_ns: u64,
}

/// Sum of the samples of `name` whose labels contain `label`, in Prometheus text.
#[must_use]
pub fn read_metric(text: &str, name: &str, label: &str) -> u64 {
    text.lines()
        .filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .map(|value| value as u64)
        .sum()
}

/// Messages that the subject says it has acked: the good ones and the duplicates.
fn acked(metrics: &str) -> u64 {
    const NAME: &str = "amqp_deliveries_total";
    read_metric(metrics, NAME, r#"outcome="ok""#)
        + read_metric(metrics, NAME, r#"outcome="duplicate""#)
}

/// Reads the progress until `prefilled` messages are acked, `limit` is over, or `abort` is set.
///
/// Samples of the tree are taken at every fifth reading; times count from `start`.
pub fn watch_drain(
    address: SocketAddr,
    tree: &mut ProcessTree,
    prefilled: u64,
    start: Instant,
    limits: (Duration, Duration),
    abort: &AtomicBool,
) -> (Vec<Progress>, Vec<Sample>) {
    let (interval, limit) = limits;
    let (mut readings, mut samples) = (Vec::new(), Vec::new());
    let mut client = None;
    for step in 0_u32.. {
        let is_last = readings
            .last()
            .is_some_and(|last: &Progress| last.acked >= prefilled);
        if step % 5 == 0 || is_last {
            tree.discover();
            samples.extend(tree.sample(start.elapsed().as_secs_f64() * 1e3));
        }
        if is_last || start.elapsed() > limit || abort.load(Ordering::Relaxed) {
            break;
        }
        readings.extend(read(&mut client, address, tree, start));
        let next = interval * (step + 1);
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
    (readings, samples)
}

fn read(
    client: &mut Option<Client>,
    address: SocketAddr,
    tree: &mut ProcessTree,
    start: Instant,
) -> Option<Progress> {
    if client.is_none() {
        *client = Client::connect(address, Duration::from_secs(1)).ok();
    }
    let response = client.as_mut()?.exchange(&Request::new("GET", "/metrics"));
    let Ok(response) = response else {
        *client = None;
        return None;
    };
    // The clock and the CPU are read when the count is known, as close to it as can be.
    Some(Progress {
        at: start.elapsed(),
        acked: acked(&response.text()),
        cpu_ns: tree.cpu_ns(),
    })
}

/// The rate's two ends: the first reading that shows progress, and the last one before the end.
///
/// The first and the last messages are left out, because readings beside the start and behind
/// the end would count idle time as work. A drain that was over before a second reading could be
/// taken counts from the start of the watch.
#[must_use]
pub fn drain(readings: &[Progress], prefilled: u64) -> Drain {
    let acked = readings
        .iter()
        .map(|reading| reading.acked)
        .max()
        .unwrap_or(0);
    let mut drain = Drain {
        prefilled,
        acked,
        ..Drain::default()
    };
    let moving = |reading: &&Progress| reading.acked > 0 && reading.acked < prefilled;
    let first = readings.iter().find(moving);
    let last = readings.iter().rev().find(moving);
    let ends = match (first, last) {
        (Some(first), Some(last)) if last.acked > first.acked => Some((*first, *last)),
        _ => coarse_ends(readings, prefilled),
    };
    if let Some((first, last)) = ends {
        drain.counted = last.acked - first.acked;
        drain.counted_s = (last.at - first.at).as_secs_f64();
        drain.counted_cpu_ns = last.cpu_ns - first.cpu_ns;
    }
    drain
}

/// The last reading without progress, or the first at all, and the first behind the end.
fn coarse_ends(readings: &[Progress], prefilled: u64) -> Option<(Progress, Progress)> {
    let end = readings
        .iter()
        .position(|reading| reading.acked >= prefilled)?;
    let start = end.checked_sub(1)?;
    Some((readings[start], readings[end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ms: u64, acked: u64) -> Progress {
        Progress {
            at: Duration::from_millis(ms),
            acked,
            cpu_ns: acked * 1_000,
        }
    }

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# HELP amqp_deliveries_total x\n\
                    amqp_deliveries_total{outcome=\"ok\"} 41\n\
                    amqp_deliveries_total{outcome=\"duplicate\"} 1\n\
                    amqp_deliveries_total_other{outcome=\"ok\"} 7\n";
        assert_eq!(acked(text), 42);
        assert_eq!(
            read_metric(text, "amqp_deliveries_total", "outcome=\"ok\""),
            41
        );
    }

    #[test]
    fn idle_time_around_a_drain_is_no_work() {
        let readings = [
            reading(0, 0),
            reading(20, 100),
            reading(40, 300),
            reading(60, 500),
            reading(80, 600),
        ];
        let drain = drain(&readings, 600);
        assert_eq!((drain.acked, drain.counted), (600, 400));
        assert!((drain.counted_s - 0.04).abs() < 1e-9);
        assert_eq!(drain.counted_cpu_ns, 400_000);
    }

    #[test]
    fn a_drain_between_two_readings_counts_as_a_whole() {
        let drain = drain(&[reading(0, 0), reading(20, 600)], 600);
        assert_eq!(drain.counted, 600);
        assert!((drain.counted_s - 0.02).abs() < 1e-9);
    }
}
