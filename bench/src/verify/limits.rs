//! Sizes of bodies and answers, and the other profile.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::http::{Client, Request};

use super::{
    Context,
    case::{Case, expect_status, median_below},
    rows::check_problem,
    scene::Scene,
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "a body that is declared too large is refused before it is read",
        too_large,
    ),
    Case::required("a body of the largest size is taken", largest),
    Case::required("the limit of a body can be set", other_limit),
    Case::required("the isolated profile has no shared endpoints", isolated),
    Case::required(
        "a 20 KB response on keep-alive takes less than 5 ms",
        large_response,
    ),
    Case::required("a connection is kept for many requests", keep_alive),
];

fn too_large(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = Client::connect(scene.address, Duration::from_secs(2))?;
    let head = "POST /api/v1/flatten HTTP/1.1\r\nHost: x\r\nX-Request-Id: big\r\n\
                Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
    client.send(head.as_bytes())?;
    let response = client
        .receive(false)
        .context("no answer to the head alone")?;
    ensure!(
        response.status == 413,
        "{}: {}",
        response.status,
        response.text()
    );
    check_problem(&response, "body-too-large", "big")?;
    // The refused client holds its connection open; others must not notice.
    let started = Instant::now();
    for _ in 0..8 {
        let health = scene.get("/healthz")?;
        ensure!(health.status == 200, "/healthz is {}", health.status);
    }
    let took = started.elapsed();
    ensure!(
        took < Duration::from_secs(1),
        "8 requests took {took:?} meanwhile"
    );
    drop(client);
    scene.stop()
}

fn largest(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let body = |bytes: usize| format!("{{\"a\":1,\"t\":\"{}\"}}", "x".repeat(bytes - 14));
    let fits = scene.post("/api/v1/flatten", &body(65_536))?;
    ensure!(
        fits.status == 200,
        "64 KiB: {} {}",
        fits.status,
        fits.text()
    );
    let one_more = scene.post("/api/v1/flatten", &body(65_537))?;
    ensure!(one_more.status == 413, "64 KiB + 1: {}", one_more.status);
    scene.stop()
}

fn isolated(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[("BC_PROFILE", "isolated")])?;
    for (method, path) in [
        ("GET", "/api/v1/keys"),
        ("GET", "/api/v1/latest/a"),
        ("DELETE", "/api/v1/keys/a"),
        ("POST", "/api/v1/series/query"),
    ] {
        let request = Request {
            headers: &[("X-Request-Id", "i")],
            ..Request::new(method, path)
        };
        let response = scene.send(&request)?;
        expect_status(path, &response, 404)?;
        check_problem(&response, "not-in-profile", "i")?;
    }
    let flat = scene.post("/api/v1/flatten", r#"{"a":1}"#)?;
    expect_status("flatten", &flat, 200)?;
    let job = scene.post("/api/v1/jobs", r#"{"kind":"timer","duration_ms":1}"#)?;
    expect_status("a job", &job, 202)?;
    scene.stop()
}

fn other_limit(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[("BC_BODY_LIMIT", "10")])?;
    let fits = scene.post("/api/v1/flatten", r#"{"a":1234}"#)?;
    expect_status("10 bytes", &fits, 200)?;
    let one_more = scene.post("/api/v1/flatten", r#"{"a":12345}"#)?;
    expect_status("11 bytes", &one_more, 413)?;
    scene.stop()
}

fn large_response(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut body = String::from("{\"a\":0");
    for n in 0..1_300 {
        write!(body, ",\"name-{n:04}\":{n}")?;
    }
    body.push('}');
    let mut client = scene.client()?;
    median_below(Duration::from_millis(5), || {
        let mut delays = Vec::new();
        for _ in 0..51 {
            let started = Instant::now();
            let response = client.exchange(&Request::post("/api/v1/flatten", body.as_bytes()))?;
            delays.push(started.elapsed());
            let (status, bytes) = (response.status, response.body.len());
            ensure!(
                status == 200 && bytes > 20_000,
                "{status} with {bytes} bytes"
            );
        }
        Ok(delays)
    })?;
    scene.stop()
}

fn keep_alive(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = scene.client()?;
    for n in 0..200 {
        let (path, status) = if n % 2 == 0 {
            ("/healthz", 200)
        } else {
            ("/nothing", 404)
        };
        let response = client.exchange(&Request::new("GET", path))?;
        ensure!(
            response.status == status,
            "request {n}: {}",
            response.status
        );
        ensure!(
            response.keep_alive,
            "request {n}: the subject closes the connection"
        );
    }
    scene.stop()
}
