//! Publishing through REST.

use anyhow::{Context as _, ensure};
use contract::{
    QueueType,
    amqp::{ArgumentValue, HISTORY_EXCHANGE, INGEST_QUEUE, Queue},
};
use serde_json::json;

use super::{
    Context,
    case::{Case, eventually, expect_later, expect_status},
    rows::check_problem,
    scene::{MESSAGE_LIMIT, NO_BROKER, Scene, event},
};
use crate::{
    amqp::{Session, declare_queue},
    http::Request,
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("an accepted event is on the exchange", accepted),
    Case::required(
        "an event without a broker is 503 with Retry-After",
        unavailable,
    ),
    Case::required("an event that a full queue refuses is 503", full_queue),
    Case::required("an event that no queue takes is 503", unroutable),
    Case::required(
        "of many events at once just those that no queue takes are 503",
        partly_unroutable,
    ),
    Case::required(
        "wrong events are refused without a broker, too",
        refused_first,
    ),
];

fn accepted(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.broker.reset(QueueType::Quorum)?;
    let mut session = context.broker.session()?;
    let queue = session.declare_temporary()?;
    session.bind(&queue, HISTORY_EXCHANGE, "kettle-1")?;
    session.consume(&queue, true)?;
    let scene = Scene::start(context, &[])?;
    let response = scene.post("/api/v1/events", r#"{"key":"kettle-1","data":{"t":21.5}}"#)?;
    ensure!(
        response.status == 202,
        "{}: {}",
        response.status,
        response.text()
    );
    let id = response.json()["message_id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(!id.is_empty(), "no message_id: {}", response.text());
    let message = session
        .next_delivery(MESSAGE_LIMIT)?
        .context("nothing on the exchange")?;
    let body: serde_json::Value = serde_json::from_slice(&message.body)?;
    ensure!(
        body == json!({"key": "kettle-1", "data": {"t": 21.5}}),
        "the body is {body}"
    );
    let properties = &message.properties;
    let told = properties
        .message_id()
        .as_ref()
        .map_or("", |id| id.as_str());
    ensure!(told == id, "message_id is {told} there and {id} here");
    ensure!(
        *properties.delivery_mode() == Some(2),
        "not persistent: {properties:?}"
    );
    scene.stop()
}

fn unavailable(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_unready(context, &[("BC_AMQP_URL", NO_BROKER)])?;
    let request = Request {
        headers: &[("Content-Type", "application/json"), ("X-Request-Id", "e")],
        ..Request::post("/api/v1/events", br#"{"key":"a","data":{}}"#)
    };
    let response = scene.send(&request)?;
    ensure!(
        response.status == 503,
        "{}: {}",
        response.status,
        response.text()
    );
    check_problem(&response, "broker-unavailable", "e")?;
    let retry = response.header("Retry-After").unwrap_or_default();
    ensure!(retry.parse::<u32>().is_ok(), "Retry-After is {retry:?}");
    scene.stop()
}

fn full_queue(context: &mut Context<'_>) -> anyhow::Result<()> {
    let full = Queue {
        name: "verify.full",
        arguments: vec![
            ("x-max-length", ArgumentValue::Number(1)),
            ("x-overflow", ArgumentValue::Text("reject-publish")),
        ],
        bound_to: HISTORY_EXCHANGE,
    };
    let mut session = context.broker.session()?;
    session.delete_queue(full.name)?;
    declare_queue(&mut session, &full)?;
    session.bind(full.name, full.bound_to, "full")?;
    let outcome = fill_and_publish(context, full.name);
    // The queue goes whatever the subject did: it would refuse the events of other cases.
    context.broker.session()?.delete_queue(full.name)?;
    outcome
}

fn fill_and_publish(context: &Context<'_>, queue: &str) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let filler = [event("full", "filler-1", &json!({"n": 1}))];
    let batch = context.broker.session()?.publish_batch(filler)?;
    ensure!(batch.acked == 1, "the broker took {batch:?}");
    let request = Request {
        headers: &[("Content-Type", "application/json"), ("X-Request-Id", "f")],
        ..Request::post("/api/v1/events", br#"{"key":"full","data":{}}"#)
    };
    for _ in 0..3 {
        let refused = scene.send(&request)?;
        expect_later("an event to a full queue", &refused)?;
        check_problem(&refused, "broker-unavailable", "f")?;
    }
    let other = scene.post("/api/v1/events", r#"{"key":"other","data":{}}"#)?;
    expect_status("an event to another queue", &other, 202)?;
    context.broker.session()?.purge(queue)?;
    let taken = scene.send(&request)?;
    expect_status("when there is room again", &taken, 202)?;
    eventually("the refusals are counted", MESSAGE_LIMIT, || {
        Ok(scene.metric(r#"amqp_publish_total{result="refused"}"#)? >= 3.0)
    })?;
    scene.stop()
}

/// Runs a check while the ingest queue is not bound, and binds it again whatever the subject did.
fn unbound(
    context: &Context<'_>,
    check: impl FnOnce(&Scene, &mut Session) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut session = context.broker.session()?;
    session.unbind(INGEST_QUEUE, HISTORY_EXCHANGE, "#")?;
    let outcome = check(&scene, &mut session);
    session.unbind(INGEST_QUEUE, HISTORY_EXCHANGE, "kept")?;
    session.bind(INGEST_QUEUE, HISTORY_EXCHANGE, "#")?;
    outcome?;
    let taken = scene.post("/api/v1/events", r#"{"key":"lost","data":{}}"#)?;
    expect_status("when there is a queue again", &taken, 202)?;
    scene.stop()
}

fn unroutable(context: &mut Context<'_>) -> anyhow::Result<()> {
    unbound(context, |scene, _| {
        let request = Request {
            headers: &[("Content-Type", "application/json"), ("X-Request-Id", "n")],
            ..Request::post("/api/v1/events", br#"{"key":"lost","data":{}}"#)
        };
        for _ in 0..3 {
            let refused = scene.send(&request)?;
            expect_later("an event that no queue takes", &refused)?;
            check_problem(&refused, "broker-unavailable", "n")?;
        }
        eventually("the refusals are counted", MESSAGE_LIMIT, || {
            Ok(scene.metric(r#"amqp_publish_total{result="refused"}"#)? == 3.0)
        })
    })
}

/// Confirms come in any order and several at once: a subject must know whose event was returned.
fn partly_unroutable(context: &mut Context<'_>) -> anyhow::Result<()> {
    unbound(context, |scene, session| {
        session.bind(INGEST_QUEUE, HISTORY_EXCHANGE, "kept")?;
        for round in 0..20 {
            let mut waiting = Vec::new();
            for n in 0..16 {
                let (key, status) = [("kept", 202), ("lost", 503)][(n + round) % 2];
                let body = format!(r#"{{"key":"{key}","data":{{}}}}"#);
                let mut client = scene.client()?;
                let request = Request::post("/api/v1/events", body.as_bytes());
                client.send(&request.bytes(scene.address))?;
                waiting.push((client, key, status));
            }
            for (mut client, key, status) in waiting {
                expect_status(key, &client.receive(false)?, status)?;
            }
        }
        eventually("every accepted event is counted", MESSAGE_LIMIT, || {
            Ok(scene.deliveries("ok")? == 160.0)
        })
    })
}

fn refused_first(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_apart(&context.target, &[])?;
    for (body, status) in [("{", 400), (r#"{"key":"a b","data":{}}"#, 422)] {
        let response = scene.post("/api/v1/events", body)?;
        expect_status(body, &response, status)?;
    }
    scene.stop()
}
