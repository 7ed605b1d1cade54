//! Launches that are disturbed for real while their window is open.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};
use threeways::{
    analyse::{LaunchData, gates::Standing},
    host::{
        self, Reading,
        pinning::{Look, threads},
    },
    load::{Generator, Live, LoadPlan, LoadResult, Viewer},
    record::{Kind, Pinning},
    truth::{Behaviour, TruthServer},
};

use super::{WINDOW, alone, judged, launch, load_null, plan, prepare};

/// Longest time that anything here is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Name of the test that is a server, for [`server_of_its_own`].
const SERVER: &str = "disturbed::the_server_that_another_test_starts";

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).expect("pids are small")
}

/// A program that is killed at the end, whatever happens.
struct Program(Child);

impl Program {
    fn start(words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::piped());
        Self(command.spawn().expect("util-linux and a shell are there"))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("pids are small")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("not 0");
        kill_process(pid, signal).expect("it lives");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("ours");
    }
}

fn failed(data: &LaunchData) -> Vec<String> {
    judged(data).1
}

/// The load runs on a thread of its own; `meanwhile` is called in the midst of its window, with its
/// thread.
fn load_while(generator: Generator, meanwhile: impl FnOnce(i32)) -> LoadResult {
    let (live, tid) = (Arc::new(Live::default()), AtomicI32::new(0));
    let generator = generator.shown_by(Arc::clone(&live));
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            tid.store(gettid().as_raw_nonzero().get(), Ordering::Release);
            generator.run(Instant::now(), &AtomicBool::new(false))
        });
        let mut viewer = Viewer::new(&live, Instant::now());
        while viewer.view(Instant::now()).send_lag_p99_ns.is_none() && !load.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(WINDOW / 6);
        meanwhile(tid.load(Ordering::Acquire));
        load.join().expect("the generator does not panic")
    })
}

/// Keeps a core busy before everything else: in the real-time class, where that is allowed.
fn spinner(cpu: &str) -> Program {
    let first = ["chrt", "--fifo", "50"];
    let allowed = Command::new(first[0])
        .args(&first[1..])
        .arg("true")
        .output();
    let may = allowed.is_ok_and(|output| output.status.success());
    let spin = ["taskset", "-c", cpu, "sh", "-c", "while :; do :; done"];
    let words: Vec<_> = first.iter().filter(|_| may).chain(&spin).copied().collect();
    Program::start(&words)
}

#[test]
fn a_generator_whose_core_is_taken_is_late_and_waits() {
    let _alone = alone();
    if host::cores() < 2 {
        return; // There is no other core from which to end the spinner.
    }
    host::pin_current_thread(&[0]).expect("cpu 0 exists");
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let plan = LoadPlan {
        cpu: Some(1),
        ..plan(server.address(), 500.0, WINDOW, Duration::from_secs(2))
    };
    let generator = Generator::prepare(plan).expect("the server listens");
    let load = load_while(generator, |_| {
        let spinner = spinner("1");
        thread::sleep(WINDOW / 2);
        drop(spinner);
    });
    server.stop().expect("no fault");
    let data = launch(load, 500.0, WINDOW);
    assert_eq!(judged(&data).0, Standing::Invalid);
    let failed = failed(&data);
    for gate in ["REST send lag", "generator waiting for a core"] {
        assert!(failed.iter().any(|it| it == gate), "{gate}: {failed:?}");
    }
}

#[test]
fn a_generator_whose_cpu_cannot_be_read_makes_the_launch_invalid() {
    let _alone = alone();
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let timeout = Duration::from_secs(2);
    let generator = prepare(server.address(), 200.0, WINDOW, timeout);
    let before = getrlimit(Resource::Nofile);
    let load = load_while(generator, |_| {
        // Nothing can be opened any more, neither what the kernel tells of a thread.
        let none = Rlimit {
            current: Some(0),
            ..before
        };
        setrlimit(Resource::Nofile, none).expect("a limit may be lowered");
    });
    setrlimit(Resource::Nofile, before).expect("it was so before");
    server.stop().expect("no fault");
    let (standing, failed) = judged(&launch(load, 200.0, WINDOW));
    assert_eq!(standing, Standing::Invalid);
    assert!(failed.contains(&"faults".to_owned()), "{failed:?}");
}

#[test]
fn a_generator_that_is_moved_is_told_of_with_its_new_core() {
    let _alone = alone();
    if host::cores() < 2 {
        return;
    }
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let plan = LoadPlan {
        cpu: Some(1),
        ..plan(server.address(), 500.0, WINDOW, Duration::from_secs(2))
    };
    let generator = Generator::prepare(plan).expect("the server listens");
    let mut pinning = Pinning::default();
    let load = load_while(generator, |tid| {
        let look = || Look::at(&[(own_pid(), tid)], Some(&[1]));
        let first = look();
        let mut other = CpuSet::new();
        other.set(0);
        sched_setaffinity(Pid::from_raw(tid), &other).expect("our own thread");
        thread::sleep(WINDOW / 6);
        pinning.generator = Some(first.until(&look(), Some(&[1])));
    });
    server.stop().expect("no fault");
    let mut data = launch(load, 500.0, WINDOW);
    let generator = pinning.generator.clone().expect("it was looked at");
    assert_eq!(generator.strays, 1);
    assert!(
        generator.migrations.is_none_or(|moves| moves > 0),
        "{generator:?}"
    );
    data.launch.pinning = Some(pinning);
    assert!(failed(&data).contains(&"pinning".to_owned()));
}

#[test]
fn a_subject_that_changes_its_own_affinity_after_the_start_is_found_out() {
    let _alone = alone();
    if host::cores() < 2 {
        return;
    }
    // It keeps to its core until it reads a line, and tells when it has let itself go.
    let script = "read line; taskset -pc 0,1 $$ > /dev/null 2>&1; sleep 10 & wait";
    let mut subject = Program::start(&["taskset", "-c", "0", "sh", "-c", script]);
    let pid = subject.pid();
    let look = || Look::at(&threads(&[pid]), Some(&[0]));
    let placed = |first: &Look, last: &Look| {
        let mut data = launch(LoadResult::default(), 1.0, WINDOW);
        let subject = first.until(last, Some(&[0]));
        data.launch.pinning = Some(Pinning {
            subject,
            ..Pinning::default()
        });
        data
    };
    let since = Instant::now();
    // The shell takes the place of `taskset` only when that has pinned itself.
    while !host::is_pinned(pid, &[0]) && since.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    let first = look();
    assert!(!failed(&placed(&first, &look())).contains(&"pinning".to_owned()));
    drop(subject.0.stdin.take());
    while host::is_pinned(pid, &[0]) && since.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(5));
    }
    let data = placed(&first, &look());
    assert!(failed(&data).contains(&"pinning".to_owned()));
    let gates = threeways::analyse::gates::judge(&data, 2, None);
    let gate = gates.iter().find(|gate| gate.name == "pinning");
    assert!(gate.is_some_and(|gate| gate.blames_subject), "{gate:?}");
}

#[test]
fn a_neighbour_that_comes_while_the_window_is_open_disturbs() {
    let _alone = alone();
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    let timeout = Duration::from_secs(2);
    let generator = prepare(server.address(), 200.0, WINDOW, timeout);
    let before = Reading::take();
    let mut neighbour = None;
    let load = load_while(generator, |_| {
        let script = "while :; do :; done";
        neighbour = Some(Program::start(&["sh", "-c", script]));
    });
    let host = Reading::take().since(&before, &[], &[]);
    drop(neighbour);
    server.stop().expect("no fault");
    let mut data = launch(load, 200.0, WINDOW);
    data.launch.host = host;
    let failed = failed(&data);
    assert!(failed.iter().any(|it| it == "foreign CPU"), "{failed:?}");
}

#[test]
#[ignore = "it serves another test, which starts it in a process of its own"]
fn the_server_that_another_test_starts() {
    let server = TruthServer::start(Behaviour::NULL, None).expect("a free port");
    eprintln!("{}", server.address());
    thread::sleep(PATIENCE);
}

/// A null server that can be stopped without stopping this process, and its address.
fn server_of_its_own() -> (Program, Receiver<String>) {
    let this = std::env::current_exe().expect("this program");
    let mut command = Command::new(this);
    command.args(["--exact", SERVER, "--ignored", "--nocapture"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut program = Program(command.spawn().expect("this program runs"));
    let stderr = program.0.stderr.take().expect("piped");
    let (sender, lines) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        lines.for_each(|line| drop(sender.send(line)));
    });
    (program, lines)
}

#[test]
fn a_subject_that_is_stopped_makes_timeouts_and_the_sends_stay_on_time() {
    let _alone = alone();
    let (server, lines) = server_of_its_own();
    let address = lines.recv_timeout(PATIENCE).expect("it tells its address");
    let address = address.trim().parse().expect("an address");
    let generator = prepare(address, 500.0, WINDOW, Duration::from_millis(100));
    let load = load_while(generator, |_| {
        server.signal(Signal::STOP);
        thread::sleep(WINDOW / 2);
        server.signal(Signal::CONT);
    });
    let data = launch(load, 500.0, WINDOW);
    let (standing, failed) = judged(&data);
    assert_eq!(standing, Standing::Invalid);
    assert!(failed.iter().any(|it| it == "REST timed out"), "{failed:?}");
    let counts = &data.launch.operations[&Kind::Rest];
    // Stopped for 300 ms at 500 per second; those of the last 100 ms are answered in time.
    assert!(counts.timed_out > 50, "{counts:?}");
    assert_eq!(counts.planned, 300);
    // A generator that waited for answers would be late with every second operation.
    let lag_ns = data.histograms["rest.send_lag"].value_at_quantile(0.75);
    assert!(lag_ns < 30_000_000, "{lag_ns}");
}

#[test]
fn a_load_that_nobody_disturbs_fires_none_of_these() {
    let _alone = alone();
    let failed = failed(&load_null(200.0, WINDOW, Duration::from_secs(2), None));
    for gate in ["REST timed out", "pinning", "REST wrong or failed"] {
        assert!(!failed.contains(&gate.to_owned()), "{failed:?}");
    }
}
