//! Serves REST: routes, handlers, and what they answer.
//!
//! Particular to tasks: a handler is an `async fn`, and the whole lesson is in where it says
//! `await`. `latest` and `flatten` never do: they run to their end on the loop, and nothing else
//! runs meanwhile, which is right only because they take microseconds. `events` and
//! `device/commands` do: while they wait they are data, and the loop serves everyone else.

mod connection;
mod edge;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State as Shared},
    http::{HeaderMap, Uri, header},
    routing::{MethodRouter, any, get, post},
};
use contract::{Problem, ProblemKind, Reply, Route, routes, shapes::Info};
use domain::{
    readiness,
    rest::{self, KeysQuery},
};
use futures_util::StreamExt;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use crate::{
    amqp::publisher::Publisher,
    device::DevicePool,
    metrics::{pids, process_metrics, store_size},
    shutdown::{Phase, PhaseView},
    state::{State, now},
};
use edge::{Answer, Failure};

/// How long a client may take to send a body.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// The same once the service is stopping.
const LAST_CALL: std::time::Duration = std::time::Duration::from_secs(1);

/// What the handlers work with.
#[derive(Debug)]
pub struct Api {
    /// What REST and AMQP share.
    pub state: Arc<State>,
    /// Way to the broker.
    pub publisher: Arc<Publisher>,
    /// Way to the device.
    pub device: DevicePool,
    /// Tells when the service stops.
    pub view: PhaseView,
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
    Answer(Reply::prometheus(
        api.state.metrics.render(size, outstanding),
    ))
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
    // 64 KiB of JSON take a few hundred microseconds: too little to be worth a thread, and the
    // reason why the limit is not larger.
    Ok(Answer(rest::flatten(&body)?))
}

async fn events(Shared(api): Shared<Arc<Api>>, request: Request) -> Result<Answer, Failure> {
    let body = read_json(&api, request).await?;
    let event = rest::parse_event(&body)?;
    let message_id = api.publisher.publish_event(&event).await?;
    Ok(Answer(rest::published(message_id)))
}

async fn device_commands(
    Shared(api): Shared<Arc<Api>>,
    request: Request,
) -> Result<Answer, Failure> {
    let body = read_json(&api, request).await?;
    let line = rest::parse_command(&body)?;
    let reply = api.device.command(line).await?;
    Ok(Answer(rest::device_reply(&reply)?))
}

async fn keys(Shared(api): Shared<Arc<Api>>, uri: Uri) -> Result<Answer, Failure> {
    let query = KeysQuery::parse(uri.query().unwrap_or_default())?;
    let store = api.state.store();
    Ok(Answer(query.answer(&store, now())))
}

async fn latest(Shared(api): Shared<Arc<Api>>, uri: Uri) -> Result<Answer, Failure> {
    // From the path as it stands and not from axum's extractor, which decodes `%61` to `a`: a key
    // needs no encoding, and the other models see the path undecoded.
    let (_, key) = routes::find(uri.path()).ok_or_else(routes::not_found)?;
    let store = api.state.store();
    Ok(Answer(rest::latest(&store, key, now())?))
}

/// Reads a JSON body after its head has been found acceptable.
///
/// By hand and not by axum's `Json` extractor, which reads first and refuses afterwards, in words
/// of its own.
async fn read_json(api: &Api, request: Request) -> Result<Vec<u8>, Problem> {
    let limit = api.state.config.settings.body_limit;
    let (head, body) = request.into_parts();
    let content_type = text(&head.headers, header::CONTENT_TYPE);
    let length = text(&head.headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    rest::check_head(content_type, length, limit)?;
    let late = || Problem::new(ProblemKind::RequestTimeout, "the body did not come in time");
    // In this order, so that a body which is here already sets up nothing else.
    tokio::select! {
        biased;
        body = timeout(BODY_TIMEOUT, read(body, limit)) => body.map_err(|_| late())?,
        () = last_call(api) => Err(late()),
    }
}

/// Waits until the service stops, and then for as long as a body may still take: a client that has
/// stalled must not use up everybody's grace period.
async fn last_call(api: &Api) {
    api.view.clone().reached(Phase::NoServing).await;
    sleep(LAST_CALL).await;
}

/// Reads a body, but no more than `limit` bytes: one in chunks declares no length beforehand.
async fn read(body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    let mut chunks = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let broken = |_| Problem::new(ProblemKind::BadRequest, "the body broke off");
        whole.extend_from_slice(&chunk.map_err(broken)?);
        if whole.len() > limit {
            return Err(rest::body_too_large(limit));
        }
    }
    Ok(whole)
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
