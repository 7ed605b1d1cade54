//! From the first signal to the end.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use contract::{
    QueueType,
    amqp::{DEAD_LETTER_QUEUE, INGEST_QUEUE},
    settings::{EXIT_DROPPED, EXIT_SECOND_SIGNAL},
};
use rustix::process::Signal;
use serde_json::json;

use super::{
    Context, Target,
    case::{Case, eventually, expect_between, expect_status},
    framing::post_head,
    scene::{Scene, asking, event},
};
use crate::{
    amqp::{DIRECT_REPLY_TO, Session},
    device::Simulator,
    http::{Client, Request},
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "SIGTERM ends an idle service with 0 and no orphan",
        stop_idle,
    ),
    Case::required_beside("SIGINT is SIGTERM", interrupt),
    Case::required("SIGTERM lets a request in flight finish", stop_in_flight),
    Case::required("SIGTERM lets every request in flight finish", stop_busy),
    Case::hardening(
        "an answer in the drain announces the end of its connection",
        announced_end,
    ),
    Case::required("SIGTERM in mid-stream loses no event", stop_in_stream),
    Case::required("after SIGTERM the port refuses", port_refuses),
    Case::required(
        "in the drain delay it is unready and no request fails",
        drain_delay,
    ),
    Case::required_beside(
        "SIGTERM just after the start is a drain like any other",
        early,
    ),
    Case::required_beside(
        "a second SIGTERM ends the drain delay with 130",
        second_signal,
    ),
    Case::required_beside("a second SIGTERM ends a drain with 130", second_in_drain),
    Case::required_beside(
        "when the grace is over it ends with 1 and says what it dropped",
        grace_over,
    ),
    Case::hardening(
        "SIGTERM does not wait for a client that sends half a request",
        stop_half_sent,
    ),
];

/// Longest regular end: the grace of 10 s and some.
const END_LIMIT: Duration = Duration::from_secs(12);
/// Time until every process of a service is at work, and a request where it is going.
const SETTLED: Duration = Duration::from_millis(300);
/// Longest wait for a reply that was sent before its service ended.
const REPLIES_LIMIT: Duration = Duration::from_millis(300);
/// Longest wait for the first reply of a service that is ready.
const FIRST_REPLY_LIMIT: Duration = Duration::from_secs(5);
/// Instances that are stopped in one stream.
const STOPS_IN_STREAM: u32 = 3;
/// A command that the device keeps waiting.
const COMMAND: &[u8] = br#"{"command":"slow"}"#;

fn simulator(latency: Duration) -> anyhow::Result<(Simulator, String)> {
    let simulator = Simulator::start((Ipv4Addr::LOCALHOST, 0).into(), latency)?;
    let address = simulator.address().to_string();
    Ok((simulator, address))
}

/// A client that has sent a command to the device.
fn commander(scene: &Scene) -> anyhow::Result<Client> {
    let mut client = scene.client()?;
    let request = Request::post("/api/v1/device/commands", COMMAND);
    client.send(&request.bytes(scene.address))?;
    Ok(client)
}

fn stop_idle(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let started = Instant::now();
    scene.stop()?;
    let took = started.elapsed();
    ensure!(
        took < Duration::from_secs(3),
        "it took {took:?} although nothing was to be done"
    );
    Ok(())
}

fn interrupt(target: &Target) -> anyhow::Result<()> {
    let scene = Scene::start_apart(target, &[])?;
    scene.signal(Signal::INT)?;
    scene.ends_with(0, Duration::from_secs(5))
}

fn stop_in_flight(context: &mut Context<'_>) -> anyhow::Result<()> {
    let (_device, address) = simulator(Duration::from_millis(500))?;
    let scene = Scene::start_empty(context, &[("BC_DEVICE_ADDR", &address)])?;
    let mut client = commander(&scene)?;
    // Long enough to be with the device, short enough to be there still.
    std::thread::sleep(Duration::from_millis(150));
    scene.terminate()?;
    let response = client
        .receive(false)
        .context("the request in flight was dropped")?;
    expect_status("the request in flight", &response, 200)?;
    scene.ends_with(0, END_LIMIT)
}

fn stop_busy(context: &mut Context<'_>) -> anyhow::Result<()> {
    let (_device, address) = simulator(Duration::from_millis(300))?;
    let scene = Scene::start_empty(context, &[("BC_DEVICE_ADDR", &address)])?;
    // More than there are workers: some wait for one, and were sent all the same.
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(commander(&scene)?);
    }
    std::thread::sleep(Duration::from_millis(150));
    scene.terminate()?;
    for (n, client) in clients.iter_mut().enumerate() {
        let response = client
            .receive(false)
            .with_context(|| format!("request {n} in flight was dropped"))?;
        expect_status(&format!("request {n} in flight"), &response, 200)?;
    }
    scene.ends_with(0, END_LIMIT)
}

fn announced_end(context: &mut Context<'_>) -> anyhow::Result<()> {
    let (_device, address) = simulator(Duration::from_millis(500))?;
    // Within the delay as well: a client that leaves then meets no closed connection later.
    for delay in ["0", "1"] {
        let env = [("BC_DEVICE_ADDR", &*address), ("BC_DRAIN_DELAY_S", delay)];
        let scene = Scene::start_empty(context, &env)?;
        let mut client = commander(&scene)?;
        std::thread::sleep(Duration::from_millis(150));
        scene.terminate()?;
        let response = client.receive(false)?;
        ensure!(
            !response.keep_alive,
            "with a drain delay of {delay} s the answer has no Connection: close, so the client \
             sends on into a closed connection"
        );
        scene.ends_with(0, END_LIMIT)?;
    }
    Ok(())
}

fn stop_in_stream(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.broker.reset(QueueType::Quorum)?;
    let count = 6_000_u32;
    let events = (0..count).map(|n| {
        let (key, id) = (format!("k-{}", n % 7), format!("t-{n}"));
        asking(&event(&key, &id, &json!({"n": n})))
    });
    let mut session = context.broker.session()?;
    session.consume(DIRECT_REPLY_TO, true)?;
    let batch = session.publish_batch(events)?;
    ensure!(batch.acked == u64::from(count), "the broker took {batch:?}");
    // More than once, because what goes wrong here is a matter of which thread is first.
    let mut left = count;
    for _ in 0..STOPS_IN_STREAM {
        // A service that is slow to stop leaves nothing for the next.
        if left > 0 {
            left = stop_among(context, &mut session, left)?;
        }
    }
    // Another instance finishes the rest: nothing may be missing, and what was acked before must not
    // come again.
    let scene = Scene::start(context, &[])?;
    eventually("the rest is acked", Duration::from_secs(15), || {
        Ok(scene.deliveries("ok")? >= f64::from(left))
    })?;
    let again = scene.deliveries("ok")? + scene.deliveries("duplicate")?;
    ensure!(again == f64::from(left), "{left} were left, {again} came");
    let dead = context.broker.depth(DEAD_LETTER_QUEUE)?;
    ensure!(dead == 0, "{dead} events are dead letters");
    scene.stop()
}

/// Stops an instance among `queued` events, as soon as it has answered one; returns how many are
/// queued afterwards.
fn stop_among(
    context: &mut Context<'_>,
    session: &mut Session,
    queued: u32,
) -> anyhow::Result<u32> {
    let mut scene = Scene::start(context, &[])?;
    let first = session.next_delivery(FIRST_REPLY_LIMIT)?;
    first
        .with_context(|| format!("none of {queued} events was answered: the case shows nothing"))?;
    let mut answered = 1;
    scene.terminate()?;
    let code = scene.await_exit(END_LIMIT)?;
    let log = scene.whole_stderr()?;
    ensure!(code == 0, "exit code {code}; stderr: {log}");
    while session.next_delivery(REPLIES_LIMIT)?.is_some() {
        answered += 1;
    }
    // Behind that silence: the broker puts back late what had been with a consumer.
    let left = context.broker.depth(INGEST_QUEUE)?;
    ensure!(
        answered + left <= queued,
        "{answered} of {queued} were answered and so finished, yet {left} are queued again; \
         stderr: {log}"
    );
    Ok(left)
}

fn port_refuses(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let address = scene.address;
    scene.stop()?;
    let connected = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
    ensure!(connected.is_err(), "somebody still listens on {address}");
    Ok(())
}

fn drain_delay(context: &mut Context<'_>) -> anyhow::Result<()> {
    let delay = Duration::from_secs(2);
    let scene = Scene::start_empty(context, &[("BC_DRAIN_DELAY_S", "2")])?;
    let (over, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let load = |events: bool| -> anyhow::Result<()> {
        let mut client = scene.client()?;
        while !over.load(Ordering::Relaxed) {
            let (what, status, request) = if events {
                let body = br#"{"key":"k","data":{"n":1}}"#;
                ("events", 202, Request::post("/api/v1/events", body))
            } else {
                let body = br#"{"a":1}"#;
                ("flatten", 200, Request::post("/api/v1/flatten", body))
            };
            let response = client.exchange(&request)?;
            expect_status(what, &response, status)?;
            answered.fetch_add(1, Ordering::Relaxed);
            if !response.keep_alive {
                client = scene.client()?;
            }
        }
        Ok(())
    };
    let started = std::thread::scope(|scope| {
        let loads = [true, false, false].map(|events| {
            let load = &load;
            scope.spawn(move || load(events))
        });
        std::thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        let seen = watch_drain_delay(&scene, delay);
        over.store(true, Ordering::Relaxed);
        for load in loads {
            load.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .context("a request failed in the drain delay")?;
        }
        seen.map(|()| started)
    })?;
    let answered = answered.load(Ordering::Relaxed);
    ensure!(answered > 100, "only {answered} requests were made");
    scene.ends_with(0, END_LIMIT)?;
    expect_between(
        "the end",
        started.elapsed(),
        delay,
        delay + Duration::from_secs(3),
    )
}

/// Sends SIGTERM and looks at readiness until shortly before the delay is over.
fn watch_drain_delay(scene: &Scene, delay: Duration) -> anyhow::Result<()> {
    scene.terminate()?;
    eventually("it is unready at once", Duration::from_millis(500), || {
        Ok(scene.get("/readyz")?.status == 503)
    })?;
    let ready = scene.get("/readyz")?;
    let checks = &ready.json()["checks"];
    ensure!(
        checks["http"] == "draining" || checks["amqp"] == "draining",
        "nothing is draining: {}",
        ready.text()
    );
    std::thread::sleep(delay.mul_f64(0.6));
    expect_status("/readyz later", &scene.get("/readyz")?, 503)
}

fn early(target: &Target) -> anyhow::Result<()> {
    // The moment is short: where some process does not listen for signals yet, once is luck.
    for n in 0..5 {
        let scene = Scene::start_apart(target, &[("BC_DRAIN_DELAY_S", "1")])?;
        scene.terminate()?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(500) {
            let health = scene
                .get("/healthz")
                .with_context(|| format!("start {n}"))?;
            expect_status("/healthz in the drain delay", &health, 200)?;
        }
        scene.ends_with(0, Duration::from_secs(5))?;
    }
    Ok(())
}

fn second_signal(target: &Target) -> anyhow::Result<()> {
    let scene = Scene::start_apart(target, &[("BC_DRAIN_DELAY_S", "8")])?;
    std::thread::sleep(SETTLED);
    scene.terminate()?;
    eventually("the first is heard", Duration::from_secs(2), || {
        let ready = scene.get("/readyz")?;
        Ok(ready.text().contains("draining"))
    })?;
    scene.terminate()?;
    scene.ends_with(EXIT_SECOND_SIGNAL, Duration::from_secs(1))
}

fn second_in_drain(target: &Target) -> anyhow::Result<()> {
    let (_device, address) = simulator(Duration::from_secs(60))?;
    let scene = Scene::start_apart(target, &[("BC_DEVICE_ADDR", &address)])?;
    let _waiting = commander(&scene)?;
    std::thread::sleep(SETTLED);
    scene.terminate()?;
    std::thread::sleep(Duration::from_millis(500));
    scene.terminate()?;
    scene.ends_with(EXIT_SECOND_SIGNAL, Duration::from_secs(1))
}

fn grace_over(target: &Target) -> anyhow::Result<()> {
    let (_device, address) = simulator(Duration::from_secs(60))?;
    let env = [("BC_DEVICE_ADDR", address.as_str()), ("BC_GRACE_S", "1")];
    let mut scene = Scene::start_apart(target, &env)?;
    let _waiting = commander(&scene)?;
    std::thread::sleep(SETTLED);
    scene.terminate()?;
    let started = Instant::now();
    let code = scene.await_exit(Duration::from_secs(4))?;
    let log = scene.whole_stderr()?;
    ensure!(
        code == i32::from(EXIT_DROPPED),
        "exit code {code}; stderr: {log}"
    );
    let (least, most) = (Duration::from_millis(900), Duration::from_secs(3));
    expect_between("the end", started.elapsed(), least, most)?;
    ensure!(!log.trim().is_empty(), "it does not say what was dropped");
    Ok(())
}

fn stop_half_sent(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut head = scene.client()?;
    head.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")?;
    let mut body = scene.client()?;
    body.send((post_head("Content-Length: 100") + "{").as_bytes())?;
    scene.stop()
}
