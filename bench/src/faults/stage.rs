//! What a fault happens to: a subject under load, with its broker and its device.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use contract::shapes::{SeriesAnswer, SeriesQuery};

use super::account::{Excuse, Testimony};
use super::journal::{Id, KEYS, Source};
use super::load::Load;
use crate::amqp::Url;
use crate::broker::{Broker, Origin};
use crate::device::Simulator;
use crate::http::{self, Request};
use crate::launch::{self, LaunchPlan, Running, Stopped};
use crate::proxy::Proxy;
use crate::sample::{ProcessTree, Sampler, members, read_metric};
use crate::subject::{BuiltSubject, tail};

/// Name of the instance, and with it part of the names of its connections to the broker.
pub(super) const NAME: &str = "faults";
/// Wait of the device before each answer.
pub(super) const DEVICE_LATENCY: Duration = Duration::from_millis(5);
/// Longest time from launch to ready.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// Longest time from SIGTERM to the end: the contract's grace and a margin.
const STOP_WITHIN: Duration = Duration::from_secs(12);
/// Deadline of one question beside the load.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Lines of the stderr of a service that died.
const QUOTED_LINES: usize = 3;
/// Points that the service keeps per field: more than a repetition publishes per key.
const SERIES_POINTS: usize = 2_000;

/// Why a fault cannot be tried here; it is nobody's fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Skip(pub(super) String);

/// What a fault may change before the launch.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    pub(super) broker: &'a Broker,
    /// Model of the subject, such as `multi-process`.
    pub(super) model: &'a str,
    /// Further `BC_` variables.
    pub(super) environment: BTreeMap<String, String>,
    /// Whether the subject reaches its broker through a proxy.
    pub(super) proxied: bool,
    /// A folder for the fault's own files.
    pub(super) scratch: PathBuf,
}

impl Setup<'_> {
    /// Only a broker that nobody else uses may be disturbed as a whole.
    ///
    /// # Errors
    /// [`Skip`] for any other.
    pub(super) fn need_private_node(&self) -> Result<(), Skip> {
        match self.broker.origin() {
            Origin::PrivateNode => Ok(()),
            _ => Err(Skip("needs a private node of the broker".to_owned())),
        }
    }
}

/// A subject under load.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) broker: &'a mut Broker,
    pub(super) load: Load,
    /// `None` while the device is gone.
    pub(super) device: Option<Simulator>,
    pub(super) proxy: Option<Proxy>,
    /// End of the fault, if its healing is not itself the end.
    pub(super) ended: Option<Instant>,
    pub(super) excuse: Option<Excuse>,
    pub(super) figures: BTreeMap<String, f64>,
    pub(super) problems: Vec<String>,
    pub(super) testimony: Testimony,
    /// `None` while the service is gone.
    running: Option<Running>,
    plan: LaunchPlan,
    lives: u32,
    /// When the store was asked for the last time before it went.
    asked: Duration,
}

impl<'a> Stage<'a> {
    /// Starts device, subject and load; `id` is unique among all repetitions of the run.
    pub(super) fn start(
        subject: &BuiltSubject,
        broker: &'a mut Broker,
        environment: BTreeMap<String, String>,
        proxied: bool,
        (scratch, id): (&Path, &str),
    ) -> anyhow::Result<Self> {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let device = Simulator::start(anywhere, DEVICE_LATENCY).context("no device simulator")?;
        let url = Url::parse(&broker.url)?;
        let proxy = match proxied {
            true => Some(Proxy::start(
                url.address().parse().context("the broker's address")?,
            )?),
            false => None,
        };
        let seen_url = match &proxy {
            Some(proxy) => broker
                .url
                .replace(&url.address(), &proxy.address().to_string()),
            None => broker.url.clone(),
        };
        let mut plan = LaunchPlan {
            name: subject.subject.name.clone(),
            executable: subject.executable.clone(),
            args: subject.subject.args.clone(),
            environment,
            cpus: None,
            stderr: scratch.join(format!("{id}.stderr")),
            ready_within: READY_WITHIN,
        };
        plan.environment.extend(
            [
                ("BC_HTTP_ADDR", "127.0.0.1:0".to_owned()),
                ("BC_AMQP_URL", seen_url),
                ("BC_DEVICE_ADDR", device.address().to_string()),
                ("BC_NAME", NAME.to_owned()),
                ("BC_PROFILE", "shared".to_owned()),
                ("BC_SERIES_POINTS", SERIES_POINTS.to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let mut running = launch::start(plan.clone())?;
        running.await_ready()?;
        let load = Load::start(running.address(), &broker.url, id)?;
        Ok(Self {
            broker,
            load,
            device: Some(device),
            proxy,
            ended: None,
            excuse: None,
            figures: BTreeMap::new(),
            problems: Vec::new(),
            testimony: Testimony::default(),
            running: Some(running),
            plan,
            lives: 1,
            asked: Duration::ZERO,
        })
    }

    /// Notes a figure for the record; its name says the unit.
    pub(super) fn note(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// Where the service listens.
    pub(super) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.running()?.address())
    }

    fn running(&self) -> anyhow::Result<&Running> {
        self.running.as_ref().context("the service is gone")
    }

    /// Every process of the service, the launched one first.
    pub(super) fn processes(&self) -> anyhow::Result<Vec<i32>> {
        let root = self.running()?.root();
        let mut all = members(root);
        all.sort_by_key(|pid| (*pid != root, *pid));
        Ok(all)
    }

    /// Whether the service ended although nobody told it to; says so once.
    pub(super) fn note_death(&mut self) -> bool {
        let Some(status) = self.running.as_mut().and_then(Running::ended) else {
            return false;
        };
        let stderr = self.running.as_ref().map(Running::stderr_tail);
        let stderr = tail(&stderr.unwrap_or_default(), QUOTED_LINES);
        self.problems.push(format!("it died ({status}): {stderr}"));
        self.abandon();
        true
    }

    /// Gives up a service that died or that nobody can ask any more. What only it could tell is
    /// excused; the load's own messages still have to be found.
    fn abandon(&mut self) {
        self.running = None;
        self.testimony.new_life();
        let now = self.load.at(Instant::now());
        self.excuse = Some(Excuse::silenced(Duration::ZERO, now));
    }

    /// Puts a new service in the place of one that died, or of one that does not answer.
    pub(super) fn replace(&mut self, unanswered: Option<&anyhow::Error>) -> anyhow::Result<()> {
        self.note_death();
        if let Some(error) = unanswered {
            self.problems.push(format!("it does not answer: {error:#}"));
            self.abandon();
        }
        match self.running {
            Some(_) => Ok(()),
            None => self.start_service(),
        }
    }

    /// Summed PSS of the process tree in bytes; 0 if it is gone.
    pub(super) fn pss_bytes(&self) -> u64 {
        let root = self.running.as_ref().map(Running::root);
        let sample = root.and_then(|root| ProcessTree::new(root).sample(0.0));
        sample.map_or(0, |sample| sample.pss_bytes)
    }

    /// A `GET` beside the load, on a connection of its own.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<String> {
        self.ask(&Request::new("GET", path))
    }

    fn ask(&self, request: &Request<'_>) -> anyhow::Result<String> {
        let path = request.path;
        let response = http::once(self.address()?, ASK_LIMIT, request)
            .with_context(|| format!("{path} failed"))?;
        let (status, text) = (response.status, response.text());
        anyhow::ensure!(status == 200, "{path} is {status}: {text}");
        Ok(text)
    }

    /// Asks the service how many messages were duplicates, and which have had their effect: this
    /// comes last, so that little happens between the answer and what is done next.
    pub(super) fn testify(&mut self) -> anyhow::Result<()> {
        let metrics = self.get("/metrics")?;
        let label = r#"outcome="duplicate""#;
        self.testimony.duplicates = read_metric(&metrics, "amqp_deliveries_total", label);
        let fields = Source::ALL
            .into_iter()
            .flat_map(|source| (0..KEYS).map(move |index| format!("{}/n", source.key(index))));
        let query = SeriesQuery {
            fields: fields.collect(),
            start: None,
            end: None,
            duration: None,
            limit: Some(SERIES_POINTS),
            downsample: None,
        };
        let body = serde_json::to_vec(&query)?;
        let answer = self.ask(&Request::post("/api/v1/series/query", &body))?;
        let answer: SeriesAnswer = serde_json::from_str(&answer)?;
        let mut current: BTreeMap<Id, u32> = BTreeMap::new();
        for series in answer.series {
            let is_amqp = series.field.starts_with(&Source::Amqp.key(0)[..1]);
            let source = if is_amqp { Source::Amqp } else { Source::Rest };
            for (_, value) in series.points {
                let seq = value as u64;
                *current.entry(Id { source, seq }).or_default() += 1;
            }
        }
        self.testimony.current = current;
        Ok(())
    }

    /// Takes leave of the store, which is about to be lost with its process: asks it once more,
    /// and excuses what nobody can be asked about any more.
    ///
    /// Call [`Stage::store_is_gone`] once it is.
    pub(super) fn store_will_go(&mut self) -> anyhow::Result<()> {
        self.asked = self.load.at(Instant::now());
        let testified = self.testify();
        self.load.forget_visible();
        testified
    }

    /// The store is gone, and a new one begins.
    pub(super) fn store_is_gone(&mut self) {
        self.load.forget_visible();
        self.testimony.new_life();
        let gone = self.load.at(Instant::now());
        self.excuse = Some(Excuse::silenced(self.asked, gone));
    }

    /// Kills every process of the service.
    pub(super) fn kill_service(&mut self) -> anyhow::Result<()> {
        self.store_will_go()?;
        drop(self.running.take());
        self.store_is_gone();
        Ok(())
    }

    /// Sends SIGTERM, and leaves the service to its drain delay.
    pub(super) fn terminate_service(&mut self) -> anyhow::Result<()> {
        let running = self.running.as_mut().context("the service is gone")?;
        running.terminate();
        Ok(())
    }

    /// Stops the service with SIGTERM; the faults of its end are problems.
    pub(super) fn stop_service(&mut self) -> anyhow::Result<Stopped> {
        let running = self.running.take().context("the service is gone")?;
        let stopped = running.stop(STOP_WITHIN);
        self.problems.extend(stopped.faults.iter().cloned());
        Ok(stopped)
    }

    /// Starts the service again, and aims the load at it as soon as its port is open.
    pub(super) fn start_service(&mut self) -> anyhow::Result<()> {
        self.lives += 1;
        let mut plan = self.plan.clone();
        plan.stderr.set_extension(format!("{}.stderr", self.lives));
        let running = launch::start(plan)?;
        self.load.aim(running.address());
        self.running = Some(running);
        Ok(())
    }
}
