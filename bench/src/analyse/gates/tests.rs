//! Each gate is made to fire by the one thing that it is there for.

use super::*;
use crate::analyse::synthetic;
use crate::record::Pinning;

fn launch_with(change: impl FnOnce(&mut LaunchData)) -> (Standing, Vec<String>) {
    let mut data = synthetic::one_launch();
    change(&mut data);
    let gates = judge(&data, 2, Some(30_000.0));
    let failed = gates.iter().filter(|g| !g.passed);
    (standing(&gates), failed.map(|g| g.name.clone()).collect())
}

#[test]
fn an_orderly_launch_is_valid() {
    assert_eq!(launch_with(|_| ()), (Standing::Valid, vec![]));
}

#[test]
fn one_wrong_answer_makes_the_launch_invalid() {
    let (standing, failed) = launch_with(|data| {
        let rest = data.launch.operations.get_mut(&Kind::Rest).expect("REST");
        rest.ok -= 1;
        rest.wrong += 1;
    });
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["REST wrong or failed"]);
}

#[test]
fn one_lost_message_makes_the_launch_invalid() {
    let (standing, failed) = launch_with(|data| {
        data.launch.conservation.as_mut().expect("AMQP").acked -= 1;
    });
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["confirmed − accounted for"]);
}

#[test]
fn a_redelivered_message_is_accounted_for_once() {
    let (standing, _) = launch_with(|data| {
        let c = data.launch.conservation.as_mut().expect("AMQP");
        c.acked += 3;
        c.duplicates += 3;
    });
    assert_eq!(standing, Standing::Valid);
}

#[test]
fn a_noisy_host_disturbs_and_does_not_invalidate() {
    let (standing, failed) = launch_with(|data| data.launch.host.steal_ratio = 0.006);
    assert_eq!(standing, Standing::Disturbed);
    assert_eq!(failed, ["steal"]);
}

#[test]
fn a_fault_outweighs_a_disturbance_and_stands_in_the_note() {
    let mut data = synthetic::one_launch();
    data.launch.host.foreign_cores = 0.5;
    data.launch.faults = vec!["subject died".into()];
    let gates = judge(&data, 2, Some(30_000.0));
    assert_eq!(standing(&gates), Standing::Invalid);
    assert_eq!(gates[0].note.as_deref(), Some("subject died"));
}

#[test]
fn operations_that_never_happened_fail_the_rate_gate() {
    let (standing, failed) = launch_with(|data| data.launch.operations.clear());
    assert_eq!(standing, Standing::Invalid);
    assert!(
        failed.contains(&"REST achieved/asked".to_owned()),
        "{failed:?}"
    );
}

#[test]
fn a_late_generator_makes_the_launch_invalid() {
    let (standing, failed) = launch_with(|data| {
        let lag = data.histograms.get_mut("rest.send_lag").expect("lag");
        lag.saturating_record_n(900_000, lag.len() / 20);
    });
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["REST send lag"]);
}

#[test]
fn a_sampler_that_uses_more_than_half_a_percent_of_a_core_makes_the_launch_invalid() {
    let (standing, failed) = launch_with(|data| data.launch.sampler_ratio = Some(0.006));
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["sampler"]);
    assert_eq!(
        launch_with(|data| data.launch.sampler_ratio = None).0,
        Standing::Valid
    );
    // It has left out whatever it could.
    let at_the_edges = |data: &mut LaunchData| {
        data.launch.sampler_ratio = Some(0.03);
        data.samples.truncate(2);
    };
    assert_eq!(launch_with(at_the_edges).0, Standing::Valid);
}

#[test]
fn clocks_that_contradict_littles_law_make_the_launch_invalid() {
    let (standing, failed) = launch_with(|data| data.launch.generator.mean_in_flight *= 1.05);
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["Little's law |L − λW|/L"]);
}

#[test]
fn a_closed_loop_is_judged_by_its_answers_and_not_by_a_schedule() {
    let mut data = synthetic::one_launch();
    data.launch.arrival_rate_per_s.clear();
    data.launch.generator.busy_ratio = 0.85;
    let gates = judge(&data, 2, Some(30_000.0));
    assert_eq!(standing(&gates), Standing::Valid);
    assert!(gates.iter().any(|g| g.name.starts_with("REST wrong")));
    assert!(!gates.iter().any(|g| g.name.contains("send lag")));
}

#[test]
fn the_quantile_of_the_send_lag_follows_the_number_of_operations() {
    let names = [2_000, 1_000, 999, 199, 99, 39, 0].map(|n| lag_quantile(n).1);
    assert_eq!(names, ["p99", "p99", "p95", "p90", "p75", "p50", "p50"]);
}

#[test]
fn an_operation_that_ended_without_a_time_makes_the_launch_invalid() {
    let (standing, failed) = launch_with(|data| {
        let rest = data.launch.operations.get_mut(&Kind::Rest).expect("REST");
        rest.planned += 1;
        rest.issued += 1;
        rest.ok += 1;
    });
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["REST recorded − ended"]);
}

/// A Poisson schedule as it should be sent, or as `draw` sends it.
fn poisson(data: &mut LaunchData, draw: fn(f64) -> f64) {
    data.launch.poisson = vec![Kind::Rest];
    let rate_per_s = data.launch.arrival_rate_per_s[&Kind::Rest];
    let mut random = crate::random::SplitMix(3);
    let mut gaps = data.histograms["rest.send_lag"].clone();
    gaps.reset();
    for _ in 0..data.launch.operations[&Kind::Rest].planned {
        gaps.saturating_record((draw(random.next_unit()) / rate_per_s * 1e9) as u64);
    }
    data.histograms.insert("rest.send_gap".into(), gaps);
}

#[test]
fn sends_of_a_poisson_process_have_exponential_gaps() {
    let (standing, failed) = launch_with(|data| poisson(data, |unit| -(1.0 - unit).ln()));
    assert_eq!((standing, failed), (Standing::Valid, vec![]));
    let (standing, failed) = launch_with(|data| poisson(data, |_| 1.0));
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["REST gaps from exponential"]);
}

#[test]
fn sends_that_fall_behind_their_schedule_make_the_launch_invalid() {
    let (standing, failed) = launch_with(|data| {
        let slices = data.slices.get_mut("amqp.send_lag").expect("kept");
        for (slice, lag_ns) in slices.iter_mut().zip((2_000..).step_by(6_000)) {
            slice.median_ns = lag_ns;
        }
    });
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["AMQP send drift"]);
}

#[test]
fn a_rate_near_the_ceiling_of_the_generator_makes_the_launch_invalid() {
    let data = synthetic::one_launch();
    let failed = |ceiling| {
        let gates = judge(&data, 2, ceiling);
        let failed = gates.into_iter().filter(|gate| !gate.passed);
        failed.map(|gate| gate.name).collect::<Vec<_>>()
    };
    // 250 requests per second are to be a third at the most.
    assert!(failed(Some(751.0)).is_empty());
    assert_eq!(failed(Some(749.0)), ["REST rate/ceiling of the generator"]);
    assert!(failed(None).is_empty(), "an old run has no ceiling");
}

#[test]
fn a_closed_loop_near_the_ceiling_of_the_generator_is_invalid() {
    let mut data = synthetic::one_launch();
    data.launch.arrival_rate_per_s.clear();
    let failed = |ceiling| standing(&judge(&data, 2, Some(ceiling)));
    assert_eq!(failed(313.0), Standing::Valid);
    assert_eq!(failed(311.0), Standing::Invalid);
}

#[test]
fn a_launch_that_warms_up_in_its_window_is_invalid_and_says_where() {
    let mut data = synthetic::one_launch();
    let slices = data.slices.get_mut("rest.response").expect("kept");
    for slice in &mut slices[..4] {
        slice.median_ns *= 2;
    }
    let gates = judge(&data, 2, None);
    assert_eq!(standing(&gates), Standing::Invalid);
    let gate = gates.iter().find(|gate| !gate.passed).expect("one");
    assert_eq!(gate.name, "steady state");
    let note = gate.note.as_deref().expect("what moves");
    assert!(
        note.starts_with("REST response: warm-up, its first ") && !note.contains(';'),
        "{note}"
    );
}

/// Samples whose PSS grows by half over the window.
fn fill_memory(data: &mut LaunchData) {
    let count = data.samples.len() as u64;
    for (sample, place) in data.samples.iter_mut().zip(0..) {
        sample.pss_bytes = 4_000_000 + 2_000_000 * place / count;
    }
}

#[test]
fn memory_that_still_fills_voids_no_other_figure() {
    assert_eq!(
        launch_with(fill_memory),
        (Standing::Valid, vec!["steady memory".to_owned()])
    );
    let both = launch_with(|data| {
        fill_memory(data);
        let slices = data.slices.get_mut("rest.response").expect("kept");
        slices[..4].iter_mut().for_each(|it| it.median_ns *= 2);
    });
    assert_eq!(both.0, Standing::Invalid);
    assert_eq!(both.1, ["steady state", "steady memory"]);
}

#[test]
fn what_moves_on_a_noisy_host_is_disturbed() {
    let (standing, failed) = launch_with(|data| {
        data.launch.host.foreign_cores = 0.5;
        let slices = data.slices.get_mut("rest.response").expect("kept");
        slices[..4].iter_mut().for_each(|it| it.median_ns *= 2);
    });
    assert_eq!(standing, Standing::Disturbed);
    assert_eq!(failed, ["foreign CPU", "steady state"]);
}

#[test]
fn each_count_of_the_schedule_and_of_the_broker_has_its_gate() {
    type Change = fn(&mut LaunchData);
    let rest = |data: &mut LaunchData, change: fn(&mut OperationCounts)| {
        change(data.launch.operations.get_mut(&Kind::Rest).expect("REST"));
    };
    let cases: [(&str, Change); 6] = [
        ("REST planned/(rate × window)", |data| {
            data.launch.arrival_rate_per_s.insert(Kind::Rest, 300.0);
        }),
        ("published − confirmed", |data| {
            data.launch.conservation.as_mut().expect("AMQP").published += 1;
        }),
        ("acked/prefilled", |data| {
            data.launch.drain = Some(Drain {
                prefilled: 10,
                acked: 9,
                ..Drain::default()
            });
        }),
        ("generator busy", |data| {
            data.launch.generator.busy_ratio = 0.71
        }),
        ("generator waiting for a core", |data| {
            data.launch.generator.wait_ratio = 0.021;
        }),
        ("foreign CPU", |data| data.launch.host.foreign_cores = 0.021),
    ];
    for (gate, change) in cases {
        assert_eq!(launch_with(change).1, [gate]);
    }
    let (_, failed) = launch_with(|data| rest(data, |counts| counts.issued -= counts.issued / 50));
    assert_eq!(failed, ["REST issued/planned"]);
    let (_, failed) = launch_with(|data| {
        rest(data, |counts| {
            counts.ok -= 1;
            counts.timed_out += 1;
        });
    });
    assert_eq!(failed, ["REST timed out"]);
}

fn pinning(data: &mut LaunchData) -> &mut Pinning {
    data.launch.pinning.as_mut().expect("it was read")
}

#[test]
fn a_subject_that_leaves_its_core_makes_the_launch_invalid() {
    let (standing, failed) = launch_with(|data| pinning(data).subject.strays = 1);
    assert_eq!(standing, Standing::Invalid);
    assert_eq!(failed, ["pinning"]);
}

#[test]
fn a_generator_that_moves_makes_the_launch_invalid_where_it_has_a_core_of_its_own() {
    let generator = |allowed, migrations| {
        launch_with(|data| {
            let generator = pinning(data).generator.as_mut().expect("there is one");
            generator.allowed = allowed;
            generator.migrations = migrations;
        })
        .0
    };
    assert_eq!(generator(Some(vec![1]), Some(2)), Standing::Invalid);
    assert_eq!(generator(None, Some(2)), Standing::Valid);
    // A kernel that does not tell is no proof of a move; the affinity was read back all the same.
    assert_eq!(generator(Some(vec![1]), None), Standing::Valid);
}

#[test]
fn a_run_from_before_the_pinning_was_read_is_judged_without_it() {
    let (standing, _) = launch_with(|data| data.launch.pinning = None);
    assert_eq!(standing, Standing::Valid);
}
