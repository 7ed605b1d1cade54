//! How operations arrive, as a scenario says it, and the schedule that comes of it.

use serde::{Deserialize, Serialize};

use crate::load::{Arrival, Burst, MOST_STEPS, Ramp, Step, Steps};

/// How the operations of one kind arrive.
///
/// A shape begins with the window: during the warm-up a ramp stands at `rate_per_s` and steps at
/// their first rate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArrivalKind {
    /// Equal gaps.
    #[default]
    Constant,
    /// Seeded exponential gaps.
    Poisson,
    /// Every connection sends as soon as it was answered: for ceilings only, never for
    /// response times.
    ClosedLoop,
    /// From `rate_per_s` to another rate in a straight line.
    Ramp(RampShape),
    /// One rate after the other, in place of `rate_per_s`.
    Steps(Vec<StepShape>),
    /// Many operations at once with a mean of `rate_per_s`.
    Burst(BurstShape),
}

/// A ramp within the window; behind it the rate that it has reached stays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RampShape {
    /// Operations per second at its end, above 0.
    pub to_per_s: f64,
    /// Length in seconds; the whole window if none.
    #[serde(default)]
    pub over_s: Option<f64>,
}

/// One step; the last one lasts until the end of the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepShape {
    /// Operations per second, above 0.
    pub rate_per_s: f64,
    /// Length in seconds, above 0.
    pub for_s: f64,
}

/// Bursts of `size` operations, one in every `size / rate_per_s` seconds, first after half of that.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BurstShape {
    /// Operations of one burst, at least 2.
    pub size: u64,
    /// Time over which they are spread evenly, in seconds; 0 for one instant.
    #[serde(default)]
    pub width_s: f64,
}

/// When and how often: what a schedule needs besides its shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Operations per second.
    pub rate_per_s: f64,
    /// Load before the window, in seconds.
    pub warm_up_s: f64,
    /// Window in seconds.
    pub window_s: f64,
}

impl ArrivalKind {
    /// The schedule; `None` for the closed loop, which has none. `phase`, in `[0, 1)`, is a share of
    /// the time between two operations, or between two bursts.
    #[must_use]
    pub fn schedule(&self, pace: Pace, phase: f64, seed: u64) -> Option<Arrival> {
        let rate_per_s = pace.rate_per_s;
        match self {
            Self::Constant => Some(Arrival::Constant { rate_per_s, phase }),
            Self::Poisson => Some(Arrival::Poisson { rate_per_s, seed }),
            Self::ClosedLoop => None,
            Self::Ramp(shape) => Some(Arrival::Ramp(Ramp {
                from_per_s: rate_per_s,
                to_per_s: shape.to_per_s,
                after_s: pace.warm_up_s,
                over_s: shape.over_s.unwrap_or(pace.window_s),
                phase,
            })),
            Self::Steps(shapes) => {
                Steps::new(&steps(shapes, pace.warm_up_s), phase).map(Arrival::Steps)
            }
            Self::Burst(shape) => Some(Arrival::Burst(Burst {
                rate_per_s,
                size: shape.size,
                width_s: shape.width_s,
                phase: (phase + 0.5).fract(),
            })),
        }
    }

    /// Operations per second of the window, on average; `None` for the closed loop.
    #[must_use]
    pub fn mean_rate_per_s(&self, pace: Pace) -> Option<f64> {
        let schedule = self.schedule(pace, 0.0, 0)?;
        let end_s = pace.warm_up_s + pace.window_s;
        Some(schedule.mean_rate_per_s(pace.warm_up_s, end_s))
    }

    /// What does not go together, in words.
    pub(super) fn contradiction(&self, pace: Pace) -> Option<String> {
        let window_s = pace.window_s;
        match self {
            Self::Constant | Self::Poisson | Self::ClosedLoop => None,
            Self::Ramp(shape) => {
                let over_s = shape.over_s.unwrap_or(window_s);
                if !is_positive(shape.to_per_s) || !is_positive(over_s) {
                    return Some("a ramp's `to_per_s` and `over_s` must be above 0".into());
                }
                (over_s > window_s).then(|| too_long("a ramp", over_s, window_s))
            }
            Self::Steps(shapes) => {
                let are_right = |s: &StepShape| is_positive(s.rate_per_s) && is_positive(s.for_s);
                if shapes.is_empty() || shapes.len() > MOST_STEPS || !shapes.iter().all(are_right) {
                    return Some(format!(
                        "`steps` needs 1 to {MOST_STEPS} steps, each with a `rate_per_s` and a `for_s` above 0"
                    ));
                }
                let sum_s: f64 = shapes.iter().map(|shape| shape.for_s).sum();
                (sum_s > window_s * 1.000_001).then(|| too_long("the steps", sum_s, window_s))
            }
            Self::Burst(shape) => {
                let period_s = shape.size as f64 / pace.rate_per_s;
                let fits = shape.width_s >= 0.0 && shape.width_s < period_s;
                (shape.size < 2 || !fits).then(|| {
                    format!(
                        "a burst needs a `size` of at least 2 and a `width_s` from 0 to below its period, \
                         size / rate_per_s = {period_s} s"
                    )
                })
            }
        }
    }
}

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn too_long(what: &str, length_s: f64, window_s: f64) -> String {
    format!(
        "{what} of {length_s} s would not end within the window of {window_s} s: shorten one or lengthen \
         the other (a ramp without `over_s` takes the whole window)"
    )
}

/// The steps, of which the first holds during the warm-up, too.
fn steps(shapes: &[StepShape], warm_up_s: f64) -> Vec<Step> {
    let step = |(place, shape): (usize, &StepShape)| Step {
        rate_per_s: shape.rate_per_s,
        for_s: shape.for_s + if place == 0 { warm_up_s } else { 0.0 },
    };
    shapes.iter().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::super::RestLoad;
    use super::*;

    const PACE: Pace = Pace {
        rate_per_s: 100.0,
        warm_up_s: 0.5,
        window_s: 4.0,
    };

    fn parse(arrival: &str) -> Result<ArrivalKind, toml::de::Error> {
        let text = format!("rate_per_s = 100\nmix = [\"flatten\"]\narrival = {arrival}");
        toml::from_str::<RestLoad>(&text).map(|load| load.arrival)
    }

    fn parsed(arrival: &str) -> ArrivalKind {
        parse(arrival).expect("the text is valid")
    }

    #[test]
    fn words_and_shapes_are_both_understood() {
        assert_eq!(parsed("\"poisson\""), ArrivalKind::Poisson);
        assert_eq!(parsed("\"closed-loop\""), ArrivalKind::ClosedLoop);
        let ramp = RampShape {
            to_per_s: 300.0,
            over_s: None,
        };
        assert_eq!(
            parsed("{ ramp = { to_per_s = 300 } }"),
            ArrivalKind::Ramp(ramp)
        );
        let steps = "{ steps = [{ rate_per_s = 1, for_s = 2 }, { rate_per_s = 3, for_s = 1 }] }";
        assert!(matches!(parsed(steps), ArrivalKind::Steps(steps) if steps.len() == 2));
        let burst = BurstShape {
            size: 20,
            width_s: 0.0,
        };
        assert_eq!(
            parsed("{ burst = { size = 20 } }"),
            ArrivalKind::Burst(burst)
        );
    }

    #[test]
    fn unknown_keys_and_two_shapes_at_once_are_refused() {
        for wrong in [
            "\"wave\"",
            "{ ramp = { to_per_s = 1, over = 2 } }",
            "{ burst = { size = 2 }, ramp = { to_per_s = 1 } }",
            "{ steps = [{ rate_per_s = 1 }] }",
            "{ burst = { width_s = 0.1 } }",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn contradictions_are_told() {
        let reason = |arrival: &str| parsed(arrival).contradiction(PACE).unwrap_or_default();
        assert!(reason("{ ramp = { to_per_s = 0 } }").contains("above 0"));
        assert!(reason("{ ramp = { to_per_s = 5, over_s = 4.5 } }").contains("window of 4 s"));
        assert!(reason("{ steps = [] }").contains("1 to 12"));
        assert!(reason("{ steps = [{ rate_per_s = 1, for_s = 9 }] }").contains("steps of 9 s"));
        assert!(reason("{ burst = { size = 1 } }").contains("at least 2"));
        assert!(reason("{ burst = { size = 10, width_s = 0.1 } }").contains("= 0.1 s"));
        for right in [
            "\"constant\"",
            "{ ramp = { to_per_s = 5, over_s = 4 } }",
            "{ burst = { size = 10, width_s = 0.05 } }",
        ] {
            assert_eq!(reason(right), "", "{right}");
        }
    }

    #[test]
    fn the_mean_is_that_of_the_window_and_not_of_the_warm_up() {
        let mean = |arrival: &str| parsed(arrival).mean_rate_per_s(PACE);
        assert_eq!(mean("\"closed-loop\""), None);
        assert_eq!(mean("\"poisson\""), Some(100.0));
        let near = |arrival: &str, expected: f64| {
            let found = mean(arrival).expect("an open loop");
            assert!((found - expected).abs() < 1e-6, "{arrival}: {found}");
        };
        near("{ ramp = { to_per_s = 300 } }", 200.0);
        // 200 in the second of the ramp, and 300 in each of the three behind it.
        near("{ ramp = { to_per_s = 300, over_s = 1 } }", 275.0);
        near(
            "{ steps = [{ rate_per_s = 40, for_s = 1 }, { rate_per_s = 80, for_s = 1 }] }",
            70.0,
        );
        near("{ burst = { size = 20 } }", 100.0);
    }

    #[test]
    fn two_kinds_of_bursts_are_half_a_period_apart() {
        let at = |phase| {
            let schedule = parsed("{ burst = { size = 20 } }").schedule(PACE, phase, 0);
            schedule.expect("an open loop").pacer().intended_ns(0) / 1_000_000
        };
        assert_eq!((at(0.0), at(0.5)), (100, 0));
    }
}
