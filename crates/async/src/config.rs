//! Settings of the contract and of the model, checked once and immutable afterwards.
//!
//! Particular to tasks: there is no number of workers to choose, because a waiting request costs a
//! small struct and not a stack; what is chosen instead is who drives the tasks, one thread or one
//! per core.

use std::{num::NonZero, thread};

use clap::{CommandFactory, Parser, ValueEnum};
use contract::{BrokerUrl, Settings, settings};
use lapin::uri::AMQPUri;
use log::LevelFilter;

use crate::server::ServerError;

/// Who drives the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flavour {
    /// One thread: the classic event loop.
    CurrentThread,
    /// One thread per core, which steal tasks from one another.
    MultiThread,
}

impl Flavour {
    /// Name in `/info` and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CurrentThread => "current-thread",
            Self::MultiThread => "multi-thread",
        }
    }
}

/// The history service as tasks on one event loop
#[derive(Debug, Parser)]
#[command(name = "service-async", version)]
struct Cli {
    #[command(flatten)]
    settings: Settings,

    /// Who drives the tasks: one thread, or one per core
    #[arg(long, env = "BC_RUNTIME", value_enum, default_value_t = Flavour::CurrentThread)]
    runtime: Flavour,
}

/// Everything that was decided before the first task ran.
#[derive(Debug)]
pub struct Config {
    /// Settings of the contract.
    pub settings: Settings,
    /// Who drives the tasks.
    pub flavour: Flavour,
    /// Threads of [`Flavour::MultiThread`]: the cores that the process may use.
    pub cores: usize,
    /// Where the broker is and how to speak with it.
    pub broker: AMQPUri,
    /// From which level on to log.
    pub log: LevelFilter,
}

impl Config {
    /// Reads the command line and the environment.
    ///
    /// A wrong flag ends the process here: clap prints the usage and exits with 2.
    ///
    /// # Errors
    /// [`ServerError::Settings`] for an unknown `BC_` variable, a URL that is none, or a level that
    /// is none; the message names the remedy.
    pub fn load() -> Result<Self, ServerError> {
        let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
        let names = names.iter().map(|name| name.as_os_str());
        settings::reject_unknown_variables(&Cli::command(), names)
            .map_err(ServerError::Settings)?;
        Self::new(Cli::parse())
    }

    /// Reads `arguments` alone, for tests.
    ///
    /// # Errors
    /// As [`Self::load`].
    #[cfg(test)]
    pub fn parse(arguments: &[&str]) -> Result<Self, ServerError> {
        let command = ["service-async"].iter().chain(arguments);
        Self::new(Cli::try_parse_from(command).expect("arguments parse"))
    }

    fn new(cli: Cli) -> Result<Self, ServerError> {
        if !domain::key::is_valid(&cli.settings.name) {
            let rule = domain::key::REQUIREMENT;
            return Err(ServerError::Settings(format!("--name {rule}")));
        }
        Ok(Self {
            broker: broker(&cli.settings)?,
            log: level(&cli.settings.log)?,
            // The runtime would count the cores itself; it is written down here, so that the
            // number is ours to report and does not change with the library's version.
            cores: thread::available_parallelism().map_or(1, NonZero::get),
            flavour: cli.runtime,
            settings: cli.settings,
        })
    }
}

/// The broker's address with the limits that are equal in every model.
///
/// lapin takes them from the URL alone. `frame_max` decides the size of its two buffers per
/// connection (32 frames each), and so most of the memory of an idle service.
fn broker(settings: &Settings) -> Result<AMQPUri, ServerError> {
    let url = &settings.amqp_url;
    let wrong = |why: &str| {
        let redacted = settings::redact_url(url);
        ServerError::Settings(format!("--amqp-url {redacted}: {why}"))
    };
    if url.starts_with("amqps://") {
        return Err(wrong(
            "TLS is not built in; use amqp:// or a local TLS proxy",
        ));
    }
    // The library's error repeats the URL with its password, so the contract's reader comes first.
    BrokerUrl::parse(url).map_err(|why| wrong(&why))?;
    let unread = |_| wrong("the AMQP library cannot read it");
    let mut uri: AMQPUri = url.parse().map_err(unread)?;
    uri.query.frame_max = Some(settings.frame_max);
    uri.query.heartbeat = Some(settings.heartbeat_s);
    Ok(uri)
}

fn level(text: &str) -> Result<LevelFilter, ServerError> {
    text.parse().map_err(|_| {
        ServerError::Settings(format!(
            "--log {text}: must be off, error, warn, info, debug or trace"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_the_contract_reach_the_broker_url() {
        let config = Config::parse(&["--frame-max=4096", "--heartbeat-s=7"]).expect("valid");
        assert_eq!(config.broker.query.frame_max, Some(4096));
        assert_eq!(config.broker.query.heartbeat, Some(7));
        assert_eq!(config.flavour, Flavour::CurrentThread);
    }

    #[test]
    fn a_wrong_url_is_told_without_its_password() {
        for url in [
            "amqps://me:secret@host",
            "http://me:secret@host",
            "me:secret@host",
        ] {
            let arguments = ["--amqp-url", url];
            let error = Config::parse(&arguments).expect_err(url).to_string();
            assert!(error.contains("--amqp-url"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_wrong_level_is_told_with_the_right_ones() {
        let refused = Config::parse(&["--log=loud"]);
        let error = refused.expect_err("no level").to_string();
        assert!(error.contains("debug"), "{error}");
    }
}
