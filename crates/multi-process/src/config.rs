//! Reads the settings of the contract and of the model.
//!
//! Particular to processes: a child is started with its parent's own arguments and environment and
//! parses them again, so nothing has to be passed between the processes but the [`Part`].

use std::time::Duration;

use clap::{Args, CommandFactory, Parser, ValueEnum};
use contract::{
    BrokerUrl, Settings, metrics, settings::reject_unknown_variables, shapes::JobRequest,
};

/// Name of the model.
pub const MODEL: &str = "multi-process";

/// The service as operating-system processes joined by a Unix socket
#[derive(Debug, Parser)]
#[command(name = "service-multi-process", version)]
struct Cli {
    #[command(flatten)]
    settings: Settings,

    /// Start the REST and AMQP processes, print their pids to stderr and exit at once; they live on
    /// without a parent: SIGTERM to each pid ends it, and if one dies nobody restarts it
    #[arg(long, env = "BC_DETACH")]
    detach: bool,

    /// How HTTP is spoken: by the library tiny_http, or by sockets of the standard library with a
    /// thread per connection and every limit of the contract
    #[arg(long, env = "BC_HTTP", value_enum, default_value_t = Front::TinyHttp)]
    http: Front,

    #[command(flatten)]
    part: PartArgs,
}

/// What stands between a REST process and its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Front {
    /// The library; one request at a time in each process.
    TinyHttp,
    /// Sockets and threads of the standard library; so many requests at a time as there are clients.
    Std,
}

/// Arguments that only the supervisor gives, to its children.
#[derive(Debug, Args)]
struct PartArgs {
    #[arg(long, hide = true, requires = "ipc_name", requires = "started_ms")]
    role: Option<Role>,
    #[arg(long, hide = true)]
    ipc_name: Option<String>,
    #[arg(long, hide = true)]
    started_ms: Option<u64>,
    #[arg(long, hide = true)]
    supervisor: Option<i32>,
    #[arg(long, hide = true)]
    again: bool,
    #[arg(long, hide = true, requires = "supervisor", value_parser = job)]
    job: Option<JobRequest>,
}

/// A job as it is passed to the process that does it: the contract's own shape, readable in `ps`.
fn job(text: &str) -> Result<JobRequest, serde_json::Error> {
    serde_json::from_str(text)
}

/// Which process of the service a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Talks to the broker and owns the store; the document's p3.
    Amqp,
    /// Answers HTTP, one request at a time; the document's p2.
    Rest,
}

impl Role {
    /// Name on the command line and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Amqp => "amqp",
            Self::Rest => "rest",
        }
    }
}

/// What a child knows beside the settings.
#[derive(Debug, Clone)]
pub struct Part {
    /// Which process it is.
    pub role: Role,
    /// Abstract name of the Unix socket between the processes.
    pub ipc_name: String,
    /// When the service was started, milliseconds since the epoch.
    pub started_ms: u64,
    /// Pid of the supervisor; `None` if detached.
    pub supervisor: Option<i32>,
    /// Whether it replaces a crashed process: then a broker that refuses is no reason to give up.
    pub again: bool,
}

/// What the service is told; never changes while it runs.
#[derive(Clone)]
pub struct Config {
    /// The contract's settings.
    pub settings: Settings,
    /// The broker's address, taken apart.
    pub broker: BrokerUrl,
    /// Whether the first process exits as soon as its children run.
    pub detach: bool,
    /// How HTTP is spoken.
    pub front: Front,
    /// Which child this is; `None` for the first process.
    pub part: Option<Part>,
    /// The job that this process does, if it does nothing else, and the pid of who wants it done.
    pub job: Option<(JobRequest, i32)>,
}

impl Config {
    /// Parses the command line and the environment; `--help` and a wrong flag end the process.
    ///
    /// # Errors
    /// Names an unknown `BC_` variable, or the wrong part of the broker's URL.
    pub fn from_args() -> Result<Self, String> {
        let cli = Cli::parse();
        let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
        reject_unknown_variables(&Cli::command(), names.iter().map(AsRef::as_ref))?;
        Self::new(cli)
    }

    /// Reads `arguments` alone, for tests.
    ///
    /// # Errors
    /// As [`Self::from_args`].
    #[cfg(test)]
    pub fn parse(arguments: &[&str]) -> Result<Self, String> {
        let command = ["service-multi-process"].iter().chain(arguments);
        Self::new(Cli::try_parse_from(command).expect("arguments parse"))
    }

    fn new(cli: Cli) -> Result<Self, String> {
        let mut part = cli.part;
        Ok(Self {
            broker: BrokerUrl::parse(&cli.settings.amqp_url)?,
            settings: cli.settings,
            detach: cli.detach,
            front: cli.http,
            job: part.job.take().zip(part.supervisor),
            part: part.into_part(),
        })
    }

    /// `prefork`, or `literal` with a single REST process; with the front, if it is not the library.
    #[must_use]
    pub const fn variant(&self) -> &'static str {
        match (self.settings.http_workers, self.front) {
            (1, Front::TinyHttp) => "literal",
            (1, Front::Std) => "literal-std",
            (_, Front::TinyHttp) => "prefork",
            (_, Front::Std) => "prefork-std",
        }
    }

    /// Connections to the device that each REST process may have without asking; 0 if it has to ask
    /// for each command.
    ///
    /// One at least is kept back for the AMQP process, whose jobs command the device as well.
    #[must_use]
    pub fn device_share(&self) -> usize {
        let share = (self.settings.device_pool - 1) / self.settings.http_workers;
        match self.front {
            // It answers one request at a time and could not use a second.
            Front::TinyHttp => share.min(1),
            Front::Std => share,
        }
    }

    /// Connections to the device that the AMQP process hands out, to its jobs and to whoever asks.
    #[must_use]
    pub fn device_rest(&self) -> usize {
        self.settings.device_pool - self.device_share() * self.settings.http_workers
    }

    /// How long the service goes on accepting behind the signal to stop.
    ///
    /// With the library at least for a moment: connections that its pool has left without a thread can
    /// be freed only as long as the listener is open.
    #[must_use]
    pub fn drain_delay(&self) -> Duration {
        let delay = Duration::from_secs(self.settings.drain_delay_s);
        match self.front {
            Front::TinyHttp => delay.max(Duration::from_millis(100)),
            Front::Std => delay,
        }
    }

    /// Requests that each REST process may have in hand without asking.
    ///
    /// Half of the limit is shared out like this, and whoever has more to do asks for a place in the
    /// other half: so a process that is quiet pays no round trip, and one that is busy may use what the
    /// others leave.
    #[must_use]
    pub fn inflight_share(&self) -> usize {
        self.settings.max_inflight / self.settings.http_workers / 2
    }

    /// Requests in hand that the AMQP process permits beyond that.
    #[must_use]
    pub fn inflight_rest(&self) -> usize {
        self.settings.max_inflight - self.inflight_share() * self.settings.http_workers
    }

    /// Name of an AMQP connection, as the broker's operator sees it.
    #[must_use]
    pub fn connection_name(&self, role: metrics::Role) -> String {
        let role = match role {
            metrics::Role::Consumer => "consumer",
            metrics::Role::Publisher => "publisher",
        };
        format!("{MODEL}-{}-{role}", self.settings.name)
    }

    /// Whether this process replaces a crashed one: then the settings were good once, and a broker
    /// that refuses is no reason to give up.
    pub fn is_replacement(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.again)
    }

    /// Name of one of the service's processes in logs.
    fn process_name(&self) -> &'static str {
        match (&self.part, &self.job) {
            (Some(part), _) => part.role.as_str(),
            (None, Some(_)) => "job",
            (None, None) => "supervisor",
        }
    }

    /// Logs to stderr; the pid tells the processes apart, which share the terminal.
    ///
    /// The HTTP library logs the end of its listener as an error, and the AMQP library warns of what
    /// it tells us besides; we hear of both anyway.
    pub fn start_logger(&self) {
        use std::io::Write;
        let (name, pid) = (self.process_name(), std::process::id());
        env_logger::Builder::new()
            .parse_filters(&format!(
                "{},tiny_http=off,amiquip=error",
                self.settings.log
            ))
            .format(move |out, record| {
                writeln!(out, "{} {name}[{pid}] {}", record.level(), record.args())
            })
            .init();
    }
}

impl PartArgs {
    fn into_part(self) -> Option<Part> {
        Some(Part {
            role: self.role?,
            ipc_name: self.ipc_name?,
            started_ms: self.started_ms?,
            supervisor: self.supervisor,
            again: self.again,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_child_needs_its_role_and_what_belongs_to_it() {
        let arguments = [
            "service",
            "--role=rest",
            "--ipc-name=x",
            "--started-ms=5",
            "--supervisor=7",
        ];
        let part = Cli::try_parse_from(arguments)
            .expect("valid")
            .part
            .into_part()
            .expect("child");
        assert_eq!(
            (part.role, part.supervisor, part.again),
            (Role::Rest, Some(7), false)
        );
        assert!(Cli::try_parse_from(["service", "--role=rest"]).is_err());
        assert!(
            Cli::try_parse_from(["service"])
                .expect("valid")
                .part
                .into_part()
                .is_none()
        );
    }

    #[test]
    fn a_job_is_passed_as_it_was_asked_for() {
        let job = r#"--job={"kind":"cpu","duration_ms":5}"#;
        let cli = Cli::try_parse_from(["service", job, "--supervisor=7"]).expect("valid");
        let request = cli.part.job.expect("a job");
        assert_eq!(request.duration_ms, 5);
        assert!(Cli::try_parse_from(["service", job]).is_err());
        assert!(Cli::try_parse_from(["service", "--job={}", "--supervisor=7"]).is_err());
    }

    #[test]
    fn the_connections_to_the_device_are_shared_out_and_none_is_made_up() {
        let shares = |arguments: &[&str]| {
            let config = Config::parse(arguments).expect("valid");
            (config.device_share(), config.device_rest())
        };
        assert_eq!(shares(&[]), (1, 12));
        assert_eq!(shares(&["--http=std"]), (3, 4));
        assert_eq!(shares(&["--device-pool=4"]), (0, 4));
        assert_eq!(shares(&["--http=std", "--device-pool=1"]), (0, 1));
    }

    #[test]
    fn the_requests_in_hand_are_shared_out_up_to_their_limit() {
        let shares = |arguments: &[&str]| {
            let config = Config::parse(arguments).expect("valid");
            (config.inflight_share(), config.inflight_rest())
        };
        assert_eq!(shares(&[]), (32, 128));
        assert_eq!(shares(&["--max-inflight=2"]), (0, 2));
        assert_eq!(shares(&["--max-inflight=9", "--http-workers=1"]), (4, 5));
    }

    #[test]
    fn the_variant_names_the_front_if_it_is_not_the_library() {
        let variant = |arguments: &[&str]| Config::parse(arguments).expect("valid").variant();
        assert_eq!(variant(&[]), "prefork");
        assert_eq!(variant(&["--http-workers=1"]), "literal");
        assert_eq!(variant(&["--http=std"]), "prefork-std");
        assert_eq!(variant(&["--http=std", "--http-workers=1"]), "literal-std");
    }

    #[test]
    fn help_tells_what_detaching_costs_and_hides_what_is_not_for_users() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("nobody restarts it"));
        assert!(!help.contains("--role"));
    }
}
