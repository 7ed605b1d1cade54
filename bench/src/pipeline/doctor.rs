//! The order of an examination:
//! `quiet → noise → timers → ceiling → fixed rates → trials → trial through the broker → resolution`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::RunError;
use super::progress::Progress;
use super::resolution::{self, ResolveOptions, Variant};
use crate::analyse::resolution::SET;
use crate::broker::{self, Broker};
use crate::calibrate::{self, CalibrateError, Calibration, Cores, Examination};
use crate::host::{self, Reading};
use crate::record::Layout;

/// Longest wait for a quiet machine.
const QUIET: Duration = Duration::from_secs(60);
/// Deadlines met in each way of waiting.
const DEADLINES: u32 = 1_000;
/// Attempts at a trial that others disturb.
const ATTEMPTS: u32 = 5;
/// Connections of the ceiling and of the fixed rates.
const CONNECTIONS: usize = 64;
/// Fixed rates per second.
const RATES_PER_S: [f64; 5] = [1_000.0, 5_000.0, 10_000.0, 50_000.0, 100_000.0];
/// Layouts whose ceiling is measured.
const LAYOUTS: [Layout; 3] = [Layout::Isolated, Layout::Shared, Layout::Native];

/// Subject that is compared with itself.
const RESOLVED: &str = "async";
/// Its window: short, so that twenty launches take a minute and a half.
const RESOLVED_WINDOW_S: f64 = 2.0;

/// How thorough.
#[derive(Debug, Clone, Copy)]
pub struct DoctorOptions {
    /// Windows of 2 s in place of 10 s.
    pub quick: bool,
    /// Whether the trial through a broker is made as well.
    pub with_broker: bool,
    /// Whether a broker that was not started here may be emptied.
    pub purge: bool,
}

/// Examines the machine and the instrument on it; `interrupt` keeps what was done.
///
/// # Errors
/// [`CalibrateError`] if a server or the generator cannot begin.
pub fn doctor(
    options: &DoctorOptions,
    interrupt: &Arc<AtomicBool>,
) -> Result<Examination, CalibrateError> {
    let window = Duration::from_secs(if options.quick { 2 } else { 10 });
    let trials = calibrate::trials(window);
    let steps = 2 + LAYOUTS.len() + RATES_PER_S.len() + trials.len();
    let progress = Progress::new(steps + usize::from(options.with_broker));
    progress.next("noise");
    let disturbance = host::wait_until_quiet(QUIET, &[], interrupt);
    let before = Reading::take();
    std::thread::sleep(window);
    let mut examination = Examination {
        host: host::facts(),
        noise: Reading::take().since(&before, &[], &[]),
        disturbance,
        timers: Vec::new(),
        ceilings: Vec::new(),
        steps: Vec::new(),
        calibrations: Vec::new(),
        resolution: None,
        unresolved: None,
        interrupted: false,
    };
    let examined = examine(&mut examination, &trials, window, &progress, interrupt)
        .and_then(|()| on_a_broker(&mut examination, options, window, &progress, interrupt));
    progress.finish();
    examination.interrupted = interrupt.load(Ordering::Relaxed);
    examined.map(|()| examination)
}

fn examine(
    examination: &mut Examination,
    trials: &[calibrate::Trial],
    window: Duration,
    progress: &Progress,
    interrupt: &AtomicBool,
) -> Result<(), CalibrateError> {
    let begins = |what: &str| {
        let goes_on = !interrupt.load(Ordering::Relaxed);
        if goes_on {
            progress.next(what);
        }
        goes_on
    };
    if begins("timers") {
        examination.timers = calibrate::lateness(DEADLINES).into();
    }
    for layout in LAYOUTS {
        if begins("ceiling") {
            let ceiling = calibrate::ceiling(layout, CONNECTIONS, window, interrupt)?;
            examination.ceilings.push(ceiling);
        }
    }
    for rate_per_s in RATES_PER_S {
        if begins(&format!("{rate_per_s} per second")) {
            let step = calibrate::step(rate_per_s, CONNECTIONS, window, interrupt)?;
            examination.steps.push(step);
        }
    }
    let cores = Cores::of(Layout::Isolated);
    for trial in trials {
        if begins(&trial.name) {
            let mut made = trial.make(cores, interrupt)?;
            for _ in 1..ATTEMPTS {
                if !made.is_disturbed() || interrupt.load(Ordering::Relaxed) {
                    break;
                }
                made = trial.make(cores, interrupt)?;
            }
            examination.calibrations.push(made);
        }
    }
    Ok(())
}

/// What needs a broker, which is started if there is none.
fn on_a_broker(
    examination: &mut Examination,
    options: &DoctorOptions,
    window: Duration,
    progress: &Progress,
    interrupt: &Arc<AtomicBool>,
) -> Result<(), CalibrateError> {
    if !options.with_broker {
        examination.unresolved = Some("it takes a broker, which was left out".to_owned());
        return Ok(());
    }
    if interrupt.load(Ordering::Relaxed) {
        return Ok(());
    }
    progress.next("through the broker");
    let mut broker = broker::acquire(&broker::Options {
        purge: options.purge,
        ..broker::Options::from_environment(host::workspace())
    })?;
    let made = through_broker(&mut broker, window, interrupt);
    progress.finish();
    if options.quick {
        let reason = "a quick examination does not measure it";
        examination.unresolved = Some(reason.to_owned());
    } else if made.is_ok() && !interrupt.load(Ordering::Relaxed) {
        resolve(examination, &mut broker, options, interrupt);
    }
    broker.stop();
    examination.calibrations.push(made?);
    Ok(())
}

fn through_broker(
    broker: &mut Broker,
    window: Duration,
    interrupt: &AtomicBool,
) -> Result<Calibration, CalibrateError> {
    let cores = Cores::of(Layout::Isolated);
    if let Some(cpu) = cores.generator {
        broker.pin(&[cpu])?;
    }
    calibrate::through_broker(broker, window, cores, interrupt)
}

/// One subject against itself; an examination without it is one all the same.
fn resolve(
    examination: &mut Examination,
    broker: &mut Broker,
    options: &DoctorOptions,
    interrupt: &Arc<AtomicBool>,
) {
    let resolving = ResolveOptions {
        subject: RESOLVED.to_owned(),
        blocks: u32::try_from(SET).expect("ten"),
        window_s: RESOLVED_WINDOW_S,
        seed: None,
        purge: options.purge,
        out: None,
    };
    match resolution::measure(broker, &resolving, &Variant::TWINS, interrupt) {
        Ok((_, _, found)) => examination.resolution = found,
        Err(RunError::Interrupted) => {}
        Err(error) => {
            examination.unresolved = Some(format!("{:#}", anyhow::Error::from(error)));
        }
    }
}
