//! Deliveries that come again: after a failure that may pass, and after a sudden death.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use contract::{
    QueueType,
    amqp::{DEAD_LETTER_QUEUE, INGEST_QUEUE},
};
use serde_json::json;

use super::{
    Context,
    case::{Case, eventually},
    ingest::expect_death,
    scene::{Asker, MESSAGE_LIMIT, Scene, event},
};
use crate::amqp::DIRECT_REPLY_TO;

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "an event that fails for the moment is delivered 4 times, then a dead letter",
        transient,
    ),
    Case::required(
        "events go on beside one that fails for the moment",
        beside_transient,
    ),
    Case::required("kill -9 in mid-stream loses no event", killed),
    Case::required("a reply that nobody waits for hurts nobody", unwanted_reply),
];

/// Key whose events fail.
const FAULT: [(&str, &str); 1] = [("BC_FAULT_KEY", "faulty")];
/// Deliveries of an event that always fails: the first one and `x-delivery-limit` more.
const DELIVERIES: f64 = 4.0;
/// Longest time for all of them, each a fifth of a second after the one before.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(10);

fn transient(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &FAULT)?;
    let started = Instant::now();
    let batch = [event("faulty", "transient-1", &json!({"n": 1}))];
    context.broker.session()?.publish_batch(batch)?;
    eventually("it is a dead letter", GIVE_UP_LIMIT, || {
        Ok(context.broker.depth(DEAD_LETTER_QUEUE)? == 1)
    })?;
    let took = started.elapsed();
    // Given back at once it would spin four times within a millisecond.
    ensure!(
        took >= Duration::from_millis(400),
        "given up after {took:?}: it did not wait between the deliveries"
    );
    eventually("every delivery is counted", MESSAGE_LIMIT, || {
        Ok(scene.deliveries("transient")? >= DELIVERIES)
    })?;
    let counts = (scene.deliveries("transient")?, scene.deliveries("ok")?);
    ensure!(
        counts == (DELIVERIES, 0.0),
        "transient and ok are {counts:?}"
    );
    let dead = context.broker.session()?.get(DEAD_LETTER_QUEUE)?;
    let dead = dead.context("counted above")?;
    expect_death(&dead, "delivery_limit")?;
    scene.stop()
}

fn beside_transient(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &FAULT)?;
    let mut asker = Asker::new(context)?;
    for n in 0..5 {
        let id = format!("fails-{n}");
        let message = event("faulty", &id, &json!({"n": n}));
        let replied = asker.answers_within(&message, Duration::from_millis(20))?;
        ensure!(!replied, "a reply to an event that failed");
        let started = Instant::now();
        for m in 0..10 {
            asker.store("sound", &format!("sound-{n}-{m}"), &json!({"m": m}))?;
        }
        let took = started.elapsed();
        ensure!(
            took < Duration::from_secs(1),
            "10 events take {took:?} beside one that fails"
        );
    }
    eventually("all five are dead letters", GIVE_UP_LIMIT, || {
        Ok(context.broker.depth(DEAD_LETTER_QUEUE)? == 5)
    })?;
    eventually("every event is settled", MESSAGE_LIMIT, || {
        Ok(scene.deliveries("ok")? == 50.0 && scene.deliveries("transient")? == 5.0 * DELIVERIES)
    })?;
    scene.stop()?;
    let left = context.broker.depth(INGEST_QUEUE)?;
    ensure!(left == 0, "{left} events are queued again after the stop");
    Ok(())
}

fn killed(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.broker.reset(QueueType::Quorum)?;
    let count = 3_000;
    let events = (0..count).map(|n| {
        let key = format!("k-{n:04}");
        event(&key, &format!("killed-{n}"), &json!({"n": n}))
    });
    let batch = context.broker.session()?.publish_batch(events)?;
    ensure!(batch.acked == count, "the broker took {batch:?}");
    // Slow enough to be caught in the middle.
    let scene = Scene::start(context, &[("BC_CPU_US", "500")])?;
    let mut acked = 0.0;
    eventually("it is in mid-stream", Duration::from_secs(10), || {
        acked = scene.deliveries("ok")?;
        Ok(acked >= 300.0)
    })?;
    drop(scene);
    let mut left = 0;
    eventually("the broker has them back", MESSAGE_LIMIT, || {
        let before = std::mem::replace(&mut left, context.broker.depth(INGEST_QUEUE)?);
        Ok(left == before)
    })?;
    ensure!(left > 0, "nothing was left: the case shows nothing");
    ensure!(
        count as f64 - f64::from(left) >= acked,
        "{acked} were acked, and {left} of {count} are queued again"
    );
    let scene = Scene::start(context, &[])?;
    eventually("the rest is taken", Duration::from_secs(15), || {
        Ok(scene.deliveries("ok")? >= f64::from(left))
    })?;
    // Each event has a key of its own: whatever was not acked must be visible now.
    let mut keys = 0;
    for prefix in ["k-0", "k-1", "k-2"] {
        let page = scene.get(&format!("/api/v1/keys?prefix={prefix}&limit=1000"))?;
        keys += page.json()["keys"].as_array().map_or(0, Vec::len);
    }
    ensure!(
        keys == usize::try_from(left)?,
        "{left} events came again, {keys} are visible"
    );
    let dead = context.broker.depth(DEAD_LETTER_QUEUE)?;
    ensure!(dead == 0, "{dead} events are dead letters");
    scene.stop()
}

fn unwanted_reply(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    for (n, nobody) in ["gone.queue", DIRECT_REPLY_TO].into_iter().enumerate() {
        let mut message = event("k", &format!("unwanted-{n}"), &json!({"n": n}));
        let properties = message.properties.clone();
        message.properties = properties.with_reply_to(nobody.into());
        // A direct reply needs a consumer on the same channel; this one closes its channel at once.
        let mut session = context.broker.session()?;
        if nobody == DIRECT_REPLY_TO {
            session.consume(DIRECT_REPLY_TO, true)?;
        }
        session.publish_unconfirmed(&message)?;
        session.close()?;
    }
    let mut asker = Asker::new(context)?;
    for n in 0..20 {
        asker.store("k", &format!("wanted-{n}"), &json!({"n": n}))?;
    }
    eventually("every event is counted", MESSAGE_LIMIT, || {
        Ok(scene.deliveries("ok")? == 22.0)
    })?;
    let reconnects = scene.metric("amqp_reconnects_total")?;
    ensure!(reconnects == 0.0, "{reconnects} connections were lost");
    scene.stop()
}
