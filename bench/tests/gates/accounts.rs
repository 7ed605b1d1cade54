//! A subject whose own count is wrong, with a real queue to hold it against.

use std::time::Duration;

use contract::{
    QueueType,
    amqp::{DEAD_LETTER_QUEUE, INGEST_QUEUE},
};
use threeways::{
    amqp::{BasicProperties, Message},
    analyse::gates::judge,
    broker::{self, Broker, Options},
    load::LoadResult,
    record::Conservation,
};

use super::{WINDOW, alone, launch};

/// A node of its own in a workspace of its own.
fn node() -> Broker {
    let root = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("accounts");
    std::fs::create_dir_all(&root).expect("a folder of its own");
    let options = Options {
        root,
        url: None,
        purge: false,
    };
    broker::start_private(&options).expect("RabbitMQ is installed and starts")
}

/// Takes a message and acknowledges it, as a subject does, which may or may not count it.
fn take(broker: &Broker, count: u64) {
    let mut session = broker.session().expect("answers");
    session.consume(INGEST_QUEUE, false).expect("consumes");
    for _ in 0..count {
        let delivery = session.next_delivery(Duration::from_secs(5));
        let delivery = delivery.expect("alive").expect("there are enough");
        session.ack(delivery.delivery_tag, false).expect("acked");
    }
    session.close().expect("closed in order");
}

/// What the gate says if the subject claims to have acknowledged `acked` messages.
fn difference(broker: &Broker, acked: u64) -> (f64, bool) {
    let depth = |queue| u64::from(broker.depth(queue).expect("answers"));
    let mut data = launch(LoadResult::default(), 1.0, WINDOW);
    data.launch.conservation = Some(Conservation {
        published: 3,
        confirmed: 3,
        acked,
        duplicates: 0,
        still_queued: depth(INGEST_QUEUE),
        dead_lettered: depth(DEAD_LETTER_QUEUE),
    });
    let gates = judge(&data, 2, None);
    let gate = gates
        .iter()
        .find(|it| it.name == "confirmed − accounted for");
    let gate = gate.expect("there were messages");
    (gate.value, gate.passed)
}

#[test]
fn a_message_that_was_taken_and_not_counted_is_missed() {
    let _alone = alone();
    let broker = node();
    broker.reset(QueueType::Classic).expect("an empty topology");
    let mut session = broker.session().expect("answers");
    let events = (0..3).map(|n| Message {
        exchange: "brewcast.history".to_owned(),
        routing_key: format!("k-{n}"),
        properties: BasicProperties::default(),
        body: br#"{"key":"k","data":{"v":1}}"#.to_vec(),
    });
    let batch = session.publish_batch(events).expect("confirmed");
    assert_eq!(batch.acked, 3);
    take(&broker, 2);
    assert_eq!(difference(&broker, 2), (0.0, true));
    assert_eq!(difference(&broker, 1), (1.0, false), "one is lost");
    assert_eq!(difference(&broker, 3), (-1.0, false), "one is invented");
    broker.stop();
}
