//! The broker goes and comes back.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use contract::{QueueType, amqp::INGEST_QUEUE};
use serde_json::json;

use super::{
    Context,
    case::{Case, eventually, expect_status, need_private_node},
    scene::{Asker, MESSAGE_LIMIT, NO_BROKER, Scene, event},
};

/// Longest time from the broker's return to ready: the contract's longest pause and a silent attempt,
/// both twice, since a broker that answers may still be unable to declare.
const RECOVERY_LIMIT: Duration = Duration::from_secs(10);
/// Events on each side of the restart.
const EVENTS: u32 = 2_000;

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("a broker restart in mid-stream loses nothing", restart),
    Case::required(
        "connections that the broker closes are made again, and nothing is lost",
        closed_connections,
    ),
    Case::required(
        "a queue that is deleted is declared and consumed again",
        deleted_queue,
    ),
    Case::required("a broker that comes later is found", late_broker),
    Case::required(
        "SIGTERM without a broker ends it at once",
        stop_without_broker,
    ),
];

fn events(from: u32, to: u32) -> impl Iterator<Item = crate::amqp::Message> {
    (from..to).map(|n| {
        event(
            &format!("s-{:02}", n % 100),
            &format!("r-{n}"),
            &json!({"n": n}),
        )
    })
}

fn restart(context: &mut Context<'_>) -> anyhow::Result<()> {
    need_private_node(context)?;
    let scene = Scene::start_empty(context, &[])?;
    publish(context, 0, EVENTS)?;
    // Not awaited: deliveries are under way when the broker goes.
    context.broker.halt()?;
    let alive = scene.get("/healthz")?;
    ensure!(
        alive.status == 200,
        "/healthz is {} during the outage",
        alive.status
    );
    eventually(
        "/readyz is 503 during the outage",
        Duration::from_secs(30),
        || Ok(scene.get("/readyz")?.status == 503),
    )?;
    context.broker.resume()?;
    eventually("ready again", RECOVERY_LIMIT, || {
        Ok(scene.get("/readyz")?.status == 200)
    })?;
    publish(context, EVENTS, 2 * EVENTS)?;
    check_all_arrived(context, &scene)?;
    // The publisher has a connection of its own, which must have come back, too.
    let before = counted(&scene)?;
    let answer = scene.post("/api/v1/events", r#"{"key":"after","data":{}}"#)?;
    ensure!(
        answer.status == 202,
        "events is {}: {}",
        answer.status,
        answer.text()
    );
    eventually("that event is counted, too", Duration::from_secs(5), || {
        Ok(counted(&scene)? > before)
    })?;
    scene.stop()?;
    let left = context.broker.depth(INGEST_QUEUE)?;
    ensure!(left == 0, "{left} events are still queued");
    Ok(())
}

fn publish(context: &Context<'_>, from: u32, to: u32) -> anyhow::Result<()> {
    let batch = context.broker.session()?.publish_batch(events(from, to))?;
    ensure!(
        batch.acked == u64::from(to - from),
        "the broker took {batch:?}"
    );
    Ok(())
}

/// Events that the subject took. One whose ack was lost with the connection comes again, and may
/// be counted as a duplicate instead.
fn counted(scene: &Scene) -> anyhow::Result<f64> {
    Ok(scene.deliveries("ok")? + scene.deliveries("duplicate")?)
}

/// Checks that every event is counted, none twice, and the newest of each key is visible.
fn check_all_arrived(context: &Context<'_>, scene: &Scene) -> anyhow::Result<()> {
    let expected = f64::from(2 * EVENTS);
    let mut seen = 0.0;
    let all = eventually("every event is counted", Duration::from_secs(20), || {
        seen = counted(scene)?;
        Ok(seen >= expected)
    });
    let left = context.broker.depth(INGEST_QUEUE)?;
    all.with_context(|| format!("{seen} of {expected} events, {left} still queued"))?;
    let ok = scene.deliveries("ok")?;
    ensure!(
        ok <= expected,
        "{ok} events are counted, {expected} were published"
    );
    for n in 0..100 {
        let latest = scene.get(&format!("/api/v1/latest/s-{n:02}"))?;
        let newest = f64::from(2 * EVENTS - 100 + n);
        ensure!(
            latest.json()["fields"]["n"] == newest,
            "no {newest}: {}",
            latest.text()
        );
    }
    Ok(())
}

fn late_broker(context: &mut Context<'_>) -> anyhow::Result<()> {
    need_private_node(context)?;
    context.broker.reset(QueueType::Quorum)?;
    context.broker.halt()?;
    let started = Scene::start_unready(context, &[]);
    // The broker comes back whatever the subject did, for the cases after this one.
    let resumed = AtomicBool::new(false);
    let outcome = started.map_err(anyhow::Error::from).and_then(|scene| {
        let ready = scene.get("/readyz")?;
        ensure!(
            ready.status == 503,
            "/readyz is {} without a broker",
            ready.status
        );
        context.broker.resume()?;
        resumed.store(true, Ordering::Relaxed);
        eventually("ready", RECOVERY_LIMIT, || {
            Ok(scene.get("/readyz")?.status == 200)
        })?;
        let reply = Asker::new(context)?.ask(&event("late", "late-1", &json!({"n": 1})))?;
        ensure!(reply["outcome"] == "ok", "the reply is {reply}");
        scene.stop()
    });
    if !resumed.load(Ordering::Relaxed) {
        context.broker.resume()?;
    }
    outcome
}

fn stop_without_broker(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_unready(context, &[("BC_AMQP_URL", NO_BROKER)])?;
    let started = std::time::Instant::now();
    scene.stop()?;
    let took = started.elapsed();
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    Ok(())
}

fn closed_connections(context: &mut Context<'_>) -> anyhow::Result<()> {
    need_private_node(context)?;
    let scene = Scene::start_empty(context, &[])?;
    publish(context, 0, EVENTS)?;
    // Not awaited: deliveries are under way when the connections go.
    context
        .broker
        .control(&["close_all_connections", "verify"])?;
    eventually("both connections are new", RECOVERY_LIMIT, || {
        Ok(scene.metric("amqp_reconnects_total")? >= 2.0 && scene.get("/readyz")?.status == 200)
    })?;
    publish(context, EVENTS, 2 * EVENTS)?;
    check_all_arrived(context, &scene)?;
    let answer = scene.post("/api/v1/events", r#"{"key":"after","data":{}}"#)?;
    expect_status("events", &answer, 202)?;
    scene.stop()
}

fn deleted_queue(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    Asker::new(context)?.store("before", "deleted-1", &json!({"n": 1}))?;
    context.broker.session()?.delete_queue(INGEST_QUEUE)?;
    let mut n = 1;
    let mut asker = Asker::new(context)?;
    let again = eventually("events are taken again", RECOVERY_LIMIT, || {
        n += 1;
        let message = event("after", &format!("deleted-{n}"), &json!({"n": n}));
        asker.answers_within(&message, Duration::from_millis(500))
    });
    again.with_context(|| format!("after {n} events"))?;
    eventually("ready", MESSAGE_LIMIT, || {
        Ok(scene.get("/readyz")?.status == 200)
    })?;
    scene.stop()
}
