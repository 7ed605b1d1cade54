//! Publishing through REST.

use anyhow::{Context as _, ensure};
use contract::{QueueType, amqp::HISTORY_EXCHANGE};
use serde_json::json;

use super::{
    Context,
    case::Case,
    rows::check_problem,
    scene::{MESSAGE_LIMIT, NO_BROKER, Scene},
};
use crate::http::Request;

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("an accepted event is on the exchange", accepted),
    Case::required(
        "an event without a broker is 503 with Retry-After",
        unavailable,
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
