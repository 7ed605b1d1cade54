//! The capacity of each subject: the highest rate whose responses are in time.
//!
//! The search is made again from the launches of the run folder, in their order: the same outcomes
//! lead to the same rates, so that nothing but raw data has to be kept.

mod bisection;

use serde::{Deserialize, Serialize};

use super::LaunchData;
use super::comparison::Judged;
use super::gates::{Gate, MOST_LAG, Standing};
use super::metric::tag;
use crate::record::{Kind, Manifest, SearchFacts};

pub use bisection::{Bisection, Finding, Obstacle, Outcome, RESOLUTION};

/// Goodput of the offered load below which it no longer follows.
pub const FOLLOWS: f64 = 0.97;

/// Operations that must lie beyond the quantile in a probe: enough to decide, and fewer than a
/// printed quantile needs.
const BEYOND_QUANTILE: f64 = 10.0;

/// Parts of the names of gates that an overloaded subject fails.
const OF_SUBJECT: [&str; 2] = ["achieved/asked", "timed out"];

/// Parts of the names of gates that tell, even under overload, that the load was not what it says.
const OF_GENERATOR: [&str; 2] = ["generator busy", "planned/(rate"];

/// The search of a run and what it found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CapacitySummary {
    /// What was asked.
    pub facts: SearchFacts,
    /// Each subject in the order of the manifest.
    pub subjects: Vec<Capacity>,
}

/// What one subject can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Subject.
    pub subject: String,
    /// Highest rate that held, in requests per second.
    pub rate_per_s: Option<f64>,
    /// How the search ended.
    pub finding: Finding,
    /// Fresh launches at this rate that held one after the other.
    pub confirmed: u32,
    /// Lowest probed rate at which the goodput was below [`FOLLOWS`] of it.
    pub saturation_rate_per_s: Option<f64>,
    /// Highest probed rate below it at which the goodput followed.
    pub following_rate_per_s: Option<f64>,
    /// Every probe in the order in which it was made.
    pub probes: Vec<Probe>,
}

/// One launch of the search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Position in the run.
    pub ordinal: u32,
    /// Offered load in requests per second.
    pub rate_per_s: f64,
    /// The quantile of the response time in ns; `None` if too few operations ended.
    pub quantile_ns: Option<f64>,
    /// Correct answers within the objective, as a share of what was planned.
    pub goodput_ratio: f64,
    /// What it says.
    pub outcome: Outcome,
    /// Whether the host was noisy.
    pub disturbed: bool,
}

impl CapacitySummary {
    /// Makes the search again; `None` if the run has none.
    pub fn of(manifest: &Manifest, launches: &[Judged]) -> Option<Self> {
        let facts = manifest.search.clone()?;
        // The one in which the run was interrupted says nothing.
        let last = manifest.interrupted.then(|| launches.len().max(1) - 1);
        let counted = launches
            .iter()
            .enumerate()
            .filter(|(n, _)| Some(*n) != last);
        let probes: Vec<_> = counted.map(|(_, judged)| judged).collect();
        let subjects = manifest.compared().map(|subject| {
            let own = probes
                .iter()
                .filter(|(l, _)| l.probe && l.subject == subject.name);
            let probes = own.map(|(l, data)| Probe::of(data, &l.gates, &facts));
            Capacity::of(&subject.name, &facts, probes.collect())
        });
        Some(Self {
            subjects: subjects.collect(),
            facts,
        })
    }

    /// The lowest capacity in requests per second; `None` unless every subject has one.
    #[must_use]
    pub fn slowest_per_s(&self) -> Option<f64> {
        let rates = self.subjects.iter().map(|subject| subject.rate_per_s);
        rates
            .collect::<Option<Vec<f64>>>()?
            .into_iter()
            .min_by(f64::total_cmp)
    }
}

impl Capacity {
    fn of(subject: &str, facts: &SearchFacts, probes: Vec<Probe>) -> Self {
        let mut search = Bisection::new(facts);
        for probe in &probes {
            if search.next_per_s() == Some(probe.rate_per_s) {
                search.tell(probe.outcome);
            }
        }
        let (rate_per_s, finding) = search.finding();
        let saturation_rate_per_s = saturation(&probes);
        let following = probes.iter().filter(|probe| {
            probe.follows() && saturation_rate_per_s.is_none_or(|rate| probe.rate_per_s < rate)
        });
        Self {
            subject: subject.to_owned(),
            rate_per_s,
            finding,
            confirmed: search.confirmed(),
            saturation_rate_per_s,
            following_rate_per_s: following
                .map(|probe| probe.rate_per_s)
                .max_by(f64::total_cmp),
            probes,
        }
    }
}

/// The lowest rate of which no probe's goodput followed: one that did is no saturation.
fn saturation(probes: &[Probe]) -> Option<f64> {
    let counted = || probes.iter().filter(|probe| probe.is_counted());
    let never_followed = |rate: f64| {
        let mut same = counted().filter(|probe| probe.rate_per_s == rate);
        same.all(|probe| !probe.follows())
    };
    let rates = counted().map(|probe| probe.rate_per_s);
    rates
        .filter(|rate| never_followed(*rate))
        .min_by(f64::total_cmp)
}

impl Probe {
    /// Judges a launch as a probe: a pure function of its data and of its gates.
    #[must_use]
    pub fn of(data: &LaunchData, gates: &[Gate], facts: &SearchFacts) -> Self {
        let launch = &data.launch;
        let quantile_ns = quantile(data, facts);
        let is_in_time = quantile_ns.is_some_and(|ns| ns <= facts.slo_ns);
        Self {
            ordinal: launch.ordinal,
            rate_per_s: launch
                .arrival_rate_per_s
                .get(&Kind::Rest)
                .copied()
                .unwrap_or_default(),
            quantile_ns,
            goodput_ratio: goodput(data, facts),
            outcome: outcome(is_in_time, gates, facts.slo_ns),
            disturbed: fails(gates, |gate| gate.on_failure == Standing::Disturbed),
        }
    }

    fn follows(&self) -> bool {
        self.goodput_ratio >= FOLLOWS
    }

    fn is_counted(&self) -> bool {
        !matches!(self.outcome, Outcome::Void(_))
    }
}

/// Operations that a probe needs for its quantile.
#[must_use]
pub fn operations_needed(quantile: f64) -> f64 {
    BEYOND_QUANTILE / (1.0 - quantile)
}

fn quantile(data: &LaunchData, facts: &SearchFacts) -> Option<f64> {
    let histogram = data.histograms.get(&tag(Kind::Rest, "response"))?;
    // A hair below, because 1 − 0.99 is not exactly 0.01, nor is a window a whole number of gaps.
    let enough = histogram.len() as f64 >= 0.98 * operations_needed(facts.quantile);
    enough.then(|| histogram.value_at_quantile(facts.quantile) as f64)
}

fn goodput(data: &LaunchData, facts: &SearchFacts) -> f64 {
    let counts = data.launch.operations.get(&Kind::Rest);
    let histogram = data.histograms.get(&tag(Kind::Rest, "response"));
    let (Some(counts), Some(histogram)) = (counts, histogram) else {
        return 0.0;
    };
    let in_time = histogram.count_between(0, facts.slo_ns as u64);
    // The histogram holds wrong and late answers, too; the count knows no times.
    in_time.min(counts.ok) as f64 / counts.planned.max(1) as f64
}

fn fails(gates: &[Gate], is_meant: impl Fn(&Gate) -> bool) -> bool {
    gates.iter().any(|gate| !gate.passed && is_meant(gate))
}

fn is_named(gate: &Gate, names: &[&str]) -> bool {
    names.iter().any(|name| gate.name.contains(name))
}

/// Noise can only make a subject slower. So a probe that holds on a noisy host has held, but one
/// that fails there says nothing; nor does one whose load was not what it says.
fn outcome(is_in_time: bool, gates: &[Gate], slo_ns: f64) -> Outcome {
    let of_subject = |gate: &Gate| gate.blames_subject || is_named(gate, &OF_SUBJECT);
    let is_overloaded = !is_in_time || fails(gates, of_subject);
    // Under overload other gates fail as a consequence, such as Little's law.
    let spoils = |gate: &Gate| {
        // Here the response times are held against the objective, and so is the lateness.
        if is_named(gate, &["send lag"]) {
            return gate.value > MOST_LAG * slo_ns;
        }
        let invalid = gate.on_failure == Standing::Invalid && !of_subject(gate);
        is_named(gate, &OF_GENERATOR) || (invalid && !is_overloaded)
    };
    if fails(gates, spoils) {
        Outcome::Void(Obstacle::Generator)
    } else if !is_overloaded {
        Outcome::Holds
    } else if fails(gates, |gate| gate.on_failure == Standing::Disturbed) {
        Outcome::Void(Obstacle::Host)
    } else {
        Outcome::Fails
    }
}

#[cfg(test)]
mod tests;
