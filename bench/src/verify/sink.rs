//! The file sink: off the path of the deliveries, and no reason to stop.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    Context,
    case::{Case, eventually, expect_status},
    scene::{Asker, Scene, event},
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "the sink holds a line per event, at the latest after the stop",
        lines,
    ),
    Case::required("a full disk is counted and stops nothing", full_disk),
];

/// A file that takes nothing: every write fails as on a full disk, for any user and without
/// mounting one.
const FULL: &str = "/dev/full";
/// Longest time to the next write of the sink.
const FLUSH_LIMIT: Duration = Duration::from_secs(8);

/// The lines of a file, none if it does not exist yet.
fn read(path: &str) -> anyhow::Result<Vec<Value>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {path}"))?,
    };
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .with_context(|| format!("a line is no JSON: {text}"))
}

fn lines(context: &mut Context<'_>) -> anyhow::Result<()> {
    let path = context.target.scratch.join("sink.jsonl");
    // What an earlier subject wrote is not this one's.
    drop(std::fs::remove_file(&path));
    let path = path.to_string_lossy().into_owned();
    let scene = Scene::start_empty(context, &[("BC_SINK", &path)])?;
    let mut asker = Asker::new(context)?;
    for n in 0..50 {
        asker.store(&format!("k-{n}"), &format!("sink-{n}"), &json!({"n": n}))?;
    }
    eventually("the lines appear by themselves", FLUSH_LIMIT, || {
        Ok(read(&path)?.len() == 50)
    })?;
    for n in 50..100 {
        asker.store(&format!("k-{n}"), &format!("sink-{n}"), &json!({"n": n}))?;
    }
    // Neither a duplicate nor what is no event is a line.
    let repeated = asker.ask(&event("k-0", "sink-0", &json!({"n": 0})))?;
    ensure!(repeated["outcome"] == "duplicate", "{repeated}");
    scene.stop()?;
    let lines = read(&path)?;
    ensure!(lines.len() == 100, "{} lines of 100 events", lines.len());
    for (n, line) in lines.iter().enumerate() {
        let is_it = line["key"] == format!("k-{n}") && line["fields"]["n"] == json!(n as f64);
        ensure!(is_it && line["at"].is_u64(), "line {n} is {line}");
    }
    Ok(())
}

fn full_disk(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[("BC_SINK", FULL)])?;
    let mut asker = Asker::new(context)?;
    for n in 0..50 {
        asker.store("k", &format!("full-{n}"), &json!({"n": n}))?;
    }
    eventually("every line is counted as dropped", FLUSH_LIMIT, || {
        Ok(scene.metric("sink_dropped_total")? == 50.0)
    })?;
    let failed = r#"task_runs_total{task="flush",ok="false"}"#;
    eventually("the task has failed", FLUSH_LIMIT, || {
        Ok(scene.metric(failed)? >= 1.0)
    })?;
    asker.store("k", "full-after", &json!({"n": 1}))?;
    expect_status("/readyz", &scene.get("/readyz")?, 200)?;
    let log = scene.whole_stderr()?;
    ensure!(!log.is_empty(), "nothing is logged");
    scene.stop()
}
