//! One metric of every cell of a scenario: a dot per block, a bar for the interval.

use super::super::format::{self, list};
use super::super::svg::{Anchor, Svg, text_width};
use super::axis::{self, Scale};
use super::{Figure, Palette, WIDTH};
use crate::analyse::comparison::{CellSummary, Comparison, Row};
use crate::analyse::gates::Standing;
use crate::analyse::metric::Metric;
use crate::analyse::statistics::Interval;
use crate::record::{CellFacts, Kind};

const RIGHT: f64 = WIDTH - 78.0;
const ROW: f64 = 26.0;
/// Room for the legend of the grey band.
const LEGEND: f64 = 22.0;
const LEGEND_TEXT: &str = "noise floor: one subject against itself";
/// Widest room for names; a longer one ends in an ellipsis.
const LEFT_MOST: f64 = 216.0;

/// The figure; `None` if no cell has a value.
pub fn figure(palette: &Palette, cells: &[&CellSummary], metric: Metric) -> Option<Figure> {
    let groups: Vec<Group> = cells
        .iter()
        .filter_map(|cell| Group::of(cell, metric))
        .collect();
    let first = groups.first()?;
    let layouts: Vec<&str> = vec![first.facts.layout.as_str()];
    let asked = if groups.iter().any(|g| g.asked.is_some()) {
        " The dashed line is what was asked for."
    } else {
        ""
    };
    let floor = if groups.iter().any(|g| g.floor.is_some()) {
        " Grey band: the noise floor around the best median; what lies in it cannot be told from the best."
    } else {
        ""
    };
    Some(Figure {
        svg: draw(palette, &groups, metric),
        caption: format!(
            "{}, {}, {} layout. Dots: launches (hollow: disturbed or invalid, not counted); \
             bar and tick: median over valid blocks with its 95 % interval.{asked}{floor}",
            metric.title(),
            first.facts.scenario,
            list(&layouts)
        ),
    })
}

struct Group<'a> {
    facts: &'a CellFacts,
    rows: Vec<(&'a str, &'a Row)>,
    asked: Option<f64>,
    /// What the best median may be taken for, by what a subject differs from itself.
    floor: Option<Interval>,
}

impl<'a> Group<'a> {
    fn of(cell: &'a CellSummary, metric: Metric) -> Option<Group<'a>> {
        let comparison = cell.comparison(metric)?;
        let rows: Vec<_> = comparison
            .rows
            .iter()
            .map(|(subject, row)| (subject.as_str(), row))
            .collect();
        let kind = match metric {
            Metric::RestThroughput => Some(Kind::Rest),
            Metric::AmqpThroughput => Some(Kind::Amqp),
            _ => None,
        };
        let asked = kind.and_then(|kind| cell.facts.arrival_rate_per_s.get(&kind).copied());
        let any = rows.iter().any(|(_, row)| values(row).next().is_some());
        any.then_some(Group {
            facts: &cell.facts,
            rows,
            asked,
            floor: floor(comparison),
        })
    }

    /// The header is dropped where the scenario has but one cell.
    fn header(&self) -> Option<&str> {
        self.facts.axis.as_deref()
    }

    fn height(&self) -> f64 {
        let header = if self.header().is_some() { 22.0 } else { 0.0 };
        header + ROW * self.rows.len() as f64 + 6.0
    }
}

/// As far to both sides of the best median as the ratio of a subject to itself may be from 1.
fn floor(comparison: &Comparison) -> Option<Interval> {
    let best = *comparison.ranking().first()?;
    let median = comparison.rows[best].median?;
    let factor = comparison.floor?.reach().exp();
    Some(Interval {
        low: median / factor,
        high: median * factor,
    })
}

fn values(row: &Row) -> impl Iterator<Item = (f64, Standing)> {
    row.blocks
        .iter()
        .filter_map(|b| Some((b.reading.value()?, b.standing)))
}

fn draw(palette: &Palette, groups: &[Group], metric: Metric) -> String {
    let titles = groups
        .iter()
        .flat_map(|g| g.rows.iter().map(|(s, _)| palette.title(s)));
    let widest = titles.map(text_width).fold(40.0, f64::max);
    let left = (widest + 12.0).min(LEFT_MOST);
    let has_floor = groups.iter().any(|g| g.floor.is_some());
    let top = if has_floor { 8.0 + LEGEND } else { 8.0 };
    let bottom = top + groups.iter().map(Group::height).sum::<f64>();
    let mut svg = Svg::new(WIDTH, bottom + 46.0);
    let scale = format::scale(metric.unit());
    let x = Scale::linear((0.0, highest(groups) * scale * 1.04), (left, RIGHT));
    axis::horizontal(
        &mut svg,
        &x,
        (top, bottom),
        &format::title_with_unit(metric),
    );
    if has_floor {
        svg.area("floor", (left, 5.0), (left + 26.0, 17.0));
        svg.text("label", (left + 32.0, 15.0), Anchor::Start, LEGEND_TEXT);
    }
    let mut y = top;
    for group in groups {
        if let Some(header) = group.header() {
            svg.text("head", (4.0, y + 16.0), Anchor::Start, header);
            y += 22.0;
        }
        let end = y + ROW * group.rows.len() as f64;
        if let Some(floor) = group.floor {
            let (low, high) = (x.at(floor.low * scale), x.at(floor.high * scale));
            svg.area("floor", (low, y), (high, end));
        }
        if let Some(asked) = group.asked {
            let at = x.at(asked * scale);
            svg.line("asked", (at, y), (at, end));
        }
        for (subject, row) in &group.rows {
            let centre = (left, y + ROW / 2.0);
            draw_row(&mut svg, palette, (subject, row), metric, &x, centre);
            y += ROW;
        }
        y += 6.0;
    }
    let scenario = &groups[0].facts.scenario;
    svg.finish(&format!("{} in {scenario}", metric.title()))
}

fn highest(groups: &[Group]) -> f64 {
    let rows = groups.iter().flat_map(|g| &g.rows);
    let found = rows.flat_map(|(_, row)| values(row).map(|(v, _)| v));
    let asked = groups.iter().filter_map(|g| g.asked);
    // Not the noise floor: of few blocks it may be so wide that nothing else would be seen.
    found.chain(asked).fold(0.0, f64::max)
}

fn draw_row(
    svg: &mut Svg,
    palette: &Palette,
    (subject, row): (&str, &Row),
    metric: Metric,
    x: &Scale,
    (left, middle): (f64, f64),
) {
    let class = palette.class(subject);
    let scale = format::scale(metric.unit());
    svg.text(
        "label",
        (left - 8.0, middle + 4.0),
        Anchor::End,
        &shortened(palette.title(subject)),
    );
    for (place, (value, standing)) in values(row).enumerate() {
        // Spread by place, so that equal values stay apart.
        let offset = ((place * 3) % 5) as f64 * 2.4 - 4.8;
        let kind = if standing == Standing::Valid {
            "dot"
        } else {
            "hollow"
        };
        svg.dot(
            &format!("{kind} {class}"),
            (x.at(value * scale), middle + offset),
            2.6,
        );
    }
    if let Some(interval) = row.interval {
        let (low, high) = (x.at(interval.low * scale), x.at(interval.high * scale));
        svg.line(&format!("bar {class}"), (low, middle), (high, middle));
    }
    if let Some(median) = row.median {
        let at = x.at(median * scale);
        svg.line(
            &format!("middle {class}"),
            (at, middle - 9.0),
            (at, middle + 9.0),
        );
        let text = format::figure(metric, median);
        svg.text("value", (WIDTH - 4.0, middle + 4.0), Anchor::End, &text);
    }
}

fn shortened(title: &str) -> String {
    if text_width(title) + 12.0 <= LEFT_MOST {
        return title.to_owned();
    }
    let fitting = |end: &usize| text_width(&title[..*end]) + 20.0 <= LEFT_MOST;
    let ends = title.char_indices().map(|(end, _)| end);
    let end = ends.take_while(fitting).last().unwrap_or(0);
    format!("{}…", &title[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_end_in_an_ellipsis() {
        assert_eq!(
            shortened("async, multi-threaded runtime"),
            "async, multi-threaded runtime"
        );
        let long = shortened("a service with a very long and telling name");
        assert!(
            long.ends_with('…') && text_width(&long) < LEFT_MOST,
            "{long}"
        );
    }
}
