//! Reads the settings of the contract and of the model.
//!
//! Particular to processes: a child is started with its parent's own arguments and environment and
//! parses them again, so nothing has to be passed between the processes but the [`Part`].

use clap::{Args, CommandFactory, Parser, ValueEnum};
use contract::{BrokerUrl, Settings, metrics, settings::reject_unknown_variables};

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

    #[command(flatten)]
    part: PartArgs,
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
    /// Which child this is; `None` for the first process.
    pub part: Option<Part>,
}

impl Config {
    /// Parses the command line and the environment; `--help` and a wrong flag end the process.
    ///
    /// # Errors
    /// Names an unknown `BC_` variable, or the wrong part of the broker's URL.
    pub fn from_args() -> Result<Self, String> {
        let Cli {
            settings,
            detach,
            part,
        } = Cli::parse();
        let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
        reject_unknown_variables(&Cli::command(), names.iter().map(AsRef::as_ref))?;
        let broker = BrokerUrl::parse(&settings.amqp_url)?;
        Ok(Self {
            settings,
            broker,
            detach,
            part: part.into_part(),
        })
    }

    /// `prefork`, or `literal` with a single REST process.
    #[must_use]
    pub const fn variant(&self) -> &'static str {
        if self.settings.http_workers == 1 {
            "literal"
        } else {
            "prefork"
        }
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
        self.part
            .as_ref()
            .map_or("supervisor", |part| part.role.as_str())
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
    fn help_tells_what_detaching_costs_and_hides_what_is_not_for_users() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("nobody restarts it"));
        assert!(!help.contains("--role"));
    }
}
