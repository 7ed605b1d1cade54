//! A head is taken only if there is no doubt about it, as its lines are read a second time.

use contract::{
    http1::{Framing, Head, parse_head},
    limits::HEAD_LIMIT,
};
use proptest::prelude::*;

use crate::campaign::{self, Bytes, Seen, nearly};

/// Header lines that are sound by themselves, sound in other company, or never.
const LINES: [&str; 22] = [
    "Accept: */*",
    "X-Request-Id: r-1",
    "Content-Type: application/json",
    "If-None-Match: \"1\"",
    "Expect: 100-continue",
    "Connection: close",
    "Connection: keep-alive, TE",
    "Content-Length: 7",
    "content-length:7 ",
    "CONTENT-LENGTH: 07",
    "Content-Length: 7, 7",
    "Content-Length: +7",
    "Content-Length: 0x7",
    "Content-Length: 99999999999999999999999",
    "Transfer-Encoding: chunked",
    "transfer-encoding: Chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: \tchunked\t",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: chunked,",
    "Host: y",
    " folded: line",
];

/// A head whose lines may contradict each other.
fn any_head() -> impl Strategy<Value = Vec<u8>> {
    let first = prop::sample::select(vec![
        "GET /healthz HTTP/1.1",
        "POST /api/v1/flatten?a=b HTTP/1.1",
        "POST http://x/api HTTP/1.1",
        "BREW / HTTP/1.1",
        "POST / HTTP/1.0",
    ]);
    let host = prop_oneof![9 => Just(Some("Host: x")), 1 => Just(None)];
    // The first half of the lines is sound: three of four come from there.
    let line = prop_oneof![
        3 => prop::sample::select(&LINES[..10]),
        1 => prop::sample::select(&LINES[10..]),
    ];
    (first, host, prop::collection::vec(line, 0..4)).prop_map(|(first, host, lines)| {
        let lines = [first].into_iter().chain(host).chain(lines);
        let mut text: String = lines.flat_map(|line| [line, "\r\n"]).collect();
        text += "\r\nbehind";
        text.into_bytes()
    })
}

/// How the body of these lines ends, or nothing if two readers could disagree.
fn framing(lines: &[&str]) -> Option<Framing> {
    let is_1_1 = lines[0].ends_with("HTTP/1.1");
    let mut headers = Vec::new();
    for line in &lines[1..] {
        let (name, value) = line.split_once(':')?;
        let is_token = |it: char| it.is_ascii_graphic() && !"\"(),/:;<=>?@[\\]{}".contains(it);
        (!name.is_empty() && name.chars().all(is_token)).then_some(())?;
        headers.push((name.to_lowercase(), value.trim_matches([' ', '\t'])));
    }
    let all = |name: &str| -> Vec<&str> {
        let named = headers.iter().filter(|header| header.0 == name);
        named.map(|header| header.1).collect()
    };
    let hosts = all("host").len();
    (hosts == 1 || (hosts == 0 && !is_1_1)).then_some(())?;
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Some(Framing::Length(0)),
        ([], [coding]) if is_1_1 && coding.to_lowercase() == "chunked" => Some(Framing::Chunked),
        ([first, rest @ ..], []) if rest.iter().all(|other| other == first) => {
            let is_number = !first.is_empty() && first.chars().all(|it| it.is_ascii_digit());
            is_number.then(|| Framing::Length(first.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    }
}

/// Holds a head that was taken against its lines.
fn check_taken(bytes: &[u8], head: &Head) -> Result<(), TestCaseError> {
    prop_assert!(head.bytes <= bytes.len().min(HEAD_LIMIT));
    let text = String::from_utf8_lossy(&bytes[..head.bytes]);
    // Empty lines before a request are passed over (RFC 9112, section 2.2).
    let text = text.trim_start_matches(['\r', '\n']);
    let lines: Vec<&str> = text.lines().collect();
    prop_assert_eq!(lines.last(), Some(&""));
    let lines = &lines[..lines.len() - 1];
    prop_assert!(!lines.contains(&""), "a head ends at its first empty line");
    prop_assert_eq!(Some(head.framing), framing(lines));
    let target = lines[0].split(' ').nth(1).unwrap_or_default();
    prop_assert!(target.ends_with(&head.target) || head.target == "/");
    Ok(())
}

#[test]
fn a_head_is_taken_only_without_a_doubt_and_wherever_it_is_cut() {
    campaign::run("HTTP head", nearly(any_head()), |Bytes(bytes)| {
        let whole = parse_head(&bytes);
        // What was there so far never says anything else than the whole: neither a head that is
        // refused later, nor a refusal of what becomes a head.
        for end in 0..bytes.len() {
            match parse_head(&bytes[..end]) {
                Ok(None) => {}
                Ok(head) => prop_assert_eq!(Some(&head), whole.as_ref().ok()),
                Err(_) => prop_assert!(whole.is_err(), "refused with {} bytes", end),
            }
        }
        match &whole {
            Ok(Some(head)) => check_taken(&bytes, head).map(|()| Seen::Accepted),
            _ => Ok(Seen::Refused),
        }
    });
}

#[test]
fn a_head_of_sound_lines_is_taken() {
    campaign::run("HTTP head of lines", any_head(), |bytes| {
        let text = String::from_utf8_lossy(&bytes);
        let text = text.strip_suffix("\r\n\r\nbehind").expect("as it was made");
        let expected = framing(&text.split("\r\n").collect::<Vec<_>>());
        let found = parse_head(&bytes).ok().flatten().map(|head| head.framing);
        prop_assert_eq!(found, expected, "{}", text);
        Ok(found.map_or(Seen::Refused, |_| Seen::Accepted))
    });
}
