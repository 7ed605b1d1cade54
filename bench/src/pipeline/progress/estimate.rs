//! How long the rest of a run takes: what was planned, corrected by what was seen.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::scenario::Cell;

/// Launch, verification and stop of one subject, before any was seen.
const OVERHEAD: Duration = Duration::from_secs(2);
/// Messages per second of a drain, before any was seen.
const DRAIN_PER_S: f64 = 10_000.0;

/// One launch of a plan, or several that take turns.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::pipeline) struct Step {
    /// Name of its cell: launches of one cell take about as long as each other.
    cell: String,
    /// Its load without launch and stop.
    load: Duration,
}

impl Step {
    /// That many launches in a cell.
    pub(in crate::pipeline) fn of(cell: &Cell, launches: usize) -> Self {
        // A drain's window is only the longest time that it may take.
        let window_s = match cell.prefill {
            0 => cell.window_s,
            prefill => cell.window_s.min(prefill as f64 / DRAIN_PER_S),
        };
        Self {
            cell: cell.name.clone(),
            load: Duration::from_secs_f64((cell.warm_up_s + window_s) * launches as f64),
        }
    }
}

/// What is left of a plan.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Estimate {
    steps: Vec<Step>,
    /// By cell: launches that were seen, and how long they took together.
    seen: BTreeMap<String, (u32, Duration)>,
}

impl Estimate {
    pub(in crate::pipeline) fn new(steps: Vec<Step>) -> Self {
        Self {
            steps,
            seen: BTreeMap::new(),
        }
    }

    /// The step `place` took this long.
    pub(in crate::pipeline) fn took(&mut self, place: usize, time: Duration) {
        if let Some(step) = self.steps.get(place) {
            let seen = self.seen.entry(step.cell.clone()).or_default();
            *seen = (seen.0 + 1, seen.1 + time);
        }
    }

    /// Time from the begin of the step `place` to the end; `None` of a plan without lengths.
    pub(in crate::pipeline) fn left(&self, place: usize) -> Option<Duration> {
        let rest = self.steps.get(place..)?;
        (!self.steps.is_empty()).then(|| rest.iter().map(|step| self.expected(step)).sum())
    }

    fn expected(&self, step: &Step) -> Duration {
        match self.seen.get(&step.cell) {
            Some((launches, time)) => *time / *launches,
            None => step.load + OVERHEAD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(cell: &str, seconds: u64) -> Step {
        Step {
            cell: cell.into(),
            load: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn what_was_seen_of_a_cell_takes_the_place_of_what_was_planned() {
        let mut estimate = Estimate::new(vec![step("a", 4), step("b", 8), step("a", 4)]);
        assert_eq!(estimate.left(0), Some(Duration::from_secs(6 + 10 + 6)));
        estimate.took(0, Duration::from_secs(9));
        assert_eq!(estimate.left(1), Some(Duration::from_secs(10 + 9)));
        assert_eq!(estimate.left(3), Some(Duration::ZERO));
    }

    #[test]
    fn a_plan_without_lengths_has_no_estimate() {
        let mut estimate = Estimate::default();
        estimate.took(0, Duration::from_secs(1));
        assert_eq!(estimate.left(0), None);
    }
}
