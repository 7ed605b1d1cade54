//! The broker's life, for real: a private node is started, emptied, restarted and stopped, and
//! every fault is caused.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use contract::{QueueType, amqp::INGEST_QUEUE};
use threeways::{
    amqp::{BasicProperties, Confirm, Message, Session},
    broker::{self, Broker, Error, Options},
    host,
};

/// Folder for the tests' nodes, set when the tests run again as another user.
const ROOT_VARIABLE: &str = "THREEWAYS_TEST_ROOT";

/// Options for a workspace of its own, so that tests do not meet each other's nodes.
fn options(name: &str) -> Options {
    let base = std::env::var_os(ROOT_VARIABLE).map(PathBuf::from);
    let root = base
        .unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into())
        .join(name);
    std::fs::create_dir_all(&root).expect("a folder of its own");
    Options {
        root,
        url: None,
        purge: false,
    }
}

/// One node at a time: each takes some hundred megabytes and every core while it starts.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_NODE: Mutex<()> = Mutex::new(());
    ONE_NODE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn private(name: &str) -> Broker {
    broker::start_private(&options(name)).expect("RabbitMQ is installed and starts")
}

fn event(key: &str) -> Message {
    Message {
        exchange: "brewcast.history".to_owned(),
        routing_key: key.to_owned(),
        properties: BasicProperties::default().with_delivery_mode(2),
        body: br#"{"key":"k","data":{"v":1}}"#.to_vec(),
    }
}

fn publish(broker: &Broker, count: usize) {
    let mut session = broker.session().expect("answers");
    let events = (0..count).map(|n| event(&format!("k-{n}")));
    let batch = session.publish_batch(events).expect("confirmed");
    assert_eq!(
        (batch.acked, batch.nacked, batch.returned),
        (count as u64, 0, 0)
    );
}

fn is_running(pid: i32) -> bool {
    host::parent_and_group(pid).is_some()
}

#[test]
fn rooms_of_one_node_do_not_meet_and_are_found_again() {
    let _alone = alone();
    let broker = private("rooms");
    broker.reset(QueueType::Quorum).expect("empty");
    publish(&broker, 3);
    let rooms = broker.rooms(2).expect("made");
    for room in &rooms {
        room.reset(QueueType::Quorum).expect("empty");
    }
    let mut session = rooms[0].session().expect("answers");
    let events = (0..5).map(|n| event(&format!("k-{n}")));
    assert_eq!(session.publish_batch(events).expect("confirmed").acked, 5);
    let depth = |found: Result<u32, Error>| found.expect("answers");
    assert_eq!(depth(broker.depth(INGEST_QUEUE)), 3);
    assert_eq!(depth(rooms[0].depth(INGEST_QUEUE)), 5);
    assert_eq!(depth(rooms[1].depth(INGEST_QUEUE)), 0);
    let again = broker.rooms(2).expect("known");
    assert_eq!(depth(again[0].depth(INGEST_QUEUE)), 5);
}

#[test]
fn a_private_node_lives_from_start_to_stop() {
    let _alone = alone();
    let mut broker = private("life");
    assert!(broker.is_ours());
    assert!(
        broker.facts.version.starts_with("RabbitMQ "),
        "{}",
        broker.facts.version
    );
    broker.reset(QueueType::Classic).expect("an empty topology");

    // Durable messages survive a restart on the same port.
    publish(&broker, 2_500);
    assert_eq!(broker.depth(INGEST_QUEUE).expect("answers"), 2_500);
    broker.restart().expect("starts again");
    assert_eq!(broker.depth(INGEST_QUEUE).expect("answers"), 2_500);

    // The queue type is changed by deleting the queue, and every reset leaves it empty.
    // Only in this direction: RabbitMQ 3.10 may refuse (541) to declare a quorum queue anew for
    // many seconds after one of its name was deleted, and no run asks for that.
    broker.reset(QueueType::Quorum).expect("other arguments");
    assert_eq!(broker.depth(INGEST_QUEUE).expect("answers"), 0);

    // Only ours are pinned, every thread of them.
    assert!(broker.pin(&[0]).expect("cpu 0 exists"));
    let pids = broker.pids();
    assert!(pids.len() >= 2, "server and port mapper: {pids:?}");
    for pid in &pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("runs");
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    }

    broker.stop();
    for pid in pids {
        assert!(!is_running(pid), "{pid} is left");
    }
}

#[test]
fn a_wrong_password_is_named_and_never_shown() {
    let _alone = alone();
    let broker = private("password");
    let wrong = broker.url.replace("guest:guest", "guest:s3cret");
    let error = Session::connect(&wrong, "test", Duration::from_secs(5)).expect_err("refused");
    assert!(
        error.to_string().contains("wrong name or password"),
        "{error}"
    );

    let mut options = options("password");
    options.url = Some(wrong);
    let Err(error) = broker::acquire(&options) else {
        panic!("a wrong password is an error");
    };
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(
        text.contains("AMQP_URL") && text.contains("refuses user"),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn a_given_url_without_a_broker_is_an_error_and_nothing_is_started() {
    let mut options = options("nobody");
    options.url = Some("amqp://guest:guest@127.0.0.1:1/%2f".to_owned());
    let Err(error) = broker::acquire(&options) else {
        panic!("nobody listens on port 1");
    };
    assert!(matches!(error, Error::Given { .. }), "{error}");
    assert!(!options.root.join("target/broker").exists());
}

#[test]
fn a_foreign_broker_is_not_emptied_unless_told_to() {
    let _alone = alone();
    let node = private("foreign");
    node.reset(QueueType::Quorum).expect("an empty topology");
    publish(&node, 3);

    // The same broker, but given by its URL: not ours.
    let mut options = options("foreign-user");
    options.url = Some(node.url.clone());
    let mut given = broker::acquire(&options).expect("answers");
    assert!(!given.is_ours());
    let error = given
        .reset(QueueType::Quorum)
        .expect_err("three messages would be lost");
    assert!(
        matches!(error, Error::NotEmpty { messages: 3, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("--purge"), "{error}");
    let (ours, seen) = (node.pids(), given.pids());
    assert!(
        ours.iter().any(|pid| seen.contains(pid)),
        "its work counts as the broker's: {ours:?}, {seen:?}"
    );
    assert!(
        !given.pin(&[0]).expect("nothing to do"),
        "nor is it ours to pin"
    );

    options.purge = true;
    let allowed = broker::acquire(&options).expect("answers");
    allowed.reset(QueueType::Quorum).expect("allowed");
    assert_eq!(node.depth(INGEST_QUEUE).expect("answers"), 0);

    options.purge = false;
    let careful = broker::acquire(&options).expect("answers");
    let error = careful
        .reset(QueueType::Classic)
        .expect_err("other arguments");
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}

#[test]
fn a_node_left_by_up_is_found_and_ended_by_down() {
    let _alone = alone();
    let options = options("up");
    if std::net::TcpStream::connect(("127.0.0.1", 5672)).is_ok() {
        return; // Somebody's broker answers, so `up` would not start one.
    }
    let line = broker::up(&options).expect("starts");
    assert!(line.contains("private-node"), "{line}");
    let first = broker::acquire(&options).expect("found");
    let pids = first.pids();
    let second = broker::acquire(&options).expect("a node of its own");
    assert_ne!(first.url, second.url, "two runs never share a node");
    second.stop();
    first.stop();
    assert!(
        pids.iter().all(|pid| is_running(*pid)),
        "a run does not end it"
    );
    assert!(
        broker::up(&options)
            .expect("still up")
            .contains("private-node")
    );
    let status = broker::status(&options);
    assert!(
        status.contains("running") && status.contains("left by up"),
        "{status}"
    );
    let line = broker::down(&options.root).expect("ends");
    assert!(line.contains("ended threeways-"), "{line}");
    assert!(!pids.iter().any(|pid| is_running(*pid)), "{pids:?}");
    assert_eq!(
        broker::down(&options.root).expect("idle"),
        "down: nothing was running"
    );
}

/// The numbers of the processes that the state file of a node below `root` names.
fn node_below(root: &std::path::Path) -> Option<Vec<i32>> {
    let folder = std::fs::read_dir(root.join("target/broker")).ok()?;
    let file = folder.flatten().next()?.path().join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let pid = |what: &str| i32::try_from(state[what]["pid"].as_u64()?).ok();
    Some(vec![pid("epmd")?, pid("server")?])
}

/// A program that does not outlive its test, nor does the node of its workspace.
struct Ended(std::process::Child, PathBuf);

impl Drop for Ended {
    fn drop(&mut self) {
        // Fails if it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
        broker::down(&self.1).expect("there is no container");
    }
}

fn interrupt(program: &std::process::Child) {
    let pid = i32::try_from(program.id()).expect("process ids are positive i32");
    let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
}

#[test]
fn a_second_interrupt_ends_the_program_and_its_node_at_once() {
    let _alone = alone();
    if std::net::TcpStream::connect(("127.0.0.1", 5672)).is_ok() {
        return; // Somebody's broker answers, so the run would not start one.
    }
    let root = options("interrupted").root;
    for folder in ["scenarios", "subjects"] {
        let (from, to) = (
            host::workspace().join("bench").join(folder),
            root.join("bench"),
        );
        std::fs::create_dir_all(&to).expect("a folder of its own");
        let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
        assert!(copied.expect("cp exists").success());
    }
    let program = Command::new(env!("CARGO_BIN_EXE_threeways"))
        .current_dir(&root)
        .args(["run", "--scenario", "idle"])
        .env_remove("AMQP_URL")
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut program = Ended(program.expect("the binary was built"), root.clone());
    let since = Instant::now();
    let pids = loop {
        if let Some(pids) = node_below(&root) {
            break pids;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "no node");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(pids.iter().all(|pid| is_running(*pid)));
    interrupt(&program.0);
    std::thread::sleep(Duration::from_millis(200));
    interrupt(&program.0);
    let status = program.0.wait().expect("our own child");
    assert_eq!(status.code(), Some(130));
    assert!(!pids.iter().any(|pid| is_running(*pid)), "{pids:?}");
    assert!(node_below(&root).is_none(), "nor is its folder left");
}

#[test]
fn a_full_queue_refuses_and_an_unbound_key_comes_back() {
    let _alone = alone();
    let broker = private("confirms");
    broker.reset(QueueType::Quorum).expect("an empty topology");
    let mut session = broker.session().expect("answers");
    assert_eq!(
        session.publish(&event("k")).expect("confirmed"),
        Confirm::Ack
    );
    let mut lost = event("k");
    lost.exchange = String::new();
    lost.routing_key = "no.such.queue".to_owned();
    assert_eq!(
        session.publish(&lost).expect("confirmed"),
        Confirm::Returned
    );
    let error = session.purge("no.such.queue").expect_err("there is none");
    assert_eq!(error.code(), Some(404));
    assert_eq!(session.depth(INGEST_QUEUE).expect("a new channel"), Some(1));

    session.consume(INGEST_QUEUE, false).expect("consumes");
    let delivery = session
        .next_delivery(Duration::from_secs(5))
        .expect("alive")
        .expect("one");
    assert_eq!(delivery.routing_key, "k");
    session.ack(delivery.delivery_tag, false).expect("acked");
    assert_eq!(
        session
            .next_delivery(Duration::from_millis(50))
            .expect("alive"),
        None
    );
    session.delete_queue(INGEST_QUEUE).expect("deleted");
    let error = session
        .next_delivery(Duration::from_secs(5))
        .expect_err("cancelled");
    assert!(error.to_string().contains("cancelled"), "{error}");
    session.close().expect("closed in order");
}

#[test]
fn a_silent_peer_ends_at_the_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let start = Instant::now();
    let url = format!("amqp://guest:guest@{address}/%2f");
    let error = Session::connect(&url, "test", Duration::from_millis(300)).expect_err("silent");
    assert!(error.to_string().contains("did not answer"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_ordinary_user_can_start_a_node() {
    if !rustix::process::geteuid().is_root() {
        return; // The other tests show it then.
    }
    let _alone = alone();
    let folder = std::env::temp_dir().join(format!("threeways-nobody-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let program = folder.join("tests");
    let this = std::env::current_exe().expect("this program");
    std::fs::copy(this, &program).expect("copied to where everybody may read it");
    let chown = Command::new("chown").arg("nobody").arg(&folder).status();
    assert!(chown.expect("chown exists").success());
    let output = Command::new("runuser")
        .args(["-u", "nobody", "--"])
        .arg(&program)
        .args(["--exact", "a_private_node_lives_from_start_to_stop"])
        .env(ROOT_VARIABLE, &folder)
        .current_dir(&folder)
        .output()
        .expect("runuser exists");
    std::fs::remove_dir_all(&folder).expect("removed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}
