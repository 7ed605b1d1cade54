//! Accepts connections and keeps them within limits of number and time.
//!
//! Particular to tasks: a task per connection, which costs a few kilobytes, so a thousand idle
//! clients are no burden and need no pool. `axum::serve` would do the same, but has neither a
//! limit of connections nor a deadline for a client that sends its head byte by byte.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::Router;
use hyper::{
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{Api, edge};
use crate::shutdown::{Phase, PhaseView};

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: u32 = 1024;
/// Longest request head in bytes; a longer one is answered 431.
const MAX_HEAD: usize = 16 * 1024;
/// How long a client may take for a head once it has begun.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay idle between requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a failed accept, such as for want of descriptors: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until [`Phase::NoServing`], then waits until every connection is done.
pub async fn accept_all(listener: TcpListener, api: Arc<Api>, router: Router, mut view: PhaseView) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    loop {
        // A place first and then the connection: the other way round, a client would be accepted
        // and left without an answer instead of waiting where the kernel keeps it.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            () = view.reached(Phase::NoServing) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = serve_one(stream, Arc::clone(&api), router.clone(), view.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                log::warn!("cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // New clients are refused from here on, so that a proxy turns to another instance.
    drop(listener);
    // All places free: every connection is done.
    let _done = places.acquire_many(MAX_CONNECTIONS).await;
}

/// Serves one connection until it ends; at [`Phase::NoServing`] the request under way is the last.
async fn serve_one(stream: TcpStream, api: Arc<Api>, router: Router, mut view: PhaseView) {
    // hyper writes an answer at once, so this changes little; but a large answer's last segment
    // would wait for the client's delayed ACK. A socket that refuses it still serves.
    let _ = stream.set_nodelay(true);
    let busy = Arc::new(AtomicBool::new(false));
    let stream = PatientStream::new(stream, Arc::clone(&busy));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        let (api, router) = (Arc::clone(&api), router.clone());
        let busy = Busy::begin(Arc::clone(&busy));
        async move {
            let response = edge::answer(&api, &router, request).await;
            drop(busy);
            Ok::<_, Infallible>(response)
        }
    });
    let serving = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .serve_connection(stream, service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = view.reached(Phase::NoServing) => {
            // Closes an idle connection at once, a busy one behind its answer.
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        log::debug!("connection ended: {error}");
    }
}

/// Marks a connection as busy while its request is handled.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn begin(flag: Arc<AtomicBool>) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A stream that gives up on a client that is idle for too long or sends its head too slowly.
///
/// hyper's own `header_read_timeout` starts with the end of the request before, so it cannot tell
/// the two: five seconds would cut every client that rests for six, and sixty would let a slow one
/// hold its place for sixty. It also sets up a timer per request; this one is set when it fires.
struct PatientStream {
    stream: TokioIo<TcpStream>,
    /// Whether a request is being handled: then the client may be silent for as long as that takes,
    /// and its body has a deadline of its own.
    busy: Arc<AtomicBool>,
    /// When the current head began; none while the connection rests.
    head: Option<Instant>,
    /// When something was last heard or said.
    last: Instant,
    /// One timer for the connection's whole life.
    alarm: Pin<Box<Sleep>>,
}

impl PatientStream {
    fn new(stream: TcpStream, busy: Arc<AtomicBool>) -> Self {
        let last = Instant::now();
        Self {
            stream: TokioIo::new(stream),
            busy,
            // A client that connects is expected to say something.
            head: Some(last),
            last,
            alarm: Box::pin(sleep_until(last + HEAD_TIMEOUT)),
        }
    }

    /// Whether the client has used up its time; otherwise sees to it that we are asked again.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.busy.load(Ordering::Relaxed) {
            // What comes now is a body; the head is complete.
            self.head = None;
        }
        let due = match self.head {
            Some(begun) => begun + HEAD_TIMEOUT,
            None => self.last + IDLE_TIMEOUT,
        };
        // Moved forward only: an alarm that is early asks again, which costs less than moving it
        // with every request.
        if due < self.alarm.deadline() {
            self.alarm.as_mut().reset(due);
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due && !self.busy.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            self.alarm
                .as_mut()
                .reset(due.max(Instant::now() + HEAD_TIMEOUT));
        }
        Poll::Pending
    }
}

impl Read for PatientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(result) => {
                self.last = Instant::now();
                if self.head.is_none() && !self.busy.load(Ordering::Relaxed) {
                    self.head = Some(self.last);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                ready!(self.poll_alarm(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl Write for PatientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // An answer goes out: the head before it was complete, and the rest begins.
        self.head = None;
        self.last = Instant::now();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.head = None;
        self.last = Instant::now();
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }
}
