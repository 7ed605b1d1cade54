//! The edge around every handler: request id, metrics, problem documents, panics.
//!
//! Particular to tasks: one plain `async fn` around axum's router and not a stack of middlewares,
//! each of which would allocate a future per request.

use std::{panic::AssertUnwindSafe, time::Instant};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use contract::{
    Method, Problem, ProblemKind, Reply,
    metrics::HttpLabels,
    reply::{REQUEST_ID, request_id},
    routes,
};
use futures_util::FutureExt;
use hyper::{body::Incoming, service::Service};
use hyper_util::service::TowerToHyperService;

use super::Api;
use crate::metrics::Metrics;

/// An answer of the contract as axum's response.
#[derive(Debug)]
pub struct Answer(pub Reply);

/// A problem on its way to the edge, which alone knows the request's id.
#[derive(Debug)]
pub struct Failure(pub Problem);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        respond(self.0)
    }
}

impl IntoResponse for Failure {
    /// Travels as an extension, which costs an allocation, but only where something went wrong.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        response.extensions_mut().insert(self.0);
        response
    }
}

/// Answers one request; whatever happens inside, an answer of the contract comes out.
pub async fn answer(
    api: &Api,
    router: &TowerToHyperService<Router>,
    request: Request<Incoming>,
) -> Response {
    let visit = Visit::begin(api, &request);
    let response = match api.handling.try_acquire() {
        Ok(_permit) => handle(router, request, &visit.id).await,
        Err(_) => {
            let most = api.state.config.settings.max_inflight;
            overloaded(format!("{most} requests are at work already"))
        }
    };
    let mut response = visit.end(response);
    if api.state.flags.is_draining() {
        // Whoever reads this sends no other request in vain.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Answers a request on a connection that is one too many.
pub fn refuse(api: &Api, request: &Request<Incoming>) -> Response {
    let most = api.state.config.settings.max_conns;
    let response = overloaded(format!("{most} connections are open already"));
    Visit::begin(api, request).end(response)
}

fn overloaded(detail: String) -> Response {
    Failure(Problem::new(ProblemKind::Overloaded, detail)).into_response()
}

/// Hands a request to its handler.
async fn handle(
    router: &TowerToHyperService<Router>,
    request: Request<Incoming>,
    id: &str,
) -> Response {
    // A panic would end the connection's task without a word to the client.
    let handled = AssertUnwindSafe(router.call(request)).catch_unwind().await;
    match handled {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            log::error!("the handler of request {id} panicked");
            Failure(Problem::new(ProblemKind::Internal, "a bug")).into_response()
        }
    }
}

/// [`REQUEST_ID`] as the library wants it, in lower case; names are case-insensitive.
const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

fn given_id(headers: &HeaderMap) -> Option<&str> {
    headers.get(REQUEST_ID)?.to_str().ok()
}

/// Turns an answer into a response.
fn respond(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).expect("the contract's codes are valid");
    // Written here and not left to hyper: a `HEAD` answer loses its body on the way, and must keep
    // the length that `GET` would have told. 204 must have none (RFC 9110, section 8.6), and 304
    // would have to tell that of the answer which it spares.
    let has_length = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = has_length.then_some(reply.body.len());
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !reply.content_type.is_empty() {
        let value = HeaderValue::from_static(reply.content_type);
        headers.insert(header::CONTENT_TYPE, value);
    }
    for (name, value) in reply.headers {
        let name = HeaderName::try_from(name).expect("the contract's names are valid");
        let value = HeaderValue::try_from(value).expect("the contract's values are valid");
        headers.insert(name, value);
    }
    response
}

/// A request that is being handled; its end is counted when this is dropped.
///
/// A guard and not a call at the end: if the client hangs up, hyper drops the handler's future in
/// the middle of an `await`, and no code behind it ever runs. Only destructors do.
struct Visit<'a> {
    metrics: &'a Metrics,
    labels: HttpLabels,
    begun: Instant,
    /// Id of the request.
    id: String,
    /// Status; none if no answer was made.
    code: Option<u16>,
}

impl<'a> Visit<'a> {
    fn begin(api: &'a Api, request: &Request<Incoming>) -> Self {
        let metrics = &api.state.metrics;
        metrics.http(|http| http.inflight += 1);
        let labels = HttpLabels {
            route: routes::find(request.uri().path()).map(|(route, _)| route),
            method: Method::parse(request.method().as_str()),
            code: 0,
        };
        Self {
            metrics,
            labels,
            begun: Instant::now(),
            id: request_id(given_id(request.headers()), || api.state.ids.next()),
            code: None,
        }
    }

    /// Turns a problem into its document and gives the answer its id.
    fn end(mut self, mut response: Response) -> Response {
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            response = respond(Reply::problem(&problem, &self.id));
        }
        let id = std::mem::take(&mut self.id);
        let id = HeaderValue::try_from(id).expect("an id is visible ASCII");
        response.headers_mut().insert(ID_HEADER, id);
        self.code = Some(response.status().as_u16());
        response
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.metrics.http(|http| {
            http.inflight -= 1;
            if let Some(code) = self.code {
                let labels = HttpLabels {
                    code,
                    ..self.labels
                };
                http.answered(labels, seconds);
            }
        });
    }
}
