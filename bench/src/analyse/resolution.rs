//! What the instrument can resolve: one subject against itself, and against itself slowed down.
//!
//! Every question is put to the very procedure of a comparison ([`paired_ratio`] and
//! [`Comparison::tells_apart`]), over some of the blocks.
//!
//! [`paired_ratio`]: super::statistics::paired_ratio
//! [`Comparison::tells_apart`]: super::comparison::Comparison::tells_apart

mod sets;
#[cfg(test)]
pub mod synthetic;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::statistics::{Interval, RatioEstimate, median};
use super::{LaunchSummary, RunData};
use sets::{Material, Names};

/// Blocks of one comparison: those of the `standard` profile.
pub const SET: usize = 10;
/// Comparisons of the subject with itself.
pub const SPLITS: usize = 40;
/// Comparisons of the subject with the slowed one.
pub const DRAWS: usize = 10;
/// Most comparisons of a subject with itself that may find a difference, as a share.
pub const MOST_FALSE_POSITIVES: f64 = 0.05;
/// Largest half-width of the interval of CPU per operation.
pub const MOST_CPU_FLOOR: f64 = 0.03;
/// Largest half-width of the interval of a p99.
pub const MOST_P99_FLOOR: f64 = 0.10;
/// Smallest share of draws in which the slowed one is to be found.
pub const LEAST_FOUND: f64 = 0.9;
/// Largest share of a core that the sampler may use.
pub const MOST_SAMPLER: f64 = 0.005;
/// What a planted ratio may be beside what was asked for: the calibration rests on one launch.
pub const PLANTED_SLACK: f64 = 0.02;

/// Figures whose resolution is looked for.
pub const METRICS: [Metric; 6] = [
    Metric::CpuPerOperation,
    Metric::RestP50,
    Metric::RestP99,
    Metric::AmqpP50,
    Metric::AmqpP99,
    Metric::Pss,
];

/// What a run of one subject under several names says about the instrument.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolution {
    /// The subject.
    pub subject: String,
    /// Measured window of a launch in s.
    pub window_s: f64,
    /// Blocks in which the subject and its twin are both valid.
    pub blocks: usize,
    /// Blocks of one comparison; fewer than [`SET`] if there are no more.
    pub set: usize,
    /// Whether a p99 was taken from fewer operations than a report wants for it.
    pub coarse: bool,
    /// The subject against its twin, by figure.
    pub floors: Vec<Floor>,
    /// The subject against the slowed one, if it was launched.
    pub planted: Option<Planted>,
    /// Without the sampler against with it, if it was launched.
    pub unsampled: Option<Unsampled>,
    /// CPU of the sampler as a share of a core, over all launches that it sampled throughout.
    pub sampler: Option<Spread>,
}

/// Several values of one figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Middle one.
    pub median: f64,
    /// Lowest one.
    pub low: f64,
    /// Highest one.
    pub high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        let median = median(&mut values)?;
        Some(Self {
            median,
            low: *values.first()?,
            high: *values.last()?,
        })
    }
}

/// How often something was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Times that it was.
    pub found: usize,
    /// Times that it was looked for.
    pub of: usize,
}

impl Rate {
    /// The share; 0 of nothing.
    #[must_use]
    pub fn ratio(self) -> f64 {
        self.found as f64 / self.of.max(1) as f64
    }

    fn count(outcomes: impl Iterator<Item = bool>) -> Self {
        outcomes.fold(Self::default(), |rate, found| Self {
            found: rate.found + usize::from(found),
            of: rate.of + 1,
        })
    }
}

/// One figure of the subject against the same figure of its twin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Which figure.
    pub metric: Metric,
    /// Half the width of the ratio's interval in a set of blocks, as a share.
    pub half_width: Spread,
    /// What a difference must exceed in a set of blocks: the interval's farther end, as a share.
    pub reach: Spread,
    /// Differences found with the two names swapped at random in each block.
    pub swapped: Rate,
    /// Differences found with the names as they were launched.
    pub kept: Rate,
    /// Whether either half of the blocks finds a difference in the same direction: the instrument
    /// treats the second name differently.
    pub biased: bool,
}

/// The planted slow-down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planted {
    /// CPU per operation of the slowed one over that of the subject, as planted.
    pub asked_ratio: f64,
    /// The same as measured over all blocks.
    pub measured: Option<RatioEstimate>,
    /// Draws in which the slowed one was found to be worse.
    pub found: Rate,
    /// Draws that share no launch with another one; the rest are subsets drawn by the seed.
    pub disjoint: usize,
}

/// The subject without the sampler over the subject with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unsampled {
    /// Ratio by figure over all blocks.
    pub ratios: Vec<(Metric, RatioEstimate)>,
    /// Figures that are told apart, which the sampler therefore sways.
    pub swayed: Vec<Metric>,
}

/// What is asked of the instrument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// How often are two equal subjects told apart?
    FalsePositives,
    /// Are the two names treated alike?
    Bias,
    /// How wide is the interval of this figure?
    Floor(Metric),
    /// Is the planted slow-down what it should be?
    PlantedRatio,
    /// How often is it found?
    PlantedFound,
    /// Does the sampler sway a figure?
    SamplerSways,
    /// What does the sampler use?
    SamplerCost,
}

/// A question with its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// What is asked.
    pub question: Question,
    /// Whether the answer is what it should be; not if there is none.
    pub held: bool,
}

impl Resolution {
    /// What the launches with their judgement say; `None` if it asked another question.
    #[must_use]
    pub fn of(run: &RunData, judged: &[LaunchSummary]) -> Option<Self> {
        let facts = run.manifest.resolution.as_ref()?;
        let material = Material::of(run, judged)?;
        let shared = material.blocks(&[&facts.subject, &facts.twin]);
        let sampler = run.launches.iter().filter(|it| {
            it.launch.cell == facts.cell && Some(&it.launch.subject) != facts.unsampled.as_ref()
        });
        let sampler = sampler.filter_map(|it| it.launch.sampler_ratio).collect();
        Some(Self {
            subject: facts.subject.clone(),
            window_s: material.window_s(),
            blocks: shared.len(),
            set: shared.len().min(SET),
            coarse: material.is_coarse(),
            floors: floors(&material, &shared),
            planted: planted(&material),
            unsampled: unsampled(&material),
            sampler: Spread::of(sampler),
        })
    }

    /// Differences that were found with swapped names, over all figures.
    #[must_use]
    pub fn false_positives(&self) -> Rate {
        let add = |sum: Rate, one: &Floor| Rate {
            found: sum.found + one.swapped.found,
            of: sum.of + one.swapped.of,
        };
        self.floors.iter().fold(Rate::default(), add)
    }

    /// The floor of a figure.
    #[must_use]
    pub fn floor(&self, metric: Metric) -> Option<&Floor> {
        self.floors.iter().find(|it| it.metric == metric)
    }

    /// Every question that this run can answer, with whether the answer is what it should be.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        let mut targets = vec![
            Question::FalsePositives,
            Question::Bias,
            Question::Floor(Metric::CpuPerOperation),
            Question::Floor(Metric::RestP99),
            Question::Floor(Metric::AmqpP99),
            Question::SamplerCost,
        ];
        if self.planted.is_some() {
            targets.extend([Question::PlantedRatio, Question::PlantedFound]);
        }
        if self.unsampled.is_some() {
            targets.push(Question::SamplerSways);
        }
        let judge = |question| Target {
            question,
            held: self.is_held(question),
        };
        targets.into_iter().map(judge).collect()
    }

    /// Whether every target is held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.targets().iter().all(|target| target.held)
    }

    fn is_held(&self, question: Question) -> bool {
        let full = self.set == SET;
        match question {
            Question::FalsePositives => {
                let rate = self.false_positives();
                full && rate.of > 0 && rate.ratio() <= MOST_FALSE_POSITIVES
            }
            Question::Bias => full && self.floors.iter().all(|floor| !floor.biased),
            Question::Floor(metric) => {
                let floor = self.floor(metric).filter(|_| full);
                floor.is_some_and(|it| it.half_width.median <= most_floor(metric))
            }
            Question::PlantedRatio => self.planted.as_ref().is_some_and(Planted::is_as_asked),
            Question::PlantedFound => {
                let found = self.planted.as_ref().map(|it| it.found);
                found.is_some_and(|it| it.of >= DRAWS && it.ratio() >= LEAST_FOUND)
            }
            Question::SamplerSways => {
                let unsampled = self.unsampled.as_ref();
                unsampled.is_some_and(Unsampled::is_undisturbed)
            }
            Question::SamplerCost => self.sampler.is_some_and(|it| it.median <= MOST_SAMPLER),
        }
    }
}

impl Planted {
    /// Whether what was planted is what was asked for, so that finding it means something.
    #[must_use]
    pub fn is_as_asked(&self) -> bool {
        let near = |it: RatioEstimate| (it.ratio - self.asked_ratio).abs() <= PLANTED_SLACK;
        self.measured.is_some_and(near)
    }
}

impl Unsampled {
    /// Whether no figure is told apart, and CPU per operation is shown to be equal: a wide interval alone
    /// would prove nothing.
    #[must_use]
    pub fn is_undisturbed(&self) -> bool {
        let mut ratios = self.ratios.iter();
        let cpu = ratios.find(|(metric, _)| *metric == Metric::CpuPerOperation);
        self.swayed.is_empty() && cpu.is_some_and(|(_, ratio)| ratio.is_equivalent())
    }
}

/// Widest interval of a figure that has a target, as a share.
#[must_use]
pub fn most_floor(metric: Metric) -> f64 {
    match metric {
        Metric::CpuPerOperation => MOST_CPU_FLOOR,
        _ => MOST_P99_FLOOR,
    }
}

fn half_width(estimate: &RatioEstimate) -> Option<f64> {
    let Interval { low, high } = estimate.interval?;
    Some(((high / low).ln() / 2.0).exp_m1())
}

fn floors(material: &Material<'_>, shared: &[u32]) -> Vec<Floor> {
    let names = material.twins();
    let swapped = material.splits(&names, shared, true);
    let kept = material.splits(&names, shared, false);
    let (even, odd): (Vec<u32>, Vec<u32>) = shared.iter().partition(|block| **block % 2 == 0);
    let halves = [even, odd].map(|half| material.compare(&names, &half, 0, None));
    let floor = |metric| {
        let kept_ratios: Vec<_> = kept.iter().filter_map(|it| it.ratio(metric)).collect();
        let found = |it: &sets::Outcome| it.is_found(metric);
        let direction = |half: &sets::Outcome| half.direction(metric);
        let [even, odd] = [&halves[0], &halves[1]].map(direction);
        Some(Floor {
            metric,
            half_width: Spread::of(kept_ratios.iter().filter_map(half_width).collect())?,
            reach: Spread::of(kept_ratios.iter().map(|it| it.reach().exp_m1()).collect())?,
            swapped: Rate::count(swapped.iter().map(found)),
            kept: Rate::count(kept.iter().map(found)),
            biased: even.is_some() && even == odd,
        })
    };
    METRICS.into_iter().filter_map(floor).collect()
}

fn planted(material: &Material<'_>) -> Option<Planted> {
    let facts = material.facts();
    let slowed = facts.slowed.as_deref()?;
    let names = Names::with_floor(facts, slowed);
    let blocks = material.blocks(&[&facts.subject, &facts.twin, slowed]);
    let all = material.compare(&names, &blocks, 0, None);
    let (draws, disjoint) = material.draws(&blocks);
    let metric = Metric::CpuPerOperation;
    let found = |(number, set): (usize, &Vec<u32>)| {
        let outcome = material.compare(&names, set, number, None);
        set.len() == SET && outcome.direction(metric) == Some(std::cmp::Ordering::Greater)
    };
    Some(Planted {
        asked_ratio: facts.planted_ratio,
        measured: all.ratio(metric),
        found: Rate::count(draws.iter().enumerate().map(found)),
        disjoint,
    })
}

fn unsampled(material: &Material<'_>) -> Option<Unsampled> {
    let facts = material.facts();
    let unsampled = facts.unsampled.as_deref()?;
    let names = Names::with_floor(facts, unsampled);
    let blocks = material.blocks(&[&facts.subject, &facts.twin, unsampled]);
    let outcome = material.compare(&names, &blocks, 0, None);
    // Two samples are not the median of many: their PSS is another figure.
    let swayable = || METRICS.into_iter().filter(|it| *it != Metric::Pss);
    Some(Unsampled {
        ratios: swayable()
            .filter_map(|metric| Some((metric, outcome.ratio(metric)?)))
            .collect(),
        swayed: swayable().filter(|it| outcome.is_found(*it)).collect(),
    })
}
