//! Start, refusal to start, and stop.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use contract::{
    QueueType,
    amqp::{DEAD_LETTER_QUEUE, INGEST_QUEUE},
    settings::{EXIT_BIND, EXIT_CONFIG},
};
use serde_json::json;

use super::{
    Context,
    case::{Case, eventually},
    scene::{Scene, event},
};
use crate::{amqp::Url, device::Simulator, http::Request, launch::LaunchError};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "SIGTERM ends an idle service with 0 and no orphan",
        stop_idle,
    ),
    Case::required("SIGTERM lets a request in flight finish", stop_in_flight),
    Case::required("SIGTERM in mid-stream loses no event", stop_in_stream),
    Case::required("after SIGTERM the port refuses", port_refuses),
    Case::required("a port in use is exit code 3", port_in_use),
    Case::required(
        "a wrong password is a clear error and exit code 2",
        wrong_password,
    ),
    Case::required(
        "an unknown BC_ variable is a clear error and exit code 2",
        unknown_variable,
    ),
    Case::required(
        "a wrong value is a clear error and exit code 2",
        wrong_value,
    ),
    Case::hardening(
        "SIGTERM does not wait for a client that sends half a request",
        stop_half_sent,
    ),
];

/// Time for a service that cannot run to say so.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);

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

fn stop_in_flight(context: &mut Context<'_>) -> anyhow::Result<()> {
    let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
    let simulator = Simulator::start(anywhere, Duration::from_millis(500))?;
    let device = simulator.address().to_string();
    let scene = Scene::start_empty(context, &[("BC_DEVICE_ADDR", &device)])?;
    let mut client = scene.client()?;
    let request = Request::post("/api/v1/device/commands", br#"{"command":"slow"}"#);
    client.send(&request.bytes(scene.address))?;
    // Long enough to be with the device, short enough to be there still.
    std::thread::sleep(Duration::from_millis(150));
    scene.terminate()?;
    let response = client
        .receive(false)
        .context("the request in flight was dropped")?;
    ensure!(
        response.status == 200,
        "{}: {}",
        response.status,
        response.text()
    );
    finish(scene)
}

/// Waits for the end of a service that was told to end.
fn finish(mut scene: Scene) -> anyhow::Result<()> {
    let mut code = None;
    eventually("it ends", Duration::from_secs(12), || {
        code = scene.exit_code();
        Ok(code.is_some())
    })?;
    ensure!(
        code == Some(0),
        "exit code {code:?}; stderr: {}",
        scene.stderr()
    );
    Ok(())
}

fn stop_in_stream(context: &mut Context<'_>) -> anyhow::Result<()> {
    context.broker.reset(QueueType::Quorum)?;
    let count = 3_000;
    let events =
        (0..count).map(|n| event(&format!("k-{}", n % 7), &format!("t-{n}"), &json!({"n": n})));
    let batch = context.broker.session()?.publish_batch(events)?;
    ensure!(batch.acked == count, "the broker took {batch:?}");
    let scene = Scene::start(context, &[])?;
    scene.stop()?;
    // A second instance finishes the rest: nothing may be missing, and what was acked by the
    // first must not come again.
    let left = context.broker.depth(INGEST_QUEUE)?;
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

fn port_refuses(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let address = scene.address;
    scene.stop()?;
    let connected = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
    ensure!(connected.is_err(), "somebody still listens on {address}");
    Ok(())
}

/// Starts a service that must refuse, and returns its exit code and what it says.
fn refusal(context: &Context<'_>, env: &[(&str, &str)]) -> anyhow::Result<(Option<i32>, String)> {
    match Scene::start_unready(context, env) {
        Err(LaunchError::Ended { status, stderr, .. }) => Ok((status.code(), stderr)),
        Err(error) => Err(error.into()),
        // It may open its port before it asks the broker.
        Ok(mut scene) => {
            let mut code = None;
            eventually("it ends with an error", REFUSAL_LIMIT, || {
                code = scene.exit_code();
                Ok(code.is_some())
            })?;
            Ok((code, scene.stderr()))
        }
    }
}

fn check_refusal(
    (code, stderr): &(Option<i32>, String),
    expected: u8,
    named: &[&str],
) -> anyhow::Result<()> {
    ensure!(
        *code == Some(expected.into()),
        "exit code {code:?}; stderr: {stderr}"
    );
    let text = stderr.to_lowercase();
    let clear = named.iter().any(|word| text.contains(&word.to_lowercase()));
    ensure!(clear, "the error names none of {named:?}: {stderr:?}");
    ensure!(!text.contains("panicked"), "it panicked: {stderr}");
    Ok(())
}

fn port_in_use(context: &mut Context<'_>) -> anyhow::Result<()> {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = taken.local_addr()?.to_string();
    let refusal = refusal(context, &[("BC_HTTP_ADDR", &address)])?;
    check_refusal(&refusal, EXIT_BIND, &[&address])
}

fn wrong_password(context: &mut Context<'_>) -> anyhow::Result<()> {
    let url = Url::parse(&context.broker.url)?;
    let wrong = format!("amqp://{}:pa55wrong@{}/%2f", url.user, url.address());
    let refusal = refusal(context, &[("BC_AMQP_URL", &wrong)])?;
    ensure!(
        !refusal.1.contains("pa55wrong"),
        "the password is in the log: {}",
        refusal.1
    );
    check_refusal(
        &refusal,
        EXIT_CONFIG,
        &["refused", "password", "access", "credentials"],
    )
}

fn unknown_variable(context: &mut Context<'_>) -> anyhow::Result<()> {
    let refusal = refusal(context, &[("BC_PREFECH", "1")])?;
    check_refusal(&refusal, EXIT_CONFIG, &["BC_PREFECH"])
}

fn wrong_value(context: &mut Context<'_>) -> anyhow::Result<()> {
    let refusal = refusal(context, &[("BC_PREFETCH", "many")])?;
    check_refusal(&refusal, EXIT_CONFIG, &["prefetch"])
}

fn stop_half_sent(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut head = scene.client()?;
    head.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")?;
    let mut body = scene.client()?;
    body.send(
        b"POST /api/v1/flatten HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
          Content-Length: 100\r\n\r\n{",
    )?;
    scene.stop()
}
