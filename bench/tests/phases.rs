//! Keep-alive connections of one schedule: used in turn, so that no two of them send in lock-step.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use threeways::{
    load::{Arrival, Exchange, Generator, LoadPlan, RestPlan},
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

#[test]
fn each_connection_sends_with_the_period_n_over_rate_shifted_by_one_gap_against_its_neighbour() {
    let tokens = Tokens::default();
    let address = server(&tokens);
    let arrival = Arrival::Constant {
        rate_per_s: RATE_PER_S,
        phase: 0.0,
    };
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
    // Late enough that the thread is ready: two sends at once might be answered in any order.
    let start = Instant::now() + Duration::from_millis(200);
    let result = generator.run_apart(start, &AtomicBool::new(false));
    assert_eq!(
        result.operations[&Kind::Rest].ok,
        100,
        "{:?}",
        result.faults
    );

    let all = tokens.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(all.len(), CONNECTIONS);
    let zero = all.iter().flatten().min().copied().expect("operations");
    let mut pacer = arrival.pacer();
    let mut due = |token: u64| pacer.intended_ns(token - zero);
    let gap_ns = 1e9 / RATE_PER_S;
    for (index, carried) in all.iter().enumerate() {
        let first = due(carried[0]) as f64;
        assert!((first - index as f64 * gap_ns).abs() < 2.0, "{index}");
        for pair in carried.windows(2) {
            let period = (due(pair[1]) - due(pair[0])) as f64;
            assert!(
                (period - CONNECTIONS as f64 * gap_ns).abs() < 2.0,
                "connection {index}: {pair:?}"
            );
        }
    }
}
