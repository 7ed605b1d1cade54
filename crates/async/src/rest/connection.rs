//! Accepts connections and keeps them within limits of number and time.
//!
//! Particular to tasks: a task per connection, which costs a few kilobytes, so a thousand idle
//! clients are no burden and need no pool. `axum::serve` would do the same, but has neither a
//! limit of connections nor a deadline for a client that sends its head byte by byte.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Duration};

use axum::{Router, http::Request, response::Response};
use contract::limits::HEAD_LIMIT;
use futures_util::FutureExt;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::service::TowerToHyperService;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::sleep,
};

use super::{
    Api, edge,
    stream::{Activity, PatientStream},
};
use crate::shutdown::{Phase, PhaseView};

/// Connections beyond the limit that are told so at once; further ones are closed without a word.
const REFUSALS: usize = 64;
/// Pause after a failed accept, such as for want of descriptors: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until [`Phase::NoServing`], then waits until every connection is done.
pub async fn accept_all(listener: TcpListener, api: Arc<Api>, router: Router, mut view: PhaseView) {
    // As many as can be awaited in one go at the end; nobody has so many descriptors.
    let most = u32::try_from(api.state.config.settings.max_conns).unwrap_or(u32::MAX);
    let places = Arc::new(Semaphore::new(most as usize));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = view.reached(Phase::NoServing) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (api, view) = (Arc::clone(&api), view.clone());
        // Never waited for: a client that is one too many would sit in the kernel's queue for as
        // long as others please, and take a silent service for a dead one.
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            tokio::spawn(serve_one(stream, api, router.clone(), view, place));
        } else if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
            tokio::spawn(refuse_one(stream, api, view, place));
        }
    }
    // Whoever has connected is served: closing a listener resets who waits in its backlog, perhaps
    // with a request that was sent already.
    yield_now().await;
    while let Some(Ok((stream, _))) = listener.accept().now_or_never() {
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let (api, view) = (Arc::clone(&api), view.clone());
            tokio::spawn(serve_one(stream, api, router.clone(), view, place));
        }
    }
    // New clients are refused from here on, so that a proxy turns to another instance.
    drop(listener);
    // All places free: every connection is done.
    let _done = places.acquire_many(most).await;
}

/// Serves one connection until it ends.
async fn serve_one(
    stream: TcpStream,
    api: Arc<Api>,
    router: Router,
    view: PhaseView,
    place: OwnedSemaphorePermit,
) {
    let _guest = Guest::enter(Arc::clone(&api), place);
    let activity = Arc::<Activity>::default();
    let stream = PatientStream::new(stream, Arc::clone(&activity));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        let (api, router) = (Arc::clone(&api), router.clone());
        let busy = Activity::begin(&activity);
        async move {
            let response = edge::answer(&api, &router, request).await;
            busy.end(response.status());
            Ok::<_, Infallible>(response)
        }
    });
    converse(builder().serve_connection(stream, service), view).await;
}

/// Answers the first request of a connection that is one too many, and closes it.
///
/// The request is awaited although its answer is known: many clients take an answer to nothing for
/// a broken connection, and would report that instead of the answer.
async fn refuse_one(
    stream: TcpStream,
    api: Arc<Api>,
    view: PhaseView,
    place: OwnedSemaphorePermit,
) {
    let activity = Arc::<Activity>::default();
    let stream = PatientStream::new(stream, Arc::clone(&activity));
    let service = service_fn(move |request: Request<Incoming>| {
        let response = edge::refuse(&api, &request);
        Activity::begin(&activity).end(response.status());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = builder();
    builder.keep_alive(false);
    converse(builder.serve_connection(stream, service), view).await;
    drop(place);
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_header_size(HEAD_LIMIT);
    builder
}

/// Drives a connection to its end; at [`Phase::NoServing`] the request under way is the last.
async fn converse<S>(serving: http1::Connection<PatientStream, S>, mut view: PhaseView)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = view.reached(Phase::NoServing) => last_of(serving.as_mut()).await,
    };
    if let Err(error) = ended {
        log::debug!("connection ended: {error}");
    }
}

/// Drives a connection to its end behind the request that it is at.
///
/// The loop learns what sockets have received only between two rounds, so it is given one: a request
/// that lies there is under way for its client.
async fn last_of<S>(
    mut serving: Pin<&mut http1::Connection<PatientStream, S>>,
) -> Result<(), hyper::Error>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    tokio::select! {
        biased;
        ended = &mut serving => return ended,
        () = yield_now() => {}
    }
    // Closes an idle connection at once, a busy one behind its answer.
    serving.as_mut().graceful_shutdown();
    serving.await
}

/// A connection that is served; counted until this is dropped, however it ends.
struct Guest {
    api: Arc<Api>,
    /// Dropped behind the count, so that the gauge never shows more than the limit.
    _place: OwnedSemaphorePermit,
}

impl Guest {
    fn enter(api: Arc<Api>, place: OwnedSemaphorePermit) -> Self {
        api.state.metrics.http(|http| http.connections += 1);
        Self { api, _place: place }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.api.state.metrics.http(|http| http.connections -= 1);
    }
}
