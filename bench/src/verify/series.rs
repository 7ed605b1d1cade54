//! Series queries, against an oracle that knows what was sent.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use contract::shapes::SeriesAnswer;
use serde_json::{Value, json};

use super::{
    Context,
    case::{Case, expect_status},
    scene::{Asker, Scene},
};

/// Cases of this file.
pub(super) const CASES: &[Case] = &[
    Case::required("a window holds its first instant and not its end", windows),
    Case::required(
        "a downsampled series holds the mean of each interval",
        means,
    ),
    Case::required(
        "a query is answered field by field in its order",
        order_of_fields,
    ),
    Case::required("a series keeps its newest points", bounded),
];

/// Events in a series.
const EVENTS: u32 = 6;
/// Least time between two of them.
const STEP: Duration = Duration::from_millis(40);

/// An instant as the service tells it, and in milliseconds since the epoch.
type Instants = Vec<(String, u64)>;

/// Sends events with the values 0, 1, … as `s/t/c`; returns when the service received them.
fn send(scene: &Scene, asker: &mut Asker) -> anyhow::Result<Instants> {
    let mut instants = Vec::new();
    for n in 0..EVENTS {
        asker.store("s", &format!("series-{n}"), &json!({"t": {"c": n}}))?;
        let latest = scene.get("/api/v1/latest/s")?;
        let document = latest.json();
        let text = document["received_at"].as_str().context("no received_at")?;
        let time = humantime::parse_rfc3339_weak(text)?;
        let since = time.duration_since(std::time::UNIX_EPOCH)?;
        instants.push((text.to_owned(), u64::try_from(since.as_millis())?));
        std::thread::sleep(STEP);
    }
    Ok(instants)
}

/// Asks for `fields` with further members of the query.
fn query(scene: &Scene, fields: &Value, members: &Value) -> anyhow::Result<SeriesAnswer> {
    let mut body = members.clone();
    body["fields"] = fields.clone();
    let response = scene.post("/api/v1/series/query", &body.to_string())?;
    expect_status(&body.to_string(), &response, 200)?;
    Ok(serde_json::from_slice(&response.body)?)
}

/// The points of `s/t/c`.
fn points(scene: &Scene, members: &Value) -> anyhow::Result<Vec<(u64, f64)>> {
    let mut answer = query(scene, &json!(["s/t/c"]), members)?;
    ensure!(answer.series.len() == 1, "{answer:?}");
    Ok(answer.series.remove(0).points)
}

fn windows(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let instants = send(&scene, &mut Asker::new(context)?)?;
    let all: Vec<(u64, f64)> = instants
        .iter()
        .zip(0..EVENTS)
        .map(|((_, at), n)| (*at, f64::from(n)))
        .collect();
    let at = |n: usize| instants[n].0.as_str();
    // Ten milliseconds short, so that no rounding decides about the point at the other end.
    let seconds = |from: usize, to: usize| (all[to].0 - all[from].0 - 10) as f64 / 1000.0;
    for (members, expected) in [
        (json!({}), 0..6),
        (json!({"start": at(2)}), 2..6),
        (json!({"end": at(2)}), 0..2),
        (json!({"start": at(1), "end": at(4)}), 1..4),
        (json!({"start": at(1), "end": at(1)}), 1..1),
        (json!({"start": at(1), "duration": seconds(1, 4)}), 1..4),
        (json!({"end": at(5), "duration": seconds(1, 5)}), 2..5),
        (json!({"duration": 3600}), 0..6),
        (json!({"duration": 0.001}), 6..6),
        (json!({"limit": 2}), 4..6),
        (json!({"end": at(4), "limit": 1}), 3..4),
    ] {
        let found = points(&scene, &members)?;
        let expected = &all[expected];
        ensure!(
            found == expected,
            "{members}: {found:?} instead of {expected:?}"
        );
    }
    scene.stop()
}

fn means(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    send(&scene, &mut Asker::new(context)?)?;
    let all = points(&scene, &json!({}))?;
    for interval_ms in [50, 100, 250, 3_600_000] {
        let found = points(&scene, &json!({"downsample": interval_ms as f64 / 1000.0}))?;
        let expected = means_of(&all, interval_ms);
        let is_same = found.len() == expected.len()
            && found
                .iter()
                .zip(&expected)
                .all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9);
        ensure!(
            is_same,
            "{interval_ms} ms: {found:?} instead of {expected:?}"
        );
        let newest = points(
            &scene,
            &json!({"downsample": interval_ms as f64 / 1000.0, "limit": 1}),
        )?;
        ensure!(
            newest.last() == found.last() && newest.len() == 1,
            "the limit counts other points: {newest:?} of {found:?}"
        );
    }
    scene.stop()
}

/// The points of each interval, counted from the epoch, as their mean at its start.
fn means_of(points: &[(u64, f64)], interval_ms: u64) -> Vec<(u64, f64)> {
    let start = |point: &(u64, f64)| point.0 / interval_ms * interval_ms;
    let intervals = points.chunk_by(|a, b| start(a) == start(b));
    intervals
        .map(|points| {
            let sum: f64 = points.iter().map(|(_, value)| value).sum();
            (start(&points[0]), sum / points.len() as f64)
        })
        .collect()
}

fn order_of_fields(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[])?;
    let mut asker = Asker::new(context)?;
    asker.store("s", "order-1", &json!({"b": [1, true], "a": "2.5"}))?;
    let fields = ["s/b/1", "nobody/x", "s/a", "s", "s/b/0", "s/a"];
    let answer = query(&scene, &json!(fields), &json!({}))?;
    let found: Vec<(&str, Vec<f64>)> = answer
        .series
        .iter()
        .map(|series| {
            let values = series.points.iter().map(|(_, value)| *value).collect();
            (series.field.as_str(), values)
        })
        .collect();
    let values = [vec![1.0], vec![], vec![2.5], vec![], vec![1.0], vec![2.5]];
    let expected: Vec<_> = fields.into_iter().zip(values).collect();
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    // The largest number of fields, and one more.
    for (count, status) in [(100, 200), (101, 422)] {
        let fields = vec!["s/a"; count];
        let body = json!({ "fields": fields }).to_string();
        let response = scene.post("/api/v1/series/query", &body)?;
        expect_status(&format!("{count} fields"), &response, status)?;
    }
    scene.stop()
}

fn bounded(context: &mut Context<'_>) -> anyhow::Result<()> {
    let scene = Scene::start_empty(context, &[("BC_SERIES_POINTS", "3")])?;
    send(&scene, &mut Asker::new(context)?)?;
    let values: Vec<f64> = points(&scene, &json!({}))?
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    ensure!(values == [3.0, 4.0, 5.0], "kept are {values:?}");
    scene.stop()
}
