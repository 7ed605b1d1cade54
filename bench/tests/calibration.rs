//! The instrument against servers of known truth, for real: sockets, clocks and all.
//!
//! No figure of a busy machine is asserted that it could miss by being busy: a stall of a fifth of
//! a second is found on any.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use threeways::{
    calibrate::{self, Calibration, Cores},
    record::Layout,
};

const WINDOW: Duration = Duration::from_secs(4);

/// Servers of known truth never sleep: one test at a time has the machine.
fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn trial(name: &str) -> Calibration {
    let trials = calibrate::trials(WINDOW);
    let trial = trials.iter().find(|trial| trial.name == name);
    let trial = trial.expect("there is such a trial");
    trial
        .make(Cores::default(), &AtomicBool::new(false))
        .expect("a free port")
}

#[test]
fn a_stall_is_found_that_a_blind_client_would_not_see() {
    let _machine = alone();
    let stall = trial("stall");
    assert_eq!(stall.faults, Vec::<String>::new());
    assert_eq!(stall.operations, 4_000);
    let figure = stall
        .figures
        .iter()
        .find(|it| it.name == "p99 by the formula");
    let figure = figure.expect("the stall has a formula");
    assert!(figure.holds(), "{figure:?}");
    let blind_ns = stall.blind_p99_ns.expect("requests wait for connections");
    assert!(
        blind_ns < figure.expected_ns / 2.0,
        "blind: {} ms",
        blind_ns / 1e6
    );
}

#[test]
fn every_answer_of_the_null_server_is_right_in_a_closed_loop() {
    let _machine = alone();
    let interrupt = AtomicBool::new(false);
    let window = Duration::from_secs(1);
    let ceiling = calibrate::ceiling(Layout::Native, 16, window, &interrupt);
    let ceiling = ceiling.expect("a free port");
    assert_eq!(ceiling.failed, 0);
    assert!(ceiling.rate_per_s > 1_000.0, "{ceiling:?}");
}

#[test]
fn at_5000_per_second_answers_lie_in_their_sockets_and_none_is_lost_or_late() {
    let _machine = alone();
    let interrupt = AtomicBool::new(false);
    let window = Duration::from_millis(500);
    let step = || calibrate::step(5_000.0, 64, window, &interrupt).expect("a free port");
    let steps: Vec<_> = (0..5).map(|_| step()).collect();
    assert!(
        steps.iter().all(|step| step.achieved_ratio > 0.99),
        "{steps:?}"
    );
    // Told by when it is read, behind the next send, an answer would take 200 µs. A machine that
    // others use may be slow in most of them.
    assert!(
        steps.iter().any(|step| step.response_p50_ns < 150_000.0),
        "{steps:?}"
    );
}

#[test]
fn a_trial_that_is_interrupted_is_no_trial() {
    let _machine = alone();
    let trials = calibrate::trials(WINDOW);
    let made = trials[0].make(Cores::default(), &AtomicBool::new(true));
    assert!(!made.expect("a free port").holds());
}
