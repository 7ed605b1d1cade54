//! What a report says of the rungs of a ladder taken together.

use std::collections::BTreeMap;

use super::document::{Block, Cell, Table, Tone};
use super::format::{self, number, setting, title};
use super::plot::{Figure, Palette, ladder};
use crate::analyse::Summary;
use crate::analyse::comparison::{CellSummary, Comparison, Verdict};
use crate::analyse::ladder::{LadderSummary, Size, Slope};
use crate::analyse::metric::Metric;
use crate::record::Ladder;

/// What an operation costs.
const COSTS: [Metric; 6] = [
    Metric::CpuPerOperation,
    Metric::UserPerOperation,
    Metric::SystemPerOperation,
    Metric::SwitchesPerOperation,
    Metric::RestP50,
    Metric::RestP99,
];

/// Table and figures of a scenario that is a ladder; nothing for any other.
pub fn blocks(summary: &Summary, palette: &Palette, cells: &[&CellSummary]) -> Vec<Block> {
    let scenario = &cells[0].facts.scenario;
    let found = summary.ladders.iter().find(|it| it.scenario == *scenario);
    let Some(found) = found else {
        return Vec::new();
    };
    let layout = found.layout.as_str();
    let (heading, table, drawn): (_, _, &[Metric]) = match found.ladder {
        Ladder::Rate => (
            format!("All rates, {layout} layout"),
            costs(summary, cells),
            &[
                Metric::CpuPerOperation,
                Metric::SwitchesPerOperation,
                Metric::RestP50,
                Metric::RestP99,
            ],
        ),
        Ladder::Connections => (
            format!("For each connection, {layout} layout"),
            slopes(summary, found),
            &[Metric::Pss, Metric::Uss],
        ),
        Ladder::InFlight => (
            format!("For each operation in flight, {layout} layout"),
            slopes(summary, found),
            &[Metric::Pss, Metric::Uss],
        ),
    };
    let figures = drawn
        .iter()
        .filter_map(|metric| ladder::figure(palette, found, cells, *metric));
    vec![
        Block::Part(heading),
        Block::Text(explanation(found)),
        Block::Table(table),
        Block::Figures(figures.collect::<Vec<Figure>>()),
    ]
}

fn explanation(found: &LadderSummary) -> String {
    match found.ladder {
        Ladder::Rate => "Every subject at the same rates; the lowest of a group is marked where it is shown to be \
             the lowest. User and system time are counted in ticks of 10 ms and need not add up to the CPU time."
            .to_owned(),
        Ladder::Connections | Ladder::InFlight => "Slope over the rungs of each block (Theil–Sen), then the median over \
             blocks with its 95 % interval. Disturbed launches count: a noisy host makes no memory grow. Buffers of \
             sockets belong to the kernel and are in none of the columns."
            .to_owned(),
    }
}

/// One row for each subject at each rate.
fn costs(summary: &Summary, cells: &[&CellSummary]) -> Table {
    let shown: Vec<Metric> = COSTS
        .into_iter()
        .filter(|metric| cells.iter().any(|cell| cell.comparison(*metric).is_some()))
        .collect();
    let heads = ["Rate", "Subject"].map(str::to_owned).into_iter();
    let rows = cells.iter().flat_map(|cell| {
        let shown = &shown;
        cell.subjects.iter().map(move |subject| {
            let figures = shown
                .iter()
                .map(|metric| cost(cell.comparison(*metric), subject));
            let names = [rate(cell), Cell::new(title(summary, subject))];
            names.into_iter().chain(figures).collect()
        })
    });
    Table {
        rows: rows.collect(),
        head: heads
            .chain(shown.iter().map(|metric| format::title_with_unit(*metric)))
            .collect(),
    }
}

fn rate(cell: &CellSummary) -> Cell {
    let rates = cell.facts.arrival_rate_per_s.values();
    Cell {
        small: format!("{}/s", setting(rates.sum())),
        ..Cell::new(cell.facts.axis.as_deref().unwrap_or_default())
    }
}

fn cost(comparison: Option<&Comparison>, subject: &str) -> Cell {
    let found = comparison.and_then(|it| Some((it, it.rows.get(subject)?)));
    let Some((comparison, row)) = found else {
        return Cell::new("–");
    };
    let (text, small) = format::row(comparison.metric, row);
    let won = matches!(&comparison.verdict, Verdict::Winner { subject: it } if it == subject);
    Cell {
        text,
        small,
        tone: if won { Tone::Winner } else { Tone::Plain },
        link: None,
    }
}

/// One row for each subject, one column for each size.
fn slopes(summary: &Summary, found: &LadderSummary) -> Table {
    let each = match found.ladder {
        Ladder::InFlight => "operation",
        Ladder::Rate | Ladder::Connections => "connection",
    };
    let heads = found.slopes.keys().map(|size| match size {
        Size::Pss => format!("PSS [bytes/{each}]"),
        Size::Uss => format!("USS [bytes/{each}]"),
        Size::PageTables => format!("Page tables [bytes/{each}]"),
        Size::Threads => format!("Threads [1/{each}]"),
    });
    let mut subjects: Vec<&str> = Vec::new();
    for subject in found.slopes.values().flat_map(BTreeMap::keys) {
        if !subjects.contains(&&**subject) {
            subjects.push(subject);
        }
    }
    let row = |subject: &str| {
        let slopes = found.slopes.values().map(|it| slope(it.get(subject)));
        std::iter::once(Cell::new(title(summary, subject)))
            .chain(slopes)
            .collect()
    };
    Table {
        head: std::iter::once("Subject".to_owned()).chain(heads).collect(),
        rows: subjects.into_iter().map(row).collect(),
    }
}

fn slope(slope: Option<&Slope>) -> Cell {
    let Some(slope) = slope else {
        return Cell::new("–");
    };
    Cell {
        small: slope.interval.map_or_else(
            || "one block".to_owned(),
            |it| format!("{} to {}", number(it.low), number(it.high)),
        ),
        ..Cell::new(number(slope.median))
    }
}
