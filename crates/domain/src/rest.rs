//! What a REST request is answered, as far as that needs no waiting.

use contract::{
    Problem, ProblemKind, Reply,
    limits::{PAGE_DEFAULT, PAGE_MAX},
    reply::ETAG,
    shapes::{DeviceCommand, Event, Published},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, error::Category};

use crate::{event, flatten, key, object, store::Store, time::UnixMs};

/// Checks the head of a request with a body before the body is read.
///
/// # Errors
/// 413 if the declared length is above `limit`, 415 if the body is not declared as JSON.
pub fn check_head(
    content_type: Option<&str>,
    declared_length: Option<u64>,
    limit: usize,
) -> Result<(), Problem> {
    if declared_length.is_some_and(|length| length > limit as u64) {
        return Err(body_too_large(limit));
    }
    let essence = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if essence.eq_ignore_ascii_case(contract::reply::JSON) {
        Ok(())
    } else {
        let detail = "the body must be declared as application/json";
        Err(Problem::new(ProblemKind::UnsupportedMediaType, detail))
    }
}

/// The refusal of a body above `limit` bytes.
#[must_use]
pub fn body_too_large(limit: usize) -> Problem {
    Problem::new(
        ProblemKind::BodyTooLarge,
        format!("the body may have {limit} bytes"),
    )
}

/// Answers `POST /api/v1/flatten`.
///
/// # Errors
/// 400 if the body is no JSON, 422 if it is no object or nested too deeply.
pub fn flatten(body: &[u8]) -> Result<Reply, Problem> {
    let object: Map<String, Value> = parse(body)?;
    let fields =
        flatten::flatten(&object).map_err(|error| Problem::unprocessable("", error.to_string()))?;
    Ok(Reply::json(200, &fields))
}

/// Reads the body of `POST /api/v1/events`.
///
/// # Errors
/// 400 if the body is no JSON, 422 if it is no event.
pub fn parse_event(body: &[u8]) -> Result<Event, Problem> {
    let event: Event = parse(body)?;
    match event::reading(event.clone()) {
        Ok(_) => Ok(event),
        Err(event::InvalidEvent::Data(error)) => {
            Err(Problem::unprocessable("/data", error.to_string()))
        }
        Err(error) => Err(Problem::unprocessable("/key", error.to_string())),
    }
}

/// Answers an event that the broker has confirmed.
#[must_use]
pub fn published(message_id: String) -> Reply {
    Reply::json(202, &Published { message_id })
}

/// Reads the body of `POST /api/v1/device/commands` into the line for the device, without its end.
///
/// # Errors
/// 400 if the body is no JSON, 422 if it is no command.
///
/// # Panics
/// Never: what was parsed from JSON serialises to JSON.
pub fn parse_command(body: &[u8]) -> Result<Vec<u8>, Problem> {
    let command: DeviceCommand = parse(body)?;
    if command.command.is_empty() {
        return Err(Problem::unprocessable("/command", "must not be empty"));
    }
    Ok(serde_json::to_vec(&command).expect("a command serialises"))
}

/// Answers a device command with the device's line.
///
/// # Errors
/// 502 if the line is no JSON.
pub fn device_reply(line: &[u8]) -> Result<Reply, Problem> {
    let line = line.trim_ascii();
    match serde_json::from_slice::<serde::de::IgnoredAny>(line) {
        Ok(_) => Ok(Reply::raw_json(200, line.to_vec())),
        Err(_) => Err(Problem::new(
            ProblemKind::DeviceFailed,
            "the device's reply is no JSON",
        )),
    }
}

/// Answers `GET /api/v1/latest/{key}`, with the version in `ETag`; see [`Reply::unless_matched`].
///
/// # Errors
/// 404 if nothing is known of the key.
pub fn latest(store: &Store, key: &str, now: UnixMs) -> Result<Reply, Problem> {
    match store.latest(key, now).zip(store.version(key)) {
        Some((latest, version)) => Ok(Reply::json(200, &latest).with_header(ETAG, version)),
        None => Err(Problem::new(
            ProblemKind::NotFound,
            "nothing is known of this key",
        )),
    }
}

/// Answers `DELETE /api/v1/keys/{key}`: the key is gone, whether there was one or not.
#[must_use]
pub fn forget(store: &mut Store, key: &str) -> Reply {
    store.remove(key);
    Reply::empty(204)
}

/// What `GET /api/v1/keys` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysQuery {
    /// Keys that start with this.
    pub prefix: String,
    /// Keys behind this one.
    pub after: String,
    /// Page length.
    pub limit: usize,
}

impl KeysQuery {
    /// Parses the query string (without `?`).
    ///
    /// # Errors
    /// 422 for an unknown parameter, a limit outside 1 to [`PAGE_MAX`], or a prefix or `after`
    /// that no key can have. Keys need no percent-encoding, so an encoded value is refused too.
    pub fn parse(query: &str) -> Result<Self, Problem> {
        let mut parsed = Self {
            prefix: String::new(),
            after: String::new(),
            limit: PAGE_DEFAULT,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "prefix" => parsed.prefix = key_part(name, value)?,
                "after" => parsed.after = key_part(name, value)?,
                "limit" => parsed.limit = page_length(value)?,
                other => {
                    return Err(Problem::unprocessable(
                        "",
                        format!("unknown parameter {other}"),
                    ));
                }
            }
        }
        Ok(parsed)
    }

    /// Answers the query.
    #[must_use]
    pub fn answer(&self, store: &Store, now: UnixMs) -> Reply {
        Reply::json(200, &store.keys(&self.prefix, &self.after, self.limit, now))
    }
}

fn key_part(name: &str, value: &str) -> Result<String, Problem> {
    if value.is_empty() || key::is_valid(value) {
        Ok(value.to_owned())
    } else {
        Err(Problem::unprocessable(format!("/{name}"), key::REQUIREMENT))
    }
}

fn page_length(value: &str) -> Result<usize, Problem> {
    match value.parse() {
        Ok(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        _ => Err(Problem::unprocessable(
            "/limit",
            format!("must be 1 to {PAGE_MAX}"),
        )),
    }
}

/// Parses a JSON body: 400 for what is no JSON, 422 for JSON of another shape.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    object::parse(body).map_err(|error| {
        // The shape may be wrong at an earlier place than the text: only the whole text tells
        // whether it is JSON.
        let error = serde_json::from_slice::<Value>(body).err().unwrap_or(error);
        match error.classify() {
            Category::Data => Problem::unprocessable("", error.to_string()),
            Category::Syntax if is_nested_too_deeply(&error) => {
                Problem::unprocessable("", "nested too deeply")
            }
            _ => Problem::new(ProblemKind::InvalidJson, error.to_string()),
        }
    })
}

/// The parser's own recursion limit (128 levels) lies above ours; it is a matter of shape as well.
fn is_nested_too_deeply(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("recursion limit exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Bounds;
    use proptest::prelude::*;

    fn status(result: Result<impl std::fmt::Debug, Problem>) -> (u16, String) {
        let problem = result.expect_err("refused");
        let pointer = problem.errors.first().map(|error| error.pointer.clone());
        (problem.kind.status(), pointer.unwrap_or_default())
    }

    #[test]
    fn a_body_is_refused_by_its_head_alone() {
        assert!(check_head(Some("application/json"), Some(10), 10).is_ok());
        assert!(check_head(Some("Application/JSON; charset=utf-8"), None, 10).is_ok());
        assert_eq!(
            status(check_head(Some("application/json"), Some(11), 10)).0,
            413
        );
        assert_eq!(status(check_head(Some("text/plain"), Some(1), 10)).0, 415);
        assert_eq!(status(check_head(None, Some(1), 10)).0, 415);
    }

    #[test]
    fn flatten_tells_no_json_from_the_wrong_json() {
        assert_eq!(
            flatten(br#"{"a":{"b":[1.5]}}"#).expect("valid").body,
            br#"{"a/b/0":1.5}"#
        );
        assert_eq!(status(flatten(b"{")).0, 400);
        assert_eq!(status(flatten(b"[1]")).0, 422);
        let deep = [b"{\"a\":".repeat(200), b"1".to_vec(), b"}".repeat(200)].concat();
        assert_eq!(status(flatten(&deep)).0, 422);
    }

    #[test]
    fn an_event_names_the_wrong_place() {
        assert!(parse_event(br#"{"key":"a","data":{}}"#).is_ok());
        assert_eq!(
            status(parse_event(br#"{"key":"a b","data":{}}"#)),
            (422, "/key".into())
        );
        assert_eq!(status(parse_event(br#"{"key":"a"}"#)), (422, String::new()));
        assert_eq!(status(parse_event(b"nope")).0, 400);
        assert_eq!(status(parse_event(br#"["a",{}]"#)).0, 422);
        assert_eq!(status(parse_event(br#"{"colour":1,"#)).0, 400);
    }

    #[test]
    fn a_command_is_one_line() {
        let line = parse_command(b"{\"command\":\"read\",\n\"args\":{\"n\":1}}").expect("valid");
        assert_eq!(line, br#"{"command":"read","args":{"n":1}}"#);
        assert_eq!(
            status(parse_command(br#"{"command":""}"#)),
            (422, "/command".into())
        );
    }

    #[test]
    fn a_device_that_talks_nonsense_has_failed() {
        assert_eq!(
            device_reply(b"{\"ok\":true}\r\n").expect("valid").body,
            b"{\"ok\":true}"
        );
        assert_eq!(status(device_reply(b"ERR 7")).0, 502);
    }

    #[test]
    fn a_keys_query_is_checked_before_it_is_answered() {
        let query = KeysQuery::parse("prefix=a&limit=2&after=a1").expect("valid");
        assert_eq!(
            (query.prefix.as_str(), query.after.as_str(), query.limit),
            ("a", "a1", 2)
        );
        assert_eq!(status(KeysQuery::parse("limit=0")), (422, "/limit".into()));
        assert_eq!(
            status(KeysQuery::parse("limit=1001")),
            (422, "/limit".into())
        );
        assert_eq!(
            status(KeysQuery::parse("prefix=a%20b")),
            (422, "/prefix".into())
        );
        assert_eq!(status(KeysQuery::parse("colour=red")).0, 422);
    }

    #[test]
    fn an_unknown_key_is_not_found() {
        let bounds = Bounds {
            ttl: std::time::Duration::MAX,
            series_points: 1,
            max_keys: 1,
        };
        assert_eq!(status(latest(&Store::new(bounds), "a", UnixMs(0))).0, 404);
    }

    proptest! {
        #[test]
        fn no_body_makes_a_handler_panic(body in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = (flatten(&body), parse_event(&body), parse_command(&body));
            let _ = (device_reply(&body), KeysQuery::parse(&String::from_utf8_lossy(&body)));
        }
    }
}
