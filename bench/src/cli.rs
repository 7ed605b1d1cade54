//! The command line: verbs, and which exit code tells what.

mod args;

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

use crate::analyse::analyse;
use crate::analyse::change::{ChangeVerdict, Changes};
use crate::broker;
use crate::calibrate::Examination;
use crate::device::Simulator;
use crate::faults;
use crate::handicap;
use crate::host;
use crate::host::awake::Awake;
use crate::pipeline::{
    self, CampaignOptions, CapacityOptions, RunEnd, RunError, RunOptions, RunReport, Suite,
    VerifyOptions,
};
use crate::profile::ProfileName;
use crate::report;
use crate::run_dir::RunDir;
use crate::sample::descendants;
use crate::scenario::{self, DefinitionError};
use crate::subject;
use crate::verify;

use args::{
    BrokerVerb, Cli, CompareArgs, DeviceArgs, DoctorArgs, HandicapArgs, ReportArgs, ResolveArgs,
    Verb, VerifyArgs,
};

/// A run was invalid, an objective was not held, or a verification failed.
const EXIT_FAULTY: u8 = 1;
/// Usage or configuration.
const EXIT_USAGE: u8 = 2;
/// No broker, no build, no folder.
const EXIT_ENVIRONMENT: u8 = 3;
/// Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;
/// A second signal so soon is the first once more: `timeout` sends it to the process and then to its
/// group.
const SAME_REQUEST: Duration = Duration::from_millis(100);

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
    let keeps_awake = cli.verb.measures() && !cli.let_cores_sleep;
    let _awake = keeps_awake.then(Awake::hold);
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
        RunError::Build(_) | RunError::Broker(_) | RunError::RunDir(_) => EXIT_ENVIRONMENT,
        RunError::Ceiling(_) | RunError::Machine(..) => EXIT_ENVIRONMENT,
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
        Verb::Capacity(args) => capacity(&args.into()),
        Verb::Verify(args) => verify(&args),
        Verb::Compare(args) => compare(&args),
        Verb::Doctor(args) => doctor(&args),
        Verb::Resolve(args) => resolve(args),
        Verb::Report(args) => report(&args),
        Verb::List => list(),
        Verb::Broker { verb } => broker(&verb),
        Verb::Device(args) => device(&args),
        Verb::Handicap(args) => handicap(&args),
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

fn capacity(options: &CapacityOptions) -> anyhow::Result<u8> {
    let interrupt = interrupt()?;
    Ok(tell(&pipeline::capacity(options, &interrupt)?))
}

/// Prints what came out and where it stands; returns the exit code.
fn tell(report: &RunReport) -> u8 {
    let page = report.folder.join("report.html");
    let text = report.folder.join("report.md");
    show(format_args!(
        "{}report: {}\n        {}\n",
        report.text,
        page.display(),
        text.display()
    ));
    match report.end {
        RunEnd::Complete => 0,
        RunEnd::Faulty | RunEnd::Missed => EXIT_FAULTY,
        RunEnd::Interrupted => EXIT_INTERRUPTED,
    }
}

/// Writes to stdout. A reader who has seen enough (`… | head`) is no error: whatever is printed was
/// done, and written to its files, before.
fn show(text: impl Display) {
    match write!(io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("warning: cannot write to stdout: {error}");
        }
        _ => {}
    }
}

/// A flag that Ctrl-C and SIGTERM set; a second one ends the process at once, and what it has started
/// with it.
fn interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let mut first = None;
    ctrlc::set_handler(move || match first {
        None => {
            first = Some(Instant::now());
            seen.store(true, Ordering::Relaxed);
            eprintln!("interrupted: what was measured is kept and reported; again to stop at once");
        }
        Some(first) if first.elapsed() < SAME_REQUEST => {}
        Some(_) => end_at_once(),
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(flag)
}

/// Kills the broker's node, the subjects and whatever else was started here: they have process groups
/// of their own, so that Ctrl-C does not reach them.
fn end_at_once() -> ! {
    if let Some(command) = broker::kill_own(&host::workspace()) {
        eprintln!("the broker's container goes on; `{command}` ends it");
    }
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    for pid in descendants(own).into_iter().filter_map(Pid::from_raw) {
        // Fails if it has just ended, which is fine.
        let _ = kill_process(pid, Signal::KILL);
    }
    std::process::exit(i32::from(EXIT_INTERRUPTED))
}

fn verify(args: &VerifyArgs) -> anyhow::Result<u8> {
    if args.list {
        let names = verify::names().filter(|(name, _)| name.contains(&args.case));
        let lines = names.map(|(name, class)| format!("{:<10} {name}\n", class.as_str()));
        show(lines.collect::<String>());
        return Ok(0);
    }
    let interrupt = interrupt()?;
    let options = VerifyOptions {
        subjects: args.subjects.clone(),
        case: args.case.clone(),
        lanes: args.lanes,
        purge: args.purge,
    };
    let print = |(name, results): &Suite| show(verify::text(name, results) + "\n");
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

fn compare(args: &CompareArgs) -> anyhow::Result<u8> {
    let summary = |path: &Path| -> anyhow::Result<_> {
        let run = RunDir::open(path)?;
        anyhow::ensure!(
            !run.path().join(faults::FILE).exists(),
            "{} is a fault campaign; compare the runs of comparisons",
            path.display()
        );
        Ok(analyse(&pipeline::read_run(&run)?))
    };
    let (before, after) = (summary(&args.before)?, summary(&args.after)?);
    let changes = Changes::of(&before, &after, args.threshold / 100.0);
    anyhow::ensure!(
        !changes.changes.is_empty(),
        "the two runs have no figure in common; name runs of the same scenarios"
    );
    show(report::change::text(&changes));
    Ok(match changes.with(ChangeVerdict::Worse).count() {
        0 => 0,
        _ => EXIT_FAULTY,
    })
}

fn doctor(args: &DoctorArgs) -> anyhow::Result<u8> {
    let examination = match &args.from {
        Some(file) => examination(file)?,
        None => pipeline::doctor(&args.into(), &interrupt()?)?,
    };
    let write = |file: &Option<PathBuf>, text: &dyn Fn() -> String| match file {
        Some(file) => {
            std::fs::write(file, text()).with_context(|| format!("cannot write {}", file.display()))
        }
        None => Ok(()),
    };
    write(&args.json, &|| report::doctor::json(&examination))?;
    write(&args.page, &|| report::doctor::page(&examination))?;
    show(report::doctor::text(&examination));
    Ok(match examination.holds() {
        true => 0,
        false if examination.interrupted => EXIT_INTERRUPTED,
        false => EXIT_FAULTY,
    })
}

/// An earlier examination.
fn examination(file: &Path) -> anyhow::Result<Examination> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| {
        let file = file.display();
        format!("{file} is no examination; name a file that `doctor --json` wrote")
    })
}

fn resolve(args: ResolveArgs) -> anyhow::Result<u8> {
    let interrupt = interrupt()?;
    Ok(tell(&pipeline::resolve(&args.into(), &interrupt)?))
}

/// Ends as the service ends; SIGTERM is passed on, as a launched service gets no other signal.
fn handicap(args: &HandicapArgs) -> anyhow::Result<u8> {
    let told = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&told);
    ctrlc::set_handler(move || seen.store(true, Ordering::Relaxed))
        .context("cannot listen for SIGTERM")?;
    let code = handicap::run(args.cpu_us_per_s, &args.command, &told)?;
    Ok(u8::try_from(code).unwrap_or(EXIT_FAULTY))
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
    show(report::objectives::text(&summary));
    let page = run.path().join("report.html");
    show(format_args!("report: {}\n", page.display()));
    Ok(0)
}

fn list() -> anyhow::Result<u8> {
    let root = host::workspace();
    let mut lines = vec!["subjects (* compared by default):".to_owned()];
    for subject in subject::read_all(&root.join("bench/subjects"))? {
        lines.push(entry(subject.default, &subject.name, &subject.title));
    }
    lines.push("scenarios (* measured by default):".to_owned());
    for scenario in scenario::read_all(&root.join("bench/scenarios"))? {
        lines.push(entry(scenario.default, &scenario.name, &scenario.question));
    }
    lines.push(entry(false, faults::NAME, faults::QUESTION));
    lines.push("faults:".to_owned());
    for fault in faults::select(&[])? {
        lines.push(entry(false, fault.name, fault.title));
    }
    lines.push("profiles:".to_owned());
    for name in ProfileName::ALL {
        let blocks = format!("{} blocks", name.profile().blocks);
        lines.push(entry(false, &name.to_string(), &blocks));
    }
    show(lines.join("\n") + "\n");
    Ok(0)
}

/// A line of the list.
fn entry(is_default: bool, name: &str, what: &str) -> String {
    let mark = if is_default { '*' } else { ' ' };
    format!("  {mark} {name:<24} {what}")
}

fn broker(verb: &BrokerVerb) -> anyhow::Result<u8> {
    let root = host::workspace();
    let options = broker::Options::from_environment(root.clone());
    show(broker_line(verb, &options, &root)? + "\n");
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
    show(format_args!("listening on {}\n", simulator.address()));
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
