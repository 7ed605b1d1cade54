//! What the doctor found: distributions beside their truth, lateness, ceilings.

use super::super::format::number;
use super::super::svg::{Anchor, Svg, text_width};
use super::axis::{self, Scale};
use super::quantiles::{LEFT, RIGHT, quantile_axis};
use super::{Figure, WIDTH};
use crate::calibrate::{Calibration, Ceiling, Lateness, Point};

/// Height of the response times of a trial.
const HEIGHT: f64 = 150.0;
/// Height of the send lag beneath them.
const LAG_HEIGHT: f64 = 60.0;
/// Space between the two.
const GAP: f64 = 16.0;
/// Height of the legend.
const LEGEND: f64 = 26.0;
/// Height of a row with its name above it.
const ROW: f64 = 40.0;
/// Smallest time that has a place on an axis, in µs: a lag of nothing has no logarithm, and none
/// below a microsecond matters.
const SMALLEST_US: f64 = 1.0;

/// A line of a figure: its class, its name, and its value in the unit of the axis.
type Line = (&'static str, &'static str, fn(&Point) -> f64);

/// The response times; the truth last, so that it lies on top.
const RESPONSES: [Line; 2] = [
    ("median async", "observed", |it| {
        milliseconds(it.observed_ns)
    }),
    ("asked", "expected", |it| milliseconds(it.expected_ns)),
];
/// The generator's own lateness.
const LAG: [Line; 1] = [("median process", "send lag", |it| {
    microseconds(it.send_lag_ns)
})];

/// The response times of a trial beside what must come out, and the send lag beneath; `None` if there
/// is no such curve.
pub fn trial(calibration: &Calibration) -> Option<Figure> {
    let curve = &calibration.curve;
    let end = curve.last()?.decades.max(0.5);
    let x = Scale::linear((0.0, end), (LEFT, RIGHT));
    let (top, middle) = (LEGEND + 4.0, LEGEND + 4.0 + HEIGHT);
    let bottom = middle + GAP + LAG_HEIGHT;
    let mut svg = Svg::new(WIDTH, bottom + 46.0);
    legend(&mut svg);
    quantile_axis(&mut svg, &x, end, (top, bottom));
    lines(
        &mut svg,
        curve,
        &x,
        &RESPONSES,
        (top, middle),
        "response [ms]",
    );
    lines(
        &mut svg,
        curve,
        &x,
        &LAG,
        (middle + GAP, bottom),
        "lag [µs]",
    );
    let (name, truth) = (&calibration.name, &calibration.truth);
    Some(Figure {
        svg: svg.finish(&format!("quantiles of the trial {name} beside its truth")),
        caption: format!(
            "{name}: {truth}. Response time from the intended send and the generator's own lateness, both logarithmic; \
             {} operations, isolated layout; as far as 10 operations lie beyond.",
            number(calibration.operations as f64)
        ),
    })
}

fn legend(svg: &mut Svg) {
    let mut at = LEFT;
    for (class, name, _) in RESPONSES.iter().chain(&LAG) {
        svg.path(class, &[(at, 12.0), (at + 26.0, 12.0)]);
        svg.text("label", (at + 32.0, 16.0), Anchor::Start, name);
        at += 32.0 + text_width(name) + 18.0;
    }
}

/// Lines over the quantile, on a vertical axis of their own.
fn lines(
    svg: &mut Svg,
    curve: &[Point],
    x: &Scale,
    lines: &[Line],
    (top, bottom): (f64, f64),
    title: &str,
) {
    let values = lines
        .iter()
        .flat_map(|(_, _, value)| curve.iter().map(value));
    let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let y = Scale::logarithmic((low, high), (bottom, top));
    axis::vertical(svg, &y, (LEFT, RIGHT), title);
    for (class, _, value) in lines {
        let place = |point: &Point| (x.at(point.decades), y.at(value(point)));
        svg.path(class, &curve.iter().map(place).collect::<Vec<_>>());
    }
}

fn milliseconds(ns: f64) -> f64 {
    microseconds(ns) / 1e3
}

fn microseconds(ns: f64) -> f64 {
    (ns / 1e3).max(SMALLEST_US)
}

/// How late a thread is woken, by the way of waiting; `None` if that was not measured.
pub fn lateness(timers: &[Lateness]) -> Option<Figure> {
    let ends = |value: fn(&Lateness) -> f64| timers.iter().map(move |it| microseconds(value(it)));
    let low = ends(|it| it.p50_ns).reduce(f64::min)?;
    let high = ends(|it| it.max_ns).fold(0.0, f64::max);
    let bottom = ROW * timers.len() as f64;
    let x = Scale::logarithmic((low, high), (16.0, RIGHT));
    let mut svg = Svg::new(WIDTH, bottom + 46.0);
    axis::horizontal(
        &mut svg,
        &x,
        (0.0, bottom),
        "lateness [µs], logarithmic; no less than 1",
    );
    for (row, it) in timers.iter().enumerate() {
        let top = ROW * row as f64;
        let at = |ns| (x.at(microseconds(ns)), top + 28.0);
        svg.text("label", (16.0, top + 15.0), Anchor::Start, &it.way);
        svg.line("bar async", at(it.p50_ns), at(it.p99_ns));
        svg.dot("dot async", at(it.p50_ns), 5.0);
        svg.dot("hollow async", at(it.max_ns), 4.0);
    }
    Some(Figure {
        svg: svg.finish("lateness of timers"),
        caption: "From the median (dot) to p99 (end of the bar); the ring is the highest. Native layout: the thread is \
                  not pinned."
            .to_owned(),
    })
}

/// What the generator reaches in each layout; `None` if that was not measured.
pub fn ceilings(ceilings: &[Ceiling]) -> Option<Figure> {
    let high = ceilings.iter().map(|it| it.rate_per_s).reduce(f64::max)?;
    let bottom = ROW * ceilings.len() as f64;
    let x = Scale::linear((0.0, high), (16.0, RIGHT));
    let mut svg = Svg::new(WIDTH, bottom + 46.0);
    axis::horizontal(&mut svg, &x, (0.0, bottom), "requests per second");
    for (row, it) in ceilings.iter().enumerate() {
        let top = ROW * row as f64;
        let (start, end) = (x.at(0.0), x.at(it.rate_per_s));
        let name = format!("{}, {} connections", it.layout.as_str(), it.connections);
        svg.text("label", (16.0, top + 15.0), Anchor::Start, &name);
        svg.line("bar async", (start, top + 28.0), (end, top + 28.0));
        svg.dot("dot async", (end, top + 28.0), 5.0);
    }
    Some(Figure {
        svg: svg.finish("ceiling of the generator by layout"),
        caption: "Closed loop against a server that answers at once, in each layout; a subject is asked for a third at most."
            .to_owned(),
    })
}
