//! An HTTP answer before a server library turns it into bytes.

use serde::Serialize;

use crate::problem::{Problem, ProblemKind};

/// Media type of ordinary answers.
pub const JSON: &str = "application/json";
/// Media type of problem documents (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Media type of `/metrics`.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4";
/// Header that carries the request's id in both directions.
pub const REQUEST_ID: &str = "X-Request-Id";
/// Header that names the version of what an answer shows.
pub const ETAG: &str = "ETag";
/// Header by which a client asks for a version that it does not have yet.
pub const IF_NONE_MATCH: &str = "If-None-Match";

/// An HTTP answer: the same bytes from every model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Media type of the body; empty without a body.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body; a `HEAD` answer leaves it out at the edge.
    pub body: Vec<u8>,
}

impl Reply {
    /// A JSON answer.
    ///
    /// # Panics
    /// Never for the contract's shapes: their maps have string keys and their numbers are finite.
    #[must_use]
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("the contract's shapes serialise");
        Self {
            status,
            content_type: JSON,
            headers: Vec::new(),
            body,
        }
    }

    /// A JSON answer whose body was serialised elsewhere.
    #[must_use]
    pub fn raw_json(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            content_type: JSON,
            headers: Vec::new(),
            body,
        }
    }

    /// The answer of `/metrics`.
    #[must_use]
    pub fn prometheus(body: String) -> Self {
        Self {
            status: 200,
            content_type: PROMETHEUS,
            headers: Vec::new(),
            body: body.into_bytes(),
        }
    }

    /// An answer without a body.
    #[must_use]
    pub const fn empty(status: u16) -> Self {
        Self {
            status,
            content_type: "",
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// An answer without a body that names the allowed methods.
    #[must_use]
    pub fn options(allow: &'static str) -> Self {
        Self::empty(204).with_header("Allow", allow.to_owned())
    }

    /// The answer to a client that sent `if_none_match`: 304 without the body if it has this
    /// version already (RFC 9110, section 13.1.2; tags are compared weakly).
    #[must_use]
    pub fn unless_matched(self, if_none_match: Option<&str>) -> Self {
        let mut headers = self.headers.iter();
        let Some((_, tag)) = headers.find(|(name, _)| *name == ETAG) else {
            return self;
        };
        let wanted = if_none_match.unwrap_or_default().split(',').map(str::trim);
        let mut wanted = wanted.map(|tag| tag.strip_prefix("W/").unwrap_or(tag));
        if wanted.any(|wanted| wanted == "*" || wanted == tag) {
            return Self {
                headers: self.headers,
                ..Self::empty(304)
            };
        }
        self
    }

    /// The problem document of `problem` for the request `request_id`.
    ///
    /// # Panics
    /// Never: the document consists of strings and a number.
    #[must_use]
    pub fn problem(problem: &Problem, request_id: &str) -> Self {
        let mut headers = Vec::new();
        if let ProblemKind::MethodNotAllowed { allow } = problem.kind {
            headers.push(("Allow", allow.to_owned()));
        }
        if let Some(seconds) = problem.kind.retry_after_s() {
            headers.push(("Retry-After", seconds.to_string()));
        }
        let body = serde_json::to_vec(&problem.document(request_id)).expect("strings serialise");
        Self {
            status: problem.kind.status(),
            content_type: PROBLEM_JSON,
            headers,
            body,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// The id to answer a request with: the client's own if it is harmless, else `fallback()`.
///
/// Only visible ASCII up to 128 bytes is echoed, so that a client cannot put a line break into
/// our answer (header injection).
pub fn request_id(given: Option<&str>, fallback: impl FnOnce() -> String) -> String {
    match given {
        Some(id) if is_harmless(id) => id.to_owned(),
        _ => fallback(),
    }
}

/// Whether `id` may stand in a header and in JSON as it is.
fn is_harmless(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_request() {
        let problem = Problem::new(ProblemKind::NotFound, "no such key");
        let reply = Reply::problem(&problem, "r-1");
        assert_eq!(reply.status, 404);
        assert_eq!(
            String::from_utf8_lossy(&reply.body),
            r#"{"type":"not-found","title":"Not found","status":404,"detail":"no such key","request_id":"r-1"}"#
        );
    }

    #[test]
    fn unavailability_says_when_to_come_back() {
        let reply = Reply::problem(
            &Problem::new(ProblemKind::BrokerUnavailable, "connecting"),
            "r",
        );
        assert_eq!(reply.headers, [("Retry-After", "1".to_owned())]);
    }

    #[test]
    fn a_client_that_has_this_version_gets_no_body() {
        let reply = Reply::json(200, &1).with_header(ETAG, "\"7\"".to_owned());
        for (given, status) in [
            (None, 200),
            (Some(""), 200),
            (Some("\"8\""), 200),
            (Some("7"), 200),
            (Some("\"7\""), 304),
            (Some("\"8\", W/\"7\""), 304),
            (Some("*"), 304),
        ] {
            let answer = reply.clone().unless_matched(given);
            assert_eq!(answer.status, status, "{given:?}");
            assert_eq!(answer.body.is_empty(), status == 304);
            assert_eq!(answer.headers, reply.headers);
        }
        assert_eq!(Reply::json(200, &1).unless_matched(Some("*")).status, 200);
    }

    #[test]
    fn a_request_id_cannot_break_the_line() {
        let made = || "made".to_owned();
        assert_eq!(request_id(Some("abc-1"), made), "abc-1");
        assert_eq!(request_id(Some("a\r\nSet-Cookie: x"), made), "made");
        assert_eq!(request_id(Some(""), made), "made");
        assert_eq!(request_id(None, made), "made");
    }
}
