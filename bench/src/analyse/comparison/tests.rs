//! What is compared with what, and what is said of it.

use super::*;
use crate::analyse::{RunData, analyse, synthetic};

/// The run with a twin of `async` whose CPU is beside its original's by a share of `noise` up
/// in every other block, and down in those between.
fn with_twin(mut run: RunData, noise: f64) -> RunData {
    let originals = run.launches.clone();
    for mut twin in originals
        .into_iter()
        .filter(|it| it.launch.subject == "async")
    {
        let sign = if twin.launch.block.is_multiple_of(2) {
            1.0
        } else {
            -1.0
        };
        let cpu = &mut twin.launch.resources.cpu_ns;
        *cpu = (*cpu as f64 * (1.0 + sign * noise)) as u64;
        twin.launch.subject = "async-twin".into();
        run.launches.push(twin);
    }
    let facts = run.manifest.subjects.iter().find(|it| it.name == "async");
    let twin = crate::record::SubjectFacts {
        name: "async-twin".into(),
        twin_of: Some("async".into()),
        ..facts.expect("a subject").clone()
    };
    run.manifest.subjects.push(twin);
    run
}

fn cpu(run: &RunData) -> Comparison {
    let summary = analyse(run);
    let mut cells = summary.cells.iter();
    let cell = cells.find(|cell| cell.facts.scenario == "steady-mixed");
    let cell = cell.expect("the run has it");
    let found = cell.comparison(Metric::CpuPerOperation);
    found.expect("it has a load").clone()
}

#[test]
fn a_twin_makes_the_floor_and_is_not_compared() {
    let comparison = cpu(&with_twin(synthetic::run(8), 0.01));
    let floor = comparison.floor.expect("the twin ran in every block");
    assert!(floor.reach() > 0.001 && floor.reach() < 0.02, "{floor:?}");
    assert!(!comparison.rows.contains_key("async-twin"));
    assert_eq!(comparison.ratios.len(), 3);
    assert!(matches!(comparison.verdict, Verdict::Winner { .. }));
}

#[test]
fn a_difference_within_the_floor_names_no_winner() {
    let quiet = cpu(&synthetic::run(8));
    assert!(matches!(quiet.verdict, Verdict::Winner { .. }));
    let noisy = cpu(&with_twin(synthetic::run(8), 0.8));
    assert!(
        matches!(noisy.verdict, Verdict::NoDifference { .. }),
        "{noisy:?}"
    );
}

fn steady_cell(run: &RunData) -> CellSummary {
    let summary = analyse(run);
    let mut cells = summary.cells.into_iter();
    let cell = cells.find(|cell| cell.facts.scenario == "steady-mixed");
    cell.expect("the run has it")
}

#[test]
fn the_p_values_of_a_cell_are_adjusted_together() {
    let cell = steady_cell(&synthetic::run(6));
    let pairs = || cell.metrics.iter().flat_map(|it| &it.ratios);
    let raw: Vec<f64> = pairs().filter_map(|it| it.estimate.p_value).collect();
    assert_eq!(raw.len(), pairs().count());
    let adjusted: Vec<f64> = pairs()
        .filter_map(|it| it.estimate.adjusted_p_value)
        .collect();
    assert_eq!(adjusted, holm(&raw));
    let smallest = raw.iter().copied().fold(1.0, f64::min);
    assert!(adjusted.contains(&(smallest * raw.len() as f64)));
}

#[test]
fn a_difference_that_one_of_many_comparisons_shows_by_chance_names_no_winner() {
    let mut cell = steady_cell(&synthetic::run(6));
    let mut cpu = cell.metrics.iter_mut();
    let cpu = cpu
        .find(|it| it.metric == Metric::CpuPerOperation)
        .expect("metric");
    assert!(matches!(verdict(cpu), Verdict::Winner { .. }));
    for pair in &mut cpu.ratios {
        pair.estimate.adjusted_p_value = Some(0.051);
    }
    assert!(matches!(verdict(cpu), Verdict::NoDifference { .. }));
}

#[test]
fn memory_that_fills_takes_the_memory_figures_alone() {
    let with = |filling: usize| {
        let mut run = synthetic::run(6);
        let here = |it: &&mut crate::analyse::LaunchData| {
            it.launch.subject == "async" && it.launch.cell == "steady-mixed"
        };
        for data in run.launches.iter_mut().filter(here).take(filling) {
            for (sample, place) in data.samples.iter_mut().zip(0..) {
                sample.pss_bytes = 4_000_000 + 200_000 * place;
            }
        }
        steady_cell(&run)
    };
    let row =
        |cell: &CellSummary, metric| cell.comparison(metric).expect("metric").rows["async"].clone();
    let once = with(1);
    for memory in [Metric::Pss, Metric::Uss, Metric::Rss] {
        assert_eq!(
            (row(&once, memory).used, row(&once, memory).unsteady),
            (5, None)
        );
    }
    assert_eq!(row(&once, Metric::CpuPerOperation).used, 6);
    let twice = with(2);
    let pss = row(&twice, Metric::Pss);
    assert_eq!((pss.used, pss.median, pss.unsteady), (0, None, Some(2)));
    let cpu = row(&twice, Metric::CpuPerOperation);
    assert_eq!((cpu.used, cpu.unsteady), (6, None));
    assert_eq!(row(&twice, Metric::RestP50).used, 6);
}

#[test]
fn a_subject_without_a_steady_state_twice_has_no_figure_and_says_so() {
    let with = |unsteady: usize| {
        let mut run = synthetic::run(6);
        let here = |it: &&mut crate::analyse::LaunchData| {
            it.launch.subject == "async" && it.launch.cell == "steady-mixed"
        };
        for data in run.launches.iter_mut().filter(here).take(unsteady) {
            let slices = data.slices.get_mut("amqp.response").expect("kept");
            for (slice, factor) in slices.iter_mut().zip(10..) {
                slice.median_ns *= factor;
            }
        }
        steady_cell(&run)
    };
    let row =
        |cell: &CellSummary, metric| cell.comparison(metric).expect("metric").rows["async"].clone();
    let once = row(&with(1), Metric::CpuPerOperation);
    assert_eq!((once.used, once.unsteady), (5, None));
    let cell = with(2);
    let twice = row(&cell, Metric::CpuPerOperation);
    assert_eq!(
        (twice.used, twice.median, twice.unsteady),
        (0, None, Some(2))
    );
    let cpu = cell.comparison(Metric::CpuPerOperation).expect("metric");
    assert_eq!(cpu.ratios.len(), 1, "the other two are compared");
    assert_eq!(row(&cell, Metric::Ready).unsteady, None);
}
