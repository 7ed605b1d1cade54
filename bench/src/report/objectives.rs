//! Objectives: each with its figure, its threshold, and what became of it.

use super::document::{Cell, Table, Tone};
use super::format;
use crate::analyse::Summary;
use crate::analyse::objective::{ObjectiveRow, ObjectiveSummary, Outcome};

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Held => "held",
        Outcome::Missed => "missed",
        Outcome::NoFigure => "no figure",
    }
}

fn verdict(objective: &ObjectiveSummary) -> &'static str {
    let missed = |row: &ObjectiveRow| row.outcome == Outcome::Missed;
    match objective.is_met {
        true => "held",
        false if objective.rows.iter().any(missed) => "missed",
        false => "not held: a subject has no figure",
    }
}

fn figure(objective: &ObjectiveSummary, row: &ObjectiveRow) -> String {
    let figure = row.figure.map(|it| format::figure(objective.metric, it));
    figure.unwrap_or_else(|| "–".to_owned())
}

fn threshold(objective: &ObjectiveSummary) -> String {
    let sign = if objective.is_least { '≥' } else { '≤' };
    format!(
        "{sign} {}",
        format::figure(objective.metric, objective.threshold)
    )
}

fn goodput(row: &ObjectiveRow) -> Option<String> {
    let rate = row.goodput_per_s?;
    Some(format!("{}/s", format::number(rate)))
}

/// The objectives as lines for a terminal; empty if there is none.
pub fn text(summary: &Summary) -> String {
    let mut text = String::new();
    for objective in &summary.objectives {
        text += &format!("\n{}: {}\n", objective.objective, verdict(objective));
        for row in &objective.rows {
            let within = goodput(row).map_or_else(String::new, |it| format!(", {it} within it"));
            text += &format!(
                "  {:<9} {} {}: {} ({}){within}\n",
                word(row.outcome),
                row.cell,
                format::title(summary, &row.subject),
                figure(objective, row),
                threshold(objective),
            );
        }
    }
    text
}

/// One row per objective, cell and subject.
pub fn table(summary: &Summary) -> Table {
    let head = [
        "Objective",
        "Cell",
        "Subject",
        "Figure",
        "Threshold",
        "Within it",
        "Verdict",
    ];
    let rows = summary.objectives.iter().flat_map(|objective| {
        let nowhere = objective.rows.is_empty().then(|| nowhere(objective));
        let rows = objective
            .rows
            .iter()
            .map(|row| cells(summary, objective, row));
        nowhere.into_iter().chain(rows)
    });
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}

fn nowhere(objective: &ObjectiveSummary) -> Vec<Cell> {
    let texts = ["–", "–", "–", &threshold(objective), "–"].map(Cell::new);
    let verdict = Cell {
        tone: Tone::Bad,
        ..Cell::new(word(Outcome::NoFigure))
    };
    std::iter::once(Cell::new(&objective.objective))
        .chain(texts)
        .chain([verdict])
        .collect()
}

fn cells(summary: &Summary, objective: &ObjectiveSummary, row: &ObjectiveRow) -> Vec<Cell> {
    let tone = match row.outcome {
        Outcome::Held => Tone::Plain,
        Outcome::Missed | Outcome::NoFigure => Tone::Bad,
    };
    vec![
        Cell::new(&objective.objective),
        Cell::new(&row.cell),
        Cell::new(format::title(summary, &row.subject)),
        Cell::new(figure(objective, row)),
        Cell::new(threshold(objective)),
        Cell::new(goodput(row).unwrap_or_else(|| "–".to_owned())),
        Cell {
            tone,
            ..Cell::new(word(row.outcome))
        },
    ]
}
