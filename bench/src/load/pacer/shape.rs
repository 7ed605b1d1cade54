//! Shapes of load: a rate that changes with time, inverted in closed form.
//!
//! An operation is due where the integral of the rate reaches its number. Nothing is added up from
//! one operation to the next, so that nothing drifts.

use super::Pacer;

/// Steps at the most: a schedule is a plain value that is copied.
pub const MOST_STEPS: usize = 12;

/// From one rate to another in a straight line; before and after it the rate is constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// Operations per second until the ramp begins, above 0.
    pub from_per_s: f64,
    /// Operations per second from its end on, above 0; below `from_per_s` the rate falls.
    pub to_per_s: f64,
    /// When it begins, in seconds since the start of the load: the end of the warm-up.
    pub after_s: f64,
    /// How long it takes, in seconds, above 0.
    pub over_s: f64,
    /// Offset in operations, in `[0, 1)`.
    pub phase: f64,
}

/// One rate after the other; the last one stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    steps: [Step; MOST_STEPS],
    count: usize,
    /// Offset in operations, in `[0, 1)`.
    phase: f64,
}

/// A constant rate for some time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Step {
    /// Operations per second, above 0.
    pub rate_per_s: f64,
    /// How long, in seconds, above 0.
    pub for_s: f64,
}

/// `size` operations in every `size / rate_per_s` seconds, at one instant or close together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// Operations per second on average, above 0.
    pub rate_per_s: f64,
    /// Operations of one burst, at least 1.
    pub size: u64,
    /// Time over which a burst is spread evenly, in seconds: 0 for one instant, and less than the
    /// period of the bursts.
    pub width_s: f64,
    /// Offset in periods of the bursts, in `[0, 1)`.
    pub phase: f64,
}

impl Ramp {
    pub(super) fn course(self) -> Course {
        let constant = |rate_per_s, for_s| Piece {
            from_per_s: rate_per_s,
            to_per_s: rate_per_s,
            for_s,
        };
        let slope = Piece {
            from_per_s: self.from_per_s,
            to_per_s: self.to_per_s,
            for_s: self.over_s,
        };
        Course::of(
            &[
                constant(self.from_per_s, self.after_s),
                slope,
                constant(self.to_per_s, f64::INFINITY),
            ],
            self.phase,
        )
    }
}

impl Steps {
    /// These steps in their order; `None` without any, and for more than [`MOST_STEPS`].
    #[must_use]
    pub fn new(steps: &[Step], phase: f64) -> Option<Self> {
        let mut kept = [Step::default(); MOST_STEPS];
        kept.get_mut(..steps.len())?.copy_from_slice(steps);
        (!steps.is_empty()).then_some(Self {
            steps: kept,
            count: steps.len(),
            phase,
        })
    }

    pub(super) fn highest_per_s(&self) -> f64 {
        let steps = self.steps[..self.count].iter();
        steps.map(|step| step.rate_per_s).fold(0.0, f64::max)
    }

    pub(super) fn course(&self) -> Course {
        let piece = |(place, step): (usize, &Step)| Piece {
            from_per_s: step.rate_per_s,
            to_per_s: step.rate_per_s,
            for_s: if place + 1 == self.count {
                f64::INFINITY
            } else {
                step.for_s
            },
        };
        let pieces = self.steps[..self.count].iter().enumerate().map(piece);
        Course::of(&pieces.collect::<Vec<_>>(), self.phase)
    }
}

/// A stretch in which the rate changes in a straight line, or not at all.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from_per_s: f64,
    to_per_s: f64,
    for_s: f64,
}

impl Piece {
    /// Change of the rate, per second and second.
    fn slope(self) -> f64 {
        if self.for_s.is_finite() {
            (self.to_per_s - self.from_per_s) / self.for_s
        } else {
            0.0
        }
    }

    /// Operations in its first `t_s` seconds.
    fn integral(self, t_s: f64) -> f64 {
        t_s * (self.from_per_s + self.slope() * t_s / 2.0)
    }

    /// When it has had `count` operations: the root of a quadratic, in the form that does not
    /// subtract two numbers of nearly the same size (Press et al., Numerical Recipes, 5.6).
    fn inverse(self, count: f64) -> f64 {
        let square = self.from_per_s * self.from_per_s + 2.0 * self.slope() * count;
        2.0 * count / (self.from_per_s + square.max(0.0).sqrt())
    }
}

/// Pieces one after the other, the last without end.
#[derive(Debug, Clone)]
pub(super) struct Course {
    /// Each with its start in seconds and the operations before it.
    pieces: Vec<(f64, f64, Piece)>,
    phase: f64,
}

impl Course {
    fn of(pieces: &[Piece], phase: f64) -> Self {
        let (mut start_s, mut before) = (0.0, 0.0);
        // Pieces of no length, such as the warm-up of a load without one, have no inverse.
        let kept = pieces
            .iter()
            .filter(|piece| piece.for_s > 0.0)
            .map(|piece| {
                let placed = (start_s, before, *piece);
                before += piece.integral(piece.for_s);
                start_s += piece.for_s;
                placed
            });
        Self {
            pieces: kept.collect(),
            phase,
        }
    }

    /// Operations due in the first `t_s` seconds: the integral of the rate.
    pub(super) fn integral(&self, t_s: f64) -> f64 {
        let (start_s, before, piece) = self.last(|(start_s, _, _)| *start_s <= t_s);
        before + piece.integral(t_s - start_s)
    }

    /// When the integral reaches `count`, in seconds.
    fn inverse(&self, count: f64) -> f64 {
        let (start_s, before, piece) = self.last(|(_, before, _)| *before <= count);
        start_s + piece.inverse(count - before)
    }

    /// The last piece that `is_reached`; the first one always is.
    fn last(&self, is_reached: impl Fn(&(f64, f64, Piece)) -> bool) -> (f64, f64, Piece) {
        let reached = self.pieces.partition_point(is_reached);
        self.pieces[reached.saturating_sub(1)]
    }
}

impl Pacer for Course {
    fn intended_ns(&mut self, seq: u64) -> u64 {
        (self.inverse(seq as f64 + self.phase) * 1e9) as u64
    }
}

impl Burst {
    fn at_ns(self, seq: u64) -> u64 {
        let size = self.size as f64;
        let (burst, place) = ((seq / self.size) as f64, (seq % self.size) as f64);
        let period_s = size / self.rate_per_s;
        (((burst + self.phase) * period_s + place * self.width_s / size) * 1e9) as u64
    }

    /// Operations that are due before `t_s`: found by halving, since whether a burst lies before or
    /// behind the edge of a window must be decided by the very instants that are sent at.
    pub(super) fn before(self, t_s: f64) -> u64 {
        let end_ns = (t_s * 1e9) as u64;
        let (mut low, mut high) = (0, (t_s * self.rate_per_s) as u64 + 2 * self.size);
        while low < high {
            let middle = u64::midpoint(low, high);
            if self.at_ns(middle) < end_ns {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

impl Pacer for Burst {
    fn intended_ns(&mut self, seq: u64) -> u64 {
        self.at_ns(seq)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Arrival;
    use super::*;

    fn ramp(from_per_s: f64, to_per_s: f64, after_s: f64, over_s: f64) -> Arrival {
        Arrival::Ramp(Ramp {
            from_per_s,
            to_per_s,
            after_s,
            over_s,
            phase: 0.0,
        })
    }

    fn steps(list: &[(f64, f64)]) -> Arrival {
        let step = |&(rate_per_s, for_s): &(f64, f64)| Step { rate_per_s, for_s };
        let list: Vec<Step> = list.iter().map(step).collect();
        Arrival::Steps(Steps::new(&list, 0.0).expect("neither none nor too many"))
    }

    fn burst(rate_per_s: f64, size: u64, width_s: f64) -> Arrival {
        Arrival::Burst(Burst {
            rate_per_s,
            size,
            width_s,
            phase: 0.5,
        })
    }

    /// Operations due in a window, counted one by one.
    fn counted(arrival: Arrival, from_s: f64, to_s: f64) -> f64 {
        let mut pacer = arrival.pacer();
        let window = (from_s * 1e9) as u64..(to_s * 1e9) as u64;
        let instants = (0..).map(|seq| pacer.intended_ns(seq));
        let begun = instants.take_while(|at| *at < window.end);
        begun.filter(|at| window.contains(at)).count() as f64
    }

    #[test]
    fn a_ramp_from_100_to_300_passes_its_middle_late() {
        // 200 operations in the second: the hundredth where 100 t + 100 t² = 100.
        let mut pacer = ramp(100.0, 300.0, 2.0, 1.0).pacer();
        assert_eq!(pacer.intended_ns(200), 2_000_000_000);
        assert_eq!(pacer.intended_ns(300), 2_618_033_988);
        assert_eq!(pacer.intended_ns(400), 3_000_000_000);
        assert_eq!(pacer.intended_ns(430), 3_100_000_000);
        let mean = |from, to| ramp(100.0, 300.0, 2.0, 1.0).mean_rate_per_s(from, to);
        assert!((mean(2.0, 3.0) - 200.0).abs() < 1e-9);
        assert!((mean(2.0, 4.0) - 250.0).abs() < 1e-9);
    }

    #[test]
    fn a_ramp_may_fall_and_may_begin_at_once() {
        let mut pacer = ramp(300.0, 100.0, 0.0, 1.0).pacer();
        assert_eq!(pacer.intended_ns(0), 0);
        assert_eq!(pacer.intended_ns(200), 1_000_000_000);
        assert_eq!(pacer.intended_ns(300), 2_000_000_000);
    }

    #[test]
    fn each_step_has_its_rate_and_the_last_one_stays() {
        let mut pacer = steps(&[(10.0, 1.0), (100.0, 1.0), (50.0, 1.0)]).pacer();
        let instants = [9, 10, 110, 160, 210].map(|seq| pacer.intended_ns(seq) / 1_000_000);
        assert_eq!(instants, [900, 1_000, 2_000, 3_000, 4_000]);
        assert_eq!(Steps::new(&[], 0.0), None);
        assert_eq!(Steps::new(&[Step::default(); MOST_STEPS + 1], 0.0), None);
    }

    #[test]
    fn a_burst_is_due_at_one_instant_or_over_its_width() {
        let instants = |width_s| {
            let mut pacer = burst(100.0, 4, width_s).pacer();
            (0..6).map(move |seq| pacer.intended_ns(seq) / 1_000_000)
        };
        assert!(instants(0.0).eq([20, 20, 20, 20, 60, 60]));
        assert!(instants(0.02).eq([20, 25, 30, 35, 60, 65]));
    }

    #[test]
    fn a_phase_delays_by_its_share_of_a_period() {
        let mut shifted = Arrival::Ramp(Ramp {
            from_per_s: 100.0,
            to_per_s: 200.0,
            after_s: 1.0,
            over_s: 1.0,
            phase: 0.5,
        })
        .pacer();
        assert_eq!(shifted.intended_ns(0), 5_000_000);
        let list = [Step {
            rate_per_s: 100.0,
            for_s: 1.0,
        }];
        let steps = Steps::new(&list, 0.25).expect("one step");
        assert_eq!(Arrival::Steps(steps).pacer().intended_ns(1), 12_500_000);
    }

    #[test]
    fn no_shape_drifts_in_a_thousand_million_operations() {
        let at = |arrival: Arrival, seq| arrival.pacer().intended_ns(seq) as f64 / 1e9;
        let far = 1_000_000_000;
        // Before its end a ramp of 2 s from 10 to 50 per second has 60 operations.
        let ramped = at(ramp(10.0, 50.0, 0.0, 2.0), far + 60);
        assert!((ramped - (2.0 + 1e9 / 50.0)).abs() < 1e-6, "{ramped}");
        let stepped = at(steps(&[(3.0, 5.0), (7.0, 1.0)]), far + 15);
        assert!((stepped - (5.0 + 1e9 / 7.0)).abs() < 1e-6, "{stepped}");
        let burst = at(burst(30.0, 10, 0.0), far);
        assert!((burst - (1e9 / 30.0 + 10.0 / 60.0)).abs() < 1e-6, "{burst}");
    }

    fn any_shape() -> impl Strategy<Value = Arrival> {
        let rate = || 1.0..500.0_f64;
        prop_oneof![
            (rate(), rate(), 0.0..2.0_f64, 0.1..3.0_f64)
                .prop_map(|(from, to, after, over)| ramp(from, to, after, over)),
            prop::collection::vec((rate(), 0.1..2.0_f64), 1..=MOST_STEPS)
                .prop_map(|list| steps(&list)),
            (rate(), 1..40_u64, 0.0..0.9_f64).prop_map(|(rate, size, share)| burst(
                rate,
                size,
                share * size as f64 / rate
            )),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn instants_never_fall(arrival in any_shape(), first in 0..1_000_000_000_u64) {
            let mut pacer = arrival.pacer();
            let instants: Vec<u64> = (first..first + 500).map(|seq| pacer.intended_ns(seq)).collect();
            prop_assert!(instants.windows(2).all(|pair| pair[0] <= pair[1]));
        }

        #[test]
        fn a_window_holds_what_the_mean_rate_foretells(
            arrival in any_shape(), from_s in 0.0..3.0_f64, length_s in 0.05..3.0_f64,
        ) {
            let to_s = from_s + length_s;
            let foretold = arrival.mean_rate_per_s(from_s, to_s) * length_s;
            let found = counted(arrival, from_s, to_s);
            prop_assert!((foretold - found).abs() < 1.001, "{} {}", foretold, found);
        }

        #[test]
        fn the_rate_is_never_above_the_one_that_the_generator_must_be_fit_for(arrival in any_shape()) {
            let burst = matches!(arrival, Arrival::Burst(_));
            let mean = arrival.mean_rate_per_s(1.0, 1.5);
            prop_assert!(burst || mean <= arrival.rate_per_s() * 1.000_001);
        }
    }
}
