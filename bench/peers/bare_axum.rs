//! The bare library beside the event loop: axum on tokio's `current_thread`, one fixed body.
//!
//! usage: `bare-axum BODY`; prints `listening on http://ADDRESS` and serves until killed.

use std::io::Write;

use axum::{Router, http::header::CONTENT_TYPE, routing::get, serve::ListenerExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let body: &'static str =
        Box::leak(std::env::args().nth(1).unwrap_or_default().into_boxed_str());
    let answer = move || async move { ([(CONTENT_TYPE, "application/json")], body) };
    let app = Router::new().route("/api/v1/latest/{key}", get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let listener = listener.tap_io(|stream| {
        // Only a hint for speed; a socket that refuses it still serves.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, app).await?)
}
