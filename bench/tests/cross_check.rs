//! Our generator beside clients that share no line with it: hyper for REST, lapin for AMQP.
//!
//! Both are sent against the same server of known truth with the same schedule. A wrong figure that
//! both have in common would have to be a mistake of two strangers.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use contract::{
    QueueType,
    amqp::{HISTORY_EXCHANGE, INGEST_QUEUE},
};
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use lapin::{
    BasicProperties, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use threeways::{
    broker::{self, Broker},
    host,
    load::{AmqpPlan, Arrival, Exchange, Generator, LoadPlan, LoadResult, RestPlan, key},
    record::Kind,
    scenario::RestRequest,
    truth::{Behaviour, Discipline, Law, TruthConsumer, TruthServer},
};

/// What the servers of known truth take.
const DELAY: Duration = Duration::from_millis(20);
/// Operations per second: none waits for another.
const RATE_PER_S: f64 = 40.0;
/// Operations of each client.
const OPERATIONS: u32 = 80;
/// Connections of both HTTP clients.
const CONNECTIONS: usize = 4;
/// How far two right medians may lie apart: tokio's timers tick in milliseconds, and the machine
/// does other things.
const APART: Duration = Duration::from_millis(5);

/// The instant at which operation `number` is due.
fn due(start: Instant, number: u32) -> Instant {
    start + Duration::from_secs_f64(f64::from(number) / RATE_PER_S)
}

fn median(mut times: Vec<Duration>) -> Duration {
    assert_eq!(times.len(), OPERATIONS as usize, "each is answered");
    times.sort_unstable();
    times[times.len() / 2]
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the kernel has an epoll")
}

/// Our own generator with the same schedule: the median of `tag`.
fn own(plan: LoadPlan, kind: Kind, tag: &str) -> Duration {
    let generator = Generator::prepare(plan).expect("the server listens");
    let result: LoadResult = generator.run_apart(Instant::now(), &AtomicBool::new(false));
    assert_eq!(result.faults, Vec::<String>::new());
    assert_eq!(result.operations[&kind].ok, u64::from(OPERATIONS));
    Duration::from_nanos(result.histograms[tag].value_at_quantile(0.5))
}

fn plan() -> LoadPlan {
    LoadPlan {
        rest: None,
        amqp: None,
        warm_up: Duration::ZERO,
        window: Duration::from_secs_f64(f64::from(OPERATIONS) / RATE_PER_S),
        timeout: Duration::from_secs(5),
        cpu: None,
    }
}

fn arrival() -> Arrival {
    Arrival::Constant {
        rate_per_s: RATE_PER_S,
        phase: 0.0,
    }
}

/// Compares the medians of both, ours first; a machine on which others work may part them twice.
fn assert_agreement(measure: impl Fn() -> (Duration, Duration)) {
    static MACHINE: Mutex<()> = Mutex::new(());
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let pairs: Vec<_> = (0..3).map(|_| measure()).collect();
    let agrees = |(ours, theirs): &(Duration, Duration)| {
        *ours >= DELAY && *theirs >= DELAY && ours.abs_diff(*theirs) < APART
    };
    assert!(pairs.iter().any(agrees), "{pairs:?}");
}

/// Every operation whose turn it is on this connection, from its intended instant.
async fn hyper_connection(address: SocketAddr, start: Instant, first: u32) -> Vec<Duration> {
    let stream = tokio::net::TcpStream::connect(address).await;
    let stream = stream.expect("it listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/1.1");
    tokio::spawn(connection);
    let mut times = Vec::new();
    for number in (first..OPERATIONS).step_by(CONNECTIONS) {
        let due = due(start, number);
        tokio::time::sleep_until(due.into()).await;
        let uri = format!("/api/v1/latest/{}", key(u64::from(number)));
        let request = hyper::Request::get(uri)
            .header("host", address.to_string())
            .body(Empty::<Bytes>::new())
            .expect("it is well formed");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.expect("a whole one");
        times.push(due.elapsed());
    }
    times
}

fn hyper_median(address: SocketAddr) -> Duration {
    runtime().block_on(async {
        let start = Instant::now() + Duration::from_millis(50);
        let connections = (0..u32::try_from(CONNECTIONS).expect("few"))
            .map(|first| hyper_connection(address, start, first));
        let times = futures_util::future::join_all(connections).await;
        median(times.concat())
    })
}

#[test]
fn hyper_finds_the_same_rest_response_times() {
    let behaviour = Behaviour {
        law: Law::Constant(DELAY),
        discipline: Discipline::Parallel,
    };
    let server = TruthServer::start(behaviour, None).expect("a free port");
    let address = server.address();
    let rest = RestPlan {
        address,
        turns: Exchange::turns(&[RestRequest::Latest], address),
        connections: CONNECTIONS,
        arrival: Some(arrival()),
    };
    let plan = LoadPlan {
        rest: Some(rest),
        ..plan()
    };
    let ours = || own(plan.clone(), Kind::Rest, "rest.response");
    assert_agreement(|| (ours(), hyper_median(address)));
}

async fn publish(channel: &lapin::Channel, number: u32, reply_queue: &str) {
    let properties = BasicProperties::default()
        .with_message_id(format!("lapin-{number}").into())
        .with_correlation_id(number.to_string().into())
        .with_reply_to(reply_queue.into());
    let options = BasicPublishOptions::default();
    let key = key(u64::from(number));
    channel
        .basic_publish(
            HISTORY_EXCHANGE.into(),
            key.into(),
            options,
            b"{}",
            properties,
        )
        .await
        .expect("the broker takes it");
}

/// Intended publish to reply, by lapin.
async fn lapin_times(url: &str) -> Vec<Duration> {
    let connection = lapin::Connection::connect(url, ConnectionProperties::default()).await;
    let connection = connection.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default());
    let queue = queue.await.expect("a queue").name().to_string();
    let unacked = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let replies = channel.basic_consume(
        queue.as_str().into(),
        "".into(),
        unacked,
        FieldTable::default(),
    );
    let replies = replies.await.expect("a consumer");
    let start = Instant::now() + Duration::from_millis(50);
    let publishing = async {
        for number in 0..OPERATIONS {
            tokio::time::sleep_until(due(start, number).into()).await;
            publish(&channel, number, &queue).await;
        }
    };
    let reading = replies.take(OPERATIONS as usize).map(|reply| {
        let properties = reply.expect("a reply").properties;
        let number = properties.correlation_id().as_ref().expect("ours").as_str();
        due(start, number.parse().expect("a number")).elapsed()
    });
    let ((), times) = futures_util::future::join(publishing, reading.collect()).await;
    times
}

fn lapin_median(url: &str) -> Duration {
    median(runtime().block_on(async {
        let limit = Duration::from_secs(20);
        let times = tokio::time::timeout(limit, lapin_times(url)).await;
        times.expect("each is answered")
    }))
}

fn broker() -> Broker {
    let options = broker::Options {
        purge: true,
        ..broker::Options::from_environment(host::workspace())
    };
    broker::acquire(&options).expect("a broker can be had")
}

#[test]
fn lapin_finds_the_same_amqp_response_times() {
    let broker = broker();
    broker.reset(QueueType::Quorum).expect("the broker is ours");
    let consumer = TruthConsumer::start(&broker.url, DELAY, None).expect(INGEST_QUEUE);
    let amqp = AmqpPlan {
        url: broker.url.clone(),
        id_prefix: "cross-check".to_owned(),
        payload_bytes: 128,
    };
    let plan = LoadPlan {
        amqp: Some((amqp, arrival())),
        ..plan()
    };
    let ours = || own(plan.clone(), Kind::Amqp, "amqp.response");
    assert_agreement(|| (ours(), lapin_median(&broker.url)));
    consumer.stop().expect("the broker stays");
}
