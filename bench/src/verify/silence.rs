//! A broker whose network is gone: nothing is refused, nothing is closed, nothing comes.

use std::{
    net::ToSocketAddrs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use contract::{QueueType, settings::EXIT_DROPPED};
use serde_json::json;

use super::{
    Context,
    case::{Case, eventually, expect_between, expect_status},
    scene::{Asker, Scene},
};
use crate::{
    amqp::Url,
    http::{Client, Request},
    proxy::Proxy,
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "a silent broker is noticed within a few heartbeats, and REST goes on",
        noticed,
    ),
    Case::required("connections that the network cuts are made again", cut),
    Case::required("an event that nobody confirms is 504", unconfirmed),
    Case::required("SIGTERM while the broker is silent ends it in time", stop),
    Case::required(
        "a broker that is silent from the start keeps it unready only",
        silent_start,
    ),
];

/// Heartbeat of these cases: the shortest there is.
const HEARTBEAT: (&str, &str) = ("BC_HEARTBEAT_S", "1");
/// Longest time to notice: two missed heartbeats, and the client's own rounding.
const NOTICE_LIMIT: Duration = Duration::from_secs(6);
/// When every connection was tried once, and none was given up: the contract's deadline is 2 s.
const FIRST_ATTEMPTS: Duration = Duration::from_secs(1);
/// Longest time to the second attempt: the deadline, the first pause of 0.5 s, and as much again.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
/// Longest time from the end of the silence to ready: the rest of an attempt that met it, and the
/// longest pause of the contract, both twice.
const RECOVERY_LIMIT: Duration = Duration::from_secs(10);

/// A proxy in front of the broker, and the URL that leads through it.
fn proxy(context: &Context<'_>) -> anyhow::Result<(Proxy, String)> {
    let url = Url::parse(&context.broker.url)?;
    let mut upstream = url.address().to_socket_addrs()?;
    let upstream = upstream.next().context("the broker has an address")?;
    let proxy = Proxy::start(upstream)?;
    let vhost = url.vhost.replace('/', "%2f");
    let (user, password, address) = (&url.user, &url.password, proxy.address());
    let through = format!("amqp://{user}:{password}@{address}/{vhost}");
    Ok((proxy, through))
}

fn await_readiness(scene: &Scene, status: u16, limit: Duration) -> anyhow::Result<()> {
    eventually(&format!("/readyz is {status}"), limit, || {
        Ok(scene.get("/readyz")?.status == status)
    })
}

fn noticed(context: &mut Context<'_>) -> anyhow::Result<()> {
    let (proxy, url) = proxy(context)?;
    let scene = Scene::start_empty(context, &[("BC_AMQP_URL", &url), HEARTBEAT])?;
    proxy.fall_silent();
    await_readiness(&scene, 503, NOTICE_LIMIT)?;
    for _ in 0..10 {
        let started = Instant::now();
        let flat = scene.post("/api/v1/flatten", r#"{"a":1}"#)?;
        let took = started.elapsed();
        expect_status("flatten", &flat, 200)?;
        ensure!(took < Duration::from_secs(1), "flatten takes {took:?}");
    }
    proxy.speak();
    await_readiness(&scene, 200, RECOVERY_LIMIT)?;
    Asker::new(context)?.store("k", "silence-1", &json!({"n": 1}))?;
    let answer = scene.post("/api/v1/events", r#"{"key":"after","data":{}}"#)?;
    expect_status("events", &answer, 202)?;
    scene.stop()
}

fn cut(context: &mut Context<'_>) -> anyhow::Result<()> {
    let (proxy, url) = proxy(context)?;
    let scene = Scene::start_empty(context, &[("BC_AMQP_URL", &url)])?;
    for n in 0..3 {
        let before = scene.metric("amqp_reconnects_total")?;
        proxy.cut();
        eventually("both are made again", RECOVERY_LIMIT, || {
            let made = scene.metric("amqp_reconnects_total")? - before;
            Ok(made >= 2.0 && scene.get("/readyz")?.status == 200)
        })?;
        Asker::new(context)?.store("k", &format!("cut-{n}"), &json!({"n": n}))?;
    }
    scene.stop()
}

fn unconfirmed(context: &mut Context<'_>) -> anyhow::Result<()> {
    let (proxy, url) = proxy(context)?;
    // Heartbeats would end the connection before the confirm's own time is over.
    let env = [("BC_AMQP_URL", url.as_str()), ("BC_HEARTBEAT_S", "60")];
    let scene = Scene::start_empty(context, &env)?;
    proxy.fall_silent();
    let started = Instant::now();
    let mut client = Client::connect(scene.address, Duration::from_secs(8))?;
    let body = br#"{"key":"lost","data":{}}"#;
    client.send(&Request::post("/api/v1/events", body).bytes(scene.address))?;
    let health = scene.get("/healthz")?;
    expect_status("/healthz beside it", &health, 200)?;
    let answer = client.receive(false)?;
    let took = started.elapsed();
    expect_status("events", &answer, 504)?;
    // The handler's time is as long as the confirm's, which stands for it.
    let slug = answer.json()["type"].clone();
    ensure!(slug == "confirm-timeout", "{}", answer.text());
    let (least, most) = (Duration::from_millis(4_500), Duration::from_secs(6));
    expect_between("answered", took, least, most)?;
    proxy.speak();
    eventually("events are confirmed again", RECOVERY_LIMIT, || {
        let answer = scene.post("/api/v1/events", r#"{"key":"after","data":{}}"#)?;
        Ok(answer.status == 202)
    })?;
    scene.stop()
}

fn stop(context: &mut Context<'_>) -> anyhow::Result<()> {
    let (proxy, url) = proxy(context)?;
    let env = [("BC_AMQP_URL", url.as_str()), ("BC_GRACE_S", "3")];
    let mut scene = Scene::start_empty(context, &env)?;
    proxy.fall_silent();
    scene.terminate()?;
    // What the broker does not confirm may be told as dropped, but not waited for beyond the grace.
    let code = scene.await_exit(Duration::from_secs(4))?;
    ensure!(
        [0, i32::from(EXIT_DROPPED)].contains(&code),
        "exit code {code}; stderr: {}",
        scene.stderr()
    );
    Ok(())
}

fn silent_start(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.broker.reset(QueueType::Quorum)?;
    let (proxy, url) = proxy(context)?;
    proxy.fall_silent();
    let scene = Scene::start_unready(context, &[("BC_AMQP_URL", &url), HEARTBEAT])?;
    expect_status("/healthz", &scene.get("/healthz")?, 200)?;
    expect_status("/readyz", &scene.get("/readyz")?, 503)?;
    // An attempt that meets silence must be given up and made again, on every connection.
    std::thread::sleep(FIRST_ATTEMPTS);
    let first = proxy.accepted();
    ensure!(first > 0, "it does not connect");
    eventually("a second attempt", ATTEMPT_LIMIT, || {
        Ok(proxy.accepted() >= 2 * first)
    })?;
    expect_status("/healthz later", &scene.get("/healthz")?, 200)?;
    proxy.speak();
    await_readiness(&scene, 200, RECOVERY_LIMIT)?;
    scene.stop()
}
