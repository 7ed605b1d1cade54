//! Sets of blocks, and the comparison of two names over one of them.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::super::comparison::{Comparison, Pair, Verdict};
use super::super::gates::Standing;
use super::super::metric::{Metric, Reading, tag};
use super::super::statistics::{RatioEstimate, paired_ratio, seed_for};
use super::super::{LaunchData, LaunchSummary, RunData};
use super::{DRAWS, METRICS, SET, SPLITS};
use crate::random::SplitMix;
use crate::record::{CellFacts, Manifest, ResolutionFacts};

/// The usable launches of the run by name and block.
pub(super) struct Material<'a> {
    manifest: &'a Manifest,
    facts: &'a ResolutionFacts,
    cell: &'a CellFacts,
    launches: BTreeMap<(&'a str, u32), BTreeMap<Metric, f64>>,
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

/// What a comparison says of each figure.
pub(super) struct Outcome(Vec<Comparison>);

impl Outcome {
    /// The ratio left / right.
    pub(super) fn ratio(&self, metric: Metric) -> Option<RatioEstimate> {
        Some(self.told(metric)?.1)
    }

    /// Whether the two are told apart.
    pub(super) fn is_found(&self, metric: Metric) -> bool {
        self.direction(metric).is_some()
    }

    /// Whether the left one is greater or less, if the two are told apart.
    pub(super) fn direction(&self, metric: Metric) -> Option<Ordering> {
        let (comparison, ratio) = self.told(metric)?;
        let found = comparison.tells_apart(ratio);
        found.then(|| ratio.ratio.total_cmp(&1.0))
    }

    fn told(&self, metric: Metric) -> Option<(&Comparison, RatioEstimate)> {
        let comparison = self.0.iter().find(|it| it.metric == metric)?;
        Some((comparison, comparison.ratios.first()?.estimate))
    }
}

impl<'a> Material<'a> {
    /// The launches of the cell in which everything was compared; of repeated ones the first valid one.
    pub(super) fn of(run: &'a RunData, judged: &[LaunchSummary]) -> Option<Self> {
        let manifest = &run.manifest;
        let facts = manifest.resolution.as_ref()?;
        let cell = manifest.cells.iter().find(|it| it.cell == facts.cell)?;
        let (mut launches, mut coarse) = (BTreeMap::new(), false);
        for (data, judged) in run.launches.iter().zip(judged) {
            if judged.cell == facts.cell && judged.standing == Standing::Valid {
                let (figures, withheld) = figures(judged, data);
                coarse |= withheld;
                let key = (data.launch.subject.as_str(), judged.block);
                launches.entry(key).or_insert(figures);
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

    /// Compares the launches of these blocks by the ratio, the interval and the floor of a comparison;
    /// `swap` exchanges the two names at random in each block.
    pub(super) fn compare(
        &self,
        names: &Names<'_>,
        blocks: &[u32],
        number: usize,
        swap: Option<SplitMix>,
    ) -> Outcome {
        let swapped = swaps(blocks.len(), swap);
        let compare = |metric| {
            let seed = |what| {
                let name = format!("{metric:?} {what} {number}");
                seed_for(self.manifest.seed, &["resolution", &name])
            };
            let pairs = |left, right| self.pairs(metric, left, right, blocks);
            let mut compared = pairs(names.left, names.right);
            for ((left, right), swapped) in compared.iter_mut().zip(&swapped) {
                if *swapped {
                    std::mem::swap(left, right);
                }
            }
            let twins = names.twin.map(|twin| pairs(twin, names.right));
            Some(Comparison {
                metric,
                rows: BTreeMap::new(),
                ratios: vec![Pair {
                    subject: names.left.to_owned(),
                    other: names.right.to_owned(),
                    estimate: paired_ratio(&compared, seed("pair"))?,
                }],
                floor: twins.and_then(|pairs| paired_ratio(&pairs, seed("floor"))),
                verdict: Verdict::NotRanked,
            })
        };
        Outcome(METRICS.into_iter().filter_map(compare).collect())
    }

    /// The figure of both names in each of the blocks in which both have it.
    fn pairs(&self, metric: Metric, left: &str, right: &str, blocks: &[u32]) -> Vec<(f64, f64)> {
        let value = |name, block| self.launches.get(&(name, block))?.get(&metric).copied();
        let both = |&block: &u32| Some((value(left, block)?, value(right, block)?));
        blocks.iter().filter_map(both).collect()
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

/// For each of so many blocks whether the names are swapped there.
fn swaps(blocks: usize, random: Option<SplitMix>) -> Vec<bool> {
    let Some(mut random) = random else {
        return vec![false; blocks];
    };
    (0..blocks).map(|_| random.next_u64() >> 63 == 1).collect()
}

/// The figures of a launch, a quantile also where a report would withhold it; whether it would.
fn figures(judged: &LaunchSummary, data: &LaunchData) -> (BTreeMap<Metric, f64>, bool) {
    let mut coarse = false;
    let mut figures = BTreeMap::new();
    let usable = |metric: &Metric| judged.standing_of(*metric) == Standing::Valid;
    for metric in METRICS.into_iter().filter(usable) {
        let figure = match judged.readings.get(&metric) {
            Some(Reading::TooFew { .. }) => {
                coarse = true;
                quantile(metric, data)
            }
            reading => reading.and_then(|it| it.value()),
        };
        figures.extend(figure.map(|figure| (metric, figure)));
    }
    (figures, coarse)
}

fn quantile(metric: Metric, data: &LaunchData) -> Option<f64> {
    let (kind, quantile) = metric.quantile()?;
    let histogram = data.histograms.get(&tag(kind, "response"))?;
    Some(histogram.value_at_quantile(quantile) as f64)
}
