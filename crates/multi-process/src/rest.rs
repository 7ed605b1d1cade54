//! Serves REST: takes requests, answers them through the domain, counts them.
//!
//! Particular to processes: the worker is the process's main thread, and everything it has is its
//! own: no lock, no atomic and no channel stands in this file. A request is answered before the
//! next is taken, and what other models gain by threads or tasks, this one gains by running the
//! program several times.
//! The library (tiny_http) parses each connection on a thread; it knows no other way.

mod body;
mod reject;

use std::{
    io::{self, Cursor},
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use contract::{
    Method, Problem, ProblemKind, Reply, Resolution, Route,
    metrics::{HttpLabels, HttpMetrics},
    reply::{REQUEST_ID, request_id},
    routes,
    shapes::{Check, Checks, Info},
};
use domain::{UnixMs, readiness, rest};
use socket2::{Domain, Socket, Type};
use tiny_http::{Header, Request, Response, Server, StatusCode};

use self::body::{Body, header};
use crate::{
    config::{Config, MODEL},
    device::Device,
    ipc::{
        Answer, Client, Question,
        answers::{Figures, Status},
    },
    metrics::{self, Report},
    nudge::Nudge,
    shutdown::Fatal,
    state::{Flag, Ids},
};

/// Connections that wait to be accepted; more are refused by the kernel.
const BACKLOG: i32 = 1024;
/// Requests taken together at most.
const TURN: usize = 16;
/// Time from a change of the figures to their report.
const REPORT_DELAY: Duration = Duration::from_millis(250);
/// Time until a report that nobody took is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long, and how often in a row, a stopping process waits for one more request.
const LAST_CALL: Duration = Duration::from_millis(15);
const LAST_CALLS: usize = 3;
/// Time that a signal may take from one process to another.
const SIGNAL_DELAY: Duration = Duration::from_secs(1);

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

/// The REST worker.
pub struct Worker {
    /// Configuration.
    pub config: Arc<Config>,
    /// The library's queue of requests; an `Arc`, because the thread that waits for signals unblocks
    /// it.
    pub server: Arc<Server>,
    /// Raised by that thread, before it unblocks the server, when the process was told to stop.
    pub draining: Arc<Flag>,
    /// Way to the AMQP process: one connection, used by one thread, so a call is a call and needs no
    /// pool.
    pub client: Client,
    /// Connection to the device, for the same reason a single one.
    pub device: Device,
    /// Who looks after new connections.
    pub nudge: Nudge,
    /// Counters: a plain struct, where other models need a lock or atomics.
    pub http: HttpMetrics,
    /// Makes ids for requests that have none; no other process makes the same.
    pub ids: Ids,
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
        while !self.draining.is_up() {
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
        while !self.draining.is_up() && Instant::now() < deadline {
            std::thread::sleep(LAST_CALL);
        }
        self.draining.is_up()
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
        if request.is_some() || self.accept_ended || self.draining.is_up() {
            return request;
        }
        let due = [self.report_due, self.nudge.due()];
        let received = match due.into_iter().flatten().min() {
            Some(due) => self
                .server
                .recv_timeout(due.saturating_duration_since(Instant::now())),
            None => self.server.recv().map(Some),
        };
        self.accept_ended |= received.is_err() && !self.draining.is_up();
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
        match routes::resolve(self.config.settings.profile, method, path) {
            Resolution::Route(Route::Latest, key) => Some(key),
            _ => None,
        }
    }

    /// Serves one request to its end; `answer` was asked for already, with those of others.
    fn serve(&mut self, mut request: Request, answer: Option<Answer>) {
        let started = Instant::now();
        self.nudge.seen(request.remote_addr());
        self.http.inflight = 1;
        let given = header(&request, REQUEST_ID);
        let id = request_id(given, || self.ids.next());
        let method = Method::parse(request.method().as_str());
        let url = request.url().to_owned();
        let (path, query) = url.split_once('?').unwrap_or((&url, ""));
        let route = routes::find(path).map(|(route, _)| route);
        let mut body = Body::of(&mut request);
        // A panic is a bug of one handler; it would end the process, and with it the connections of
        // other clients, for which the supervisor could only start anew.
        let outcome = catch_unwind(AssertUnwindSafe(|| match answer {
            Some(answer) => Ok(Reply::raw_json(200, answer?)),
            None => self.answer(method, path, query, &mut body),
        }));
        let reply = outcome
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
        self.http.answered(labels, seconds);
        self.http.inflight = 0;
        self.report_due.get_or_insert(started + REPORT_DELAY);
    }

    fn answer(
        &mut self,
        method: Method,
        path: &str,
        query: &str,
        body: &mut Body<'_>,
    ) -> Result<Reply, Problem> {
        match routes::resolve(self.config.settings.profile, method, path) {
            Resolution::Refused(problem) => Err(problem),
            Resolution::Options(route) => Ok(Reply::options(route.allow())),
            Resolution::Route(route, key) => self.handle(route, key, query, body),
        }
    }

    fn handle(
        &mut self,
        route: Route,
        key: &str,
        query: &str,
        body: &mut Body<'_>,
    ) -> Result<Reply, Problem> {
        let limit = self.config.settings.body_limit;
        match route {
            Route::Healthz => Ok(readiness::healthz()),
            Route::Readyz => Ok(readiness::readyz(self.checks())),
            Route::Metrics => Ok(Reply::prometheus(self.metrics())),
            Route::Info => Ok(Reply::json(200, &self.info())),
            Route::Flatten => rest::flatten(&body.read(limit)?),
            Route::Events => self.publish(&body.read(limit)?),
            Route::DeviceCommands => self.command(&body.read(limit)?),
            Route::Keys => {
                // Checked here already: a wrong query costs no round trip.
                rest::KeysQuery::parse(query)?;
                self.ask(Question::Keys(query))
            }
            Route::Latest => self.ask(Question::Latest(key)),
        }
    }

    /// Passes on an answer that the AMQP process has rendered.
    fn ask(&mut self, question: Question<'_>) -> Result<Reply, Problem> {
        Ok(Reply::raw_json(200, self.client.ask(question)?))
    }

    /// Checks the event here, where a wrong one costs no round trip, and has it published there, where
    /// the connection is. This process waits for the confirm; that is what a synchronous worker is.
    fn publish(&mut self, body: &[u8]) -> Result<Reply, Problem> {
        let event = rest::parse_event(body)?;
        let event = serde_json::to_vec(&event).expect("an event serialises");
        let message_id = self.client.ask(Question::Publish(&event))?;
        Ok(rest::published(
            String::from_utf8_lossy(&message_id).into_owned(),
        ))
    }

    /// Sends a command; with fewer connections than processes only by permission.
    fn command(&mut self, body: &[u8]) -> Result<Reply, Problem> {
        let line = rest::parse_command(body)?;
        let settings = &self.config.settings;
        if settings.device_pool >= settings.http_workers {
            return rest::device_reply(&self.device.command(&line)?);
        }
        self.client.ask(Question::Lease)?;
        let reply = self.device.command(&line);
        self.device.disconnect();
        // If this fails, the other side has seen our connection end and taken the lease back.
        let _ = self.client.ask(Question::Release);
        rest::device_reply(&reply?)
    }

    /// State of the parts, for `/readyz`: what this process cannot see it asks for, and that it gets
    /// no answer is one of the states.
    fn checks(&mut self) -> Checks {
        let status = self.status();
        Checks {
            http: if self.draining.is_up() {
                Check::Draining
            } else {
                Check::Up
            },
            amqp: status.as_ref().map_or(Check::Down, |status| status.amqp),
            ipc: if status.is_some() {
                Check::Up
            } else {
                Check::Down
            },
        }
    }

    fn status(&mut self) -> Option<Status> {
        serde_json::from_slice(&self.client.ask(Question::Status).ok()?).ok()
    }

    /// Every process of the service. The kernel knows the supervisor's children without fail; without
    /// a supervisor, those are known that are connected.
    fn pids(&mut self) -> Vec<u32> {
        let part = self.config.part.as_ref();
        let supervisor = part.and_then(|part| u32::try_from(part.supervisor?).ok());
        supervisor.and_then(metrics::family_of).unwrap_or_else(|| {
            let status = self.status();
            status.map_or_else(|| vec![std::process::id()], |status| status.pids)
        })
    }

    /// Who answers, for `/info`: all processes, whichever is asked.
    fn info(&mut self) -> Info {
        let pids = self.pids();
        let threads = metrics::of_processes(&pids).threads;
        let settings = &self.config.settings;
        let started_ms = self.config.part.as_ref().map_or(0, |part| part.started_ms);
        Info {
            model: MODEL.into(),
            variant: self.config.variant().into(),
            profile: settings.profile.as_str().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: settings.name.clone(),
            pids,
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            started_at: UnixMs(started_ms).rfc3339(),
            http_workers: settings.http_workers,
        }
    }

    /// The whole service's figures; without the AMQP process, those of this one.
    fn metrics(&mut self) -> String {
        let figures = self.report().unwrap_or_else(|| Figures {
            rest: Report::new(&self.http, self.client.roundtrips()),
            ..Figures::default()
        });
        metrics::render(&figures, &self.pids())
    }

    /// Sends this process's figures to where they are added up, and tries again if nobody is there;
    /// returns everybody's.
    fn report(&mut self) -> Option<Figures> {
        let report = Report::new(&self.http, self.client.roundtrips());
        let report = serde_json::to_vec(&report).expect("a report serialises");
        let figures = self.client.ask(Question::Metrics(&report));
        self.report_due = figures.is_err().then(|| Instant::now() + RETRY_DELAY);
        serde_json::from_slice(&figures.ok()?).ok()
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
