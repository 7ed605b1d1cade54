//! A client's socket with patience that ends.
//!
//! Particular to tasks: a deadline is no property of the socket but a timer that is polled beside
//! it, so one stream can have several, and a new one when the client's turn changes.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::http::StatusCode;
use contract::limits::{HEAD_TIMEOUT, KEEP_ALIVE_TIMEOUT};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// How long and how many bytes a refused client is listened to before the socket is closed.
const LINGER: Duration = Duration::from_secs(1);
/// See [`LINGER`].
const LINGER_BYTES: usize = 256 * 1024;

/// What a connection's handlers tell its stream; they share a connection but not a task's stack,
/// because hyper keeps both.
#[derive(Debug, Default)]
pub struct Activity {
    /// Whether a request is being handled: then the client may be silent for as long as that takes,
    /// and its body has a deadline of its own.
    busy: AtomicBool,
    /// Whether the last answer was a refusal, perhaps of a body that is still coming.
    refused: AtomicBool,
}

impl Activity {
    /// Notes that a request is being handled until the guard is dropped.
    #[must_use]
    pub fn begin(this: &Arc<Self>) -> Busy {
        this.busy.store(true, Ordering::Relaxed);
        Busy(Arc::clone(this))
    }
}

/// A request that is being handled.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

impl Busy {
    /// Notes how it was answered.
    pub fn end(self, status: StatusCode) {
        let refused = status.is_client_error() || status.is_server_error();
        self.0.refused.store(refused, Ordering::Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

/// A stream that gives up on a client that is idle for too long or sends its head too slowly.
///
/// hyper's own `header_read_timeout` starts with the end of the request before, so it cannot tell
/// the two: five seconds would cut every client that rests for six, and sixty would let a slow one
/// hold its place for sixty. It also sets up a timer per request; this one is set when it fires.
#[derive(Debug)]
pub struct PatientStream {
    stream: TokioIo<TcpStream>,
    activity: Arc<Activity>,
    /// When the current head began; none while the connection rests.
    head: Option<Instant>,
    /// When something was last heard or said.
    last: Instant,
    /// One timer for the connection's whole life.
    alarm: Pin<Box<Sleep>>,
    /// Bytes that were thrown away since the connection was shut down; none before.
    scrapped: Option<usize>,
}

impl PatientStream {
    /// Takes over a socket on which a client has just connected.
    #[must_use]
    pub fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        // hyper writes an answer at once, so this changes little; but a large answer's last segment
        // would wait for the client's delayed ACK. A socket that refuses it still serves.
        let _ = stream.set_nodelay(true);
        let last = Instant::now();
        Self {
            stream: TokioIo::new(stream),
            activity,
            // A client that connects is expected to say something.
            head: Some(last),
            last,
            alarm: Box::pin(sleep_until(last + HEAD_TIMEOUT)),
            scrapped: None,
        }
    }

    fn is_busy(&self) -> bool {
        self.activity.busy.load(Ordering::Relaxed)
    }

    /// Whether the client has used up its time; otherwise sees to it that we are asked again.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_busy() {
            // What comes now is a body; the head is complete.
            self.head = None;
        }
        let due = match self.head {
            Some(begun) => begun + HEAD_TIMEOUT,
            None => self.last + KEEP_ALIVE_TIMEOUT,
        };
        // Moved forward only: an alarm that is early asks again, which costs less than moving it
        // with every request.
        if due < self.alarm.deadline() {
            self.alarm.as_mut().reset(due);
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due && !self.is_busy() {
                return Poll::Ready(());
            }
            self.alarm
                .as_mut()
                .reset(due.max(Instant::now() + HEAD_TIMEOUT));
        }
        Poll::Pending
    }

    /// Notes that an answer goes out: the head before it was complete, and the rest begins.
    fn said(&mut self) {
        self.head = None;
        self.last = Instant::now();
    }

    /// Throws away what a refused client still sends, within bounds.
    ///
    /// A socket that is closed while bytes wait in it tells the peer so by a reset, and the reset
    /// overtakes our answer: a client that is busy sending a body that is too large would learn
    /// that the connection broke, and not why.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.scrapped.is_none() {
            self.alarm.as_mut().reset(Instant::now() + LINGER);
        }
        let scrapped = self.scrapped.get_or_insert_default();
        let mut scrap = [0; 4096];
        while *scrapped < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut scrap);
            let read = Pin::new(self.stream.inner_mut()).poll_read(cx, &mut buffer);
            match (read, buffer.filled().len()) {
                (Poll::Ready(Ok(())), bytes @ 1..) => *scrapped += bytes,
                (Poll::Ready(_), _) => return Poll::Ready(()),
                // Whoever was not refused has nothing on its way, and nothing to wait for.
                (Poll::Pending, _) => {
                    let refused = self.activity.refused.load(Ordering::Relaxed);
                    if *scrapped == 0 && !refused {
                        return Poll::Ready(());
                    }
                    return self.alarm.as_mut().poll(cx);
                }
            }
        }
        Poll::Ready(())
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
                if self.head.is_none() && !self.is_busy() {
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
        self.said();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Of the writing half: the client sees the end of our answers and may still be sending.
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.poll_linger(cx).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.said();
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }
}
