//! The front with real clients: what they get, and that it stops in time.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
};

use super::*;
use crate::{rest::bind, state::tests::state};

/// A front that runs, with its state and its address.
struct Running {
    front: Front,
    state: Arc<State>,
    address: SocketAddr,
}

fn start(arguments: &[&str]) -> Running {
    let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let state = state(&[&["--http=std"], arguments].concat());
    let front = Front::start(&state, listener).expect("room for a thread");
    Running {
        front,
        state,
        address,
    }
}

impl Running {
    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("accepted");
        let limit = Some(Duration::from_secs(10));
        client.set_read_timeout(limit).expect("not zero");
        client
    }

    /// A client that has sent `bytes`.
    fn client_with(&self, bytes: &str) -> TcpStream {
        let mut client = self.client();
        client.write_all(bytes.as_bytes()).expect("sent");
        client
    }

    /// Waits until so many connections are served.
    fn await_connections(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.state.connections.taken() != count {
            assert!(Instant::now() < deadline, "not {count} connections");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops it as the server does: nobody may be late, and it may take so long.
    fn stop_within(self, limit: Duration) {
        self.state.flags.draining.set(true);
        let started = Instant::now();
        let late = self.front.stop(started + Duration::from_secs(20));
        assert!(late.is_empty(), "{late:?}");
        assert!(started.elapsed() < limit, "{:?}", started.elapsed());
    }
}

/// Everything until the server closes.
fn rest_of(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).expect("an end");
    text
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
const SOON: Duration = Duration::from_secs(3);

#[test]
fn requests_in_one_piece_are_answered_in_their_order() {
    let running = start(&[]);
    let requests: String = (0..1000)
        .map(|n| match n % 3 {
            0 => format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: {n}\r\n\r\n"),
            1 => format!(
                "POST /api/v1/flatten HTTP/1.1\r\nHost: x\r\nX-Request-Id: {n}\r\n\
                 Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
                 4\r\n{{\"a\"\r\n3\r\n:1}}\r\n0\r\n\r\n"
            ),
            // A body that nobody asked for does not become a request.
            _ => format!(
                "GET /nothing HTTP/1.1\r\nHost: x\r\nX-Request-Id: {n}\r\n\
                 Content-Length: 5\r\n\r\nGET /"
            ),
        })
        .collect();
    let client = running.client_with(&requests);
    let mut answers = BufReader::new(client).lines();
    for n in 0..1000 {
        let expected = format!("X-Request-Id: {n}");
        let mut lines = answers.by_ref().map(|line| line.expect("an answer"));
        assert!(lines.any(|line| line.ends_with(&expected)), "{n}");
    }
    running.stop_within(SOON);
}

#[test]
fn one_client_too_many_is_told_so_and_the_others_are_served() {
    let running = start(&["--max-conns=2"]);
    let clients = [running.client(), running.client()];
    running.await_connections(2);
    let refused = rest_of(running.client_with(HEALTH));
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("Retry-After: 1\r\n"), "{refused}");
    assert!(refused.contains("Connection: close\r\n"), "{refused}");
    for mut client in clients {
        client.write_all(HEALTH.as_bytes()).expect("sent");
        client.shutdown(Shutdown::Write).expect("open");
        let text = rest_of(client);
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    }
    running.await_connections(0);
    let client = running.client_with("GET /healthz HTTP/1.0\r\n\r\n");
    assert!(rest_of(client).starts_with("HTTP/1.1 200 "));
    running.stop_within(SOON);
}

#[test]
fn what_leaves_a_doubt_is_refused_and_what_follows_is_no_request() {
    let running = start(&[]);
    for request in [
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST /api/v1/flatten HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let text = rest_of(running.client_with(&format!("{request}{HEALTH}")));
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    }
    let padding = "a".repeat(70_000);
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {padding}\r\n\r\n");
    let text = rest_of(running.client_with(&long));
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    running.stop_within(SOON);
}

#[test]
fn a_body_that_is_declared_too_large_is_refused_while_it_is_being_sent() {
    let running = start(&[]);
    let mut client = running.client_with(
        "POST /api/v1/flatten HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: 200000\r\n\r\n",
    );
    // What the client sends on meanwhile must not cost it the answer.
    client.write_all(&[b' '; 100_000]).expect("discarded");
    let text = rest_of(client);
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    running.stop_within(SOON);
}

#[test]
fn a_client_that_waits_with_its_body_is_asked_for_it() {
    let running = start(&[]);
    let mut client = running.client_with(
        "POST /api/v1/flatten HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nConnection: close\r\nContent-Length: 7\r\n\r\n",
    );
    let mut interim = [0; 25];
    client.read_exact(&mut interim).expect("asked");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"{\"a\":1}").expect("sent");
    let text = rest_of(client);
    assert!(text.ends_with("\r\n\r\n{\"a\":1.0}"), "{text}");
    running.stop_within(SOON);
}

#[test]
fn a_stop_waits_for_answers_and_for_no_client() {
    let device = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = device.local_addr().expect("bound");
    let device = thread::spawn(move || {
        let (stream, _) = device.accept().expect("a connection");
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut String::new()).expect("a command");
        thread::sleep(Duration::from_millis(300));
        stream.get_mut().write_all(b"{}\n").expect("sent");
    });
    let running = start(&[&format!("--device-addr={address}")]);
    let command = "POST /api/v1/device/commands HTTP/1.1\r\nHost: x\r\n\
                   Content-Type: application/json\r\nContent-Length: 15\r\n\r\n\
                   {\"command\":\"r\"}";
    let in_hand = running.client_with(command);
    let idle = running.client();
    let half_head = running.client_with("GET /healthz HTTP/1.1\r\n");
    let half_body = running.client_with(&command[..command.len() - 1]);
    running.await_connections(4);
    // The command is with the device, and everything else has been read.
    thread::sleep(Duration::from_millis(100));
    running.stop_within(SOON);
    let text = rest_of(in_hand);
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert!(text.contains("Connection: close\r\n"), "{text}");
    assert_eq!(rest_of(idle), "");
    assert_eq!(rest_of(half_head), "");
    assert!(rest_of(half_body).starts_with("HTTP/1.1 503 "));
    device.join().expect("no panic");
}
