//! Takes requests from the library tiny_http, the front `--http tiny-http`.
//!
//! Particular to processes: the worker is the process's main thread. A request is answered before the
//! next is taken, and what other models gain by threads or tasks, this one gains by running the program
//! several times.
//! The library parses each connection on a thread; it knows no other way. Deadlines and limits for
//! these threads cannot be set from outside, which is why there is another front.

use std::{
    io::Cursor,
    sync::Arc,
    time::{Duration, Instant},
};

use contract::{
    Method, Reply, Resolution, Route,
    reply::{IF_NONE_MATCH, REQUEST_ID, request_id},
    routes,
};
use tiny_http::{Header, Request, Response, Server, StatusCode};

use super::{
    REPORT_DELAY, RETRY_DELAY,
    api::{self, Api, Asked},
    body::{Body, header},
    reject,
};
use crate::{
    ipc::{Answer, Client, Question},
    nudge::Nudge,
    shutdown::Fatal,
    state::Flag,
};

/// Requests taken together at most.
const TURN: usize = 16;
/// How long, and how often in a row, a stopping process waits for one more request.
const LAST_CALL: Duration = Duration::from_millis(15);
const LAST_CALLS: usize = 3;
/// Time that a signal may take from one process to another.
const SIGNAL_DELAY: Duration = Duration::from_secs(1);

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
    /// When the counters must be reported; `None` if nothing has changed.
    pub report_due: Option<Instant>,
    /// Whether the library has stopped accepting.
    pub accept_ended: bool,
}

impl Worker {
    /// Serves until the process is told to stop.
    ///
    /// # Errors
    /// [`Fatal::ListenerLost`]: the library gives up its listener at the first error of `accept`.
    /// This process ends, and the supervisor starts a fresh one.
    pub fn run(mut self) -> Result<(), Fatal> {
        // Introduces this process before its first request.
        self.report();
        while !self.stopping.is_up() {
            if let Some(request) = self.next() {
                self.serve_all(request);
            }
            if self.accept_ended && !self.is_stopping() {
                return Err(Fatal::ListenerLost);
            }
            self.do_chores();
        }
        self.serve_last();
        self.report();
        Ok(())
    }

    /// Serves what is still on its way from the library's threads.
    ///
    /// There is no telling how much that is; a few silent moments in a row are taken for its end,
    /// because the unblocking and the end of `accept` show as silence, too.
    fn serve_last(&mut self) {
        let mut silent = 0;
        while silent < LAST_CALLS {
            match self.server.recv_timeout(LAST_CALL) {
                Ok(Some(request)) => {
                    silent = 0;
                    self.serve(request, None);
                }
                Ok(None) | Err(_) => silent += 1,
            }
        }
    }

    /// Whether the end of `accept` belongs to a stop: the supervisor shuts the listener down for all
    /// processes at once, and its signal may come a moment later.
    fn is_stopping(&self) -> bool {
        let deadline = Instant::now() + SIGNAL_DELAY;
        while !self.stopping.is_up() && Instant::now() < deadline {
            std::thread::sleep(LAST_CALL);
        }
        self.stopping.is_up()
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
        if request.is_some() || self.accept_ended || self.stopping.is_up() {
            return request;
        }
        let due = [self.report_due, self.nudge.due()];
        let received = match due.into_iter().flatten().min() {
            Some(due) => self
                .server
                .recv_timeout(due.saturating_duration_since(Instant::now())),
            None => self.server.recv().map(Some),
        };
        self.accept_ended |= received.is_err() && !self.stopping.is_up();
        received.ok().flatten()
    }

    /// A request that is here already.
    fn try_next(&mut self) -> Option<Request> {
        let received = self.server.try_recv();
        self.accept_ended |= received.is_err();
        received.ok().flatten()
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
        respond(request, reply, id, unread);
        self.api.answered(&asked, code);
        self.report_due.get_or_insert(started + REPORT_DELAY);
    }

    /// Reports this process's figures, and tries again later if nobody takes them.
    fn report(&mut self) {
        let reported = self.api.report(&mut self.client).is_some();
        self.report_due = (!reported).then(|| Instant::now() + RETRY_DELAY);
    }
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
