//! `cargo bench --bench baselines`: each service beside the bare libraries that it is built on.
//!
//! REST: `GET latest` in a closed loop over 16 connections (a ceiling, so no response times).
//! AMQP: drain of a prefilled queue at prefetch 100 and ack batch 32.
//! Probes: p50 of what a library's default once made slow (a lone AMQP message at 100/s, a 20 KB
//! answer on a kept connection) and the time until a burst of 64 fresh connections is answered.
//! Subject on cpu0, everything else on cpu1; the contestants take turns in every round, and the
//! table shows the median over the rounds, the spread, and the ratio to the bare library.
//! `THREEWAYS_ROUNDS` sets the rounds (5), `THREEWAYS_MESSAGES` the length of the queue (50000).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use contract::{QueueType, amqp::INGEST_QUEUE};
use serde::Deserialize;
use threeways::{
    broker::{self, Broker},
    host::{self, awake::Awake},
    http::{Client, Request},
    launch::{self, LaunchPlan, Running},
    load::{AmqpPlan, Arrival, Exchange, Generator, LoadPlan, LoadResult, RestPlan, seed_message},
    record::{Kind, Layout},
    sample::{ProcessTree, drain, watch_drain},
    scenario::RestRequest,
    subject::{self, BuiltSubject},
};

#[path = "turns/figures.rs"]
mod figures;
use figures::{Figure, add, median, number, table};

/// Connections of the closed loop.
const CONNECTIONS: usize = 16;
/// Workers of bare tiny_http: the services' default.
const WORKERS: &str = "4";
const GRACE: Duration = Duration::from_secs(12);

struct Arena {
    broker: Broker,
    subjects: Vec<BuiltSubject>,
    peers: PathBuf,
    scratch: PathBuf,
    messages: u64,
    /// Makes message ids of each prefill its own.
    prefills: u64,
}

fn main() -> Result<()> {
    let rounds = number("THREEWAYS_ROUNDS", 5)?;
    let _awake = Awake::hold();
    let mut arena = Arena::open(number("THREEWAYS_MESSAGES", 50_000)?)?;
    let mut figures: Vec<Figure> = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        arena.rest_round(&mut figures)?;
        arena.ingest_round(&mut figures)?;
        arena.probe_round(&mut figures)?;
    }
    print!("{}", table(&figures));
    Ok(())
}

impl Arena {
    fn open(messages: u64) -> Result<Self> {
        let root = host::workspace();
        let mut broker = broker::acquire(&broker::Options::from_environment(root.clone()))?;
        if let Some(cpu) = host::instrument_cpu(Layout::Isolated) {
            broker.pin(&[cpu])?;
        }
        let all = subject::read_all(&root.join("bench/subjects"))?;
        let chosen = subject::select(&all, &[])?;
        let subjects = chosen
            .iter()
            .map(|subject| subject.build(&root))
            .collect::<Result<_, _>>()?;
        let peers = build_peers(&root)?;
        let scratch = peers.join("baselines");
        std::fs::create_dir_all(&scratch)?;
        Ok(Self {
            broker,
            subjects,
            peers,
            scratch,
            messages,
            prefills: 0,
        })
    }

    fn plan(&self, name: &str, executable: PathBuf, args: &[&str]) -> LaunchPlan {
        LaunchPlan {
            name: name.to_owned(),
            executable,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            environment: BTreeMap::new(),
            cpus: host::subject_cpus(Layout::Isolated),
            stderr: self.scratch.join(format!("{name}.log")),
            ready_within: GRACE,
        }
    }

    fn service(&self, subject: &BuiltSubject, profile: &str) -> Result<Running> {
        let args: Vec<&str> = subject.subject.args.iter().map(String::as_str).collect();
        let mut plan = self.plan(&subject.subject.name, subject.executable.clone(), &args);
        plan.environment = [
            ("BC_HTTP_ADDR", "127.0.0.1:0"),
            ("BC_AMQP_URL", self.broker.url.as_str()),
            ("BC_PROFILE", profile),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        Ok(launch::start(plan)?)
    }

    /// Every service, then the bare libraries with the body that the services gave.
    fn rest_round(&mut self, figures: &mut Vec<Figure>) -> Result<()> {
        let mut body = String::new();
        for subject in &self.subjects {
            self.broker.reset(QueueType::Quorum)?;
            let mut running = self.service(subject, "shared")?;
            running.await_ready()?;
            body = self.seed(&running)?;
            let beside = if subject.subject.model == "async" {
                "axum"
            } else {
                "tiny_http"
            };
            let rate = ceiling(&running)?;
            end(running)?;
            add(
                figures,
                &subject.subject.name,
                beside,
                "REST latest, requests/s",
                rate,
            );
        }
        for (name, args) in [
            ("axum", vec![body.as_str()]),
            ("tiny_http", vec![&body, WORKERS]),
        ] {
            let executable = self.peers.join(format!("bare-{}", name.replace('_', "-")));
            let running = launch::start(self.plan(name, executable, &args))?;
            let rate = ceiling(&running)?;
            // A bare library knows no orderly end: the signal ends it.
            let _ = running.stop(GRACE);
            add(figures, name, "", "REST latest, requests/s", rate);
        }
        Ok(())
    }

    /// Publishes one event to each key and returns the answer for the first.
    fn seed(&self, running: &Running) -> Result<String> {
        let mut session = self.broker.session()?;
        session.publish_batch(
            (0..threeways::load::KEYS).map(|seq| seed_message(&self.events(), seq)),
        )?;
        let path = format!(
            "/api/v1/latest/{}",
            threeways::load::key(threeways::load::KEYS - 1)
        );
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            let (status, _) = running.get(&path)?;
            if status == 200 {
                return Ok(running
                    .get(&format!("/api/v1/latest/{}", threeways::load::key(0)))?
                    .1);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        anyhow::bail!("the seeded keys never became visible")
    }

    fn events(&self) -> AmqpPlan {
        AmqpPlan {
            url: self.broker.url.clone(),
            id_prefix: format!("baseline-{}", self.prefills),
            payload_bytes: 128,
        }
    }

    fn prefill(&mut self) -> Result<()> {
        self.broker.reset(QueueType::Quorum)?;
        self.prefills += 1;
        let plan = self.events();
        let messages = (0..self.messages).map(|seq| seed_message(&plan, seq));
        let batch = self.broker.session()?.publish_batch(messages)?;
        ensure!(
            batch.acked == self.messages,
            "only {} messages were confirmed",
            batch.acked
        );
        Ok(())
    }

    fn ingest_round(&mut self, figures: &mut Vec<Figure>) -> Result<()> {
        for name in ["lapin", "amiquip"] {
            self.prefill()?;
            let bare = self.bare_drain(name)?;
            add(
                figures,
                name,
                "",
                "AMQP ingest, messages/s",
                bare.messages_per_s,
            );
            add(
                figures,
                name,
                "",
                "AMQP ingest, CPU µs/message",
                bare.cpu_us_per_message,
            );
        }
        for subject in self.subjects.clone() {
            self.prefill()?;
            let running = self.service(&subject, "isolated")?;
            let mut tree = ProcessTree::new(running.root());
            let limits = (Duration::from_millis(20), Duration::from_secs(60));
            let (start, stop) = (Instant::now(), AtomicBool::new(false));
            let (readings, _) = watch_drain(
                running.address(),
                &mut tree,
                self.messages,
                start,
                limits,
                &stop,
            );
            end(running)?;
            let drain = drain(&readings, self.messages);
            let beside = if subject.subject.model == "async" {
                "lapin"
            } else {
                "amiquip"
            };
            let counted = drain.counted as f64;
            let rate = counted / drain.counted_s;
            let cpu_us = drain.counted_cpu_ns as f64 / 1e3 / counted;
            add(
                figures,
                &subject.subject.name,
                beside,
                "AMQP ingest, messages/s",
                rate,
            );
            add(
                figures,
                &subject.subject.name,
                beside,
                "AMQP ingest, CPU µs/message",
                cpu_us,
            );
        }
        Ok(())
    }

    fn probe_round(&mut self, figures: &mut Vec<Figure>) -> Result<()> {
        for subject in self.subjects.clone() {
            self.broker.reset(QueueType::Quorum)?;
            let mut running = self.service(&subject, "shared")?;
            running.await_ready()?;
            let name = &subject.subject.name;
            add(
                figures,
                name,
                "",
                "AMQP echo at 100/s, p50 ms",
                self.echo_ms()?,
            );
            let address = running.address();
            add(
                figures,
                name,
                "",
                "20 KB answer on a kept connection, p50 ms",
                large_ms(address)?,
            );
            add(
                figures,
                name,
                "",
                "64 fresh connections answered, ms",
                burst_ms(address)?,
            );
            end(running)?;
        }
        Ok(())
    }

    /// Median response time of lone events with a reply.
    fn echo_ms(&mut self) -> Result<f64> {
        self.prefills += 1;
        let generator = Generator::prepare(LoadPlan {
            rest: None,
            amqp: Some((
                self.events(),
                Arrival::Constant {
                    rate_per_s: 100.0,
                    phase: 0.0,
                },
            )),
            warm_up: Duration::from_millis(500),
            window: Duration::from_secs(3),
            timeout: Duration::from_secs(2),
            cpu: host::instrument_cpu(Layout::Isolated),
        })?;
        let result = drive(generator);
        ensure!(result.faults.is_empty(), "{:?}", result.faults);
        Ok(result.histograms["amqp.response"].value_at_quantile(0.5) as f64 / 1e6)
    }

    fn bare_drain(&self, name: &str) -> Result<BareDrain> {
        let messages = self.messages.to_string();
        let url = self.broker.url.as_str();
        let mut command = Command::new(self.peers.join(format!("bare-{name}")));
        command.args([url, INGEST_QUEUE, "100", "32", &messages]);
        let cpus = host::subject_cpus(Layout::Isolated);
        let output = host::with_cpus(cpus.as_deref(), || command.output())??;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// What a bare client loop prints.
#[derive(Deserialize)]
struct BareDrain {
    messages_per_s: f64,
    cpu_us_per_message: f64,
}

fn build_peers(root: &Path) -> Result<PathBuf> {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--package",
            "threeways",
            "--examples",
        ])
        .current_dir(root)
        .status()?;
    ensure!(status.success(), "the bare libraries do not build");
    let own = std::env::current_exe()?;
    let release = own
        .ancestors()
        .find(|path| path.ends_with("release"))
        .context("no release folder")?;
    Ok(release.join("examples"))
}

/// Stops a service, which must end in order.
fn end(running: Running) -> Result<()> {
    let faults = running.stop(GRACE).faults;
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// Runs the load shortly after now.
fn drive(generator: Generator) -> LoadResult {
    let start = Instant::now() + Duration::from_millis(10);
    generator.run_apart(start, &AtomicBool::new(false))
}

/// Median time of an answer of about 20 KB.
fn large_ms(address: SocketAddr) -> Result<f64> {
    let fields: Vec<String> = (0..900)
        .map(|n| format!(r#""field-number-{n:03}":1.5"#))
        .collect();
    let body = format!("{{{}}}", fields.join(","));
    let request = Request::post("/api/v1/flatten", body.as_bytes());
    let mut client = Client::connect(address, GRACE)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        let response = client.exchange(&request)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        let length = response.text().len();
        ensure!(
            response.status == 200 && length > 18_000,
            "{} with {length} bytes",
            response.status
        );
    }
    Ok(median(&times))
}

/// Time until every one of 64 connections, opened at once, has its answer.
fn burst_ms(address: SocketAddr) -> Result<f64> {
    let start = Instant::now();
    let clients = (0..64).map(|_| Client::connect(address, GRACE));
    let mut clients = clients.collect::<Result<Vec<_>, _>>()?;
    for client in &mut clients {
        let status = client.exchange(&Request::new("GET", "/healthz"))?.status;
        ensure!(status == 200, "a fresh connection was answered {status}");
    }
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Correct answers per second in a closed loop.
fn ceiling(running: &Running) -> Result<f64> {
    let address = running.address();
    let window = Duration::from_secs(2);
    let generator = Generator::prepare(LoadPlan {
        rest: Some(RestPlan {
            address,
            // One key, so that the bare library's fixed body is a right answer, too.
            turns: Exchange::turns(&[RestRequest::Latest], address)[..1].to_vec(),
            connections: CONNECTIONS,
            arrival: None,
        }),
        amqp: None,
        warm_up: Duration::from_millis(500),
        window,
        timeout: Duration::from_secs(2),
        cpu: host::instrument_cpu(Layout::Isolated),
    })?;
    let result = drive(generator);
    let counts = &result.operations[&Kind::Rest];
    ensure!(
        counts.wrong + counts.failed + counts.timed_out == 0,
        "{counts:?} {:?}",
        result.faults
    );
    Ok(counts.ok as f64 / window.as_secs_f64())
}
