//! Clients that begin and do not go on: each is given up, and nobody waits for them.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use contract::limits::{
    BODY_TIMEOUT, DEVICE_TIMEOUT, HANDLER_TIMEOUT, HEAD_TIMEOUT, KEEP_ALIVE_TIMEOUT,
};

use super::{
    Target,
    case::{Case, eventually, expect_between, expect_status},
    framing::post_head,
    scene::Scene,
};
use crate::{
    device::Simulator,
    http::{Client, Request},
};

/// Cases of this file, the longest first.
pub(super) const CASES: &[Case] = &[
    Case::hardening_beside("an idle connection is closed after 60 s", idle),
    Case::hardening_beside("a body that stalls is given up after 10 s", stalled_body),
    Case::hardening_beside(
        "a head that comes byte by byte is given up after 5 s",
        slow_head,
    ),
    Case::required_beside(
        "a handler is given up after 5 s, even if it waits twice",
        handler_deadline,
    ),
    Case::hardening_beside("stalled bodies keep nobody waiting", others_beside_bodies),
    Case::required_beside("slow heads keep nobody waiting", others_beside_heads),
];

/// What a limit may be late: its timer, and a busy machine.
const SLACK: Duration = Duration::from_secs(3);
/// Clients that stall at once: more than all workers of any subject together.
const STALLED: usize = 64;
/// Time between two bytes of a client that trickles.
const DRIP: Duration = Duration::from_millis(500);

/// What became of a connection, and when.
#[derive(Debug)]
enum Fate {
    Answered(u16, Duration),
    Closed(Duration),
}

/// Sends `first`, then `drip` every half second if there is any, until the service answers or
/// closes.
fn fate(address: SocketAddr, first: &str, drip: &[u8], limit: Duration) -> anyhow::Result<Fate> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DRIP))?;
    stream.write_all(first.as_bytes())?;
    let started = Instant::now();
    let mut bytes = [0; 4096];
    while started.elapsed() < limit {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(Fate::Closed(started.elapsed())),
            Ok(count) => {
                let took = started.elapsed();
                let line = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let status = line
                    .split(' ')
                    .nth(1)
                    .and_then(|status| status.parse().ok());
                return Ok(Fate::Answered(status.context(line)?, took));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // A peer that has closed meanwhile shows at the next read.
                let _ = stream.write_all(drip);
            }
            Err(_) => return Ok(Fate::Closed(started.elapsed())),
        }
    }
    anyhow::bail!("still open after {limit:?}")
}

/// Checks that a connection was given up after `limit`, with 408 if with an answer.
fn expect_given_up(what: &str, fate: &Fate, limit: Duration) -> anyhow::Result<()> {
    let took = match fate {
        Fate::Answered(status, took) => {
            ensure!(*status == 408, "{what}: {status} instead of 408");
            *took
        }
        Fate::Closed(took) => *took,
    };
    // A timer that began with the connection has begun a moment before us.
    let early = Duration::from_millis(100);
    expect_between(what, took, limit - early, limit + SLACK)
}

fn idle(target: &Target) -> anyhow::Result<()> {
    let scene = Scene::start_apart(target, &[])?;
    let mut client = scene.client()?;
    let response = client.exchange(&Request::new("GET", "/healthz"))?;
    expect_status("/healthz", &response, 200)?;
    let since = Instant::now();
    let limit = KEEP_ALIVE_TIMEOUT + SLACK;
    ensure!(client.is_closed_within(limit), "still open after {limit:?}");
    let early = Duration::from_secs(1);
    expect_between("closed", since.elapsed(), KEEP_ALIVE_TIMEOUT - early, limit)?;
    scene.stop()
}

fn stalled_body(target: &Target) -> anyhow::Result<()> {
    let scene = Scene::start_apart(target, &[])?;
    let first = post_head("Content-Length: 100") + "{";
    let fate = fate(scene.address, &first, b"", BODY_TIMEOUT + SLACK + DRIP)?;
    expect_given_up("a stalled body", &fate, BODY_TIMEOUT)?;
    scene.stop()
}

fn slow_head(target: &Target) -> anyhow::Result<()> {
    let scene = Scene::start_apart(target, &[])?;
    let first = "GET /healthz HTTP/1.1\r\nX-Slow: ";
    let fate = fate(scene.address, first, b"x", HEAD_TIMEOUT + SLACK + DRIP)?;
    expect_given_up("a slow head", &fate, HEAD_TIMEOUT)?;
    scene.stop()
}

fn handler_deadline(target: &Target) -> anyhow::Result<()> {
    let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
    let simulator = Simulator::start(anywhere, Duration::from_secs(60))?;
    let device = simulator.address().to_string();
    let env = [("BC_DEVICE_ADDR", device.as_str()), ("BC_DEVICE_POOL", "1")];
    let scene = Scene::start_apart(target, &env)?;
    let request = Request::post("/api/v1/device/commands", br#"{"command":"read"}"#);
    let patience = 2 * HANDLER_TIMEOUT;
    let mut first = Client::connect(scene.address, patience)?;
    first.send(&request.bytes(scene.address))?;
    // The second gets the only connection to the device when the first gives up after 4 s, so that
    // waiting for the connection and for the device together would take it beyond its 5 s.
    std::thread::sleep(Duration::from_millis(2_200));
    let second = Client::connect(scene.address, patience)?.exchange(&request)?;
    ensure!(
        [503, 504].contains(&second.status),
        "{}: {}",
        second.status,
        second.text()
    );
    expect_status("the first", &first.receive(false)?, 504)?;
    // By the service's own clock: a request may have waited in a library's queue before.
    let handled = |series| scene.metric(&format!("http_request_duration_seconds_{series}"));
    eventually("both are counted", Duration::from_secs(3), || {
        Ok(handled("count")? >= 2.0 && handled("sum")? >= 4.0)
    })?;
    let (sum, most) = (
        handled("sum")?,
        (DEVICE_TIMEOUT + HANDLER_TIMEOUT).as_secs_f64() + 0.5,
    );
    ensure!(sum < most, "both together were handled for {sum} s");
    scene.stop()
}

/// Checks that others are served beside clients that sent `first` and nothing more.
fn others_beside(target: &Target, first: &str) -> anyhow::Result<()> {
    let scene = Scene::start_apart(target, &[])?;
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut client = scene.client()?;
        client.send(first.as_bytes())?;
        stalled.push(client);
    }
    std::thread::sleep(Duration::from_millis(200));
    for n in 0..20 {
        let mut client = Client::connect(scene.address, Duration::from_secs(2))?;
        let response = client
            .exchange(&Request::new("GET", "/healthz"))
            .with_context(|| format!("request {n} beside {STALLED} stalled clients"))?;
        expect_status("/healthz", &response, 200)?;
    }
    drop(stalled);
    scene.stop()
}

fn others_beside_bodies(target: &Target) -> anyhow::Result<()> {
    // Longer than what a library may read by itself before a handler gets the request.
    others_beside(target, &(post_head("Content-Length: 5000") + "{"))
}

fn others_beside_heads(target: &Target) -> anyhow::Result<()> {
    others_beside(target, "GET /healthz HTTP/1.1\r\nX-Slow: ")
}
