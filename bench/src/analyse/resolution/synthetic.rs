//! Runs of one subject under four names, made up for tests: scatter and ratios are planted.

use crate::analyse::statistics::seed_for;
use crate::analyse::{LaunchData, LaunchSummary, RunData, judge_all, synthetic};
use crate::random::SplitMix;
use crate::record::ResolutionFacts;

/// A run of one subject under four names in so many blocks, whose CPU scatters by ± `noise`; the twin
/// costs `bias` times as much, the slowed one `slow` times, the unsampled one `unsampled` times.
pub fn run(blocks: u32, noise: f64, [bias, slow, unsampled]: [f64; 3]) -> RunData {
    let mut run = synthetic::run(1);
    let of = |it: &&LaunchData| it.launch.cell == "steady-mixed" && it.launch.subject == "async";
    let original = run.launches.iter().find(of).expect("a launch").clone();
    let variants = [("a", 1.0), ("a-twin", bias), ("b", slow), ("s", unsampled)];
    let block = |block| {
        let mut launch = original.clone();
        launch.launch.block = block;
        variants.map(|variant| launched(&launch, variant, noise))
    };
    run.launches = (0..blocks).flat_map(block).collect();
    run.manifest.resolution = Some(ResolutionFacts {
        subject: "a".into(),
        twin: "a-twin".into(),
        slowed: Some("b".into()),
        unsampled: Some("s".into()),
        cell: "steady-mixed".into(),
        planted_ratio: 1.05,
        handicap_us_per_s: 1_000.0,
    });
    run
}

fn launched(original: &LaunchData, (name, factor): (&str, f64), noise: f64) -> LaunchData {
    let mut data = original.clone();
    data.launch.subject = name.into();
    let block = data.launch.block;
    let around = |what: &str| {
        let unit = SplitMix(seed_for(u64::from(block), &[name, what])).next_unit();
        1.0 + noise * (2.0 * unit - 1.0)
    };
    let resources = &mut data.launch.resources;
    let cpu = 30_000.0 * 41_000.0 * factor * around("cpu");
    resources.cpu_ns = cpu as u64;
    resources.pss_bytes = (4e6 * around("memory")) as u64;
    data
}

/// The launches with their judgement, without the aggregates of a whole analysis, which take long.
pub fn judged(run: &RunData) -> Vec<LaunchSummary> {
    judge_all(run)
}
