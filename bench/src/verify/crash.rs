//! Sudden deaths of the service's own processes.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use serde_json::json;

use super::{
    Context,
    case::{Case, Skip, eventually, expect_status},
    scene::{Asker, Scene, event, signal_process},
};
use crate::http::{self, Request};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "a child that dies comes back, and the others go on meanwhile",
        child,
    ),
    Case::required("no process outlives a killed parent", parent),
];

/// Longest time until a dead child is replaced and does its work.
const RECOVERY_LIMIT: Duration = Duration::from_secs(10);
/// Longest time until children notice that their parent is gone.
const ORPHAN_LIMIT: Duration = Duration::from_secs(3);

fn child(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let children = children(&scene);
    if children.is_empty() {
        scene.stop()?;
        return Err(Skip("it is a single process".to_owned()).into());
    }
    for (n, child) in children.iter().copied().enumerate() {
        signal_process(child, Signal::KILL)?;
        check_others(context, &scene, n).with_context(|| format!("beside the dead child {n}"))?;
        eventually("as many processes as before", RECOVERY_LIMIT, || {
            let now = self::children(&scene);
            Ok(!now.contains(&child) && now.len() == children.len())
        })?;
        eventually("ready again", RECOVERY_LIMIT, || {
            let ready = scene.get("/readyz");
            Ok(ready.is_ok_and(|ready| ready.status == 200))
        })?;
        let id = format!("crash-{n}");
        Asker::new(context)?.store("k", &id, &json!({"n": n}))?;
        let latest = scene.get("/api/v1/latest/k")?;
        expect_status("the latest event", &latest, 200)?;
        let told: BTreeSet<i64> = scene.get("/info")?.json()["pids"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(serde_json::Value::as_i64)
            .collect();
        ensure!(
            !told.contains(&i64::from(child)) && told.len() > children.len(),
            "/info tells the processes {told:?} after the death of {child}"
        );
    }
    scene.stop()
}

fn children(scene: &Scene) -> Vec<i32> {
    let mut pids = scene.pids();
    pids.retain(|pid| *pid != scene.root());
    pids
}

/// Checks that what the dead child did not do goes on at once: REST, or the stream of events.
fn check_others(context: &Context<'_>, scene: &Scene, n: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut rest = false;
    let limit = Duration::from_secs(1);
    while !rest && started.elapsed() < limit {
        // A connection that the dead child had is lost; the next one is somebody else's.
        let health = http::once(scene.address, limit, &Request::new("GET", "/healthz"));
        rest = health.is_ok_and(|response| response.status == 200);
    }
    let message = event("beside", &format!("beside-{n}"), &json!({"n": n}));
    let amqp = Asker::new(context)?.answers_within(&message, limit)?;
    ensure!(rest || amqp, "neither REST nor AMQP went on");
    ensure!(rest, "/healthz is not answered within {limit:?}");
    Ok(())
}

fn parent(context: &mut Context<'_>) -> anyhow::Result<()> {
    let mut scene = Scene::start(context, &[])?;
    for kind in ["cpu", "blocking"] {
        let body = json!({"kind": kind, "duration_ms": 60_000}).to_string();
        expect_status(kind, &scene.post("/api/v1/jobs", &body)?, 202)?;
    }
    // Before the kill as well: an orphan has another parent, and by that nobody would find it.
    scene.living();
    scene.signal(Signal::KILL)?;
    eventually("every process is gone", ORPHAN_LIMIT, || {
        Ok(scene.living().is_empty())
    })
}
