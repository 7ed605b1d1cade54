//! Jobs in the background.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use contract::shapes::{Job, JobKind, JobStatus};
use serde_json::json;

use super::{
    Context, Target,
    case::{Case, eventually, expect_later, expect_status},
    rows::check_problem,
    scene::Scene,
};
use crate::{
    device::Simulator,
    http::{Request, Response},
    sample::ProcessTree,
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "each kind of job shows its progress and is done in its time",
        done,
    ),
    Case::required("a job that is cancelled stops computing", cancelled),
    Case::required_beside("a job fails with the device that it needs", failed),
    Case::required_beside("one job too many is 503 until another ends", too_many),
    Case::required("a drain does not wait for jobs", drain),
];

const KINDS: [JobKind; 4] = [JobKind::Timer, JobKind::Io, JobKind::Cpu, JobKind::Blocking];

/// A minute: longer than any case.
const LONG_MS: u64 = 60_000;

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Asks for a job.
fn post(scene: &Scene, kind: JobKind, duration_ms: u64) -> anyhow::Result<Response> {
    let body = json!({ "kind": kind, "duration_ms": duration_ms });
    scene.post("/api/v1/jobs", &body.to_string())
}

/// Starts a job and checks the answer.
fn start(scene: &Scene, kind: JobKind, duration_ms: u64) -> anyhow::Result<Job> {
    let response = post(scene, kind, duration_ms)?;
    expect_status(&format!("{kind:?}"), &response, 202)?;
    let job: Job = serde_json::from_slice(&response.body)?;
    let expected = format!("/api/v1/jobs/{}", job.id);
    let location = response.header("Location").unwrap_or_default();
    ensure!(
        location == expected,
        "{kind:?}: Location is {location:?} instead of {expected}"
    );
    let is_begun = job.status == JobStatus::Running && job.progress < 1.0;
    ensure!(
        is_begun && job.kind == kind && job.duration_ms == duration_ms,
        "{job:?}"
    );
    Ok(job)
}

/// A job as it stands.
fn look(scene: &Scene, id: u64) -> anyhow::Result<Job> {
    let response = scene.get(&format!("/api/v1/jobs/{id}"))?;
    expect_status("a job", &response, 200)?;
    serde_json::from_slice(&response.body).context(response.text())
}

fn cancel(scene: &Scene, id: u64) -> anyhow::Result<Job> {
    let response = scene.send(&Request::new("DELETE", &format!("/api/v1/jobs/{id}")))?;
    expect_status("DELETE of a job", &response, 202)?;
    Ok(serde_json::from_slice(&response.body)?)
}

fn done(context: &mut Context<'_>) -> anyhow::Result<()> {
    let length = Duration::from_millis(600);
    let simulator = Simulator::start(loopback(), Duration::from_millis(5))?;
    let device = simulator.address().to_string();
    let scene = Scene::start(context, &[("BC_DEVICE_ADDR", &device)])?;
    let started = Instant::now();
    let mut jobs = Vec::new();
    for kind in KINDS {
        jobs.push(start(&scene, kind, 600)?);
    }
    eventually("every job is done", Duration::from_secs(5), || {
        let asked = Instant::now();
        let health = scene.get("/healthz")?;
        let took = asked.elapsed();
        ensure!(
            health.status == 200 && took < Duration::from_secs(1),
            "/healthz is {} after {took:?} beside the jobs",
            health.status
        );
        for job in &mut jobs {
            let now = look(&scene, job.id)?;
            ensure!(
                now.progress >= job.progress && now.progress <= 1.0,
                "from {job:?} to {now:?}"
            );
            let is_known = [JobStatus::Running, JobStatus::Done].contains(&now.status);
            ensure!(is_known, "{now:?}");
            *job = now;
            let is_done = job.status == JobStatus::Done;
            ensure!(is_done == (job.progress == 1.0), "{job:?}");
            let early = is_done && started.elapsed() < length;
            ensure!(!early, "done after {:?}: {job:?}", started.elapsed());
        }
        Ok(jobs.iter().all(|job| job.status == JobStatus::Done))
    })?;
    // Done is done: cancelling changes nothing.
    let still = cancel(&scene, jobs[0].id)?;
    ensure!(
        still.status == JobStatus::Done,
        "cancelled later: {still:?}"
    );
    scene.stop()
}

fn cancelled(context: &mut Context<'_>) -> anyhow::Result<()> {
    let simulator = Simulator::start(loopback(), Duration::from_millis(5))?;
    let device = simulator.address().to_string();
    let scene = Scene::start(context, &[("BC_DEVICE_ADDR", &device)])?;
    let before = scene.pids().len();
    let mut ids = Vec::new();
    for kind in KINDS {
        ids.push(start(&scene, kind, LONG_MS)?.id);
    }
    std::thread::sleep(Duration::from_millis(100));
    for id in ids {
        let job = cancel(&scene, id)?;
        ensure!(job.status == JobStatus::Cancelled, "{job:?}");
        let job = look(&scene, id)?;
        let is_partial = job.progress > 0.0 && job.progress < 0.5;
        ensure!(job.status == JobStatus::Cancelled && is_partial, "{job:?}");
    }
    eventually(
        "no process of a job is left",
        Duration::from_secs(1),
        || Ok(scene.pids().len() <= before),
    )?;
    let pause = Duration::from_millis(400);
    let mut tree = ProcessTree::new(scene.root());
    let start = tree.cpu_ns();
    std::thread::sleep(pause);
    let used = Duration::from_nanos(tree.cpu_ns().saturating_sub(start));
    ensure!(used < pause / 4, "it computed on for {used:?} of {pause:?}");
    scene.stop()
}

fn failed(target: &Target) -> anyhow::Result<()> {
    let nobody = TcpListener::bind(loopback())?.local_addr()?.to_string();
    let scene = Scene::start_apart(target, &[("BC_DEVICE_ADDR", &nobody)])?;
    let id = start(&scene, JobKind::Io, 2_000)?.id;
    eventually("the job has failed", Duration::from_secs(8), || {
        let job = look(&scene, id)?;
        ensure!(job.status != JobStatus::Done, "{job:?} without a device");
        Ok(job.status == JobStatus::Failed && job.progress < 1.0)
    })?;
    scene.stop()
}

fn too_many(target: &Target) -> anyhow::Result<()> {
    let scene = Scene::start_apart(target, &[])?;
    let mut ids = Vec::new();
    for _ in 0..64 {
        ids.push(start(&scene, JobKind::Timer, LONG_MS)?.id);
    }
    let body = json!({ "kind": "timer", "duration_ms": LONG_MS }).to_string();
    let refused = scene.send(&Request {
        headers: &[("Content-Type", "application/json"), ("X-Request-Id", "j")],
        ..Request::post("/api/v1/jobs", body.as_bytes())
    })?;
    expect_later("the 65th job", &refused)?;
    check_problem(&refused, "overloaded", "j")?;
    cancel(&scene, ids[0])?;
    start(&scene, JobKind::Timer, LONG_MS)?;
    scene.stop()
}

fn drain(context: &mut Context<'_>) -> anyhow::Result<()> {
    let simulator = Simulator::start(loopback(), Duration::from_millis(5))?;
    let device = simulator.address().to_string();
    let scene = Scene::start(context, &[("BC_DEVICE_ADDR", &device)])?;
    for kind in KINDS {
        start(&scene, kind, LONG_MS)?;
    }
    let asked = Instant::now();
    scene.stop()?;
    let took = asked.elapsed();
    ensure!(took < Duration::from_secs(4), "it took {took:?}");
    Ok(())
}
