//! Series that are made up, so that what they are is known.

use super::*;
use crate::analyse::synthetic;
use crate::random::SplitMix;

/// Level of each of two tests of four courses.
const LEVEL_OF_FOUR: f64 = FALSE_ALARMS / 8.0;

fn normal(random: &mut SplitMix) -> f64 {
    let radius = (-2.0 * (1.0 - random.next_unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.next_unit()).cos()
}

/// `count` values around 100 with a relative scatter of `scatter`, each times its `shape`.
fn course(seed: u64, count: u32, scatter: f64, shape: impl Fn(u32) -> f64) -> Vec<f64> {
    let mut random = SplitMix(seed);
    let mut value = |place| 100.0 * shape(place) * (1.0 + scatter * normal(&mut random));
    (0..count).map(&mut value).collect()
}

fn judged(quantity: Quantity, shape: impl Fn(u32) -> f64) -> Course {
    classify(quantity, &course(11, 20, 0.03, shape), LEVEL_OF_FOUR)
}

#[test]
fn a_flat_course_is_flat() {
    assert_eq!(judged(Quantity::Cpu, |_| 1.0).steadiness, Steadiness::Flat);
}

#[test]
fn a_course_that_begins_worse_warms_up_and_is_cut_where_it_ends() {
    let cold = |place| if place < 5 { 1.5 } else { 1.0 };
    let course = judged(Quantity::RestResponse, cold);
    assert_eq!(course.steadiness, Steadiness::WarmUp);
    assert!((0.25..=0.35).contains(&course.cut_ratio), "{course:?}");
    assert!((course.shift_ratio - 0.125).abs() < 0.02, "{course:?}");
    // Of answers per second, fewer are worse.
    let rate = judged(Quantity::Throughput, |place| 1.0 / cold(place));
    assert_eq!(rate.steadiness, Steadiness::WarmUp);
}

#[test]
fn a_course_that_begins_better_slows_down() {
    let course = judged(
        Quantity::AmqpResponse,
        |place| if place < 8 { 0.7 } else { 1.0 },
    );
    assert_eq!(course.steadiness, Steadiness::Slowdown);
    assert_eq!(course.cut_ratio, 0.4);
}

#[test]
fn a_course_that_never_settles_has_no_steady_state() {
    for slope in [-0.03, 0.03] {
        let course = judged(Quantity::Cpu, |place| 1.0 + slope * f64::from(place));
        assert_eq!(course.steadiness, Steadiness::NoSteadyState, "{course:?}");
    }
    let late = judged(Quantity::Cpu, |place| {
        1.0 + 0.06 * f64::from(place.saturating_sub(9))
    });
    assert_eq!(late.steadiness, Steadiness::NoSteadyState, "{late:?}");
}

#[test]
fn a_trend_that_is_shown_but_small_voids_nothing() {
    let values = course(3, 20, 0.000_1, |place| 1.0 + 0.002 * f64::from(place));
    let course = classify(Quantity::Cpu, &values, LEVEL_OF_FOUR);
    assert!(mann_kendall_p(&values) < 1e-6 && course.trend_ratio > 0.03);
    assert_eq!(course.steadiness, Steadiness::Flat);
}

#[test]
fn memory_that_grows_at_first_is_flat_as_long_as_its_median_is() {
    let grown = |place| if place < 7 { 0.9 } else { 1.0 };
    let values = course(11, 20, 0.001, grown);
    let of = |quantity| classify(quantity, &values, LEVEL_OF_FOUR).steadiness;
    assert_eq!(of(Quantity::Pss), Steadiness::Flat);
    assert_eq!(of(Quantity::Cpu), Steadiness::Slowdown);
}

#[test]
fn a_single_outlier_is_no_change_of_state() {
    for place in 1..20 {
        let course = judged(Quantity::Cpu, |it| if it == place { 1.6 } else { 1.0 });
        assert_eq!(course.steadiness, Steadiness::Flat, "{place}: {course:?}");
    }
}

/// Of how many launches in a steady state, by 1,000 with four courses each, it is said that they are
/// not.
fn false_alarms(count: u32, values: impl Fn(u64) -> Vec<f64>) -> f64 {
    const LAUNCHES: u64 = 1_000;
    let is_alarm = |launch: &u64| {
        (0..4).any(|course| {
            let values = values(launch * 4 + course);
            assert_eq!(values.len(), count as usize);
            classify(Quantity::Cpu, &values, LEVEL_OF_FOUR).steadiness != Steadiness::Flat
        })
    };
    (0..LAUNCHES).filter(is_alarm).count() as f64 / LAUNCHES as f64
}

#[test]
fn a_launch_in_a_steady_state_is_seldom_taken_for_another() {
    for count in [8, 20] {
        for scatter in [0.05, 0.2] {
            let alarms = false_alarms(count, |seed| course(seed, count, scatter, |_| 1.0));
            assert!(alarms <= 0.012, "{count} parts, {scatter}: {alarms}");
        }
    }
}

#[test]
fn scatter_with_a_long_tail_or_a_memory_raises_few_alarms() {
    let long = |seed| -> Vec<f64> {
        let logs = course(seed, 20, 0.01, |_| 1.0)
            .into_iter()
            .map(|it| (it - 100.0) * 0.3);
        logs.map(f64::exp).collect()
    };
    let alarms = false_alarms(20, long);
    assert!(alarms <= 0.02, "long tail: {alarms}");
    // Each value remembers three tenths of the one before.
    let remembering = |seed| -> Vec<f64> {
        let mut before = 0.0;
        let own = course(seed, 20, 0.05, |_| 1.0).into_iter();
        own.map(|it| {
            before = 0.3 * before + (it - 100.0);
            100.0 + before
        })
        .collect()
    };
    let alarms = false_alarms(20, remembering);
    assert!(alarms <= 0.025, "memory: {alarms}");
}

#[test]
fn a_planted_warm_up_of_a_tenth_is_found_more_often_than_not() {
    let found = (0..200_u64).filter(|seed| {
        let values = course(*seed, 20, 0.05, |place| if place < 4 { 1.2 } else { 1.0 });
        classify(Quantity::Cpu, &values, LEVEL_OF_FOUR).steadiness == Steadiness::WarmUp
    });
    let found = found.count();
    assert!(found > 100, "{found} of 200");
}

fn slice(operations: u64, median_ns: u64) -> Slice {
    Slice {
        start_s: 0.0,
        length_s: 0.05,
        operations,
        median_ns,
    }
}

#[test]
fn parts_with_few_operations_are_taken_together_and_a_short_course_is_not_judged() {
    let sparse: Vec<Slice> = [(1, 100), (3, 200)].map(|(n, ns)| slice(n, ns)).repeat(10);
    let parts = response(&sparse, MOST_PARTS);
    // 40 operations are eight batches of five: three slices of twenty to each.
    assert_eq!(parts.len(), 7);
    assert_eq!(parts[0], (100.0 + 3.0 * 200.0 + 100.0) / 5.0);
    let dense = response(&[slice(50, 100); 20], MOST_PARTS);
    assert_eq!(dense, [100.0; 20]);
    let mut data = synthetic::one_launch();
    data.samples.truncate(5);
    for slices in data.slices.values_mut() {
        slices.truncate(7);
    }
    assert_eq!(SteadyState::of(&data), None);
}

#[test]
fn an_orderly_launch_is_flat_in_every_course() {
    let state = SteadyState::of(&synthetic::one_launch()).expect("a minute under load");
    assert_eq!(state.steadiness, Steadiness::Flat);
    let found: Vec<Quantity> = state.courses.iter().map(|it| it.quantity).collect();
    assert_eq!(
        found,
        [
            Quantity::RestResponse,
            Quantity::AmqpResponse,
            Quantity::Pss
        ]
    );
}

#[test]
fn cpu_is_the_growth_of_the_counter_between_samples() {
    let sample = |place: u32| Sample {
        t_ms: f64::from(place) * 50.0,
        cpu_ns: u64::from(place) * 5_000_000,
        ..Sample::default()
    };
    let samples: Vec<Sample> = (0..=40).map(sample).collect();
    assert_eq!(cpu(&samples, MOST_PARTS, 1_000), [100_000.0; 20]);
    assert_eq!(cpu(&samples, MOST_PARTS, 50).len(), 10);
    assert!(cpu(&[], MOST_PARTS, 1_000).is_empty());
}

#[test]
fn parts_are_long_enough_that_one_hiccup_is_no_course() {
    assert_eq!(most_parts(0.6), 6);
    assert_eq!(most_parts(0.8), FEWEST_PARTS);
    assert_eq!(most_parts(1.0), 10);
    assert_eq!(most_parts(4.0), MOST_PARTS);
    let whole = [slice(50, 100); 20];
    assert_eq!(throughput(&whole, most_parts(1.0)).len(), 10);
    assert!(response(&whole, most_parts(0.6)).len() < FEWEST_PARTS);
}
