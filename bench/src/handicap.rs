//! A planted slow-down: a service that costs more than it needs to, by a known amount.
//!
//! The instrument launches itself as `threeways handicap --cpu-us-per-s N -- SERVICE …` in the place of
//! the service. The service is then a child in the same process tree, on the same cores, and what
//! is burnt beside it counts as its own, as the cost of slower code would.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

/// Time between two slices of burning: short against a window, so that the load is even, and long
/// enough that the service is not interrupted much more often, which would cost it more than that.
const SLICE: Duration = Duration::from_millis(10);
/// Longest slice. What a crowded core has kept from being burnt is made up for little by little.
const LONGEST: Duration = Duration::from_millis(2);
/// A shell's exit code of a command that a signal has ended, less the signal's number.
const SIGNALLED: i32 = 128;

/// Why a service could not be handicapped.
#[derive(Debug, thiserror::Error)]
pub enum HandicapError {
    /// No command.
    #[error("name the service behind `--`")]
    NoCommand,
    /// The service did not start.
    #[error("cannot start {}", program.display())]
    Spawn {
        /// Program.
        program: std::path::PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The end of the service cannot be seen.
    #[error("cannot wait for the service")]
    Wait(#[source] std::io::Error),
}

/// Runs the command as a child and uses `cpu_us_per_s` of CPU beside it until it ends; once `told`, the
/// child gets SIGTERM. Returns the exit code of the child, or 128 + the signal that ended it.
///
/// # Errors
/// [`HandicapError`] if the child does not start.
pub fn run(
    cpu_us_per_s: f64,
    command: &[OsString],
    told: &Arc<AtomicBool>,
) -> Result<i32, HandicapError> {
    let (program, args) = command.split_first().ok_or(HandicapError::NoCommand)?;
    let spawned = Command::new(program).args(args).spawn();
    let mut child = spawned.map_err(|source| HandicapError::Spawn {
        program: program.into(),
        source,
    })?;
    let burner = Burner::new(cpu_us_per_s / 1e6);
    let mut forwarded = false;
    loop {
        if let Some(status) = child.try_wait().map_err(HandicapError::Wait)? {
            return Ok(exit_code(status));
        }
        if !forwarded && told.load(Ordering::Relaxed) {
            terminate(&child);
            forwarded = true;
        }
        burner.burn();
        std::thread::sleep(SLICE);
    }
}

fn terminate(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Fails if it has just ended, which the next look will tell.
        let _ = kill_process(pid, Signal::TERM);
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    let by_signal = status.signal().map(|signal| SIGNALLED + signal);
    status.code().or(by_signal).unwrap_or(1)
}

/// Holds the CPU of this process at a share of the time, its own waking up included.
struct Burner {
    ratio: f64,
    start: Instant,
    cpu_at_start: Duration,
}

impl Burner {
    fn new(ratio: f64) -> Self {
        Self {
            ratio,
            start: Instant::now(),
            cpu_at_start: own_cpu(),
        }
    }

    /// Catches up with what is due by now, for at most [`LONGEST`].
    fn burn(&self) {
        let due = self.cpu_at_start + self.start.elapsed().mul_f64(self.ratio);
        let from = own_cpu();
        loop {
            let now = own_cpu();
            if now >= due || now.saturating_sub(from) >= LONGEST {
                return;
            }
            std::hint::spin_loop();
        }
    }
}

/// CPU of this process since its start.
fn own_cpu() -> Duration {
    // CPU time is never negative.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
