use super::*;
use crate::http::{Client, Request};

const LIMIT: Duration = Duration::from_secs(5);

fn server(law: Law, discipline: Discipline) -> TruthServer {
    TruthServer::start(Behaviour { law, discipline }, None).expect("a free port")
}

#[test]
fn the_null_server_answers_what_the_generator_asks() {
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let mut client = Client::connect(server.address(), LIMIT).expect("it listens");
    let latest = Request::new("GET", "/api/v1/latest/bench-7");
    let answer = client.exchange(&latest).expect("an answer");
    assert_eq!(answer.text(), r#"{"key":"bench-7","fields":{}}"#);
    let body = br#"{"token":1000000017,"a":{"b":[1,true]}}"#;
    let answer = client.exchange(&Request::post("/api/v1/flatten", body));
    let answer = answer.expect("an answer on the same connection");
    assert_eq!(
        answer.text(),
        r#"{"a/b/0":1.0,"a/b/1":1.0,"token":1000000017.0}"#
    );
    let answer = client.exchange(&Request::new("GET", "/other"));
    assert_eq!(answer.expect("an answer").status, 404);
    server.stop().expect("no fault");
}

#[test]
fn requests_that_arrive_together_are_answered_in_order() {
    let server = server(Law::Constant(Duration::from_millis(2)), Discipline::Single);
    let mut client = Client::connect(server.address(), LIMIT).expect("it listens");
    let request = |key: &str| {
        let path = format!("/api/v1/latest/{key}");
        Request::new("GET", &path).bytes(server.address())
    };
    let both = [request("a"), request("b")].concat();
    let started = Instant::now();
    client.send(&both).expect("connected");
    for key in ["a", "b"] {
        let answer = client.receive(false).expect("an answer");
        assert!(answer.text().contains(key), "{}", answer.text());
    }
    assert!(started.elapsed() >= Duration::from_millis(4));
}

/// A stall of the machine must not grow in a queue: the server counts from the stamps, so what
/// lay in the sockets meanwhile is due as if it had been read at once.
#[test]
fn what_arrived_in_a_stall_is_served_from_its_arrival() {
    let plan = Plan::default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let stop = eventfd(0, EventfdFlags::NONBLOCK).expect("an event");
    let behaviour = Behaviour {
        law: Law::Constant(Duration::from_millis(30)),
        discipline: Discipline::Single,
    };
    let mut server = Server::new(listener, &stop, plan, behaviour).expect("it can poll");
    let mut clients: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(address).expect("it listens"))
        .collect();
    server.accept().expect("three have come");
    // The kernel begins to stamp a little after it was asked to.
    std::thread::sleep(Duration::from_millis(20));
    let latest = Request::new("GET", "/api/v1/latest/k").bytes(address);
    let begun = Instant::now();
    for client in &mut clients {
        client.write_all(&latest).expect("connected");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(200));
    // The events of a poll come in no order that is promised.
    for index in (0..3).rev() {
        server.read(index);
    }
    server.schedule();
    let due: Vec<(Instant, usize)> = std::iter::from_fn(|| server.due.pop())
        .map(|Reverse((due, _, index, _))| (due, index))
        .collect();
    let order: Vec<usize> = due.iter().map(|(_, index)| *index).collect();
    assert_eq!(order, [0, 1, 2]);
    let last = due[2].0 - begun;
    assert!((90..150).contains(&last.as_millis()), "{last:?}");
}

#[test]
fn a_frozen_server_answers_at_the_end_of_the_freeze() {
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let mut client = Client::connect(server.address(), LIMIT).expect("it listens");
    let start = Instant::now();
    let freeze = Freeze {
        start_ns: 0,
        end_ns: 100_000_000,
    };
    server.freeze(start, freeze);
    let latest = Request::new("GET", "/api/v1/latest/k");
    client.exchange(&latest).expect("an answer");
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[test]
fn what_is_no_request_ends_its_connection_and_no_other() {
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let mut bad = Client::connect(server.address(), LIMIT).expect("it listens");
    bad.send(b"\x00\x01\x02\r\n\r\n").expect("connected");
    assert!(bad.is_closed_within(LIMIT));
    let mut good = Client::connect(server.address(), LIMIT).expect("it listens");
    let latest = Request::new("GET", "/api/v1/latest/k");
    assert_eq!(good.exchange(&latest).expect("an answer").status, 200);
}
