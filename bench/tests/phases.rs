//! Keep-alive connections of one schedule: used in turn, so that no two of them send in lock-step.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use threeways::{
    load::{Arrival, Exchange, Generator, LoadPlan, LoadResult, RestPlan},
    record::Kind,
    scenario::RestRequest,
};

const CONNECTIONS: usize = 8;
const RATE_PER_S: f64 = 100.0;

/// Tokens that each connection has carried, in order; a token counts the operations.
type Tokens = Arc<Mutex<Vec<Vec<u64>>>>;

/// Answers every flatten request at once and notes which connection it came on.
fn server(tokens: &Tokens) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let tokens = Arc::clone(tokens);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut all = tokens.lock().unwrap_or_else(PoisonError::into_inner);
            let index = all.len();
            all.push(vec![]);
            let tokens = Arc::clone(&tokens);
            std::thread::spawn(move || serve(stream, index, &tokens));
        }
    });
    address
}

fn serve(mut stream: TcpStream, index: usize, tokens: &Tokens) {
    let mut bytes = [0; 4096];
    while let Ok(count) = stream.read(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..count]);
        let Some((_, rest)) = text.split_once(r#""token":"#) else {
            return;
        };
        let token = &rest[..10];
        let body = format!(r#"{{"a/b/0":1.0,"a/b/1":1.0,"token":{token}.0}}"#);
        let mut all = tokens.lock().unwrap_or_else(PoisonError::into_inner);
        all[index].push(token.parse().expect("ten digits"));
        drop(all);
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Attempts at a second without a stall.
const ATTEMPTS: usize = 10;

/// One second of load: its result, and what each connection carried.
fn load(arrival: Arrival) -> (LoadResult, Vec<Vec<u64>>) {
    let tokens = Tokens::default();
    let address = server(&tokens);
    let plan = LoadPlan {
        rest: Some(RestPlan {
            address,
            turns: Exchange::turns(&[RestRequest::Flatten], address),
            connections: CONNECTIONS,
            arrival: Some(arrival),
        }),
        amqp: None,
        warm_up: Duration::ZERO,
        window: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
        cpu: None,
    };
    let generator = Generator::prepare(plan).expect("the server listens");
    let result = generator.run_apart(Instant::now(), &AtomicBool::new(false));
    let carried = tokens.lock().unwrap_or_else(PoisonError::into_inner);
    let carried = carried.iter().cloned().collect();
    (result, carried)
}

/// Whether each connection sends with the period N/rate, one gap behind its neighbour.
fn is_in_rotation(arrival: Arrival, carried: &[Vec<u64>]) -> bool {
    let zero = carried.iter().flatten().min().copied().expect("operations");
    let mut pacer = arrival.pacer();
    let mut due = |token: u64| pacer.intended_ns(token - zero) as f64;
    let gap_ns = 1e9 / RATE_PER_S;
    let period_ns = CONNECTIONS as f64 * gap_ns;
    carried.iter().enumerate().all(|(index, carried)| {
        let begins = (due(carried[0]) - index as f64 * gap_ns).abs() < 2.0;
        let mut pairs = carried.windows(2);
        begins && pairs.all(|pair| (due(pair[1]) - due(pair[0]) - period_ns).abs() < 2.0)
    })
}

#[test]
fn each_connection_sends_with_the_period_n_over_rate_shifted_by_one_gap_against_its_neighbour() {
    let arrival = Arrival::Constant {
        rate_per_s: RATE_PER_S,
        phase: 0.0,
    };
    // A stall of more than a gap makes two sends at once, whose answers may change the order.
    let rotates = (0..ATTEMPTS).any(|_| {
        let (result, carried) = load(arrival);
        let counts = &result.operations[&Kind::Rest];
        assert_eq!(counts.ok, 100, "{:?}", result.faults);
        assert_eq!(carried.len(), CONNECTIONS);
        is_in_rotation(arrival, &carried)
    });
    assert!(rotates, "not in {ATTEMPTS} attempts");
}
