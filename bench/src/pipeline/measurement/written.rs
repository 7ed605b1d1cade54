//! What is written down about a launch.

use std::collections::BTreeMap;

use super::{Measured, Task};
use crate::amqp::redact;
use crate::launch::LaunchPlan;
use crate::record::{Conservation, Kind, Launch};

fn without_password(name: &str, value: &str) -> String {
    match name {
        "BC_AMQP_URL" => redact(value),
        _ => value.to_owned(),
    }
}

/// The name of a file without the machine's path to it; anything else as it is.
fn without_folder(word: &str) -> String {
    let path = std::path::Path::new(word);
    let name = path.file_name().filter(|_| path.is_absolute());
    name.map_or_else(
        || word.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

pub(super) fn record(
    task: &Task<'_>,
    plan: &LaunchPlan,
    measured: &Measured,
    conservation: Option<Conservation>,
    faults: Vec<String>,
) -> Launch {
    let executable = plan.executable.to_string_lossy().into_owned();
    let words = std::iter::once(&executable).chain(&plan.args);
    let command = words.map(|word| without_folder(word)).collect();
    let environment: BTreeMap<_, _> = plan
        .environment
        .iter()
        .map(|(name, value)| (name.clone(), without_password(name, value)))
        .collect();
    let arrival_rate_per_s: BTreeMap<Kind, f64> = task.cell.arrival_rate_per_s();
    Launch {
        ordinal: task.ordinal,
        block: task.block,
        cell: task.cell.name.clone(),
        subject: task.name().to_owned(),
        layout: task.cell.scenario.layout,
        command,
        environment,
        ready_s: measured.ready_s,
        stop_s: measured.stop_s,
        window_s: measured.window_s,
        arrival_rate_per_s,
        poisson: task.cell.poisson(),
        operations: measured.load.operations.clone(),
        resources: measured.resources.clone(),
        drain: measured.drain.clone(),
        conservation,
        generator: measured.load.generator.clone(),
        host: measured.host.clone(),
        pinning: measured.pinning.clone(),
        sampler_ratio: measured.sampler_ratio,
        faults,
    }
}
