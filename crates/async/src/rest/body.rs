//! Reads the body of a request, within limits of size and time.
//!
//! Particular to tasks: a body that comes slowly costs its bytes and a timer, and nobody waits for
//! it but its own request.

use std::time::Duration;

use axum::{body::Body, extract::Request, http::header};
use contract::{Problem, ProblemKind, limits::BODY_TIMEOUT};
use domain::rest;
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use super::{Api, text};
use crate::shutdown::Phase;

/// How long a client may take to send a body once the service is stopping.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Reads a JSON body after its head has been found acceptable.
///
/// By hand and not by axum's `Json` extractor, which reads first and refuses afterwards, in words
/// of its own.
///
/// # Errors
/// 413 and 415 from the head alone, 408 if the body does not come in time, 400 if it breaks off.
pub async fn read_json(api: &Api, request: Request) -> Result<Vec<u8>, Problem> {
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
