//! The probes of a search: response time over the offered rate.

use super::super::format::setting;
use super::super::svg::Svg;
use super::axis::{self, Scale};
use super::{Figure, Palette, WIDTH, legend, legend_height};
use crate::analyse::capacity::{Capacity, CapacitySummary, Outcome, Probe};

const LEFT: f64 = 62.0;
const RIGHT: f64 = WIDTH - 16.0;
const PLOT_HEIGHT: f64 = 230.0;

/// The figure; `None` without a probe that has a quantile.
pub fn figure(palette: &Palette, found: &CapacitySummary) -> Option<Figure> {
    let all = || found.subjects.iter().flat_map(points);
    let (rates, times) = (range(all().map(|it| it.0))?, range(all().map(|it| it.1))?);
    let slo_ms = found.facts.slo_ns / 1e6;
    let times = (times.0.min(slo_ms), times.1.max(slo_ms));
    let quantile = setting(found.facts.quantile * 100.0);
    Some(Figure {
        svg: draw(palette, found, (rates, times)),
        caption: format!(
            "REST response p{quantile} of each probe over its offered rate, {} layout. Hollow: void, or the host was \
             noisy; the dashed line is the objective, the upright ones are the capacities.",
            found.facts.layout.as_str()
        ),
    })
}

/// Rate per second and response time in ms, with the probe.
fn points(capacity: &Capacity) -> impl Iterator<Item = (f64, f64, &Probe)> {
    let probes = capacity.probes.iter();
    probes.filter_map(|probe| {
        Some((
            probe.rate_per_s,
            (probe.quantile_ns? / 1e6).max(1e-3),
            probe,
        ))
    })
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })
}

fn draw(
    palette: &Palette,
    found: &CapacitySummary,
    (rates, times): ((f64, f64), (f64, f64)),
) -> String {
    let subjects: Vec<&str> = found.subjects.iter().map(|it| &*it.subject).collect();
    let top = legend_height(palette, &subjects, LEFT) + 4.0;
    let bottom = top + PLOT_HEIGHT;
    let mut svg = Svg::new(WIDTH, bottom + 46.0);
    legend(&mut svg, palette, &subjects, LEFT);
    let x = Scale::logarithmic(rates, (LEFT, RIGHT));
    let y = Scale::logarithmic(times, (bottom, top));
    axis::vertical(&mut svg, &y, (LEFT, RIGHT), "response time [ms]");
    axis::horizontal(&mut svg, &x, (top, bottom), "offered requests per second");
    let slo = y.at(found.facts.slo_ns / 1e6);
    svg.line("asked", (LEFT, slo), (RIGHT, slo));
    for capacity in &found.subjects {
        let class = palette.class(&capacity.subject);
        if let Some(rate) = capacity.rate_per_s {
            svg.line(
                &format!("thin alone {class}"),
                (x.at(rate), top),
                (x.at(rate), bottom),
            );
        }
        for (rate, time, probe) in points(capacity) {
            let is_sure = !probe.disturbed && !matches!(probe.outcome, Outcome::Void(_));
            let kind = if is_sure { "dot" } else { "hollow" };
            svg.dot(&format!("{kind} {class}"), (x.at(rate), y.at(time)), 2.6);
        }
    }
    svg.finish("Probes of the search for capacities")
}
