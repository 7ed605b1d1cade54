//! A slot of the plan: one launch, made again while others disturb it.

use std::sync::atomic::Ordering;

use super::measurement::{self, Bench, Task};
use super::{RunError, read_last};
use crate::analyse::LaunchData;
use crate::analyse::gates;
use crate::host;

/// Launches in one slot at the most.
const ATTEMPTS: u32 = 3;

/// Fills a slot; `ordinal` is the number of its first launch and then of the one behind its last.
///
/// A launch on a noisy host is kept and made again, told by what others used and never by its figures:
/// what is repeated because of its own figures selects among them.
///
/// # Errors
/// Those of a launch.
pub(super) fn fill(
    bench: &mut Bench<'_>,
    task: &Task<'_>,
    ordinal: &mut u32,
) -> Result<LaunchData, RunError> {
    let what = format!("block {} {} {}", task.block, task.cell.name, task.name());
    bench.progress.next(&what);
    for attempt in 1.. {
        let (data, is_quiet) = launch(bench, task, ordinal)?;
        if is_quiet || attempt >= ATTEMPTS || bench.interrupt.load(Ordering::Relaxed) {
            return Ok(data);
        }
        bench
            .progress
            .warn(&format!("{what}: disturbed by others, so once more"));
    }
    unreachable!("the loop ends with the last attempt")
}

/// One launch, and whether the host was quiet.
fn launch(
    bench: &mut Bench<'_>,
    task: &Task<'_>,
    ordinal: &mut u32,
) -> Result<(LaunchData, bool), RunError> {
    let task = Task {
        ordinal: *ordinal,
        ..*task
    };
    *ordinal += 1;
    for fault in measurement::measure(bench, &task)? {
        bench
            .progress
            .warn(&format!("{} {}: {fault}", task.cell.name, task.name()));
    }
    let data = read_last(bench.run)?;
    let cores = u32::try_from(host::cores()).unwrap_or(u32::MAX);
    let is_quiet = gates::is_quiet(&gates::judge(&data, cores, None));
    Ok((data, is_quiet))
}
