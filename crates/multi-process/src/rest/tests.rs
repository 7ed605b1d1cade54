//! Tests of the front `std` over real sockets, without the AMQP process.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use contract::http1::CONTINUE;

use super::{api::Api, connection, listener::Front};
use crate::config::Config;

fn front(arguments: &[&str]) -> Arc<Front> {
    let config = Config::parse(arguments).expect("valid");
    let api = Api::new(Arc::new(config));
    let front = Front::new(Arc::new(api), "threeways-nobody-listens-here");
    Arc::new(front)
}

/// A client whose connection is served.
fn connect(front: &Arc<Front>) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
    let timeout = Some(Duration::from_secs(10));
    client.set_read_timeout(timeout).expect("a socket");
    let (stream, _) = listener.accept().expect("the client");
    let front = Arc::clone(front);
    std::thread::spawn(move || connection::serve(&front, &stream));
    client
}

/// Everything that is answered to `bytes`, up to the end of the connection.
fn answers(front: &Arc<Front>, bytes: &str) -> String {
    let mut client = connect(front);
    client.write_all(bytes.as_bytes()).expect("sent");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("answered");
    text
}

fn statuses(text: &str) -> Vec<&str> {
    let lines = text.split("HTTP/1.1 ").skip(1);
    lines.map(|answer| &answer[..3]).collect()
}

fn flatten(headers: &str, body: &str) -> String {
    format!(
        "POST /api/v1/flatten HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         {headers}\r\n\r\n{body}"
    )
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let wrong = "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n";
    let body = flatten("Transfer-Encoding: chunked", "7\r\n{\"a\":1}\r\n0\r\n\r\n");
    let text = answers(&front(&[]), &[HEALTH, wrong, &body, HEALTH].concat());
    assert_eq!(statuses(&text), ["200", "404", "200", "200"]);
    assert!(text.contains(r#"{"a":1.0}"#), "{text}");
    assert!(!text.contains("Connection: close"), "{text}");
}

#[test]
fn a_body_that_comes_after_its_head_is_waited_for() {
    let front = front(&[]);
    let mut client = connect(&front);
    let head = flatten("Content-Length: 7\r\nExpect: 100-continue", "");
    client.write_all(head.as_bytes()).expect("sent");
    let mut interim = [0; CONTINUE.len()];
    client.read_exact(&mut interim).expect("asked for the body");
    assert_eq!(interim, CONTINUE);
    client.write_all(br#"{"a":2}"#).expect("sent");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("answered");
    assert!(text.contains(r#"{"a":2.0}"#), "{text}");
}

#[test]
fn what_is_malformed_is_refused_and_the_connection_closed() {
    for (bytes, status) in [
        (format!("GET / HTTP/1.1\r\n\r\n{HEALTH}"), "400"),
        (format!("nonsense\r\n\r\n{HEALTH}"), "400"),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(17_000)), "431"),
        (
            flatten("Content-Length: 7\r\nContent-Length: 8", HEALTH),
            "400",
        ),
        (flatten("Content-Length: 9", "{\"a\":1}"), "400"),
    ] {
        let text = answers(&front(&[]), &bytes);
        assert_eq!(statuses(&text), [status], "{bytes}");
        assert!(text.contains("Connection: close"), "{text}");
    }
}

#[test]
fn a_body_that_is_declared_too_long_is_refused_and_the_client_hears_it() {
    let front = front(&["--body-limit=10"]);
    let mut client = connect(&front);
    let head = flatten("Content-Length: 100000", "");
    client.write_all(head.as_bytes()).expect("sent");
    // The client does not wait for the answer; closing under its hands would reset the connection.
    client.write_all(&[b'x'; 100_000]).expect("taken");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("answered");
    assert_eq!(statuses(&text), ["413"]);
}

#[test]
fn a_request_whose_body_nobody_wants_is_answered_and_is_the_last() {
    let unwanted = "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd";
    let text = answers(&front(&[]), &format!("{unwanted}{HEALTH}"));
    assert_eq!(statuses(&text), ["200"]);
    assert!(text.contains("Connection: close"), "{text}");
}

#[test]
fn who_is_draining_says_so_and_closes_behind_the_answer() {
    let front = front(&[]);
    front.api.draining.set(true);
    let text = answers(&front, &[HEALTH, HEALTH].concat());
    assert_eq!(statuses(&text), ["200"]);
    assert!(text.contains("Connection: close"), "{text}");
}

#[test]
fn a_head_request_has_no_body_and_the_length_of_one() {
    let head = HEALTH.replace("GET", "HEAD");
    let text = answers(&front(&[]), &format!("{head}{HEALTH}"));
    assert_eq!(statuses(&text), ["200", "200"]);
    assert_eq!(text.matches("Content-Length: 15").count(), 2, "{text}");
    assert_eq!(text.matches(r#"{"status":"ok"}"#).count(), 1, "{text}");
}

#[test]
fn without_the_amqp_process_what_needs_it_is_unavailable_and_nothing_else() {
    let keys = "GET /api/v1/keys HTTP/1.1\r\nHost: x\r\n\r\n";
    let text = answers(&front(&[]), &[keys, HEALTH].concat());
    assert_eq!(statuses(&text), ["503", "200"]);
    assert!(text.contains("Retry-After: 1"), "{text}");
    assert!(text.contains("store-unavailable"), "{text}");
}

#[test]
fn the_end_of_the_front_ends_who_says_nothing() {
    let front = front(&[]);
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").expect("free port"));
    let address = listener.local_addr().expect("bound");
    let accepting = (Arc::clone(&front), Arc::clone(&listener));
    std::thread::spawn(move || accepting.0.accept_all(&accepting.1));
    let mut idle = TcpStream::connect(address).expect("connects");
    idle.write_all(HEALTH.as_bytes()).expect("sent");
    idle.read_exact(&mut [0; 15]).expect("served");
    assert_eq!(front.open.wait_until_gone(Duration::ZERO), 1);
    front.open.close();
    assert_eq!(front.open.wait_until_gone(Duration::from_secs(10)), 0);
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).expect("closed and not reset");
}
