//! One metric over the rungs of a ladder: a line per subject, a dot per launch.

use super::super::format;
use super::super::svg::Svg;
use super::axis::{self, Scale};
use super::{Figure, Palette, WIDTH, legend, legend_height};
use crate::analyse::comparison::CellSummary;
use crate::analyse::gates::Standing;
use crate::analyse::ladder::LadderSummary;
use crate::analyse::metric::Metric;
use crate::record::Ladder;

const LEFT: f64 = 62.0;
const RIGHT: f64 = WIDTH - 16.0;
const PLOT_HEIGHT: f64 = 200.0;

/// What the horizontal axis shows.
pub fn axis_title(ladder: Ladder) -> &'static str {
    match ladder {
        Ladder::Rate => "offered requests per second",
        Ladder::Connections => "open connections",
        Ladder::InFlight => "operations in flight",
    }
}

/// One subject's points as (place, stored value).
struct Line<'a> {
    subject: &'a str,
    medians: Vec<(f64, f64)>,
    dots: Vec<(f64, f64, Standing)>,
}

/// The figure; `None` if no launch has the metric.
pub fn figure(
    palette: &Palette,
    ladder: &LadderSummary,
    cells: &[&CellSummary],
    metric: Metric,
) -> Option<Figure> {
    let lines = lines(ladder, cells, metric);
    lines.iter().any(|line| !line.dots.is_empty()).then(|| Figure {
        svg: draw(palette, &lines, ladder, metric),
        caption: format!(
            "{} over {}, {}, {} layout. Line: medians over valid blocks; dots: launches (hollow: disturbed or \
             invalid, not counted).",
            metric.title(),
            axis_title(ladder.ladder),
            ladder.scenario,
            ladder.layout.as_str()
        ),
    })
}

fn lines<'a>(ladder: &LadderSummary, cells: &[&'a CellSummary], metric: Metric) -> Vec<Line<'a>> {
    let mut lines: Vec<Line> = Vec::new();
    for rung in &ladder.rungs {
        let cell = cells.iter().find(|cell| cell.facts.cell == rung.cell);
        let rows = cell.and_then(|cell| cell.comparison(metric));
        for (subject, row) in rows.iter().flat_map(|comparison| &comparison.rows) {
            let known = lines.iter().position(|line| line.subject == subject);
            let place = known.unwrap_or_else(|| {
                lines.push(Line {
                    subject,
                    medians: vec![],
                    dots: vec![],
                });
                lines.len() - 1
            });
            let line = &mut lines[place];
            line.medians.extend(row.median.map(|it| (rung.place, it)));
            let values = row
                .blocks
                .iter()
                .filter_map(|it| Some((rung.place, it.reading.value()?, it.standing)));
            line.dots.extend(values);
        }
    }
    lines
}

fn draw(palette: &Palette, lines: &[Line], ladder: &LadderSummary, metric: Metric) -> String {
    let subjects: Vec<&str> = lines.iter().map(|line| line.subject).collect();
    let top = legend_height(palette, &subjects, LEFT) + 4.0;
    let bottom = top + PLOT_HEIGHT;
    let mut svg = Svg::new(WIDTH, bottom + 46.0);
    legend(&mut svg, palette, &subjects, LEFT);
    let scale = format::scale(metric.unit());
    let dots = || lines.iter().flat_map(|line| &line.dots);
    let furthest = dots().map(|dot| dot.0).fold(0.0, f64::max);
    let highest = dots().map(|dot| dot.1 * scale).fold(0.0, f64::max);
    let x = Scale::linear((0.0, furthest * 1.04), (LEFT, RIGHT));
    let y = Scale::linear((0.0, highest * 1.08), (bottom, top));
    axis::vertical(
        &mut svg,
        &y,
        (LEFT, RIGHT),
        &format::title_with_unit(metric),
    );
    axis::horizontal(&mut svg, &x, (top, bottom), axis_title(ladder.ladder));
    for line in lines {
        let class = palette.class(line.subject);
        for (place, value, standing) in &line.dots {
            let kind = match standing {
                Standing::Valid => "dot",
                Standing::Disturbed | Standing::Invalid => "hollow",
            };
            svg.dot(
                &format!("{kind} {class}"),
                (x.at(*place), y.at(value * scale)),
                2.6,
            );
        }
        let placed = line
            .medians
            .iter()
            .map(|(at, it)| (x.at(*at), y.at(it * scale)));
        svg.path(&format!("median {class}"), &placed.collect::<Vec<_>>());
    }
    svg.finish(&format!("{} in {}", metric.title(), ladder.scenario))
}
