//! The tables of a report.

use std::collections::BTreeMap;

use super::document::{Cell, Table, Tone};
use super::format;
use crate::analyse::comparison::{CellSummary, Comparison, Verdict};
use crate::analyse::gates::{Gate, Standing};
use crate::analyse::metric::Better;
use crate::analyse::{LaunchSummary, RunData, Summary};
use crate::record::{Manifest, SubjectFacts};

/// One row per subject, one column per metric; the winner of a column is marked.
pub fn figures(summary: &Summary, cell: &CellSummary) -> Table {
    let shown: Vec<&Comparison> = cell.metrics.iter().filter(|c| has_figure(c)).collect();
    let titles = shown.iter().map(|c| format::title_with_unit(c.metric));
    let mut subjects: Vec<&str> = cell.subjects.iter().map(String::as_str).collect();
    let measured = cell.metrics.iter().flat_map(|c| c.rows.keys());
    subjects.extend(measured.map(String::as_str));
    subjects.sort_unstable();
    subjects.dedup();
    let rows = subjects.into_iter().map(|subject| {
        let name = Cell::new(format::title(summary, subject));
        let figures = shown.iter().map(|c| figure(c, subject));
        std::iter::once(name).chain(figures).collect()
    });
    Table {
        head: std::iter::once("Subject".to_owned())
            .chain(titles)
            .collect(),
        rows: rows.collect(),
    }
}

/// A quantile that nobody supports would only be a column of reasons; those stand in the
/// comparison.
fn has_figure(comparison: &Comparison) -> bool {
    let mut rows = comparison.rows.values();
    rows.any(|row| row.median.is_some() || row.pooled.is_some() || row.too_few.is_none())
}

fn figure(comparison: &Comparison, subject: &str) -> Cell {
    let Some(row) = comparison.rows.get(subject) else {
        return Cell::new("–");
    };
    let (text, small) = format::row(comparison.metric, row);
    let won =
        matches!(&comparison.verdict, Verdict::Winner { subject: winner } if winner == subject);
    Cell {
        text,
        small,
        tone: if won { Tone::Winner } else { Tone::Plain },
        link: None,
    }
}

/// One row per metric: the verdict and every paired ratio.
pub fn comparisons(summary: &Summary, cell: &CellSummary) -> Table {
    let head = [
        "Metric",
        "Verdict",
        "Ratios, paired by block (95 % interval; adjusted p)",
    ];
    let ranked = cell
        .metrics
        .iter()
        .filter(|c| c.metric.better() != Better::Neither);
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows: ranked.map(|c| comparison(summary, c)).collect(),
    }
}

fn comparison(summary: &Summary, comparison: &Comparison) -> Vec<Cell> {
    let ratios: Vec<String> = comparison
        .ratios
        .iter()
        .map(|pair| {
            let (a, b) = (&pair.subject, &pair.other);
            let (a, b) = (format::title(summary, a), format::title(summary, b));
            let chance = format::chance(pair.estimate);
            format!("{a} / {b} = {}{chance}", format::ratio(pair.estimate))
        })
        .collect();
    let won = matches!(comparison.verdict, Verdict::Winner { .. });
    vec![
        Cell::new(comparison.metric.title()),
        Cell {
            text: format::verdict(summary, comparison),
            small: [too_few(comparison), floor(comparison)]
                .into_iter()
                .filter(|it| !it.is_empty())
                .collect::<Vec<_>>()
                .join("; "),
            tone: if won { Tone::Winner } else { Tone::Plain },
            link: None,
        },
        Cell::new(ratios.join("\n")),
    ]
}

/// What one subject differs from itself by, so that no smaller difference is one.
fn floor(comparison: &Comparison) -> String {
    comparison.floor.map_or(String::new(), |floor| {
        let percent = floor.reach().exp_m1() * 100.0;
        format!("noise floor {} %", format::number(percent))
    })
}

fn too_few(comparison: &Comparison) -> String {
    let reasons = comparison.rows.values().filter_map(|row| row.too_few);
    reasons.max().map_or(String::new(), |(n, needed)| {
        format!("n too small: {n} operations per launch, {needed} needed")
    })
}

/// What all launches say about one gate.
#[derive(Default)]
struct Tally<'a> {
    limits: Vec<String>,
    applied: usize,
    failed: usize,
    worst: Option<&'a Gate>,
}

/// One row per gate over all launches, in the order in which they were first met.
pub fn gates(summary: &Summary) -> Table {
    let mut order: Vec<&str> = Vec::new();
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let launches = summary.launches.iter().filter(|launch| !launch.probe);
    for gate in launches.flat_map(|launch| &launch.gates) {
        let tally = tallies.entry(&gate.name).or_insert_with(|| {
            order.push(&gate.name);
            Tally::default()
        });
        tally.add(gate);
    }
    let head = [
        "Gate",
        "Limit",
        "Furthest out",
        "Launches",
        "Failed",
        "A failure makes it",
    ];
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows: order
            .into_iter()
            .map(|name| tallies[name].row(name))
            .collect(),
    }
}

impl<'a> Tally<'a> {
    fn add(&mut self, gate: &'a Gate) {
        let limit = format::limit(gate.unit, gate.limit);
        if !self.limits.contains(&limit) {
            self.limits.push(limit);
        }
        self.applied += 1;
        self.failed += usize::from(!gate.passed);
        if self
            .worst
            .is_none_or(|worst| severity(gate) > severity(worst))
        {
            self.worst = Some(gate);
        }
    }

    fn row(&self, name: &str) -> Vec<Cell> {
        let worst = self.worst.map(|g| format::gate_value(g.unit, g.value));
        let limit = match &self.limits[..] {
            [only] => only.clone(),
            _ => "by cell".to_owned(),
        };
        let fate = self.worst.map_or("", |g| match g.on_failure {
            Standing::Valid => "void in its memory figures",
            standing => standing.word(),
        });
        let tone = if self.failed > 0 {
            Tone::Bad
        } else {
            Tone::Plain
        };
        vec![
            Cell::new(name),
            Cell::new(limit),
            Cell::new(worst.unwrap_or_default()),
            Cell::new(self.applied.to_string()),
            Cell {
                tone,
                ..Cell::new(self.failed.to_string())
            },
            Cell::new(fate),
        ]
    }
}

/// How near to, or how far beyond its limit a gate is; comparable within one gate.
fn severity(gate: &Gate) -> f64 {
    let above = gate
        .limit
        .max
        .map(|max| (gate.value - max) / max.abs().max(1e-9));
    let below = gate
        .limit
        .min
        .map(|min| (min - gate.value) / min.abs().max(1e-9));
    above
        .into_iter()
        .chain(below)
        .fold(f64::NEG_INFINITY, f64::max)
}

/// One row per launch, in order.
pub fn launches(run: &RunData, summary: &Summary) -> Table {
    let head = [
        "#",
        "Block",
        "Cell",
        "Subject",
        "Standing",
        "Failed gates",
        "Raw data",
    ];
    let rows = run
        .launches
        .iter()
        .zip(&summary.launches)
        .map(|(data, launch)| {
            let folder = data.launch.folder();
            vec![
                Cell::new(launch.ordinal.to_string()),
                Cell::new(launch.block.to_string()),
                Cell::new(&launch.cell),
                Cell::new(format::title(summary, &launch.subject)),
                standing(launch),
                Cell::new(failed(launch)),
                Cell {
                    link: Some(format!("{folder}/")),
                    ..Cell::new("folder")
                },
            ]
        });
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}

fn standing(launch: &LaunchSummary) -> Cell {
    let tone = match launch.standing {
        Standing::Valid => Tone::Plain,
        Standing::Disturbed | Standing::Invalid => Tone::Bad,
    };
    Cell {
        tone,
        ..Cell::new(launch.standing.word())
    }
}

fn failed(launch: &LaunchSummary) -> String {
    let failed = launch.gates.iter().filter(|g| !g.passed);
    let phrases: Vec<String> = failed.map(format::failed_gate).collect();
    phrases.join("; ")
}

/// Machine, versions and seeds.
pub fn manifest(manifest: &Manifest) -> Table {
    let rows = made_of(manifest).into_iter().chain(made_on(manifest));
    let rows = rows.map(|(name, value)| vec![Cell::new(name), Cell::new(value)]);
    Table {
        head: vec!["What".into(), "Value".into()],
        rows: rows.collect(),
    }
}

fn made_of(manifest: &Manifest) -> [(&'static str, String); 7] {
    let tree = if manifest.dirty { " with changes" } else { "" };
    let elapsed = format::number(manifest.elapsed_s);
    let version = &manifest.threeways_version;
    [
        (
            "Run",
            format!(
                "{} (method version {})",
                manifest.run_id, manifest.method_version
            ),
        ),
        (
            "Started",
            format!("{}, took {elapsed} s", manifest.started_at),
        ),
        ("Commit", format!("{}{tree}", manifest.commit)),
        (
            "Instrument",
            format!("threeways {version}, Cargo.lock {}", manifest.lock_hash),
        ),
        ("Compiler", manifest.rustc.clone()),
        ("Seed", manifest.seed.to_string()),
        ("Blocks", manifest.order.len().to_string()),
    ]
}

fn made_on(manifest: &Manifest) -> [(&'static str, String); 7] {
    let (host, broker) = (&manifest.host, &manifest.broker);
    let pinned = if broker.pinned {
        "pinned"
    } else {
        "not pinned"
    };
    let memory = format::number(host.memory_bytes as f64 / 1_073_741_824.0);
    [
        (
            "Machine",
            format!("{}, {} cores, {memory} GiB", host.cpu_model, host.cores),
        ),
        ("Kernel", host.kernel.clone()),
        ("Idle cores", host.idle_cores().to_owned()),
        ("Open files", format::number(host.open_files_limit as f64)),
        (
            "Broker",
            format!("{} ({}, {pinned})", broker.version, broker.origin),
        ),
        ("Layouts", layouts(manifest)),
        ("Ceiling of the generator", ceilings(manifest)),
    ]
}

/// REST only, since nothing takes the place of the broker.
fn ceilings(manifest: &Manifest) -> String {
    let ceilings = manifest.ceiling_per_s.iter();
    let texts: Vec<String> = ceilings
        .map(|(layout, rate)| {
            format!(
                "{} REST requests/s ({})",
                format::number(*rate),
                layout.as_str()
            )
        })
        .collect();
    match texts.is_empty() {
        true => "not measured".to_owned(),
        false => texts.join("; "),
    }
}

fn layouts(manifest: &Manifest) -> String {
    let searched = manifest.search.iter().map(|it| it.layout);
    let cells = manifest.cells.iter().map(|c| c.layout);
    let mut layouts: Vec<_> = cells.chain(searched).collect();
    layouts.sort_unstable();
    layouts.dedup();
    let texts: Vec<String> = layouts
        .into_iter()
        .map(|l| format!("{}: {}", l.as_str(), format::layout_meaning(l)))
        .collect();
    texts.join("; ")
}

/// What was compared.
pub fn subjects(manifest: &Manifest) -> Table {
    let head = [
        "Subject",
        "File",
        "Model",
        "Binary [MiB]",
        "Declared deviations",
    ];
    let rows = manifest.compared().map(|subject| {
        vec![
            Cell::new(&subject.title),
            Cell::new(&subject.name),
            Cell::new(&subject.model),
            Cell::new(format::number(subject.binary_bytes as f64 / 1_048_576.0)),
            Cell::new(subject.deviations.len().to_string()),
        ]
    });
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows: rows.collect(),
    }
}

/// The hardening cases that a subject does not hold, each with the library that is the reason.
pub fn deviations(subject: &SubjectFacts) -> Table {
    let row = |deviation: &String| {
        let (case, reason) = deviation.split_once(": ").unwrap_or((deviation, ""));
        vec![Cell::new(case), Cell::new(reason)]
    };
    Table {
        head: vec!["Case of the conformance suite".into(), "Why not".into()],
        rows: subject.deviations.iter().map(row).collect(),
    }
}
