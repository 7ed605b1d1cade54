//! Reads the settings of the contract and of the model.
//!
//! Particular to threads: nothing to set but the number of REST workers, which the contract has,
//! and whether they are the library's or our own.

use clap::{CommandFactory, Parser, ValueEnum};
use contract::{BrokerUrl, Settings, metrics::Role, settings::reject_unknown_variables};

/// Name of the model.
pub const MODEL: &str = "multi-thread";

/// What never reaches the log, whatever its level: the HTTP library logs the end of its listener as
/// an error, of which we hear anyway, and the AMQP library logs the password in its handshake.
const UNLOGGED: &str = "tiny_http=off,amiquip::io_loop::handshake_state=off";

/// The service as operating-system threads joined by channels
#[derive(Debug, Parser)]
#[command(name = "service-multi-thread", version)]
pub struct Cli {
    /// Settings that every model has.
    #[command(flatten)]
    settings: Settings,

    /// How HTTP is spoken: by the library tiny_http, or by sockets of the standard library with a
    /// thread per connection and every limit of the contract
    #[arg(long, env = "BC_HTTP", value_enum, default_value_t = HttpFront::TinyHttp)]
    http: HttpFront,
}

/// What stands between the handlers and the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HttpFront {
    /// The library; so many requests at a time as there are workers.
    TinyHttp,
    /// Sockets and threads of the standard library; so many requests at a time as there are
    /// clients.
    Std,
}

/// What the service is told; never changes while it runs.
pub struct Config {
    /// Settings that every model has.
    pub settings: Settings,
    /// The broker, taken apart.
    pub broker: BrokerUrl,
    /// How HTTP is spoken.
    pub front: HttpFront,
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
        let command = ["service-multi-thread"].iter().chain(arguments);
        Self::new(Cli::try_parse_from(command).expect("arguments parse"))
    }

    fn new(cli: Cli) -> Result<Self, String> {
        Ok(Self {
            broker: BrokerUrl::parse(&cli.settings.amqp_url)?,
            settings: cli.settings,
            front: cli.http,
        })
    }

    /// `pool`, or `literal` with a single REST worker; `pool-std` without the library, where a
    /// worker is whoever serves a connection.
    #[must_use]
    pub const fn variant(&self) -> &'static str {
        match (self.front, self.settings.http_workers) {
            (HttpFront::Std, _) => "pool-std",
            (HttpFront::TinyHttp, 1) => "literal",
            (HttpFront::TinyHttp, _) => "pool",
        }
    }

    /// Logs to stderr.
    pub fn start_logger(&self) {
        env_logger::Builder::new()
            .parse_filters(&format!("{},{UNLOGGED}", self.settings.log))
            .init();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variant_tells_the_front_and_the_workers() {
        for (arguments, variant) in [
            (&[][..], "pool"),
            (&["--http-workers=1"], "literal"),
            (&["--http=std"], "pool-std"),
        ] {
            let config = Config::parse(arguments).expect("valid");
            assert_eq!(config.variant(), variant);
        }
    }

    #[test]
    fn a_wrong_url_is_told_without_its_password() {
        let refused = Config::parse(&["--amqp-url=http://me:secret@host"]);
        let error = refused.err().expect("refused");
        assert!(!error.contains("secret"), "{error}");
    }
}
