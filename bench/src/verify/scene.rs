//! A launched subject, and how cases talk to it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use contract::{
    QueueType,
    amqp::{CONTENT_TYPE, HISTORY_EXCHANGE, PERSISTENT},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    amqp::{BasicProperties, DIRECT_REPLY_TO, Message, Session},
    http::{self, Client, Request, Response},
    launch::{self, LaunchError, LaunchPlan, Running},
    sample::members,
};

use super::{Context, Target, case::eventually};

/// Deadline of one HTTP exchange: longer than the contract's handler timeout of 5 s.
const HTTP_LIMIT: Duration = Duration::from_secs(8);
/// Longest start.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// Longest stop: the contract's grace of 10 s and some.
const STOP_LIMIT: Duration = Duration::from_secs(12);
/// Longest life of a process whose service has ended.
const ORPHAN_LIMIT: Duration = Duration::from_millis(500);
/// Longest wait for a message.
pub(super) const MESSAGE_LIMIT: Duration = Duration::from_secs(5);
/// An address of the broker where nobody listens.
pub(super) const NO_BROKER: &str = "amqp://guest:guest@127.0.0.1:1/%2f";

/// A subject that runs; dropping it kills it.
#[derive(Debug)]
pub(super) struct Scene {
    running: Running,
    /// Where it listens.
    pub address: SocketAddr,
    stderr: PathBuf,
}

impl Scene {
    /// Starts the subject with further `BC_` variables and waits until it is ready.
    pub(super) fn start(context: &Context<'_>, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut scene = Self::start_unready(context, env)?;
        scene.running.await_ready()?;
        Ok(scene)
    }

    /// The same with empty queues.
    pub(super) fn start_empty(context: &Context<'_>, env: &[(&str, &str)]) -> anyhow::Result<Self> {
        context.broker.reset(QueueType::Quorum)?;
        Self::start(context, env)
    }

    /// Starts the subject and waits until its port is open.
    pub(super) fn start_unready(
        context: &Context<'_>,
        env: &[(&str, &str)],
    ) -> Result<Self, LaunchError> {
        let broker = [("BC_AMQP_URL", context.broker.url.as_str())];
        Self::launch(plan(&context.target, &[&broker[..], env].concat()))
    }

    /// Starts the subject without a broker and waits until its port is open.
    pub(super) fn start_apart(target: &Target, env: &[(&str, &str)]) -> Result<Self, LaunchError> {
        Self::launch(plan(target, env))
    }

    /// Starts the subject without a broker, with further arguments.
    pub(super) fn start_with(
        target: &Target,
        env: &[(&str, &str)],
        args: &[&str],
    ) -> Result<Self, LaunchError> {
        let mut plan = plan(target, env);
        plan.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        Self::launch(plan)
    }

    fn launch(plan: LaunchPlan) -> Result<Self, LaunchError> {
        let stderr = plan.stderr.clone();
        let running = launch::start(plan)?;
        let address = running.address();
        Ok(Self {
            running,
            address,
            stderr,
        })
    }

    /// Stops it with SIGTERM: it must exit with 0 in time and leave no process behind.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        let stopped = self.running.stop(STOP_LIMIT);
        ensure!(stopped.faults.is_empty(), "{}", stopped.faults.join("; "));
        Ok(())
    }

    /// Waits for the end of a service that was told to end, and of all its processes; returns its
    /// exit code.
    pub(super) fn await_exit(&mut self, limit: Duration) -> anyhow::Result<i32> {
        let mut code = None;
        eventually("it ends", limit, || {
            self.living();
            code = self.exit_code();
            Ok(code.is_some())
        })?;
        eventually("no process is left", ORPHAN_LIMIT, || {
            Ok(self.living().is_empty())
        })?;
        code.context("waited for above")
    }

    /// Waits for the end of a service that was told to end: with this exit code.
    pub(super) fn ends_with(mut self, code: u8, limit: Duration) -> anyhow::Result<()> {
        let seen = self.await_exit(limit)?;
        ensure!(
            seen == i32::from(code),
            "exit code {seen} instead of {code}; stderr: {}",
            self.stderr()
        );
        Ok(())
    }

    /// Sends SIGTERM and returns at once.
    pub(super) fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends a signal to the launched process, not to its children.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        signal_process(self.root(), signal)
    }

    /// The launched process.
    pub(super) fn root(&self) -> i32 {
        self.running.root()
    }

    /// Every process of it that runs.
    pub(super) fn pids(&self) -> Vec<i32> {
        members(self.root())
    }

    /// Every process of it that lives, orphans that were seen before included.
    pub(super) fn living(&mut self) -> Vec<i32> {
        self.running.living()
    }

    /// Its exit code if it ended; 128 after a signal.
    pub(super) fn exit_code(&mut self) -> Option<i32> {
        self.running
            .ended()
            .map(|status| status.code().unwrap_or(128))
    }

    /// The end of what it wrote to stderr.
    pub(super) fn stderr(&self) -> String {
        self.running.stderr_tail()
    }

    /// Everything that it wrote to stderr.
    pub(super) fn whole_stderr(&self) -> anyhow::Result<String> {
        let bytes = std::fs::read(&self.stderr)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// One request on a connection of its own.
    pub(super) fn send(&self, request: &Request<'_>) -> anyhow::Result<Response> {
        let response = http::once(self.address, HTTP_LIMIT, request);
        response.with_context(|| format!("{} {}", request.method, request.path))
    }

    /// A `GET`.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Response> {
        self.send(&Request::new("GET", path))
    }

    /// A `POST` of JSON.
    pub(super) fn post(&self, path: &str, body: &str) -> anyhow::Result<Response> {
        self.send(&Request::post(path, body.as_bytes()))
    }

    /// A keep-alive connection.
    pub(super) fn client(&self) -> Result<Client, http::Error> {
        Client::connect(self.address, HTTP_LIMIT)
    }

    /// The value of a metric with its labels, such as `amqp_deliveries_total{outcome="ok"}`.
    pub(super) fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let text = self.get("/metrics")?.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = line.with_context(|| format!("/metrics has no {series}"))?;
        value
            .parse()
            .with_context(|| format!("{series} is {value:?}"))
    }

    /// Deliveries that the subject counted with this outcome.
    pub(super) fn deliveries(&self, outcome: &str) -> anyhow::Result<f64> {
        self.metric(&format!("amqp_deliveries_total{{outcome=\"{outcome}\"}}"))
    }
}

/// Sends a signal to a process of the subject.
pub(super) fn signal_process(pid: i32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid).context("a process number is positive")?;
    kill_process(pid, signal).context("the process is gone")
}

fn plan(target: &Target, env: &[(&str, &str)]) -> LaunchPlan {
    // Sleepers are launched at the same time as others.
    static LAUNCHES: AtomicU32 = AtomicU32::new(0);
    let number = LAUNCHES.fetch_add(1, Ordering::Relaxed);
    let mut environment = BTreeMap::from([
        ("BC_HTTP_ADDR".to_owned(), "127.0.0.1:0".to_owned()),
        ("BC_AMQP_URL".to_owned(), NO_BROKER.to_owned()),
        ("BC_PROFILE".to_owned(), "shared".to_owned()),
        ("BC_NAME".to_owned(), "verified".to_owned()),
    ]);
    for (name, value) in env {
        environment.insert((*name).to_owned(), (*value).to_owned());
    }
    LaunchPlan {
        name: target.name.clone(),
        executable: target.executable.clone(),
        args: target.args.clone(),
        environment,
        cpus: None,
        stderr: target
            .scratch
            .join(format!("{}-{number}.stderr", target.name)),
        ready_within: READY_LIMIT,
    }
}

/// A sensor event of `key` with the id `id`.
pub(super) fn event(key: &str, id: &str, data: &Value) -> Message {
    let body = serde_json::json!({ "key": key, "data": data });
    Message {
        exchange: HISTORY_EXCHANGE.to_owned(),
        routing_key: key.to_owned(),
        properties: BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(id.into()),
        body: body.to_string().into_bytes(),
    }
}

/// A session that publishes events and gets the subject's replies to them.
#[derive(Debug)]
pub(super) struct Asker {
    session: Session,
}

impl Asker {
    /// Consumes from the direct reply-to queue.
    pub(super) fn new(context: &Context<'_>) -> anyhow::Result<Self> {
        let mut session = context.broker.session()?;
        session.consume(DIRECT_REPLY_TO, true)?;
        Ok(Self { session })
    }

    /// Publishes an event and waits for the reply that tells that its effect is visible.
    pub(super) fn ask(&mut self, message: &Message) -> anyhow::Result<Value> {
        let id = message.properties.message_id().clone().unwrap_or_default();
        self.session.publish_unconfirmed(&asking(message))?;
        let reply = self.session.next_delivery(MESSAGE_LIMIT)?;
        let reply = reply.with_context(|| format!("no reply to {id} within {MESSAGE_LIMIT:?}"))?;
        let correlation = reply
            .properties
            .correlation_id()
            .clone()
            .unwrap_or_default();
        ensure!(
            correlation == id,
            "the reply to {id} has correlation id {correlation}"
        );
        Ok(serde_json::from_slice(&reply.body)?)
    }
}

impl Asker {
    /// Publishes an event and waits until its effect is visible.
    pub(super) fn store(&mut self, key: &str, id: &str, data: &Value) -> anyhow::Result<()> {
        let reply = self.ask(&event(key, id, data))?;
        ensure!(reply["outcome"] == "ok", "the reply to {id} is {reply}");
        Ok(())
    }

    /// Publishes an event, to which no reply need come; whether any reply came within `limit`.
    pub(super) fn answers_within(
        &mut self,
        message: &Message,
        limit: Duration,
    ) -> anyhow::Result<bool> {
        self.session.publish_unconfirmed(&asking(message))?;
        Ok(self.session.next_delivery(limit)?.is_some())
    }
}

/// The message with a request for a reply that has the message's id.
pub(super) fn asking(message: &Message) -> Message {
    let id = message.properties.message_id().clone().unwrap_or_default();
    let mut message = message.clone();
    message.properties = message
        .properties
        .with_reply_to(DIRECT_REPLY_TO.into())
        .with_correlation_id(id);
    message
}
