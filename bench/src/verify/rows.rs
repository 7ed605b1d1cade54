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
    /// A problem document of type `unprocessable` whose first error points here.
    Wrong(&'static str),
    /// Nothing.
    Empty,
}
use Expected::{Empty, Exactly, Problem, Wrong};

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
            Wrong(pointer) => {
                check_problem(&response, "unprocessable", "row-7")?;
                let told = &response.json()["errors"][0]["pointer"];
                ensure!(told == pointer, "points to {told}: {text}");
            }
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
