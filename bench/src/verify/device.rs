//! The device behind the service.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde_json::json;

use super::{Context, Target, case::Case, scene::Scene};
use crate::device::Simulator;

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("a command makes a round trip to the device", round_trip),
    Case::required("an absent device is 502 or 503", absent),
    Case::required_beside("a silent device is 504 within the handler's time", silent),
    Case::required(
        "a device that hangs up is 502, and the next command is served",
        hangs_up,
    ),
];

/// Any free port of the loopback interface.
fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn command(context: &Context<'_>, device: SocketAddr) -> anyhow::Result<(Scene, String)> {
    let device = device.to_string();
    let scene = Scene::start(context, &[("BC_DEVICE_ADDR", &device)])?;
    Ok((
        scene,
        json!({"command": "read", "args": {"pin": 3}}).to_string(),
    ))
}

fn round_trip(context: &mut Context<'_>) -> anyhow::Result<()> {
    let simulator = Simulator::start(loopback(), Duration::from_millis(10))?;
    let (scene, command) = command(context, simulator.address())?;
    for _ in 0..5 {
        let started = Instant::now();
        let response = scene.post("/api/v1/device/commands", &command)?;
        let took = started.elapsed();
        ensure!(
            response.status == 200,
            "{}: {}",
            response.status,
            response.text()
        );
        let reply = response.json();
        let expected = json!({"ok": true, "command": "read", "args": {"pin": 3}});
        ensure!(reply == expected, "{reply} instead of {expected}");
        ensure!(
            took >= Duration::from_millis(10),
            "faster than the device: {took:?}"
        );
    }
    scene.stop()
}

fn absent(context: &mut Context<'_>) -> anyhow::Result<()> {
    let nobody = TcpListener::bind(loopback())?.local_addr()?;
    let (scene, command) = command(context, nobody)?;
    let response = scene.post("/api/v1/device/commands", &command)?;
    let status = response.status;
    ensure!(
        [502, 503].contains(&status),
        "{status}: {}",
        response.text()
    );
    scene.stop()
}

fn silent(target: &Target) -> anyhow::Result<()> {
    let simulator = Simulator::start(loopback(), Duration::from_secs(60))?;
    let device = simulator.address().to_string();
    let scene = Scene::start_apart(target, &[("BC_DEVICE_ADDR", &device)])?;
    let command = json!({"command": "read"}).to_string();
    let started = Instant::now();
    let response = scene.post("/api/v1/device/commands", &command)?;
    let took = started.elapsed();
    ensure!(
        response.status == 504,
        "{}: {}",
        response.status,
        response.text()
    );
    // By the device's own deadline, before the handler's would end the request without a reason.
    let slug = response.json()["type"].to_string();
    ensure!(slug.contains("device-timeout"), "type {slug}");
    ensure!(took < Duration::from_secs(6), "answered after {took:?}");
    scene.stop()
}

fn hangs_up(context: &mut Context<'_>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(loopback())?;
    let address = listener.local_addr()?;
    // Accepts one connection, reads nothing, closes both: the port refuses from then on.
    let device = std::thread::spawn(move || listener.accept().map(drop));
    let (scene, command) = command(context, address)?;
    let response = scene.post("/api/v1/device/commands", &command)?;
    ensure!(
        response.status == 502,
        "{}: {}",
        response.status,
        response.text()
    );
    if device.join().is_err() {
        anyhow::bail!("the device's thread panicked");
    }
    // The broken connection must not come back from the pool.
    let _simulator = Simulator::start(address, Duration::from_millis(1))?;
    let response = scene.post("/api/v1/device/commands", &command)?;
    ensure!(
        response.status == 200,
        "afterwards {}: {}",
        response.status,
        response.text()
    );
    scene.stop()
}
