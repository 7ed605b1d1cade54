//! Many clients at once: idle ones, too many of them, too many requests, no descriptors left.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::{
    Context,
    case::{Case, Skip, eventually, expect_later, expect_status},
    scene::Scene,
};
use crate::{
    device::Simulator,
    http::{Client, Request, Response},
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("a burst of 64 fresh connections is answered", burst),
    Case::required("1,000 idle connections leave a fresh client served", idle),
    Case::hardening(
        "one connection too many is 503 and closed",
        too_many_connections,
    ),
    Case::hardening("one request too many in flight is 503", too_many_requests),
    Case::hardening(
        "out of descriptors it waits, and serves again afterwards",
        descriptors,
    ),
];

/// Longest time to answer a burst, which takes some 20 ms; who waits for the end of others waits
/// for as long as these stay.
const BURST_LIMIT: Duration = Duration::from_secs(2);
/// Idle connections.
const IDLE: usize = 1_000;
/// Limit of connections of its case.
const CONNECTIONS: usize = 8;
/// Limit of requests in flight of its case: as many as there are workers by default.
const IN_FLIGHT: usize = 4;
/// Longest time to serve again after the want of descriptors; a process that ended over it may be
/// replaced by another, after a pause.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// Descriptors that a process of the subject is left.
const DESCRIPTORS: u64 = 64;

fn burst(context: &mut Context<'_>) -> anyhow::Result<()> {
    // The race that a thread pool may lose is lost in most rounds, but not in each.
    for round in 1..=3 {
        let scene = Scene::start(context, &[])?;
        // Threads of connections that just ended are idle: fewer than the burst is about to need.
        answer_all(&scene, 8).with_context(|| format!("round {round}, before the burst"))?;
        answer_all(&scene, 64).with_context(|| format!("round {round}"))?;
        scene.stop()?;
    }
    Ok(())
}

/// Opens connections, asks once on each, and closes them when all are answered.
fn answer_all(scene: &Scene, connections: usize) -> anyhow::Result<()> {
    let request = Request::new("GET", "/healthz").bytes(scene.address);
    let started = Instant::now();
    // All open before the first is answered, and none closed before the last is: a pool that
    // counts on connections to end leaves some of them waiting.
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(scene.address, Duration::from_secs(5))?);
    }
    for client in &mut clients {
        client.send(&request)?;
    }
    let answered = clients
        .iter_mut()
        .filter_map(|client| client.receive(false).ok());
    let answered = answered.filter(|response| response.status == 200).count();
    let took = started.elapsed();
    ensure!(
        answered == connections,
        "{answered} of {connections} answered within {took:?}"
    );
    ensure!(
        took < BURST_LIMIT,
        "{connections} connections took {took:?}: some wait for others to end"
    );
    Ok(())
}

/// A connection that was answered once and is kept.
fn kept(scene: &Scene, limit: Duration) -> anyhow::Result<(Client, Response)> {
    let mut client = Client::connect(scene.address, limit)?;
    let response = client.exchange(&Request::new("GET", "/healthz"))?;
    Ok((client, response))
}

fn idle(context: &mut Context<'_>) -> anyhow::Result<()> {
    let room = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if room < 2 * IDLE as u64 {
        let reason = format!("only {room} descriptors: raise the limit with ulimit -n 4096");
        return Err(Skip(reason).into());
    }
    let scene = Scene::start(context, &[])?;
    let mut clients = Vec::new();
    for n in 0..IDLE {
        let (client, response) =
            kept(&scene, Duration::from_secs(5)).with_context(|| format!("connection {n}"))?;
        expect_status(&format!("connection {n}"), &response, 200)?;
        clients.push(client);
    }
    for _ in 0..10 {
        let started = Instant::now();
        let (_, response) = kept(&scene, Duration::from_secs(2))?;
        let took = started.elapsed();
        expect_status("a fresh client", &response, 200)?;
        ensure!(
            took < Duration::from_secs(1),
            "a fresh client waits for {took:?}"
        );
    }
    // The idle ones were not given up for it.
    for n in [0, IDLE / 2, IDLE - 1] {
        let response = clients[n].exchange(&Request::new("GET", "/healthz"))?;
        expect_status(&format!("idle connection {n}"), &response, 200)?;
    }
    drop(clients);
    scene.stop()
}

fn too_many_connections(context: &mut Context<'_>) -> anyhow::Result<()> {
    let limit = CONNECTIONS.to_string();
    let scene = Scene::start(context, &[("BC_MAX_CONNS", &limit)])?;
    let mut clients = Vec::new();
    // The connection that asked for readiness may not be quite gone.
    eventually("as many as are allowed", Duration::from_secs(3), || {
        let (client, response) = kept(&scene, Duration::from_secs(2))?;
        if response.status == 200 {
            clients.push(client);
        }
        Ok(clients.len() == CONNECTIONS)
    })?;
    for n in 1..=CONNECTIONS {
        let (mut client, response) =
            kept(&scene, Duration::from_secs(2)).with_context(|| format!("{n} too many"))?;
        expect_later(&format!("{n} too many"), &response)?;
        ensure!(
            client.is_closed_within(Duration::from_secs(2)),
            "the connection stays open behind the refusal"
        );
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let response = client.exchange(&Request::new("GET", "/healthz"))?;
        expect_status(&format!("connection {n} afterwards"), &response, 200)?;
    }
    clients.pop();
    eventually("a place is free again", Duration::from_secs(3), || {
        let (_, response) = kept(&scene, Duration::from_secs(2))?;
        Ok(response.status == 200)
    })?;
    drop(clients);
    scene.stop()
}

fn too_many_requests(context: &mut Context<'_>) -> anyhow::Result<()> {
    let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
    let simulator = Simulator::start(anywhere, Duration::from_secs(1))?;
    let device = simulator.address().to_string();
    let limit = IN_FLIGHT.to_string();
    let env = [
        ("BC_DEVICE_ADDR", device.as_str()),
        ("BC_MAX_INFLIGHT", limit.as_str()),
    ];
    let scene = Scene::start(context, &env)?;
    let request = Request::post("/api/v1/device/commands", br#"{"command":"slow"}"#);
    let request = request.bytes(scene.address);
    let mut clients = Vec::new();
    for _ in 0..4 * IN_FLIGHT {
        let mut client = Client::connect(scene.address, Duration::from_secs(8))?;
        client.send(&request)?;
        clients.push(client);
    }
    let mut served = 0;
    for client in &mut clients {
        let response = client.receive(false)?;
        if response.status == 200 {
            served += 1;
        } else {
            expect_later("a request too many", &response)?;
        }
    }
    // Several processes may share the places among them, and a client may have come to a process
    // whose places were taken while another's were free.
    ensure!(
        (1..=IN_FLIGHT).contains(&served),
        "{served} requests of a second each were taken at once, {IN_FLIGHT} are allowed"
    );
    let response = clients[0].exchange(&Request::new("GET", "/healthz"))?;
    expect_status("afterwards, on the same connection", &response, 200)?;
    scene.stop()
}

fn descriptors(context: &mut Context<'_>) -> anyhow::Result<()> {
    let mut scene = Scene::start(context, &[])?;
    for pid in scene.pids() {
        let limit = Rlimit {
            current: Some(DESCRIPTORS),
            maximum: Some(DESCRIPTORS),
        };
        prlimit(Pid::from_raw(pid), Resource::Nofile, limit)
            .with_context(|| format!("cannot limit the descriptors of process {pid}"))?;
    }
    let mut clients = Vec::new();
    // Several processes have as many descriptors each. The first client that nobody answers is the
    // last: a queue full of dead clients would only be another trouble.
    for _ in 0..5 * DESCRIPTORS {
        match kept(&scene, Duration::from_secs(1)) {
            Ok((client, _)) => clients.push(client),
            Err(_) => break,
        }
    }
    drop(clients);
    eventually("it serves again", RECOVERY_LIMIT, || {
        let ended = scene.exit_code();
        ensure!(
            ended.is_none(),
            "it ended with {ended:?}: {}",
            scene.stderr()
        );
        let fresh = kept(&scene, Duration::from_secs(1));
        Ok(fresh.is_ok_and(|(_, response)| response.status == 200))
    })?;
    // A process that has lost its listener has dropped nothing by that, nor has the service.
    scene.stop()
}
