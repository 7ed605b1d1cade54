//! The planted slow-down, for real: it burns what it should, and ends as its service ends.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use threeways::host;

/// CPU to burn, in µs per second: 4 % of a core.
const US_PER_S: u64 = 40_000;

fn handicapped(script: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_threeways"))
        .args(["handicap", &format!("--cpu-us-per-s={US_PER_S}"), "--"])
        .args(["sh", "-c", script])
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary was built")
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("pids are small")
}

fn terminate(child: &Child) {
    let pid = Pid::from_raw(pid(child)).expect("not zero");
    kill_process(pid, Signal::TERM).expect("own child");
}

/// CPU of every thread of the process in s.
fn cpu_s(pid: i32) -> f64 {
    let tasks = host::tasks(pid).into_iter();
    let ns: u64 = tasks
        .filter_map(|tid| Some(host::schedstat(pid, tid)?.0))
        .sum();
    ns as f64 / 1e9
}

#[test]
fn it_burns_what_it_is_told_to_beside_the_service() {
    let mut child = handicapped("exec sleep 30");
    std::thread::sleep(Duration::from_millis(500));
    let (before, since) = (cpu_s(pid(&child)), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let burnt = (cpu_s(pid(&child)) - before) / since.elapsed().as_secs_f64();
    terminate(&child);
    child.wait().expect("own child");
    let asked = US_PER_S as f64 / 1e6;
    assert!((burnt / asked - 1.0).abs() < 0.2, "{burnt} of {asked}");
}

#[test]
fn it_passes_sigterm_on_and_ends_with_the_status_of_the_service() {
    for (script, code) in [
        ("trap 'exit 0' TERM; while :; do sleep 0.01; done", 0),
        ("trap 'exit 7' TERM; while :; do sleep 0.01; done", 7),
        ("exec sleep 30", 128 + 15),
    ] {
        let mut child = handicapped(script);
        std::thread::sleep(Duration::from_millis(500));
        terminate(&child);
        let status = child.wait().expect("own child");
        assert_eq!(status.code(), Some(code), "{script}");
    }
}

#[test]
fn it_ends_when_the_service_ends() {
    let mut child = handicapped("exit 3");
    assert_eq!(child.wait().expect("own child").code(), Some(3));
}

#[test]
fn a_service_that_is_not_there_is_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_threeways"))
        .args(["handicap", "--cpu-us-per-s=1", "--", "/nowhere/service"])
        .output()
        .expect("the binary was built");
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/service"));
}
