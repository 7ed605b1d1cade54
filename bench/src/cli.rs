//! The command line: verbs, options, and which exit code tells what.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::broker;
use crate::device::Simulator;
use crate::faults;
use crate::host;
use crate::pipeline::{
    self, CampaignOptions, RunEnd, RunError, RunOptions, RunReport, Suite, VerifyOptions,
};
use crate::profile::ProfileName;
use crate::run_dir::RunDir;
use crate::scenario::{self, DefinitionError};
use crate::subject;
use crate::verify;

/// A run was invalid, or a verification failed.
const EXIT_FAULTY: u8 = 1;
/// Usage or configuration.
const EXIT_USAGE: u8 = 2;
/// No broker, no build, no folder.
const EXIT_ENVIRONMENT: u8 = 3;
/// Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Compares one service in three concurrency models.
#[derive(Debug, Parser)]
#[command(
    name = "threeways",
    version,
    after_help = "Exit codes: 0 done (the report says which launches are \
valid); 1 a subject gave wrong answers, lost messages, died or failed a case; 2 usage or configuration; 3 no broker, build or folder; \
130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Measure subjects in scenarios and write a report.
    Run(RunArgs),
    /// Run the black-box suite against subjects.
    Verify(VerifyArgs),
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
}

#[derive(Debug, Args)]
struct RunArgs {
    /// How thorough: smoke (3 blocks, 90 s), standard (10 blocks, 20 min) or full (20 blocks).
    #[arg(long, value_enum, default_value = "smoke")]
    profile: ProfileName,
    /// Scenario to run; may be repeated, but `faults` only alone [default: those marked as default].
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
    /// Subject to measure; may be repeated [default: those marked as default].
    #[arg(long = "subject", value_name = "NAME")]
    subjects: Vec<String>,
    /// Blocks, each with one launch of every subject in every cell [default: by the profile].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    blocks: Option<u32>,
    /// Repetitions of every fault, only with `--scenario faults` [default: 1, 5 or 20 by the profile].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: Option<u32>,
    /// Repetitions at a time, only with `--scenario faults`; more than one takes a private node each
    /// whatever AMQP_URL says, saves time, and lets each disturb the others' recovery [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    lanes: Option<u32>,
    /// Fault to cause, only with `--scenario faults`; may be repeated [default: all].
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<String>,
    /// Seed of orders and schedules [default: the clock, in seconds].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Empty the queues of a broker that was not started here.
    #[arg(long)]
    purge: bool,
    /// Folder that gets the run's folder [default: results in the workspace].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Subject to verify; may be repeated [default: those marked as default].
    #[arg(long = "subject", value_name = "NAME")]
    subjects: Vec<String>,
    /// Only cases whose name contains this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    case: String,
    /// Subjects at a time; more than one takes a private node each, whatever AMQP_URL says, and lets
    /// each disturb the times of the others.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    lanes: u32,
    /// Also write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Only list the cases with their class.
    #[arg(long)]
    list: bool,
    /// Empty the queues of a broker that was not started here.
    #[arg(long)]
    purge: bool,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// Run folder, such as results/20260102T030405Z-smoke.
    run: PathBuf,
    /// Also put the answer between the markers of this file.
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum BrokerVerb {
    /// Make sure that a broker runs, and leave it running.
    Up,
    /// Stop the broker that `up` started.
    Down,
    /// Show what runs.
    Status,
}

#[derive(Debug, Args)]
struct DeviceArgs {
    /// Wait before each answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10)]
    latency_ms: u64,
    /// Address to listen on; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8870")]
    listen: SocketAddr,
}

/// Parses the process's arguments, does what they say, and tells how it went.
#[must_use]
pub fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_target(false)
        .init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows which stream each goes to.
            let code = u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE);
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match perform(cli.verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The exit code that belongs to an error: configuration is the user's, a subject that does not
/// come up is a verdict on it, the rest is the machine's.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<DefinitionError>() {
        return EXIT_USAGE;
    }
    error.downcast_ref().map_or(EXIT_ENVIRONMENT, run_exit_code)
}

fn run_exit_code(error: &RunError) -> u8 {
    match error {
        RunError::Definition(_) => EXIT_USAGE,
        RunError::Launch(_) => EXIT_FAULTY,
        RunError::Interrupted => EXIT_INTERRUPTED,
        RunError::Partial { source, .. } => run_exit_code(source),
        RunError::Build(_) | RunError::Broker(_) | RunError::RunDir(_) | RunError::Machine(..) => {
            EXIT_ENVIRONMENT
        }
    }
}

fn perform(verb: Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::Run(args) => match args.misfit() {
            Some(reason) => {
                eprintln!("error: {reason}");
                Ok(EXIT_USAGE)
            }
            None if args.is_campaign() => campaign(&args.into()),
            None => run(&args.into()),
        },
        Verb::Verify(args) => verify(&args),
        Verb::Report(args) => report(&args),
        Verb::List => list(),
        Verb::Broker { verb } => broker(&verb),
        Verb::Device(args) => device(&args),
    }
}

impl RunArgs {
    fn is_campaign(&self) -> bool {
        self.scenarios.iter().any(|name| name == faults::NAME)
    }

    /// What does not go together.
    fn misfit(&self) -> Option<&'static str> {
        let only_there =
            self.repetitions.is_some() || self.lanes.is_some() || !self.faults.is_empty();
        match self.is_campaign() {
            true if self.scenarios.len() > 1 => Some("`--scenario faults` goes alone"),
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
            blocks: args.blocks,
            seed: args.seed,
            purge: args.purge,
            out: args.out,
        }
    }
}

/// Runs the comparison and prints the answer and where the report is.
///
/// # Errors
/// If the run could not begin or ended early; its message names what to mend.
pub fn run(options: &RunOptions) -> anyhow::Result<u8> {
    let interrupt = interrupt()?;
    Ok(tell(&pipeline::run(options, &interrupt)?))
}

fn campaign(options: &CampaignOptions) -> anyhow::Result<u8> {
    let interrupt = interrupt()?;
    Ok(tell(&pipeline::campaign(options, &interrupt)?))
}

/// Prints what came out and where it stands; returns the exit code.
fn tell(report: &RunReport) -> u8 {
    print!("{}", report.text);
    println!("report: {}", report.folder.join("report.html").display());
    println!("        {}", report.folder.join("report.md").display());
    match report.end {
        RunEnd::Complete => 0,
        RunEnd::Faulty => EXIT_FAULTY,
        RunEnd::Interrupted => EXIT_INTERRUPTED,
    }
}

/// A flag that Ctrl-C and SIGTERM set; a second one ends the process at once.
fn interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_INTERRUPTED));
        }
        eprintln!("interrupted: what was measured is kept and reported; again to stop at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}

fn verify(args: &VerifyArgs) -> anyhow::Result<u8> {
    if args.list {
        for (name, class) in verify::names().filter(|(name, _)| name.contains(&args.case)) {
            println!("{:<10} {name}", class.as_str());
        }
        return Ok(0);
    }
    let interrupt = interrupt()?;
    let options = VerifyOptions {
        subjects: args.subjects.clone(),
        case: args.case.clone(),
        lanes: args.lanes,
        purge: args.purge,
    };
    let print = |(name, results): &Suite| println!("{}", verify::text(name, results));
    let suites = pipeline::verify(&options, &interrupt, print)?;
    if let Some(file) = &args.junit {
        std::fs::write(file, verify::junit(&suites))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let mut results = suites.iter().flat_map(|(_, results)| results);
    Ok(match results.any(verify::CaseResult::is_failure) {
        true => EXIT_FAULTY,
        false if interrupt.load(Ordering::Relaxed) => EXIT_INTERRUPTED,
        false => 0,
    })
}

fn report(args: &ReportArgs) -> anyhow::Result<u8> {
    let run = RunDir::open(&args.run)?;
    if args.readme.is_some() && run.path().join(faults::FILE).exists() {
        eprintln!("error: a fault campaign answers another question; name the run of a comparison");
        return Ok(EXIT_USAGE);
    }
    let summary = pipeline::write_report(&run)?;
    if let Some(readme) = &args.readme {
        pipeline::write_answer(readme, &summary)?;
    }
    println!("report: {}", run.path().join("report.html").display());
    Ok(0)
}

fn list() -> anyhow::Result<u8> {
    let root = host::workspace();
    println!("subjects (* compared by default):");
    for subject in subject::read_all(&root.join("bench/subjects"))? {
        let mark = if subject.default { '*' } else { ' ' };
        println!("  {mark} {:<24} {}", subject.name, subject.title);
    }
    println!("scenarios (* measured by default):");
    for scenario in scenario::read_all(&root.join("bench/scenarios"))? {
        let mark = if scenario.default { '*' } else { ' ' };
        println!("  {mark} {:<24} {}", scenario.name, scenario.question);
    }
    println!("    {:<24} {}", faults::NAME, faults::QUESTION);
    println!("faults:");
    for fault in faults::select(&[])? {
        println!("    {:<24} {}", fault.name, fault.title);
    }
    println!("profiles:");
    for name in ProfileName::ALL {
        println!("    {name:<24} {} blocks", name.profile().blocks);
    }
    Ok(0)
}

fn broker(verb: &BrokerVerb) -> anyhow::Result<u8> {
    let root = host::workspace();
    let options = broker::Options::from_environment(root.clone());
    println!("{}", broker_line(verb, &options, &root)?);
    Ok(0)
}

fn broker_line(
    verb: &BrokerVerb,
    options: &broker::Options,
    root: &Path,
) -> Result<String, broker::Error> {
    match verb {
        BrokerVerb::Up => broker::up(options),
        BrokerVerb::Down => broker::down(root),
        BrokerVerb::Status => Ok(broker::status(options)),
    }
}

fn device(args: &DeviceArgs) -> anyhow::Result<u8> {
    let interrupt = interrupt()?;
    let latency = Duration::from_millis(args.latency_ms);
    let simulator = Simulator::start(args.listen, latency).with_context(|| {
        format!(
            "cannot listen on {}; choose another with --listen",
            args.listen
        )
    })?;
    println!("listening on {}", simulator.address());
    while !interrupt.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_verb_is_a_usage_error() {
        let error = Cli::try_parse_from(["threeways", "meter"]).expect_err("no such verb");
        assert_eq!(error.exit_code(), i32::from(EXIT_USAGE));
        assert!(error.to_string().contains("meter"));
    }

    #[test]
    fn the_campaign_goes_alone_and_its_flags_with_it() {
        let misfit = |line: &str| {
            let words = ["threeways", "run"]
                .into_iter()
                .chain(line.split_whitespace());
            match Cli::try_parse_from(words).expect("parses").verb {
                Verb::Run(args) => args.misfit().is_some(),
                _ => false,
            }
        };
        assert!(!misfit("--scenario faults --fault poison --repetitions 2"));
        assert!(misfit("--scenario faults --scenario idle"));
        assert!(misfit("--scenario faults --blocks 2"));
        assert!(misfit("--scenario idle --fault poison"));
        assert!(misfit("--repetitions 2"));
        assert!(misfit("--lanes 2"));
    }

    #[test]
    fn a_wrong_name_is_the_users_and_a_missing_folder_the_machines() {
        let wrong = DefinitionError::Unknown {
            what: "subject",
            name: "x".into(),
            known: "y".into(),
        };
        assert_eq!(exit_code(&RunError::from(wrong).into()), EXIT_USAGE);
        let missing = RunDir::open(Path::new("/nowhere")).expect_err("no such folder");
        assert_eq!(exit_code(&missing.into()), EXIT_ENVIRONMENT);
    }
}
