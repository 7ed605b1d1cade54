//! Serves through the library tiny_http.
//!
//! Particular to threads: the library parses each connection on a thread of its own and queues the
//! requests, without a bound; a fixed number of workers takes them from there.
//! What it does not offer cannot be had from outside either: it has no timeout and no bound for
//! heads, connections or pipelined requests, and it does not tell how many connections it has.

use std::{
    io::{self, Cursor, Read, Write},
    net::TcpListener,
    sync::Arc,
    time::Instant,
};

use contract::{Method, Problem, ProblemKind, Reply, http1, reply, routes};
use domain::rest;
use tiny_http::{Header, Request, Response, Server, StatusCode};

use super::{
    Api, Call,
    library::{Library, Turn},
    reject,
};
use crate::{
    nudge::{self, Watch},
    shutdown::{Group, Part},
    state::{State, now},
};

/// Bodies up to this length were read by the library before the request was queued, in bytes.
const BUFFERED_BODY: usize = 1024;

/// The library's server with our workers.
pub struct Front {
    library: Arc<Library>,
    nudge: Part,
    /// They wait in the library and not in a `select!`, so they have no token.
    workers: Group,
}

impl Front {
    /// Starts the library and the workers.
    ///
    /// # Errors
    /// If the system has no room for their threads, or the own port cannot be reached.
    pub fn start(state: &Arc<State>, listener: TcpListener) -> io::Result<Self> {
        let count = state.config.settings.http_workers;
        let library = Arc::new(Library::start(listener, count)?);
        let (watch, seen) = nudge::watch();
        let watch = Arc::new(watch);
        let mut workers = Group::default();
        for number in 0..count {
            let worker = Worker {
                api: Api::new(Arc::clone(state), number),
                state: Arc::clone(state),
                server: library.server(),
                library: Arc::clone(&library),
                watch: Arc::clone(&watch),
            };
            workers.spawn(format!("rest-{number}"), || worker.run())?;
        }
        nudge::hear_panics(&watch);
        let ballast = nudge::settle(&watch, &library)?;
        let (state, own) = (Arc::clone(state), Arc::clone(&library));
        let nudge = Part::start("nudge", move |stop| {
            nudge::run(&state, &watch, &seen, &own, ballast, stop);
        })?;
        Ok(Self {
            library,
            nudge,
            workers,
        })
    }

    /// See [`super::Front::stop`].
    pub fn stop(self, deadline: Instant) -> Vec<String> {
        let mut late = self.nudge.stop().wait(deadline);
        self.library.end(deadline);
        late.extend(self.workers.wait(deadline));
        late
    }
}

/// A REST worker.
struct Worker {
    api: Api,
    state: Arc<State>,
    /// The library's queue of requests: an unbounded one behind a mutex, shared by all workers.
    server: Arc<Server>,
    /// Where the next one is found, should this one have stopped accepting.
    library: Arc<Library>,
    /// Who is told of new connections, and of their end.
    watch: Arc<Watch>,
}

impl Worker {
    /// Serves until the library is ended.
    fn run(mut self) {
        loop {
            match self.server.recv() {
                Ok(request) => self.serve(request),
                // The queue was unblocked, or tells that accepting has failed.
                Err(_) => match self.library.turn(&self.server) {
                    Turn::To(server) => self.server = server,
                    Turn::Stay => self.watch.alert(),
                    Turn::End => return,
                },
            }
        }
    }

    /// Answers one request and counts it.
    ///
    /// The time runs from here: how long a request lay in the library's queue nobody tells us.
    fn serve(&self, mut request: Request) {
        let started = Instant::now();
        if self.watch.is_probe(request.remote_addr()) {
            drop(request.respond(Response::empty(204)));
            return;
        }
        let id = self.api.request_id(header(&request, reply::REQUEST_ID));
        let method = Method::parse(request.method().as_str());
        let url = request.url().to_owned();
        let if_none_match = header(&request, reply::IF_NONE_MATCH).map(str::to_owned);
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let call = Call {
            method,
            path,
            query,
            if_none_match: if_none_match.as_deref(),
        };
        let mut body = Body::of(&mut request);
        let limit = self.state.config.settings.body_limit;
        let reply = self.api.answer(&call, &id, || body.read(limit));
        let unread = body.is_unread();
        let code = reply.status;
        if unread {
            reject::respond(request, reply);
        } else if self.api.is_draining() {
            respond_last(request, &reply);
        } else {
            respond(request, reply);
        }
        let route = routes::find(path).map(|(route, _)| route);
        self.api.count(route, method, code, started);
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

/// Writes the answer.
fn respond(request: Request, reply: Reply) {
    if let Err(error) = request.respond(response(reply)) {
        log::debug!("an answer could not be written: {error}");
    }
}

/// Writes the answer by hand and announces the end of the connection, because the library drops
/// every `Connection` header. It is the client who closes then, or else [`Library::end`].
fn respond_last(request: Request, reply: &Reply) {
    let method = Method::parse(request.method().as_str());
    let answer = http1::render(reply, method, false, now().0 / 1000);
    let mut writer = request.into_writer();
    if let Err(error) = writer.write_all(&answer).and_then(|()| writer.flush()) {
        log::debug!("an answer could not be written: {error}");
    }
}

/// The library's form of an answer.
pub fn response(reply: Reply) -> Response<Cursor<Vec<u8>>> {
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
