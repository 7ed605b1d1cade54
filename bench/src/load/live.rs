//! What can be seen of a load while it runs.
//!
//! The generator's thread writes and the display's thread reads, so nothing here waits: each count
//! has one writer, which loads and stores it relaxed, and that is a plain `mov` on every machine.
//! A reader may see one count newer than another; a display can bear that, and no result is made of
//! these counts.
//! They are always kept, whether anybody looks or not, so that the measured path is the same.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use super::engine::Observation;
use crate::record::{Kind, Operation, OperationOutcome};

/// Buckets of one doubling of a duration: a bucket's middle is off by 1/16 at the most.
const PER_DOUBLING: usize = 8;
/// Buckets up to the longest duration that a `u64` of nanoseconds holds.
const BUCKETS: usize = 62 * PER_DOUBLING;
/// Views that a rate looks back over.
const LOOK_BACK: usize = 4;

/// A count with one writer.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, by: u64) {
        // No `fetch_add`: its lock on the bus would cost the only writer 5 ns for nothing.
        self.0
            .store(self.0.load(Ordering::Relaxed) + by, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations counted in buckets whose widths grow with them; one writer.
#[derive(Debug)]
struct Spread([AtomicU32; BUCKETS]);

impl Default for Spread {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU32::new(0)))
    }
}

impl Spread {
    fn record(&self, ns: u64) {
        let bucket = &self.0[bucket(ns)];
        let count = bucket.load(Ordering::Relaxed);
        bucket.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    /// The middle of the bucket that holds the quantile, in ns; `None` of nothing.
    fn quantile(&self, quantile: f64) -> Option<u64> {
        let counts: Vec<u64> = self
            .0
            .iter()
            .map(|count| u64::from(count.load(Ordering::Relaxed)))
            .collect();
        let total: u64 = counts.iter().sum();
        let rank = ((total as f64 * quantile).ceil() as u64).max(1);
        let mut below = 0;
        let found = counts.iter().position(|count| {
            below += count;
            below >= rank
        });
        found.map(middle)
    }
}

/// Below a doubling's number of buckets each value has its own.
fn bucket(ns: u64) -> usize {
    if ns < PER_DOUBLING as u64 {
        return ns as usize;
    }
    let doubling = ns.ilog2();
    let part = (ns >> (doubling - 3)) as usize % PER_DOUBLING;
    (doubling as usize - 2) * PER_DOUBLING + part
}

/// The value in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    if bucket < PER_DOUBLING {
        return bucket as u64;
    }
    let shift = bucket / PER_DOUBLING - 1;
    let lowest = ((PER_DOUBLING + bucket % PER_DOUBLING) as u64) << shift;
    lowest + (1 << shift) / 2
}

/// Counts of one load; the generator's thread writes, any thread reads.
#[derive(Debug, Default)]
pub struct Live {
    due: Count,
    ok: Count,
    ended_badly: Count,
    lag: Spread,
    rest: Spread,
    amqp: Spread,
    /// Written by the sampler's thread.
    millicores: AtomicU64,
    pss_bytes: AtomicU64,
}

impl Live {
    /// The loop got to an operation `lag_ns` after its intended instant.
    pub fn lag(&self, lag_ns: u64) {
        self.due.add(1);
        self.lag.record(lag_ns);
    }

    /// An operation has ended; everything else is of no interest here.
    pub fn observe(&self, observation: &Observation) {
        if let Observation::Done { operation, .. } = observation {
            self.done(operation);
        }
    }

    fn done(&self, operation: &Operation) {
        match operation.outcome {
            OperationOutcome::Ok => self.ok.add(1),
            _ => self.ended_badly.add(1),
        }
        let response_ns = operation.done_ns.saturating_sub(operation.intended_ns);
        match operation.kind {
            Kind::Rest => self.rest.record(response_ns),
            Kind::Amqp => self.amqp.record(response_ns),
        }
    }

    /// What the sampler has seen of the subject: CPU in cores since its last look, and summed PSS.
    pub fn subject(&self, cores: f64, pss_bytes: u64) {
        self.millicores
            .store((cores * 1e3) as u64, Ordering::Relaxed);
        self.pss_bytes.store(pss_bytes, Ordering::Relaxed);
    }
}

/// What a display shows of a load.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct View {
    /// Operations that became due per second, over the last views.
    pub offered_per_s: f64,
    /// Operations answered correctly per second, over the last views.
    pub achieved_per_s: f64,
    /// Operations that ended otherwise, since the start.
    pub ended_badly: u64,
    /// 99th percentile of the send lag since the start.
    pub send_lag_p99_ns: Option<u64>,
    /// Median and 99th percentile of the REST response since the start.
    pub rest_ns: Option<(u64, u64)>,
    /// The same of AMQP.
    pub amqp_ns: Option<(u64, u64)>,
    /// CPU of the subject in cores; 0 before the sampler's second look.
    pub cores: f64,
    /// Summed PSS of the subject; 0 before the sampler's second look.
    pub pss_bytes: u64,
}

/// Reads a load's counts again and again.
#[derive(Debug)]
pub struct Viewer<'a> {
    live: &'a Live,
    /// Instants with the operations that were due and those that were answered by then.
    seen: VecDeque<(Instant, u64, u64)>,
}

impl<'a> Viewer<'a> {
    /// Rates count from `now` on.
    #[must_use]
    pub fn new(live: &'a Live, now: Instant) -> Self {
        let seen = VecDeque::from([(now, live.due.get(), live.ok.get())]);
        Self { live, seen }
    }

    /// The load at the instant `now`.
    pub fn view(&mut self, now: Instant) -> View {
        let live = self.live;
        let (due, ok) = (live.due.get(), live.ok.get());
        let (since, due_before, ok_before) = self.seen[0];
        let elapsed_s = now.duration_since(since).as_secs_f64().max(1e-3);
        self.seen.push_back((now, due, ok));
        if self.seen.len() > LOOK_BACK {
            self.seen.pop_front();
        }
        let pair = |spread: &Spread| Some((spread.quantile(0.5)?, spread.quantile(0.99)?));
        View {
            offered_per_s: (due - due_before) as f64 / elapsed_s,
            achieved_per_s: (ok - ok_before) as f64 / elapsed_s,
            ended_badly: live.ended_badly.get(),
            send_lag_p99_ns: live.lag.quantile(0.99),
            rest_ns: pair(&live.rest),
            amqp_ns: pair(&live.amqp),
            cores: live.millicores.load(Ordering::Relaxed) as f64 / 1e3,
            pss_bytes: live.pss_bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn done(outcome: OperationOutcome, response_ns: u64) -> Observation {
        Observation::Done {
            operation: Operation {
                seq: 0,
                kind: Kind::Rest,
                intended_ns: 5,
                sent_ns: 6,
                done_ns: 5 + response_ns,
                outcome,
                bytes: 1,
            },
            sent: true,
        }
    }

    #[test]
    fn every_duration_has_a_bucket_whose_middle_is_near() {
        for ns in (0..1_000)
            .chain((0..64).map(|bit| 1 << bit))
            .chain([u64::MAX])
        {
            let middle = middle(bucket(ns));
            assert!(middle.abs_diff(ns) <= ns / 16 + 1, "{ns}: {middle}");
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let spread = Spread::default();
        assert_eq!(spread.quantile(0.5), None);
        (1..=1_000).for_each(|us| spread.record(us * 1_000));
        let near = |quantile, truth: f64| {
            let found = spread.quantile(quantile).expect("recorded") as f64;
            assert!((found / truth - 1.0).abs() < 0.07, "{quantile}: {found}");
        };
        near(0.5, 500e3);
        near(0.99, 990e3);
    }

    #[test]
    fn rates_are_of_the_last_views_and_failures_of_all() {
        let live = Live::default();
        let start = Instant::now();
        let mut viewer = Viewer::new(&live, start);
        for second in 1..=6 {
            for _ in 0..second * 10 {
                live.lag(7);
                live.observe(&done(OperationOutcome::Ok, 40_000));
            }
            live.observe(&done(OperationOutcome::TimedOut, 900_000));
            let view = viewer.view(start + Duration::from_secs(second));
            assert_eq!(view.ended_badly, second);
        }
        let view = viewer.view(start + Duration::from_secs(7));
        // 50 and 60 of the seconds five and six, none of the seventh, and the fourth's 40.
        assert!((view.achieved_per_s - 150.0 / 4.0).abs() < 1e-9, "{view:?}");
        assert_eq!(view.send_lag_p99_ns, Some(7));
        assert_eq!(view.amqp_ns, None);
    }
}
