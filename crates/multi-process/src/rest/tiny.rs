//! Takes requests from the library tiny_http, the front `--http tiny-http`.
//!
//! Particular to processes: the worker is the process's main thread. A request is answered before the
//! next is taken, and what other models gain by threads or tasks, this one gains by running the program
//! several times.
//! The library parses each connection on a thread; it knows no other way. Deadlines and limits for
//! these threads cannot be set from outside, which is why there is another front.

use std::{
    io::{self, Cursor, Write},
    panic,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use contract::{
    Method, Reply, Resolution, Route, http1,
    reply::{IF_NONE_MATCH, REQUEST_ID, request_id},
    routes,
};
use tiny_http::{Header, Request, Response, Server, StatusCode};

use super::{
    REPORT_DELAY, RETRY_DELAY,
    api::{self, Api, Asked},
    body::{Body, header},
    reject,
    sockets::{self, Lent},
};
use crate::{
    ipc::{Answer, Client, Question},
    nudge::Nudge,
    shutdown::{Alarm, Fatal},
    state::Flag,
};

/// Requests taken together at most.
const TURN: usize = 16;
/// How long, and how often in a row, a stopping process that cannot hang up waits for one more
/// request.
const LAST_CALL: Duration = Duration::from_millis(5);
const LAST_CALLS: usize = 10;
/// How long the supervisor may take to close the listener for all.
const CLOSING: Duration = Duration::from_secs(1);
/// How long, and how often, the listener is looked at when something has happened to a thread.
const SUSPICION: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// The REST worker.
pub struct Worker {
    /// What answers.
    pub api: Arc<Api>,
    /// The library's queue of requests; an `Arc`, because the thread that waits for signals unblocks
    /// it.
    pub server: Arc<Server>,
    /// Raised by that thread, before it unblocks the server, when nothing more is to be served.
    pub stopping: Arc<Flag>,
    /// Way to the AMQP process: one connection, used by one thread, so a call is a call and needs no
    /// pool.
    pub client: Client,
    /// Who looks after new connections.
    pub nudge: Nudge,
    /// The listener, while the library accepts from it.
    pub accepting: Accepting,
    /// When the counters must be reported; `None` if nothing has changed.
    pub report_due: Option<Instant>,
}

/// The library's accepting thread, which ends for good at the first error of `accept`, or by a panic
/// if only the second descriptor of a connection is missing.
pub struct Accepting {
    /// Its listener.
    pub listener: Lent,
    /// Port of the listener.
    pub port: u16,
    /// Raised when it may have ended.
    pub suspected: Arc<Flag>,
    /// Ends the process in good order; the supervisor starts a fresh one.
    pub alarm: Alarm,
    /// Until when it is looked at.
    pub until: Option<Instant>,
}

impl Accepting {
    /// Hears every panic of this process, whose thread may have been the accepting one: nobody joins
    /// it, so nobody but the hook would know.
    pub fn hear_panics(&self, server: &Arc<Server>) {
        let report = panic::take_hook();
        let (suspected, server) = (Arc::clone(&self.suspected), Arc::clone(server));
        panic::set_hook(Box::new(move |panic| {
            report(panic);
            suspected.set(true);
            server.unblock();
        }));
    }

    /// Raises the alarm if the thread has ended otherwise than by the supervisor's doing.
    fn look(&mut self) {
        if self.suspected.is_up() {
            self.suspected.set(false);
            self.until = Some(Instant::now() + SUSPICION);
        }
        let Some(until) = self.until else { return };
        if !self.listener.is_open() {
            self.alarm.raise(Fatal::ListenerLost);
            self.until = None;
        } else if Instant::now() > until {
            self.until = None;
        }
    }

    /// Notes what the library's queue has said in place of a request.
    fn note(&self, error: &io::Error) {
        // So the end of a listener is told that the supervisor has closed.
        if error.kind() != io::ErrorKind::InvalidInput {
            self.suspected.set(true);
        }
    }
}

impl Worker {
    /// Serves until the process is told to stop, or has to for want of a listener.
    pub fn run(mut self) {
        // Introduces this process before its first request.
        self.report();
        while !self.stopping.is_up() {
            if let Some(request) = self.next() {
                self.serve_all(request);
            }
            self.accepting.look();
            self.do_chores();
        }
        self.serve_last();
        self.report();
    }

    /// Serves what is left: first while the supervisor closes the listener for all processes at once,
    /// then until every connection that was hung up on has its answers.
    fn serve_last(&mut self) {
        let closed = Instant::now() + self.closing();
        while self.accepting.listener.is_open() && Instant::now() < closed {
            self.serve_for(LAST_CALL);
        }
        let mut silent = 0;
        while silent < LAST_CALLS {
            match sockets::hang_up(self.accepting.port) {
                Ok(open) if open <= reject::leaked() => return,
                Ok(_) => {}
                // Then there is no telling what is still on its way from the library's threads.
                Err(_) => silent += 1,
            }
            while self.serve_for(LAST_CALL) {
                silent = 0;
            }
        }
    }

    /// How long the listener may still be open: detached processes have nobody who closes it.
    fn closing(&self) -> Duration {
        let part = self.api.config.part.as_ref();
        let supervised = part.is_some_and(|part| part.supervisor.is_some());
        if supervised { CLOSING } else { Duration::ZERO }
    }

    /// Serves a request, if one comes in time.
    fn serve_for(&mut self, patience: Duration) -> bool {
        let request = self.server.recv_timeout(patience).ok().flatten();
        let came = request.is_some();
        if let Some(request) = request {
            self.serve(request, None);
        }
        came
    }

    /// The next request, or nothing if a chore or the stop comes first.
    ///
    /// What is here already is taken without a timed wait, which costs the kernel a timer.
    /// If nothing is, the processor is offered to the threads that parse: under load they queue
    /// several requests meanwhile, which then share a round trip (a fifth more requests per second
    /// on one core), and a quiet process pays a system call before it sleeps.
    fn next(&mut self) -> Option<Request> {
        let request = self.try_next().or_else(|| {
            std::thread::yield_now();
            self.try_next()
        });
        // The flag is raised before the queue is unblocked, so that one of the two is always seen.
        if request.is_some() || self.accepting.suspected.is_up() || self.stopping.is_up() {
            return request;
        }
        let look = self.accepting.until.map(|_| Instant::now() + LOOK);
        let due = [self.report_due, self.nudge.due(), look];
        let received = match due.into_iter().flatten().min() {
            Some(due) => self
                .server
                .recv_timeout(due.saturating_duration_since(Instant::now())),
            None => self.server.recv().map(Some),
        };
        self.received(received)
    }

    /// A request that is here already.
    fn try_next(&self) -> Option<Request> {
        let received = self.server.try_recv();
        self.received(received)
    }

    fn received(&self, received: io::Result<Option<Request>>) -> Option<Request> {
        received.unwrap_or_else(|error| {
            self.accepting.note(&error);
            None
        })
    }

    /// Does what is due beside the requests; there is no other thread that could.
    fn do_chores(&mut self) {
        let now = Instant::now();
        if self.nudge.due().is_some_and(|due| due <= now) {
            self.nudge.look();
        }
        if self.report_due.is_some_and(|due| due <= now) {
            self.report();
        }
    }

    /// Serves a request and those that have arrived with it.
    ///
    /// What they want to know of the store is asked in one round trip: under load most of the wait is
    /// shared, and with one request there is none to share.
    fn serve_all(&mut self, first: Request) {
        let mut requests = vec![first];
        while requests.len() < TURN
            && let Some(request) = self.try_next()
        {
            requests.push(request);
        }
        let mut answers = self.ask_ahead(&requests).into_iter();
        for request in requests {
            let answer = answers.next().flatten();
            self.serve(request, answer);
        }
    }

    /// Asks for the latest values that several requests want; a single one asks for itself.
    fn ask_ahead(&mut self, requests: &[Request]) -> Vec<Option<Answer>> {
        if requests.len() < 2 {
            return Vec::new();
        }
        let keys: Vec<_> = requests.iter().map(|it| self.wanted_key(it)).collect();
        let questions: Vec<_> = keys
            .iter()
            .flatten()
            .copied()
            .map(Question::Latest)
            .collect();
        let mut answers = Vec::with_capacity(questions.len());
        if !questions.is_empty() {
            self.client
                .ask_all(&questions, |answer| answers.push(answer));
        }
        let mut answers = answers.into_iter();
        let wants = keys.iter().map(Option::is_some);
        wants
            .map(|wants| wants.then(|| answers.next()).flatten())
            .collect()
    }

    /// The key whose latest values a request wants.
    fn wanted_key<'a>(&self, request: &'a Request) -> Option<&'a str> {
        let method = Method::parse(request.method().as_str());
        let path = request.url().split('?').next().unwrap_or_default();
        match routes::resolve(self.api.config.settings.profile, method, path) {
            Resolution::Route(Route::Latest, key) => Some(key),
            _ => None,
        }
    }

    /// Serves one request to its end; `answer` was asked for already, with those of others.
    fn serve(&mut self, mut request: Request, answer: Option<Answer>) {
        let started = Instant::now();
        self.nudge.seen(request.remote_addr());
        let id = request_id(header(&request, REQUEST_ID), || self.api.ids.next());
        let if_none_match = header(&request, IF_NONE_MATCH).map(str::to_owned);
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let asked = Asked {
            method: Method::parse(request.method().as_str()),
            path,
            query,
            if_none_match: if_none_match.as_deref(),
            started,
        };
        let mut body = Body::of(&mut request);
        let client = &mut self.client;
        let reply = match answer {
            Some(answer) => api::latest(answer, asked.if_none_match),
            None => self
                .api
                .answer(&asked, |limit| body.read(limit), move || client),
        };
        let reply = reply.unwrap_or_else(|problem| Reply::problem(&problem, &id));
        let unread = body.is_unread();
        let code = reply.status;
        let reply = reply.with_header(REQUEST_ID, id);
        if unread {
            reject::respond(request, reply);
        } else if self.api.draining.is_up() {
            respond_last(request, &reply);
        } else {
            respond(request, reply);
        }
        self.api.answered(&asked, code);
        self.report_due.get_or_insert(started + REPORT_DELAY);
    }

    /// Reports this process's figures, and tries again later if nobody takes them.
    fn report(&mut self) {
        let reported = self.api.report(&mut self.client).is_some();
        self.report_due = (!reported).then(|| Instant::now() + RETRY_DELAY);
    }
}

/// Writes the answer.
fn respond(request: Request, reply: Reply) {
    if let Err(error) = request.respond(response(reply)) {
        log::debug!("an answer could not be written: {error}");
    }
}

/// Writes the answer by hand and announces the end of the connection, because the library drops
/// every `Connection` header. It is the client who closes then, or else [`Worker::serve_last`].
fn respond_last(request: Request, reply: &Reply) {
    let method = Method::parse(request.method().as_str());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let answer = http1::render(reply, method, false, now.unwrap_or_default().as_secs());
    let mut writer = request.into_writer();
    if let Err(error) = writer.write_all(&answer).and_then(|()| writer.flush()) {
        log::debug!("an answer could not be written: {error}");
    }
}

/// The library's form of an answer.
pub(super) fn response(reply: Reply) -> Response<Cursor<Vec<u8>>> {
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
