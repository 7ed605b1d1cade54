//! The search for the highest rate that holds: which rate to try next, given what the others said.
//!
//! It knows nothing of launches: the pipeline drives it, and the analysis of a run folder drives it
//! again with the same outcomes and comes to the same end.

use serde::{Deserialize, Serialize};

use crate::record::SearchFacts;

/// Ratio of the two rates between which the search ends.
pub const RESOLUTION: f64 = 1.05;
/// Probes of one rate that may be void before the rate counts as not measurable.
const MOST_VOID: u32 = 3;
/// Share of the first rate below which nothing is looked for.
const FLOOR: f64 = 0.25;

/// What a probe says about its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The quantile is within the objective, and every gate of the subject held.
    Holds,
    /// The subject was too slow, or it failed.
    Fails,
    /// Nothing: the measurement itself was wrong.
    Void(Obstacle),
}

/// What can keep a rate from being measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    /// The generator did not do what it was asked, or may not be asked for more.
    Generator,
    /// Others were at work on the machine.
    Host,
}

/// How a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The rate holds, and one at most 5 % above it was seen to fail.
    Found,
    /// The rate holds; what lies above it could not be measured.
    AtLeast(Obstacle),
    /// Not even the lowest rate holds.
    Below,
    /// Not even the lowest rate could be measured.
    NotMeasurable(Obstacle),
    /// The run ended before the search did; the rate is the highest that held until then.
    Unfinished,
}

/// Why a rate is an upper limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Failed,
    Obstacle(Obstacle),
}

/// Doubles the rate until it fails, halves the ratio between what holds and what fails, and
/// confirms what it found.
///
/// A failure is tried again before it counts, because one may be bad luck; a confirmation has to hold
/// every time. A rate that is not confirmed is lowered by 5 %, then by twice as much, and so on.
#[derive(Debug, Clone)]
pub struct Bisection {
    floor_per_s: f64,
    most_per_s: f64,
    confirmations: u32,
    /// Highest rate that held.
    low: Option<f64>,
    /// Lowest rate above it that did not.
    high: Option<(f64, Bound)>,
    rate_per_s: f64,
    is_confirming: bool,
    confirmed: u32,
    lowered: u32,
    voids: u32,
    has_failed: bool,
    is_over: bool,
}

impl Bisection {
    /// A search from `first_per_s` up to `most_per_s`.
    #[must_use]
    pub fn new(facts: &SearchFacts) -> Self {
        let first = facts.first_per_s.min(facts.most_per_s);
        Self {
            floor_per_s: first * FLOOR,
            most_per_s: facts.most_per_s,
            confirmations: facts.confirmations,
            low: None,
            high: None,
            rate_per_s: first.round(),
            is_confirming: false,
            confirmed: 0,
            lowered: 0,
            voids: 0,
            has_failed: false,
            is_over: false,
        }
    }

    /// The rate to try, in operations per second; `None` when the search is over.
    #[must_use]
    pub fn next_per_s(&self) -> Option<f64> {
        (!self.is_over).then_some(self.rate_per_s)
    }

    /// Takes what the probe of [`Self::next_per_s`] said.
    pub fn tell(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Void(obstacle) => {
                self.voids += 1;
                if self.voids >= MOST_VOID {
                    self.miss(Bound::Obstacle(obstacle));
                }
            }
            Outcome::Fails if !self.is_confirming && !self.has_failed => {
                self.has_failed = true;
                self.voids = 0;
            }
            Outcome::Fails => self.miss(Bound::Failed),
            Outcome::Holds => self.hold(),
        }
    }

    /// The highest rate that held, and how the search stands.
    #[must_use]
    pub fn finding(&self) -> (Option<f64>, Finding) {
        let finding = match (self.low, self.high) {
            _ if !self.is_over => Finding::Unfinished,
            (Some(_), Some((_, Bound::Failed))) => Finding::Found,
            (Some(_), Some((_, Bound::Obstacle(obstacle)))) => Finding::AtLeast(obstacle),
            // Only the generator's limit ends a climb without an upper bound.
            (Some(_), None) => Finding::AtLeast(Obstacle::Generator),
            (None, Some((_, Bound::Obstacle(obstacle)))) => Finding::NotMeasurable(obstacle),
            (None, _) => Finding::Below,
        };
        (self.low, finding)
    }

    /// Probes that have confirmed the rate so far.
    #[must_use]
    pub fn confirmed(&self) -> u32 {
        self.confirmed
    }

    fn hold(&mut self) {
        if !self.is_confirming {
            self.low = Some(self.rate_per_s);
            return self.advance();
        }
        self.confirmed += 1;
        self.voids = 0;
        self.is_over = self.confirmed >= self.confirmations;
    }

    fn miss(&mut self, bound: Bound) {
        self.high = Some((self.rate_per_s, bound));
        if self.is_confirming {
            self.lower();
        } else {
            self.advance();
        }
    }

    fn lower(&mut self) {
        let steps = f64::from(1_u32 << self.lowered.min(8));
        let rate = self.rate_per_s / RESOLUTION.powf(steps);
        self.lowered += 1;
        self.low = (rate >= self.floor_per_s).then_some(rate.round());
        match self.low {
            Some(rate) => self.try_next(rate),
            None => self.is_over = true,
        }
    }

    fn advance(&mut self) {
        match (self.low, self.high) {
            (Some(low), None) if low >= self.most_per_s.round() => self.confirm(low),
            (Some(low), None) => self.try_next((2.0 * low).min(self.most_per_s)),
            (None, Some((high, _))) if high / 2.0 < self.floor_per_s => self.is_over = true,
            (None, Some((high, _))) => self.try_next(high / 2.0),
            (Some(low), Some((high, _))) if high / low > RESOLUTION => {
                self.try_next((low * high).sqrt());
            }
            (Some(low), Some(_)) => self.confirm(low),
            (None, None) => self.try_next(self.rate_per_s),
        }
    }

    fn confirm(&mut self, rate_per_s: f64) {
        self.is_confirming = true;
        self.try_next(rate_per_s);
    }

    fn try_next(&mut self, rate_per_s: f64) {
        self.rate_per_s = rate_per_s.round();
        self.confirmed = 0;
        self.voids = 0;
        self.has_failed = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::SplitMix;

    fn facts(most_per_s: f64) -> SearchFacts {
        SearchFacts {
            first_per_s: 500.0,
            most_per_s,
            confirmations: 3,
            ..SearchFacts::for_tests()
        }
    }

    /// Runs a search against a subject; the end and the number of probes.
    fn search(
        most_per_s: f64,
        mut subject: impl FnMut(f64) -> Outcome,
    ) -> (Option<f64>, Finding, usize) {
        let mut search = Bisection::new(&facts(most_per_s));
        let mut probes = 0;
        while let Some(rate) = search.next_per_s() {
            probes += 1;
            assert!(probes < 500, "the search does not end: {search:?}");
            search.tell(subject(rate));
        }
        let (rate, finding) = search.finding();
        (rate, finding, probes)
    }

    fn with_capacity(capacity: f64) -> impl Fn(f64) -> Outcome {
        move |rate| {
            if rate <= capacity {
                Outcome::Holds
            } else {
                Outcome::Fails
            }
        }
    }

    #[test]
    fn a_known_capacity_is_found_with_few_probes() {
        let (rate, finding, probes) = search(1e5, with_capacity(7_300.0));
        let rate = rate.expect("it holds");
        assert!((6_950.0..=7_300.0).contains(&rate), "{rate}");
        assert_eq!(finding, Finding::Found);
        assert!(probes <= 20, "{probes}");
    }

    #[test]
    fn a_subject_faster_than_the_generator_is_at_least_as_fast_as_can_be_asked() {
        let mut highest = 0.0_f64;
        let ended = search(9_000.0, |rate| {
            highest = highest.max(rate);
            Outcome::Holds
        });
        let at_least = Finding::AtLeast(Obstacle::Generator);
        assert_eq!((ended.0, ended.1), (Some(9_000.0), at_least));
        assert!(highest <= 9_000.0, "{highest}");
    }

    #[test]
    fn a_subject_below_the_lowest_rate_has_no_capacity() {
        let (rate, finding, _) = search(1e5, with_capacity(20.0));
        assert_eq!((rate, finding), (None, Finding::Below));
        let (rate, finding, _) = search(1e5, with_capacity(200.0));
        assert_eq!(finding, Finding::Found);
        assert!(rate.is_some_and(|rate| (190.0..=200.0).contains(&rate)));
    }

    #[test]
    fn a_void_probe_is_repeated_and_is_no_failure() {
        let mut turn = 0;
        let (rate, finding, _) = search(1e5, |rate| {
            turn += 1;
            match turn % 3 {
                0 => with_capacity(4_000.0)(rate),
                _ => Outcome::Void(Obstacle::Host),
            }
        });
        assert_eq!(finding, Finding::Found);
        assert!(rate.is_some_and(|rate| (3_800.0..=4_000.0).contains(&rate)));
    }

    #[test]
    fn rates_that_are_always_void_leave_a_lower_limit_only() {
        let void_above = |limit: f64| {
            move |rate| {
                if rate <= limit {
                    Outcome::Holds
                } else {
                    Outcome::Void(Obstacle::Generator)
                }
            }
        };
        let (rate, finding, _) = search(1e5, void_above(3_000.0));
        assert_eq!(finding, Finding::AtLeast(Obstacle::Generator));
        assert!(rate.is_some_and(|rate| rate > 2_800.0));
        let (rate, finding, _) = search(1e5, |_| Outcome::Void(Obstacle::Host));
        assert_eq!(
            (rate, finding),
            (None, Finding::NotMeasurable(Obstacle::Host))
        );
    }

    #[test]
    fn one_failure_is_tried_again() {
        let mut is_first = true;
        let (rate, ..) = search(1e5, |rate| {
            if std::mem::take(&mut is_first) {
                return Outcome::Fails;
            }
            with_capacity(6_000.0)(rate)
        });
        assert!(rate.is_some_and(|rate| rate > 5_600.0), "{rate:?}");
    }

    #[test]
    fn what_is_not_confirmed_every_time_is_lowered() {
        let mut seen = std::collections::BTreeMap::<u64, u32>::new();
        let (rate, finding, _) = search(1e5, |rate| {
            let times = seen.entry(rate as u64).or_default();
            *times += 1;
            // Above 4,000 per second it holds at first and never again.
            match rate {
                _ if rate > 5_000.0 => Outcome::Fails,
                _ if rate > 4_000.0 && *times > 1 => Outcome::Fails,
                _ => Outcome::Holds,
            }
        });
        let rate = rate.expect("it holds below");
        assert!((3_000.0..=4_000.0).contains(&rate), "{rate}");
        assert_eq!(finding, Finding::Found);
    }

    #[test]
    fn an_unfinished_search_says_so() {
        let mut search = Bisection::new(&facts(1e5));
        assert_eq!(search.finding(), (None, Finding::Unfinished));
        search.tell(Outcome::Holds);
        assert_eq!(search.finding(), (Some(500.0), Finding::Unfinished));
    }

    proptest! {
        #[test]
        fn any_capacity_is_found_within_the_resolution(capacity in 130.0..80_000.0_f64) {
            let (rate, finding, probes) = search(1e5, with_capacity(capacity));
            let rate = rate.expect("above the floor");
            prop_assert_eq!(finding, Finding::Found);
            prop_assert!(rate <= capacity && rate * 1.06 > capacity, "{} {}", rate, capacity);
            prop_assert!(probes < 30);
        }

        /// Within 10 % of its capacity the subject holds or fails by chance.
        #[test]
        fn a_noisy_subject_is_not_rated_above_what_it_may_hold(
            capacity in 600.0..40_000.0_f64, seed: u64,
        ) {
            let mut random = SplitMix(seed);
            let (rate, finding, _) = search(1e5, |rate| {
                let share = ((rate / capacity - 0.9) / 0.2).clamp(0.0, 1.0);
                if random.next_unit() < share { Outcome::Fails } else { Outcome::Holds }
            });
            let rate = rate.expect("it holds far below");
            prop_assert_eq!(finding, Finding::Found);
            prop_assert!(rate <= capacity * 1.1 && rate > capacity * 0.5, "{} {}", rate, capacity);
        }

        #[test]
        fn a_search_always_ends(outcomes in prop::collection::vec(0..4_u8, 600)) {
            let mut search = Bisection::new(&facts(20_000.0));
            let mut left = outcomes.into_iter();
            while search.next_per_s().is_some() {
                let outcome = match left.next() {
                    Some(0) => Outcome::Holds,
                    Some(1) => Outcome::Fails,
                    Some(2) => Outcome::Void(Obstacle::Host),
                    Some(_) => Outcome::Void(Obstacle::Generator),
                    None => break,
                };
                search.tell(outcome);
            }
            prop_assert!(search.next_per_s().is_none());
        }
    }
}
