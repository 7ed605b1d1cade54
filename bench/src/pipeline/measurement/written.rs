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

pub(super) fn record(
    task: &Task<'_>,
    plan: &LaunchPlan,
    measured: &Measured,
    conservation: Option<Conservation>,
    faults: Vec<String>,
) -> Launch {
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
        command: plan.command(),
        environment,
        ready_s: measured.ready_s,
        stop_s: measured.stop_s,
        window_s: measured.window_s,
        turns: measured.turns,
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
