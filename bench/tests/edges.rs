//! What the edges of a window let in: nothing that the generator does before or behind it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Connections of the ladder's last rung, each with a thread of its own in the subject.
const CONNECTIONS: u64 = 4_096;

/// Runs the ladder over connections once and returns the folder of its last rung.
fn last_rung() -> PathBuf {
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
    let run = std::fs::read_dir(&out)
        .expect("made by it")
        .flatten()
        .next();
    let launches = run.expect("one run").path().join("launches");
    let rung = std::fs::read_dir(launches).expect("made").flatten();
    let name = format!("connections={CONNECTIONS}");
    rung.map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(&name))
        .expect("the last rung")
}

/// The column's values in the order of the samples.
fn column(launch: &Path, name: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(launch.join("samples.csv")).expect("written");
    let mut lines = text.lines().map(|line| line.split(','));
    let index = lines
        .next()
        .and_then(|mut head| head.position(|it| it == name));
    let index = index.expect("a known column");
    let values = lines.filter_map(|mut fields| fields.nth(index)?.parse().ok());
    values.collect()
}

#[test]
fn the_end_of_the_connections_is_no_part_of_the_window() {
    let switches = column(&last_rung(), "voluntary_switches");
    let (first, last) = (switches[0], switches[switches.len() - 1]);
    // Each thread is woken by the end of its connection, and by nothing else but its one request.
    assert!(last - first < CONNECTIONS / 2, "{switches:?}");
}
