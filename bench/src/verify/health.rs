//! What an operator asks: alive, ready, metrics, who.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use contract::reply::{PROMETHEUS, REQUEST_ID};

use super::{
    Context,
    case::{Case, eventually},
    scene::{NO_BROKER, Scene},
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "without a broker it is alive but not ready",
        alive_without_broker,
    ),
    Case::required(
        "metrics are Prometheus text with the contract's names",
        metrics,
    ),
    Case::required("info tells every process and thread", info),
    Case::required("a request id is made if the client has none", request_id),
];

fn alive_without_broker(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_unready(context, &[("BC_AMQP_URL", NO_BROKER)])?;
    let health = scene.get("/healthz")?;
    ensure!(health.status == 200, "/healthz is {}", health.status);
    let ready = scene.get("/readyz")?;
    ensure!(
        ready.status == 503,
        "/readyz is {}: {}",
        ready.status,
        ready.text()
    );
    let document = ready.json();
    let text = ready.text();
    ensure!(
        document["status"] == "unavailable",
        "another status: {text}"
    );
    let amqp = document["checks"]["amqp"].as_str().unwrap_or_default();
    ensure!(
        ["connecting", "down"].contains(&amqp),
        "checks.amqp is {amqp:?}: {text}"
    );
    ensure!(
        document["checks"]["http"] == "up",
        "checks.http is not up: {text}"
    );
    scene.stop()
}

fn metrics(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    scene.get("/healthz")?;
    let response = scene.get("/metrics")?;
    let content_type = response
        .header("Content-Type")
        .unwrap_or_default()
        .to_owned();
    ensure!(
        content_type.starts_with(PROMETHEUS),
        "Content-Type is {content_type}"
    );
    let text = response.text();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let (_, value) = line
            .rsplit_once(' ')
            .with_context(|| format!("no value: {line}"))?;
        ensure!(value.parse::<f64>().is_ok(), "not a number: {line}");
    }
    for name in [
        "http_requests_total{route=\"/healthz\",method=\"GET\",code=\"200\"} ",
        "http_request_duration_seconds_bucket{le=\"+Inf\"} ",
        "amqp_connection_up{role=\"consumer\"} 1",
        "amqp_deliveries_total{outcome=\"ok\"} ",
        "amqp_deliveries_total{outcome=\"duplicate\"} ",
        "amqp_deliveries_total{outcome=\"invalid\"} ",
        "amqp_deliveries_total{outcome=\"transient\"} ",
        "amqp_connection_up{role=\"publisher\"} 1",
        "amqp_reconnects_total ",
        "amqp_redelivered_total ",
        "amqp_e2e_seconds_count ",
        "amqp_publish_total{result=\"confirmed\"} ",
        "amqp_publish_outstanding ",
        "http_inflight ",
        "http_connections ",
        "store_keys ",
        "store_points ",
        "sink_dropped_total ",
        "task_runs_total{task=\"broadcast\",ok=\"true\"} ",
        "task_runs_total{task=\"cleanup\",ok=\"true\"} ",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_threads ",
        "process_open_fds ",
        "# TYPE http_requests_total counter",
    ] {
        // Processes may tell each other their counts a little later.
        eventually(
            &format!("/metrics has {name:?}"),
            Duration::from_secs(3),
            || Ok(scene.get("/metrics")?.text().contains(name)),
        )?;
    }
    scene.stop()
}

fn info(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let response = scene.get("/info")?;
    let (info, text) = (response.json(), response.text());
    for name in [
        "model",
        "variant",
        "profile",
        "version",
        "name",
        "started_at",
    ] {
        ensure!(
            info[name].as_str().is_some_and(|text| !text.is_empty()),
            "no {name}: {text}"
        );
    }
    ensure!(
        info["profile"] == "shared" && info["name"] == "verified",
        "not as set: {text}"
    );
    let pids = info["pids"].as_array().context("no pids")?;
    let mut threads = 0;
    for pid in pids {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        threads += tasks
            .with_context(|| format!("process {pid} does not run"))?
            .count();
    }
    let told = info["threads"].as_u64().unwrap_or_default();
    // Threads may come and go between the answer and the look.
    ensure!(
        told.abs_diff(threads as u64) <= 2,
        "{threads} threads run: {text}"
    );
    ensure!(
        info["http_workers"].as_u64().is_some_and(|n| n > 0),
        "no http_workers: {text}"
    );
    scene.stop()
}

fn request_id(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let response = scene.get("/healthz")?;
        ids.push(response.header(REQUEST_ID).unwrap_or_default().to_owned());
    }
    ensure!(ids.iter().all(|id| !id.is_empty()), "no {REQUEST_ID}");
    ensure!(ids[0] != ids[1], "two requests have the id {}", ids[0]);
    scene.stop()
}
