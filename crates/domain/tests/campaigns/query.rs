//! Series queries are checked and answered by the rules as they are read a second time.

use std::{collections::BTreeMap, time::Duration};

use contract::shapes::SeriesAnswer;
use domain::{Reading, Store, UnixMs, flatten::Fields, series::Query, store::Bounds};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::campaign::{self, Bytes, Seen, nearly};

/// When the last point came, and the query comes, in milliseconds.
const NOW: u64 = 20_300;
/// Milliseconds between two points.
const STEP: u64 = 700;
/// Texts that are no instants of ours.
const NO_INSTANTS: [&str; 6] = [
    "",
    "yesterday",
    "1970-13-01T00:00:00Z",
    "1970-01-01T00:00:00+01:00",
    "1970-01-01T00:00:61Z",
    "1970-01-01",
];

/// A member that was given: what it means (`None` if nothing), and its JSON.
type Given = (Option<u64>, Value);

/// A query before it is written down.
#[derive(Debug, Clone)]
struct Asked {
    fields: Vec<&'static str>,
    start: Option<Given>,
    end: Option<Given>,
    duration: Option<Given>,
    downsample: Option<Given>,
    limit: Option<Given>,
}

impl Asked {
    fn members(&self) -> [(&'static str, &Option<Given>); 5] {
        [
            ("start", &self.start),
            ("end", &self.end),
            ("duration", &self.duration),
            ("downsample", &self.downsample),
            ("limit", &self.limit),
        ]
    }

    fn text(&self) -> Vec<u8> {
        let mut query = json!({ "fields": self.fields });
        for (name, given) in self.members() {
            if let Some((_, value)) = given {
                query[name] = value.clone();
            }
        }
        query.to_string().into_bytes()
    }

    fn is_sound(&self) -> bool {
        let mut given = self
            .members()
            .into_iter()
            .filter_map(|(_, given)| given.as_ref());
        let all = [&self.start, &self.end, &self.duration];
        let meaning = |given: &Option<Given>| given.as_ref().and_then(|given| given.0);
        let backwards = meaning(&self.start).zip(meaning(&self.end));
        given.all(|(meaning, _)| meaning.is_some())
            && (1..=100).contains(&self.fields.len())
            && !all.iter().all(|given| given.is_some())
            && backwards.is_none_or(|(start, end)| start <= end)
    }

    /// The points of the field that exists.
    fn points(&self) -> Vec<(u64, f64)> {
        let [start, end, duration, downsample, limit] = self
            .members()
            .map(|(_, given)| given.as_ref().and_then(|given| given.0));
        let is_inside = |at: u64| {
            let behind_start = match (start, end, duration) {
                (Some(start), _, _) => at >= start,
                (None, Some(end), Some(length)) => at + length >= end,
                (None, None, Some(length)) => at + length >= NOW,
                _ => true,
            };
            let before_end = match (start, end, duration) {
                (_, Some(end), _) => at < end,
                (Some(start), None, Some(length)) => at < start + length,
                _ => true,
            };
            behind_start && before_end
        };
        let inside = stored().filter(|(at, _)| is_inside(*at));
        let width = downsample.unwrap_or(1);
        let mut groups: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (at, value) in inside {
            groups.entry(at / width * width).or_default().push(value);
        }
        #[expect(clippy::cast_precision_loss, reason = "some thirty points")]
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let points: Vec<_> = groups.into_iter().map(|(at, it)| (at, mean(it))).collect();
        let limit = usize::try_from(limit.unwrap_or(1_000)).expect("small");
        points[points.len().saturating_sub(limit)..].to_vec()
    }
}

/// What the store holds.
fn stored() -> impl Iterator<Item = (u64, f64)> {
    (0..=NOW / STEP).map(|n| {
        (
            n * STEP,
            f64::from(u32::try_from(n * n % 17).expect("small")),
        )
    })
}

fn store() -> Store {
    let mut store = Store::new(Bounds {
        ttl: Duration::from_secs(3_600),
        series_points: 1_000,
        max_keys: 10,
    });
    for (at, value) in stored() {
        let reading = Reading {
            key: "s".to_owned(),
            fields: Fields::from([("t/c".to_owned(), value)]),
        };
        store.apply(reading, UnixMs(at));
    }
    store
}

/// Milliseconds; every second one lies on a point, where bounds are decided.
fn any_ms() -> impl Strategy<Value = u64> {
    prop_oneof![1..22_000_u64, (1..31_u64).prop_map(|n| n * STEP)]
}

fn any_instant() -> impl Strategy<Value = Given> {
    let sound = any_ms().prop_map(|ms| {
        let text = format!("1970-01-01T00:00:{:02}.{:03}Z", ms / 1_000, ms % 1_000);
        (Some(ms), json!(text))
    });
    let wrong = prop::sample::select(&NO_INSTANTS[..]).prop_map(|text| (None, json!(text)));
    prop_oneof![8 => sound, 1 => wrong]
}

fn any_length() -> impl Strategy<Value = Given> {
    #[expect(clippy::cast_precision_loss, reason = "some seconds")]
    let sound = any_ms().prop_map(|ms| (Some(ms), json!(ms as f64 / 1e3)));
    let wrong = prop::sample::select(vec![json!(0), json!(-1.5), json!(1e300), json!("1")]);
    prop_oneof![8 => sound, 1 => wrong.prop_map(|value| (None, value))]
}

fn any_limit() -> impl Strategy<Value = Given> {
    let sound = prop_oneof![1..40_u64, 9_990..10_001_u64];
    let wrong = prop::sample::select(vec![json!(0), json!(10_001), json!(-1), json!(2.5)]);
    prop_oneof![
        8 => sound.prop_map(|limit| (Some(limit), json!(limit))),
        1 => wrong.prop_map(|value| (None, value)),
    ]
}

fn any_query() -> impl Strategy<Value = Asked> {
    let field = prop::sample::select(vec!["s/t/c", "s/t", "s", "", "x/t/c", "/"]);
    let fields = prop_oneof![
        8 => prop::collection::vec(field.clone(), 1..4),
        1 => (field, prop::sample::select(vec![0, 100, 101])).prop_map(|(it, n)| vec![it; n]),
    ];
    let bounds = (
        prop::option::of(any_instant()),
        prop::option::of(any_instant()),
        prop::option::of(any_length()),
    );
    let rest = (
        prop::option::of(any_length()),
        prop::option::of(any_limit()),
    );
    (fields, bounds, rest).prop_map(
        |(fields, (start, end, duration), (downsample, limit))| Asked {
            fields,
            start,
            end,
            duration,
            downsample,
            limit,
        },
    )
}

#[test]
fn a_query_is_answered_as_the_naive_reading_has_it() {
    let store = store();
    campaign::run("series query", any_query(), |asked| {
        let query = Query::parse(&asked.text());
        prop_assert_eq!(query.is_ok(), asked.is_sound(), "{:?}", query);
        let Ok(query) = query else {
            return Ok(Seen::Refused);
        };
        let reply = query.answer(&store, UnixMs(NOW));
        let answer: SeriesAnswer = serde_json::from_slice(&reply.body).expect("an answer");
        prop_assert_eq!(answer.series.len(), asked.fields.len());
        for (series, field) in answer.series.iter().zip(&asked.fields) {
            let expected = if *field == "s/t/c" {
                asked.points()
            } else {
                Vec::new()
            };
            let same = |a: &(u64, f64), b: &(u64, f64)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9;
            let mut pairs = series.points.iter().zip(&expected);
            let are_same = series.points.len() == expected.len() && pairs.all(|(a, b)| same(a, b));
            prop_assert!(are_same, "{:?} instead of {:?}", series, expected);
        }
        Ok(Seen::Accepted)
    });
}

#[test]
fn a_text_that_is_nearly_a_query_is_refused_by_what_it_is() {
    let texts = any_query().prop_map(|asked| asked.text());
    campaign::run("series query's text", nearly(texts), |Bytes(body)| {
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        match Query::parse(&body) {
            Ok(_) => {
                prop_assert!(value.is_some_and(|value| value.is_object()));
                Ok(Seen::Accepted)
            }
            Err(problem) => {
                let expected = if value.is_some() { 422 } else { 400 };
                prop_assert_eq!(problem.kind.status(), expected, "{:?}", problem);
                Ok(Seen::Refused)
            }
        }
    });
}
