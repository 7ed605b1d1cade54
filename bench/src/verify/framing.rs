//! HTTP on the wire: framing of bodies, pipelines, sizes of heads, and the id of a request.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, ensure};
use contract::{limits::HEAD_LIMIT, reply::REQUEST_ID};

use super::{
    Context,
    case::{Case, expect_status},
    scene::Scene,
};
use crate::http::{Client, Request, Response};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("a body in chunks is taken", chunks),
    Case::hardening("trailers behind a body in chunks are passed over", trailers),
    Case::required("a body in chunks beyond the limit is 413", chunks_too_large),
    Case::required("a client that waits for 100 Continue gets it", expectation),
    Case::required("an HTTP/1.0 client gets its answer and the end", old_client),
    Case::required(
        "a client that wants the end of the connection gets it",
        last_request,
    ),
    Case::required("1,000 pipelined requests are answered in order", pipeline),
    Case::required("a head of 15 KiB is taken", long_head),
    Case::hardening("a head beyond 16 KiB is 431", head_too_large),
    Case::required(
        "a request id that could break a line is not repeated",
        harmful_ids,
    ),
    Case::required("bytes that are no HTTP end their connection only", no_http),
];

/// Deadline of an exchange here: nothing waits for anything.
const LIMIT: Duration = Duration::from_secs(3);
/// Requests in a pipeline.
const PIPELINED: usize = 1_000;

fn client(scene: &Scene) -> anyhow::Result<Client> {
    Ok(Client::connect(scene.address, LIMIT)?)
}

/// Head of a `POST` whose body is framed by `framing`.
pub(super) fn post_head(framing: &str) -> String {
    format!(
        "POST /api/v1/flatten HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         {framing}\r\n\r\n"
    )
}

fn chunks(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = client(&scene)?;
    let head = post_head("Transfer-Encoding: chunked");
    // In one piece, and byte by byte with everything that the grammar allows.
    client.send(format!("{head}7\r\n{{\"a\":1}}\r\n0\r\n\r\n").as_bytes())?;
    expect_flat(&client.receive(false)?)?;
    client.send(head.as_bytes())?;
    for piece in [
        "1;x=y\r\n{\r\n",
        "03\r\n\"a\"\r\n",
        "3\r\n:1}\r",
        "\n0\r\n\r\n",
    ] {
        std::thread::sleep(Duration::from_millis(20));
        client.send(piece.as_bytes())?;
    }
    expect_flat(&client.receive(false)?)?;
    let next = client.exchange(&Request::new("GET", "/healthz"))?;
    expect_status("the next request", &next, 200)?;
    scene.stop()
}

fn trailers(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = client(&scene)?;
    let head = post_head("Transfer-Encoding: chunked");
    client.send(format!("{head}7\r\n{{\"a\":1}}\r\n0\r\nT: v\r\n\r\n").as_bytes())?;
    expect_flat(&client.receive(false)?)?;
    let next = client.exchange(&Request::new("GET", "/healthz"))?;
    expect_status("the next request", &next, 200)?;
    scene.stop()
}

fn expect_flat(response: &Response) -> anyhow::Result<()> {
    expect_status("a body in chunks", response, 200)?;
    let text = response.text();
    ensure!(text == r#"{"a":1.0}"#, "{text}");
    Ok(())
}

fn chunks_too_large(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = client(&scene)?;
    let text = "x".repeat(70_000);
    let body = format!("{{\"t\":\"{text}\"}}");
    let head = post_head("Transfer-Encoding: chunked");
    let bytes = format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    // The answer may come, and the connection end, before everything was sent.
    let _ = client.send(bytes.as_bytes());
    expect_status("70,000 bytes", &client.receive(false)?, 413)?;
    let health = scene.get("/healthz")?;
    expect_status("another client", &health, 200)?;
    scene.stop()
}

fn expectation(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = client(&scene)?;
    let head = post_head("Content-Length: 7\r\nExpect: 100-continue");
    client.send(head.as_bytes())?;
    let interim = client.receive(false).context("before the body is sent")?;
    expect_status("before the body is sent", &interim, 100)?;
    client.send(b"{\"a\":1}")?;
    expect_flat(&client.receive(false)?)?;
    scene.stop()
}

fn old_client(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = client(&scene)?;
    client.send(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    expect_status("HTTP/1.0", &client.receive(false)?, 200)?;
    ensure!(
        client.is_closed_within(LIMIT),
        "the connection stays open behind the answer"
    );
    scene.stop()
}

fn last_request(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = client(&scene)?;
    let response = client.exchange(&Request {
        headers: &[("Connection", "close")],
        ..Request::new("GET", "/healthz")
    })?;
    expect_status("Connection: close", &response, 200)?;
    ensure!(
        client.is_closed_within(LIMIT),
        "the connection stays open behind the answer"
    );
    scene.stop()
}

fn pipeline(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = Client::connect(scene.address, Duration::from_secs(10))?;
    let mut bytes = String::new();
    for n in 0..PIPELINED {
        // Some wait for nothing and some do: none may overtake another.
        let path = ["/healthz", "/api/v1/keys", "/nothing"][n % 3];
        write!(
            bytes,
            "GET {path} HTTP/1.1\r\nHost: x\r\n{REQUEST_ID}: p-{n}\r\n\r\n"
        )?;
    }
    client.send(bytes.as_bytes())?;
    for n in 0..PIPELINED {
        let response = client
            .receive(false)
            .with_context(|| format!("answer {n} of {PIPELINED}"))?;
        let id = response.header(REQUEST_ID).unwrap_or_default();
        ensure!(id == format!("p-{n}"), "answer {n} is that of {id}");
        let status = [200, 200, 404][n % 3];
        expect_status(&format!("request {n}"), &response, status)?;
    }
    scene.stop()
}

/// A request whose head has this many bytes, in several headers.
fn request_of(bytes: usize) -> Vec<u8> {
    let mut head = String::from("GET /healthz HTTP/1.1\r\nHost: x\r\n");
    let mut number = 0;
    // Each filler line has 1,000 bytes; the last one takes the rest.
    while head.len() + 1_000 + 16 < bytes {
        head += &format!("X-Filler-{number:02}: {}\r\n", "x".repeat(985));
        number += 1;
    }
    let rest = bytes - head.len() - "X-Rest: \r\n\r\n".len();
    head += &format!("X-Rest: {}\r\n\r\n", "x".repeat(rest));
    head.into_bytes()
}

fn long_head(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let mut client = client(&scene)?;
    client.send(&request_of(HEAD_LIMIT - 1024))?;
    expect_status("15 KiB", &client.receive(false)?, 200)?;
    scene.stop()
}

fn head_too_large(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    for bytes in [HEAD_LIMIT + 1024, 10 * HEAD_LIMIT] {
        let mut client = client(&scene)?;
        // The answer may come, and the connection end, before everything was sent.
        let _ = client.send(&request_of(bytes));
        let response = client
            .receive(false)
            .with_context(|| format!("{bytes} bytes"))?;
        expect_status(&format!("{bytes} bytes"), &response, 431)?;
        ensure!(
            client.is_closed_within(LIMIT),
            "the connection stays open behind a 431"
        );
    }
    scene.stop()
}

fn harmful_ids(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    let long = "x".repeat(129);
    for id in [
        "a b",
        "a\tb",
        "caf\u{e9}",
        "a\rSet-Cookie: x=1",
        "a\u{1}b",
        "",
        long.as_str(),
    ] {
        let mut client = client(&scene)?;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{REQUEST_ID}: {id}\r\n\r\n");
        client.send(request.as_bytes())?;
        // Refusing the request is as good as making another id, with or without words.
        let response = match client.receive(false) {
            Err(crate::http::Error::Closed(0)) => continue,
            other => other.with_context(|| format!("{id:?}"))?,
        };
        ensure!(
            [200, 400].contains(&response.status),
            "{id:?}: {}",
            response.status
        );
        ensure!(
            response.header("Set-Cookie").is_none(),
            "{id:?} makes a header of its own"
        );
        let told = response.header(REQUEST_ID).unwrap_or_default();
        let is_repeated = !id.is_empty() && told.contains(id);
        let is_harmless = told.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            !is_repeated && is_harmless,
            "{id:?} is repeated as {told:?}"
        );
        ensure!(
            response.status == 400 || !told.is_empty(),
            "{id:?}: no id at all"
        );
    }
    let longest = "x".repeat(128);
    let response = scene.send(&Request {
        headers: &[(REQUEST_ID, &longest)],
        ..Request::new("GET", "/healthz")
    })?;
    let told = response.header(REQUEST_ID).unwrap_or_default();
    ensure!(told == longest, "128 characters come back as {told:?}");
    scene.stop()
}

fn no_http(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"AMQP\x00\x00\x09\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    ] {
        let mut client = client(&scene)?;
        client.send(bytes)?;
        let what = String::from_utf8_lossy(bytes).into_owned();
        match client.receive(false) {
            Ok(response) => {
                let status = response.status;
                ensure!(
                    (400..=505).contains(&status),
                    "{what:?} is answered with {status}"
                );
                ensure!(
                    client.is_closed_within(LIMIT),
                    "the connection stays open behind {what:?}"
                );
            }
            Err(crate::http::Error::TimedOut(_)) => {
                anyhow::bail!("{what:?}: neither an answer nor the end")
            }
            // Ended without an answer.
            Err(_) => {}
        }
        let health = scene.get("/healthz")?;
        expect_status(&format!("behind {what:?}"), &health, 200)?;
    }
    scene.stop()
}
