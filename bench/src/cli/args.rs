//! What can be said on the command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::analyse::objective::Objective;
use crate::faults;
use crate::pipeline::{
    CampaignOptions, CapacityOptions, DoctorOptions, ResolveOptions, RunOptions,
};
use crate::profile::ProfileName;
use crate::record::Layout;

/// Compares one service in three concurrency models.
#[derive(Debug, Parser)]
#[command(
    name = "threeways",
    version,
    after_help = "Exit codes: 0 done (the report says which launches are valid); 1 a subject gave wrong answers, lost \
messages, died or failed a case, an objective of --slo was not held, a comparison found something worse, the doctor \
found the instrument wrong, or `resolve` missed a target; 2 usage or configuration; 3 no broker, build or folder; \
130 interrupted."
)]
pub(super) struct Cli {
    /// Let cores without work sleep while something is measured, as most hosts in service do; figures
    /// scatter more by it.
    #[arg(long, global = true)]
    pub(super) let_cores_sleep: bool,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Measure subjects in scenarios and write a report.
    Run(RunArgs),
    /// Search the highest rate of each subject whose responses are in time, then measure what a
    /// request costs at 10, 25, 50 and 75 % of the slowest one's.
    Capacity(CapacityArgs),
    /// Run the black-box suite against subjects.
    Verify(VerifyArgs),
    /// Tell what has changed for each subject between two runs; exit code 1 if something is worse.
    Compare(CompareArgs),
    /// Examine this machine and hold the instrument against known truth.
    Doctor(DoctorArgs),
    /// Measure what can be told apart here: one subject against itself, and against itself slowed down.
    Resolve(ResolveArgs),
    /// Build the report of a run folder again: the same bytes each time.
    Report(ReportArgs),
    /// List subjects, scenarios and profiles.
    List,
    /// Start, stop or show the broker.
    Broker {
        #[command(subcommand)]
        verb: BrokerVerb,
    },
    /// Simulate the device: answer each line after a latency, until Ctrl-C.
    Device(DeviceArgs),
    /// Run a service and burn CPU beside it: the planted slow-down of `resolve`.
    #[command(hide = true)]
    Handicap(HandicapArgs),
}

impl Verb {
    /// Whether it measures anything.
    pub(super) fn measures(&self) -> bool {
        match self {
            Self::Run(_) | Self::Capacity(_) | Self::Resolve(_) => true,
            Self::Doctor(args) => args.from.is_none(),
            Self::Verify(_) | Self::Compare(_) | Self::Report(_) | Self::List => false,
            Self::Broker { .. } | Self::Device(_) | Self::Handicap(_) => false,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// How thorough: smoke (3 blocks, 90 s), standard (10 blocks, 15 min) or full (20 blocks, 90 min).
    #[arg(long, value_enum, default_value = "smoke")]
    pub(super) profile: ProfileName,
    /// Scenario to run; may be repeated, but `faults` only alone [default: those marked as default].
    #[arg(long = "scenario", value_name = "NAME")]
    pub(super) scenarios: Vec<String>,
    /// Subject to measure; may be repeated [default: those marked as default].
    #[arg(long = "subject", value_name = "NAME")]
    pub(super) subjects: Vec<String>,
    /// Who may use which core: isolated, shared or native; one layout for all scenarios of the run
    /// [default: each scenario's own].
    #[arg(long, value_name = "NAME", value_parser = layout)]
    pub(super) layout: Option<Layout>,
    /// Blocks, each with one launch of every subject in every cell [default: by the profile].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) blocks: Option<u32>,
    /// Repetitions of every fault, only with `--scenario faults` [default: 1, 5 or 20 by the profile].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) repetitions: Option<u32>,
    /// Repetitions at a time, only with `--scenario faults`; more than one takes a private node each
    /// whatever AMQP_URL says, saves time, and lets each disturb the others' recovery [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) lanes: Option<u32>,
    /// Fault to cause, only with `--scenario faults`; may be repeated [default: all].
    #[arg(long = "fault", value_name = "NAME")]
    pub(super) faults: Vec<String>,
    /// Demand of the figures, such as rest.p99=50ms, cpu_per_op=300us, pss=64MiB, or only of a scenario,
    /// cell or subject: steady-mixed:amqp.p99=100ms; may be repeated. Exit code 1 if a figure of a valid
    /// launch misses it, or if a subject has no such figure anywhere.
    #[arg(long = "slo", value_name = "[SCOPE:]METRIC=VALUE")]
    pub(super) objectives: Vec<Objective>,
    /// Seed of orders and schedules [default: the clock, in seconds].
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Empty the queues of a broker that was not started here.
    #[arg(long)]
    pub(super) purge: bool,
    /// Folder that gets the run's folder [default: results in the workspace].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CapacityArgs {
    /// How thorough: windows of 1, 4 or 10 s, and 3, 10 or 20 blocks of the cost ladder.
    #[arg(long, value_enum, default_value = "smoke")]
    pub(super) profile: ProfileName,
    /// Subject to measure; may be repeated [default: those marked as default].
    #[arg(long = "subject", value_name = "NAME")]
    pub(super) subjects: Vec<String>,
    /// Longest response time at the quantile, in milliseconds, from 0.1 to 10000.
    #[arg(long, value_name = "MS", default_value_t = 50.0, value_parser = milliseconds)]
    pub(super) slo_ms: f64,
    /// Quantile of the response time that has to be in time, from 0.5 to 0.9999.
    #[arg(long, value_name = "Q", default_value_t = 0.99, value_parser = quantile)]
    pub(super) quantile: f64,
    /// Who may use which core: isolated, shared or native [default: isolated].
    #[arg(long, value_name = "NAME", value_parser = layout)]
    pub(super) layout: Option<Layout>,
    /// Leave out the cost ladder.
    #[arg(long, conflicts_with = "blocks")]
    pub(super) search_only: bool,
    /// Blocks of the cost ladder, each with one launch of every subject at every rate
    /// [default: by the profile].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) blocks: Option<u32>,
    /// Seed of orders and schedules [default: the clock, in seconds].
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Empty the queues of a broker that was not started here.
    #[arg(long)]
    pub(super) purge: bool,
    /// Folder that gets the run's folder [default: results in the workspace].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

fn within(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(format!("from {low} to {high}"))
    }
}

fn milliseconds(text: &str) -> Result<f64, String> {
    within(text, 0.1, 10_000.0)
}

fn quantile(text: &str) -> Result<f64, String> {
    within(text, 0.5, 0.999_9)
}

fn layout(text: &str) -> Result<Layout, String> {
    match text {
        "isolated" => Ok(Layout::Isolated),
        "shared" => Ok(Layout::Shared),
        "native" => Ok(Layout::Native),
        _ => Err("known are: isolated, shared, native".into()),
    }
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Subject to verify; may be repeated [default: those marked as default].
    #[arg(long = "subject", value_name = "NAME")]
    pub(super) subjects: Vec<String>,
    /// Only cases whose name contains this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) case: String,
    /// Subjects at a time; more than one takes a private node each, whatever AMQP_URL says, and lets
    /// each disturb the times of the others.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(super) lanes: u32,
    /// Also write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub(super) junit: Option<PathBuf>,
    /// Only list the cases with their class.
    #[arg(long)]
    pub(super) list: bool,
    /// Empty the queues of a broker that was not started here.
    #[arg(long)]
    pub(super) purge: bool,
}

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// Run folder of the earlier run.
    pub(super) before: PathBuf,
    /// Run folder of the later run.
    pub(super) after: PathBuf,
    /// Smallest change that counts, in percent; below 2 none does.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub(super) threshold: f64,
}

fn percent(text: &str) -> Result<f64, String> {
    within(text, 0.0, 1_000.0)
}

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Windows of 2 s in place of 10 s: half a minute in all, coarser figures, and nothing of what can
    /// be told apart.
    #[arg(long)]
    pub(super) quick: bool,
    /// Leave out what needs a broker: a trial, and what can be told apart.
    #[arg(long)]
    pub(super) no_broker: bool,
    /// Empty the queues of a broker that was not started here.
    #[arg(long)]
    pub(super) purge: bool,
    /// Also write everything as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Also write it as a page of HTML.
    #[arg(long, value_name = "FILE")]
    pub(super) page: Option<PathBuf>,
    /// Examine nothing; take what `--json` wrote into this file, and make the page of it again.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "no_broker", "purge", "json"])]
    pub(super) from: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Each block launches the subject four times, which take turns under load: as it is, as its own twin, \
with 5 % more CPU per operation, and with the sampler at rest. \
20 blocks with windows of 3 s take about seven minutes. Exit codes: 0 every target is held; 1 one is missed."
)]
pub(super) struct ResolveArgs {
    /// Subject to launch under all names.
    #[arg(long, value_name = "NAME", default_value = "async")]
    pub(super) subject: String,
    /// Blocks, each with one launch under every name; 20 make two disjoint sets of ten.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(10..=1000))]
    pub(super) blocks: u32,
    /// Measured window of each launch in seconds; 10 have enough operations for the p99 of a report.
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = window)]
    pub(super) window_s: f64,
    /// Seed of orders, schedules and splits [default: the clock, in seconds].
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// Empty the queues of a broker that was not started here.
    #[arg(long)]
    pub(super) purge: bool,
    /// Folder that gets the run's folder [default: results in the workspace].
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

fn window(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.5..=600.0).contains(&value) {
        Ok(value)
    } else {
        Err("from 0.5 to 600".to_owned())
    }
}

#[derive(Debug, Args)]
pub(super) struct HandicapArgs {
    /// CPU to use beside the service, in µs per second.
    #[arg(long, value_name = "N")]
    pub(super) cpu_us_per_s: f64,
    /// The service with its arguments.
    #[arg(last = true, required = true)]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Run folder, such as results/20260102T030405Z-smoke.
    pub(super) run: PathBuf,
    /// Also put the answer between the markers of this file.
    #[arg(long, value_name = "FILE")]
    pub(super) readme: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BrokerVerb {
    /// Make sure that a broker runs, and leave it running.
    Up,
    /// Stop the broker that `up` started.
    Down,
    /// Show what runs.
    Status,
}

#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    /// Wait before each answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10)]
    pub(super) latency_ms: u64,
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8870")]
    pub(super) listen: SocketAddr,
}

impl RunArgs {
    pub(super) fn is_campaign(&self) -> bool {
        self.scenarios.iter().any(|name| name == faults::NAME)
    }

    /// What does not go together.
    pub(super) fn misfit(&self) -> Option<&'static str> {
        let only_there =
            self.repetitions.is_some() || self.lanes.is_some() || !self.faults.is_empty();
        match self.is_campaign() {
            true if self.scenarios.len() > 1 => Some("`--scenario faults` goes alone"),
            true if !self.objectives.is_empty() => {
                Some("`--scenario faults` has no figures for --slo")
            }
            true if self.layout.is_some() => {
                Some("`--scenario faults` has a layout of its own: nothing is pinned")
            }
            true if self.blocks.is_some() => {
                Some("`--scenario faults` has no blocks; use --repetitions")
            }
            false if only_there => {
                Some("--repetitions, --lanes and --fault belong to `--scenario faults`")
            }
            _ => None,
        }
    }
}

impl From<RunArgs> for CampaignOptions {
    fn from(args: RunArgs) -> Self {
        Self {
            profile: args.profile,
            faults: args.faults,
            subjects: args.subjects,
            repetitions: args.repetitions,
            lanes: args.lanes.unwrap_or(1),
            seed: args.seed,
            purge: args.purge,
            out: args.out,
        }
    }
}

impl From<RunArgs> for RunOptions {
    fn from(args: RunArgs) -> Self {
        Self {
            profile: args.profile,
            scenarios: args.scenarios,
            subjects: args.subjects,
            layout: args.layout,
            blocks: args.blocks,
            seed: args.seed,
            purge: args.purge,
            objectives: args.objectives,
            out: args.out,
        }
    }
}

impl From<CapacityArgs> for CapacityOptions {
    fn from(args: CapacityArgs) -> Self {
        Self {
            profile: args.profile,
            subjects: args.subjects,
            slo: Duration::from_secs_f64(args.slo_ms / 1e3),
            quantile: args.quantile,
            layout: args.layout,
            search_only: args.search_only,
            blocks: args.blocks,
            seed: args.seed,
            purge: args.purge,
            out: args.out,
        }
    }
}

impl From<ResolveArgs> for ResolveOptions {
    fn from(args: ResolveArgs) -> Self {
        Self {
            subject: args.subject,
            blocks: args.blocks,
            window_s: args.window_s,
            seed: args.seed,
            purge: args.purge,
            out: args.out,
        }
    }
}

impl From<&DoctorArgs> for DoctorOptions {
    fn from(args: &DoctorArgs) -> Self {
        Self {
            quick: args.quick,
            with_broker: !args.no_broker,
            purge: args.purge,
        }
    }
}
