//! Paths that are nearly right: what has one path has no other, and no text becomes a header.
//!
//! A proxy in front decides by the path that it sees; a service that decodes or tidies it up again
//! serves what the proxy has refused.

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    Context,
    case::{Case, expect_status},
    scene::{Asker, Scene},
};
use crate::http::Request;

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("a key, a job and an endpoint have one path each", one_path),
    Case::required(
        "no line break in a path or a key becomes a header",
        line_breaks,
    ),
];

/// Other spellings of paths that exist.
const ALIASES: [&str; 22] = [
    "/api/v1/latest/plain%2Dkey",
    "/api/v1/latest/plain-ke%79",
    "/api/v1/latest/plain-key/",
    "/api/v1/latest/plain-key%00",
    "/api/v1/latest/plain-key;v=1",
    "/api/v1/latest//plain-key",
    "/api/v1/latest/./plain-key",
    "/api/v1/latest/x/../plain-key",
    "/api/v1/latest/%2e%2e/latest/plain-key",
    "/api/v1/latest/..%2f..%2f..%2fhealthz",
    "/api/v1/latest/../../../healthz",
    "/api/v1//latest/plain-key",
    "/API/v1/latest/plain-key",
    "/api/v1/jobs/+1",
    "/api/v1/jobs/01",
    "/api/v1/jobs/%31",
    "/api/v1/jobs/1/",
    "/api/v1/jobs/1.0",
    "//healthz",
    "/healthz/",
    "/./healthz",
    "/%68ealthz",
];

fn one_path(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    Asker::new(context)?.store("plain-key", "alias-1", &json!({"v": 1}))?;
    let job = scene.post("/api/v1/jobs", r#"{"kind":"timer","duration_ms":60000}"#)?;
    let job = job
        .header("Location")
        .context("a job has no Location")?
        .to_owned();
    for path in ["/api/v1/latest/plain-key", &job, "/healthz"] {
        expect_status(path, &scene.get(path)?, 200)?;
    }
    for path in ALIASES {
        let response = scene.get(path)?;
        let is_refused = [400, 404].contains(&response.status);
        ensure!(
            is_refused,
            "{path} is {}: {}",
            response.status,
            response.text()
        );
    }
    // Deleting what is not there is no error, but it must not hit what is.
    scene.send(&Request::new("DELETE", "/api/v1/keys/plain%2Dkey"))?;
    expect_status("the key", &scene.get("/api/v1/latest/plain-key")?, 200)?;
    scene.stop()
}

fn line_breaks(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut responses = Vec::new();
    for path in [
        "/api/v1/latest/a%0d%0aSet-Cookie:%20x=1",
        "/api/v1/jobs/1%0d%0aSet-Cookie:%20x=1",
        "/a%0aSet-Cookie:%20x=1",
        "/api/v1/keys?prefix=a%0d%0aSet-Cookie:%20x=1",
    ] {
        responses.push((path, scene.get(path)?));
    }
    let event = r#"{"key":"a\r\nSet-Cookie: x=1","data":{}}"#;
    responses.push(("an event", scene.post("/api/v1/events", event)?));
    for (what, response) in responses {
        let is_refused = [400, 404, 422].contains(&response.status);
        ensure!(is_refused, "{what} is {}", response.status);
        let cookie = response.header("Set-Cookie");
        ensure!(cookie.is_none(), "{what} makes a header of its own");
    }
    scene.stop()
}
