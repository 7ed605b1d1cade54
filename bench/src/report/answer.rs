//! The answer in three sentences: which model, what differs at low load, and how far to trust it.

use std::collections::BTreeMap;

use super::capacity;
use super::format::{self, figure, list, load, title};
use crate::analyse::Summary;
use crate::analyse::comparison::{CellSummary, Comparison, Verdict};
use crate::analyse::metric::{Better, Metric};
use crate::record::Layout;

/// Fewest blocks of a run that is more than a test of the machinery.
const BLOCKS_TO_TRUST: usize = 10;

/// Parts of the names of the gates that tell of failed operations and lost messages.
const OF_OPERATIONS: [&str; 5] = [
    "faults",
    "wrong or failed",
    "timed out",
    "confirmed",
    "accounted for",
];

/// Three sentences in plain text.
pub fn answer(summary: &Summary) -> [String; 3] {
    [
        recommendation(summary),
        at_low_load(summary),
        trust(summary),
    ]
}

fn recommendation(summary: &Summary) -> String {
    let Some(cell) = cell_of(summary, "steady-mixed") else {
        let undecided = "Undecided: the run has no cell under steady load on both protocols.";
        return endurance(summary)
            .or_else(|| capacity::sentence(summary))
            .unwrap_or_else(|| undecided.to_owned());
    };
    let comparisons = headline(cell);
    if comparisons.is_empty() {
        return format!(
            "Undecided: {} has no two subjects with valid figures.",
            cell.facts.cell
        );
    }
    let mut led: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut open = Vec::new();
    for comparison in comparisons {
        match comparison.winner_among(&cell.subjects) {
            Some(winner) => led
                .entry(winner)
                .or_default()
                .push(with_values(summary, comparison, "")),
            None => open.push(undecided(summary, comparison)),
        }
    }
    let mut parts: Vec<String> = led
        .iter()
        .map(|(winner, texts)| format!("{} leads in {}", title(summary, winner), list(texts)))
        .collect();
    if !open.is_empty() {
        parts.push(format!("there is no lead in {}", list(&open)));
    }
    let place = place(cell);
    format!("{}: {place} {}.", lead(summary, &led), parts.join("; "))
}

/// What a long window did to the subjects, in a run that compared nothing.
fn endurance(summary: &Summary) -> Option<String> {
    let cell = cell_of(summary, "soak")?;
    let growth = cell.comparison(Metric::PssSlope)?;
    let values = growth.rows.iter().filter_map(|(subject, row)| {
        let value = figure(growth.metric, row.median?);
        Some(format!("{value} ({})", title(summary, subject)))
    });
    let failed = summary.validity.failed_gates.iter();
    let of_operations = |(gate, _): &(&String, _)| OF_OPERATIONS.iter().any(|it| gate.contains(it));
    let failed: Vec<String> = failed
        .filter(of_operations)
        .map(|(gate, launches)| format!("{gate} in {}", format::launches(*launches)))
        .collect();
    let failures = match failed.is_empty() {
        true => "no operation failed or timed out, and no message was lost".to_owned(),
        false => list(&failed),
    };
    let (place, minutes) = (place(cell), cell.facts.window_s / 60.0);
    Some(format!(
        "Soak: {place} PSS grew in {minutes:.0} min at a rate of {}; {failures}.",
        list(&values.collect::<Vec<_>>())
    ))
}

/// The recommendation is fixed by rule: leads in at least two of the headline figures, and
/// nobody else leads in any.
fn lead(summary: &Summary, led: &BTreeMap<&str, Vec<String>>) -> String {
    match led.iter().collect::<Vec<_>>()[..] {
        [(only, counts)] if counts.len() >= 2 => format!("Choose {}", title(summary, only)),
        [] | [_] => "Undecided".to_owned(),
        _ => "No model leads on every count".to_owned(),
    }
}

/// CPU, response times and memory; of the response quantiles the highest with figures.
fn headline(cell: &CellSummary) -> Vec<&Comparison> {
    let ranked = |metric| {
        cell.comparison(metric)
            .filter(|c| c.verdict != Verdict::NoData)
    };
    let first = |metrics: [Metric; 3]| metrics.into_iter().find_map(ranked);
    [
        ranked(Metric::CpuPerOperation),
        first([Metric::RestP99, Metric::RestP95, Metric::RestP50]),
        first([Metric::AmqpP99, Metric::AmqpP95, Metric::AmqpP50]),
        ranked(Metric::Pss),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn undecided(summary: &Summary, comparison: &Comparison) -> String {
    let why = match &comparison.verdict {
        // With all of them there is nothing to be added.
        Verdict::NoDifference { subjects } if subjects.len() < comparison.rows.len() => {
            let names: Vec<&str> = subjects.iter().map(|s| title(summary, s)).collect();
            format!("; {} not told apart", list(&names))
        }
        Verdict::Equivalent { .. } => format!("; {}", format::equal()),
        _ => String::new(),
    };
    with_values(summary, comparison, &why)
}

fn with_values(summary: &Summary, comparison: &Comparison, why: &str) -> String {
    let values: Vec<String> = comparison
        .ranking()
        .into_iter()
        .filter_map(|subject| {
            let median = comparison.rows[subject].median?;
            Some(format!(
                "{} {}",
                title(summary, subject),
                figure(comparison.metric, median)
            ))
        })
        .collect();
    format!("{} ({}{why})", comparison.metric.title(), values.join(", "))
}

fn place(cell: &CellSummary) -> String {
    format!("in {} {}", cell.facts.cell, load_and_layout(cell))
}

fn load_and_layout(cell: &CellSummary) -> String {
    let facts = &cell.facts;
    format!("({}, {} layout)", load(facts), facts.layout.as_str())
}

fn at_low_load(summary: &Summary) -> String {
    let Some(cell) = cell_of(summary, "low-load") else {
        return "About low load this run says nothing, because it has no such cell.".to_owned();
    };
    let chosen = [
        Metric::CpuPerOperation,
        Metric::RestP50,
        Metric::AmqpP50,
        Metric::Pss,
    ];
    let comparisons: Vec<&Comparison> = chosen
        .into_iter()
        .filter_map(|m| cell.comparison(m))
        .collect();
    let all = |say: &dyn Fn(&Comparison) -> Option<String>| -> Vec<String> {
        comparisons.iter().filter_map(|c| say(c)).collect()
    };
    let mut parts = all(&|c| spread(summary, c));
    let untold = all(&|c| no_difference(summary, c));
    if !untold.is_empty() {
        parts.push(format!("no difference is shown in {}", list(&untold)));
    }
    parts.extend(all(&pooled));
    let silent = all(&too_few);
    if !silent.is_empty() {
        parts.push(format!(
            "for {} there are too few operations",
            list(&silent)
        ));
    }
    let place = load_and_layout(cell);
    if parts.is_empty() {
        return format!("At low load {place} no launch is valid.");
    }
    format!("At low load {place} {}.", parts.join("; "))
}

/// Best against worst, if their ratio is decided.
fn spread(summary: &Summary, comparison: &Comparison) -> Option<String> {
    let ranked = comparison.ranking();
    let (best, worst) = (*ranked.first()?, *ranked.last()?);
    let ratio = comparison
        .ratio(worst, best)
        .filter(|r| comparison.tells_apart(*r))?;
    // A rate's worst is the lowest: turned over, so that the factor is above 1.
    let ratio = match comparison.metric.better() {
        Better::Higher => ratio.inverse(),
        _ => ratio,
    };
    let value = |subject: &str| {
        let median = comparison.rows[subject]
            .median
            .expect("ranked subjects have a median");
        format!(
            "{} {}",
            title(summary, subject),
            figure(comparison.metric, median)
        )
    };
    Some(format!(
        "{} differs by a factor of {} between {} and {}",
        comparison.metric.title(),
        format::ratio(ratio),
        value(best),
        value(worst)
    ))
}

/// The extremes, if there are figures to compare whose ratio is not decided.
fn no_difference(summary: &Summary, comparison: &Comparison) -> Option<String> {
    if comparison.verdict == Verdict::NoData || spread(summary, comparison).is_some() {
        return None;
    }
    let range = range(
        comparison,
        comparison.rows.values().filter_map(|r| r.median),
    )?;
    Some(format!("{} ({range})", comparison.metric.title()))
}

/// The extremes of the pooled figures, where single launches have too few operations.
fn pooled(comparison: &Comparison) -> Option<String> {
    let range = range(
        comparison,
        comparison.rows.values().filter_map(|r| r.pooled),
    )?;
    let title = comparison.metric.title();
    Some(format!(
        "{title} is {range} (pooled over blocks, not ranked)"
    ))
}

fn too_few(comparison: &Comparison) -> Option<String> {
    let rows = || comparison.rows.values();
    let silent = rows().all(|r| r.median.is_none() && r.pooled.is_none());
    (silent && rows().any(|r| r.too_few.is_some())).then(|| comparison.metric.title().to_owned())
}

fn range(comparison: &Comparison, values: impl Iterator<Item = f64>) -> Option<String> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let (low, high) = (*values.first()?, *values.last()?);
    let low = format::bare(comparison.metric, low);
    Some(format!("{low} to {}", figure(comparison.metric, high)))
}

fn trust(summary: &Summary) -> String {
    let validity = &summary.validity;
    let mut parts = Vec::new();
    if !validity.is_search_only() {
        parts.push(format!(
            "{} of {} valid ({} disturbed by the host, {} invalid{})",
            validity.valid,
            format::launches(validity.made),
            validity.disturbed,
            validity.invalid,
            failures(summary)
        ));
    }
    if validity.interrupted {
        parts.push("the run was interrupted".to_owned());
    }
    if validity.made < validity.planned {
        parts.push(format!("{} planned", validity.planned));
    }
    if validity.probes > 0 {
        parts.push(format!(
            "{} probes of the search are judged apart",
            validity.probes
        ));
    }
    let blocks = blocks(summary);
    if blocks < BLOCKS_TO_TRUST && !validity.is_search_only() {
        parts.push(format!(
            "{blocks} blocks are few, so that only large differences can show"
        ));
    }
    format!("Trust: {}; {}.", parts.join("; "), limits(summary))
}

fn failures(summary: &Summary) -> String {
    let failed = &summary.validity.failed_gates;
    if failed.is_empty() {
        return "; every gate held".to_owned();
    }
    let texts: Vec<String> = failed
        .iter()
        .map(|(gate, n)| format!("{gate} {n} ×"))
        .collect();
    format!("; failed: {}", texts.join(", "))
}

fn blocks(summary: &Summary) -> usize {
    let launches = summary.launches.iter().filter(|l| !l.probe);
    let mut blocks: Vec<u32> = launches.map(|l| l.block).collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks.len()
}

fn limits(summary: &Summary) -> String {
    let searched = summary.capacity.iter().map(|it| it.facts.layout);
    let cells = summary.cells.iter().map(|c| c.facts.layout);
    let mut layouts: Vec<_> = cells.chain(searched).collect();
    layouts.sort_unstable();
    layouts.dedup();
    let names: Vec<&str> = layouts.into_iter().map(Layout::as_str).collect();
    format!(
        "the figures hold for this machine ({}, {} cores, idle ones {}) and the {} layout, winners are adjusted for all comparisons of their cell (Holm), and nothing is said about simplicity",
        summary.host.cpu_model,
        summary.host.cores,
        summary.host.idle_cores(),
        list(&names)
    )
}

fn cell_of<'a>(summary: &'a Summary, scenario: &str) -> Option<&'a CellSummary> {
    summary.cells.iter().find(|c| c.facts.scenario == scenario)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyse::{RunData, analyse, synthetic};
    use crate::record::Kind;

    fn answer_of(change: impl FnOnce(&mut RunData)) -> [String; 3] {
        let mut run = synthetic::run(3);
        change(&mut run);
        answer(&analyse(&run))
    }

    /// A run of half an hour in the cell of both protocols, and in no other.
    fn soak(run: &mut RunData) {
        let is_both = |cell: &str| cell == "steady-mixed";
        run.launches.retain(|data| is_both(&data.launch.cell));
        run.manifest.cells.retain(|cell| is_both(&cell.cell));
        let cell = &mut run.manifest.cells[0];
        (cell.cell, cell.scenario, cell.window_s) = ("soak".into(), "soak".into(), 1_800.0);
        for data in &mut run.launches {
            data.launch.cell = "soak".into();
            let last = data.samples.len() as f64 - 1.0;
            for (place, sample) in data.samples.iter_mut().enumerate() {
                sample.t_ms = 1_800_000.0 * place as f64 / last;
                sample.pss_bytes = 5_000_000 + (524_288.0 * place as f64 / last) as u64;
            }
        }
    }

    #[test]
    fn a_soak_tells_growth_and_failures() {
        let [first, ..] = answer_of(soak);
        assert!(
            first.starts_with("Soak: in soak (250 REST + 250 AMQP operations per second, ")
                && first.contains("PSS grew in 30 min at a rate of 1.00 MiB/h (asynchronous), ")
                && first.ends_with("; no operation failed or timed out, and no message was lost."),
            "{first}"
        );
        let [first, ..] = answer_of(|run| {
            soak(run);
            let rest = run.launches[0].launch.operations.get_mut(&Kind::Rest);
            rest.expect("REST load").timed_out = 1;
        });
        assert!(first.ends_with("; REST timed out in 1 launch."), "{first}");
    }

    #[test]
    fn a_clear_run_names_a_model_with_figures() {
        let [which, low, trust] = answer_of(|_| ());
        assert_eq!(
            which,
            "Choose asynchronous: in steady-mixed (250 REST + 250 AMQP operations per second, \
             isolated layout) asynchronous leads in CPU per operation (asynchronous 40.9 µs, \
             multi-thread 58.8 µs, multi-process 88.3 µs) and PSS (asynchronous 4.09 MiB, \
             multi-thread 4.29 MiB, multi-process 7.63 MiB); there is no lead in REST response p99 \
             (asynchronous 0.400 ms, multi-thread 0.402 ms, multi-process 0.581 ms; asynchronous and \
             multi-thread not told apart) and AMQP response p99 (asynchronous 2.40 ms, multi-thread \
             2.40 ms, multi-process 2.59 ms)."
        );
        assert_eq!(
            low,
            "At low load (5 REST + 5 AMQP operations per second, isolated layout) CPU per operation \
             differs by a factor of 2.15 (2.09–2.21) between asynchronous 40.9 µs and multi-process \
             87.9 µs; REST response p50 differs by a factor of 1.44 (1.40–1.49) between asynchronous \
             0.179 ms and multi-process 0.259 ms; PSS differs by a factor of 1.85 (1.80–1.91) between \
             asynchronous 4.09 MiB and multi-process 7.59 MiB; no difference is shown in AMQP response \
             p50 (1.08 to 1.16 ms)."
        );
        assert_eq!(
            trust,
            "Trust: 72 of 72 launches valid (0 disturbed by the host, 0 invalid; every gate held); 3 \
             blocks are few, so that only large differences can show; the figures hold for this \
             machine (Made-up CPU, 2 cores, idle ones kept awake) and the isolated layout, winners are adjusted for all \
             comparisons of their cell (Holm), and nothing is said about simplicity."
        );
    }

    #[test]
    fn a_run_of_invalid_launches_recommends_nothing() {
        let [which, low, trust] = answer_of(|run| {
            for data in &mut run.launches {
                data.launch.faults = vec!["broker went away".into()];
            }
        });
        assert_eq!(
            which,
            "Undecided: steady-mixed has no two subjects with valid figures."
        );
        assert!(low.ends_with("no launch is valid."), "{low}");
        assert!(
            trust.contains(
                "0 of 72 launches valid (0 disturbed by the host, 72 invalid; failed: faults 72 ×)"
            ),
            "{trust}"
        );
    }

    #[test]
    fn a_model_without_valid_launches_keeps_the_others_from_winning() {
        let [which, ..] = answer_of(|run| {
            let launches = run.launches.iter_mut();
            for data in launches.filter(|l| l.launch.subject == "multi-process") {
                data.launch.faults = vec!["did not become ready".into()];
            }
        });
        assert!(which.starts_with("Undecided: "), "{which}");
    }

    #[test]
    fn an_interrupted_run_says_so() {
        let [.., trust] = answer_of(|run| {
            run.launches.truncate(30);
            run.manifest.interrupted = true;
        });
        assert!(trust.contains("30 of 30 launches valid"), "{trust}");
        assert!(
            trust.contains("the run was interrupted; 72 planned; 2 blocks are few"),
            "{trust}"
        );
    }
}
