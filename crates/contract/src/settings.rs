//! Settings: every flag is also an environment variable, and the flag wins.

use std::{ffi::OsStr, net::SocketAddr, path::PathBuf};

use clap::{Args, Command, ValueEnum};

/// Whether REST and AMQP share state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// REST and AMQP share nothing.
    Isolated,
    /// AMQP writes the store, REST reads it; a delivery is acked after its effect is visible.
    Shared,
}

/// Type of the durable queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QueueType {
    /// Replicated log with a delivery limit.
    Quorum,
    /// Classic queue.
    Classic,
}

impl Profile {
    /// Name in `/info` and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Shared => "shared",
        }
    }
}

impl QueueType {
    /// Value of `x-queue-type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

/// Settings that every model has, with the same defaults.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Address to serve REST on; port 0 takes a free one, which is printed
    #[arg(
        long,
        env = "BC_HTTP_ADDR",
        default_value = "127.0.0.1:8080",
        value_name = "IP:PORT"
    )]
    pub http_addr: SocketAddr,

    /// Broker, as amqp://user:password@host:port/vhost
    #[arg(
        long,
        env = "BC_AMQP_URL",
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2f",
        value_name = "URL",
        hide_env_values = true
    )]
    pub amqp_url: String,

    /// Device that commands are sent to, over TCP
    #[arg(
        long,
        env = "BC_DEVICE_ADDR",
        default_value = "127.0.0.1:8870",
        value_name = "IP:PORT"
    )]
    pub device_addr: SocketAddr,

    /// Connections to the device at once, in the whole service
    #[arg(long, env = "BC_DEVICE_POOL", default_value_t = 16, value_name = "N", value_parser = count)]
    pub device_pool: usize,

    /// Name of the instance, in `/info`, broadcasts and connection names
    #[arg(long, env = "BC_NAME", default_value = "history", value_name = "NAME")]
    pub name: String,

    /// Whether REST reads what AMQP writes
    #[arg(long, env = "BC_PROFILE", value_enum, default_value_t = Profile::Shared)]
    pub profile: Profile,

    /// Type of the durable queues
    #[arg(long, env = "BC_QUEUE_TYPE", value_enum, default_value_t = QueueType::Quorum)]
    pub queue_type: QueueType,

    /// Deliveries in flight to the consumer
    #[arg(long, env = "BC_PREFETCH", default_value_t = 100, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub prefetch: u16,

    /// Deliveries per ack; an ack is sent after 10 ms at the latest
    #[arg(long, env = "BC_ACK_BATCH", default_value_t = 32, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub ack_batch: u16,

    /// Largest AMQP frame in bytes; decides how much memory a connection takes
    #[arg(long, env = "BC_FRAME_MAX", default_value_t = 8192, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(4096..=131_072))]
    pub frame_max: u32,

    /// AMQP heartbeat in seconds
    #[arg(long, env = "BC_HEARTBEAT_S", default_value_t = 10, value_name = "SECONDS",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub heartbeat_s: u16,

    /// REST workers: processes or threads; the event loop needs none and only reports it
    #[arg(long, env = "BC_HTTP_WORKERS", default_value_t = 4, value_name = "N", value_parser = count)]
    pub http_workers: usize,

    /// Connections served at once; one more is answered with 503 and closed
    #[arg(long, env = "BC_MAX_CONNS", default_value_t = 1024, value_name = "N", value_parser = count)]
    pub max_conns: usize,

    /// Requests handled at once; one more is answered with 503
    #[arg(long, env = "BC_MAX_INFLIGHT", default_value_t = 256, value_name = "N", value_parser = count)]
    pub max_inflight: usize,

    /// Largest request body in bytes
    #[arg(
        long,
        env = "BC_BODY_LIMIT",
        default_value_t = 65_536,
        value_name = "BYTES"
    )]
    pub body_limit: usize,

    /// Seconds until a value expires
    #[arg(long, env = "BC_TTL_S", default_value_t = 3600, value_name = "SECONDS")]
    pub ttl_s: u64,

    /// Points kept per key and field
    #[arg(long, env = "BC_SERIES_POINTS", default_value_t = 256, value_name = "N", value_parser = count)]
    pub series_points: usize,

    /// Keys kept; the longest unchanged one gives way to a new one
    #[arg(long, env = "BC_MAX_KEYS", default_value_t = 10_000, value_name = "N", value_parser = count)]
    pub max_keys: usize,

    /// Seconds between two broadcasts of the service's state
    #[arg(long, env = "BC_BROADCAST_S", default_value_t = 5, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub broadcast_s: u64,

    /// File to which every event is appended, off the path of the deliveries; none without it
    #[arg(long, env = "BC_SINK", value_name = "PATH")]
    pub sink: Option<PathBuf>,

    /// Microseconds of computation added to each `flatten` and each delivery, to see who waits for it
    #[arg(long, env = "BC_CPU_US", default_value_t = 0, value_name = "US")]
    pub cpu_us: u64,

    /// Key whose events fail as if a resource were short, to see deliveries come again
    #[arg(long, env = "BC_FAULT_KEY", value_name = "KEY")]
    pub fault_key: Option<String>,

    /// Seconds between "not ready" and the end of serving, for a load balancer to notice
    #[arg(
        long,
        env = "BC_DRAIN_DELAY_S",
        default_value_t = 0,
        value_name = "SECONDS"
    )]
    pub drain_delay_s: u64,

    /// Seconds that a shutdown may take
    #[arg(long, env = "BC_GRACE_S", default_value_t = 10, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub grace_s: u64,

    /// Log level: off, error, warn, info, debug or trace
    #[arg(long, env = "BC_LOG", default_value = "warn", value_name = "LEVEL")]
    pub log: String,
}

/// Parses a count of at least one.
fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("must be a whole number".into()),
    }
}

/// Exit code for a wrong flag or variable, and for a broker that refuses us at the first start.
pub const EXIT_CONFIG: u8 = 2;
/// Exit code when the HTTP address cannot be bound.
pub const EXIT_BIND: u8 = 3;
/// Exit code when the grace period ended before everything was done.
pub const EXIT_DROPPED: u8 = 1;
/// Exit code after a second signal.
pub const EXIT_SECOND_SIGNAL: u8 = 130;

/// Finds `BC_` variables that `command` does not know: a misspelt setting must not be ignored.
///
/// # Errors
/// Names the unknown variables; the remedy is `--help`, which lists the known ones.
pub fn reject_unknown_variables<'a>(
    command: &Command,
    names: impl Iterator<Item = &'a OsStr>,
) -> Result<(), String> {
    let known: Vec<&OsStr> = command
        .get_arguments()
        .filter_map(|arg| arg.get_env())
        .collect();
    let mut unknown: Vec<String> = names
        .filter(|name| name.to_string_lossy().starts_with("BC_") && !known.contains(name))
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    unknown.sort();
    match unknown.as_slice() {
        [] => Ok(()),
        names => Err(format!(
            "unknown variable {}; --help lists the known ones",
            names.join(", ")
        )),
    }
}

/// The broker URL without its password, for logs.
///
/// What cannot be told from a password counts as one: without `@`, a port must be a number.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "(not a URL)".into();
    };
    if let Some((credentials, host)) = rest.rsplit_once('@') {
        let user = credentials.split(':').next().unwrap_or_default();
        return format!("{scheme}://{user}:***@{host}");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.split_once(':') {
        Some((host, port)) if port.parse::<u16>().is_err() => format!("{scheme}://{host}:***"),
        _ => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn the_defaults_are_the_contracts() {
        let settings = Cli::try_parse_from(["service"])
            .expect("defaults parse")
            .settings;
        assert_eq!(settings.prefetch, 100);
        assert_eq!(settings.ack_batch, 32);
        assert_eq!(settings.frame_max, 8192);
        assert_eq!(settings.profile, Profile::Shared);
    }

    #[test]
    fn a_zero_where_one_is_the_least_is_refused() {
        for flag in [
            "--http-workers=0",
            "--prefetch=0",
            "--ack-batch=0",
            "--device-pool=0",
        ] {
            let error = Cli::try_parse_from(["service", flag])
                .expect_err(flag)
                .to_string();
            assert!(
                error.contains(flag.split('=').next().unwrap_or_default()),
                "{error}"
            );
        }
    }

    #[test]
    fn every_setting_has_a_variable_named_like_its_flag() {
        use clap::CommandFactory;
        for argument in Cli::command()
            .get_arguments()
            .filter(|arg| arg.get_id() != "help")
        {
            let flag = argument.get_long().expect("every setting has a flag");
            let variable = format!("BC_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env(), Some(OsStr::new(&variable)));
        }
    }

    #[test]
    fn a_misspelt_variable_is_named() {
        use clap::CommandFactory;
        let names = ["PATH", "BC_PREFETCH", "BC_PREFECH"].map(OsStr::new);
        let error = reject_unknown_variables(&Cli::command(), names.into_iter());
        assert_eq!(
            error,
            Err("unknown variable BC_PREFECH; --help lists the known ones".into())
        );
    }

    #[test]
    fn a_password_never_reaches_a_log() {
        assert_eq!(
            redact_url("amqp://me:se:c@ret@host:1/x"),
            "amqp://me:***@host:1/x"
        );
        assert_eq!(redact_url("amqp://host"), "amqp://host");
        assert_eq!(redact_url("amqp://host:5672/x"), "amqp://host:5672/x");
        assert_eq!(redact_url("amqp://me:secret/x"), "amqp://me:***");
        assert_eq!(redact_url("amqp://me:secret:5672"), "amqp://me:***");
        assert_eq!(redact_url("nonsense"), "(not a URL)");
    }
}
