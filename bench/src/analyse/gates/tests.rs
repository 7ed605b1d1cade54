//! Each gate is made to fire by the one thing that it is there for.

use super::*;
use crate::analyse::synthetic;

fn launch_with(change: impl FnOnce(&mut LaunchData)) -> (Standing, Vec<String>) {
    let mut data = synthetic::one_launch();
    change(&mut data);
    let gates = judge(&data, 2);
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
    let gates = judge(&data, 2);
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
    let gates = judge(&data, 2);
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
