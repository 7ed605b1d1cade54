//! Gates that fire because of what really happened: an overloaded generator, a frozen server, a
//! liar, a noisy neighbour. What the numbers mean is tested where the gates are.

#[path = "gates/accounts.rs"]
mod accounts;
#[path = "gates/disturbed.rs"]
mod disturbed;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use threeways::{
    analyse::{
        LaunchData,
        gates::{Standing, judge, standing},
    },
    host::Reading,
    load::{Arrival, Exchange, Generator, LoadPlan, LoadResult, RestPlan},
    record::{HostDuring, Kind, Launch, Layout, Resources},
    run_dir::{Intervals, RunDir},
    scenario::RestRequest,
    truth::{Behaviour, Freeze, TruthServer},
};

const WINDOW: Duration = Duration::from_millis(600);
/// Window of a generator that cannot keep up: it has to count each of its operations all the same.
const BRIEF: Duration = Duration::from_millis(100);
/// Operations per second that no loop can send.
const TOO_MANY_PER_S: f64 = 5e6;
const CONNECTIONS: usize = 16;

/// One load at a time: what disturbs one on purpose must not disturb the others.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_LOAD: Mutex<()> = Mutex::new(());
    ONE_LOAD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plan(address: SocketAddr, rate_per_s: f64, window: Duration, timeout: Duration) -> LoadPlan {
    LoadPlan {
        rest: Some(RestPlan {
            address,
            turns: Exchange::turns(&[RestRequest::Flatten], address),
            connections: CONNECTIONS,
            arrival: Some(Arrival::Constant {
                rate_per_s,
                phase: 0.0,
            }),
        }),
        amqp: None,
        // The window opens with the first send, so that whoever saw one disturbs the window.
        warm_up: Duration::ZERO,
        window,
        timeout,
        cpu: None,
    }
}

fn prepare(address: SocketAddr, rate_per_s: f64, window: Duration, timeout: Duration) -> Generator {
    let plan = plan(address, rate_per_s, window, timeout);
    Generator::prepare(plan).expect("the server listens")
}

/// The launch that a load amounts to, on a host where nothing else happened.
fn launch(load: LoadResult, rate_per_s: f64, window: Duration) -> LaunchData {
    LaunchData {
        launch: Launch {
            ordinal: 0,
            block: 0,
            cell: "gates".into(),
            subject: "truth".into(),
            layout: Layout::Native,
            command: vec![],
            environment: BTreeMap::new(),
            ready_s: 0.0,
            stop_s: 0.0,
            turns: 1,
            window_s: window.as_secs_f64(),
            arrival_rate_per_s: BTreeMap::from([(Kind::Rest, rate_per_s)]),
            poisson: vec![],
            operations: load.operations,
            resources: Resources::default(),
            drain: None,
            conservation: None,
            generator: load.generator,
            host: HostDuring::default(),
            pinning: None,
            sampler_ratio: None,
            faults: load.faults,
        },
        histograms: load.histograms,
        slices: BTreeMap::new(),
        samples: vec![],
    }
}

/// What the launch is, and the gates that it failed.
fn judged(data: &LaunchData) -> (Standing, Vec<String>) {
    let gates = judge(data, 2, None);
    let failed = gates.iter().filter(|gate| !gate.passed);
    (
        standing(&gates),
        failed.map(|gate| gate.name.clone()).collect(),
    )
}

fn load_null(
    rate_per_s: f64,
    window: Duration,
    timeout: Duration,
    freeze: Option<Freeze>,
) -> LaunchData {
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let generator = prepare(server.address(), rate_per_s, window, timeout);
    let start = Instant::now();
    if let Some(freeze) = freeze {
        server.freeze(start, freeze);
    }
    let load = generator.run_apart(start, &AtomicBool::new(false));
    server.stop().expect("no fault");
    launch(load, rate_per_s, window)
}

#[test]
fn a_generator_that_is_asked_for_too_much_is_busy() {
    let _alone = alone();
    let data = load_null(TOO_MANY_PER_S, BRIEF, Duration::from_secs(1), None);
    let (standing, failed) = judged(&data);
    assert_eq!(standing, Standing::Invalid);
    // On a crowded machine it gets less of a core than the gate allows, and another gate says so.
    let waits = failed.iter().any(|it| it == "generator waiting for a core");
    let is_busy = failed.iter().any(|it| it == "generator busy");
    assert!(is_busy || waits, "{failed:?}");
    let generator = &data.launch.generator;
    let wanted = generator.busy_ratio + generator.wait_ratio;
    assert!(wanted > 0.7, "{generator:?}");
}

#[test]
fn a_send_that_is_missed_is_counted() {
    let _alone = alone();
    let data = load_null(TOO_MANY_PER_S, BRIEF, Duration::from_millis(10), None);
    let counts = &data.launch.operations[&Kind::Rest];
    assert!(counts.not_sent > 0, "{counts:?}");
    let (standing, failed) = judged(&data);
    assert_eq!(standing, Standing::Invalid);
    assert!(
        failed.iter().any(|it| it == "REST issued/planned"),
        "{failed:?}"
    );
}

#[test]
fn a_server_that_freezes_makes_timeouts_and_nothing_is_dropped() {
    let _alone = alone();
    let freeze = Freeze {
        start_ns: 200_000_000,
        end_ns: 600_000_000,
    };
    let data = load_null(1_000.0, WINDOW, Duration::from_millis(100), Some(freeze));
    let counts = &data.launch.operations[&Kind::Rest];
    assert_eq!(counts.planned, 600);
    let (standing, failed) = judged(&data);
    assert_eq!(standing, Standing::Invalid);
    assert!(failed.iter().any(|it| it == "REST timed out"), "{failed:?}");
    let lost = "REST recorded − ended".to_owned();
    assert!(!failed.contains(&lost), "{failed:?}");
}

/// The launch as it is read back from its folder, with the course of its times.
fn read_back(data: LaunchData, intervals: &Intervals) -> LaunchData {
    let parent = std::env::temp_dir().join(format!("gates-{}", std::process::id()));
    let run = RunDir::create(&parent, "r1").expect("temporary folder");
    let LaunchData {
        launch, histograms, ..
    } = data;
    let dir = run
        .begin_launch(launch.ordinal, &launch.cell, &launch.subject, launch.block)
        .expect("new folder");
    dir.finish(&launch, (&histograms, intervals), &[])
        .expect("writable");
    let (histograms, slices) = dir.times().expect("just written");
    fs::remove_dir_all(parent).expect("made above");
    LaunchData {
        launch,
        histograms,
        slices,
        samples: vec![],
    }
}

#[test]
fn a_server_that_is_slow_at_first_makes_a_warm_up() {
    let _alone = alone();
    // Twenty parts of 100 ms, of which the first five are slow.
    let window = Duration::from_secs(2);
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let generator = prepare(server.address(), 1_000.0, window, Duration::from_secs(2));
    let start = Instant::now();
    server.freeze(
        start,
        Freeze {
            start_ns: 0,
            end_ns: 500_000_000,
        },
    );
    let load = generator.run_apart(start, &AtomicBool::new(false));
    server.stop().expect("no fault");
    let intervals = load.intervals.clone();
    let data = read_back(launch(load, 1_000.0, window), &intervals);
    let (standing, failed) = judged(&data);
    assert!(standing >= Standing::Disturbed);
    assert!(failed.iter().any(|it| it == "steady state"), "{failed:?}");
}

#[test]
fn equal_gaps_are_no_poisson_process() {
    let _alone = alone();
    let mut data = load_null(1_000.0, WINDOW, Duration::from_secs(2), None);
    let name = "REST gaps from exponential";
    assert!(judge(&data, 2, None).iter().all(|gate| gate.name != name));
    data.launch.poisson = vec![Kind::Rest];
    let (standing, failed) = judged(&data);
    assert_eq!(standing, Standing::Invalid);
    assert!(failed.iter().any(|it| it == name), "{failed:?}");
}

#[test]
fn a_rate_beyond_a_third_of_the_ceiling_is_invalid() {
    let _alone = alone();
    let data = load_null(1_000.0, WINDOW, Duration::from_secs(2), None);
    let fails = |ceiling| {
        let gates = judge(&data, 2, Some(ceiling));
        let name = "REST rate/ceiling of the generator";
        gates.iter().any(|gate| gate.name == name && !gate.passed)
    };
    assert!(fails(2_999.0) && !fails(3_001.0));
}

/// Answers every request with the token of nobody.
fn liar() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || lie(stream));
        }
    });
    address
}

fn lie(mut stream: TcpStream) {
    let body = r#"{"a/b/0":1.0,"a/b/1":1.0,"token":1.0}"#;
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn an_answer_to_another_request_is_no_answer() {
    let _alone = alone();
    let generator = prepare(liar(), 200.0, WINDOW, Duration::from_secs(1));
    let load = generator.run_apart(Instant::now(), &AtomicBool::new(false));
    let (standing, failed) = judged(&launch(load, 200.0, WINDOW));
    assert_eq!(standing, Standing::Invalid);
    assert!(
        failed.iter().any(|it| it == "REST wrong or failed"),
        "{failed:?}"
    );
}

#[test]
fn a_noisy_neighbour_disturbs() {
    let _alone = alone();
    let mut neighbour = Command::new("sh")
        .args(["-c", "while :; do :; done"])
        .stdin(Stdio::null())
        .spawn()
        .expect("every system has a shell");
    let before = Reading::take();
    std::thread::sleep(WINDOW);
    let host = Reading::take().since(&before, &[], &[]);
    neighbour.kill().expect("it runs");
    neighbour.wait().expect("it was killed");
    let mut data = load_null(200.0, WINDOW, Duration::from_secs(2), None);
    data.launch.host = host;
    let (standing, failed) = judged(&data);
    assert!(standing >= Standing::Disturbed);
    assert!(failed.iter().any(|it| it == "foreign CPU"), "{failed:?}");
}
