//! Whether a launch was in a steady state while it was measured.
//!
//! A warm-up is detected and not assumed: the course of each quantity over equal parts of the window
//! is cut where MSER says and tested for a trend. MSER is White's rule ("An effective truncation
//! heuristic for bias reduction in simulation output", 1997); MSER-5 is the same over means of five
//! observations (Spratt, "Heuristics for the startup problem", 1998). Here a part of the window is such a
//! batch already; where it holds fewer than five operations, neighbouring parts are taken together.

mod company;

use serde::{Deserialize, Serialize};

use company::without_mood;

use super::LaunchData;
use super::metric::{GROWTH_WINDOW_MS, answered, tag};
use super::significance::{LEVEL, mann_kendall_p, student_p};
use super::statistics::{
    EQUIVALENCE_MARGIN, SMALLEST_EFFECT, mean, median, squared_error, theil_sen,
};
use crate::record::{Kind, Sample, Slice};

pub use company::companies;

/// Parts of a window at the most.
const MOST_PARTS: usize = 20;
/// Fewest parts that say anything: with fewer, no order of them is rare enough.
const FEWEST_PARTS: usize = 8;
/// Shortest part in ms. What the scheduler or the broker does once makes a course of shorter ones, so
/// that a window under 0.8 s cannot be judged.
const SHORTEST_PART_MS: f64 = 100.0;
/// Observations of a batch of MSER-5.
const BATCH: u64 = 5;
/// Chance that a launch in a steady state is taken for one that is not, all its courses together.
const FALSE_ALARMS: f64 = 0.01;
/// Smallest trend over the whole window that matters: its ends then lie as far from its middle as
/// what still counts as equal, so that a shown trend of 0.1 % voids nothing.
const SMALLEST_TREND: f64 = 2.0 * EQUIVALENCE_MARGIN;
/// Smallest change of a launch's figure by its warm-up that matters.
const SMALLEST_SHIFT: f64 = SMALLEST_EFFECT;

/// How a course runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Steadiness {
    /// Steady throughout, or so nearly that it does not matter.
    Flat,
    /// It begins worse and becomes steady within the first half.
    WarmUp,
    /// It begins better and becomes steady within the first half.
    Slowdown,
    /// It still moves when the window ends.
    NoSteadyState,
}

impl Steadiness {
    /// The words in tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::WarmUp => "warm-up",
            Self::Slowdown => "slowdown",
            Self::NoSteadyState => "no steady state",
        }
    }
}

/// What is followed over the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quantity {
    /// Answers per second, in a closed loop only: an open loop's is what was asked for.
    Throughput,
    /// Median response time of REST, in an open loop only.
    RestResponse,
    /// Median response time of AMQP.
    AmqpResponse,
    /// CPU of the tree per second.
    Cpu,
    /// Summed PSS; not in windows of five minutes or more, where its growth is a figure of its own.
    Pss,
}

impl Quantity {
    /// The level as the launch's figure has it: memory is the median of its samples, which a short
    /// start does not move.
    fn level(self, values: &[f64]) -> f64 {
        match self {
            Self::Pss => median(&mut values.to_vec()).unwrap_or_default(),
            _ => mean(values),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::RestResponse => "REST response",
            Self::AmqpResponse => "AMQP response",
            Self::Cpu => "CPU",
            Self::Pss => "PSS",
        }
    }
}

/// One quantity over the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Which.
    pub quantity: Quantity,
    /// How it runs.
    pub steadiness: Steadiness,
    /// Share of the window before the steady part, by MSER, in `[0, 0.5]`.
    pub cut_ratio: f64,
    /// By how much the part before it changes the level, as a share of the steady part's.
    pub shift_ratio: f64,
    /// Slope of the rest over the length of the window, as a share of the rest's median.
    pub trend_ratio: f64,
}

/// Every course of a launch that is long enough to be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteadyState {
    /// The worst of them.
    pub steadiness: Steadiness,
    /// Each of them.
    pub courses: Vec<Course>,
}

impl SteadyState {
    /// Judges a launch under load by itself; see [`SteadyState::beside`].
    #[must_use]
    pub fn of(data: &LaunchData) -> Option<Self> {
        Self::beside(data, &[])
    }

    /// Judges a launch under load, beside those that took turns with it; `None` without load, for a
    /// drain (which begins with the launch and ends with its queue), and where every course is too
    /// short.
    #[must_use]
    pub fn beside(data: &LaunchData, others: &[&LaunchData]) -> Option<Self> {
        if data.launch.operations.is_empty() || data.launch.drain.is_some() {
            return None;
        }
        let others: Vec<_> = others.iter().map(|data| series(data)).collect();
        let own = series(data).into_iter();
        let series: Vec<_> = own
            .map(|(quantity, values)| (quantity, without_mood(quantity, values, &others)))
            .collect();
        // Two tests of each course, all of them together as rarely wrong as one.
        let level = FALSE_ALARMS / (2.0 * series.len() as f64);
        let courses: Vec<Course> = series
            .iter()
            .map(|(quantity, values)| classify(*quantity, values, level))
            .collect();
        let steadiness = courses.iter().map(|it| it.steadiness).max()?;
        Some(Self {
            steadiness,
            courses,
        })
    }

    /// The courses that are not flat.
    pub fn moving(&self) -> impl Iterator<Item = &Course> {
        let courses = self.courses.iter();
        courses.filter(|it| it.steadiness != Steadiness::Flat)
    }
}

impl Course {
    /// How it moves, in words.
    #[must_use]
    pub fn complaint(&self) -> String {
        let (quantity, state) = (self.quantity.word(), self.steadiness.word());
        let what = match self.steadiness {
            Steadiness::NoSteadyState => {
                format!("{:+.0} % over the window", self.trend_ratio * 100.0)
            }
            _ => format!(
                "its first {:.0} % change the level by {:+.0} %",
                self.cut_ratio * 100.0,
                self.shift_ratio * 100.0
            ),
        };
        format!("{quantity}: {state}, {what}")
            .replace('-', "−")
            .replace("warm−up", "warm-up")
    }
}

/// The courses that are long enough and above 0.
fn series(data: &LaunchData) -> Vec<(Quantity, Vec<f64>)> {
    let launch = &data.launch;
    let most = most_parts(launch.window_s);
    let slices = |kind| data.slices.get(&tag(kind, "response")).map(Vec::as_slice);
    let (rest, amqp) = (slices(Kind::Rest), slices(Kind::Amqp));
    let is_open = |kind: Kind| launch.arrival_rate_per_s.contains_key(&kind);
    let rest = match (rest, is_open(Kind::Rest)) {
        (Some(slices), true) => Some((Quantity::RestResponse, response(slices, most))),
        (Some(slices), false) => Some((Quantity::Throughput, throughput(slices, most))),
        (None, _) => None,
    };
    let amqp = amqp.map(|slices| (Quantity::AmqpResponse, response(slices, most)));
    let operations = launch.operations.values().map(answered).sum();
    let found = [
        rest,
        amqp,
        Some((Quantity::Cpu, cpu(&data.samples, most, operations))),
        Some((Quantity::Pss, pss(&data.samples, most))),
    ];
    let is_long = |(_, values): &(Quantity, Vec<f64>)| {
        values.len() >= FEWEST_PARTS && values.iter().all(|value| *value > 0.0)
    };
    found.into_iter().flatten().filter(is_long).collect()
}

/// Into how many parts a window may be cut.
fn most_parts(window_s: f64) -> usize {
    // A ratio of two durations, cut off; the little more forgives the rounding of 0.8 s.
    let parts = window_s * 1e3 / SHORTEST_PART_MS + 1e-6;
    MOST_PARTS.min(parts as usize)
}

/// How many of `points` go into each part, so that there are no more than `most` parts and each holds
/// a batch of operations.
fn points_per_part(points: usize, most: usize, operations: u64) -> usize {
    let batches = usize::try_from(operations / BATCH).unwrap_or(usize::MAX);
    points.div_ceil(most.min(batches).max(1)).max(1)
}

/// Median response times; of slices taken together, their mean weighted by operations.
fn response(slices: &[Slice], most: usize) -> Vec<f64> {
    let operations = slices.iter().map(|it| it.operations).sum();
    let of = |part: &[Slice]| {
        let count: u64 = part.iter().map(|it| it.operations).sum();
        let sum = part
            .iter()
            .map(|it| it.median_ns as f64 * it.operations as f64);
        sum.sum::<f64>() / count.max(1) as f64
    };
    let parts = slices.chunks(points_per_part(slices.len(), most, operations));
    parts.map(of).collect()
}

fn throughput(slices: &[Slice], most: usize) -> Vec<f64> {
    let of = |part: &[Slice]| {
        let length_s: f64 = part.iter().map(|it| it.length_s).sum();
        part.iter().map(|it| it.operations).sum::<u64>() as f64 / length_s
    };
    let parts = slices.chunks(points_per_part(slices.len(), most, u64::MAX));
    parts.map(of).collect()
}

/// CPU per time between the samples at the edges of the parts.
fn cpu(samples: &[Sample], most: usize, operations: u64) -> Vec<f64> {
    let gaps = samples.len().saturating_sub(1);
    let edges: Vec<&Sample> = samples
        .iter()
        .step_by(points_per_part(gaps, most, operations))
        .collect();
    let rate = |pair: &[&Sample]| {
        (pair[1].cpu_ns.saturating_sub(pair[0].cpu_ns)) as f64 / (pair[1].t_ms - pair[0].t_ms)
    };
    edges.windows(2).map(rate).collect()
}

fn pss(samples: &[Sample], most: usize) -> Vec<f64> {
    let length_ms = match samples {
        [first, .., last] => last.t_ms - first.t_ms,
        _ => 0.0,
    };
    if length_ms >= GROWTH_WINDOW_MS {
        return Vec::new();
    }
    let of = |part: &[Sample]| {
        let sizes = part.iter().map(|it| it.pss_bytes as f64);
        median(&mut sizes.collect::<Vec<_>>()).unwrap_or_default()
    };
    samples
        .chunks(points_per_part(samples.len(), most, u64::MAX))
        .map(of)
        .collect()
}

/// A trend with the chance of one as clear where there is none.
struct Trend {
    ratio: f64,
    p: f64,
}

impl Trend {
    /// The slope counts over as many parts as the whole window has, also for a piece of it.
    fn of(values: &[f64], parts: usize) -> Self {
        let points: Vec<(f64, f64)> = (0_u32..)
            .map(f64::from)
            .zip(values.iter().copied())
            .collect();
        let slope = theil_sen(&points).unwrap_or_default();
        let level = median(&mut values.to_vec()).unwrap_or(f64::INFINITY);
        Self {
            ratio: slope * (parts as f64 - 1.0) / level,
            p: mann_kendall_p(values),
        }
    }

    fn is_shown(&self, level: f64) -> bool {
        self.p < level && self.ratio.abs() >= SMALLEST_TREND
    }
}

/// Classifies at least [`FEWEST_PARTS`] values above 0, so that each of two tests is wrong with the
/// chance `level`.
fn classify(quantity: Quantity, values: &[f64], level: f64) -> Course {
    let cut = truncation(values);
    let (head, tail) = values.split_at(cut);
    let shift_ratio = quantity.level(values) / quantity.level(tail) - 1.0;
    let (whole, rest) = (
        Trend::of(values, values.len()),
        Trend::of(tail, values.len()),
    );
    let moves = whole.is_shown(level) || stands_out(head, tail, level);
    let begins_worse = (shift_ratio > 0.0) != (quantity == Quantity::Throughput);
    let steadiness = if !moves {
        Steadiness::Flat
    } else if rest.is_shown(LEVEL) {
        Steadiness::NoSteadyState
    } else if shift_ratio.abs() < SMALLEST_SHIFT {
        Steadiness::Flat
    } else if begins_worse {
        Steadiness::WarmUp
    } else {
        Steadiness::Slowdown
    };
    Course {
        quantity,
        steadiness,
        cut_ratio: cut as f64 / values.len() as f64,
        shift_ratio,
        trend_ratio: rest.ratio,
    }
}

/// Values to leave out at the start so that the mean of the others is known best (MSER): at most
/// half of them, since a cut beyond says that there is no steady part.
fn truncation(values: &[f64]) -> usize {
    let error = |cut: &usize| squared_error(&values[*cut..]);
    let cuts = 0..=values.len() / 2;
    cuts.min_by(|a, b| error(a).total_cmp(&error(b)))
        .unwrap_or(0)
}

/// Whether the head differs from the tail by more than the tail's own scatter explains.
///
/// The cut was chosen for the difference, so that the level is divided by the number of cuts there
/// were. A start begins with the window: an outlier later in the head is none.
fn stands_out(head: &[f64], tail: &[f64], level: f64) -> bool {
    let Some(first) = head.first() else {
        return false;
    };
    let (before, after) = (head.len() as f64, tail.len() as f64);
    let variance = squared_error(tail) * after * memory(tail);
    let difference = mean(head) - mean(tail);
    let begins = (first - mean(tail)) * difference.signum() > 2.0 * variance.sqrt();
    let error = (variance * (1.0 / before + 1.0 / after)).sqrt();
    let cuts = (before + after) / 2.0;
    begins && student_p(difference / error, tail.len() - 1) < level / cuts
}

/// By what factor values that remember the one before scatter more in their mean than independent
/// ones: (1 + r)/(1 − r) with the first autocorrelation r, if that is above 0.
fn memory(values: &[f64]) -> f64 {
    let centre = mean(values);
    let product = |pair: &[f64]| (pair[0] - centre) * (pair[1] - centre);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    let together: f64 = values.windows(2).map(product).sum();
    let r = if squares > 0.0 {
        together / squares
    } else {
        0.0
    };
    let r = r.clamp(0.0, 0.9);
    (1.0 + r) / (1.0 - r)
}

#[cfg(test)]
mod tests;
