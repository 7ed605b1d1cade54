//! What is understood, what is refused, and what a run makes of it.

use super::*;
use crate::analyse::{Summary, analyse, synthetic};

fn parsed(text: &str) -> Objective {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn judged(objective: &str, change: impl FnOnce(&mut crate::analyse::RunData)) -> ObjectiveSummary {
    let mut run = synthetic::run(3);
    run.manifest.objectives = vec![objective.into()];
    change(&mut run);
    let Summary { mut objectives, .. } = analyse(&run);
    objectives.remove(0)
}

fn outcomes(objective: &ObjectiveSummary) -> Vec<Outcome> {
    objective.rows.iter().map(|row| row.outcome).collect()
}

#[test]
fn thresholds_are_in_the_units_that_an_engineer_writes() {
    let threshold = |text: &str| parsed(text).threshold;
    for (text, stored) in [
        ("rest.p99=50ms", 50e6),
        ("amqp.p99=1.5s", 1.5e9),
        ("cpu_per_op=300us", 300e3),
        ("cpu_per_op = 300 µs", 300e3),
        ("pss=64MiB", 64.0 * 1_048_576.0),
        ("ready=500ms", 0.5),
        ("messages=10000/s", 10_000.0),
        ("threads=12", 12.0),
    ] {
        assert!((threshold(text) / stored - 1.0).abs() < 1e-9, "{text}");
    }
}

#[test]
fn a_scope_may_be_a_cell_whose_name_holds_an_equals_sign() {
    let objective = parsed("io-wait/pool=16:rest.p99=50ms");
    assert_eq!(objective.scope.as_deref(), Some("io-wait/pool=16"));
    assert_eq!(objective.metric, Metric::RestP99);
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_could_be() {
    let refused = |text: &str| text.parse::<Objective>().expect_err(text).to_string();
    assert!(refused("rest.p99").contains("METRIC=VALUE"));
    assert!(refused("rest.p98=5ms").contains("known are: rest.p50, rest.p95"));
    for text in [
        "pss=64ms",
        "rest.p99=50",
        "rest.p99=ms",
        "rest.p99=0ms",
        "rest.p99=-1ms",
    ] {
        assert!(refused(text).contains("write a number above 0"), "{text}");
    }
    assert!(refused("pss=64ms").contains("MiB"));
}

#[test]
fn every_metric_can_be_demanded() {
    for metric in Metric::ALL {
        assert!(
            NAMES.iter().any(|(_, known)| *known == metric),
            "{metric:?}"
        );
    }
}

#[test]
fn a_threshold_is_the_most_of_a_cost_and_the_least_of_a_rate() {
    // Planted: 41, 88 and 59 µs per operation, within a per cent.
    let cpu = |text| outcomes(&judged(text, |_| ()));
    use Outcome::{Held, Missed};
    assert_eq!(cpu("steady-mixed:cpu_per_op=60us"), [Held, Missed, Held]);
    assert_eq!(cpu("steady-mixed:rest.throughput=249/s"), [Held; 3]);
    assert_eq!(cpu("steady-mixed:rest.throughput=251/s"), [Missed; 3]);
}

#[test]
fn one_missed_figure_is_enough_and_a_scope_keeps_it_out() {
    assert!(!judged("cpu_per_op=60us", |_| ()).is_met);
    assert!(judged("async:cpu_per_op=60us", |_| ()).is_met);
}

#[test]
fn a_quantile_that_the_operations_do_not_support_is_not_held() {
    let low = judged("low-load:rest.p99=10s", |_| ());
    assert_eq!(outcomes(&low), [Outcome::NoFigure; 3]);
    assert!(!low.is_met);
    // Where another cell has the figure, the objective can be judged.
    let all = judged("rest.p99=10s", |_| ());
    assert!(all.is_met && outcomes(&all).contains(&Outcome::NoFigure));
}

#[test]
fn an_invalid_launch_holds_nothing_and_misses_nothing() {
    let objective = judged("steady-mixed:pss=1B", |run| {
        for data in &mut run.launches {
            data.launch.faults = vec!["died".into()];
        }
    });
    assert_eq!(outcomes(&objective), [Outcome::NoFigure; 3]);
    assert!(!objective.is_met);
}

#[test]
fn a_metric_that_exists_nowhere_is_not_met() {
    let objective = judged("idle:rest.p99=1s", |_| ());
    assert!(objective.rows.is_empty() && !objective.is_met);
}

#[test]
fn goodput_counts_what_was_answered_within_the_threshold() {
    let goodput = |text| {
        let objective = judged(text, |_| ());
        objective.rows[0].goodput_per_s.expect("valid launches")
    };
    assert!((goodput("steady-mixed:rest.p50=10s") - 250.0).abs() < 1e-9);
    // Planted: a median of about 181 µs.
    let half = goodput("steady-mixed:rest.p50=181us");
    assert!((100.0..150.0).contains(&half), "{half}");
}
