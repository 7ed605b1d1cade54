//! What the edges of a window let in: nothing that the generator does before or behind it.

use std::path::Path;
use std::process::{Command, Stdio};

use threeways::record::Sample;
use threeways::run_dir::RunDir;

/// Connections of the ladder's last rung, each with a thread of its own in the subject.
const CONNECTIONS: u64 = 4_096;

/// Runs the ladder over connections once and returns what was sampled of its last rung.
fn last_rung() -> Vec<Sample> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("edges");
    let _ = std::fs::remove_dir_all(&out);
    let status = Command::new(env!("CARGO_BIN_EXE_threeways"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["run", "--scenario", "connections", "--profile", "smoke"])
        .args(["--subject", "multi-thread", "--blocks", "1", "--out"])
        .arg(&out)
        .env_remove("AMQP_URL")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("the binary was built");
    assert!(status.success(), "{status}");
    let mut runs = std::fs::read_dir(&out).expect("made by it").flatten();
    let run = RunDir::open(&runs.next().expect("one run").path()).expect("a run");
    let launches = run.launches().expect("finished");
    let name = format!("connections/connections={CONNECTIONS}");
    let rung = launches.iter().find(|launch| launch.cell == name);
    run.samples(rung.expect("the last rung")).expect("written")
}

#[test]
fn the_end_of_the_connections_is_no_part_of_the_window() {
    let samples = last_rung();
    let switches: Vec<u64> = samples.iter().map(|it| it.voluntary_switches).collect();
    let (first, last) = (switches[0], switches[switches.len() - 1]);
    // Each thread is woken by the end of its connection, and by nothing else but its one request.
    assert!(last - first < CONNECTIONS / 2, "{switches:?}");
}
