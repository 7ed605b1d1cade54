//! The table of requests and answers that need no preparation.

use super::rows::{
    Expected::{self, Empty, Exactly, Problem, Wrong},
    Row,
};

/// Content type of every ordinary body.
const JSON: &str = "application/json";
/// `Allow` of what takes a body.
const POST_ONLY: &str = "POST, OPTIONS";
/// `Allow` of what is read.
const GET_ONLY: &str = "GET, HEAD, OPTIONS";

/// A `GET` without a body.
const fn get(name: &'static str, path: &'static str, status: u16, body: Expected) -> Row {
    Row {
        name,
        request: ("GET", path),
        content: ("", ""),
        answer: (status, body),
        allow: "",
    }
}

/// A `POST` of JSON.
const fn post(
    name: &'static str,
    path: &'static str,
    body: &'static str,
    status: u16,
    expected: Expected,
) -> Row {
    Row {
        name,
        request: ("POST", path),
        content: (JSON, body),
        answer: (status, expected),
        allow: "",
    }
}

/// A body that flattens to exactly this text.
const fn flat(name: &'static str, body: &'static str, text: &'static str) -> Row {
    post(name, "/api/v1/flatten", body, 200, Exactly(text))
}

/// A method that the path does not take, or `OPTIONS`.
const fn method(
    name: &'static str,
    request: (&'static str, &'static str),
    answer: (u16, Expected),
    allow: &'static str,
) -> Row {
    Row {
        name,
        request,
        content: ("", ""),
        answer,
        allow,
    }
}

/// A body with another content type.
const fn typed(name: &'static str, content_type: &'static str, answer: (u16, Expected)) -> Row {
    Row {
        name,
        request: ("POST", "/api/v1/flatten"),
        content: (content_type, r#"{"a":1}"#),
        answer,
        allow: "",
    }
}

/// A series query that is refused with 422.
const fn query(name: &'static str, body: &'static str, expected: Expected) -> Row {
    post(name, "/api/v1/series/query", body, 422, expected)
}

/// A job that is refused with 422.
const fn job(name: &'static str, body: &'static str, expected: Expected) -> Row {
    post(name, "/api/v1/jobs", body, 422, expected)
}

/// Every row.
pub(super) const ROWS: &[Row] = &[
    get(
        "healthz answers ok",
        "/healthz",
        200,
        Exactly(r#"{"status":"ok"}"#),
    ),
    get(
        "readyz names its checks",
        "/readyz",
        200,
        Exactly(r#"{"status":"ready","checks":{"http":"up","amqp":"up","ipc":"up"}}"#),
    ),
    flat("flatten of nothing is nothing", "{}", "{}"),
    flat(
        "flatten joins nested names and list indices",
        r#"{"token":17,"a":{"b":[1,true]}}"#,
        r#"{"a/b/0":1.0,"a/b/1":1.0,"token":17.0}"#,
    ),
    flat(
        "flatten turns booleans into numbers",
        r#"{"on":true,"off":false}"#,
        r#"{"off":0.0,"on":1.0}"#,
    ),
    flat(
        "flatten reads numeric strings",
        r#"{"n":"21.5","e":"1e3"}"#,
        r#"{"e":1000.0,"n":21.5}"#,
    ),
    flat(
        "flatten drops what is no number",
        r#"{"t":"warm","z":null,"i":"inf","n":"nan","l":[],"o":{},"v":1.5}"#,
        r#"{"v":1.5}"#,
    ),
    flat(
        "flatten sorts by path",
        r#"{"b":1,"a":2,"ab":3,"a0":4}"#,
        r#"{"a":2.0,"a0":4.0,"ab":3.0,"b":1.0}"#,
    ),
    post(
        "broken JSON is 400",
        "/api/v1/flatten",
        "{",
        400,
        Problem("invalid-json"),
    ),
    post(
        "an empty body is 400",
        "/api/v1/flatten",
        "",
        400,
        Problem("invalid-json"),
    ),
    post(
        "a list is not flattened",
        "/api/v1/flatten",
        "[1]",
        422,
        Problem("unprocessable"),
    ),
    post(
        "an event with a wrong key is 422",
        "/api/v1/events",
        r#"{"key":"a b","data":{}}"#,
        422,
        Wrong("/key"),
    ),
    post(
        "an event without data is 422",
        "/api/v1/events",
        r#"{"key":"a"}"#,
        422,
        Problem("unprocessable"),
    ),
    post(
        "an event with an unknown member is 422",
        "/api/v1/events",
        r#"{"key":"a","data":{},"colour":1}"#,
        422,
        Problem("unprocessable"),
    ),
    post(
        "an event that is a list is 422",
        "/api/v1/events",
        r#"["a",{}]"#,
        422,
        Problem("unprocessable"),
    ),
    post(
        "broken JSON of another shape is 400",
        "/api/v1/events",
        r#"{"colour":1,"#,
        400,
        Problem("invalid-json"),
    ),
    post(
        "a command without a name is 422",
        "/api/v1/device/commands",
        r#"{"command":""}"#,
        422,
        Wrong("/command"),
    ),
    typed(
        "another content type is 415",
        "text/plain",
        (415, Problem("unsupported-media-type")),
    ),
    typed(
        "no content type is 415",
        "",
        (415, Problem("unsupported-media-type")),
    ),
    typed(
        "a content type may have parameters",
        "application/json; charset=utf-8",
        (200, Exactly(r#"{"a":1.0}"#)),
    ),
    get(
        "an unknown path is 404",
        "/api/v1/nothing",
        404,
        Problem("not-found"),
    ),
    get("the root is 404", "/", 404, Problem("not-found")),
    get(
        "an unknown key is 404",
        "/api/v1/latest/nobody",
        404,
        Problem("not-found"),
    ),
    get(
        "a page of no keys is 422",
        "/api/v1/keys?limit=0",
        422,
        Wrong("/limit"),
    ),
    get(
        "an unknown parameter is 422",
        "/api/v1/keys?colour=red",
        422,
        Problem("unprocessable"),
    ),
    get(
        "a page of too many keys is 422",
        "/api/v1/keys?limit=1001",
        422,
        Wrong("/limit"),
    ),
    get(
        "a prefix that no key has is 422",
        "/api/v1/keys?prefix=a%20b",
        422,
        Wrong("/prefix"),
    ),
    get(
        "no keys are an empty page",
        "/api/v1/keys?prefix=nobody",
        200,
        Exactly(r#"{"keys":[]}"#),
    ),
    query(
        "a query of no fields is 422",
        r#"{"fields":[]}"#,
        Wrong("/fields"),
    ),
    query(
        "a query without fields is 422",
        r#"{"limit":1}"#,
        Problem("unprocessable"),
    ),
    query(
        "a query of no points is 422",
        r#"{"fields":["a/b"],"limit":0}"#,
        Wrong("/limit"),
    ),
    query(
        "a query of too many points is 422",
        r#"{"fields":["a/b"],"limit":10001}"#,
        Wrong("/limit"),
    ),
    query(
        "a query with start, end and duration is 422",
        r#"{"fields":["a/b"],"start":"2026-01-01T00:00:00Z","end":"2026-01-01T00:00:01Z","duration":1}"#,
        Wrong("/duration"),
    ),
    query(
        "a query that ends before it starts is 422",
        r#"{"fields":["a/b"],"start":"2026-01-01T00:00:01Z","end":"2026-01-01T00:00:00Z"}"#,
        Wrong("/end"),
    ),
    query(
        "a query with a start that is no instant is 422",
        r#"{"fields":["a/b"],"start":"yesterday"}"#,
        Wrong("/start"),
    ),
    query(
        "a query of no duration is 422",
        r#"{"fields":["a/b"],"duration":0}"#,
        Wrong("/duration"),
    ),
    query(
        "a query with a negative interval is 422",
        r#"{"fields":["a/b"],"downsample":-1}"#,
        Wrong("/downsample"),
    ),
    query(
        "a query with an unknown member is 422",
        r#"{"fields":["a/b"],"colour":1}"#,
        Problem("unprocessable"),
    ),
    post(
        "a query that is no JSON is 400",
        "/api/v1/series/query",
        "{",
        400,
        Problem("invalid-json"),
    ),
    post(
        "a field that nobody knows has no points",
        "/api/v1/series/query",
        r#"{"fields":["nobody/x"]}"#,
        200,
        Exactly(r#"{"series":[{"field":"nobody/x","points":[]}]}"#),
    ),
    job(
        "a job of no known kind is 422",
        r#"{"kind":"gpu","duration_ms":5}"#,
        Problem("unprocessable"),
    ),
    job(
        "a job without a duration is 422",
        r#"{"kind":"cpu"}"#,
        Problem("unprocessable"),
    ),
    job(
        "a job of no duration is 422",
        r#"{"kind":"cpu","duration_ms":0}"#,
        Wrong("/duration_ms"),
    ),
    job(
        "a job beyond ten minutes is 422",
        r#"{"kind":"cpu","duration_ms":600001}"#,
        Wrong("/duration_ms"),
    ),
    get(
        "an unknown job is 404",
        "/api/v1/jobs/4000000000",
        404,
        Problem("not-found"),
    ),
    get(
        "a job that is no number is 404",
        "/api/v1/jobs/first",
        404,
        Problem("not-found"),
    ),
    method(
        "an unknown job cannot be cancelled",
        ("DELETE", "/api/v1/jobs/4000000000"),
        (404, Problem("not-found")),
        "",
    ),
    method(
        "a key that nobody knows can be deleted",
        ("DELETE", "/api/v1/keys/nobody"),
        (204, Empty),
        "",
    ),
    post(
        "objects nested 32 deep are flattened",
        "/api/v1/flatten",
        concat!(
            r#"{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":"#,
            r#"{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":1"#,
            "}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}"
        ),
        200,
        Exactly("{\"a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a\":1.0}"),
    ),
    post(
        "objects nested 33 deep are 422",
        "/api/v1/flatten",
        concat!(
            r#"{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":"#,
            r#"{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":{"a":"#,
            r#"{"a":1"#,
            "}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}}"
        ),
        422,
        Problem("unprocessable"),
    ),
    method(
        "GET of what takes a body is 405",
        ("GET", "/api/v1/flatten"),
        (405, Problem("method-not-allowed")),
        POST_ONLY,
    ),
    method(
        "POST to what is read is 405",
        ("POST", "/healthz"),
        (405, Problem("method-not-allowed")),
        GET_ONLY,
    ),
    method(
        "an unknown method is 405",
        ("BREW", "/api/v1/keys"),
        (405, Problem("method-not-allowed")),
        GET_ONLY,
    ),
    method(
        "OPTIONS tells what is allowed",
        ("OPTIONS", "/api/v1/events"),
        (204, Empty),
        POST_ONLY,
    ),
    method(
        "HEAD is GET without the body",
        ("HEAD", "/healthz"),
        (200, Empty),
        "",
    ),
    method(
        "HEAD of an unknown path is 404",
        ("HEAD", "/nothing"),
        (404, Empty),
        "",
    ),
];
