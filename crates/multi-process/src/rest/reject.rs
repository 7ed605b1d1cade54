//! Answers requests whose body was not read, without letting it block a worker.
//!
//! Particular to processes: the library reads an unread body to its end, in whatever thread drops the
//! request, into a buffer of the declared length, and a client that never sends it holds that
//! thread for ever.
//! So such a request is dropped on a thread of its own, and there is a bound to their number.

use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use contract::Reply;
use tiny_http::{Request, Response};

/// Clients that may hold a thread by not sending what they announced.
const MAX_THREADS: usize = 64;
/// Longest declared body for which the library's buffer is harmless (its pages are not touched
/// before bytes arrive), in bytes; a longer one could end the process for lack of memory.
const MAX_DRAIN: usize = 256 * 1024 * 1024;

/// Threads at present. `Relaxed` throughout: only the number counts, nothing is published by it.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Connections that were leaked.
static LEAKED: AtomicUsize = AtomicUsize::new(0);
/// Descriptors of a connection: the library has one to read and one to write.
const DESCRIPTORS: usize = 2;

/// Descriptors of leaked connections, which nobody will close.
pub fn leaked() -> usize {
    DESCRIPTORS * LEAKED.load(Ordering::Relaxed)
}

/// A place among [`MAX_THREADS`], free again when dropped, also by a panic.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let place = Self;
        (THREADS.fetch_add(1, Ordering::Relaxed) < MAX_THREADS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers `request`, whose body is dealt with elsewhere.
pub fn respond(request: Request, reply: Reply) {
    if request
        .body_length()
        .is_some_and(|length| length > MAX_DRAIN)
    {
        return respond_and_leak(request, &reply);
    }
    let Some(place) = Place::take() else {
        log::warn!("{MAX_THREADS} clients hold back their bodies already");
        return respond_and_leak(request, &reply);
    };
    let answer = move || {
        let _place = place;
        let _ = request.respond(super::tiny::response(reply));
    };
    if let Err(error) = thread::Builder::new().name("reject".into()).spawn(answer) {
        log::warn!("no thread for a refusal: {error}");
    }
}

/// Answers by hand and leaks the request with its connection, which is the smaller evil: dropping
/// it would block this worker or end the process.
///
/// An upgrade is the library's only way to write without dropping the request; its interim answer
/// 100 is skipped by every client.
fn respond_and_leak(request: Request, reply: &Reply) {
    let mut stream = request.upgrade("", Response::empty(100));
    let _ = stream.write_all(&raw(reply)).and_then(|()| stream.flush());
    std::mem::forget(stream);
    LEAKED.fetch_add(1, Ordering::Relaxed);
}

/// The bytes of an answer that closes the connection.
fn raw(reply: &Reply) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {} Refused\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
        reply.status,
        reply.content_type,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        head.extend([name, ": ", value.as_str(), "\r\n"]);
    }
    head.push_str("\r\n");
    [head.as_bytes(), &reply.body].concat()
}
