//! A broker that is short of memory blocks publishers and goes on delivering.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use contract::QueueType;
use serde_json::json;

use super::{
    Context,
    case::{Case, eventually, expect_later, expect_status, need_private_node},
    rows::check_problem,
    scene::{Asker, Scene, event},
};
use crate::http::Request;

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "a blocking broker makes it unready and refuse events, but it goes on consuming",
        blocked,
    ),
    Case::required("SIGTERM while the broker blocks ends it in time", stop),
];

/// It publishes something every second, and so learns that it is blocked.
const BROADCAST: (&str, &str) = ("BC_BROADCAST_S", "1");
/// Longest time to notice.
const NOTICE_LIMIT: Duration = Duration::from_secs(8);
/// RabbitMQ's own watermark in the versions that the contract names, as a share of the memory.
const USUAL: &str = "0.4";
/// One that any node is above.
const NONE: &str = "0.000001";

/// Sets the share of memory above which the broker blocks publishers.
fn watermark(context: &Context<'_>, share: &str) -> anyhow::Result<()> {
    let set = context
        .broker
        .control(&["set_vm_memory_high_watermark", share]);
    set.map(drop).context("the memory alarm")
}

/// Does `work` with the alarm set, which is released whatever becomes of it.
fn with_alarm(
    context: &mut Context<'_>,
    work: impl FnOnce(&mut Context<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let outcome = watermark(context, NONE).and_then(|()| work(context));
    watermark(context, USUAL)?;
    outcome
}

fn await_blocked(scene: &Scene) -> anyhow::Result<()> {
    eventually("/readyz tells blocked", NOTICE_LIMIT, || {
        let ready = scene.get("/readyz")?;
        Ok(ready.status == 503 && ready.json()["checks"]["amqp"] == "blocked")
    })
}

fn blocked(context: &mut Context<'_>) -> anyhow::Result<()> {
    need_private_node(context)?;
    let count = 2_000;
    context.broker.reset(QueueType::Quorum)?;
    let events = (0..count).map(|n| event("k", &format!("alarm-{n}"), &json!({"n": n})));
    let batch = context.broker.session()?.publish_batch(events)?;
    ensure!(batch.acked == count, "the broker took {batch:?}");
    let mut started = None;
    with_alarm(context, |context| {
        // Nobody can publish any more, so it has to be consuming still when it learns of that.
        let slow = ("BC_CPU_US", "2500");
        let scene = started.insert(Scene::start_unready(context, &[BROADCAST, slow])?);
        await_blocked(scene)?;
        let taken = scene.deliveries("ok")?;
        ensure!(taken < count as f64, "all was consumed before it noticed");
        expect_status("/healthz", &scene.get("/healthz")?, 200)?;
        let refused = scene.send(&Request {
            headers: &[("Content-Type", "application/json"), ("X-Request-Id", "b")],
            ..Request::post("/api/v1/events", br#"{"key":"a","data":{}}"#)
        })?;
        expect_later("an event", &refused)?;
        check_problem(&refused, "broker-unavailable", "b")?;
        eventually("it goes on consuming", Duration::from_secs(3), || {
            Ok(scene.deliveries("ok")? > taken)
        })
    })?;
    let scene = started.context("it was started")?;
    eventually("ready again", NOTICE_LIMIT, || {
        Ok(scene.get("/readyz")?.status == 200)
    })?;
    let answer = scene.post("/api/v1/events", r#"{"key":"after","data":{}}"#)?;
    expect_status("events", &answer, 202)?;
    eventually("every event is counted", Duration::from_secs(30), || {
        Ok(scene.deliveries("ok")? == count as f64 + 1.0)
    })?;
    scene.stop()
}

fn stop(context: &mut Context<'_>) -> anyhow::Result<()> {
    need_private_node(context)?;
    let scene = Scene::start_empty(context, &[BROADCAST])?;
    Asker::new(context)?.store("k", "blocked-stop", &json!({"n": 1}))?;
    with_alarm(context, |_| {
        await_blocked(&scene)?;
        scene.stop()
    })
}
