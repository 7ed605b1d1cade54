//! Campaigns against what comes over the socket: frames, questions and answers.

#[path = "../../../campaign.rs"]
mod campaign;

use std::io::{self, Read};

use proptest::prelude::*;

use self::campaign::{Bytes, Seen, nearly};
use super::{
    PROBLEMS, Problem, Question, Wire, parse_answer, push_answer,
    wire::{BUFFER, Inbox},
};

/// A stream that comes in pieces of these sizes, over and over.
struct Pieces<'a> {
    rest: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = *self.sizes.next().expect("some");
        let size = size.min(self.rest.len()).min(buffer.len());
        let (piece, rest) = self.rest.split_at(size);
        buffer[..size].copy_from_slice(piece);
        self.rest = rest;
        Ok(size)
    }
}

/// Every frame of a stream, how it ended, and the most memory that it took.
fn receive(stream: &[u8], sizes: &[usize]) -> (Vec<Vec<u8>>, io::ErrorKind, usize) {
    let mut pieces = Pieces {
        rest: stream,
        sizes: sizes.iter().cycle(),
    };
    let (mut inbox, mut frames, mut most) = (Inbox::new(), Vec::new(), 0);
    loop {
        let filled = match inbox.has_frame() {
            Ok(true) => {
                frames.push(inbox.take().to_vec());
                continue;
            }
            Ok(false) => inbox.fill(&mut pieces),
            Err(error) => Err(error),
        };
        most = most.max(inbox.size());
        if let Err(error) = filled {
            return (frames, error.kind(), most);
        }
    }
}

/// The frames of a stream, read without a buffer, and whether the rest of it can become one.
fn naive(mut stream: &[u8]) -> (Vec<Vec<u8>>, io::ErrorKind) {
    let mut frames = Vec::new();
    while let Some((head, rest)) = stream.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*head) as usize;
        if length == 0 || length > 64 << 20 {
            return (frames, io::ErrorKind::InvalidData);
        }
        let Some((frame, later)) = rest.split_at_checked(length) else {
            break;
        };
        frames.push(frame.to_vec());
        stream = later;
    }
    (frames, io::ErrorKind::UnexpectedEof)
}

fn framed(frames: &[Vec<u8>]) -> Vec<u8> {
    let heads = frames.iter().map(|frame| {
        let length = u32::try_from(frame.len()).expect("short");
        [&length.to_le_bytes()[..], frame].concat()
    });
    heads.flatten().collect()
}

fn any_frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let short = prop::collection::vec(any::<u8>(), 1..40);
    let long = (any::<u8>(), 1..5 * BUFFER).prop_map(|(byte, length)| vec![byte; length]);
    prop::collection::vec(prop_oneof![4 => short, 1 => long], 1..6)
}

#[test]
fn frames_are_received_however_they_are_cut_and_take_no_memory_that_was_not_sent() {
    let sizes = prop::collection::vec(prop_oneof![1..6_usize, 1..9_000_usize], 1..6);
    let streams = nearly(any_frames().prop_map(|frames| framed(&frames)));
    campaign::run("IPC frames", (streams, sizes), |(Bytes(stream), sizes)| {
        let (frames, end, most) = receive(&stream, &sizes);
        prop_assert_eq!((&frames, end), (&naive(&stream).0, naive(&stream).1));
        prop_assert!(most <= BUFFER.max(2 * stream.len()), "{} bytes", most);
        let is_whole = framed(&frames).len() == stream.len();
        Ok(if is_whole {
            Seen::Accepted
        } else {
            Seen::Refused
        })
    });
}

/// The frame that is pushed.
fn pushed(push: impl FnOnce(&mut Wire) -> io::Result<()>) -> Vec<u8> {
    let (stream, _) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
    let mut wire = Wire::new(stream).expect("a wire");
    push(&mut wire).expect("short enough");
    wire.outgoing()[4..].to_vec()
}

fn any_question() -> impl Strategy<Value = Vec<u8>> {
    let tags = prop::sample::select(&b"HLKQFJjxPSMDdEeBb"[..]);
    let payload = prop_oneof![
        2 => Just(Vec::new()),
        1 => prop::collection::vec(any::<u8>(), 4),
        1 => prop::collection::vec(any::<u8>(), 8),
        2 => "[a-z0-9=&{}\"]{0,12}".prop_map(String::into_bytes),
    ];
    (tags, payload).prop_map(|(tag, payload)| [vec![tag], payload].concat())
}

#[test]
fn a_frame_is_a_question_only_if_that_question_is_written_so() {
    campaign::run("IPC questions", nearly(any_question()), |Bytes(frame)| {
        let Some(question) = Question::parse(&frame) else {
            return Ok(Seen::Refused);
        };
        prop_assert_eq!(&pushed(|wire| question.push(wire)), &frame);
        Ok(Seen::Accepted)
    });
}

fn any_answer() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(any::<u8>(), 0..30);
    let problem = (prop::sample::select(&PROBLEMS[..]), ".{0,20}");
    prop_oneof![
        body.prop_map(|body| pushed(|wire| push_answer(wire, &Ok(body)))),
        problem.prop_map(|(kind, detail)| {
            pushed(|wire| push_answer(wire, &Err(Problem::new(kind, detail))))
        }),
    ]
}

#[test]
fn a_frame_is_an_answer_only_if_that_answer_is_written_so() {
    campaign::run("IPC answers", nearly(any_answer()), |Bytes(frame)| {
        let Some(answer) = parse_answer(&frame) else {
            return Ok(Seen::Refused);
        };
        prop_assert_eq!(&pushed(|wire| push_answer(wire, &answer)), &frame);
        Ok(Seen::Accepted)
    });
}
