//! The instrument's own hot path: what the generator's thread does for each operation.
//!
//! `cargo bench --bench harness` measures times with criterion, `-- --test` runs each once, and
//! `scripts/instructions` counts the instructions of the same functions with callgrind.

use std::{hint::black_box, net::SocketAddr, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use threeways::{
    amqp::{BasicProperties, Decoder, Route, append_publish},
    http::parse_response_head,
    load::{
        Arrival, Exchange, Live,
        hot::{Recording, done},
    },
    scenario::RestRequest,
};

/// Names a function whose instructions callgrind counts; `list` prints the names.
const COUNT: &str = "THREEWAYS_COUNT";
/// Calls that are counted together.
const CALLS: u64 = 1_000;

/// One call; its argument counts the calls.
type Work = Box<dyn FnMut(u64)>;

/// A function of the hot path with what it needs.
struct Function {
    name: &'static str,
    prepare: fn() -> Work,
}

/// Every function, the empty one first: its instructions are the loop's and stand in every other.
const FUNCTIONS: [Function; 9] = [
    Function {
        name: "nothing",
        prepare: || {
            Box::new(|call| {
                black_box(call);
            })
        },
    },
    Function {
        name: "pacer: next instant, constant",
        prepare: || {
            pacer(Arrival::Constant {
                rate_per_s: 1e3,
                phase: 0.0,
            })
        },
    },
    Function {
        name: "pacer: next instant, Poisson",
        prepare: || {
            pacer(Arrival::Poisson {
                rate_per_s: 1e3,
                seed: 7,
            })
        },
    },
    Function {
        name: "recorder: one whole operation",
        prepare: || {
            let mut recording = Recording::default();
            Box::new(move |call| recording.operation(call))
        },
    },
    Function {
        name: "live display: one whole operation",
        prepare: live,
    },
    Function {
        name: "HTTP: response head",
        prepare: response_head,
    },
    Function {
        name: "request: bytes with its token",
        prepare: || {
            let mut exchange = flatten();
            Box::new(move |call| {
                black_box(exchange.bytes(call));
            })
        },
    },
    Function {
        name: "request: check of the answer",
        prepare: check,
    },
    Function {
        name: "AMQP: message of three frames, decoded",
        prepare: frames,
    },
];

fn pacer(arrival: Arrival) -> Work {
    let mut pacer = arrival.pacer();
    Box::new(move |call| {
        black_box(pacer.intended_ns(call));
    })
}

fn live() -> Work {
    let live = Live::default();
    Box::new(move |call| {
        live.lag(black_box(900));
        live.observe(&done(call, call * 1_000_000));
    })
}

fn response_head() -> Work {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
        content-length: 46\r\ndate: Fri, 02 Jan 2026 03:04:05 GMT\r\n\r\n";
    Box::new(|_| {
        black_box(parse_response_head(black_box(ANSWER)).expect("a whole head"));
    })
}

fn flatten() -> Exchange {
    let host = SocketAddr::from(([127, 0, 0, 1], 8_000));
    Exchange::turns(&[RestRequest::Flatten], host).remove(0)
}

/// The right answer, which takes longest.
fn check() -> Work {
    let exchange = flatten();
    let body = br#"{"a/b/0":1.0,"a/b/1":1.0,"token":1000000000.0}"#;
    Box::new(move |_| {
        black_box(exchange.is_answered_by(0, 200, black_box(body)));
    })
}

fn frames() -> Work {
    let route = Route {
        exchange: "brewcast.history",
        routing_key: "bench-3",
        mandatory: false,
    };
    let properties = BasicProperties::default().with_correlation_id("e-1".into());
    let mut bytes = Vec::new();
    append_publish(&mut bytes, 1, 131_072, route, &properties, &[b'x'; 128]);
    let mut decoder = Decoder::default();
    Box::new(move |_| {
        decoder.feed(&bytes);
        while let Some(frame) = decoder.next_frame().expect("well formed") {
            black_box(frame);
        }
    })
}

/// Callgrind counts in here and nowhere else.
#[inline(never)]
fn toggled_by_callgrind(work: &mut dyn FnMut(u64), first: u64) {
    for call in first..first + CALLS {
        work(call);
    }
}

/// Counts one function, or prints the names and the number of calls.
fn count(name: &str) {
    if name == "list" {
        for function in &FUNCTIONS {
            println!("{CALLS} {}", function.name);
        }
        return;
    }
    let function = FUNCTIONS.iter().find(|function| function.name == name);
    let mut work = (function.expect("a name from the list").prepare)();
    // What the first calls allocate is no part of the steady state.
    (0..CALLS).for_each(&mut work);
    toggled_by_callgrind(&mut work, CALLS);
}

fn hot_path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("harness");
    for function in &FUNCTIONS {
        let (mut work, mut call) = ((function.prepare)(), 0);
        group.bench_function(function.name, |bencher| {
            bencher.iter(|| {
                work(call);
                call += 1;
            });
        });
    }
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = harness;
    config = settings();
    targets = hot_path
}

/// One function under callgrind, or criterion.
fn run() {
    match std::env::var(COUNT) {
        Ok(name) => count(&name),
        Err(_) => {
            harness();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}

criterion_main!(run);
