//! A private RabbitMQ node: own name, own ports, own data, own port mapper, loopback only.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Error,
    command::tail,
    error::io_error,
    install::{Programs, is_on_path},
    process::{Identity, end, kill, tree},
};
use crate::amqp::Session;

/// Longest start; a cold one on two busy cores takes about 15 s.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Time for a node to stop by itself.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// Deadline of one attempt to shake hands while the node starts.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Ports to choose from: below Linux's ephemeral range, so that no outgoing connection takes one
/// while the node is being restarted.
const PORTS: std::ops::Range<u16> = 21_000..32_000;
/// Arguments of the Erlang machine. Its threads normally spin before they sleep, which would eat
/// the cores that are being measured; two schedulers are all that the reference machine has.
const ERLANG_ARGUMENTS: &str = "-start_epmd false \
    -kernel inet_dist_use_interface {127,0,0,1} \
    +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none";

/// Name, ports and folder of a node; enough to start it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spec {
    /// Unique name, also that of its folder.
    pub name: String,
    /// Folder of data, logs and configuration.
    pub folder: PathBuf,
    /// Port of AMQP.
    pub amqp_port: u16,
    /// Port on which Erlang nodes talk to each other.
    pub distribution_port: u16,
    /// Port of the port mapper.
    pub epmd_port: u16,
}

impl Spec {
    /// A new node below `base`, with a name and ports of its own.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be made or no port is free.
    pub(super) fn new(base: &Path) -> Result<Self, Error> {
        let name = format!("threeways-{}-{:x}", std::process::id(), nanoseconds());
        let folder = base.join(&name);
        fs::create_dir_all(folder.join("log")).map_err(io_error(format!(
            "cannot make the broker's folder {}",
            folder.display()
        )))?;
        let [amqp_port, distribution_port, epmd_port] =
            free_ports().map_err(io_error("no free port on 127.0.0.1"))?;
        let spec = Self {
            name,
            folder,
            amqp_port,
            distribution_port,
            epmd_port,
        };
        spec.write_configuration()
            .map_err(io_error("cannot write the broker's configuration"))?;
        Ok(spec)
    }

    /// URL with the default user, whom RabbitMQ lets in from loopback only.
    pub(super) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.amqp_port)
    }

    /// Folder of the logs.
    pub(super) fn log_folder(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn write_configuration(&self) -> io::Result<()> {
        let configuration = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             loopback_users.guest = true\n\
             # The default is relative to the memory and refuses publishes on small disks.\n\
             disk_free_limit.absolute = 50MB\n",
            self.amqp_port
        );
        fs::write(self.folder.join("rabbitmq.conf"), configuration)?;
        // Present but empty: otherwise those of the system would count.
        fs::write(self.folder.join("advanced.config"), "[].\n")?;
        fs::write(self.folder.join("enabled_plugins"), "[].\n")?;
        fs::write(self.folder.join("rabbitmq-env.conf"), "")
    }

    /// The node's settings; every variable of the caller that could change them is dropped.
    pub(super) fn apply(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["RABBITMQ_", "ERL_", "NOTIFY_"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
            {
                command.env_remove(&name);
            }
        }
        let path = |name: &str| self.folder.join(name).into_os_string();
        command
            .current_dir(&self.folder)
            .env("HOME", &self.folder)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_CRASH_DUMP", path("log/erl_crash.dump"))
            .env("RABBITMQ_NODENAME", format!("{}@localhost", self.name))
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG_ARGUMENTS)
            .env("RABBITMQ_CONF_ENV_FILE", path("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_CONFIG_FILES", path("conf.d/*.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", path("generated"))
            .env("RABBITMQ_SCHEMA_DIR", path("schema"))
            .env("RABBITMQ_MNESIA_BASE", path("data"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_LOGS", path("log/broker.log"))
            .env("RABBITMQ_PID_FILE", path("pid"));
    }
}

/// Whether a node ends with this program or goes on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Ends with the run; Ctrl-C in the terminal reaches only us, and we stop it in order.
    Run,
    /// Outlives this program, in a session of its own.
    Detached,
}

/// A node that was started here, now or by an earlier `up`.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) spec: Spec,
    pub(super) epmd: Identity,
    pub(super) server: Identity,
    /// Kept to collect their exit status; empty for a node of an earlier `up`.
    children: Vec<Child>,
}

impl Node {
    /// Starts the processes of a node; it does not answer yet.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left running then.
    pub(super) fn start(
        spec: Spec,
        programs: &Programs,
        lifetime: Lifetime,
    ) -> Result<Self, Error> {
        let mut epmd = Command::new(&programs.epmd);
        epmd.args(["-address", "127.0.0.1", "-port"])
            .arg(spec.epmd_port.to_string());
        let epmd = spawn(epmd, &spec.log_folder().join("epmd.log"), lifetime)?;
        let identity = identity(&epmd);
        let mut node = Self {
            spec,
            epmd: identity,
            server: identity,
            children: vec![epmd],
        };
        match node.start_server(programs, lifetime) {
            Ok(()) => Ok(node),
            Err(error) => {
                node.stop();
                Err(error)
            }
        }
    }

    /// A node of an earlier `up`.
    pub(super) fn adopted(spec: Spec, epmd: Identity, server: Identity) -> Self {
        Self {
            spec,
            epmd,
            server,
            children: Vec::new(),
        }
    }

    /// Starts the server's processes on the same ports and data.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn start_server(
        &mut self,
        programs: &Programs,
        lifetime: Lifetime,
    ) -> Result<(), Error> {
        let mut server = Command::new(&programs.server);
        self.spec.apply(&mut server);
        let server = spawn(
            server,
            &self.spec.log_folder().join("startup.log"),
            lifetime,
        )?;
        self.server = identity(&server);
        self.children.push(server);
        Ok(())
    }

    /// Stops the server and leaves its data.
    pub(super) fn stop_server(&mut self) {
        end(self.server, STOP_GRACE);
        self.reap();
    }

    /// Kills the server and leaves its data as they are.
    pub(super) fn kill_server(&mut self) {
        kill(self.server);
        self.reap();
    }

    /// Stops server and port mapper.
    pub(super) fn stop(&mut self) {
        self.stop_server();
        end(self.epmd, STOP_GRACE);
        self.reap();
    }

    /// Every process of the node.
    pub(super) fn pids(&self) -> Vec<i32> {
        let mut members = tree(self.server);
        members.extend(tree(self.epmd));
        let numbers = members.iter().map(|member| i32::try_from(member.pid));
        numbers.filter_map(Result::ok).collect()
    }

    fn reap(&mut self) {
        self.children
            .retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
    }

    /// Waits until the server shakes hands.
    ///
    /// # Errors
    /// [`Error::Died`] if it ends instead, [`Error::NotReady`].
    pub(super) fn wait_until_ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + START_LIMIT;
        let url = self.spec.url();
        while Instant::now() < deadline {
            if Session::connect(&url, "threeways-ready", HANDSHAKE_LIMIT).is_ok() {
                return Ok(());
            }
            if !self.server.is_alive() {
                return Err(self.died());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(Error::NotReady {
            limit: START_LIMIT,
            log: self.spec.log_folder(),
        })
    }

    fn died(&self) -> Error {
        let log = self.spec.log_folder();
        let output = fs::read_to_string(log.join("startup.log")).unwrap_or_default();
        Error::Died {
            log,
            tail: tail(&output),
        }
    }
}

/// Starts a program with its output in a file, out of the reach of the terminal's signals.
fn spawn(mut command: Command, log: &Path, lifetime: Lifetime) -> Result<Child, Error> {
    let what = format!("cannot start {}", command.get_program().to_string_lossy());
    let open = || File::options().create(true).append(true).open(log);
    let output = open().and_then(|file| Ok((file.try_clone()?, file)));
    let (stdout, stderr) = output.map_err(io_error(format!("cannot write {}", log.display())))?;
    if lifetime == Lifetime::Detached && is_on_path("setsid") {
        command = in_own_session(&command);
    } else {
        command.process_group(0);
    }
    command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(io_error(what))
}

/// The same command behind `setsid`, which executes it in its own place and under its number.
fn in_own_session(command: &Command) -> Command {
    let mut wrapped = Command::new("setsid");
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

/// The identity of our own child; it exists at least as a zombie, because nobody reaped it yet.
fn identity(child: &Child) -> Identity {
    Identity::of(child.id()).unwrap_or(Identity {
        pid: child.id(),
        started_ticks: 0,
    })
}

/// Three different ports that nobody listens on.
fn free_ports() -> io::Result<[u16; 3]> {
    let span = u64::from(PORTS.end - PORTS.start);
    let first = (nanoseconds() / 1_000 + u64::from(std::process::id()) * 101) % span;
    let mut listeners = Vec::new();
    for step in 0..span {
        let offset = u16::try_from((first + step) % span).expect("below the span of the range");
        let address = (Ipv4Addr::LOCALHOST, PORTS.start + offset);
        // Held until all three are found, so that they differ.
        listeners.extend(TcpListener::bind(address));
        if let [a, b, c] = listeners.as_slice() {
            let port = |listener: &TcpListener| Ok::<_, io::Error>(listener.local_addr()?.port());
            return Ok([port(a)?, port(b)?, port(c)?]);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Nanoseconds of the current second: enough to tell two starts apart.
fn nanoseconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| u64::from(since.subsec_nanos()))
}
