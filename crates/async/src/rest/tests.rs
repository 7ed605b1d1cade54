//! Clients that misbehave, on real sockets.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{self, Instant, sleep, timeout},
};

use super::{Api, serve};
use crate::{
    amqp::publisher::Publisher,
    config::Config,
    shutdown::{Phase, Phases},
    state::State,
};

const GET: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

/// A service that serves REST and nothing else.
struct Service {
    address: SocketAddr,
    state: Arc<State>,
    phases: Phases,
}

impl Service {
    async fn start(arguments: &[&str]) -> Self {
        let config = Config::parse(arguments).expect("valid");
        let state = Arc::new(State::new(config));
        let (publisher, _) = Publisher::new(Arc::clone(&state));
        let phases = Phases::new();
        let api = Arc::new(Api::new(
            Arc::clone(&state),
            Arc::new(publisher),
            phases.view(),
        ));
        let (listener, address) = listen().await;
        tokio::spawn(serve(listener, api, phases.view()));
        Self {
            address,
            state,
            phases,
        }
    }

    async fn connect(&self) -> TcpStream {
        let connecting = TcpStream::connect(self.address);
        connecting.await.expect("somebody listens")
    }

    fn connections(&self) -> u64 {
        self.state.metrics.http(|http| http.connections)
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Sends `bytes` and returns the status line of what comes back.
async fn ask(client: &mut TcpStream, bytes: &str) -> String {
    client.write_all(bytes.as_bytes()).await.expect("taken");
    let answer = read(client).await;
    answer.lines().next().unwrap_or_default().to_owned()
}

/// What comes next, at most 8 KiB of it; empty at the end.
async fn read(client: &mut TcpStream) -> String {
    let mut bytes = vec![0; 8192];
    let count = client.read(&mut bytes).await.expect("no reset");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

/// Waits until what was sent has arrived, and then lets the clock jump to the next timer whenever
/// everybody waits: patience of minutes is tried in no time.
///
/// Not from the start: a clock that jumps does not wait for sockets either.
async fn stop_the_clock() {
    sleep(Duration::from_millis(50)).await;
    time::pause();
}

fn post(path: &str, length: usize, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

fn device_command() -> String {
    let body = r#"{"command":"read"}"#;
    post("/api/v1/device/commands", body.len(), body)
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_closed_and_a_place_is_free_again_later() {
    let service = Service::start(&["--max-conns=1"]).await;
    let mut first = service.connect().await;
    assert_eq!(ask(&mut first, GET).await, "HTTP/1.1 200 OK");
    assert_eq!(service.connections(), 1);
    let mut second = service.connect().await;
    second.write_all(GET.as_bytes()).await.expect("taken");
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.expect("closed");
    let answer = answer.to_lowercase();
    for part in [
        "http/1.1 503",
        "retry-after: 1",
        "connection: close",
        "overloaded",
    ] {
        assert!(answer.contains(part), "{part} is missing: {answer}");
    }
    drop(first);
    let again = async {
        loop {
            let mut third = service.connect().await;
            if ask(&mut third, GET).await == "HTTP/1.1 200 OK" {
                break;
            }
        }
    };
    timeout(Duration::from_secs(10), again)
        .await
        .expect("a place");
}

#[tokio::test]
async fn one_request_too_many_is_told_so() {
    let (_silent, device) = listen().await;
    let device = format!("--device-addr={device}");
    let service = Service::start(&["--max-inflight=1", &device]).await;
    let mut first = service.connect().await;
    let command = device_command();
    first.write_all(command.as_bytes()).await.expect("taken");
    while service.state.metrics.http(|http| http.inflight) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let mut second = service.connect().await;
    let refused = ask(&mut second, GET).await;
    assert_eq!(refused, "HTTP/1.1 503 Service Unavailable");
    drop(first);
    let mut answer = String::new();
    while answer != "HTTP/1.1 200 OK" {
        answer = ask(&mut second, GET).await;
    }
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_ends_the_connection() {
    let service = Service::start(&[]).await;
    let mut client = service.connect().await;
    let begun = Instant::now();
    client.write_all(b"GET /healthz HT").await.expect("taken");
    stop_the_clock().await;
    assert_eq!(read(&mut client).await, "");
    assert_eq!(begun.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn a_connection_may_rest_for_a_minute() {
    let service = Service::start(&[]).await;
    let mut client = service.connect().await;
    assert_eq!(ask(&mut client, GET).await, "HTTP/1.1 200 OK");
    stop_the_clock().await;
    sleep(Duration::from_secs(55)).await;
    time::resume();
    assert_eq!(ask(&mut client, GET).await, "HTTP/1.1 200 OK");
    let begun = Instant::now();
    stop_the_clock().await;
    assert_eq!(read(&mut client).await, "");
    let took = begun.elapsed();
    assert!((59..=65).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_408() {
    let service = Service::start(&[]).await;
    let mut client = service.connect().await;
    let begun = Instant::now();
    let request = post("/api/v1/flatten", 100, "{");
    client.write_all(request.as_bytes()).await.expect("taken");
    stop_the_clock().await;
    let answer = read(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn waits_that_add_up_to_too_much_are_answered_504() {
    let (_silent, device) = listen().await;
    let device = format!("--device-addr={device}");
    let service = Service::start(&["--device-pool=1", &device]).await;
    let mut first = service.connect().await;
    let command = device_command();
    first.write_all(command.as_bytes()).await.expect("taken");
    // The only connection is free again after four seconds, then the second waits for the device.
    stop_the_clock().await;
    sleep(Duration::from_millis(2_500)).await;
    time::resume();
    let mut second = service.connect().await;
    let begun = Instant::now();
    second.write_all(command.as_bytes()).await.expect("taken");
    stop_the_clock().await;
    let answer = read(&mut second).await;
    assert!(answer.contains("handler-timeout"), "{answer}");
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert!(read(&mut first).await.contains("device-timeout"));
}

#[tokio::test]
async fn a_client_that_sends_a_body_too_large_gets_to_read_why() {
    let service = Service::start(&[]).await;
    let mut client = service.connect().await;
    let head = post("/api/v1/flatten", 10_000_000, "");
    client.write_all(head.as_bytes()).await.expect("taken");
    // It is answered by now, and goes on sending, as most clients do until they have sent all.
    client.readable().await.expect("answered");
    for _ in 0..40 {
        client.write_all(&[b' '; 4096]).await.expect("no reset");
        sleep(Duration::from_millis(1)).await;
    }
    let answer = read(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(read(&mut client).await, "");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_answered_431() {
    let service = Service::start(&[]).await;
    let mut client = service.connect().await;
    let long = "x".repeat(20_000);
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n");
    let answer = ask(&mut client, &head).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(read(&mut client).await, "");
}

#[tokio::test]
async fn a_drain_ends_resting_connections_at_once() {
    let service = Service::start(&[]).await;
    let mut client = service.connect().await;
    assert_eq!(ask(&mut client, GET).await, "HTTP/1.1 200 OK");
    service.phases.enter(Phase::NoServing);
    let ended = timeout(Duration::from_millis(500), read(&mut client));
    assert_eq!(ended.await.expect("at once"), "");
    let refused = TcpStream::connect(service.address).await;
    assert!(refused.is_err(), "somebody still listens");
}
