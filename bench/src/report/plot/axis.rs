//! Scales and their ticks.

use super::super::format::setting;
use super::super::svg::{Anchor, Svg, text_width};

/// Height that a label of a vertical axis takes with the gap to the next.
const LABEL_HEIGHT: f64 = 16.0;
/// Least gap between two labels of a horizontal axis.
const LABEL_GAP: f64 = 4.0;
/// How far the last label of a horizontal axis may reach beyond its end.
const RIGHT_MARGIN: f64 = 14.0;

/// A map from values to positions in the figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    /// Equal differences are equal lengths.
    pub fn linear((low, high): (f64, f64), (start, end): (f64, f64)) -> Scale {
        Scale {
            low,
            high: if high > low { high } else { low + 1.0 },
            start,
            end,
            logarithmic: false,
        }
    }

    /// Equal ratios are equal lengths; the range is widened to whole steps of 1, 2, 5.
    pub fn logarithmic((low, high): (f64, f64), (start, end): (f64, f64)) -> Scale {
        let low = step_at_most(low);
        let high = step_at_most(high * 1.000_001).max(low);
        Scale {
            low,
            high: next_step(high),
            start,
            end,
            logarithmic: true,
        }
    }

    /// Position of a value.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    /// Values worth a label.
    pub fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            self.log_ticks()
        } else {
            self.linear_ticks()
        }
    }

    fn linear_ticks(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / 4.0;
        let step = step_at_most(rough * 1.000_001);
        let mut ticks = Vec::new();
        let mut tick = (self.low / step).ceil() * step;
        while tick <= self.high * (1.0 + 1e-9) + 1e-12 {
            ticks.push(if tick.abs() < step / 1e6 { 0.0 } else { tick });
            tick += step;
        }
        thinned(ticks, 6)
    }

    fn log_ticks(&self) -> Vec<f64> {
        let mut ticks = vec![self.low];
        let mut tick = self.low;
        while tick < self.high * 0.999 {
            tick = next_step(tick);
            ticks.push(tick);
        }
        let decades: Vec<f64> = ticks.iter().copied().filter(|t| is_decade(*t)).collect();
        // A short axis has no room for more.
        let room = (self.end - self.start).abs() / LABEL_HEIGHT;
        if ticks.len() as f64 > room.min(10.0) && decades.len() >= 2 {
            decades
        } else {
            ticks
        }
    }
}

/// Every second tick until they are few enough.
fn thinned(ticks: Vec<f64>, most: usize) -> Vec<f64> {
    if ticks.len() <= most {
        return ticks;
    }
    thinned(ticks.into_iter().step_by(2).collect(), most)
}

fn decade(value: f64) -> f64 {
    10_f64.powf(value.log10().floor())
}

/// Largest of 1, 2, 5 × 10ⁿ that is not above the value.
fn step_at_most(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1e-3;
    }
    let decade = decade(value);
    let mantissa = value / decade;
    let steps = [5.0, 2.0, 1.0];
    let step = steps.into_iter().find(|s| mantissa >= *s).unwrap_or(1.0);
    step * decade
}

fn next_step(step: f64) -> f64 {
    let decade = decade(step * 1.000_001);
    let mantissa = step / decade;
    let factor = if mantissa < 1.5 {
        2.0
    } else if mantissa < 3.0 {
        5.0
    } else {
        10.0
    };
    factor * decade
}

fn is_decade(value: f64) -> bool {
    (value.log10() - value.log10().round()).abs() < 1e-6
}

/// Grid lines and labels of a vertical axis, with its title beside it.
pub fn vertical(svg: &mut Svg, scale: &Scale, (left, right): (f64, f64), title: &str) {
    for tick in scale.ticks() {
        let y = scale.at(tick);
        svg.line("grid", (left, y), (right, y));
        svg.text("tick", (left - 6.0, y + 4.0), Anchor::End, &setting(tick));
    }
    svg.upward_text(
        "label",
        (13.0, f64::midpoint(scale.start, scale.end)),
        title,
    );
}

/// Grid lines and labels of a horizontal axis, with its title beneath it.
pub fn horizontal(svg: &mut Svg, scale: &Scale, (top, bottom): (f64, f64), title: &str) {
    // From the end, where a label is moved to the left if it would not end within the figure; one
    // that then lay upon the next is left out.
    let edge = scale.end + RIGHT_MARGIN;
    let mut free_until = edge;
    for tick in scale.ticks().into_iter().rev() {
        let x = scale.at(tick);
        svg.line("grid", (x, top), (x, bottom));
        let label = setting(tick);
        let half = text_width(&label) / 2.0;
        let middle = x.min(edge - half);
        if middle + half <= free_until {
            svg.text("tick", (middle, bottom + 17.0), Anchor::Middle, &label);
            free_until = middle - half - LABEL_GAP;
        }
    }
    let middle = f64::midpoint(scale.start, scale.end);
    svg.text("label", (middle, bottom + 36.0), Anchor::Middle, title);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn linear_ticks_are_round() {
        let labels = |high| {
            let scale = Scale::linear((0.0, high), (0.0, 100.0));
            scale
                .ticks()
                .into_iter()
                .map(setting)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(labels(8.3), "0 2 4 6 8");
        assert_eq!(labels(4_300.0), "0 1,000 2,000 3,000 4,000");
        assert_eq!(labels(0.1), "0 0.02 0.04 0.06 0.08 0.1");
    }

    #[test]
    fn a_short_axis_has_decades_only() {
        let labels = |length| {
            let scale = Scale::logarithmic((1.0, 400.0), (length, 0.0));
            let labels: Vec<_> = scale.ticks().into_iter().map(setting).collect();
            labels.join(" ")
        };
        assert_eq!(labels(200.0), "1 2 5 10 20 50 100 200 500");
        assert_eq!(labels(60.0), "1 10 100");
    }

    #[test]
    fn the_last_label_ends_within_the_figure() {
        let mut svg = Svg::new(200.0, 50.0);
        let scale = Scale::linear((0.0, 100_000.0), (20.0, 184.0));
        horizontal(&mut svg, &scale, (0.0, 30.0), "rate");
        let text = svg.finish("rates");
        let last = text.split("<text").find(|it| it.contains(">100,000<"));
        let last = last.expect("the last tick");
        // Seven characters of 6.9, which end at 198.
        let x = last.split('"').nth(3).and_then(|x| x.parse::<f64>().ok());
        assert!(x.is_some_and(|x| (x - 173.85).abs() < 0.1), "{last}");
    }

    #[test]
    fn a_label_that_would_lie_upon_the_next_is_left_out() {
        let mut svg = Svg::new(500.0, 50.0);
        let scale = Scale::logarithmic((500.0, 60_000.0), (60.0, 444.0));
        horizontal(&mut svg, &scale, (0.0, 30.0), "rate");
        let text = svg.finish("rates");
        assert!(text.contains(">100,000<") && text.contains(">20,000<"));
        assert!(!text.contains(">50,000<"), "{text}");
    }

    #[test]
    fn logarithmic_ticks_go_by_one_two_five() {
        let scale = Scale::logarithmic((0.13, 2.4), (200.0, 0.0));
        let labels: Vec<_> = scale.ticks().into_iter().map(setting).collect();
        assert_eq!(labels.join(" "), "0.1 0.2 0.5 1 2 5");
    }

    proptest! {
        #[test]
        fn every_value_of_the_range_has_a_place_in_the_figure(low in 1e-6..1e6_f64, factor in 1.0..1e6_f64) {
            let scale = Scale::logarithmic((low, low * factor), (300.0, 20.0));
            let ends = [scale.at(low), scale.at(low * factor)];
            prop_assert!(ends[0] <= 300.0 && ends[1] >= 20.0 && ends[0] >= ends[1]);
            prop_assert!(scale.ticks().len() >= 2 && scale.ticks().len() <= 16);
        }

        #[test]
        fn linear_ticks_are_few_and_inside(high in 1e-3..1e9_f64) {
            let scale = Scale::linear((0.0, high), (0.0, 100.0));
            let ticks = scale.ticks();
            prop_assert!((2..=6).contains(&ticks.len()), "{:?}", ticks);
            prop_assert!(ticks.iter().all(|t| *t <= high * 1.000_001));
        }
    }
}
