//! A stream of requests is the same requests however it is cut, and a sound one is what was sent.

use contract::http1::{Body, Framing, parse_head};
use proptest::prelude::*;

use crate::campaign::{self, Bytes, Seen, nearly};

/// Longest body here.
const LIMIT: usize = 64;

/// What a server sees of a stream.
#[derive(Debug, PartialEq, Eq, Default)]
struct Read {
    /// Target and body of every complete request.
    requests: Vec<(String, Vec<u8>)>,
    /// The status that ended the connection.
    refused: Option<u16>,
    /// Bytes of a request that is not complete.
    left: usize,
}

/// Reads requests as a server does, from pieces of these sizes, over and over.
fn read(bytes: &[u8], sizes: &[usize]) -> Read {
    let mut read = Read::default();
    let (mut buffer, mut begun) = (Vec::new(), None);
    let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
    while !rest.is_empty() && read.refused.is_none() {
        let (piece, later) = rest.split_at(rest.len().min(*sizes.next().expect("some")));
        rest = later;
        buffer.extend_from_slice(piece);
        if let Err(status) = advance(&mut read, &mut buffer, &mut begun) {
            read.refused = Some(status);
        }
    }
    if read.refused.is_none() {
        read.left = buffer.len() + begun.map_or(0, |(_, body)| body.into_bytes().len());
    }
    read
}

/// Takes whatever the buffer holds.
fn advance(
    read: &mut Read,
    buffer: &mut Vec<u8>,
    begun: &mut Option<(String, Body)>,
) -> Result<(), u16> {
    loop {
        let (target, mut body) = match begun.take() {
            Some(begun) => begun,
            None => match parse_head(buffer).map_err(|problem| problem.kind.status())? {
                None => return Ok(()),
                Some(head) => {
                    buffer.drain(..head.bytes);
                    (head.target, Body::new(head.framing, LIMIT))
                }
            },
        };
        let taken = body.take(buffer).map_err(|problem| problem.kind.status())?;
        buffer.drain(..taken);
        if !body.is_complete() {
            *begun = Some((target, body));
            return Ok(());
        }
        read.requests.push((target, body.into_bytes()));
    }
}

/// A request as it is sent: its target, its body, and the sizes of its chunks if it has any.
type Sent = (String, Vec<u8>, Option<Vec<usize>>);

fn any_request() -> impl Strategy<Value = Sent> {
    let chunks = prop::option::of(prop::collection::vec(1..20_usize, 1..4));
    let body = prop::collection::vec(any::<u8>(), 0..=LIMIT);
    ("/[a-z]{0,6}", body, chunks)
}

fn write((target, body, chunks): &Sent) -> Vec<u8> {
    let mut bytes = format!("POST {target} HTTP/1.1\r\nHost: x\r\n").into_bytes();
    let Some(sizes) = chunks else {
        bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
        bytes.extend(body);
        return bytes;
    };
    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
    let (mut rest, mut sizes) = (&body[..], sizes.iter().cycle());
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(rest.len().min(*sizes.next().expect("some")));
        rest = later;
        bytes.extend(format!("{:X};x=y\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\nTrailer: x\r\n\r\n");
    bytes
}

fn any_sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1..4_usize, 1..200_usize], 1..6)
}

#[test]
fn every_request_arrives_as_it_was_sent_however_the_stream_is_cut() {
    // Of every second stream the end is missing; the shortest request is longer than that.
    let missing = prop_oneof![Just(0), 1..20_usize];
    let inputs = (
        prop::collection::vec(any_request(), 1..4),
        any_sizes(),
        missing,
    );
    campaign::run("HTTP requests", inputs, |(sent, sizes, missing)| {
        let mut bytes: Vec<u8> = sent.iter().flat_map(write).collect();
        bytes.truncate(bytes.len() - missing);
        let is_whole = missing == 0;
        let read = read(&bytes, &sizes);
        let whole = if is_whole { sent.len() } else { sent.len() - 1 };
        let expected: Vec<_> = sent
            .into_iter()
            .take(whole)
            .map(|it| (it.0, it.1))
            .collect();
        prop_assert_eq!(&read.requests, &expected);
        prop_assert_eq!(read.refused, None);
        Ok(if is_whole {
            Seen::Accepted
        } else {
            Seen::Refused
        })
    });
}

#[test]
fn a_stream_that_is_nearly_sound_reads_the_same_however_it_is_cut() {
    let requests = prop::collection::vec(any_request(), 1..3);
    let streams = nearly(requests.prop_map(|sent| sent.iter().flat_map(write).collect()));
    campaign::run(
        "HTTP stream",
        (streams, any_sizes()),
        |(Bytes(bytes), sizes)| {
            let whole = read(&bytes, &[usize::MAX]);
            prop_assert_eq!(&read(&bytes, &sizes), &whole);
            let bodies: usize = whole.requests.iter().map(|request| request.1.len()).sum();
            prop_assert!(bodies + whole.left <= bytes.len(), "bytes from nowhere");
            prop_assert!(
                whole
                    .requests
                    .iter()
                    .all(|request| request.1.len() <= LIMIT)
            );
            let is_sound = whole.refused.is_none() && whole.left == 0;
            Ok(if is_sound {
                Seen::Accepted
            } else {
                Seen::Refused
            })
        },
    );
}

#[test]
fn no_length_makes_a_body_take_what_is_not_its_own() {
    let lengths = prop_oneof![0..100_u64, any::<u64>()];
    let inputs = (lengths, prop::collection::vec(any::<u8>(), 0..100));
    campaign::run("HTTP length", inputs, |(length, bytes)| {
        let mut body = Body::new(Framing::Length(length), LIMIT);
        let taken = body.take(&bytes);
        let fits = length <= LIMIT as u64 || bytes.is_empty();
        prop_assert_eq!(taken.is_ok(), fits);
        let Ok(taken) = taken else {
            return Ok(Seen::Refused);
        };
        prop_assert_eq!(taken as u64, length.min(bytes.len() as u64));
        prop_assert_eq!(body.into_bytes(), &bytes[..taken]);
        Ok(Seen::Accepted)
    });
}
