//! A slot of the plan: one launch, or several that take turns, made again while others disturb them.

use std::sync::atomic::Ordering;

use super::measurement::{self, Bench, Task};
use super::{RunError, read_last};
use crate::analyse::LaunchData;
use crate::analyse::gates;
use crate::host;

/// Attempts at one slot at the most.
const ATTEMPTS: u32 = 3;

/// Fills a slot; `ordinal` is the number of its first launch and then of the one behind its last.
///
/// A launch on a noisy host is kept and made again, and with it those that take turns with it: told by
/// what others used and never by its figures, since what is repeated because of its own figures
/// selects among them.
///
/// # Errors
/// Those of a launch.
pub(super) fn fill(
    bench: &mut Bench<'_>,
    tasks: &[Task<'_>],
    ordinal: &mut u32,
) -> Result<Vec<LaunchData>, RunError> {
    let names: Vec<&str> = tasks.iter().map(Task::name).collect();
    let (block, cell) = (tasks[0].block, &tasks[0].cell.name);
    let what = format!("block {block} {cell} {}", names.join(", "));
    bench.progress.next(&what);
    for attempt in 1.. {
        let made = attempt_at(bench, tasks, ordinal)?;
        let is_last = attempt >= ATTEMPTS || bench.interrupt.load(Ordering::Relaxed);
        if is_last || made.iter().all(is_quiet) {
            return Ok(made);
        }
        bench
            .progress
            .warn(&format!("{what}: disturbed by others, so once more"));
    }
    unreachable!("the loop ends with the last attempt")
}

fn attempt_at(
    bench: &mut Bench<'_>,
    tasks: &[Task<'_>],
    ordinal: &mut u32,
) -> Result<Vec<LaunchData>, RunError> {
    let mut numbered = tasks.to_vec();
    for task in &mut numbered {
        task.ordinal = *ordinal;
        *ordinal += 1;
    }
    let faults = match &numbered[..] {
        [task] => measurement::measure(bench, task)?,
        several => measurement::measure_together(bench, several)?,
    };
    for fault in faults {
        let names: Vec<&str> = tasks.iter().map(Task::name).collect();
        let (cell, names) = (&tasks[0].cell.name, names.join(", "));
        bench.progress.warn(&format!("{cell} {names}: {fault}"));
    }
    Ok(read_last(bench.run, tasks.len())?)
}

/// Whether the host was quiet in a launch.
fn is_quiet(data: &LaunchData) -> bool {
    let cores = u32::try_from(host::cores()).unwrap_or(u32::MAX);
    gates::is_quiet(&gates::judge(data, cores, None))
}
