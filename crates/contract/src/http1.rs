//! HTTP/1.1 in bytes: reads the head and the body of a request, and writes an answer.
//!
//! For a service that brings its own server instead of a library's (`--http std`).
//! Nothing here waits or knows a socket: whoever has bytes asks what they mean, and asks again when
//! there are more.
//! The rules are those of RFC 9112 in their strict reading: wherever two readers could disagree
//! about the end of a request, the request is refused, because behind a proxy that disagrees the
//! rest of it would be taken for somebody else's (request smuggling).
//!
//! In order: [`parse_head`] until there is a head, [`Body::take`] until the body is complete (with
//! [`CONTINUE`] before it, if the client asks for that), [`render`].

mod body;

use std::{
    str,
    time::{Duration, UNIX_EPOCH},
};

use httparse::{EMPTY_HEADER, Header, Request, Status};

pub use self::body::Body;
use crate::{
    Method, Problem, ProblemKind, Reply,
    limits::HEAD_LIMIT,
    reply::{IF_NONE_MATCH, REQUEST_ID},
};

/// Most header lines of a request; one more is answered with 431.
pub const HEADERS_MAX: usize = 64;
/// Interim answer to a client that waits with its body until it is asked for
/// ([`Head::expects_continue`]).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// It has so many bytes; none if the head tells no length.
    Length(u64),
    /// It comes in chunks, each with its own length, and ends with an empty one.
    Chunked,
}

/// The head of a request: what the service wants to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes that it has; behind them comes the body, or the next request.
    pub bytes: usize,
    /// Method.
    pub method: Method,
    /// Path and query, as they were sent.
    pub target: String,
    /// How the body ends.
    pub framing: Framing,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// The client's own id for the request, not checked: see [`crate::reply::request_id`].
    pub request_id: Option<String>,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// Whether the client sends its body only after [`CONTINUE`].
    pub expects_continue: bool,
    /// Whether the client wants to go on using the connection.
    pub keep_alive: bool,
}

impl Head {
    /// Path and query (without `?`; empty if there is none).
    #[must_use]
    pub fn path_and_query(&self) -> (&str, &str) {
        self.target.split_once('?').unwrap_or((&self.target, ""))
    }

    /// Length of the body in bytes, if the head tells it.
    #[must_use]
    pub const fn declared_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }
}

/// Reads the head at the start of `bytes`; `None` if it is not complete yet.
///
/// # Errors
/// 400 if it is malformed or leaves a doubt about its end or its body's, 431 above [`HEAD_LIMIT`]
/// bytes or [`HEADERS_MAX`] lines. The connection must be closed behind the answer, because nobody
/// knows where the next request would begin.
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Problem> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(Status::Complete(length)) if length <= HEAD_LIMIT => head(&request, length).map(Some),
        Ok(Status::Partial) if bytes.len() < HEAD_LIMIT => Ok(None),
        Ok(_) => Err(too_large(format!("the head may have {HEAD_LIMIT} bytes"))),
        Err(httparse::Error::TooManyHeaders) => {
            Err(too_large(format!("the head may have {HEADERS_MAX} lines")))
        }
        Err(error) => Err(bad(error.to_string())),
    }
}

fn too_large(detail: String) -> Problem {
    Problem::new(ProblemKind::HeadTooLarge, detail)
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::BadRequest, detail)
}

/// What a parsed request means.
fn head(request: &Request<'_, '_>, bytes: usize) -> Result<Head, Problem> {
    let headers = &*request.headers;
    let is_1_1 = request.version == Some(1);
    match (values(headers, "Host").count(), is_1_1) {
        (1, _) | (0, false) => {}
        (0, true) => return Err(bad("Host is missing")),
        _ => return Err(bad("Host is given twice")),
    }
    Ok(Head {
        bytes,
        method: Method::parse(request.method.unwrap_or_default()),
        target: origin_form(request.path.unwrap_or_default()).to_owned(),
        framing: framing(headers, is_1_1)?,
        content_type: text(headers, "Content-Type"),
        request_id: text(headers, REQUEST_ID),
        if_none_match: text(headers, IF_NONE_MATCH),
        expects_continue: is_1_1 && lists(headers, "Expect", "100-continue"),
        keep_alive: is_1_1 && !lists(headers, "Connection", "close"),
    })
}

/// Every value of a header; names are compared without regard to case.
fn values<'a>(headers: &'a [Header<'a>], name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let named = headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value.trim_ascii())
}

/// The first value of a header, if it is text.
fn text(headers: &[Header<'_>], name: &'static str) -> Option<String> {
    let value = str::from_utf8(values(headers, name).next()?).ok()?;
    Some(value.to_owned())
}

/// Whether a header with a list of words has `word`.
fn lists(headers: &[Header<'_>], name: &'static str, word: &str) -> bool {
    let mut words = values(headers, name).flat_map(|value| value.split(|byte| *byte == b','));
    words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Path and query of a target that names the server as well, which a server must understand
/// (RFC 9112, section 3.2.2); any other target as it is.
fn origin_form(target: &str) -> &str {
    match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    }
}

/// How the body ends (RFC 9112, section 6.3, without any of its second guesses).
fn framing(headers: &[Header<'_>], is_1_1: bool) -> Result<Framing, Problem> {
    let mut codings = values(headers, "Transfer-Encoding");
    let mut lengths = values(headers, "Content-Length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (None, Some(length)) if lengths.all(|other| other == length) => content_length(length),
        (None, Some(_)) => Err(bad("Content-Length is given twice, and differs")),
        (Some(_), Some(_)) => Err(bad(
            "Content-Length and Transfer-Encoding exclude each other",
        )),
        (Some(coding), None) => {
            let is_alone = codings.next().is_none();
            if is_1_1 && is_alone && coding.eq_ignore_ascii_case(b"chunked") {
                Ok(Framing::Chunked)
            } else {
                Err(bad("the only Transfer-Encoding is chunked, in HTTP/1.1"))
            }
        }
    }
}

/// Digits and nothing else: no sign, no list. A number beyond all numbers is a number, and too
/// large for any limit.
fn content_length(value: &[u8]) -> Result<Framing, Problem> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad("Content-Length is no number"));
    }
    let length = value.iter().fold(0_u64, |length, digit| {
        length
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    Ok(Framing::Length(length))
}

/// The bytes of an answer to a request with `method`, to be sent with one write.
///
/// Without `keep_alive` it announces that the connection will be closed. `unix_s` is the time in
/// seconds since the epoch, for `Date`.
#[must_use]
pub fn render(reply: &Reply, method: Method, keep_alive: bool, unix_s: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256 + reply.body.len());
    let status = format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    bytes.extend_from_slice(status.as_bytes());
    add(&mut bytes, "Date", &date(unix_s));
    if !reply.content_type.is_empty() {
        add(&mut bytes, "Content-Type", reply.content_type);
    }
    // These two end with their head, whatever it says (RFC 9112, section 6.3).
    let ends_with_head = matches!(reply.status, 204 | 304);
    if !ends_with_head {
        add(&mut bytes, "Content-Length", &reply.body.len().to_string());
    }
    for (name, value) in &reply.headers {
        add(&mut bytes, name, value);
    }
    if !keep_alive {
        add(&mut bytes, "Connection", "close");
    }
    bytes.extend_from_slice(b"\r\n");
    if method != Method::Head && !ends_with_head {
        bytes.extend_from_slice(&reply.body);
    }
    bytes
}

/// Adds a header line, unless its value would break the line (header injection).
fn add(bytes: &mut Vec<u8>, name: &str, value: &str) {
    if value.bytes().any(|byte| byte.is_ascii_control()) {
        return;
    }
    for part in [name, ": ", value, "\r\n"] {
        bytes.extend_from_slice(part.as_bytes());
    }
}

/// The phrase behind a status, for human readers of a trace; clients ignore it.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

/// An instant as HTTP writes it (RFC 9110, section 5.6.7); the library knows no year beyond 9999.
fn date(unix_s: u64) -> String {
    const END_OF_9999: u64 = 253_402_300_799;
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_s.min(END_OF_9999)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(head: &str) -> Result<Option<Head>, u16> {
        parse_head(head.as_bytes()).map_err(|problem| problem.kind.status())
    }

    fn complete(lines: &str) -> Head {
        let head = format!("{lines}\r\n\r\n");
        parse(&head).expect("sound").expect("complete")
    }

    #[test]
    fn a_head_tells_what_the_service_wants_to_know() {
        let lines = "POST /a/b?c=d HTTP/1.1\r\nhost: x\r\ncontent-length:  7 \r\n\
                     Content-Type: application/json\r\nX-Request-Id: r\r\nIf-None-Match: \"1\"\r\n\
                     Expect: 100-Continue";
        let head = complete(lines);
        assert_eq!(head.bytes, lines.len() + 4);
        assert_eq!(head.method, Method::Post);
        assert_eq!(head.path_and_query(), ("/a/b", "c=d"));
        assert_eq!(head.declared_length(), Some(7));
        assert_eq!(head.content_type.as_deref(), Some("application/json"));
        assert_eq!(head.request_id.as_deref(), Some("r"));
        assert_eq!(head.if_none_match.as_deref(), Some("\"1\""));
        assert!(head.expects_continue && head.keep_alive);
    }

    #[test]
    fn a_target_may_name_the_server_as_well() {
        for (target, path) in [
            ("http://x/healthz?a", "/healthz"),
            ("http://x", "/"),
            ("*", "*"),
        ] {
            let head = complete(&format!("GET {target} HTTP/1.1\r\nHost: x"));
            assert_eq!(head.path_and_query().0, path);
        }
    }

    #[test]
    fn the_client_decides_whether_the_connection_is_kept() {
        for (lines, keep_alive) in [
            ("GET / HTTP/1.1\r\nHost: x", true),
            ("GET / HTTP/1.1\r\nHost: x\r\nConnection: TE, Close", false),
            ("GET / HTTP/1.0", false),
            ("GET / HTTP/1.0\r\nConnection: keep-alive", false),
        ] {
            assert_eq!(complete(lines).keep_alive, keep_alive, "{lines}");
        }
    }

    #[test]
    fn a_head_in_pieces_is_waited_for() {
        let head = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        for at in 0..head.len() {
            assert_eq!(parse(&head[..at]), Ok(None), "{at}");
        }
        let behind = parse(&format!("{head}GET /next")).expect("sound");
        assert_eq!(behind.expect("complete").bytes, head.len());
    }

    #[test]
    fn whatever_leaves_a_doubt_is_refused() {
        for lines in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1, 1",
            "Content-Length: -1",
            "Content-Length: +1",
            "Content-Length: 0x1",
            "Content-Length:",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding : chunked",
            "Host: y",
            "a b: c",
            " folded: line",
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n");
            assert_eq!(parse(&head), Err(400), "{lines}");
        }
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "\x16\x03\x01",
        ] {
            assert_eq!(parse(head), Err(400), "{head}");
        }
    }

    #[test]
    fn the_same_length_twice_is_no_doubt_and_a_huge_one_is_a_length() {
        let framing = |lines: &str| complete(&format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}"));
        let twice = framing("Content-Length: 5\r\nContent-Length: 5");
        assert_eq!(twice.framing, Framing::Length(5));
        let huge = framing("Content-Length: 99999999999999999999999");
        assert_eq!(huge.framing, Framing::Length(u64::MAX));
        let chunked = framing("Transfer-Encoding: Chunked");
        assert_eq!(chunked.framing, Framing::Chunked);
        assert_eq!(chunked.declared_length(), None);
    }

    #[test]
    fn a_head_is_bounded_in_bytes_and_in_lines() {
        let padded = |bytes: usize| {
            let frame = "GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n".len();
            let padding = "a".repeat(bytes - frame);
            format!("GET / HTTP/1.1\r\nHost: x\r\nA: {padding}\r\n\r\n")
        };
        assert!(parse(&padded(HEAD_LIMIT)).is_ok());
        assert_eq!(parse(&padded(HEAD_LIMIT + 1)), Err(431));
        assert_eq!(parse(&padded(2 * HEAD_LIMIT)[..HEAD_LIMIT]), Err(431));
        let lines = |n: usize| {
            let lines = "a: b\r\n".repeat(n - 1);
            format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")
        };
        assert!(parse(&lines(HEADERS_MAX)).is_ok());
        assert_eq!(parse(&lines(HEADERS_MAX + 1)), Err(431));
    }

    #[test]
    fn no_instant_is_beyond_the_calendar() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn an_answer_to_head_has_the_length_and_not_the_body() {
        let reply = Reply::json(200, &"abc");
        let text = String::from_utf8(render(&reply, Method::Head, true, 0)).expect("text");
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
             Content-Type: application/json\r\nContent-Length: 5\r\n\r\n"
        );
        let empty = render(&Reply::empty(204), Method::Delete, false, 0);
        let text = String::from_utf8(empty).expect("text");
        assert!(text.ends_with("GMT\r\nConnection: close\r\n\r\n"), "{text}");
    }

    #[test]
    fn a_value_cannot_break_its_line() {
        let reply = Reply::empty(200).with_header(REQUEST_ID, "a\r\nSet-Cookie: b".to_owned());
        let bytes = render(&reply, Method::Get, true, 0);
        assert!(!String::from_utf8_lossy(&bytes).contains("Set-Cookie"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_head(&bytes);
        }

        #[test]
        fn no_lines_make_the_parser_panic(lines in prop::collection::vec(
            "(Host|Content-Length|Transfer-Encoding|Connection|Expect): {0,2}[ -~]{0,20}", 0..8
        )) {
            let _ = parse(&format!("POST / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n")));
        }

        #[test]
        fn what_is_rendered_parses_back(
            status in 200..600_u16, body in prop::collection::vec(any::<u8>(), 0..100),
            id in "[!-~]{1,40}", keep_alive in any::<bool>(), unix_s in 0..253_402_300_799_u64
        ) {
            let mut reply = Reply::raw_json(status, body.clone());
            reply.headers.push((REQUEST_ID, id.clone()));
            let bytes = render(&reply, Method::Post, keep_alive, unix_s);
            let mut headers = [EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut headers);
            let length = response.parse(&bytes).expect("sound").unwrap();
            prop_assert_eq!(response.code, Some(status));
            let has_body = !matches!(status, 204 | 304);
            prop_assert_eq!(&bytes[length..], if has_body { &body[..] } else { &[] });
            prop_assert_eq!(text(response.headers, REQUEST_ID), Some(id));
            prop_assert_eq!(lists(response.headers, "Connection", "close"), !keep_alive);
            let length = has_body.then(|| body.len().to_string());
            prop_assert_eq!(text(response.headers, "Content-Length"), length);
        }
    }
}
