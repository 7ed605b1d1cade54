//! The report of a fault campaign: what failed, how soon it was back, and what was lost.

mod answer;

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Banner, Block, Cell, Document, Table, Tone, measured};
use super::{format, html, markdown};
use crate::analyse::statistics::median;
use crate::faults::{self, Repetition};
use crate::record::Manifest;

pub use answer::answer;

/// Both forms of the report with their file names.
pub fn files(manifest: &Manifest, repetitions: &[Repetition]) -> [(&'static str, String); 2] {
    let document = document(manifest, repetitions);
    [
        ("report.md", markdown::text(&document, NUMBERS)),
        ("report.html", html::page(&document, &html::RUN_FILES)),
    ]
}

/// What is wrong with a repetition, in one line.
pub fn line(repetition: &Repetition) -> String {
    let mut parts = repetition.problems.clone();
    if repetition.messages.lost > 0 {
        let examples = repetition.messages.lost_examples.join(", ");
        parts.push(format!("{} lost: {examples}", repetition.messages.lost));
    }
    let recoveries = [
        ("REST", repetition.rest_recovery_s),
        ("AMQP", repetition.amqp_recovery_s),
    ];
    for (kind, recovery_s) in recoveries {
        if recovery_s.is_none() {
            parts.push(format!("{kind} did not recover"));
        }
    }
    parts.join("; ")
}

fn tried(repetitions: &[Repetition]) -> Vec<&Repetition> {
    let tried = repetitions
        .iter()
        .filter(|it| it.skipped.is_none() && it.invalid.is_none());
    tried.collect()
}

type Groups<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Repetition>>;

/// The repetitions by fault and subject.
fn groups<'a>(repetitions: &[&'a Repetition]) -> Groups<'a> {
    let mut groups = Groups::new();
    for repetition in repetitions {
        let place = (repetition.fault.as_str(), repetition.subject.as_str());
        groups.entry(place).or_default().push(repetition);
    }
    groups
}

/// The median of what the repetitions have of it.
fn median_of(
    repetitions: &[&Repetition],
    value: impl Fn(&Repetition) -> Option<f64>,
) -> Option<f64> {
    let mut values: Vec<f64> = repetitions.iter().filter_map(|it| value(it)).collect();
    median(&mut values)
}

fn title<'a>(manifest: &'a Manifest, subject: &'a str) -> &'a str {
    let found = manifest.subjects.iter().find(|facts| facts.name == subject);
    found.map_or(subject, |facts| &facts.title)
}

fn document(manifest: &Manifest, repetitions: &[Repetition]) -> Document {
    let raw = Table {
        head: vec!["Raw data".into(), "What it is".into()],
        rows: vec![vec![
            Cell {
                link: Some(faults::FILE.to_owned()),
                ..Cell::new(faults::FILE)
            },
            Cell::new("a line of JSON for each repetition, as it was made"),
        ]],
    };
    let mut blocks = vec![
        Block::Section("Faults".into()),
        Block::Text(faults::QUESTION.to_owned()),
        Block::Table(matrix(manifest, repetitions)),
        Block::Text(READING.to_owned()),
        Block::Part("Every fault and subject".into()),
        Block::Table(details(manifest, repetitions)),
    ];
    blocks.extend(measured(manifest));
    blocks.push(Block::Table(raw));
    Document {
        title: format!("{} ({})", manifest.run_id, manifest.profile),
        answer: answer(manifest, repetitions),
        validity: banner(manifest, repetitions),
        blocks,
    }
}

/// Where the numbers stand.
const NUMBERS: &str = "The numbers of each repetition stand in [faults.jsonl](faults.jsonl).";
/// How to read the tables.
const READING: &str = "Recovery is the time from the end of the fault to the first success that one second \
without a failure follows. Failed operations were sent and ended otherwise than the contract says for an \
undisturbed service; unanswered are the requests among them that were sent and then cut off or \
left without an answer, over all repetitions. Lost is a message that the broker confirmed or the service answered with 202, and that is \
neither in the store, nor answered, nor a dead letter, nor queued. Duplicates were recognised by the service; \
repeated messages had their effect again, as a store that has begun anew cannot know them. \
Memory is the summed PSS three seconds after the fault minus that before it.";

fn banner(manifest: &Manifest, repetitions: &[Repetition]) -> Banner {
    let planned: usize = manifest.order.iter().map(Vec::len).sum();
    let skipped = repetitions.iter().filter(|it| it.skipped.is_some()).count();
    let faulty = repetitions.iter().filter(|it| it.is_faulty()).count();
    let invalid = repetitions.iter().filter(|it| it.invalid.is_some()).count();
    let made = repetitions.len() - invalid;
    let mut text = format!(
        "{made} of {planned} repetitions made, {skipped} not applicable, {faulty} with a loss, a death or no recovery"
    );
    if invalid > 0 {
        let more =
            format!("; {invalid} more on a broker that fell ill itself, kept in the raw data");
        text.push_str(&more);
    }
    if manifest.interrupted || made < planned {
        text.push_str("; PARTIAL: the campaign was interrupted");
    }
    Banner {
        complete: !manifest.interrupted && made == planned && faulty == 0,
        text,
    }
}

/// The names of the faults in the order in which they were tried first.
fn fault_names(repetitions: &[Repetition]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for repetition in repetitions {
        if !names.contains(&repetition.fault.as_str()) {
            names.push(&repetition.fault);
        }
    }
    names
}

/// One row per fault, one column per subject.
fn matrix(manifest: &Manifest, repetitions: &[Repetition]) -> Table {
    let shown = repetitions.iter().filter(|it| it.invalid.is_none());
    let groups = groups(&shown.collect::<Vec<_>>());
    let subjects = &manifest.subjects;
    let titles = subjects.iter().map(|subject| subject.title.clone());
    let rows = fault_names(repetitions).into_iter().map(|fault| {
        let cells = subjects.iter().map(|subject| {
            let group = groups.get(&(fault, subject.name.as_str()));
            group.map_or_else(|| Cell::new("–"), |group| glance(group))
        });
        let name = Cell {
            small: fault.to_owned(),
            ..Cell::new(faults::title(fault))
        };
        std::iter::once(name).chain(cells).collect()
    });
    Table {
        head: std::iter::once("Fault".to_owned()).chain(titles).collect(),
        rows: rows.collect(),
    }
}

/// A fault and a subject at a glance.
fn glance(group: &[&Repetition]) -> Cell {
    if let [first, ..] = group
        && let Some(reason) = &first.skipped
    {
        return Cell {
            small: reason.clone(),
            ..Cell::new("–")
        };
    }
    let rest = recovery(group, |it| it.rest_recovery_s);
    let amqp = recovery(group, |it| it.amqp_recovery_s);
    let failed = median_of(group, |it| Some(it.failed as f64)).unwrap_or_default();
    let lost: u64 = group.iter().map(|it| it.messages.lost).sum();
    let unanswered: u64 = group.iter().map(|it| it.unanswered()).sum();
    let duplicates = median_of(group, |it| Some(again(it) as f64)).unwrap_or_default();
    let retained = retained(group);
    let is_faulty = group.iter().any(|it| it.is_faulty());
    Cell {
        text: format!("REST {rest}\nAMQP {amqp}"),
        small: format!(
            "{} failed, {unanswered} unanswered\n{lost} lost, {} again, {retained}",
            format::setting(failed),
            format::setting(duplicates)
        ),
        tone: if is_faulty { Tone::Bad } else { Tone::Plain },
        link: None,
    }
}

/// Messages that came again, whether the service knew them or not.
fn again(repetition: &Repetition) -> u64 {
    repetition.messages.duplicates + repetition.messages.repeated
}

/// The median recovery with the fastest and the slowest, and how many did not recover.
fn recovery(group: &[&Repetition], of: impl Fn(&Repetition) -> Option<f64>) -> String {
    let never = group.iter().filter(|it| of(it).is_none()).count();
    match (spread(group, &of, (hundredths, " s")), never) {
        (None, _) => "never".to_owned(),
        (Some(recovered), 0) => recovered,
        (Some(recovered), never) => format!("{recovered}, {never} never"),
    }
}

/// To the hundredth of a second: the load sends every 5 ms.
fn hundredths(value: f64) -> String {
    format!("{value:.2}")
}

fn seconds(value: f64) -> String {
    format!("{} s", hundredths(value))
}

fn retained(group: &[&Repetition]) -> String {
    let bytes = median_of(group, |it| Some(it.retained_bytes())).unwrap_or_default();
    format!("{:+.2} MiB", bytes / 1_048_576.0)
}

/// One row per fault and subject with everything.
fn details(manifest: &Manifest, repetitions: &[Repetition]) -> Table {
    let head = [
        "Subject, fault",
        "n",
        "Fault lasted",
        "Failed operations",
        "Requests unanswered",
        "Recovery REST",
        "Recovery AMQP",
        "Messages",
        "Lost",
        "Duplicates, repeated",
        "Gone with the fault",
        "Memory",
        "Remarks",
    ];
    let groups = groups(&tried(repetitions));
    let mut rows = Vec::new();
    for fault in fault_names(repetitions) {
        for subject in &manifest.subjects {
            if let Some(group) = groups.get(&(fault, subject.name.as_str())) {
                rows.push(detail(fault, &subject.title, group));
            }
        }
    }
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows,
    }
}

fn detail(fault: &str, subject: &str, group: &[&Repetition]) -> Vec<Cell> {
    let sum = |of: fn(&Repetition) -> u64| group.iter().map(|it| of(it)).sum::<u64>();
    let lasted = median_of(group, |it| Some(it.fault_s)).unwrap_or_default();
    let failed = median_of(group, |it| Some(it.failed as f64)).unwrap_or_default();
    let lost = sum(|it| it.messages.lost);
    let tone = |is_bad| if is_bad { Tone::Bad } else { Tone::Plain };
    vec![
        Cell {
            small: fault.to_owned(),
            ..Cell::new(subject)
        },
        Cell::new(group.len().to_string()),
        Cell::new(seconds(lasted)),
        Cell {
            small: ways(group),
            ..Cell::new(format::setting(failed))
        },
        Cell::new(sum(Repetition::unanswered).to_string()),
        Cell::new(recovery(group, |it| it.rest_recovery_s)),
        Cell::new(recovery(group, |it| it.amqp_recovery_s)),
        Cell::new(sum(|it| it.messages.confirmed + it.messages.accepted).to_string()),
        Cell {
            tone: tone(lost > 0),
            ..Cell::new(lost.to_string())
        },
        Cell::new(format!(
            "{}, {}",
            sum(|it| it.messages.duplicates),
            sum(|it| it.messages.repeated)
        )),
        Cell::new(sum(|it| it.messages.destroyed + it.messages.unproven).to_string()),
        Cell::new(retained(group)),
        Cell {
            tone: tone(group.iter().any(|it| !it.problems.is_empty())),
            small: remarks(group),
            ..Cell::new("")
        },
    ]
}

/// How operations failed, over all repetitions, a way in a line: `events 503 × 80`.
fn ways(group: &[&Repetition]) -> String {
    let mut ways: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (kind, outcomes) in group.iter().flat_map(|it| &it.operations) {
        for (outcome, count) in outcomes.iter().filter(|(outcome, _)| *outcome != "ok") {
            *ways.entry((kind, outcome)).or_default() += count;
        }
    }
    let ways: Vec<String> = ways
        .into_iter()
        .map(|((kind, outcome), count)| format!("{kind} {outcome} × {count}"))
        .collect();
    ways.join("\n")
}

/// Every problem once, then the figures: `reconnects: 2 (2–3)`.
fn remarks(group: &[&Repetition]) -> String {
    let problems: BTreeSet<&str> = group
        .iter()
        .flat_map(|it| &it.problems)
        .map(String::as_str)
        .collect();
    let names: BTreeSet<&String> = group.iter().flat_map(|it| it.figures.keys()).collect();
    let figures = names.into_iter().map(|name| {
        let of = |it: &Repetition| it.figures.get(name).copied();
        let spread = spread(group, of, (format::setting, ""));
        format!("{name}: {}", spread.unwrap_or_default())
    });
    let all = problems.into_iter().map(str::to_owned).chain(figures);
    all.collect::<Vec<_>>().join("\n")
}

/// The median with a unit, and in parentheses the lowest and the highest if they differ.
fn spread(
    group: &[&Repetition],
    of: impl Fn(&Repetition) -> Option<f64>,
    (print, unit): (fn(f64) -> String, &str),
) -> Option<String> {
    let mut values: Vec<f64> = group.iter().filter_map(|it| of(it)).collect();
    let middle = format!("{}{unit}", print(median(&mut values)?));
    let (low, high) = (print(*values.first()?), print(*values.last()?));
    Some(if low == high {
        middle
    } else {
        format!("{middle} ({low}–{high})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::synthetic;

    pub(super) fn repetition(subject: &str, lost: u64) -> Repetition {
        let mut repetition = Repetition {
            fault: "broker-killed".to_owned(),
            subject: subject.to_owned(),
            failed: 3,
            rest_recovery_s: Some(0.5),
            amqp_recovery_s: Some(1.25),
            pss_before_bytes: 1_048_576,
            pss_after_bytes: 1_572_864,
            ..Repetition::default()
        };
        repetition.messages.confirmed = 100;
        repetition.messages.lost = lost;
        repetition
    }

    pub(super) fn manifest() -> Manifest {
        let mut manifest = synthetic::run(1).manifest;
        manifest.order = vec![vec!["broker-killed async".to_owned()]];
        manifest
    }

    #[test]
    fn the_matrix_has_a_row_per_fault_and_marks_what_failed() {
        let manifest = manifest();
        let name = manifest.subjects[0].name.clone();
        let table = matrix(&manifest, &[repetition(&name, 1)]);
        let cell = &table.rows[0][1];
        assert_eq!(cell.text, "REST 0.50 s\nAMQP 1.25 s");
        assert_eq!(
            cell.small,
            "3 failed, 0 unanswered\n1 lost, 0 again, +0.50 MiB"
        );
        assert_eq!(cell.tone, Tone::Bad);
        assert_eq!(table.rows[0][2].text, "–");
    }

    #[test]
    fn what_failed_on_an_ill_broker_is_told_and_judged_by_its_successor() {
        let manifest = manifest();
        let name = manifest.subjects[0].name.clone();
        let ill = Repetition {
            invalid: Some("the broker was ill".to_owned()),
            ..repetition(&name, 7)
        };
        let all = [ill, repetition(&name, 0)];
        assert!(!all[0].is_faulty());
        let banner = banner(&manifest, &all);
        assert!(banner.complete && banner.text.contains("1 more on a broker"));
        let cell = &matrix(&manifest, &all).rows[0][1];
        assert_eq!(cell.tone, Tone::Plain, "{cell:?}");
    }

    #[test]
    fn what_could_not_be_tried_says_why() {
        let manifest = manifest();
        let skipped = Repetition {
            skipped: Some("it has no amqp process".to_owned()),
            ..repetition(&manifest.subjects[0].name, 0)
        };
        assert!(!skipped.is_faulty());
        let table = matrix(&manifest, std::slice::from_ref(&skipped));
        assert_eq!(table.rows[0][1].small, "it has no amqp process");
        assert!(details(&manifest, &[skipped]).rows.is_empty());
    }
}
