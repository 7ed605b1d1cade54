//! The order of an examination:
//! `quiet → noise → timers → ceiling → fixed rates → trials → trial through the broker`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::progress::Progress;
use crate::broker;
use crate::calibrate::{self, CalibrateError, Cores, Examination};
use crate::host::{self, Reading};
use crate::record::Layout;

/// Longest wait for a quiet machine.
const QUIET: Duration = Duration::from_secs(60);
/// Deadlines met in each way of waiting.
const DEADLINES: u32 = 1_000;
/// Attempts at a trial that others disturb.
const ATTEMPTS: u32 = 3;
/// Connections of the ceiling and of the fixed rates.
const CONNECTIONS: usize = 64;
/// Fixed rates per second.
const RATES_PER_S: [f64; 5] = [1_000.0, 5_000.0, 10_000.0, 50_000.0, 100_000.0];
/// Layouts whose ceiling is measured.
const LAYOUTS: [Layout; 3] = [Layout::Isolated, Layout::Shared, Layout::Native];

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
    interrupt: &AtomicBool,
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
        interrupted: false,
    };
    let examined = examine(&mut examination, &trials, window, &progress, interrupt)
        .and_then(|()| through_broker(&mut examination, options, window, &progress, interrupt));
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

/// The trial through a broker, which is started if there is none.
fn through_broker(
    examination: &mut Examination,
    options: &DoctorOptions,
    window: Duration,
    progress: &Progress,
    interrupt: &AtomicBool,
) -> Result<(), CalibrateError> {
    if !options.with_broker || interrupt.load(Ordering::Relaxed) {
        return Ok(());
    }
    progress.next("through the broker");
    let mut broker = broker::acquire(&broker::Options {
        purge: options.purge,
        ..broker::Options::from_environment(host::workspace())
    })?;
    let cores = Cores::of(Layout::Isolated);
    if let Some(cpu) = cores.generator {
        broker.pin(&[cpu])?;
    }
    let made = calibrate::through_broker(&broker, window, cores, interrupt);
    broker.stop();
    examination.calibrations.push(made?);
    Ok(())
}
