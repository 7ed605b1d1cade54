//! REST requests that are formatted before the run, and the check of each answer.

use std::net::SocketAddr;

use crate::http::Request;
use crate::scenario::RestRequest;

/// Keys that the load writes and reads in turn.
pub const KEYS: u64 = 16;
/// Tokens have ten digits, so that the request's length is fixed and only they are overwritten.
const FIRST_TOKEN: u64 = 1_000_000_000;
const TOKENS: u64 = 8_000_000_000;

/// Name of the key that operation `seq` uses.
#[must_use]
pub fn key(seq: u64) -> String {
    format!("bench-{}", seq % KEYS)
}

/// One preformatted request with what its answer must hold.
#[derive(Debug, Clone)]
pub struct Exchange {
    bytes: Vec<u8>,
    token_at: Option<usize>,
    expected: Expected,
}

/// What the body of the answer must be.
#[derive(Debug, Clone)]
enum Expected {
    /// Exactly this, the token between both parts.
    Exact(&'static [u8], &'static [u8]),
    /// Both the start and, somewhere, the token behind the given bytes.
    StartAndToken(&'static [u8], &'static [u8]),
    /// This start, whatever follows.
    Start(Vec<u8>),
}

impl Exchange {
    /// The requests of a mix in the order of their turns; `latest` comes once for each key.
    #[must_use]
    pub fn turns(mix: &[RestRequest], host: SocketAddr) -> Vec<Self> {
        let rounds = if mix.contains(&RestRequest::Latest) {
            KEYS
        } else {
            1
        };
        (0..rounds)
            .flat_map(|round| {
                mix.iter()
                    .map(move |request| Self::new(*request, round, host))
            })
            .collect()
    }

    fn new(request: RestRequest, round: u64, host: SocketAddr) -> Self {
        match request {
            RestRequest::Latest => Self::latest(&key(round), host),
            RestRequest::Flatten => Self::with_token(
                "/api/v1/flatten",
                &format!(r#"{{"token":{FIRST_TOKEN},"a":{{"b":[1,true]}}}}"#),
                Expected::Exact(br#"{"a/b/0":1.0,"a/b/1":1.0,"token":"#, b".0}"),
                host,
            ),
            RestRequest::Device => Self::with_token(
                "/api/v1/device/commands",
                &format!(r#"{{"command":"read","args":{{"token":{FIRST_TOKEN}}}}}"#),
                Expected::StartAndToken(b"{", br#""token":"#),
                host,
            ),
        }
    }

    fn latest(key: &str, host: SocketAddr) -> Self {
        let path = format!("/api/v1/latest/{key}");
        Self {
            bytes: Request::new("GET", &path).bytes(host),
            token_at: None,
            expected: Expected::Start(format!(r#"{{"key":"{key}","#).into_bytes()),
        }
    }

    fn with_token(path: &str, body: &str, expected: Expected, host: SocketAddr) -> Self {
        let bytes = Request::post(path, body.as_bytes()).bytes(host);
        let token_at = find(&bytes, FIRST_TOKEN.to_string().as_bytes());
        Self {
            bytes,
            token_at,
            expected,
        }
    }

    /// The bytes of operation `seq`.
    pub fn bytes(&mut self, seq: u64) -> &[u8] {
        if let Some(at) = self.token_at {
            let mut token = token(seq);
            for digit in self.bytes[at..at + 10].iter_mut().rev() {
                *digit = b'0' + (token % 10) as u8;
                token /= 10;
            }
        }
        &self.bytes
    }

    /// Whether this is the right answer to operation `seq`.
    #[must_use]
    pub fn is_answered_by(&self, seq: u64, status: u16, body: &[u8]) -> bool {
        if status != 200 {
            return false;
        }
        let token = || token(seq).to_string().into_bytes();
        match &self.expected {
            Expected::Exact(before, after) => body
                .strip_prefix(*before)
                .and_then(|rest| rest.strip_suffix(*after))
                .is_some_and(|found| found == token()),
            Expected::StartAndToken(start, before) => {
                body.starts_with(start)
                    && find(body, before)
                        .is_some_and(|at| body[at + before.len()..].starts_with(&token()))
            }
            Expected::Start(start) => body.starts_with(start),
        }
    }
}

fn token(seq: u64) -> u64 {
    FIRST_TOKEN + seq % TOKENS
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(request: RestRequest) -> Exchange {
        Exchange::turns(&[request], SocketAddr::from(([127, 0, 0, 1], 80))).remove(0)
    }

    #[test]
    fn the_token_changes_and_the_length_does_not() {
        let mut exchange = first(RestRequest::Flatten);
        let before = exchange.bytes(0).to_vec();
        let after = exchange.bytes(17).to_vec();
        assert_eq!(before.len(), after.len());
        assert!(find(&after, b"{\"token\":1000000017,").is_some());
    }

    #[test]
    fn an_answer_to_another_request_is_wrong() {
        let flatten = first(RestRequest::Flatten);
        let body = br#"{"a/b/0":1.0,"a/b/1":1.0,"token":1000000017.0}"#;
        assert!(flatten.is_answered_by(17, 200, body));
        assert!(!flatten.is_answered_by(18, 200, body));
        assert!(!flatten.is_answered_by(17, 500, body));
        let device = first(RestRequest::Device);
        let body = br#"{"ok":true,"command":"read","args":{"token":1000000003}}"#;
        assert!(device.is_answered_by(3, 200, body));
        assert!(!device.is_answered_by(4, 200, body));
    }

    #[test]
    fn latest_goes_through_every_key() {
        let host = SocketAddr::from(([127, 0, 0, 1], 80));
        let turns = Exchange::turns(&[RestRequest::Latest, RestRequest::Flatten], host);
        assert_eq!(turns.len(), 32);
        assert!(turns[2].is_answered_by(0, 200, br#"{"key":"bench-1","fields":{}}"#));
    }
}
