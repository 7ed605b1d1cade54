//! Which path takes which method.

use anyhow::{Context as _, ensure};
use contract::{Method, Route};
use serde_json::json;

use super::{
    Context,
    case::{Case, eventually, expect_status},
    rows::check_problem,
    scene::{Asker, MESSAGE_LIMIT, Scene},
};
use crate::http::{Request, Response};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required(
        "every path refuses other methods with 405 and Allow",
        refused_methods,
    ),
    Case::required("every path answers OPTIONS with Allow", options),
    Case::required("HEAD of what is read has the length of GET", head),
];

/// Methods that are tried; the last two are none of the contract's.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "BREW"];

/// A path of the route.
fn path_of(route: Route) -> String {
    route.template().replace("{key}", "k").replace("{id}", "1")
}

fn exchange(scene: &Scene, method: &str, path: &str) -> anyhow::Result<Response> {
    scene.send(&Request {
        headers: &[("X-Request-Id", "m")],
        ..Request::new(method, path)
    })
}

fn refused_methods(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    for route in Route::ALL {
        let path = path_of(route);
        let wrong = METHODS
            .into_iter()
            .filter(|method| !route.accepts(Method::parse(method)));
        for method in wrong {
            let response = exchange(&scene, method, &path)?;
            let what = format!("{method} {path}");
            expect_status(&what, &response, 405)?;
            check_allow(&what, &response, route)?;
            if method != "HEAD" {
                check_problem(&response, "method-not-allowed", "m").context(what)?;
            }
        }
    }
    scene.stop()
}

fn check_allow(what: &str, response: &Response, route: Route) -> anyhow::Result<()> {
    let allow = response.header("Allow").unwrap_or_default();
    let expected = route.allow();
    ensure!(
        allow == expected,
        "{what}: Allow is {allow:?} instead of {expected:?}"
    );
    Ok(())
}

fn options(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start(context, &[])?;
    for route in Route::ALL {
        let path = path_of(route);
        let response = exchange(&scene, "OPTIONS", &path)?;
        expect_status(&path, &response, 204)?;
        check_allow(&path, &response, route)?;
        ensure!(response.body.is_empty(), "{path}: a body");
    }
    scene.stop()
}

fn head(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    Asker::new(context)?.store("k", "head-1", &json!({"v": 1.5}))?;
    let job = scene.post("/api/v1/jobs", r#"{"kind":"timer","duration_ms":1}"#)?;
    expect_status("a job", &job, 202)?;
    let job = format!("/api/v1/jobs/{}", job.json()["id"]);
    // Its progress would change the length between the two requests.
    eventually("the job is done", MESSAGE_LIMIT, || {
        Ok(scene.get(&job)?.json()["status"] == "done")
    })?;
    let mut client = scene.client()?;
    for (path, is_steady) in [
        ("/healthz", true),
        ("/readyz", true),
        ("/metrics", false),
        ("/info", false),
        ("/api/v1/keys", true),
        ("/api/v1/latest/k", true),
        (job.as_str(), true),
        ("/nothing", false),
    ] {
        let get = client.exchange(&Request::new("GET", path))?;
        let head = client.exchange(&Request::new("HEAD", path))?;
        ensure!(
            head.status == get.status,
            "{path}: {} and {}",
            head.status,
            get.status
        );
        let length = head
            .header("Content-Length")
            .with_context(|| format!("HEAD {path} without Content-Length"))?;
        let expected = get.body.len().to_string();
        ensure!(
            length == expected || (!is_steady && length != "0"),
            "{path}: {length} instead of {expected}"
        );
    }
    scene.stop()
}
