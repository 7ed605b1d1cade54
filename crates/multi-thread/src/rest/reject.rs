//! Answers requests whose body was not read, without letting it block a worker.
//!
//! Particular to threads: the library reads an unread body to its end, in whatever thread drops the
//! request, into a buffer of the declared length, and a client that never sends it holds that
//! thread for ever.
//! So such a request is dropped on a thread of its own, and there is a bound to their number.

use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use contract::{Method, Reply, http1};
use tiny_http::{Request, Response};

use crate::state::{Places, now};

/// Clients that may hold a thread by not sending what they announced.
const MAX_THREADS: usize = 64;
/// Longest declared body for which the library's buffer is harmless (its pages are not touched
/// before bytes arrive), in bytes; a longer one could end the process for lack of memory.
const MAX_DRAIN: usize = 256 * 1024 * 1024;

/// Those at present.
static THREADS: Places = Places::new(MAX_THREADS);
/// Connections that were leaked; `Relaxed`, because only the number counts.
static LEAKED: AtomicUsize = AtomicUsize::new(0);
/// Descriptors of a connection: the library has one to read and one to write.
const DESCRIPTORS: usize = 2;

/// Descriptors of leaked connections, which nobody will close.
pub fn leaked() -> usize {
    DESCRIPTORS * LEAKED.load(Ordering::Relaxed)
}

/// Answers `request`, whose body is dealt with elsewhere.
pub fn respond(request: Request, reply: Reply) {
    if request
        .body_length()
        .is_some_and(|length| length > MAX_DRAIN)
    {
        return respond_and_leak(request, &reply);
    }
    let Some(place) = THREADS.take() else {
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
    let method = Method::parse(request.method().as_str());
    let answer = http1::render(reply, method, false, now().0 / 1000);
    let mut stream = request.upgrade("", Response::empty(100));
    let _ = stream.write_all(&answer).and_then(|()| stream.flush());
    std::mem::forget(stream);
    LEAKED.fetch_add(1, Ordering::Relaxed);
}
