//! `cargo bench --bench generators`: the generator beside the load tools that it replaces.
//!
//! Every contestant loads the same null server, which answers at once and has a core of its own;
//! the contestants have the other core, take turns in every round, and use 64 connections.
//! Closed loop: requests per second. Open loop at 5,000 per second, for those that can hold a rate:
//! CPU per request, polling included, and the share of the rate that was achieved. Our own generator
//! also at 10,000 and 100,000 per second: what it achieves and how late it and the answers are.
//! Tools that are not installed are left out; `wrk` and `hey` are Debian packages, `oha` comes with
//! `cargo install oha`, `autocannon` with `npm install -g autocannon`.
//! `THREEWAYS_ROUNDS` sets the rounds (5), `THREEWAYS_WINDOW_S` the length of each load (3).

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use threeways::{
    calibrate::Cores,
    host::{self, awake::Awake},
    load::{Arrival, Exchange, Generator, LoadPlan, LoadResult, RestPlan},
    record::{Kind, Layout},
    sample::ProcessTree,
    scenario::RestRequest,
    truth::{Behaviour, TruthServer},
};

#[path = "turns/figures.rs"]
mod figures;
use figures::{Figure, add, number, table};

/// Connections of every contestant.
const CONNECTIONS: usize = 64;
/// Rate of the open loop per second.
const RATE_PER_S: f64 = 5_000.0;
/// Rates per second at which only our own generator is tried.
const HIGH_RATES_PER_S: [f64; 2] = [1e4, 1e5];
/// Time between two looks at a tool's CPU.
const LOOK: Duration = Duration::from_millis(10);
/// Name of our own generator in the table, which the others are compared with.
const OWN: &str = "threeways";

/// A load tool; `{url}`, `{s}` and `{rate}` in its arguments stand for what they say.
struct Tool {
    name: &'static str,
    closed: &'static [&'static str],
    /// `None` if it cannot hold a rate.
    open: Option<&'static [&'static str]>,
}

const TOOLS: [Tool; 4] = [
    Tool {
        name: "wrk",
        closed: &["-t1", "-c64", "-d{s}s", "{url}"],
        open: None,
    },
    Tool {
        name: "hey",
        closed: &["-cpus", "1", "-c", "64", "-z", "{s}s", "{url}"],
        // Its rate is that of each worker.
        open: Some(&["-cpus", "1", "-c", "10", "-q", "500", "-z", "{s}s", "{url}"]),
    },
    Tool {
        name: "oha",
        closed: &["--no-tui", "-c", "64", "-z", "{s}s", "{url}"],
        open: Some(&[
            "--no-tui",
            "-c",
            "64",
            "-q",
            "{rate}",
            "--latency-correction",
            "-z",
            "{s}s",
            "{url}",
        ]),
    },
    Tool {
        name: "autocannon",
        closed: &["-j", "-c", "64", "-d", "{s}", "{url}"],
        open: Some(&["-j", "-c", "64", "-R", "{rate}", "-d", "{s}", "{url}"]),
    },
];

/// What a contestant did.
struct Done {
    rate_per_s: f64,
    cpu_us: f64,
}

/// The metrics of our own generator at a high rate.
const AT_HIGH_RATES: [[&str; 3]; 2] = [
    [
        "10,000/s, achieved/asked",
        "10,000/s, send lag p99, µs",
        "10,000/s, response p99, µs",
    ],
    [
        "100,000/s, achieved/asked",
        "100,000/s, send lag p99, µs",
        "100,000/s, response p99, µs",
    ],
];

fn main() -> Result<()> {
    let rounds = number("THREEWAYS_ROUNDS", 5)?;
    let window = Duration::from_secs(number("THREEWAYS_WINDOW_S", 3)?);
    let cores = Cores::of(Layout::Isolated);
    let _awake = Awake::hold();
    let server = TruthServer::start(Behaviour::NULL, cores.server)?;
    let tools: Vec<&Tool> = TOOLS.iter().filter(|tool| is_installed(tool)).collect();
    let mut figures = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for rate_per_s in [None, Some(RATE_PER_S)] {
            let own = generate(server.address(), rate_per_s, window, cores)?;
            note(&mut figures, OWN, "", rate_per_s, &own);
            for tool in &tools {
                if let Some(done) = tool.run(server.address(), rate_per_s, window, cores)? {
                    note(&mut figures, tool.name, OWN, rate_per_s, &done);
                }
            }
        }
        try_high_rates(&mut figures, server.address(), window, cores)?;
    }
    server.stop()?;
    print!("{}", table(&figures));
    Ok(())
}

/// Our own generator where no other tool keeps up.
fn try_high_rates(
    figures: &mut Vec<Figure>,
    address: SocketAddr,
    window: Duration,
    cores: Cores,
) -> Result<()> {
    for (rate_per_s, [achieved, lag, response]) in HIGH_RATES_PER_S.into_iter().zip(AT_HIGH_RATES) {
        let result = load(address, Some(rate_per_s), window, cores)?;
        let counts = &result.operations[&Kind::Rest];
        let p99_us = |tag: &str| result.histograms[tag].value_at_quantile(0.99) as f64 / 1e3;
        add(
            figures,
            OWN,
            "",
            achieved,
            counts.ok as f64 / counts.planned as f64,
        );
        add(figures, OWN, "", lag, p99_us("rest.send_lag"));
        add(figures, OWN, "", response, p99_us("rest.response"));
    }
    Ok(())
}

fn is_installed(tool: &Tool) -> bool {
    let started = Command::new(tool.name)
        .arg("--help")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if started.is_err() {
        eprintln!("{} is not installed and left out", tool.name);
    }
    started.is_ok()
}

fn note(
    figures: &mut Vec<Figure>,
    contestant: &str,
    beside: &'static str,
    rate_per_s: Option<f64>,
    done: &Done,
) {
    match rate_per_s {
        None => add(
            figures,
            contestant,
            beside,
            "closed loop, requests/s",
            done.rate_per_s,
        ),
        Some(rate_per_s) => {
            let achieved = done.rate_per_s / rate_per_s;
            add(
                figures,
                contestant,
                beside,
                "5,000/s, achieved/asked",
                achieved,
            );
            add(
                figures,
                contestant,
                beside,
                "5,000/s, CPU µs/request",
                done.cpu_us,
            );
        }
    }
}

/// Our own generator; its CPU holds the polling before each send.
fn generate(
    address: SocketAddr,
    rate_per_s: Option<f64>,
    window: Duration,
    cores: Cores,
) -> Result<Done> {
    let result = load(address, rate_per_s, window, cores)?;
    let ok = result.operations[&Kind::Rest].ok as f64;
    let used = result.generator.busy_ratio + result.generator.polling_ratio;
    Ok(Done {
        rate_per_s: ok / window.as_secs_f64(),
        cpu_us: used * window.as_secs_f64() * 1e6 / ok,
    })
}

fn load(
    address: SocketAddr,
    rate_per_s: Option<f64>,
    window: Duration,
    cores: Cores,
) -> Result<LoadResult> {
    let generator = Generator::prepare(LoadPlan {
        rest: Some(RestPlan {
            address,
            turns: Exchange::turns(&[RestRequest::Latest], address),
            connections: CONNECTIONS,
            arrival: rate_per_s.map(|rate_per_s| Arrival::Constant {
                rate_per_s,
                phase: 0.0,
            }),
        }),
        amqp: None,
        warm_up: Duration::from_millis(300),
        window,
        timeout: Duration::from_secs(2),
        cpu: cores.generator,
    })?;
    let result = generator.run_apart(Instant::now(), &AtomicBool::new(false));
    anyhow::ensure!(result.faults.is_empty(), "{:?}", result.faults);
    Ok(result)
}

impl Tool {
    /// Runs the tool; `None` if it cannot hold a rate that is asked for.
    fn run(
        &self,
        address: SocketAddr,
        rate_per_s: Option<f64>,
        window: Duration,
        cores: Cores,
    ) -> Result<Option<Done>> {
        let args = match rate_per_s {
            None => self.closed,
            Some(_) => match self.open {
                Some(args) => args,
                None => return Ok(None),
            },
        };
        let url = format!("http://{address}/api/v1/latest/bench-0");
        let (seconds, rate) = (window.as_secs(), rate_per_s.unwrap_or_default());
        let fill = |arg: &&str| {
            arg.replace("{url}", &url)
                .replace("{s}", &seconds.to_string())
                .replace("{rate}", &rate.to_string())
        };
        let mut command = Command::new(self.name);
        command
            .args(args.iter().map(fill))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let cpus = cores.generator.map(|cpu| vec![cpu]);
        let mut child = host::with_cpus(cpus.as_deref(), || command.spawn())??;
        let mut tree = ProcessTree::new(i32::try_from(child.id())?);
        let mut cpu_ns = 0;
        while child.try_wait()?.is_none() {
            // Threads that have ended keep what was last seen of them.
            cpu_ns = tree.cpu_ns();
            std::thread::sleep(LOOK);
        }
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let rate_per_s = rate_in(&text)
            .with_context(|| format!("{} does not tell its rate: {text}", self.name))?;
        let requests = rate_per_s * window.as_secs_f64();
        Ok(Some(Done {
            rate_per_s,
            cpu_us: cpu_ns as f64 / 1e3 / requests,
        }))
    }
}

/// Requests per second as `wrk`, `hey` and `oha` print them, or as the JSON of `autocannon` has them.
fn rate_in(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    if let Some(rate) = line {
        return rate.trim().parse().ok();
    }
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    json["requests"]["average"].as_f64()
}
