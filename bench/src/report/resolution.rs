//! The report of a run that asks what can be told apart.

use super::document::{Banner, Block, Cell, Document, Table, Tone};
use super::format::{equal, list, number, ratio, setting};
use super::{html, markdown, tables};
use crate::analyse::metric::Metric;
use crate::analyse::resolution::{
    Floor, LEAST_FOUND, MOST_FALSE_POSITIVES, MOST_SAMPLER, PLANTED_SLACK, Question, Resolution,
    SET, SPLITS, Spread, Target, most_floor,
};
use crate::analyse::statistics::SMALLEST_EFFECT;
use crate::analyse::{RunData, Summary};
use crate::record::Manifest;

/// What is said of a run that has nothing to say.
const NOTHING: &str =
    "Nothing can be said of what can be told apart: no block has a valid launch under both names.";

/// Every file of the report with its text.
pub fn files(
    run: &RunData,
    summary: &Summary,
    resolution: &Resolution,
) -> [(&'static str, String); 3] {
    let document = document(run, summary, resolution);
    let numbers = "The numbers stand in [resolution.json](resolution.json).";
    let mut json = serde_json::to_string_pretty(resolution).expect("plain data serialises");
    json.push('\n');
    [
        ("resolution.json", json),
        ("report.md", markdown::text(&document, numbers)),
        ("report.html", html::page(&document, &FILES)),
    ]
}

/// What lies beside the page.
const FILES: [(&str, &str); 4] = [
    ("resolution.json", "resolution.json"),
    ("summary.json", "summary.json"),
    ("manifest.json", "manifest.json"),
    ("launches/", "raw data"),
];

/// The answer and the table of targets, for a terminal.
pub fn text(resolution: Option<&Resolution>) -> String {
    let Some(resolution) = resolution else {
        return format!("{NOTHING}\n");
    };
    let mut text = answer(resolution).join("\n");
    for target in resolution.targets() {
        let (name, value, limit) = words(resolution, target.question);
        let held = held(resolution, target);
        text += &format!("\n  {held:<6} {name}: {value} (target: {limit})");
    }
    text + "\n"
}

fn held(it: &Resolution, target: Target) -> String {
    match target.held {
        true => "held".to_owned(),
        false if it.set < SET => format!("MISSED: {} good blocks", it.set),
        false => "MISSED".to_owned(),
    }
}

fn document(run: &RunData, summary: &Summary, it: &Resolution) -> Document {
    let missed = it.targets().iter().filter(|target| !target.held).count();
    let validity = &summary.validity;
    let mut text = format!(
        "{missed} of {} targets missed; {} of {} launches valid, {} disturbed, {} invalid",
        it.targets().len(),
        validity.valid,
        validity.made,
        validity.disturbed,
        validity.invalid
    );
    if validity.interrupted {
        text.push_str("; PARTIAL: the run was interrupted");
    }
    Document {
        title: summary.run_id.clone(),
        answer: answer(it),
        validity: Banner {
            complete: missed == 0 && !validity.interrupted,
            text,
        },
        blocks: blocks(run, summary, it),
    }
}

fn blocks(run: &RunData, summary: &Summary, it: &Resolution) -> Vec<Block> {
    let launches = vec![Block::Table(tables::launches(run, summary))];
    vec![
        Block::Section("Targets".into()),
        Block::Table(targets(it)),
        Block::Section("What can be told apart".into()),
        Block::Text(explanation(it)),
        Block::Table(floors(it)),
        Block::Section("Planted slow-down".into()),
        Block::Text(planting(&run.manifest, it)),
        Block::Section("The sampler".into()),
        Block::Text(SAMPLER.into()),
        Block::Table(unsampled(it)),
        Block::Section("Validity".into()),
        Block::Table(tables::gates(summary)),
        Block::Folded(
            "Launches in the order in which they were made".into(),
            launches,
        ),
        Block::Section("What was measured, and where".into()),
        Block::Table(tables::manifest(&run.manifest)),
    ]
}

/// How to read the sampler's table.
const SAMPLER: &str = "The same subject was launched with the sampler at rest between the edges of the window, \
where it must look to know the CPU. A ratio below 1 would mean that the sampler costs the subject something; \
the target also wants CPU per operation to be shown equal within 5 %, since a wide interval proves nothing. PSS has no row: two samples are not the median of many.";

/// How to read the noise of every figure.
pub(super) fn explanation(it: &Resolution) -> String {
    let coarse = if it.coarse {
        " In so short a window fewer than 100 operations lie beyond the p99, so that a report would withhold it; \
         longer windows have narrower intervals."
    } else {
        ""
    };
    format!(
        "The subject was launched under two names in {} good blocks, with windows of {} s, and compared with itself by the \
         procedure of a comparison, over {} blocks at a time. The smallest difference that can be seen is the farther end \
         of the interval of a ratio that is known to be 1, and never less than {} %. With names swapped at random in each \
         block only the noise is judged; with the names as launched it would also show if the second name were treated \
         differently. The comparisons share launches, so they are not independent of each other: only {} of them could be.{coarse}",
        it.blocks,
        setting(it.window_s),
        it.set,
        setting(SMALLEST_EFFECT * 100.0),
        it.blocks / SET,
    )
}

fn planting(manifest: &Manifest, it: &Resolution) -> String {
    let (Some(planted), Some(facts)) = (&it.planted, &manifest.resolution) else {
        return "None was launched.".into();
    };
    format!(
        "The slowed one is the same service behind a process of the instrument that burns {} µs of CPU per second beside it, \
         in slices every 10 ms, within the process tree that is measured and on the same cores. That is {} % of what the \
         calibrating launch used. Measured over all blocks the ratio is {}. The process of the instrument shows in the PSS of \
         the slowed one, which is therefore not compared. Of the {} draws of {SET} blocks {} share no launch with another \
         one; the rest are subsets drawn by the seed.",
        number(facts.handicap_us_per_s),
        setting((planted.asked_ratio - 1.0) * 100.0),
        planted.measured.map_or_else(none, ratio),
        planted.found.of,
        planted.disjoint,
    )
}

/// What can be seen, what was found, and what the sampler does.
fn answer(it: &Resolution) -> [String; 3] {
    let missed: Vec<String> = it
        .targets()
        .into_iter()
        .filter(|target| !target.held)
        .map(|target| words(it, target.question).0)
        .collect();
    let verdict = if missed.is_empty() {
        "Every target is held: the instrument resolves here what a comparison needs".to_owned()
    } else {
        format!("Missed here: {}", list(&missed))
    };
    [format!("{verdict}."), limits(it), found(it)]
}

/// What cannot be seen on this machine.
pub(super) fn limits(it: &Resolution) -> String {
    let limit = |metric| {
        let floor = it.floor(metric)?;
        let percent = percent(smallest(floor));
        Some(format!("{percent} in {}", metric.title()))
    };
    let limits: Vec<String> = [
        Metric::CpuPerOperation,
        Metric::RestP50,
        Metric::RestP99,
        Metric::AmqpP50,
        Metric::AmqpP99,
        Metric::Pss,
    ]
    .into_iter()
    .filter_map(limit)
    .collect();
    if limits.is_empty() {
        return NOTHING.to_owned();
    }
    format!(
        "What cannot be seen here: over {} blocks with windows of {} s, differences under {}.",
        it.set,
        setting(it.window_s),
        list(&limits)
    )
}

/// Smallest difference that a comparison would tell, as a share.
fn smallest(floor: &Floor) -> f64 {
    floor.reach.median.max(SMALLEST_EFFECT)
}

fn found(it: &Resolution) -> String {
    let rate = it.false_positives();
    let equal = format!(
        "Of {} comparisons of the subject with itself {} found a difference",
        rate.of, rate.found
    );
    match &it.planted {
        Some(planted) => format!(
            "{equal}; a slow-down of {} % was found in {} of {} comparisons.",
            setting((planted.asked_ratio - 1.0) * 100.0),
            planted.found.found,
            planted.found.of
        ),
        None => format!("{equal}."),
    }
}

fn targets(it: &Resolution) -> Table {
    let row = |target: Target| {
        let (name, value, limit) = words(it, target.question);
        let tone = if target.held { Tone::Plain } else { Tone::Bad };
        vec![
            Cell::new(name),
            Cell::new(value),
            Cell::new(limit),
            Cell {
                tone,
                ..Cell::new(held(it, target))
            },
        ]
    };
    Table {
        head: head(&["Figure", "Value", "Target", ""]),
        rows: it.targets().into_iter().map(row).collect(),
    }
}

fn head(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| (*column).to_owned()).collect()
}

/// Name, value and target of a question.
fn words(it: &Resolution, question: Question) -> (String, String, String) {
    let (name, value, limit) = match question {
        Question::FalsePositives => (
            "equal subjects told apart".to_owned(),
            false_positives(it),
            format!("≤ {}", percent(MOST_FALSE_POSITIVES)),
        ),
        Question::Bias => (
            "figures in which the second name is treated differently".to_owned(),
            biased(it),
            "none".to_owned(),
        ),
        Question::Floor(metric) => (
            format!("half-width of the interval of {}", metric.title()),
            it.floor(metric)
                .map_or_else(none, |floor| spread(floor.half_width)),
            format!("≤ {} over {SET} blocks", percent(most_floor(metric))),
        ),
        Question::PlantedRatio => (
            "planted slow-down as measured".to_owned(),
            it.planted
                .as_ref()
                .and_then(|it| it.measured)
                .map_or_else(none, ratio),
            it.planted.as_ref().map_or_else(none, |it| {
                format!("{} ± {PLANTED_SLACK}", number(it.asked_ratio))
            }),
        ),
        Question::PlantedFound => (
            "planted slow-down found".to_owned(),
            it.planted.as_ref().map_or_else(none, |it| {
                format!(
                    "{} of {}, {} disjoint",
                    it.found.found, it.found.of, it.disjoint
                )
            }),
            format!("≥ {}", percent(LEAST_FOUND)),
        ),
        Question::SamplerSways => (
            "figures that the sampler sways".to_owned(),
            it.unsampled
                .as_ref()
                .map_or_else(none, |it| names(&it.swayed)),
            format!("none, and CPU {}", equal()),
        ),
        Question::SamplerCost => (
            "CPU of the sampler".to_owned(),
            it.sampler.map_or_else(none, spread),
            format!("≤ {} of a core", percent(MOST_SAMPLER)),
        ),
    };
    (name, value, limit)
}

fn none() -> String {
    "–".to_owned()
}

fn names(metrics: &[Metric]) -> String {
    let titles: Vec<_> = metrics.iter().map(|it| it.title()).collect();
    if titles.is_empty() {
        "none".to_owned()
    } else {
        list(&titles)
    }
}

fn biased(it: &Resolution) -> String {
    let biased = it.floors.iter().filter(|floor| floor.biased);
    names(&biased.map(|floor| floor.metric).collect::<Vec<_>>())
}

fn false_positives(it: &Resolution) -> String {
    let rate = it.false_positives();
    let worst = it.floors.iter().map(|floor| floor.swapped.found).max();
    format!(
        "{} ({} of {}; at most {} of {SPLITS} in one figure)",
        percent(rate.ratio()),
        rate.found,
        rate.of,
        worst.unwrap_or(0)
    )
}

fn percent(share: f64) -> String {
    format!("{} %", number(share * 100.0))
}

fn spread(spread: Spread) -> String {
    let (low, high) = (number(spread.low * 100.0), number(spread.high * 100.0));
    let median = percent(spread.median);
    if low == high {
        median
    } else {
        format!("{median} ({low}–{high})")
    }
}

/// The noise of every figure.
pub(super) fn floors(it: &Resolution) -> Table {
    let rows = it.floors.iter().map(|floor| {
        vec![
            Cell::new(floor.metric.title()),
            Cell::new(percent(smallest(floor))),
            Cell::new(spread(floor.half_width)),
            Cell::new(format!("{} of {}", floor.swapped.found, floor.swapped.of)),
            Cell {
                tone: if floor.biased { Tone::Bad } else { Tone::Plain },
                ..Cell::new(format!("{} of {}", floor.kept.found, floor.kept.of))
            },
        ]
    });
    Table {
        head: head(&[
            "Figure",
            "Smallest difference that can be seen",
            "Half-width of the interval",
            "Told apart, names swapped",
            "Told apart, names kept",
        ]),
        rows: rows.collect(),
    }
}

fn unsampled(it: &Resolution) -> Table {
    let ratios = it.unsampled.iter().flat_map(|it| &it.ratios);
    let swayed = it.unsampled.iter().flat_map(|it| &it.swayed);
    let swayed: Vec<Metric> = swayed.copied().collect();
    let row = |(metric, estimate): &(Metric, _)| {
        vec![
            Cell::new(metric.title()),
            Cell {
                tone: if swayed.contains(metric) {
                    Tone::Bad
                } else {
                    Tone::Plain
                },
                ..Cell::new(ratio(*estimate))
            },
        ]
    };
    Table {
        head: head(&["Figure", "Without the sampler / with it"]),
        rows: ratios.map(row).collect(),
    }
}

#[cfg(test)]
mod tests;
