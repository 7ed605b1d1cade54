//! The primitives under the three models: what one hand-over, one guard and one spawn cost.
//!
//! A round trip goes to another thread, task or process and back, so that each figure holds two
//! hand-overs; nothing is pinned, and criterion reports the spread.
//! `cargo bench --bench primitives` runs them; `-- --test` runs each once.

use std::{
    hint::black_box,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};

/// Set in the child of the process round trip: it echoes its standard input.
const ECHO: &str = "THREEWAYS_PRIMITIVES_ECHO";

fn current_thread() -> Runtime {
    Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers needs nothing")
}

/// A mutex that nobody else wants, and one that a second thread takes in a tight loop.
fn guards(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("guard");
    let counter = Mutex::new(0_u64);
    let increment = || *counter.lock().expect("no holder panics") += 1;
    group.bench_function("mutex, uncontended", |bencher| bencher.iter(increment));
    group.bench_function("mutex, against one other thread", |bencher| {
        bencher.iter_custom(|iterations| {
            thread::scope(|scope| {
                scope.spawn(|| (0..iterations).for_each(|_| increment()));
                let start = Instant::now();
                (0..iterations).for_each(|_| increment());
                start.elapsed()
            })
        });
    });
    group.finish();
}

/// Time for `iterations` round trips over bounded crossbeam channels to a thread and back.
fn crossbeam_round_trips(iterations: u64) -> Duration {
    let (to, from_caller) = crossbeam_channel::bounded::<u64>(1);
    let (answer, answers) = crossbeam_channel::bounded::<u64>(1);
    thread::scope(|scope| {
        scope.spawn(move || {
            from_caller
                .iter()
                .for_each(|value| answer.send(value).expect("open"))
        });
        let start = Instant::now();
        for value in 0..iterations {
            to.send(value).expect("the echo listens");
            black_box(answers.recv().expect("the echo answers"));
        }
        let elapsed = start.elapsed();
        drop(to);
        elapsed
    })
}

/// Time for `iterations` round trips over bounded tokio channels to a task on the same thread.
fn tokio_round_trips(iterations: u64) -> Duration {
    let (to, mut from_caller) = tokio::sync::mpsc::channel::<u64>(1);
    let (answer, mut answers) = tokio::sync::mpsc::channel::<u64>(1);
    current_thread().block_on(async move {
        let echo = tokio::spawn(async move {
            while let Some(value) = from_caller.recv().await {
                answer.send(value).await.expect("the caller listens");
            }
        });
        let start = Instant::now();
        for value in 0..iterations {
            to.send(value).await.expect("the echo listens");
            black_box(answers.recv().await.expect("the echo answers"));
        }
        let elapsed = start.elapsed();
        drop(to);
        echo.await.expect("the echo ends with its channel");
        elapsed
    })
}

/// Time for `iterations` round trips of eight bytes through `stream`, whose peer echoes.
fn socket_round_trips(stream: &mut UnixStream, iterations: u64) -> Duration {
    let start = Instant::now();
    for value in 0..iterations {
        let mut bytes = value.to_ne_bytes();
        stream.write_all(&bytes).expect("the echo listens");
        stream.read_exact(&mut bytes).expect("the echo answers");
    }
    start.elapsed()
}

/// Echoes eight bytes at a time until the peer closes.
fn echo(mut stream: UnixStream) {
    let mut bytes = [0; 8];
    while stream.read_exact(&mut bytes).is_ok() {
        stream.write_all(&bytes).expect("the caller listens");
    }
}

/// Time for `iterations` round trips to another process over a Unix socket.
fn process_round_trips(iterations: u64) -> Duration {
    let (mut here, there) = UnixStream::pair().expect("a socket pair");
    let mut child = Command::new(std::env::current_exe().expect("our own path"))
        .env(ECHO, "1")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(there)))
        .spawn()
        .expect("we can start ourselves");
    socket_round_trips(&mut here, 1);
    let elapsed = socket_round_trips(&mut here, iterations);
    drop(here);
    child.wait().expect("the echo ends with its socket");
    elapsed
}

fn round_trips(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round trip");
    group.bench_function("tokio mpsc, task to task", |bencher| {
        bencher.iter_custom(tokio_round_trips);
    });
    group.bench_function("crossbeam channel, thread to thread", |bencher| {
        bencher.iter_custom(crossbeam_round_trips);
    });
    group.bench_function("Unix socket, thread to thread", |bencher| {
        bencher.iter_custom(|iterations| {
            let (mut here, there) = UnixStream::pair().expect("a socket pair");
            thread::scope(|scope| {
                scope.spawn(|| echo(there));
                let elapsed = socket_round_trips(&mut here, iterations);
                drop(here);
                elapsed
            })
        });
    });
    group.bench_function("Unix socket, process to process", |bencher| {
        bencher.iter_custom(process_round_trips);
    });
    group.finish();
}

fn spawns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spawn and join");
    let runtime = current_thread();
    group.bench_function("tokio task", |bencher| {
        bencher.iter(|| runtime.block_on(async { tokio::spawn(async { 1 }).await }));
    });
    group.bench_function("thread", |bencher| {
        bencher.iter(|| thread::spawn(|| 1).join())
    });
    group.bench_function("process", |bencher| {
        bencher.iter(|| {
            Command::new("/bin/true")
                .status()
                .expect("/bin/true exists")
        });
    });
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! {
    name = primitives;
    config = settings();
    targets = guards, round_trips, spawns
}

/// The child of the process round trip, or criterion.
fn run() {
    if std::env::var_os(ECHO).is_some() {
        use std::os::fd::AsFd;
        let input = std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .expect("a descriptor is free");
        echo(UnixStream::from(input));
    } else {
        primitives();
        Criterion::default().configure_from_args().final_summary();
    }
}

criterion_main!(run);
