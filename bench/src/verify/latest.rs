//! Reading the store: versions, pages, deletion, and what a full or old store forgets.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    Context,
    case::{Case, eventually, expect_status},
    scene::{Asker, MESSAGE_LIMIT, Scene},
};
use crate::http::{Request, Response};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "a client that has the latest version gets 304 and no body",
        not_modified,
    ),
    Case::required("every event makes another version", versions),
    Case::required(
        "a deleted key is gone, and deleting it again is no error",
        deletion,
    ),
    Case::required("pages follow one another without gap or overlap", paging),
    Case::required("a value is gone when its time is over", expiry),
    Case::required(
        "a full store gives up the key that is unchanged for longest",
        full_store,
    ),
];

/// `GET` or `HEAD` of the latest values of `k`, unless they are of version `tag`.
fn conditional(scene: &Scene, method: &str, tag: &str) -> anyhow::Result<Response> {
    scene.send(&Request {
        headers: &[("If-None-Match", tag)],
        ..Request::new(method, "/api/v1/latest/k")
    })
}

fn tag_of(response: &Response) -> anyhow::Result<String> {
    let tag = response.header("ETag").context("no ETag")?;
    ensure!(
        tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'),
        "ETag is {tag}, not a quoted string"
    );
    Ok(tag.to_owned())
}

fn not_modified(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    Asker::new(context)?.store("k", "tag-1", &json!({"v": 1}))?;
    let full = scene.get("/api/v1/latest/k")?;
    expect_status("without a condition", &full, 200)?;
    let tag = tag_of(&full)?;
    for condition in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"other\", {tag}"),
        "*".to_owned(),
    ] {
        for method in ["GET", "HEAD"] {
            let response = conditional(&scene, method, &condition)?;
            let what = format!("{method} if not {condition}");
            expect_status(&what, &response, 304)?;
            ensure!(response.body.is_empty(), "{what}: a body");
            ensure!(tag_of(&response)? == tag, "{what}: another ETag");
        }
    }
    for condition in ["\"other\"", tag.trim_matches('"')] {
        let response = conditional(&scene, "GET", condition)?;
        expect_status(&format!("GET if not {condition}"), &response, 200)?;
        ensure!(response.body == full.body, "another body");
    }
    // On a kept connection nothing of a 304 may be taken for the next answer.
    let mut client = scene.client()?;
    for _ in 0..3 {
        let unchanged = client.exchange(&Request {
            headers: &[("If-None-Match", &tag)],
            ..Request::new("GET", "/api/v1/latest/k")
        })?;
        expect_status("kept connection", &unchanged, 304)?;
        let health = client.exchange(&Request::new("GET", "/healthz"))?;
        expect_status("the request behind a 304", &health, 200)?;
    }
    scene.stop()
}

fn versions(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    let mut tags = Vec::new();
    for n in 0..3 {
        // The very same values: it is another event all the same.
        asker.store("k", &format!("version-{n}"), &json!({"v": 1}))?;
        tags.push(tag_of(&scene.get("/api/v1/latest/k")?)?);
    }
    expect_status("delete", &delete(&scene, "k")?, 204)?;
    asker.store("k", "version-again", &json!({"v": 1}))?;
    tags.push(tag_of(&scene.get("/api/v1/latest/k")?)?);
    for (n, tag) in tags.iter().enumerate() {
        ensure!(!tags[..n].contains(tag), "{tag} twice in {tags:?}");
        let stale = n + 1 < tags.len();
        let status = conditional(&scene, "GET", tag)?.status;
        let expected = if stale { 200 } else { 304 };
        ensure!(status == expected, "version {n}: {status}");
    }
    scene.stop()
}

fn delete(scene: &Scene, key: &str) -> anyhow::Result<Response> {
    scene.send(&Request::new("DELETE", &format!("/api/v1/keys/{key}")))
}

/// The keys of the first page with this query.
fn keys(scene: &Scene, query: &str) -> anyhow::Result<Value> {
    let page = scene.get(&format!("/api/v1/keys{query}"))?;
    expect_status("keys", &page, 200)?;
    Ok(page.json()["keys"].clone())
}

fn deletion(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    asker.store("keep", "keep-1", &json!({"v": 1}))?;
    asker.store("drop", "drop-1", &json!({"v": 1}))?;
    for round in ["first", "again"] {
        let gone = delete(&scene, "drop")?;
        expect_status(round, &gone, 204)?;
        ensure!(gone.body.is_empty(), "{round}: a body");
        expect_status("afterwards", &scene.get("/api/v1/latest/drop")?, 404)?;
        ensure!(keys(&scene, "")? == json!(["keep"]), "{round}: other keys");
        let series = scene.post("/api/v1/series/query", r#"{"fields":["drop/v"]}"#)?;
        let points = &series.json()["series"][0]["points"];
        ensure!(*points == json!([]), "{round}: {}", series.text());
    }
    asker.store("drop", "drop-2", &json!({"v": 2}))?;
    let latest = scene.get("/api/v1/latest/drop")?;
    ensure!(latest.json()["fields"]["v"] == 2.0, "{}", latest.text());
    scene.stop()
}

fn paging(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    let mut expected: Vec<String> = (0..50).map(|n| format!("p:{n}")).collect();
    for (n, key) in expected.iter().enumerate() {
        asker.store(key, &format!("page-{n}"), &json!({"n": n}))?;
    }
    for other in ["o", "p", "q:1"] {
        asker.store(other, &format!("page-{other}"), &json!({"n": 1}))?;
    }
    expected.sort();
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/keys?prefix=p:&limit=7&after={after}");
        let page = scene.get(&path)?;
        expect_status(&path, &page, 200)?;
        let document = page.json();
        let keys = document["keys"].as_array().context("no keys")?;
        ensure!(
            !keys.is_empty() && keys.len() <= 7,
            "{path}: {}",
            page.text()
        );
        found.extend(keys.iter().filter_map(Value::as_str).map(str::to_owned));
        match document["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
        ensure!(found.len() < 100, "the pages do not end: {found:?}");
    }
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    scene.stop()
}

fn expiry(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[("BC_TTL_S", "1")])?;
    let mut asker = Asker::new(context)?;
    let stored = Instant::now();
    asker.store("k", "expiry-1", &json!({"v": 1}))?;
    let latest = scene.get("/api/v1/latest/k")?;
    if stored.elapsed() < Duration::from_millis(900) {
        expect_status("at first", &latest, 200)?;
    }
    eventually("the value is gone", Duration::from_secs(3), || {
        Ok(scene.get("/api/v1/latest/k")?.status == 404)
    })?;
    let took = stored.elapsed();
    ensure!(took >= Duration::from_secs(1), "gone after {took:?}");
    ensure!(keys(&scene, "")? == json!([]), "the key is listed still");
    asker.store("k", "expiry-2", &json!({"v": 2}))?;
    expect_status("a new value", &scene.get("/api/v1/latest/k")?, 200)?;
    scene.stop()
}

fn full_store(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[("BC_MAX_KEYS", "3")])?;
    let mut asker = Asker::new(context)?;
    for (n, key) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
        asker.store(key, &format!("full-{n}"), &json!({"n": n}))?;
    }
    let kept = keys(&scene, "")?;
    ensure!(kept == json!(["a", "c", "d"]), "kept are {kept}");
    eventually("store_keys is 3", MESSAGE_LIMIT, || {
        Ok(scene.metric("store_keys")? == 3.0)
    })?;
    scene.stop()
}
