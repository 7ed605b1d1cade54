//! Probes that are judged, and searches that are made again from a run.

use super::*;
use crate::analyse::{RunData, analyse, gates, synthetic};
use crate::record::{CellFacts, Layout, OperationCounts};

fn facts() -> SearchFacts {
    SearchFacts {
        slo_ns: 50e6,
        first_per_s: 500.0,
        most_per_s: 20_000.0,
        ..SearchFacts::for_tests()
    }
}

/// A launch at that rate whose responses take `response_ns`, on a quiet host.
fn launch(rate_per_s: f64, response_ns: u64) -> LaunchData {
    let mut data = synthetic::one_launch();
    let launch = &mut data.launch;
    launch.window_s = 2.0;
    launch.arrival_rate_per_s = [(Kind::Rest, rate_per_s)].into();
    let planned = (rate_per_s * 2.0) as u64;
    let counts = OperationCounts {
        planned,
        issued: planned,
        ok: planned,
        ..OperationCounts::default()
    };
    launch.operations = [(Kind::Rest, counts)].into();
    let in_flight = rate_per_s * response_ns as f64 / 1e9;
    launch.generator.mean_in_flight = in_flight;
    launch.cell = format!("capacity/rate={rate_per_s}");
    for (what, value) in [
        ("response", response_ns),
        ("service", response_ns),
        ("send_lag", 1_000),
    ] {
        let histogram = data
            .histograms
            .get_mut(&tag(Kind::Rest, what))
            .expect("REST");
        histogram.reset();
        histogram.record_n(value, planned).expect("in range");
    }
    data
}

fn judged(data: &LaunchData) -> Probe {
    Probe::of(data, &gates::judge(data, 2, None), &facts())
}

#[test]
fn a_probe_in_time_holds_and_a_late_one_fails() {
    let probe = judged(&launch(1_000.0, 2_000_000));
    assert_eq!(probe.outcome, Outcome::Holds);
    assert!((probe.goodput_ratio - 1.0).abs() < 1e-9);
    let probe = judged(&launch(1_000.0, 60_000_000));
    assert_eq!((probe.outcome, probe.goodput_ratio), (Outcome::Fails, 0.0));
}

#[test]
fn an_operation_that_timed_out_is_the_subjects_failure() {
    let mut data = launch(1_000.0, 2_000_000);
    let counts = data.launch.operations.get_mut(&Kind::Rest).expect("REST");
    (counts.ok, counts.timed_out, counts.issued) = (1_900, 100, 1_950);
    assert_eq!(judged(&data).outcome, Outcome::Fails);
}

#[test]
fn a_late_generator_voids_whatever_the_subject_did() {
    for response_ns in [300_000, 60_000_000] {
        let mut data = launch(1_000.0, response_ns);
        data.launch.generator.busy_ratio = 0.9;
        let void = Outcome::Void(Obstacle::Generator);
        assert_eq!(judged(&data).outcome, void);
    }
    // A tenth of the objective is 5 ms.
    for (lag_ns, outcome) in [
        (4_900_000, Outcome::Holds),
        (5_100_000, Outcome::Void(Obstacle::Generator)),
    ] {
        let mut data = launch(1_000.0, 300_000);
        let lag = data.histograms.get_mut("rest.send_lag").expect("REST");
        lag.record_n(lag_ns, 100).expect("in range");
        assert_eq!(judged(&data).outcome, outcome, "{lag_ns}");
    }
}

#[test]
fn a_noisy_host_voids_a_failure_and_not_a_success() {
    let noisy = |response_ns| {
        let mut data = launch(1_000.0, response_ns);
        data.launch.host.foreign_cores = 0.5;
        judged(&data)
    };
    let held = noisy(2_000_000);
    assert_eq!((held.outcome, held.disturbed), (Outcome::Holds, true));
    assert_eq!(noisy(60_000_000).outcome, Outcome::Void(Obstacle::Host));
}

#[test]
fn a_contradiction_of_clocks_voids_only_what_is_not_overloaded() {
    let mut data = launch(1_000.0, 2_000_000);
    data.launch.generator.mean_in_flight *= 2.0;
    assert_eq!(judged(&data).outcome, Outcome::Void(Obstacle::Generator));
    let mut data = launch(1_000.0, 60_000_000);
    data.launch.generator.mean_in_flight *= 2.0;
    assert_eq!(judged(&data).outcome, Outcome::Fails);
}

#[test]
fn too_few_operations_never_hold() {
    let probe = judged(&launch(100.0, 2_000_000));
    assert_eq!((probe.outcome, probe.quantile_ns), (Outcome::Fails, None));
}

#[test]
fn every_named_gate_exists() {
    let gates = gates::judge(&launch(1_000.0, 2_000_000), 2, None);
    for name in OF_SUBJECT.iter().chain(&OF_GENERATOR) {
        assert!(gates.iter().any(|gate| gate.name.contains(name)), "{name}");
    }
}

/// A run of a search in which each subject holds up to its capacity.
fn searched(capacities: &[(&str, f64)]) -> RunData {
    let mut run = synthetic::run(1);
    run.launches.clear();
    run.manifest.cells.clear();
    run.manifest.order.clear();
    run.manifest.search = Some(facts());
    run.manifest.ceiling_per_s = [(Layout::Isolated, 60_000.0)].into();
    for (subject, capacity) in capacities {
        let mut search = Bisection::new(&facts());
        while let Some(rate) = search.next_per_s() {
            let response_ns = if rate <= *capacity {
                3_000_000
            } else {
                70_000_000
            };
            let mut data = launch(rate, response_ns);
            data.launch.ordinal = u32::try_from(run.launches.len()).expect("few");
            data.launch.subject = (*subject).to_owned();
            search.tell(judged(&data).outcome);
            run.launches.push(data);
        }
    }
    run
}

#[test]
fn the_search_is_made_again_from_the_launches() {
    let run = searched(&[
        ("async", 9_000.0),
        ("multi-process", 3_000.0),
        ("multi-thread", 1e9),
    ]);
    let summary = analyse(&run);
    let found = summary.capacity.expect("a search");
    let of = |name: &str| {
        let mut subjects = found.subjects.iter();
        subjects.find(|it| it.subject == name).expect("a subject")
    };
    let quick = of("async");
    assert!(
        quick
            .rate_per_s
            .is_some_and(|rate| rate <= 9_000.0 && rate > 8_500.0)
    );
    assert_eq!((quick.finding, quick.confirmed), (Finding::Found, 3));
    let saturated = quick.saturation_rate_per_s.expect("it failed");
    assert!(saturated > 9_000.0 && saturated < 9_500.0, "{saturated}");
    assert!(quick.following_rate_per_s.is_some_and(|it| it <= 9_000.0));
    let beyond = of("multi-thread");
    assert_eq!(beyond.finding, Finding::AtLeast(Obstacle::Generator));
    assert_eq!(beyond.saturation_rate_per_s, None);
    assert!(
        found
            .slowest_per_s()
            .is_some_and(|it| it <= 3_000.0 && it > 2_850.0)
    );
}

#[test]
fn probes_are_judged_apart_from_the_run() {
    let run = searched(&[("async", 900.0)]);
    let validity = analyse(&run).validity;
    assert_eq!(
        (validity.made, validity.faulty, validity.invalid),
        (0, 0, 0)
    );
    assert_eq!(validity.probes, run.launches.len());
    assert!(validity.is_complete());
}

#[test]
fn an_interrupted_search_has_no_capacity_and_forgets_its_last_launch() {
    let mut run = searched(&[("async", 9_000.0)]);
    run.launches.truncate(5);
    run.manifest.interrupted = true;
    let found = analyse(&run).capacity.expect("a search");
    let own = found.subjects.iter().find(|it| it.subject == "async");
    let own = own.expect("a subject");
    assert_eq!((own.finding, own.probes.len()), (Finding::Unfinished, 4));
    assert_eq!(found.slowest_per_s(), None);
}

#[test]
fn a_cell_of_the_ladder_is_no_probe() {
    let mut run = searched(&[("async", 900.0)]);
    let mut rung = launch(100.0, 1_000_000);
    rung.launch.cell = "cost/load=10".into();
    run.manifest.cells.push(CellFacts {
        cell: "cost/load=10".into(),
        scenario: "cost".into(),
        ..synthetic::run(1).manifest.cells[0].clone()
    });
    run.manifest.order.push(vec!["cost/load=10 async".into()]);
    run.launches.push(rung);
    let summary = analyse(&run);
    assert_eq!(summary.validity.made, 1);
    assert!(!summary.launches.last().expect("the rung").probe);
}
