//! Ingesting from AMQP.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use contract::amqp::{DEAD_LETTER_QUEUE, INGEST_QUEUE, STATE_EXCHANGE};
use serde_json::{Value, json};

use super::{
    Context,
    case::{Case, eventually, median_below},
    scene::{Asker, MESSAGE_LIMIT, Scene, event},
};
use crate::{
    amqp::{AMQPValue, BasicProperties, Delivery},
    broker::Broker,
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "an event is visible when its reply comes",
        visible_at_the_reply,
    ),
    Case::required(
        "when the queue is empty every event is visible",
        visible_when_empty,
    ),
    Case::required(
        "the isolated profile counts events and stores none",
        isolated,
    ),
    Case::required(
        "what is no event goes to the dead-letter queue",
        dead_letter,
    ),
    Case::required("whatever is no event is invalid, and nothing else", invalid),
    Case::required("events without a message id are never duplicates", nameless),
    Case::required(
        "a message id that was seen before is counted once",
        duplicate,
    ),
    Case::required("the service tells its state on brewcast.state", broadcast),
    Case::required("a lone message is answered in less than 5 ms", lone_echo),
];

fn visible_at_the_reply(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    let mut last_seq = 0;
    for n in 0..100 {
        let id = format!("visible-{n}");
        let reply = asker.ask(&event("fermenter", &id, &json!({"a": {"n": n}})))?;
        ensure!(
            reply == json!({"message_id": id, "outcome": "ok"}),
            "the reply is {reply}"
        );
        let latest = scene.get("/api/v1/latest/fermenter")?;
        let (document, text) = (latest.json(), latest.text());
        ensure!(latest.status == 200, "event {n}: {} {text}", latest.status);
        ensure!(
            document["fields"] == json!({"a/n": f64::from(n)}),
            "event {n} is not there: {text}"
        );
        let seq = document["seq"].as_u64().unwrap_or_default();
        ensure!(seq > last_seq, "seq goes from {last_seq} to {seq}");
        last_seq = seq;
        for name in ["received_at", "expires_at"] {
            let time = document[name].as_str().unwrap_or_default();
            ensure!(
                humantime::parse_rfc3339_weak(time).is_ok(),
                "{name}: {text}"
            );
        }
    }
    scene.stop()
}

fn visible_when_empty(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let events =
        (0..500).map(|n| event(&format!("key-{n:03}"), &format!("m-{n}"), &json!({"n": n})));
    let batch = context.broker.session()?.publish_batch(events)?;
    ensure!(batch.acked == 500, "the broker took {batch:?}");
    eventually("500 events are acked", Duration::from_secs(10), || {
        Ok(scene.deliveries("ok")? >= 500.0)
    })?;
    let page = scene.get("/api/v1/keys?prefix=key-&limit=1000")?;
    let keys = page.json()["keys"].as_array().map_or(0, Vec::len);
    ensure!(keys == 500, "{keys} keys of 500: {}", page.text());
    let page = scene.get("/api/v1/keys?prefix=key-&limit=2&after=key-100")?;
    let expected = json!({"keys": ["key-101", "key-102"], "next": "key-102"});
    ensure!(
        page.json() == expected,
        "{} instead of {expected}",
        page.text()
    );
    scene.stop()?;
    // What was counted as acked does not come back when the connection closes.
    let left = context.broker.depth(INGEST_QUEUE)?;
    ensure!(left == 0, "{left} events are queued again after the stop");
    Ok(())
}

fn isolated(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[("BC_PROFILE", "isolated")])?;
    let mut asker = Asker::new(context)?;
    for n in 0..10 {
        let reply = asker.ask(&event("mash", &format!("i-{n}"), &json!({"n": n})))?;
        ensure!(reply["outcome"] == "ok", "the reply is {reply}");
    }
    eventually("10 events are acked", MESSAGE_LIMIT, || {
        Ok(scene.deliveries("ok")? >= 10.0)
    })?;
    let stored = scene.metric("store_keys")?;
    ensure!(stored == 0.0, "{stored} keys are stored");
    scene.stop()
}

fn dead_letter(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    let mut broken = event("kettle", "broken-1", &Value::Null);
    broken.body = b"{\"key\":".to_vec();
    let reply = asker.ask(&broken)?;
    let expected = json!({"message_id": "broken-1", "outcome": "invalid"});
    ensure!(reply == expected, "the reply is {reply}");
    let dead = await_message(context.broker, DEAD_LETTER_QUEUE)?;
    ensure!(
        dead.body == broken.body,
        "another body: {:?}",
        String::from_utf8_lossy(&dead.body)
    );
    expect_death(&dead, "rejected")?;
    ensure!(
        scene.deliveries("invalid")? >= 1.0,
        "not counted as invalid"
    );
    let reply = asker.ask(&event("kettle", "whole-1", &json!({"n": 1})))?;
    ensure!(reply["outcome"] == "ok", "the next event: {reply}");
    scene.stop()
}

fn invalid(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    let deep = |levels: usize| {
        let (open, close) = ("{\"a\":".repeat(levels), "}".repeat(levels));
        format!("{{\"key\":\"k\",\"data\":{open}1{close}}}")
    };
    let long = |bytes: usize| {
        let head = "{\"key\":\"k\",\"data\":{\"t\":\"";
        format!("{head}{}\"}}}}", "x".repeat(bytes - head.len() - 3))
    };
    let mut dead = 0;
    for (n, (body, outcome)) in [
        (String::new(), "invalid"),
        ("[]".to_owned(), "invalid"),
        (r#"{"key":"k"}"#.to_owned(), "invalid"),
        (r#"{"key":"k","data":[]}"#.to_owned(), "invalid"),
        (r#"{"key":"a b","data":{}}"#.to_owned(), "invalid"),
        (r#"{"key":"k","data":{},"more":1}"#.to_owned(), "invalid"),
        (deep(33), "invalid"),
        (long(256 * 1024 + 1), "invalid"),
        (deep(32), "ok"),
        (long(256 * 1024), "ok"),
        (r#"{"key":"k","data":{}}"#.to_owned(), "ok"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut message = event("k", &format!("invalid-{n}"), &Value::Null);
        message.body = body.into_bytes();
        let start = String::from_utf8_lossy(&message.body[..message.body.len().min(40)]);
        let start = start.into_owned();
        let reply = asker.ask(&message).with_context(|| start.clone())?;
        ensure!(reply["outcome"] == outcome, "{start}: the reply is {reply}");
        dead += u32::from(outcome == "invalid");
    }
    eventually("every invalid one is a dead letter", MESSAGE_LIMIT, || {
        Ok(context.broker.depth(DEAD_LETTER_QUEUE)? == dead)
    })?;
    scene.stop()
}

fn nameless(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut message = event("k", "", &json!({"n": 1}));
    message.properties = BasicProperties::default();
    let batch = context
        .broker
        .session()?
        .publish_batch(std::iter::repeat_n(message, 5))?;
    ensure!(batch.acked == 5, "the broker took {batch:?}");
    eventually("all five are counted", MESSAGE_LIMIT, || {
        Ok(scene.deliveries("ok")? == 5.0)
    })?;
    let duplicates = scene.deliveries("duplicate")?;
    ensure!(duplicates == 0.0, "{duplicates} are taken for duplicates");
    scene.stop()
}

/// Checks why and where a message died, as the broker tells it.
pub(super) fn expect_death(dead: &Delivery, reason: &str) -> anyhow::Result<()> {
    let headers = dead.properties.headers().clone().unwrap_or_default();
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        anyhow::bail!("no x-death in {headers:?}");
    };
    let Some(AMQPValue::FieldTable(last)) = deaths.as_slice().first() else {
        anyhow::bail!("x-death is empty");
    };
    for (name, expected) in [("reason", reason), ("queue", INGEST_QUEUE)] {
        let told = match last.inner().get(name) {
            Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()),
            _ => "missing".into(),
        };
        ensure!(
            told == expected,
            "{name} in x-death is {told} instead of {expected}"
        );
    }
    Ok(())
}

fn await_message(broker: &Broker, queue: &str) -> anyhow::Result<Delivery> {
    let mut session = broker.session()?;
    let mut found = None;
    eventually("a message in the dead-letter queue", MESSAGE_LIMIT, || {
        found = session.get(queue)?;
        Ok(found.is_some())
    })?;
    found.context("found above")
}

fn duplicate(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    let first = asker.ask(&event("tun", "same", &json!({"n": 1})))?;
    let second = asker.ask(&event("tun", "same", &json!({"n": 2})))?;
    ensure!(first["outcome"] == "ok", "the first: {first}");
    ensure!(second["outcome"] == "duplicate", "the second: {second}");
    eventually("both are acked", MESSAGE_LIMIT, || {
        Ok(scene.deliveries("ok")? >= 1.0 && scene.deliveries("duplicate")? >= 1.0)
    })?;
    let counts = (scene.deliveries("ok")?, scene.deliveries("duplicate")?);
    ensure!(counts == (1.0, 1.0), "ok and duplicate are {counts:?}");
    let latest = scene.get("/api/v1/latest/tun")?;
    ensure!(
        latest.json()["fields"]["n"] == 1.0,
        "it was stored again: {}",
        latest.text()
    );
    scene.stop()
}

fn broadcast(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[("BC_BROADCAST_S", "1")])?;
    let mut session = context.broker.session()?;
    let queue = session.declare_temporary()?;
    session.bind(&queue, STATE_EXCHANGE, "#")?;
    session.consume(&queue, true)?;
    let started = Instant::now();
    for _ in 0..2 {
        let message = session
            .next_delivery(MESSAGE_LIMIT)?
            .context("nothing was told")?;
        let body: BTreeMap<String, Value> = serde_json::from_slice(&message.body)?;
        let key = body.get("key");
        ensure!(key == Some(&json!("verified")), "the body is {body:?}");
        ensure!(
            body.get("data").is_some_and(Value::is_object),
            "the body is {body:?}"
        );
    }
    let took = started.elapsed();
    ensure!(
        took < Duration::from_secs(4),
        "two broadcasts a second apart took {took:?}"
    );
    scene.stop()
}

fn lone_echo(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    let mut ids = 0..;
    median_below(Duration::from_millis(5), || {
        let mut delays = Vec::new();
        for n in ids.by_ref().take(100) {
            let message = event("lone", &format!("lone-{n}"), &json!({"n": n}));
            let started = Instant::now();
            asker.ask(&message)?;
            delays.push(started.elapsed());
            // Alone: the connection is idle before each of them.
            std::thread::sleep(Duration::from_millis(10).saturating_sub(started.elapsed()));
        }
        Ok(delays)
    })?;
    scene.stop()
}
