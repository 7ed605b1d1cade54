//! When a service had recovered, and what had failed until then; pure functions of the journal.

use std::collections::BTreeMap;
use std::time::Duration;

use super::journal::{Operation, Outcome};

/// A success counts as recovery if nothing fails for this long after it.
pub(super) const CALM: Duration = Duration::from_secs(1);

/// The first success at or after `healed` that [`CALM`] without a failure follows; `None` if that
/// cannot be told by `now`.
///
/// A failure counts at its intended instant: an operation of the fault's own time that only times
/// out later is no fault of the time after it.
pub(super) fn recovered<'a>(
    operations: impl Iterator<Item = &'a Operation> + Clone,
    healed: Duration,
    now: Duration,
) -> Option<Duration> {
    let is_good = |operation: &&Operation| matches!(operation.end, Some((_, Outcome::Ok)));
    let mut bad: Vec<Duration> = operations
        .clone()
        .filter(|operation| !is_good(operation))
        .map(|operation| operation.intended)
        .collect();
    bad.sort_unstable();
    let mut good: Vec<Duration> = operations
        .filter(is_good)
        .filter_map(|operation| Some(operation.end?.0))
        .filter(|done| *done >= healed)
        .collect();
    good.sort_unstable();
    let is_calm_after = |done: &Duration| {
        let next = bad.partition_point(|intended| intended <= done);
        bad.get(next).is_none_or(|next| *next > *done + CALM)
    };
    let first = good.into_iter().find(is_calm_after)?;
    (now >= first + CALM).then_some(first)
}

/// Operations by kind and by how they ended; one that has not ended counts as timed out.
pub(super) fn tally(operations: &[Operation]) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut tally: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for operation in operations {
        let outcome = operation
            .end
            .map_or(Outcome::TimedOut, |(_, outcome)| outcome);
        let kind = tally.entry(operation.kind.as_str().to_owned()).or_default();
        *kind.entry(outcome.name()).or_default() += 1;
    }
    tally
}

/// Operations that failed; those that were never sent did not.
pub(super) fn failed(operations: &[Operation]) -> u64 {
    let failed = operations.iter().filter(|operation| {
        let outcome = operation.end.map(|(_, outcome)| outcome);
        !matches!(outcome, Some(Outcome::Ok | Outcome::NotSent))
    });
    failed.count() as u64
}

/// Failures that had ended before the fault began: the load itself is at fault, or the subject.
pub(super) fn failed_before(operations: &[Operation], cause: Duration) -> u64 {
    let early: Vec<Operation> = operations
        .iter()
        .filter(|operation| operation.end.is_some_and(|(at, _)| at < cause))
        .copied()
        .collect();
    failed(&early)
}

#[cfg(test)]
mod tests {
    use super::super::journal::Kind;
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// One operation every 100 ms; those in `outage` fail 50 ms after they were due.
    fn operations(outage: std::ops::Range<u64>, until: u64) -> Vec<Operation> {
        let operation = |intended: u64| {
            let outcome = if outage.contains(&intended) {
                Outcome::Status(503)
            } else {
                Outcome::Ok
            };
            Operation {
                kind: Kind::Latest,
                intended: ms(intended),
                end: Some((ms(intended + 50), outcome)),
            }
        };
        (0..until / 100).map(|n| operation(n * 100)).collect()
    }

    #[test]
    fn recovery_is_the_first_success_with_calm_behind_it() {
        let all = operations(1_000..2_500, 5_000);
        assert_eq!(recovered(all.iter(), ms(2_000), ms(5_000)), Some(ms(2_550)));
        // Without any failure after the fault it is the next success.
        assert_eq!(recovered(all.iter(), ms(3_000), ms(5_000)), Some(ms(3_050)));
    }

    #[test]
    fn a_single_success_between_failures_is_no_recovery() {
        let mut all = operations(1_000..2_500, 5_000);
        all[22].end = Some((ms(2_210), Outcome::Ok));
        assert_eq!(recovered(all.iter(), ms(2_000), ms(5_000)), Some(ms(2_550)));
    }

    #[test]
    fn what_is_under_way_may_still_fail() {
        let mut all = operations(0..0, 1_200);
        assert_eq!(recovered(all.iter(), ms(0), ms(1_049)), None);
        assert_eq!(recovered(all.iter(), ms(0), ms(1_050)), Some(ms(50)));
        all[8].end = None;
        assert_eq!(recovered(all.iter(), ms(0), ms(1_700)), None);
    }

    #[test]
    fn a_timeout_from_before_does_not_delay_recovery() {
        let mut all = operations(0..0, 3_000);
        all[9].end = Some((ms(2_900), Outcome::TimedOut));
        assert_eq!(recovered(all.iter(), ms(1_000), ms(3_000)), Some(ms(1_050)));
    }

    #[test]
    fn failures_are_told_apart() {
        let mut all = operations(1_000..1_200, 2_000);
        all[0].end = Some((ms(1), Outcome::NotSent));
        all[1].end = None;
        assert_eq!(failed(&all), 3);
        assert_eq!(failed_before(&all, ms(1_060)), 1);
        let tally = tally(&all);
        assert_eq!(tally["latest"]["503"], 2);
        assert_eq!(tally["latest"]["timed-out"], 1);
        assert_eq!(tally["latest"]["not-sent"], 1);
        assert_eq!(tally["latest"]["ok"], 16);
    }
}
