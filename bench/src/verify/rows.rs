//! The table: one request, one answer.

use anyhow::{Context as _, ensure};
use contract::reply::{PROBLEM_JSON, REQUEST_ID};
use serde_json::Value;

use crate::http::{Request, Response};

use super::scene::Scene;

/// What the body of the answer is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// Exactly this text.
    Exactly(&'static str),
    /// A problem document of this type.
    Problem(&'static str),
    /// Nothing.
    Empty,
}
use Expected::{Empty, Exactly, Problem};

/// A request and its answer.
#[derive(Debug)]
pub(super) struct Row {
    /// The case as a sentence.
    pub name: &'static str,
    /// Method and path.
    pub request: (&'static str, &'static str),
    /// `Content-Type`, empty for none, and body.
    pub content: (&'static str, &'static str),
    /// Status and body of the answer.
    pub answer: (u16, Expected),
    /// `Allow` header of the answer, empty for none.
    pub allow: &'static str,
}

impl Row {
    /// Sends the request and compares the answer.
    pub(super) fn check(&self, scene: &Scene) -> anyhow::Result<()> {
        let (method, path) = self.request;
        let (content_type, body) = self.content;
        let headers = [(REQUEST_ID, "row-7"), ("Content-Type", content_type)];
        let headers = if content_type.is_empty() {
            &headers[..1]
        } else {
            &headers[..]
        };
        let response = scene.send(&Request {
            method,
            path,
            headers,
            body: body.as_bytes(),
        })?;
        let (status, expected) = self.answer;
        let text = response.text();
        ensure!(
            response.status == status,
            "{} instead of {status}: {text}",
            response.status
        );
        let id = response.header(REQUEST_ID);
        ensure!(
            id == Some("row-7"),
            "{REQUEST_ID} is {id:?} instead of the request's own"
        );
        let allow = response.header("Allow").unwrap_or_default();
        ensure!(
            allow == self.allow,
            "Allow is {allow:?} instead of {:?}",
            self.allow
        );
        match expected {
            Exactly(wanted) => ensure!(text == wanted, "{text} instead of {wanted}"),
            Empty => ensure!(text.is_empty(), "a body: {text}"),
            Problem(slug) => check_problem(&response, slug, "row-7")?,
        }
        Ok(())
    }
}

/// Compares a problem document with RFC 9457 and the contract.
pub(super) fn check_problem(response: &Response, slug: &str, id: &str) -> anyhow::Result<()> {
    let content_type = response.header("Content-Type").context("no Content-Type")?;
    ensure!(
        content_type.starts_with(PROBLEM_JSON),
        "Content-Type is {content_type}"
    );
    let document = response.json();
    let text = response.text();
    ensure!(document["type"] == slug, "not of type {slug}: {text}");
    ensure!(
        document["status"] == response.status,
        "another status inside: {text}"
    );
    ensure!(document["request_id"] == id, "another request_id: {text}");
    for name in ["title", "detail"] {
        let given = document[name].as_str().is_some_and(|text| !text.is_empty());
        ensure!(given, "no {name}: {text}");
    }
    if response.status == 422 {
        let errors = document["errors"]
            .as_array()
            .context("422 without errors")?;
        let named = |error: &Value| error["pointer"].is_string() && error["detail"].is_string();
        ensure!(
            !errors.is_empty() && errors.iter().all(named),
            "errors are wrong: {text}"
        );
    }
    Ok(())
}

/// Content type of every ordinary body.
const JSON: &str = "application/json";
/// `Allow` of what takes a body.
const POST_ONLY: &str = "POST, OPTIONS";
/// `Allow` of what is read.
const GET_ONLY: &str = "GET, HEAD, OPTIONS";

/// A `GET` without a body.
const fn get(name: &'static str, path: &'static str, status: u16, body: Expected) -> Row {
    Row {
        name,
        request: ("GET", path),
        content: ("", ""),
        answer: (status, body),
        allow: "",
    }
}

/// A `POST` of JSON.
const fn post(
    name: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
    expected: Expected,
) -> Row {
    Row {
        name,
        request: ("POST", path),
        content: (JSON, body),
        answer: (status, expected),
        allow: "",
    }
}

/// A body that flattens to exactly this text.
const fn flat(name: &'static str, body: &'static str, text: &'static str) -> Row {
    post(name, "/api/v1/flatten", body, 200, Exactly(text))
}

/// A method that the path does not take, or `OPTIONS`.
const fn method(
    name: &'static str,
    request: (&'static str, &'static str),
    answer: (u16, Expected),
    allow: &'static str,
) -> Row {
    Row {
        name,
        request,
        content: ("", ""),
        answer,
        allow,
    }
}

/// A body with another content type.
const fn typed(name: &'static str, content_type: &'static str, answer: (u16, Expected)) -> Row {
    Row {
        name,
        request: ("POST", "/api/v1/flatten"),
        content: (content_type, r#"{"a":1}"#),
        answer,
        allow: "",
    }
}

/// Every row.
pub(super) const ROWS: &[Row] = &[
    get(
        "healthz answers ok",
        "/healthz",
        200,
        Exactly(r#"{"status":"ok"}"#),
    ),
    get(
        "readyz names its checks",
        "/readyz",
        200,
        Exactly(r#"{"status":"ready","checks":{"http":"up","amqp":"up","ipc":"up"}}"#),
    ),
    flat("flatten of nothing is nothing", "{}", "{}"),
    flat(
        "flatten joins nested names and list indices",
        r#"{"token":17,"a":{"b":[1,true]}}"#,
        r#"{"a/b/0":1.0,"a/b/1":1.0,"token":17.0}"#,
    ),
    flat(
        "flatten turns booleans into numbers",
        r#"{"on":true,"off":false}"#,
        r#"{"off":0.0,"on":1.0}"#,
    ),
    flat(
        "flatten reads numeric strings",
        r#"{"n":"21.5","e":"1e3"}"#,
        r#"{"e":1000.0,"n":21.5}"#,
    ),
    flat(
        "flatten drops what is no number",
        r#"{"t":"warm","z":null,"i":"inf","n":"nan","l":[],"o":{},"v":1.5}"#,
        r#"{"v":1.5}"#,
    ),
    flat(
        "flatten sorts by path",
        r#"{"b":1,"a":2,"ab":3,"a0":4}"#,
        r#"{"a":2.0,"a0":4.0,"ab":3.0,"b":1.0}"#,
    ),
    post(
        "broken JSON is 400",
        "/api/v1/flatten",
        "{",
        400,
        Problem("invalid-json"),
    ),
    post(
        "an empty body is 400",
        "/api/v1/flatten",
        "",
        400,
        Problem("invalid-json"),
    ),
    post(
        "a list is not flattened",
        "/api/v1/flatten",
        "[1]",
        422,
        Problem("unprocessable"),
    ),
    post(
        "an event with a wrong key is 422",
        "/api/v1/events",
        r#"{"key":"a b","data":{}}"#,
        422,
        Problem("unprocessable"),
    ),
    post(
        "an event without data is 422",
        "/api/v1/events",
        r#"{"key":"a"}"#,
        422,
        Problem("unprocessable"),
    ),
    post(
        "an event with an unknown member is 422",
        "/api/v1/events",
        r#"{"key":"a","data":{},"colour":1}"#,
        422,
        Problem("unprocessable"),
    ),
    post(
        "a command without a name is 422",
        "/api/v1/device/commands",
        r#"{"command":""}"#,
        422,
        Problem("unprocessable"),
    ),
    typed(
        "another content type is 415",
        "text/plain",
        (415, Problem("unsupported-media-type")),
    ),
    typed(
        "no content type is 415",
        "",
        (415, Problem("unsupported-media-type")),
    ),
    typed(
        "a content type may have parameters",
        "application/json; charset=utf-8",
        (200, Exactly(r#"{"a":1.0}"#)),
    ),
    get(
        "an unknown path is 404",
        "/api/v1/nothing",
        404,
        Problem("not-found"),
    ),
    get("the root is 404", "/", 404, Problem("not-found")),
    get(
        "an unknown key is 404",
        "/api/v1/latest/nobody",
        404,
        Problem("not-found"),
    ),
    get(
        "a page of no keys is 422",
        "/api/v1/keys?limit=0",
        422,
        Problem("unprocessable"),
    ),
    get(
        "an unknown parameter is 422",
        "/api/v1/keys?colour=red",
        422,
        Problem("unprocessable"),
    ),
    method(
        "GET of what takes a body is 405",
        ("GET", "/api/v1/flatten"),
        (405, Problem("method-not-allowed")),
        POST_ONLY,
    ),
    method(
        "POST to what is read is 405",
        ("POST", "/healthz"),
        (405, Problem("method-not-allowed")),
        GET_ONLY,
    ),
    method(
        "an unknown method is 405",
        ("BREW", "/api/v1/keys"),
        (405, Problem("method-not-allowed")),
        GET_ONLY,
    ),
    method(
        "OPTIONS tells what is allowed",
        ("OPTIONS", "/api/v1/events"),
        (204, Empty),
        POST_ONLY,
    ),
    method(
        "HEAD is GET without the body",
        ("HEAD", "/healthz"),
        (200, Empty),
        "",
    ),
    method(
        "HEAD of an unknown path is 404",
        ("HEAD", "/nothing"),
        (404, Empty),
        "",
    ),
];
