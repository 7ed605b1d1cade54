//! Turns: one load in pieces, with other loads between them.

use super::generator::LoadResult;
use crate::record::{GeneratorFacts, OperationCounts};

/// The turns of one load, added up.
///
/// Each turn is one part of the window, whatever parts it has itself.
#[derive(Debug, Default)]
pub struct Turns {
    sum: LoadResult,
    count: u32,
}

impl Turns {
    /// Takes note of a turn that is not measured.
    pub fn warm_up(&mut self, turn: LoadResult) {
        self.follow(turn.published, turn.confirmed, turn.faults);
    }

    /// Adds the next turn.
    pub fn add(&mut self, turn: LoadResult) {
        self.count += 1;
        let sum = &mut self.sum;
        for (kind, counts) in turn.operations {
            add_counts(sum.operations.entry(kind).or_default(), &counts);
        }
        for tag in turn.intervals.keys() {
            let whole = turn.histograms.get(tag).cloned();
            sum.intervals.entry(tag.clone()).or_default().extend(whole);
        }
        for (tag, histogram) in turn.histograms {
            match sum.histograms.get_mut(&tag) {
                Some(known) => known.add(histogram).expect("all have the same bounds"),
                None => {
                    sum.histograms.insert(tag, histogram);
                }
            }
        }
        add_facts(&mut sum.generator, turn.generator, self.count);
        self.follow(turn.published, turn.confirmed, turn.faults);
    }

    /// Messages are counted from the first turn on, and the same fault is told once.
    fn follow(&mut self, published: u64, confirmed: u64, faults: Vec<String>) {
        self.sum.published = published;
        self.sum.confirmed = confirmed;
        for fault in faults {
            if !self.sum.faults.contains(&fault) {
                self.sum.faults.push(fault);
            }
        }
    }

    /// Everything together.
    #[must_use]
    pub fn finish(self) -> LoadResult {
        self.sum
    }
}

fn add_counts(sum: &mut OperationCounts, turn: &OperationCounts) {
    sum.planned += turn.planned;
    sum.issued += turn.issued;
    sum.ok += turn.ok;
    sum.wrong += turn.wrong;
    sum.failed += turn.failed;
    sum.timed_out += turn.timed_out;
    sum.not_sent += turn.not_sent;
    sum.bytes += turn.bytes;
}

/// Takes in the facts of the turn with the number `count`, from 1: means over turns of equal length.
fn add_facts(mean: &mut GeneratorFacts, turn: GeneratorFacts, count: u32) {
    let share = 1.0 / f64::from(count);
    let take_in = |mean: &mut f64, value: f64| *mean += (value - *mean) * share;
    take_in(&mut mean.busy_ratio, turn.busy_ratio);
    take_in(&mut mean.polling_ratio, turn.polling_ratio);
    take_in(&mut mean.wait_ratio, turn.wait_ratio);
    take_in(&mut mean.mean_in_flight, turn.mean_in_flight);
    mean.max_in_flight = mean.max_in_flight.max(turn.max_in_flight);
    mean.priority = turn.priority;
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::record::Kind;

    /// A turn with one operation that took `ns`.
    fn turn(ns: u64, busy_ratio: f64, published: u64) -> LoadResult {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000, 3).expect("valid");
        histogram.record(ns).expect("within the bounds");
        let counts = OperationCounts {
            planned: 1,
            ok: 1,
            ..OperationCounts::default()
        };
        let tag = || "rest.response".to_owned();
        LoadResult {
            operations: [(Kind::Rest, counts)].into(),
            histograms: [(tag(), histogram.clone())].into(),
            intervals: [(tag(), vec![histogram.clone(); 20])].into(),
            generator: GeneratorFacts {
                busy_ratio,
                ..GeneratorFacts::default()
            },
            published,
            faults: vec!["the same".to_owned()],
            ..LoadResult::default()
        }
    }

    #[test]
    fn turns_add_up_and_each_is_one_part() {
        let mut turns = Turns::default();
        turns.add(turn(100, 0.2, 5));
        turns.add(turn(300, 0.4, 9));
        turns.add(turn(500, 0.6, 14));
        let load = turns.finish();
        assert_eq!(load.operations[&Kind::Rest].planned, 3);
        assert_eq!(load.histograms["rest.response"].len(), 3);
        let parts = &load.intervals["rest.response"];
        let counts: Vec<u64> = parts.iter().map(Histogram::max).collect();
        assert_eq!(counts.len(), 3);
        assert!(counts.is_sorted());
        assert!((load.generator.busy_ratio - 0.4).abs() < 1e-12);
        assert_eq!((load.published, load.faults.len()), (14, 1));
    }
}
