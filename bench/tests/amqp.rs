//! The AMQP client against peers that misbehave; each is a socket with a script.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use amq_protocol::protocol::{channel, connection};
use threeways::amqp::{AMQPClass, Error, FieldTable, Session, append_method};

const LIMIT: Duration = Duration::from_secs(5);

/// A peer that accepts one connection and does what `script` says.
fn peer(script: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        script(stream);
    });
    (format!("amqp://ada:s3cret@{address}/%2f"), thread)
}

fn connect(url: &str) -> Result<Session, Error> {
    Session::connect(url, "test", LIMIT)
}

fn send(stream: &mut TcpStream, channel: u16, method: AMQPClass) {
    let mut bytes = Vec::new();
    append_method(&mut bytes, channel, method);
    // Cut in two, so that a frame never comes at once.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    stream.set_nodelay(true).expect("a TCP socket");
    stream.write_all(first).expect("sent");
    std::thread::sleep(Duration::from_millis(5));
    stream.write_all(second).expect("sent");
}

fn receive(stream: &mut TcpStream) {
    let mut bytes = [0; 4096];
    assert!(stream.read(&mut bytes).expect("the client speaks") > 0);
}

/// The broker's side of the handshake.
fn shake_hands(stream: &mut TcpStream) {
    receive(stream);
    let start = connection::Start {
        version_major: 0,
        version_minor: 9,
        server_properties: FieldTable::default(),
        mechanisms: "PLAIN".into(),
        locales: "en_US".into(),
    };
    send_connection(stream, connection::AMQPMethod::Start(start));
    receive(stream);
    let tune = connection::Tune {
        channel_max: 8,
        frame_max: 4096,
        heartbeat: 1,
    };
    send_connection(stream, connection::AMQPMethod::Tune(tune));
    receive(stream);
    send_connection(
        stream,
        connection::AMQPMethod::OpenOk(connection::OpenOk {}),
    );
    receive(stream);
    let opened = channel::AMQPMethod::OpenOk(channel::OpenOk {});
    send(stream, 1, AMQPClass::Channel(opened));
}

fn send_connection(stream: &mut TcpStream, method: connection::AMQPMethod) {
    send(stream, 0, AMQPClass::Connection(method));
}

fn close(code: u16, text: &str) -> connection::AMQPMethod {
    connection::AMQPMethod::Close(connection::Close {
        reply_code: code,
        reply_text: text.into(),
        class_id: 0,
        method_id: 0,
    })
}

#[test]
fn what_was_agreed_is_the_smaller_of_both() {
    let (url, peer) = peer(|mut stream| shake_hands(&mut stream));
    let session = connect(&url).expect("shakes hands");
    assert_eq!(session.server().frame_max, 4096);
    assert_eq!(session.server().heartbeat, Duration::from_secs(1));
    assert_eq!(session.server().product, "unknown");
    peer.join().expect("played its part");
}

#[test]
fn a_waiting_session_keeps_its_heartbeat() {
    let (url, peer) = peer(|mut stream| {
        shake_hands(&mut stream);
        let mut bytes = Vec::new();
        stream
            .read_to_end(&mut bytes)
            .expect("until the client goes");
        let heartbeats = bytes.chunks(8).filter(|frame| frame[0] == 8).count();
        assert!(heartbeats >= 2, "{heartbeats} heartbeats");
    });
    let mut session = connect(&url).expect("shakes hands");
    let nothing = session
        .next_delivery(Duration::from_millis(1_700))
        .expect("alive");
    assert!(nothing.is_none());
    drop(session);
    peer.join().expect("saw the heartbeats");
}

#[test]
fn access_refused_names_the_user_and_not_the_password() {
    let (url, peer) = peer(|mut stream| {
        receive(&mut stream);
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::default(),
            mechanisms: "PLAIN".into(),
            locales: "en_US".into(),
        };
        send_connection(&mut stream, connection::AMQPMethod::Start(start));
        receive(&mut stream);
        send_connection(&mut stream, close(403, "ACCESS_REFUSED"));
    });
    let error = connect(&url).expect_err("refused");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("ada") && !text.contains("s3cret"), "{text}");
    peer.join().expect("played its part");
}

#[test]
fn a_peer_that_hangs_up_during_the_login_has_refused_it() {
    let (url, peer) = peer(|mut stream| receive(&mut stream));
    let error = connect(&url).expect_err("hung up");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    peer.join().expect("played its part");
}

#[test]
fn a_web_server_is_not_taken_for_a_broker() {
    let (url, peer) = peer(|mut stream| {
        receive(&mut stream);
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .expect("sent");
    });
    let error = connect(&url).expect_err("no AMQP");
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    peer.join().expect("played its part");
}

#[test]
fn a_close_in_the_middle_of_a_call_is_told_with_its_code() {
    let (url, peer) = peer(|mut stream| {
        shake_hands(&mut stream);
        receive(&mut stream);
        send_connection(&mut stream, close(320, "CONNECTION_FORCED"));
        receive(&mut stream); // The close is answered.
    });
    let mut session = connect(&url).expect("shakes hands");
    let error = session.depth("q").expect_err("closed");
    assert_eq!(error.code(), Some(320), "{error}");
    peer.join().expect("played its part");
}

#[test]
fn a_call_that_is_never_answered_ends_at_its_deadline() {
    let (url, peer) = peer(|mut stream| {
        shake_hands(&mut stream);
        let mut rest = Vec::new();
        // Until the client gives up and closes.
        let _ = stream.read_to_end(&mut rest);
    });
    let mut session = connect(&url).expect("shakes hands");
    session.set_timeout(Duration::from_millis(200));
    let started = Instant::now();
    let error = session.depth("q").expect_err("silence");
    assert!(
        matches!(
            error,
            Error::TimedOut {
                what: "queue.declare",
                ..
            }
        ),
        "{error}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    drop(session);
    peer.join().expect("played its part");
}

#[test]
fn nobody_at_the_address_is_told_with_the_address() {
    let error = connect("amqp://127.0.0.1:1").expect_err("nobody");
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}
