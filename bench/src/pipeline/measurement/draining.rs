//! A launch that empties a queue: from its start to the queue's end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::edges::Edges;
use super::{Bench, Fault, Measured, Task, guard, join, pinned};
use crate::host::{self, Reading};
use crate::launch::Running;
use crate::pipeline::inquiry;
use crate::sample::{ProcessTree, drain, resources, watch_drain};

/// The drain begins with the launch, so it is watched from the moment that the port is open.
pub(super) fn observe_drain(
    bench: &Bench<'_>,
    task: &Task<'_>,
    running: &mut Running,
    measured: &mut Measured,
) -> Result<(), Fault> {
    let address = running.address();
    let mut tree = ProcessTree::new(running.root());
    let abort = AtomicBool::new(false);
    let instrument = host::instrument_cpu(task.cell.scenario.layout).map(|cpu| vec![cpu]);
    let limits = (
        Duration::from_secs_f64(1.0 / bench.profile.progress_rate_per_s),
        Duration::from_secs_f64(task.cell.window_s),
    );
    let broker = bench.broker.pids();
    let edges = Edges::new(task.cell.scenario.layout, running.root(), &broker);
    let first = edges.look();
    let before = Reading::take();
    let (ready, watched) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            pinned(instrument.as_deref(), || {
                let prefill = task.cell.prefill;
                watch_drain(address, &mut tree, prefill, Instant::now(), limits, &abort)
            })
        });
        let ready = running.await_ready();
        abort.store(ready.is_err(), Ordering::Relaxed);
        let has_ended = || running.ended().is_some();
        guard(has_ended, bench.interrupt, &abort, || {
            watching.is_finished()
        });
        (ready, join(watching))
    });
    let (readings, samples) = watched;
    measured.host = Reading::take().since(&before, tree.members(), &broker);
    measured.pinning = Some(edges.pinning(&first, &edges.look()));
    let drain = drain(&readings, task.cell.prefill);
    measured.window_s = drain.counted_s;
    measured.turns = 1;
    measured.drain = Some(drain);
    measured.resources = resources(&samples);
    measured.samples = samples;
    ready?;
    Ok(inquiry::verify(running, &task.subject.subject.model)?)
}
