//! Response time over quantile, on the axis of the HdrHistogram plots.

use hdrhistogram::Histogram;

use super::super::format::{kind_word, list};
use super::super::svg::{Anchor, Svg};
use super::axis::{self, Scale};
use super::{Figure, Palette, WIDTH, legend, legend_height, valid_launches};
use crate::analyse::metric::tag;
use crate::analyse::statistics::median;
use crate::analyse::{RunData, Summary};
use crate::record::{CellFacts, Kind};

/// Left end of the axis.
pub(super) const LEFT: f64 = 62.0;
/// Right end of the axis.
pub(super) const RIGHT: f64 = WIDTH - 16.0;
const PLOT_HEIGHT: f64 = 230.0;
const STEP: f64 = 0.1;
/// Observations beyond the end of a thin line (one launch) and of a thick one (the median).
const BEYOND_THIN: f64 = 10.0;
const BEYOND_THICK: f64 = 100.0;

/// Points as (decades of 1/(1 − q), ms).
type Line = Vec<(f64, f64)>;

struct Lines<'a> {
    subject: &'a str,
    thin: Vec<Line>,
    thick: Line,
}

/// The figure of one kind in one cell; `None` if no launch has enough operations.
pub fn figure(
    run: &RunData,
    summary: &Summary,
    palette: &Palette,
    cell: &CellFacts,
    kind: Kind,
) -> Option<Figure> {
    let name = tag(kind, "response");
    let launches = valid_launches(run, summary, &cell.cell);
    let lines: Vec<Lines> = launches
        .iter()
        .map(|(subject, launches)| {
            let histograms = launches.iter().filter_map(|l| l.histograms.get(&name));
            lines(subject, &histograms.collect::<Vec<_>>())
        })
        .filter(|lines| !lines.thin.is_empty())
        .collect();
    let offered = cell.arrival_rate_per_s.contains_key(&kind);
    (offered && !lines.is_empty()).then(|| Figure {
        svg: draw(palette, &lines, kind, cell),
        caption: caption(&lines, kind, cell),
    })
}

fn lines<'a>(subject: &'a str, histograms: &[&Histogram<u64>]) -> Lines<'a> {
    let thin = histograms.iter().map(|h| line(&[h], BEYOND_THIN));
    Lines {
        subject,
        thin: thin.filter(|line| line.len() >= 3).collect(),
        // A median line that does not even reach p50 would only puzzle.
        thick: Some(line(histograms, BEYOND_THICK))
            .filter(|line| line.last().is_some_and(|p| p.0 >= 0.301))
            .unwrap_or_default(),
    }
}

/// Median over the histograms of each quantile that the smallest of them supports.
fn line(histograms: &[&Histogram<u64>], beyond: f64) -> Line {
    let fewest = histograms.iter().map(|h| h.len()).min().unwrap_or(0);
    let end = (fewest as f64 / beyond).log10();
    (0_i32..)
        .map(|step| f64::from(step) * STEP)
        .take_while(|decades| *decades <= end + 1e-9)
        .filter_map(|decades| {
            let quantile = 1.0 - 10_f64.powf(-decades);
            let values = histograms.iter().map(|h| h.value_at_quantile(quantile));
            let mut values: Vec<f64> = values.map(|v| v as f64 / 1e6).collect();
            Some((decades, median(&mut values)?.max(1e-6)))
        })
        .collect()
}

fn draw(palette: &Palette, lines: &[Lines], kind: Kind, cell: &CellFacts) -> String {
    let subjects: Vec<&str> = lines.iter().map(|l| l.subject).collect();
    let top = legend_height(palette, &subjects, LEFT) + 4.0;
    let bottom = top + PLOT_HEIGHT;
    let mut svg = Svg::new(WIDTH, bottom + 46.0);
    legend(&mut svg, palette, &subjects, LEFT);
    let points = || lines.iter().flat_map(|l| l.thin.iter().flatten());
    let end = points().map(|p| p.0).fold(0.5, f64::max);
    let low = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points().map(|p| p.1).fold(0.0, f64::max);
    let x = Scale::linear((0.0, end), (LEFT, RIGHT));
    let y = Scale::logarithmic((low, high), (bottom, top));
    axis::vertical(
        &mut svg,
        &y,
        (LEFT, RIGHT),
        "response time [ms], logarithmic",
    );
    quantile_axis(&mut svg, &x, end, (top, bottom));
    let place =
        |line: &Line| -> Vec<(f64, f64)> { line.iter().map(|p| (x.at(p.0), y.at(p.1))).collect() };
    let thin = if has_medians(lines) {
        "thin"
    } else {
        "thin alone"
    };
    for l in lines {
        let class = palette.class(l.subject);
        l.thin
            .iter()
            .for_each(|t| svg.path(&format!("{thin} {class}"), &place(t)));
    }
    for l in lines {
        svg.path(
            &format!("median {}", palette.class(l.subject)),
            &place(&l.thick),
        );
    }
    svg.finish(&format!(
        "{} response-time quantiles in {}",
        kind_word(kind),
        cell.cell
    ))
}

/// Labels where a reader looks: the extremes, the quartile and the nines.
pub(super) fn quantile_axis(svg: &mut Svg, x: &Scale, end: f64, (top, bottom): (f64, f64)) {
    let marks = [
        (0.0, "min"),
        (0.301, "p50"),
        (0.602, "p75"),
        (1.0, "p90"),
        (1.301, "p95"),
        (2.0, "p99"),
        (3.0, "p99.9"),
        (4.0, "p99.99"),
    ];
    for (decades, label) in marks
        .into_iter()
        .filter(|(decades, _)| *decades <= end + 1e-9)
    {
        let at = x.at(decades);
        svg.line("grid", (at, top), (at, bottom));
        svg.text("tick", (at, bottom + 17.0), Anchor::Middle, label);
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    svg.text(
        "label",
        (middle, bottom + 36.0),
        Anchor::Middle,
        "quantile (logarithmic towards 1)",
    );
}

fn has_medians(lines: &[Lines]) -> bool {
    lines.iter().any(|l| !l.thick.is_empty())
}

fn caption(lines: &[Lines], kind: Kind, cell: &CellFacts) -> String {
    let text = if has_medians(lines) {
        "Thick: median over valid blocks, as far as 100 operations of every launch lie beyond; \
         thin: single launches, as far as 10 do."
    } else {
        "Thin: single launches; they have too few operations for a median line."
    };
    format!(
        "{} response time from the intended send, {}, {} layout. {text}",
        kind_word(kind),
        list(&[&cell.cell]),
        cell.layout.as_str()
    )
}
