//! What a report says, in order; how it looks is the exporters' business.

use super::answer;
use super::capacity;
use super::format::{self, list};
use super::ladder;
use super::plot::{Figure, Palette, memory, quantiles, strip};
use super::{objectives, pinning, tables};
use crate::analyse::comparison::CellSummary;
use crate::analyse::metric::Metric;
use crate::analyse::{RunData, Summary, Validity};
use crate::record::{Kind, Manifest};

/// A whole report.
#[derive(Debug, Clone)]
pub struct Document {
    /// Name of the run.
    pub title: String,
    /// The answer in three sentences.
    pub answer: [String; 3],
    /// How much of the run may be used.
    pub validity: Banner,
    /// The rest.
    pub blocks: Vec<Block>,
}

/// The validity of the run in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Banner {
    /// Whether every planned launch was made and is valid.
    pub complete: bool,
    /// The line.
    pub text: String,
}

/// A part of a report.
#[derive(Debug, Clone)]
pub enum Block {
    /// A section; an anchor is made of its text.
    Section(String),
    /// A part of a section.
    Part(String),
    /// Running text.
    Text(String),
    /// A table.
    Table(Table),
    /// Figures side by side, where there is room.
    Figures(Vec<Figure>),
    /// Terms with their meanings.
    Terms(Vec<(String, String)>),
    /// Something long that is shown on demand.
    Folded(String, Vec<Block>),
    /// Text with fixed line breaks.
    Verbatim(String),
}

/// A table; the first column names the row.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Heads of the columns.
    pub head: Vec<String>,
    /// Rows, as long as the head.
    pub rows: Vec<Vec<Cell>>,
}

/// A cell of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// Second line, in small print.
    pub small: String,
    /// How it is set.
    pub tone: Tone,
    /// Where it leads, relative to the run folder.
    pub link: Option<String>,
}

/// How a cell is set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// As the others.
    #[default]
    Plain,
    /// The winner of its column.
    Winner,
    /// Something failed.
    Bad,
}

impl Cell {
    /// Plain text.
    pub fn new(text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            ..Cell::default()
        }
    }
}

/// The report of a run.
pub fn document(run: &RunData, summary: &Summary) -> Document {
    let palette = Palette::of(run);
    let mut blocks = demands(summary);
    blocks.extend(capacity::section(summary, &palette));
    blocks.extend(scenarios(run, summary, &palette));
    blocks.extend(validity_section(run, summary));
    blocks.extend(provenance(run));
    blocks.push(Block::Section("Words".into()));
    blocks.push(Block::Terms(super::glossary::terms()));
    Document {
        title: format!("{} ({})", summary.run_id, summary.profile),
        answer: answer::answer(summary),
        validity: banner(&summary.validity),
        blocks,
    }
}

fn demands(summary: &Summary) -> Vec<Block> {
    if summary.objectives.is_empty() {
        return vec![];
    }
    vec![
        Block::Section("Objectives".into()),
        Block::Text(
            "What was demanded with --slo, held against the figures of the valid launches. An objective is held \
             if no figure misses it and every subject has one; \u{201c}within it\u{201d} is the goodput: \
             correct answers per second that were no slower than the threshold."
                .into(),
        ),
        Block::Table(objectives::table(summary)),
    ]
}

fn banner(validity: &Validity) -> Banner {
    let launches = (!validity.is_search_only()).then(|| {
        format!(
            "{} of {} valid, {} disturbed, {} invalid; {} planned",
            validity.valid,
            format::launches(validity.made),
            validity.disturbed,
            validity.invalid,
            validity.planned
        )
    });
    let probes = (validity.probes > 0).then(|| format!("{} probes, judged apart", validity.probes));
    let parts: Vec<String> = launches.into_iter().chain(probes).collect();
    let mut text = parts.join("; ");
    if validity.interrupted {
        text.push_str("; PARTIAL: the run was interrupted");
    } else if validity.made < validity.planned {
        text.push_str("; PARTIAL: launches are missing");
    }
    Banner {
        complete: validity.is_complete(),
        text,
    }
}

fn scenarios(run: &RunData, summary: &Summary, palette: &Palette) -> Vec<Block> {
    let mut names: Vec<&str> = Vec::new();
    for cell in &summary.cells {
        if !names.contains(&cell.facts.scenario.as_str()) {
            names.push(&cell.facts.scenario);
        }
    }
    let of = |name| {
        summary
            .cells
            .iter()
            .filter(move |c| c.facts.scenario == name)
    };
    names
        .into_iter()
        .flat_map(|name| scenario(run, summary, palette, &of(name).collect::<Vec<_>>()))
        .collect()
}

fn scenario(
    run: &RunData,
    summary: &Summary,
    palette: &Palette,
    cells: &[&CellSummary],
) -> Vec<Block> {
    let facts = &cells[0].facts;
    let mut blocks = vec![
        Block::Section(facts.scenario.clone()),
        Block::Text(facts.question.clone()),
    ];
    blocks.extend(ladder::blocks(summary, palette, cells));
    for cell in cells {
        blocks.extend(cell_tables(summary, cell));
    }
    let mut figures = Vec::new();
    for metric in strips(cells) {
        figures.extend(strip::figure(palette, cells, metric));
    }
    for cell in cells {
        for kind in [Kind::Rest, Kind::Amqp] {
            figures.extend(quantiles::figure(run, summary, palette, &cell.facts, kind));
        }
        figures.extend(memory::figure(run, summary, palette, &cell.facts));
    }
    blocks.push(Block::Figures(figures));
    blocks
}

fn cell_tables(summary: &Summary, cell: &CellSummary) -> Vec<Block> {
    let facts = &cell.facts;
    let name = facts.axis.as_deref().unwrap_or("Figures");
    let missing = missing(summary, cell);
    vec![
        Block::Part(format!(
            "{name}: {}, {} layout, {} {} s{}",
            format::load(facts),
            facts.layout.as_str(),
            if facts.prefill > 0 {
                "at most"
            } else {
                "window"
            },
            format::setting(facts.window_s),
            in_turns(cell.turns)
        )),
        Block::Text(missing),
        Block::Table(tables::figures(summary, cell)),
        Block::Folded(
            "Who is better, metric by metric".into(),
            vec![Block::Table(tables::comparisons(summary, cell))],
        ),
    ]
}

fn in_turns(turns: u32) -> String {
    match turns {
        1 => String::new(),
        several => format!(" in {several} turns, between which the other subjects had theirs"),
    }
}

fn missing(summary: &Summary, cell: &CellSummary) -> String {
    let launched = |s: &&String| cell.metrics.iter().any(|m| m.rows.contains_key(*s));
    let missing: Vec<&str> = cell
        .subjects
        .iter()
        .filter(|s| !launched(s))
        .map(|s| format::title(summary, s))
        .collect();
    if missing.is_empty() {
        String::new()
    } else {
        format!("Never launched here: {}.", list(&missing))
    }
}

/// Metrics that are drawn as dots per block.
fn strips(cells: &[&CellSummary]) -> Vec<Metric> {
    [
        Metric::CpuPerOperation,
        Metric::CpuPerMessage,
        Metric::CpuPerSecond,
        Metric::Pss,
        Metric::MessagesPerSecond,
        Metric::Ceiling,
        Metric::RestThroughput,
        Metric::AmqpThroughput,
    ]
    .into_iter()
    .filter(|metric| cells.iter().any(|c| c.comparison(*metric).is_some()))
    .collect()
}

fn validity_section(run: &RunData, summary: &Summary) -> Vec<Block> {
    let mut blocks = vec![
        Block::Section("Validity".into()),
        Block::Text(
            "A launch that fails a gate is kept, shown and never ranked: it is invalid if its figures mean \
             nothing, and disturbed if the host was noisy. The value of every gate of every launch stands in \
             summary.json."
                .into(),
        ),
    ];
    let gates = tables::gates(summary);
    if !gates.rows.is_empty() {
        blocks.push(Block::Table(gates));
    }
    if let Some(table) = pinning::table(run, summary) {
        blocks.push(Block::Part(
            "Where the threads ran, read back from the kernel".into(),
        ));
        blocks.push(Block::Table(table));
    }
    blocks.extend([
        Block::Part("Launches in the order in which they were made".into()),
        Block::Folded(
            format!(
                "{}, with links to the raw data",
                format::launches(summary.launches.len())
            ),
            vec![Block::Table(tables::launches(run, summary))],
        ),
    ]);
    blocks
}

fn provenance(run: &RunData) -> Vec<Block> {
    let features = run.manifest.compared().map(|subject| {
        let text = vec![Block::Verbatim(subject.features.join("\n"))];
        Block::Folded(format!("Features of {}", subject.title), text)
    });
    let mut blocks = measured(&run.manifest);
    blocks.extend(features);
    blocks
}

/// The machine, the broker, and the subjects with what they deviate in.
pub fn measured(manifest: &Manifest) -> Vec<Block> {
    let deviating = manifest.compared().filter(|s| !s.deviations.is_empty());
    let deviations = deviating.map(|subject| {
        let table = vec![Block::Table(tables::deviations(subject))];
        Block::Folded(format!("Deviations of {}", subject.title), table)
    });
    let mut blocks = vec![
        Block::Section("What was measured, and where".into()),
        Block::Table(tables::manifest(manifest)),
        Block::Part("Subjects".into()),
        Block::Table(tables::subjects(manifest)),
    ];
    blocks.extend(deviations);
    blocks
}
