//! Subjects made of a line of shell, which do what no service may.

use super::*;
use crate::sample::members;

fn plan(script: &str, stderr: &str) -> LaunchPlan {
    LaunchPlan {
        name: "fake".into(),
        executable: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        environment: BTreeMap::new(),
        cpus: Some(vec![0]),
        stderr: std::env::temp_dir().join(format!("{stderr}-{}", std::process::id())),
        ready_within: Duration::from_millis(500),
    }
}

#[test]
fn a_subject_that_ends_early_is_quoted() {
    let error = start(plan("echo no broker >&2; exit 3", "early")).expect_err("it ends");
    let text = error.to_string();
    assert!(
        text.contains("no broker") && text.contains("exit status: 3"),
        "{text}"
    );
}

#[test]
fn a_subject_that_never_listens_is_given_up_and_killed() {
    let error = start(plan("echo busy >&2; sleep 60", "never")).expect_err("it is late");
    let text = error.to_string();
    assert!(
        text.contains("not ready") && text.contains("busy"),
        "{text}"
    );
}

#[test]
fn an_orphan_is_a_fault_and_is_killed() {
    let script = "trap 'exit 0' TERM; sleep 60 & echo listening on http://127.0.0.1:1; wait";
    let running = start(plan(script, "orphan")).expect("it prints its address");
    let root = running.root();
    let stopped = running.stop(Duration::from_secs(5));
    assert!(
        stopped.faults[0].contains("left processes behind"),
        "{stopped:?}"
    );
    assert!(members(root).is_empty());
}

#[test]
fn an_orphan_with_a_group_of_its_own_is_one_too() {
    let script = "trap 'exit 0' TERM; setsid sleep 60 & sleep 0.1; \
                  echo listening on http://127.0.0.1:1; wait";
    let mut running = start(plan(script, "stray")).expect("it prints its address");
    let living = running.living();
    assert_eq!(living.len(), 2, "{living:?}");
    let stopped = running.stop(Duration::from_secs(5));
    assert!(
        stopped.faults[0].contains("left processes behind"),
        "{stopped:?}"
    );
    let alive = |pid: &i32| host::parent_and_group(*pid).is_some();
    assert!(!living.iter().any(alive), "{living:?} are not all killed");
}

#[test]
fn a_subject_that_ignores_sigterm_is_killed() {
    let script = "trap '' TERM; echo listening on http://127.0.0.1:1; sleep 60; sleep 60";
    let running = start(plan(script, "deaf")).expect("it prints its address");
    let root = running.root();
    let stopped = running.stop(Duration::from_millis(100));
    assert!(stopped.faults[0].contains("did not end"), "{stopped:?}");
    assert!(members(root).is_empty());
}

#[test]
fn a_death_in_mid_run_is_told() {
    let script = "echo listening on http://127.0.0.1:1; echo aua >&2; sleep 0.1; exit 7";
    let mut running = start(plan(script, "death")).expect("it prints its address");
    while running.ended().is_none() {
        std::thread::sleep(LOOK);
    }
    let stopped = running.stop(Duration::from_secs(1));
    assert!(stopped.faults[0].contains("died in mid-run"), "{stopped:?}");
    assert!(stopped.faults[0].contains("aua"), "{stopped:?}");
}

#[test]
fn the_command_line_names_no_folder_of_the_machine() {
    let mut plan = plan("exit 0", "command");
    plan.executable = "/home/somebody/target/release/threeways".into();
    let service = "/home/somebody/target/release/service-async";
    plan.args = ["handicap", "--", service, "a/b"].map(String::from).into();
    assert_eq!(
        plan.command(),
        ["threeways", "handicap", "--", "service-async", "a/b"]
    );
}
