//! Sets of blocks, and the comparison of a run that would consist of them alone.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::super::comparison::{CellSummary, Comparison, Judged};
use super::super::gates::Standing;
use super::super::metric::{Metric, Reading, tag};
use super::super::statistics::{RatioEstimate, seed_for};
use super::super::{LaunchData, LaunchSummary, RunData, Summary};
use super::{DRAWS, METRICS, SET, SPLITS};
use crate::load::SplitMix;
use crate::record::{CellFacts, Manifest, ResolutionFacts, SubjectFacts};

/// What the two compared names are called; the true ones play no part in a comparison.
const LEFT: &str = "left";
const RIGHT: &str = "right";
const TWIN: &str = "twin-of-right";

/// The usable launches of the run by name and block.
pub(super) struct Material<'a> {
    manifest: &'a Manifest,
    facts: &'a ResolutionFacts,
    cell: &'a CellFacts,
    launches: BTreeMap<(&'a str, u32), (LaunchSummary, &'a LaunchData)>,
    coarse: bool,
}

/// Who is compared with whom.
pub(super) struct Names<'a> {
    left: &'a str,
    right: &'a str,
    /// The twin of the right one, which makes the noise floor.
    twin: Option<&'a str>,
}

impl<'a> Names<'a> {
    /// A variant against the subject, with the floor of the subject's twin.
    pub(super) fn with_floor(facts: &'a ResolutionFacts, left: &'a str) -> Self {
        Self {
            left,
            right: &facts.subject,
            twin: Some(&facts.twin),
        }
    }
}

/// What a comparison says.
pub(super) struct Outcome(CellSummary);

impl Outcome {
    /// The ratio left / right.
    pub(super) fn ratio(&self, metric: Metric) -> Option<RatioEstimate> {
        self.0.comparison(metric)?.ratio(LEFT, RIGHT)
    }

    /// Whether the two are told apart.
    pub(super) fn is_found(&self, metric: Metric) -> bool {
        self.direction(metric).is_some()
    }

    /// Whether the left one is greater or less, if the two are told apart.
    pub(super) fn direction(&self, metric: Metric) -> Option<Ordering> {
        let comparison: &Comparison = self.0.comparison(metric)?;
        let ratio = comparison.ratio(LEFT, RIGHT)?;
        let found = comparison.tells_apart(ratio);
        found.then(|| ratio.ratio.total_cmp(&1.0))
    }
}

impl<'a> Material<'a> {
    /// The launches of the cell in which everything was compared; of repeated ones the first valid one.
    pub(super) fn of(run: &'a RunData, summary: &Summary) -> Option<Self> {
        let manifest = &run.manifest;
        let facts = manifest.resolution.as_ref()?;
        let cell = manifest.cells.iter().find(|it| it.cell == facts.cell)?;
        let (mut launches, mut coarse) = (BTreeMap::new(), false);
        for (data, judged) in run.launches.iter().zip(&summary.launches) {
            if judged.cell == facts.cell && judged.standing == Standing::Valid {
                let (judged, was_coarse) = readable(judged, data);
                coarse |= was_coarse;
                let key = (data.launch.subject.as_str(), judged.block);
                launches.entry(key).or_insert((judged, data));
            }
        }
        Some(Self {
            manifest,
            facts,
            cell,
            launches,
            coarse,
        })
    }

    pub(super) fn facts(&self) -> &'a ResolutionFacts {
        self.facts
    }

    pub(super) fn window_s(&self) -> f64 {
        self.cell.window_s
    }

    /// Whether a quantile was taken from fewer operations than a report wants for it.
    pub(super) fn is_coarse(&self) -> bool {
        self.coarse
    }

    /// The subject and its twin, as if they were two subjects.
    pub(super) fn twins(&self) -> Names<'a> {
        Names {
            left: &self.facts.twin,
            right: &self.facts.subject,
            twin: None,
        }
    }

    /// Blocks in which every one of the names has a usable launch.
    pub(super) fn blocks(&self, names: &[&str]) -> Vec<u32> {
        let has = |block: &u32| {
            let launched = |name: &&str| self.launches.contains_key(&(*name, *block));
            names.iter().all(launched)
        };
        let mut blocks: Vec<u32> = self.launches.keys().map(|(_, block)| *block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks.into_iter().filter(has).collect()
    }

    /// Comparisons over random sets of blocks, with the names swapped at random in each block or not.
    pub(super) fn splits(&self, names: &Names<'_>, blocks: &[u32], swaps: bool) -> Vec<Outcome> {
        let split = |number| {
            let what = if swaps { "swapped" } else { "kept" };
            let mut random = self.random(what, number);
            let set = subset(&mut random, blocks);
            self.compare(names, &set, number, swaps.then_some(random))
        };
        // Only one set can be made of so few blocks.
        let kinds = if swaps || blocks.len() > SET {
            SPLITS
        } else {
            1
        };
        (0..kinds).map(split).collect()
    }

    /// Sets of blocks for the planted slow-down: disjoint ones first, whose number is returned, then
    /// random ones.
    pub(super) fn draws(&self, blocks: &[u32]) -> (Vec<Vec<u32>>, usize) {
        let mut shuffled = blocks.to_vec();
        self.random("disjoint", 0).shuffle(&mut shuffled);
        let mut draws: Vec<Vec<u32>> = shuffled.chunks_exact(SET).map(<[u32]>::to_vec).collect();
        let disjoint = draws.len();
        let more = (disjoint..DRAWS).map(|n| subset(&mut self.random("draw", n), blocks));
        draws.extend(more);
        (draws, disjoint)
    }

    /// Compares the launches of these blocks, under neutral names; `swap` exchanges the two at random
    /// in each block.
    pub(super) fn compare(
        &self,
        names: &Names<'_>,
        blocks: &[u32],
        number: usize,
        mut swap: Option<SplitMix>,
    ) -> Outcome {
        let mut launches = Vec::new();
        for &block in blocks {
            let swapped = swap.as_mut().is_some_and(|it| it.next_u64() >> 63 == 1);
            let (left, right) = if swapped {
                (RIGHT, LEFT)
            } else {
                (LEFT, RIGHT)
            };
            let named = [
                (left, Some(names.left)),
                (right, Some(names.right)),
                (TWIN, names.twin),
            ];
            for (name, launched) in named {
                let found = launched.and_then(|it| self.launches.get(&(it, block)));
                launches.extend(found.map(|(summary, data)| (renamed(summary, name), *data)));
            }
        }
        let manifest = self.manifest_of(names, number);
        let judged: Vec<Judged<'_>> = launches.iter().map(|(s, data)| (s, *data)).collect();
        Outcome(CellSummary::of(&manifest, self.cell, &judged))
    }

    /// The manifest of a run of these names alone, with a seed of its own.
    fn manifest_of(&self, names: &Names<'_>, number: usize) -> Manifest {
        let facts = |name: &str, twin_of: Option<&str>| SubjectFacts {
            name: name.to_owned(),
            twin_of: twin_of.map(str::to_owned),
            ..SubjectFacts::default()
        };
        let mut subjects = vec![facts(LEFT, None), facts(RIGHT, None)];
        subjects.extend(names.twin.map(|_| facts(TWIN, Some(RIGHT))));
        Manifest {
            seed: seed_for(self.manifest.seed, &["resolution", &number.to_string()]),
            subjects,
            order: Vec::new(),
            ..self.manifest.clone()
        }
    }

    fn random(&self, what: &str, number: usize) -> SplitMix {
        SplitMix(seed_for(self.manifest.seed, &[what, &number.to_string()]))
    }
}

/// [`SET`] of the blocks, or all if there are no more.
fn subset(random: &mut SplitMix, blocks: &[u32]) -> Vec<u32> {
    let mut set = blocks.to_vec();
    random.shuffle(&mut set);
    set.truncate(SET);
    set
}

fn renamed(summary: &LaunchSummary, name: &str) -> LaunchSummary {
    LaunchSummary {
        subject: name.to_owned(),
        ..summary.clone()
    }
}

/// The launch with the figures in question alone, and a quantile also where a report would withhold it;
/// whether that was the case.
fn readable(judged: &LaunchSummary, data: &LaunchData) -> (LaunchSummary, bool) {
    let mut coarse = false;
    let mut readings = BTreeMap::new();
    for metric in METRICS {
        let reading = match judged.readings.get(&metric) {
            Some(Reading::TooFew { .. }) => {
                coarse = true;
                quantile(metric, data)
            }
            reading => reading.copied(),
        };
        readings.extend(reading.map(|reading| (metric, reading)));
    }
    let judged = LaunchSummary {
        readings,
        gates: Vec::new(),
        ..judged.clone()
    };
    (judged, coarse)
}

fn quantile(metric: Metric, data: &LaunchData) -> Option<Reading> {
    let (kind, quantile) = metric.quantile()?;
    let histogram = data.histograms.get(&tag(kind, "response"))?;
    Some(Reading::Value(histogram.value_at_quantile(quantile) as f64))
}
