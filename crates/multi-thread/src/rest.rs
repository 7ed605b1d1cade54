//! Serves REST: takes requests, answers them through the domain, counts them.
//!
//! Particular to threads: the library (tiny_http) parses each connection on a thread of its own and
//! queues the requests; a fixed number of workers takes them from there.
//! A worker is busy until its answer is written, so a request may block it freely, and the number
//! of workers is the number of requests in work.

mod reject;

use std::{
    io::{self, Cursor, Read},
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Instant, SystemTime},
};

use contract::{
    Method, Problem, ProblemKind, Reply, Resolution, Route,
    metrics::HttpLabels,
    reply::{REQUEST_ID, request_id},
    routes,
};
use domain::{UnixMs, readiness, rest};
use socket2::{Domain, Socket, Type};
use tiny_http::{Header, Request, Response, Server, StatusCode};

use crate::{metrics, nudge::Watch, shutdown::Fatal, state::State};

/// Connections that wait to be accepted; more are refused by the kernel.
const BACKLOG: i32 = 1024;
/// Bodies up to this length were read by the library before the request was queued, in bytes.
const BUFFERED_BODY: usize = 1024;

/// Binds the listener ourselves, because the library cannot set `TCP_NODELAY`: accepted sockets
/// inherit it, and without it an answer beyond 1 KiB (two writes) waits 40 ms for a delayed ack.
///
/// # Errors
/// If the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A REST worker.
pub struct Worker {
    /// What the service shares.
    pub state: Arc<State>,
    /// The library's queue of requests: an unbounded one behind a mutex, shared by all workers.
    pub server: Arc<Server>,
    /// Who is told of new connections.
    pub watch: Arc<Watch>,
    /// The worker's number, from 0.
    pub number: usize,
    /// Requests that needed an id so far.
    pub ids: u64,
}

impl Worker {
    /// Serves until the library's queue is unblocked for a shutdown.
    pub fn run(mut self) {
        while let Ok(request) = self.server.recv() {
            self.serve(request);
        }
        // The same `Err` tells that accepting failed; then the listener is gone for good.
        if !self.state.flags.draining.is_up() {
            self.state.alarm.raise(Fatal::ListenerLost);
        }
    }

    /// Answers one request and counts it.
    ///
    /// The time runs from here: how long a request lay in the library's queue nobody tells us.
    fn serve(&mut self, mut request: Request) {
        let started = Instant::now();
        if self.watch.is_probe(request.remote_addr()) {
            drop(request.respond(Response::empty(204)));
            return;
        }
        self.slot().set_busy(true);
        let given = header(&request, REQUEST_ID);
        let id = request_id(given, || {
            self.ids += 1;
            self.state.id(self.number, self.ids)
        });
        let method = Method::parse(request.method().as_str());
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let route = routes::find(path).map(|(route, _)| route);
        let mut body = Body::of(&mut request);
        // A panic is a bug of one handler and must not cost the service a worker.
        // What it may have left half done is behind locks that say why that is harmless.
        let answer = catch_unwind(AssertUnwindSafe(|| {
            self.answer(method, path, query, &mut body)
        }));
        let reply = answer
            .unwrap_or_else(|_| Err(Problem::new(ProblemKind::Internal, "see the log")))
            .unwrap_or_else(|problem| Reply::problem(&problem, &id));
        let unread = body.is_unread();
        let code = reply.status;
        respond(request, reply, id, unread);
        let labels = HttpLabels {
            route,
            method,
            code,
        };
        let seconds = started.elapsed().as_secs_f64();
        self.slot().counts.lock().answered(labels, seconds);
        self.slot().set_busy(false);
    }

    /// Where this worker, and no other, counts.
    fn slot(&self) -> &metrics::HttpSlot {
        &self.state.metrics.http[self.number]
    }

    /// Finds out what is asked for; nothing here waits.
    fn answer(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        body: &mut Body<'_>,
    ) -> Result<Reply, Problem> {
        match routes::resolve(self.state.config.settings.profile, method, path) {
            Resolution::Refused(problem) => Err(problem),
            Resolution::Options(route) => Ok(Reply::options(route.allow())),
            Resolution::Route(route, key) => self.handle(route, key, query, body),
        }
    }

    /// Does it; here a worker may wait for the broker or the device.
    ///
    /// The store's lock is held while the answer is serialised, about a microsecond: copying the
    /// values out first would take as long.
    fn handle(
        &mut self,
        route: Route,
        key: &str,
        query: &str,
        body: &mut Body<'_>,
    ) -> Result<Reply, Problem> {
        let limit = self.state.config.settings.body_limit;
        let now = || UnixMs::from_system(SystemTime::now());
        match route {
            Route::Healthz => Ok(readiness::healthz()),
            Route::Readyz => Ok(readiness::readyz(self.state.checks())),
            Route::Metrics => Ok(Reply::prometheus(metrics::render(&self.state))),
            Route::Info => Ok(Reply::json(200, &self.state.info())),
            Route::Flatten => rest::flatten(&body.read(limit)?),
            Route::Events => self.publish(&body.read(limit)?),
            Route::DeviceCommands => self.command(&body.read(limit)?),
            Route::Keys => {
                let query = rest::KeysQuery::parse(query)?;
                Ok(query.answer(&self.state.store(), now()))
            }
            Route::Latest => rest::latest(&self.state.store(), key, now()),
        }
    }

    /// Publishes an event; the worker waits for the broker's confirm.
    fn publish(&mut self, body: &[u8]) -> Result<Reply, Problem> {
        let event = rest::parse_event(body)?;
        self.ids += 1;
        let message_id = self.state.id(self.number, self.ids);
        let outbox = &self.state.outbox;
        outbox.publish(&self.state, event, message_id.clone())?;
        Ok(rest::published(message_id))
    }

    /// Passes a command to the device; the worker waits for its line.
    fn command(&self, body: &[u8]) -> Result<Reply, Problem> {
        let line = rest::parse_command(body)?;
        rest::device_reply(&self.state.device.command(&line)?)
    }
}

/// The body of a request, read at most once and only if a handler wants it.
struct Body<'a> {
    request: &'a mut Request,
    read: bool,
}

impl<'a> Body<'a> {
    fn of(request: &'a mut Request) -> Self {
        Self {
            request,
            read: false,
        }
    }

    /// Reads the whole body, after its head was found acceptable.
    fn read(&mut self, limit: usize) -> Result<Vec<u8>, Problem> {
        let declared = self.request.body_length();
        let content_type = header(self.request, "Content-Type");
        rest::check_head(content_type, declared.map(|length| length as u64), limit)?;
        let mut body = Vec::with_capacity(declared.unwrap_or_default());
        let mut reader = self.request.as_reader().take(limit as u64 + 1);
        let result = reader.read_to_end(&mut body);
        if body.len() > limit {
            return Err(rest::body_too_large(limit));
        }
        self.read = true;
        match (result, declared) {
            (Ok(length), Some(declared)) if length < declared => Err(incomplete()),
            (Ok(_), _) => Ok(body),
            (Err(_), _) => Err(incomplete()),
        }
    }

    /// Whether something may still come that the library would wait for when the request is
    /// dropped.
    fn is_unread(&self) -> bool {
        let pending = match self.request.body_length() {
            Some(length) => length > BUFFERED_BODY || header(self.request, "Expect").is_some(),
            None => header(self.request, "Transfer-Encoding").is_some(),
        };
        pending && !self.read
    }
}

fn incomplete() -> Problem {
    Problem::new(ProblemKind::BadRequest, "the body is incomplete")
}

/// Value of a header; its name is compared without regard to case.
fn header<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let mut headers = request.headers().iter();
    let found = headers.find(|header| header.field.equiv(name))?;
    Some(found.value.as_str())
}

/// Writes the answer; one to a body that was not read goes through a thread of its own.
fn respond(request: Request, reply: Reply, id: String, unread: bool) {
    let reply = reply.with_header(REQUEST_ID, id);
    if unread {
        reject::respond(request, reply);
    } else if let Err(error) = request.respond(response(reply)) {
        log::debug!("an answer could not be written: {error}");
    }
}

/// The library's form of an answer.
fn response(reply: Reply) -> Response<Cursor<Vec<u8>>> {
    let content_type =
        (!reply.content_type.is_empty()).then(|| ("Content-Type", reply.content_type.to_owned()));
    let headers = content_type.into_iter().chain(reply.headers);
    let headers = headers.filter_map(|(name, value)| Header::from_bytes(name, value).ok());
    let length = reply.body.len();
    Response::new(
        StatusCode(reply.status),
        headers.collect(),
        Cursor::new(reply.body),
        Some(length),
        None,
    )
    // From 32 KiB on the library would send chunks although the length is known.
    .with_chunked_threshold(usize::MAX)
}
