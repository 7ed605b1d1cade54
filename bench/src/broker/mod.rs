//! Finds, starts, empties and stops the RabbitMQ broker of a run.
//!
//! In this order: the broker of `AMQP_URL`; a private node that `up` left running; one that
//! answers on 127.0.0.1:5672; the container of `docker-compose.yml` if an engine runs; a private
//! node from an installed RabbitMQ; the same after installing Debian's package.
//! What was started here is stopped at the end, and only what was started here is emptied without
//! being told to.

mod command;
mod compose;
mod control;
mod error;
mod install;
mod node;
mod process;
mod reset;
mod room;
mod state;
mod verbs;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use contract::QueueType;

use self::{
    error::io_error,
    install::Programs,
    node::{Lifetime, Node, Spec},
    process::Identity,
    state::State,
};
use crate::{
    amqp::{self, Session, redact},
    record::BrokerFacts,
};

pub use error::Error;
pub use room::Room;
pub use verbs::{down, kill_own, status, up};

/// Where a broker answers that somebody else runs, with RabbitMQ's default user.
const LOCAL_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
/// Deadline of a handshake with a broker that should be there.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Deadline of the handshake with a container that was just started.
const CONTAINER_LIMIT: Duration = Duration::from_secs(120);

/// Names of the processes of a broker that somebody else runs: Erlang's virtual machine, and
/// what passes on the port of a container.
const RUNTIME: [&str; 2] = ["beam.smp", "docker-proxy"];

/// What to use and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Root of the workspace; nodes live in `target/broker/` below it.
    pub root: PathBuf,
    /// Broker to use whatever else runs (`AMQP_URL`).
    pub url: Option<String>,
    /// Whether a broker that was not started here may be purged (`--purge`).
    pub purge: bool,
}

impl Options {
    /// Options for the workspace at `root`, with the URL of `AMQP_URL` if it is set.
    #[must_use]
    pub fn from_environment(root: PathBuf) -> Self {
        let url = std::env::var("AMQP_URL").ok().filter(|url| !url.is_empty());
        Self {
            root,
            url,
            purge: false,
        }
    }
}

/// Where a broker came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Named by `AMQP_URL`.
    Given,
    /// It answered on 127.0.0.1:5672.
    Answering,
    /// A container that was started here.
    Compose,
    /// A node that was started here, now or by `up`.
    PrivateNode,
}

/// A broker in use; dropping it stops what was started for it.
#[derive(Debug)]
pub struct Broker {
    /// URL with password: never print it, see [`amqp::redact`].
    pub url: String,
    /// What the manifest says about it.
    pub facts: BrokerFacts,
    origin: Origin,
    root: PathBuf,
    purge: bool,
    lifetime: Lifetime,
    node: Option<Node>,
    /// Keeps other runs from a node of `up`.
    claim: Option<File>,
}

/// Finds or starts a broker; it ends with the value unless `up` left it running.
///
/// # Errors
/// [`Error::Given`] if `AMQP_URL` cannot be used (nothing else is tried then),
/// [`Error::Unavailable`] with the remedies if there is none and none can be started.
pub fn acquire(options: &Options) -> Result<Broker, Error> {
    acquire_as(options, Lifetime::Run)
}

/// Starts a private node even if another broker answers; RabbitMQ is installed for it if need be.
///
/// # Errors
/// [`Error::Unavailable`] if RabbitMQ is not installed and this user may not install it,
/// [`Error::Died`], [`Error::NotReady`].
pub fn start_private(options: &Options) -> Result<Broker, Error> {
    Broker::private(options, &programs()?, Lifetime::Run)
}

fn acquire_as(options: &Options, lifetime: Lifetime) -> Result<Broker, Error> {
    state::sweep(&options.root);
    if let Some(url) = &options.url {
        return Broker::given(options, url);
    }
    if let Some(broker) = existing(options, lifetime) {
        return Ok(broker);
    }
    if compose::is_usable(&options.root) {
        match Broker::compose(options, lifetime) {
            Ok(broker) => return Ok(broker),
            Err(error) => log::warn!("docker-compose: {error}; going on without it"),
        }
    }
    Broker::private(options, &programs()?, lifetime)
}

/// The installed programs, which are installed first if need be.
fn programs() -> Result<Programs, Error> {
    match install::find() {
        Some(programs) => Ok(programs),
        None => install::install()?.ok_or_else(nothing_found),
    }
}

fn nothing_found() -> Error {
    let tried = "AMQP_URL is not set, nobody answers on 127.0.0.1:5672, no container engine \
                 runs, no rabbitmq-server is installed, and this user may not install it";
    Error::Unavailable {
        tried: tried.to_owned(),
    }
}

/// A broker that runs already and is not named by `AMQP_URL`.
fn existing(options: &Options, lifetime: Lifetime) -> Option<Broker> {
    if let Some(state) = state::find_up(&options.root) {
        let url = state.spec.url();
        let claim = state::claim(&state.spec);
        // `up` itself uses nothing.
        let is_free = claim.is_some() || lifetime == Lifetime::Detached;
        if is_free && let Ok(session) = connect(&url, HANDSHAKE_LIMIT) {
            let mut broker = Broker::new(options, url, Origin::PrivateNode, &session);
            broker.lifetime = Lifetime::Detached;
            broker.node = Some(state.node());
            broker.claim = claim;
            return Some(broker);
        }
    }
    match connect(LOCAL_URL, HANDSHAKE_LIMIT) {
        Ok(session) => {
            let url = LOCAL_URL.to_owned();
            Some(Broker::new(options, url, Origin::Answering, &session))
        }
        Err(amqp::Error::Connect { .. }) => None,
        Err(error) => {
            log::warn!("something listens on 127.0.0.1:5672 but is of no use: {error}");
            None
        }
    }
}

fn connect(url: &str, limit: Duration) -> Result<Session, amqp::Error> {
    Session::connect(url, "threeways-admin", limit)
}

/// Writes down a private node for `down` and later runs.
fn save(node: &Node, lifetime: Lifetime) -> Result<(), Error> {
    let owner = match lifetime {
        Lifetime::Run => Identity::of(std::process::id()),
        Lifetime::Detached => None,
    };
    state::save(&State {
        spec: node.spec.clone(),
        epmd: node.epmd,
        server: node.server,
        owner,
    })
}

/// Says that `up` or a run started the container.
fn compose_marker(root: &Path) -> PathBuf {
    state::base(root).join("compose")
}

fn stop_compose(root: &Path) -> Result<(), Error> {
    compose::down(root)?;
    let marker = compose_marker(root);
    fs::remove_file(&marker).map_err(io_error(format!("cannot remove {}", marker.display())))
}

impl Broker {
    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether it was started here, so that its queues are ours to empty.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self.origin, Origin::Compose | Origin::PrivateNode)
    }

    /// A new session with it.
    ///
    /// # Errors
    /// As [`Session::connect`].
    pub fn session(&self) -> Result<Session, amqp::Error> {
        self.room().session()
    }

    /// Its processes, to be accounted for: those of a private node; of any other broker, those
    /// on this machine that bear the names of RabbitMQ's runtime or of a container's port.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        match &self.node {
            Some(node) => node.pids(),
            None => process::named(&RUNTIME),
        }
    }

    /// Pins every thread of a private node; `false` if the processes are not ours to pin.
    ///
    /// # Errors
    /// [`Error::Io`] if a CPU does not exist.
    pub fn pin(&mut self, cpus: &[usize]) -> Result<bool, Error> {
        let pids = self.node.as_ref().map(Node::pids).unwrap_or_default();
        process::pin(&pids, cpus).map_err(io_error("cannot pin the broker"))?;
        self.facts.pinned = !pids.is_empty();
        Ok(self.facts.pinned)
    }

    /// Declares the contract's topology with empty queues.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] or [`Error::Mismatch`] if that would destroy something on a broker
    /// that is not ours and `--purge` was not given.
    pub fn reset(&self, queue_type: QueueType) -> Result<(), Error> {
        self.room().reset(queue_type)
    }

    /// Number of ready messages in a queue, 0 if there is no such queue.
    ///
    /// # Errors
    /// [`Error::Amqp`].
    pub fn depth(&self, queue: &str) -> Result<u32, Error> {
        self.room().depth(queue)
    }

    /// Stops the server of a private node and leaves its data; [`Broker::resume`] ends it.
    ///
    /// # Errors
    /// [`Error::NotOurs`].
    pub fn halt(&mut self) -> Result<(), Error> {
        self.private_node()?.stop_server();
        Ok(())
    }

    /// Kills the server of a private node with SIGKILL; [`Broker::resume`] ends that, too.
    ///
    /// # Errors
    /// [`Error::NotOurs`].
    pub fn kill(&mut self) -> Result<(), Error> {
        self.private_node()?.kill_server();
        Ok(())
    }

    /// Starts the server of a private node again on the same port and data.
    ///
    /// # Errors
    /// [`Error::NotOurs`], [`Error::Died`], [`Error::NotReady`].
    pub fn resume(&mut self) -> Result<(), Error> {
        let programs = install::find().ok_or_else(nothing_found)?;
        let lifetime = self.lifetime;
        let node = self.private_node()?;
        node.start_server(&programs, lifetime)?;
        save(node, lifetime)?;
        node.wait_until_ready()
    }

    /// Stops the server of a private node and starts it again on the same port and data.
    ///
    /// # Errors
    /// As [`Broker::halt`] and [`Broker::resume`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.halt()?;
        self.resume()
    }

    /// Stops what was started for this value; a node of `up` goes on.
    pub fn stop(self) {
        drop(self);
    }

    fn private_node(&mut self) -> Result<&mut Node, Error> {
        let origin = self.origin.as_str().to_owned();
        self.node.as_mut().ok_or(Error::NotOurs { origin })
    }

    fn new(options: &Options, url: String, origin: Origin, session: &Session) -> Self {
        let server = session.server();
        let facts = BrokerFacts {
            version: format!("{} {}", server.product, server.version),
            origin: origin.as_str().to_owned(),
            pinned: false,
        };
        Self {
            url,
            facts,
            origin,
            root: options.root.clone(),
            purge: options.purge,
            lifetime: Lifetime::Run,
            node: None,
            claim: None,
        }
    }

    fn given(options: &Options, url: &str) -> Result<Self, Error> {
        let unusable = |source| Error::Given {
            url: redact(url),
            source,
        };
        let session = connect(url, HANDSHAKE_LIMIT).map_err(unusable)?;
        Ok(Self::new(options, url.to_owned(), Origin::Given, &session))
    }

    fn compose(options: &Options, lifetime: Lifetime) -> Result<Self, Error> {
        compose::up(&options.root)?;
        let marker = compose_marker(&options.root);
        let marked = fs::create_dir_all(state::base(&options.root))
            .and_then(|()| fs::write(&marker, "started by threeways\n"));
        marked.map_err(io_error(format!("cannot write {}", marker.display())))?;
        let deadline = Instant::now() + CONTAINER_LIMIT;
        let session = loop {
            match connect(LOCAL_URL, HANDSHAKE_LIMIT) {
                Ok(session) => break session,
                Err(error) if Instant::now() >= deadline => {
                    stop_compose(&options.root)?;
                    return Err(error.into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(250)),
            }
        };
        let mut broker = Self::new(options, LOCAL_URL.to_owned(), Origin::Compose, &session);
        broker.lifetime = lifetime;
        Ok(broker)
    }

    fn private(
        options: &Options,
        programs: &install::Programs,
        lifetime: Lifetime,
    ) -> Result<Self, Error> {
        let root = std::path::absolute(&options.root)
            .map_err(io_error("the workspace has no absolute path"))?;
        let spec = Spec::new(&state::base(&root))?;
        let mut node = Node::start(spec, programs, lifetime)?;
        // Before it is ready, so that a node of a run that is killed meanwhile is found later.
        let ready = save(&node, lifetime).and_then(|()| node.wait_until_ready());
        if let Err(error) = ready {
            node.stop();
            return Err(error);
        }
        let url = node.spec.url();
        let session = connect(&url, HANDSHAKE_LIMIT)?;
        let mut broker = Self::new(options, url, Origin::PrivateNode, &session);
        broker.lifetime = lifetime;
        broker.node = Some(node);
        Ok(broker)
    }

    /// Gives the broker up without stopping it.
    fn leave_running(mut self) {
        self.lifetime = Lifetime::Detached;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Detached {
            return;
        }
        if let Some(node) = &mut self.node {
            node.stop();
            state::forget(&node.spec);
        }
        if self.origin == Origin::Compose
            && let Err(error) = stop_compose(&self.root)
        {
            log::warn!("cannot stop the container: {error}");
        }
    }
}
