//! Serves REST: takes requests, answers them through the domain, counts them.
//!
//! Particular to threads: a request has a thread for as long as it takes, so a handler waits where
//! it stands, in plain calls, and whoever is behind it on the same thread waits with it.
//! Which thread that is the front decides: with the library (tiny_http) a fixed number of workers
//! takes requests from a queue, and the number of workers is the number of requests in work; with
//! our own (`--http std`) every connection has a thread of its own.
//! The handlers here know neither.

mod connection;
pub mod library;
mod listener;
mod reject;
mod sockets;
mod tiny;
mod wire;

use std::{
    cell::Cell,
    io,
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use contract::{
    Method, Problem, ProblemKind, Reply, Resolution, Route,
    limits::HANDLER_TIMEOUT,
    metrics::HttpLabels,
    reply::{REQUEST_ID, request_id},
    routes,
};
use domain::{jobs, readiness, rest, series::Query};
use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::{
    background::jobs::Jobs,
    config::HttpFront,
    metrics,
    state::{State, now},
};

/// Connections that wait to be accepted; more are refused by the kernel.
const BACKLOG: i32 = 1024;

/// Binds the listener, with `TCP_NODELAY`, which accepted sockets inherit: the library cannot set
/// it, and without it an answer beyond 1 KiB (two writes there) waits 40 ms for a delayed ack.
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

/// Raises the limit of descriptors as far as this process may: most systems begin with 1,024, and a
/// thousand clients need more than that, two for each with the library.
pub fn lift_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("the limit of descriptors stays as it is: {error}");
    }
}

/// What stands between the handlers and the clients.
pub enum Front {
    /// The library's.
    TinyHttp(tiny::Front),
    /// Our own.
    Std(listener::Front),
}

impl Front {
    /// Starts the front that the settings name; when this returns, clients are answered.
    ///
    /// # Errors
    /// If the system has no room for its threads.
    pub fn start(state: &Arc<State>, listener: TcpListener) -> io::Result<Self> {
        match state.config.front {
            HttpFront::TinyHttp => tiny::Front::start(state, listener).map(Self::TinyHttp),
            HttpFront::Std => listener::Front::start(state, listener).map(Self::Std),
        }
    }

    /// Takes no more connections and waits until the requests that are here are answered; returns
    /// whose were not at the deadline.
    #[must_use]
    pub fn stop(self, deadline: Instant) -> Vec<String> {
        match self {
            Self::TinyHttp(front) => front.stop(deadline),
            Self::Std(front) => front.stop(deadline),
        }
    }
}

/// What a request asks, without its body.
pub struct Call<'a> {
    /// Method.
    pub method: Method,
    /// Path.
    pub path: &'a str,
    /// Query, without `?`.
    pub query: &'a str,
    /// The version that the client has.
    pub if_none_match: Option<&'a str>,
}

/// The handlers, as one worker has them.
pub struct Api {
    /// What the service shares.
    state: Arc<State>,
    /// The worker's number, which no other has; decides where it counts.
    worker: usize,
    /// Ids that it has made so far; a `Cell`, because a worker is one thread and shares it with
    /// nobody.
    ids: Cell<u64>,
}

impl Api {
    /// The handlers of the worker with this number.
    #[must_use]
    pub const fn new(state: Arc<State>, worker: usize) -> Self {
        let ids = Cell::new(0);
        Self { state, worker, ids }
    }

    /// Whether the service is stopping: whoever reads `close` sends no other request in vain.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state.flags.draining.is_up()
    }

    /// The client's own id for its request, if it may be echoed, or a new one.
    #[must_use]
    pub fn request_id(&self, given: Option<&str>) -> String {
        request_id(given, || self.new_id())
    }

    fn new_id(&self) -> String {
        self.ids.set(self.ids.get() + 1);
        self.state.id(self.worker, self.ids.get())
    }

    /// Answers a request; `body` reads its body, if it is wanted.
    pub fn answer(
        &self,
        call: &Call<'_>,
        id: &str,
        body: impl FnOnce() -> Result<Vec<u8>, Problem>,
    ) -> Reply {
        // A panic is a bug of one handler and must not cost the service a worker.
        // What it may have left half done is behind locks that say why that is harmless.
        let answer = catch_unwind(AssertUnwindSafe(|| self.resolve(call, body)));
        answer
            .unwrap_or_else(|_| Err(Problem::new(ProblemKind::Internal, "see the log")))
            .unwrap_or_else(|problem| Reply::problem(&problem, id))
            .with_header(REQUEST_ID, id.to_owned())
    }

    /// Counts a request that came at `started` and was answered with `code` just now.
    pub fn count(&self, route: Option<Route>, method: Method, code: u16, started: Instant) {
        let labels = HttpLabels {
            route,
            method,
            code,
        };
        let seconds = started.elapsed().as_secs_f64();
        let slot = self.state.metrics.http(self.worker);
        slot.lock().answered(labels, seconds);
    }

    /// Finds out what is asked, reads what it takes, and does it.
    fn resolve(
        &self,
        call: &Call<'_>,
        body: impl FnOnce() -> Result<Vec<u8>, Problem>,
    ) -> Result<Reply, Problem> {
        let profile = self.state.config.settings.profile;
        match routes::resolve(profile, call.method, call.path) {
            Resolution::Refused(problem) => Err(problem),
            Resolution::Options(route) => Ok(Reply::options(route.allow())),
            Resolution::Route(route, parameter) => {
                let body = match call.method {
                    Method::Post => body()?,
                    _ => Vec::new(),
                };
                // Only now: a client that sends its body slowly is at no handler yet.
                let inflight = &self.state.inflight;
                let _place = inflight.take().ok_or_else(|| overloaded(&self.state))?;
                self.handle(route, parameter, call, &body)
            }
        }
    }

    /// Does it; here a worker may wait for the broker or the device.
    ///
    /// The store's lock is held while the answer is serialised, about a microsecond for the values of
    /// a key and some for each field of a series query: copying the values out first would take as
    /// long.
    fn handle(
        &self,
        route: Route,
        parameter: &str,
        call: &Call<'_>,
        body: &[u8],
    ) -> Result<Reply, Problem> {
        let state = &self.state;
        match route {
            Route::Healthz => Ok(readiness::healthz()),
            Route::Readyz => Ok(readiness::readyz(state.checks())),
            Route::Metrics => Ok(Reply::prometheus(metrics::render(state))),
            Route::Info => Ok(Reply::json(200, &state.info())),
            Route::Flatten => self.flatten(body),
            Route::Events => self.publish(body),
            Route::DeviceCommands => self.command(body),
            Route::Keys => {
                let query = rest::KeysQuery::parse(call.query)?;
                Ok(query.answer(&state.store(), now()))
            }
            Route::Latest => {
                let latest = rest::latest(&state.store(), parameter, now())?;
                Ok(latest.unless_matched(call.if_none_match))
            }
            Route::SeriesQuery => {
                let query = Query::parse(body)?;
                Ok(query.answer(&state.store(), now()))
            }
            Route::Key => Ok(rest::forget(&mut state.store(), parameter)),
            Route::Jobs => {
                let job = Jobs::start(state, &jobs::parse(body)?)?;
                Ok(jobs::started(&job))
            }
            Route::Job => self.job(call.method, jobs::parse_id(parameter)?),
        }
    }

    /// Flattens an object, and computes for as long as `--cpu-us` says, on the request's thread: the
    /// kernel lets the other threads run meanwhile.
    fn flatten(&self, body: &[u8]) -> Result<Reply, Problem> {
        let deadline = Instant::now() + HANDLER_TIMEOUT;
        self.state.compute(|| Instant::now() < deadline);
        if Instant::now() < deadline {
            rest::flatten(body)
        } else {
            let detail = format!("not done within {} s", HANDLER_TIMEOUT.as_secs());
            Err(Problem::new(ProblemKind::HandlerTimeout, detail))
        }
    }

    /// Publishes an event; the worker waits for the broker's confirm.
    fn publish(&self, body: &[u8]) -> Result<Reply, Problem> {
        let event = rest::parse_event(body)?;
        let message_id = self.new_id();
        let outbox = &self.state.outbox;
        outbox.publish(&self.state, event, message_id.clone())?;
        Ok(rest::published(message_id))
    }

    /// Passes a command to the device; the worker waits for its line.
    fn command(&self, body: &[u8]) -> Result<Reply, Problem> {
        let line = rest::parse_command(body)?;
        let deadline = Instant::now() + HANDLER_TIMEOUT;
        rest::device_reply(&self.state.device.command(&line, deadline)?)
    }

    /// Shows a job, or cancels it.
    fn job(&self, method: Method, id: u64) -> Result<Reply, Problem> {
        match method {
            Method::Delete => Ok(jobs::cancelled(&self.state.jobs.cancel(id)?)),
            _ => Ok(jobs::shown(&self.state.jobs.view(id)?)),
        }
    }
}

fn overloaded(state: &State) -> Problem {
    let most = state.config.settings.max_inflight;
    let detail = format!("{most} requests are being handled already");
    Problem::new(ProblemKind::Overloaded, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::state;

    fn answer(state: &Arc<State>, method: Method, path: &str, body: &[u8]) -> Reply {
        let call = Call {
            method,
            path,
            query: "",
            if_none_match: None,
        };
        Api::new(Arc::clone(state), 0).answer(&call, "r", || Ok(body.to_vec()))
    }

    #[test]
    fn one_request_too_many_is_told_to_come_back() {
        let state = state(&["--max-inflight=1"]);
        let place = state.inflight.take();
        let refused = answer(&state, Method::Get, "/healthz", b"");
        assert_eq!(refused.status, 503);
        assert!(refused.headers.contains(&("Retry-After", "1".to_owned())));
        drop(place);
        assert_eq!(answer(&state, Method::Get, "/healthz", b"").status, 200);
        assert_eq!(state.inflight.taken(), 0);
    }

    #[test]
    fn a_panic_is_answered_and_takes_no_place_with_it() {
        let state = state(&[]);
        let call = Call {
            method: Method::Post,
            path: "/api/v1/flatten",
            query: "",
            if_none_match: None,
        };
        let api = Api::new(Arc::clone(&state), 0);
        let reply = api.answer(&call, "r", || panic!("a bug"));
        assert_eq!(reply.status, 500);
        assert_eq!(state.inflight.taken(), 0);
    }

    #[test]
    fn computing_ends_with_the_handlers_time() {
        let state = state(&["--cpu-us=60000000"]);
        let started = Instant::now();
        let reply = answer(&state, Method::Post, "/api/v1/flatten", b"{}");
        assert_eq!(reply.status, 504);
        assert!(started.elapsed() < 2 * HANDLER_TIMEOUT);
    }

    #[test]
    fn a_known_version_is_not_sent_again_and_a_forgotten_key_is_gone() {
        let state = state(&[]);
        let reading = domain::decode(br#"{"key":"s","data":{"t":1}}"#).expect("an event");
        state.apply(reading, now());
        let path = "/api/v1/latest/s";
        let first = answer(&state, Method::Get, path, b"");
        let tag = first.headers.iter().find(|(name, _)| *name == "ETag");
        let call = Call {
            method: Method::Get,
            path,
            query: "",
            if_none_match: tag.map(|(_, tag)| tag.as_str()),
        };
        let api = Api::new(Arc::clone(&state), 0);
        assert_eq!(api.answer(&call, "r", || Ok(Vec::new())).status, 304);
        for _ in 0..2 {
            let forgotten = answer(&state, Method::Delete, "/api/v1/keys/s", b"");
            assert_eq!(forgotten.status, 204);
        }
        assert_eq!(answer(&state, Method::Get, path, b"").status, 404);
    }

    #[test]
    fn a_job_is_started_shown_and_cancelled() {
        let state = state(&[]);
        let body = br#"{"kind":"timer","duration_ms":600000}"#;
        let started = answer(&state, Method::Post, "/api/v1/jobs", body);
        assert_eq!(started.status, 202);
        for (method, status) in [(Method::Get, 200), (Method::Delete, 202)] {
            let reply = answer(&state, method, "/api/v1/jobs/1", b"");
            assert_eq!(reply.status, status);
        }
        assert_eq!(
            answer(&state, Method::Get, "/api/v1/jobs/2", b"").status,
            404
        );
    }
}
