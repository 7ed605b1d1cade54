//! Requests whose length is a lie: two readers of the same bytes must not see different requests.
//!
//! A proxy in front may believe one of two lengths and the service the other; then what the proxy
//! takes for a body is a request to the service (RFC 9112, section 11.2).

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{
    Context,
    case::{Case, expect_status},
    framing::post_head,
    scene::Scene,
};
use crate::http::Client;

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("a huge Content-Length is refused before it is read", huge),
    Case::hardening(
        "a Content-Length that is no number is 400 and the end",
        no_number,
    ),
    Case::hardening("two Content-Lengths that differ are 400 and the end", two),
    Case::hardening(
        "Content-Length and Transfer-Encoding are never two requests",
        both,
    ),
    Case::hardening(
        "a Transfer-Encoding that nobody knows is refused",
        unknown_encoding,
    ),
];

/// Deadline of an exchange here: nothing waits for anything.
const LIMIT: Duration = Duration::from_secs(3);
/// What must not be taken for a request.
const SMUGGLED: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: smuggled\r\n\r\n";

/// Sends bytes that are one request at most: they must get one answer with one of these statuses,
/// and then the end of the connection.
fn one_answer(scene: &Scene, bytes: &str, statuses: &[u16]) -> anyhow::Result<()> {
    let mut client = Client::connect(scene.address, LIMIT)?;
    client.send(bytes.as_bytes())?;
    let head = bytes.split("\r\n\r\n").next().unwrap_or_default();
    let what = head.lines().skip(3).collect::<Vec<_>>().join(", ");
    let response = client.receive(false).with_context(|| what.clone())?;
    ensure!(
        statuses.contains(&response.status),
        "{what}: {} instead of one of {statuses:?}",
        response.status
    );
    match client.receive(false) {
        Ok(second) => anyhow::bail!("{what}: answered twice, at last with {}", second.status),
        Err(crate::http::Error::TimedOut(_)) => {
            anyhow::bail!("{what}: the connection stays open")
        }
        Err(_) => Ok(()),
    }
}

fn huge(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    for length in [
        "65537",
        "4294967296",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999",
    ] {
        let mut client = Client::connect(scene.address, LIMIT)?;
        client.send(post_head(&format!("Content-Length: {length}")).as_bytes())?;
        let mut status = client.receive(false).context(length)?.status;
        // An interim answer is allowed at any time (RFC 9110, section 15.2).
        while status < 200 {
            status = client.receive(false).context(length)?.status;
        }
        ensure!([400, 413, 431].contains(&status), "{length}: {status}");
    }
    // As many as any pool has workers: each would be one short.
    for _ in 0..16 {
        expect_status("afterwards", &scene.get("/healthz")?, 200)?;
    }
    scene.stop()
}

fn no_number(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    for length in ["-1", "+7", "0x10", "7 7", "many"] {
        let head = post_head(&format!("Content-Length: {length}"));
        one_answer(&scene, &format!("{head}{SMUGGLED}"), &[400])?;
    }
    scene.stop()
}

fn two(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    for (first, second) in [(0, SMUGGLED.len()), (SMUGGLED.len(), 0)] {
        let framing = format!("Content-Length: {first}\r\nContent-Length: {second}");
        let head = post_head(&framing);
        one_answer(&scene, &format!("{head}{SMUGGLED}"), &[400])?;
    }
    scene.stop()
}

fn both(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    // Read by its length, the body ends within the chunks; read as chunks, the rest is a request.
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        let head = post_head(framing);
        let bytes = format!("{head}7\r\n{{\"a\":1}}\r\n0\r\n\r\n{SMUGGLED}");
        // RFC 9112 allows to read the chunks, if the connection ends behind the answer.
        one_answer(&scene, &bytes, &[400, 200])?;
    }
    scene.stop()
}

fn unknown_encoding(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    for encoding in ["xchunked", "identity", "chunked, gzip"] {
        let head = post_head(&format!("Transfer-Encoding: {encoding}"));
        let bytes = format!("{head}7\r\n{{\"a\":1}}\r\n0\r\n\r\n{SMUGGLED}");
        one_answer(&scene, &bytes, &[400, 501])?;
    }
    scene.stop()
}
