//! Serves REST: routes, handlers, and what they answer.
//!
//! Particular to tasks: a handler is an `async fn`, and the whole lesson is in where it says
//! `await`. `latest` and `flatten` never do once they have their request: they run to their end on
//! the loop, and nothing else runs meanwhile, which is right only because they take microseconds.
//! `events` and `device/commands` do: while they wait they are data, and the loop serves everyone
//! else.

mod body;
mod connection;
mod edge;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State as Shared},
    http::{HeaderMap, Uri, header},
    routing::{MethodRouter, any, delete, get, post},
};
use contract::{Problem, ProblemKind, Reply, Route, limits::HANDLER_TIMEOUT, routes, shapes::Info};
use domain::{
    jobs, readiness,
    rest::{self, KeysQuery},
    series::Query,
};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use crate::{
    amqp::publisher::Publisher,
    background::jobs::Jobs,
    device::DevicePool,
    metrics::{pids, process_metrics, store_size},
    shutdown::PhaseView,
    state::{State, now},
};
use body::read_json;
use edge::{Answer, Failure};

/// What the handlers work with.
#[derive(Debug)]
pub struct Api {
    /// What REST and AMQP share.
    pub state: Arc<State>,
    /// Way to the broker.
    pub publisher: Arc<Publisher>,
    /// Way to the device.
    pub device: Arc<DevicePool>,
    /// What goes on in the background for clients.
    pub jobs: Arc<Jobs>,
    /// Tells when the service stops.
    pub view: PhaseView,
    /// One permit per request that may be handled at once. A semaphore and not the gauge of the
    /// metrics, which counts and decides nothing; nobody ever waits for a permit.
    pub handling: Semaphore,
}

impl Api {
    /// What the handlers work with, for the settings of `state`.
    #[must_use]
    pub fn new(state: Arc<State>, publisher: Arc<Publisher>, view: PhaseView) -> Self {
        let settings = &state.config.settings;
        let device = DevicePool::new(settings.device_addr, settings.device_pool);
        let device = Arc::new(device);
        let handling = settings.max_inflight.min(Semaphore::MAX_PERMITS);
        Self {
            jobs: Arc::new(Jobs::new(Arc::clone(&device))),
            handling: Semaphore::new(handling),
            state,
            publisher,
            device,
            view,
        }
    }
}

/// Serves until [`crate::shutdown::Phase::NoServing`], and then until the last connection is done.
pub async fn serve(listener: TcpListener, api: Arc<Api>, view: PhaseView) {
    let router = router(Arc::clone(&api));
    connection::accept_all(listener, api, router, view).await;
}

/// The routes of the contract, in the order of the contract.
fn router(api: Arc<Api>) -> Router {
    let profile = api.state.config.settings.profile;
    let mut router = Router::new();
    for route in Route::ALL {
        let handlers = if route.exists_in(profile) {
            handlers(route)
        } else {
            any(async move || Failure(routes::not_in_profile(route)))
        };
        // The contract's templates are axum's syntax, so there is one list of paths and not two.
        router = router.route(route.template(), handlers);
    }
    router
        .fallback(async || Failure(routes::not_found()))
        .with_state(api)
}

/// The methods of one route. A `GET` handler answers `HEAD` as well.
fn handlers(route: Route) -> MethodRouter<Arc<Api>> {
    let handlers = match route {
        Route::Healthz => get(healthz),
        Route::Readyz => get(readyz),
        Route::Metrics => get(metrics),
        Route::Info => get(info),
        Route::Flatten => post(flatten),
        Route::Events => post(events),
        Route::DeviceCommands => post(device_commands),
        Route::Keys => get(keys),
        Route::Latest => get(latest),
        Route::SeriesQuery => post(series_query),
        Route::Key => delete(forget_key),
        Route::Jobs => post(start_job),
        Route::Job => get(show_job).delete(cancel_job),
    };
    handlers
        .options(async move || Answer(Reply::options(route.allow())))
        .fallback(async move || Failure(routes::method_not_allowed(route)))
}

async fn healthz() -> Answer {
    Answer(readiness::healthz())
}

/// Reads flags and asks nobody: whoever probes readiness must not wait for what is not ready.
async fn readyz(Shared(api): Shared<Arc<Api>>) -> Answer {
    Answer(readiness::readyz(api.state.flags.checks()))
}

async fn metrics(Shared(api): Shared<Arc<Api>>) -> Answer {
    let size = store_size(&api.state.store());
    let outstanding = api.publisher.outstanding();
    let dropped = api.state.sink().dropped();
    let text = api.state.metrics.render(size, outstanding, dropped);
    Answer(Reply::prometheus(text))
}

async fn info(Shared(api): Shared<Arc<Api>>) -> Answer {
    let config = &api.state.config;
    let threads = process_metrics().threads;
    let info = Info {
        model: "async".into(),
        variant: config.flavour.as_str().into(),
        profile: config.settings.profile.as_str().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        name: config.settings.name.clone(),
        pids: pids(),
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        started_at: api.state.started.rfc3339(),
        http_workers: config.settings.http_workers,
    };
    Answer(Reply::json(200, &info))
}

async fn flatten(Shared(api): Shared<Arc<Api>>, request: Request) -> Result<Answer, Failure> {
    let body = read_json(&api, request).await?;
    api.state.compute();
    // 64 KiB of JSON take a few hundred microseconds: too little to be worth a thread, and the
    // reason why the limit is not larger.
    Ok(Answer(rest::flatten(&body)?))
}

async fn events(Shared(api): Shared<Arc<Api>>, request: Request) -> Result<Answer, Failure> {
    let body = read_json(&api, request).await?;
    let event = rest::parse_event(&body)?;
    // Waits for one thing, the confirm, whose deadline is that of a handler; so it needs none here.
    let message_id = api.publisher.publish_event(&event).await?;
    Ok(Answer(rest::published(message_id)))
}

async fn device_commands(
    Shared(api): Shared<Arc<Api>>,
    request: Request,
) -> Result<Answer, Failure> {
    let body = read_json(&api, request).await?;
    let line = rest::parse_command(&body)?;
    let reply = in_time(api.device.command(line)).await?;
    Ok(Answer(rest::device_reply(&reply)?))
}

async fn keys(Shared(api): Shared<Arc<Api>>, uri: Uri) -> Result<Answer, Failure> {
    let query = KeysQuery::parse(uri.query().unwrap_or_default())?;
    let store = api.state.store();
    Ok(Answer(query.answer(&store, now())))
}

async fn latest(Shared(api): Shared<Arc<Api>>, request: Request) -> Result<Answer, Failure> {
    let key = parameter(request.uri())?;
    let reply = rest::latest(&api.state.store(), key, now())?;
    let known = text(request.headers(), header::IF_NONE_MATCH);
    Ok(Answer(reply.unless_matched(known)))
}

/// The one handler whose work grows with what is asked: at the largest answer the loop stands still
/// for milliseconds, and everybody waits. To see it is what the route is for; a service that cared
/// for its slowest percent would copy the points out and thin them on a thread.
async fn series_query(Shared(api): Shared<Arc<Api>>, request: Request) -> Result<Answer, Failure> {
    let body = read_json(&api, request).await?;
    let query = Query::parse(&body)?;
    Ok(Answer(query.answer(&api.state.store(), now())))
}

async fn forget_key(Shared(api): Shared<Arc<Api>>, uri: Uri) -> Result<Answer, Failure> {
    let key = parameter(&uri)?;
    Ok(Answer(rest::forget(&mut api.state.store(), key)))
}

async fn start_job(Shared(api): Shared<Arc<Api>>, request: Request) -> Result<Answer, Failure> {
    let body = read_json(&api, request).await?;
    let job = api.jobs.start(&jobs::parse(&body)?)?;
    Ok(Answer(jobs::started(&job)))
}

async fn show_job(Shared(api): Shared<Arc<Api>>, uri: Uri) -> Result<Answer, Failure> {
    let id = jobs::parse_id(parameter(&uri)?)?;
    Ok(Answer(jobs::shown(&api.jobs.view(id)?)))
}

async fn cancel_job(Shared(api): Shared<Arc<Api>>, uri: Uri) -> Result<Answer, Failure> {
    let id = jobs::parse_id(parameter(&uri)?)?;
    Ok(Answer(jobs::cancelled(&api.jobs.cancel(id)?)))
}

/// The parameter at the end of a path.
///
/// From the path as it stands and not by axum's extractor, which decodes `%61` to `a`: a key needs
/// no encoding, and the other models see the path undecoded.
fn parameter(uri: &Uri) -> Result<&str, Problem> {
    match routes::find(uri.path()) {
        Some((_, parameter)) => Ok(parameter),
        None => Err(routes::not_found()),
    }
}

/// Gives up a handler that waits for longer than a client should.
///
/// What it waits for has deadlines of its own, which say better what was late; this is for what
/// they add up to. It ends waiting only: a handler that computes is not interrupted by anybody,
/// since the timer that would do it waits for the loop as well.
async fn in_time<T>(handler: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    timeout(HANDLER_TIMEOUT, handler).await.unwrap_or_else(|_| {
        let detail = "the request was not done in time";
        Err(Problem::new(ProblemKind::HandlerTimeout, detail))
    })
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
