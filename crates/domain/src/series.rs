//! Series queries: which points a window holds, and how they are thinned out.

use std::time::{Duration, SystemTime};

use contract::{
    Problem, Reply,
    limits::{QUERY_FIELDS_MAX, QUERY_POINTS_DEFAULT, QUERY_POINTS_MAX},
    shapes::{Series, SeriesAnswer, SeriesQuery},
};

use crate::{
    rest,
    store::{Point, Store},
    time::UnixMs,
};

/// A checked query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Key and path of every field, and the field as it was asked for.
    fields: Vec<String>,
    window: Window,
    limit: usize,
    /// Interval that becomes one point, in milliseconds.
    downsample_ms: Option<u64>,
}

/// Bounds in time; what is open is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Window {
    start: Option<UnixMs>,
    end: Option<UnixMs>,
    duration_ms: Option<u64>,
}

impl Window {
    /// First instant inside and first instant behind the window, seen from `now`.
    fn bounds(self, now: UnixMs) -> (u64, u64) {
        let open = u64::MAX;
        match (self.start, self.end, self.duration_ms) {
            (start, None, None) => (start.map_or(0, |it| it.0), open),
            (start, Some(end), None) => (start.map_or(0, |it| it.0), end.0),
            (Some(start), _, Some(length)) => (start.0, start.0.saturating_add(length)),
            (None, Some(end), Some(length)) => (end.0.saturating_sub(length), end.0),
            (None, None, Some(length)) => (now.0.saturating_sub(length), open),
        }
    }
}

impl Query {
    /// Reads the body of `POST /api/v1/series/query`.
    ///
    /// # Errors
    /// 400 if the body is no JSON, 422 with the place of what is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let query: SeriesQuery = rest::parse(body)?;
        if !(1..=QUERY_FIELDS_MAX).contains(&query.fields.len()) {
            return Err(wrong("/fields", format!("must be 1 to {QUERY_FIELDS_MAX}")));
        }
        let bounds = [
            query.start.is_some(),
            query.end.is_some(),
            query.duration.is_some(),
        ];
        if bounds.iter().all(|given| *given) {
            return Err(wrong(
                "/duration",
                "start, end and duration are one too many",
            ));
        }
        let limit = query.limit.unwrap_or(QUERY_POINTS_DEFAULT);
        if !(1..=QUERY_POINTS_MAX).contains(&limit) {
            return Err(wrong("/limit", format!("must be 1 to {QUERY_POINTS_MAX}")));
        }
        let window = Window {
            start: instant("/start", query.start.as_deref())?,
            end: instant("/end", query.end.as_deref())?,
            duration_ms: milliseconds("/duration", query.duration)?,
        };
        if window
            .start
            .zip(window.end)
            .is_some_and(|(start, end)| start > end)
        {
            return Err(wrong("/end", "lies before start"));
        }
        Ok(Self {
            fields: query.fields,
            window,
            limit,
            downsample_ms: milliseconds("/downsample", query.downsample)?,
        })
    }

    /// Answers the query.
    #[must_use]
    pub fn answer(&self, store: &Store, now: UnixMs) -> Reply {
        let series = self.fields.iter().map(|field| Series {
            field: field.clone(),
            points: self.points(store, field, now),
        });
        let series = series.collect();
        Reply::json(200, &SeriesAnswer { series })
    }

    /// The points of one field: those of the window, thinned out, the newest of them.
    fn points(&self, store: &Store, field: &str, now: UnixMs) -> Vec<(u64, f64)> {
        // A key has no slash, so the first one ends it.
        let Some((key, path)) = field.split_once('/') else {
            return Vec::new();
        };
        let (start, end) = self.window.bounds(now);
        let points = store.series(key, path, now);
        let points = points.filter(|point| (start..end).contains(&point.at.0));
        let mut points = match self.downsample_ms {
            Some(interval) => means(points, interval),
            None => points.map(|point| (point.at.0, point.value)).collect(),
        };
        points.drain(..points.len().saturating_sub(self.limit));
        points
    }
}

/// One point per interval that has any: their mean, at the interval's start.
fn means(points: impl Iterator<Item = Point>, interval_ms: u64) -> Vec<(u64, f64)> {
    let mut means: Vec<(u64, f64)> = Vec::new();
    let mut count = 0.0;
    for point in points {
        let at = point.at.0 - point.at.0 % interval_ms;
        match means.last_mut().filter(|(last, _)| *last == at) {
            // The running mean: no sum that could grow beyond what a number holds.
            Some((_, mean)) => {
                count += 1.0;
                *mean += (point.value - *mean) / count;
            }
            None => {
                count = 1.0;
                means.push((at, point.value));
            }
        }
    }
    means
}

fn wrong(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem::unprocessable(pointer, detail)
}

fn instant(pointer: &str, text: Option<&str>) -> Result<Option<UnixMs>, Problem> {
    let parsed = text.map(humantime::parse_rfc3339).transpose();
    let at = parsed.map_err(|_| wrong(pointer, "must be RFC 3339 in UTC, ending in Z"))?;
    Ok(at.map(|at: SystemTime| UnixMs::from_system(at)))
}

/// A positive number of seconds in milliseconds, at least one.
fn milliseconds(pointer: &str, seconds: Option<f64>) -> Result<Option<u64>, Problem> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(length) if length >= Duration::from_millis(1) => {
            Ok(Some(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)))
        }
        _ => Err(wrong(pointer, "must be 0.001 seconds or more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Reading, flatten::Fields, store::Bounds};
    use proptest::prelude::*;

    fn store() -> Store {
        let mut store = Store::new(Bounds {
            ttl: Duration::from_secs(3600),
            series_points: 100,
            max_keys: 10,
        });
        for at in 0..10_u32 {
            let fields = Fields::from([("t/c".to_owned(), f64::from(at))]);
            let reading = Reading {
                key: "s".to_owned(),
                fields,
            };
            store.apply(reading, UnixMs(u64::from(at) * 1000));
        }
        store
    }

    fn points(query: &str) -> Vec<(u64, f64)> {
        let reply = Query::parse(query.as_bytes())
            .expect(query)
            .answer(&store(), UnixMs(9000));
        let mut answer: SeriesAnswer = serde_json::from_slice(&reply.body).expect("an answer");
        answer.series.remove(0).points
    }

    #[test]
    fn the_table_of_windows_holds() {
        for (window, expected) in [
            ("", 0..10),
            (r#","start":"1970-01-01T00:00:07Z""#, 7..10),
            (r#","end":"1970-01-01T00:00:02Z""#, 0..2),
            (r#","duration":3"#, 6..10),
            (r#","start":"1970-01-01T00:00:02Z","duration":3"#, 2..5),
            (r#","end":"1970-01-01T00:00:05Z","duration":2"#, 3..5),
            (
                r#","start":"1970-01-01T00:00:02Z","end":"1970-01-01T00:00:04Z""#,
                2..4,
            ),
            (r#","limit":3"#, 7..10),
        ] {
            let found = points(&format!(r#"{{"fields":["s/t/c"]{window}}}"#));
            let found: Vec<u64> = found.into_iter().map(|(at, _)| at / 1000).collect();
            assert_eq!(found, expected.collect::<Vec<u64>>(), "{window}");
        }
    }

    #[test]
    fn an_interval_becomes_its_mean() {
        assert_eq!(
            points(r#"{"fields":["s/t/c"],"downsample":4}"#),
            [(0, 1.5), (4000, 5.5), (8000, 8.5)]
        );
    }

    #[test]
    fn an_unknown_field_has_no_points() {
        for field in ["s", "s/x", "x/t/c", ""] {
            assert_eq!(points(&format!(r#"{{"fields":["{field}"]}}"#)), []);
        }
    }

    #[test]
    fn a_wrong_query_names_the_place() {
        for (query, pointer) in [
            (r#"{"fields":[]}"#, "/fields"),
            (r#"{"fields":["a/b"],"limit":0}"#, "/limit"),
            (r#"{"fields":["a/b"],"limit":10001}"#, "/limit"),
            (r#"{"fields":["a/b"],"duration":0}"#, "/duration"),
            (r#"{"fields":["a/b"],"duration":-1}"#, "/duration"),
            (r#"{"fields":["a/b"],"downsample":1e300}"#, "/downsample"),
            (r#"{"fields":["a/b"],"start":"yesterday"}"#, "/start"),
            (
                r#"{"fields":["a/b"],"start":"1970-01-01T00:00:02Z","end":"1970-01-01T00:00:01Z"}"#,
                "/end",
            ),
            (
                r#"{"fields":["a/b"],"start":"1970-01-01T00:00:02Z","end":"1970-01-01T00:00:03Z","duration":1}"#,
                "/duration",
            ),
            (r#"{"fields":["a/b"],"colour":1}"#, ""),
        ] {
            let problem = Query::parse(query.as_bytes()).expect_err(query);
            assert_eq!(problem.kind.status(), 422);
            assert_eq!(problem.errors[0].pointer, pointer, "{query}");
        }
        assert_eq!(Query::parse(b"{").expect_err("no JSON").kind.status(), 400);
    }

    proptest! {
        #[test]
        fn no_body_makes_a_query_panic(body in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = Query::parse(&body);
        }

        #[test]
        fn a_mean_lies_between_its_points_and_the_limit_holds(
            seconds in 0.001..20.0_f64, limit in 1..12_usize
        ) {
            let query = format!(r#"{{"fields":["s/t/c"],"downsample":{seconds},"limit":{limit}}}"#);
            let points = points(&query);
            prop_assert!(points.len() <= limit);
            prop_assert!(points.iter().all(|(_, value)| (0.0..=9.0).contains(value)));
            prop_assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }
}
