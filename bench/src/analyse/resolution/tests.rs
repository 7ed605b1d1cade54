//! The instrument's resolution against runs in which it is planted.

use super::synthetic::{judged, run};
use super::*;

fn resolution(run: &RunData) -> Resolution {
    Resolution::of(run, &judged(run)).expect("the run asks what can be told apart")
}

fn missed(resolution: &Resolution) -> Vec<Question> {
    let targets = resolution.targets().into_iter();
    targets
        .filter(|it| !it.held)
        .map(|it| it.question)
        .collect()
}

#[test]
fn a_good_instrument_holds_every_target_and_finds_what_was_planted() {
    let found = resolution(&run(20, 0.02, [1.0, 1.05, 1.0]));
    assert_eq!(missed(&found), []);
    assert_eq!((found.blocks, found.set), (20, SET));
    let planted = found.planted.expect("it was launched");
    assert!(
        planted.found.of >= DRAWS && planted.disjoint == 2,
        "{planted:?}"
    );
    let measured = planted.measured.expect("twenty blocks");
    assert!((measured.ratio - 1.05).abs() < 0.015, "{planted:?}");
}

#[test]
fn the_floor_is_as_wide_as_the_scatter_makes_it() {
    // A uniform ± w scatters by w/√3, a ratio by √2 as much, the mean of ten by 1/√10; times Student's t.
    for noise in [0.02, 0.1] {
        let found = resolution(&run(30, noise, [1.0, 1.05, 1.0]));
        let floor = found.floor(Metric::CpuPerOperation).expect("CPU");
        let expected = noise / 3_f64.sqrt() * 2_f64.sqrt() / 10_f64.sqrt() * 2.262;
        let ratio = floor.half_width.median / expected;
        assert!((0.75..1.35).contains(&ratio), "{floor:?} {expected}");
        assert_eq!(floor.half_width.median <= MOST_CPU_FLOOR, noise < 0.05);
    }
}

#[test]
fn an_instrument_that_treats_the_second_name_differently_finds_a_difference_that_is_none() {
    let found = resolution(&run(20, 0.02, [1.06, 1.05, 1.0]));
    let floor = found.floor(Metric::CpuPerOperation).expect("CPU");
    assert!(floor.kept.ratio() > 0.9, "{floor:?}");
    assert!(floor.biased);
    assert!(missed(&found).contains(&Question::Bias));
}

#[test]
fn an_instrument_that_sees_only_noise_does_not_find_the_slow_down() {
    let found = resolution(&run(20, 0.4, [1.0, 1.05, 1.0]));
    let planted = found.planted.as_ref().expect("it was launched");
    assert!(planted.found.ratio() < LEAST_FOUND, "{planted:?}");
    assert!(missed(&found).contains(&Question::PlantedFound));
    assert!(missed(&found).contains(&Question::SamplerSways));
    assert!(found.false_positives().ratio() <= MOST_FALSE_POSITIVES);
}

#[test]
fn a_slow_down_that_is_not_what_was_asked_for_proves_nothing() {
    let found = resolution(&run(20, 0.02, [1.0, 1.15, 1.0]));
    assert_eq!(missed(&found), [Question::PlantedRatio]);
}

#[test]
fn a_sampler_that_costs_the_subject_something_is_seen() {
    let found = resolution(&run(20, 0.02, [1.0, 1.05, 0.92]));
    assert_eq!(missed(&found), [Question::SamplerSways]);
    let unsampled = found.unsampled.expect("it was launched");
    assert_eq!(unsampled.swayed, [Metric::CpuPerOperation]);
}

#[test]
fn a_greedy_sampler_misses_its_target() {
    let mut run = run(20, 0.02, [1.0, 1.05, 1.0]);
    for data in &mut run.launches {
        data.launch.sampler_ratio = Some(0.004);
    }
    assert_eq!(missed(&resolution(&run)), []);
    let mut resolution = resolution(&run);
    resolution.sampler = Spread::of(vec![0.006]);
    assert_eq!(missed(&resolution), [Question::SamplerCost]);
}

#[test]
fn fewer_than_ten_good_blocks_hold_no_target_of_ten() {
    let mut run = run(12, 0.02, [1.0, 1.05, 1.0]);
    for data in run.launches.iter_mut().filter(|it| it.launch.block < 3) {
        data.launch.faults = vec!["planted".into()];
    }
    let found = resolution(&run);
    assert_eq!((found.blocks, found.set), (9, 9));
    let missed = missed(&found);
    assert!(missed.contains(&Question::FalsePositives) && missed.contains(&Question::PlantedFound));
}

#[test]
fn a_run_of_another_kind_has_no_resolution() {
    let run = crate::analyse::synthetic::run(3);
    assert_eq!(Resolution::of(&run, &judged(&run)), None);
}

#[test]
fn the_same_run_gives_the_same_resolution_and_survives_its_json_form() {
    let run = run(11, 0.02, [1.0, 1.05, 1.0]);
    let first = resolution(&run);
    assert_eq!(first, resolution(&run));
    let text = serde_json::to_string(&first).expect("plain data");
    let read: Resolution = serde_json::from_str(&text).expect("the same plain data");
    assert_eq!(read.floors.len(), first.floors.len());
}

#[test]
fn a_run_without_a_good_launch_misses_every_target() {
    let mut run = run(10, 0.02, [1.0, 1.05, 1.0]);
    run.launches.clear();
    let found = resolution(&run);
    assert_eq!(missed(&found).len(), found.targets().len());
    assert_eq!(found.targets().len(), 9);
}
