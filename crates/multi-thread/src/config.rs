//! Reads the settings of the contract and of the model.
//!
//! Particular to threads: nothing to set but the number of REST workers, which the contract has.

use clap::{CommandFactory, Parser};
use contract::{BrokerUrl, Settings, metrics::Role, settings::reject_unknown_variables};

/// Name of the model.
pub const MODEL: &str = "multi-thread";

/// The service as operating-system threads joined by channels
#[derive(Debug, Parser)]
#[command(name = "service-multi-thread", version)]
pub struct Cli {
    /// Settings that every model has.
    #[command(flatten)]
    settings: Settings,
}

/// What the service is told; never changes while it runs.
pub struct Config {
    /// Settings that every model has.
    pub settings: Settings,
    /// The broker, taken apart.
    pub broker: BrokerUrl,
}

impl Config {
    /// Parses the command line and the environment; `--help` and a wrong flag end the process.
    ///
    /// # Errors
    /// Names an unknown `BC_` variable, or the wrong part of the broker's URL.
    pub fn from_args() -> Result<Self, String> {
        let Cli { settings } = Cli::parse();
        let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
        reject_unknown_variables(&Cli::command(), names.iter().map(AsRef::as_ref))?;
        let broker = BrokerUrl::parse(&settings.amqp_url)?;
        Ok(Self { settings, broker })
    }

    /// `pool`, or `literal` with a single REST worker.
    #[must_use]
    pub const fn variant(&self) -> &'static str {
        if self.settings.http_workers == 1 {
            "literal"
        } else {
            "pool"
        }
    }

    /// Name of an AMQP connection, as the broker's operator sees it.
    #[must_use]
    pub fn connection_name(&self, role: Role) -> String {
        let role = match role {
            Role::Consumer => "consumer",
            Role::Publisher => "publisher",
        };
        format!("{MODEL}-{}-{role}", self.settings.name)
    }
}
