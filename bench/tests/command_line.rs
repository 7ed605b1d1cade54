//! What a user gets for bad input: one clear message, an exit code, and nothing left behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A workspace of its own with copies of the real definitions, removed at the end.
struct Workspace(PathBuf);

impl Workspace {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("threeways-{name}-{}", std::process::id()));
        for folder in ["scenarios", "subjects"] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let to = root.join("bench").join(folder);
            std::fs::create_dir_all(&to).expect("temporary folder");
            for entry in std::fs::read_dir(from).expect("the tree has it") {
                let path = entry.expect("readable").path();
                let name = path.file_name().expect("a file");
                std::fs::copy(&path, to.join(name)).expect("copied");
            }
        }
        Self(root)
    }

    fn threeways(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_threeways"))
            .current_dir(&self.0)
            .args(arguments)
            .env("AMQP_URL", "amqp://guest:guest@127.0.0.1:1/%2f")
            .output()
            .expect("the binary was built")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("made above");
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unknown_verb_names_itself_and_the_usage() {
    let output = Workspace::new("verb").threeways(&["meter"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("meter") && text(&output).contains("Usage"));
}

#[test]
fn an_unknown_key_in_a_scenario_names_file_and_key() {
    let workspace = Workspace::new("key");
    let file = workspace.0.join("bench/scenarios/idle.toml");
    let good = std::fs::read_to_string(&file).expect("copied");
    std::fs::write(&file, format!("conections = 3\n{good}")).expect("writable");
    let output = workspace.threeways(&["run"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("idle.toml") && text(&output).contains("conections"));
}

#[test]
fn an_unknown_key_in_a_subject_names_file_and_key() {
    let workspace = Workspace::new("subject-key");
    let file = workspace.0.join("bench/subjects/async.toml");
    let good = std::fs::read_to_string(&file).expect("copied");
    std::fs::write(&file, format!("{good}\nworkers = 3\n")).expect("writable");
    let output = workspace.threeways(&["list"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("async.toml") && text(&output).contains("workers"));
}

#[test]
fn an_unknown_scenario_or_subject_lists_the_known_ones() {
    let workspace = Workspace::new("names");
    for option in ["--scenario", "--subject"] {
        let output = workspace.threeways(&["run", option, "nonsense"]);
        assert_eq!(output.status.code(), Some(2));
        let text = text(&output);
        assert!(
            text.contains("nonsense") && text.contains("known are"),
            "{text}"
        );
    }
}

#[test]
fn a_broker_that_does_not_answer_is_named_and_leaves_no_run_behind() {
    let workspace = Workspace::new("broker");
    let output = workspace.threeways(&["run", "--out", "results"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("127.0.0.1:1"), "{}", text(&output));
    assert!(!workspace.0.join("results").exists());
}

#[test]
fn a_port_in_use_is_told_with_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = taken.local_addr().expect("bound").to_string();
    let output = Workspace::new("port").threeways(&["device", "--listen", &address]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains(&address) && text(&output).contains("--listen"));
}

#[test]
fn a_folder_that_is_no_run_is_told() {
    let output = Workspace::new("report").threeways(&["report", "nowhere"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains("nowhere"));
}

#[test]
fn the_definitions_can_be_listed() {
    let output = Workspace::new("list").threeways(&["list"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    for name in [
        "* async",
        "  async-multi-thread",
        "* io-wait",
        "  ceiling",
        "smoke",
    ] {
        assert!(text.contains(name), "{name} is missing in {text}");
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    // Unlike the other streams of a test, a pipe whose reader is gone already.
    let (reader, writer) = std::io::pipe().expect("room for a pipe");
    drop(reader);
    let workspace = Workspace::new("closed");
    let output = Command::new(env!("CARGO_BIN_EXE_threeways"))
        .current_dir(&workspace.0)
        .arg("list")
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .expect("the binary was built");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "");
}

#[test]
fn results_that_cannot_be_kept_are_told_before_anything_is_started() {
    let workspace = Workspace::new("out");
    std::fs::write(workspace.0.join("file"), "").expect("writable");
    for verb in [
        &["run"][..],
        &["run", "--scenario", "faults"],
        &["capacity"],
    ] {
        let output = workspace.threeways(&[verb, &["--out", "file/results"]].concat());
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        let text = text(&output);
        assert!(
            text.contains("file/results") && text.contains("--out"),
            "{text}"
        );
    }
}

#[test]
fn an_objective_that_cannot_be_meant_names_what_could_be() {
    let workspace = Workspace::new("slo");
    for (objective, expected) in [
        ("rest.p99", "METRIC=VALUE"),
        ("rest.p42=5ms", "known are: rest.p50"),
        ("rest.p99=50", "one of: ms, us"),
        ("pss=64ms", "one of: MiB"),
        ("nowhere:pss=64MiB", "steady-mixed"),
    ] {
        let output = workspace.threeways(&["run", "--slo", objective]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
    let output = workspace.threeways(&["run", "--scenario", "faults", "--slo", "pss=64MiB"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}
