//! The report of an examination: what the instrument can and cannot tell on this machine.

use super::document::{Banner, Block, Cell, Document, Table, Tone};
use super::format::number;
use super::plot::calibration as plot;
use super::{html, markdown, resolution};
use crate::analyse::gates::MOST_OF_CEILING;
use crate::calibrate::{Calibration, Ceiling, Examination, Figure, Lateness, Step};

/// A generator later than this is no witness.
const SEND_LAG_LIMIT_NS: f64 = 100_000.0;
/// A rate was held if this share of it was answered.
const HELD_RATIO: f64 = 0.999;

/// Everything as JSON.
pub fn json(examination: &Examination) -> String {
    let mut text = serde_json::to_string_pretty(examination).expect("plain data serialises");
    text.push('\n');
    text
}

/// A page.
pub fn page(examination: &Examination) -> String {
    html::page(&document(examination), &[])
}

/// Markdown, for a terminal.
pub fn text(examination: &Examination) -> String {
    markdown::text(
        &document(examination),
        "Response times from the intended send, over loopback.",
    )
}

fn document(it: &Examination) -> Document {
    Document {
        title: "examination of this machine".to_owned(),
        answer: [calibrated(it), fast(it), limits(it)],
        validity: banner(it),
        blocks: blocks(it),
    }
}

fn blocks(it: &Examination) -> Vec<Block> {
    let mut blocks = vec![
        Block::Section("Known truth".into()),
        Block::Text(KNOWN_TRUTH.to_owned()),
        Block::Table(calibrations(&it.calibrations)),
        Block::Figures(it.calibrations.iter().filter_map(plot::trial).collect()),
        Block::Section("The generator".into()),
        Block::Text(GENERATOR.to_owned()),
        Block::Table(steps(&it.steps)),
        Block::Part("Ceiling in a closed loop".into()),
        Block::Table(ceilings(&it.ceilings)),
        Block::Figures(plot::ceilings(&it.ceilings).into_iter().collect()),
        Block::Section("The machine".into()),
        Block::Table(machine(it)),
        Block::Part("How late a thread is woken".into()),
        Block::Table(timers(&it.timers)),
        Block::Figures(plot::lateness(&it.timers).into_iter().collect()),
    ];
    blocks.extend(told_apart(it));
    blocks
}

/// How to read the trials.
const KNOWN_TRUTH: &str = "The generator was sent against a server that takes exactly as long as it was told to. \
Expected is what a faultless instrument would measure of the very same requests, as they came to the server (Lindley's recursion); \
a difference of 50 µs and 3 % is allowed, which is what the transport and the wake-up of the generator take, and of 5 % beside \
the formula of the stall. The blind p99 is what a client would tell that counts from the actual send: \
the requests that a stalled server kept it from sending are missing in it (coordinated omission).";
/// How to read the steps.
const GENERATOR: &str = "Open loop over 64 connections against a server that answers at once, generator and server \
on a core each. Polling is the CPU that the generator spends from its wake-up until a send is due, some 30 µs at the most, so that it is punctual; \
the send lag is its own lateness.";

fn banner(it: &Examination) -> Banner {
    let held = it.calibrations.iter().filter(|it| it.holds()).count();
    let made = it.calibrations.len();
    let disturbed = it
        .calibrations
        .iter()
        .filter(|it| it.is_disturbed())
        .count();
    let mut text =
        format!("{held} of {made} trials found the truth, {disturbed} were disturbed by the host");
    if it.interrupted {
        text.push_str("; PARTIAL: the examination was interrupted");
    }
    if let Some(disturbance) = &it.disturbance {
        text.push_str(&format!("; {disturbance}"));
    }
    Banner {
        complete: it.holds() && it.disturbance.is_none(),
        text,
    }
}

fn figures<'a>(it: &'a Examination) -> impl Iterator<Item = (&'a Calibration, &'a Figure)> {
    let of = |trial: &'a Calibration| trial.figures.iter().map(move |figure| (trial, figure));
    it.calibrations.iter().flat_map(of)
}

fn calibrated(it: &Examination) -> String {
    let worst = figures(it).max_by(|(_, a), (_, b)| excess(a).total_cmp(&excess(b)));
    let Some((trial, figure)) = worst else {
        return "Nothing is known of how right the instrument is: no trial was made.".to_owned();
    };
    let verdict = if it.holds() {
        "The instrument finds the truth where it is known"
    } else {
        "The instrument does NOT find the truth everywhere, so its response times cannot be trusted here"
    };
    format!(
        "{verdict}: the error that comes closest to its limit is {} µs of {} µs ({} of {}).",
        number(figure.error_ns() / 1e3),
        number(figure.expected_ns / 1e3),
        figure.name,
        trial.name,
    )
}

/// The error as a share of what is allowed.
fn excess(figure: &Figure) -> f64 {
    figure.error_ns().abs() / figure.allowed_ns
}

fn fast(it: &Examination) -> String {
    let lowest = it.ceilings.iter().map(|it| it.rate_per_s);
    let Some(lowest) = lowest.reduce(f64::min) else {
        return "Its ceiling was not measured.".to_owned();
    };
    format!(
        "It reaches {} requests per second in the slowest layout, so a rate of up to {} may be asked of a subject.",
        number(lowest),
        number(lowest * MOST_OF_CEILING)
    )
}

/// What can and what cannot be told apart.
fn limits(it: &Examination) -> String {
    let unresolved = it.unresolved.as_deref().unwrap_or("it was not measured");
    let told_apart = match &it.resolution {
        Some(resolution) => resolution::limits(resolution),
        None => format!("What a comparison can tell apart here is not known: {unresolved}."),
    };
    format!("{told_apart} {}", punctual(it))
}

/// What a comparison can tell apart, figure by figure.
fn told_apart(it: &Examination) -> Vec<Block> {
    let mut blocks = vec![
        Block::Section("What can be told apart".into()),
        Block::Text(limits(it)),
    ];
    if let Some(found) = &it.resolution {
        blocks.push(Block::Text(resolution::explanation(found)));
        blocks.push(Block::Table(resolution::floors(found)));
    }
    blocks
}

/// Longest response time whose error is told as such, in ns: that of the stall is a share of it.
const LONGEST_TOLD_NS: f64 = 50e6;

fn punctual(it: &Examination) -> String {
    let punctual = it.steps.iter().filter(|it| is_held(it) && is_punctual(it));
    let error_ns = figures(it)
        .filter(|(_, figure)| figure.expected_ns <= LONGEST_TOLD_NS)
        .map(|(_, figure)| figure.error_ns().abs())
        .reduce(f64::max);
    let (Some(rate), Some(error_ns)) =
        (punctual.map(|it| it.rate_per_s).reduce(f64::max), error_ns)
    else {
        return "At no rate were its sends punctual: on this machine, as noisy as it was now, it can tell nothing \
                of response times."
            .to_owned();
    };
    format!(
        "Its sends are punctual (p99 of the lag at most 100 µs) up to {} per second; response times up to 50 ms that differ by less \
         than {} µs cannot be told apart here, whatever their number.",
        number(rate),
        number(error_ns / 1e3)
    )
}

fn is_held(step: &Step) -> bool {
    step.achieved_ratio >= HELD_RATIO
}

fn is_punctual(step: &Step) -> bool {
    step.send_lag_p99_ns <= SEND_LAG_LIMIT_NS
}

fn microseconds(ns: f64) -> Cell {
    Cell::new(number(ns / 1e3))
}

fn toned(is_good: bool, text: String) -> Cell {
    Cell {
        tone: if is_good { Tone::Plain } else { Tone::Bad },
        ..Cell::new(text)
    }
}

fn head(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| (*column).to_owned()).collect()
}

fn calibrations(calibrations: &[Calibration]) -> Table {
    let rows = calibrations.iter().flat_map(|trial| {
        trial
            .figures
            .iter()
            .enumerate()
            .map(move |(place, figure)| {
                let first = |text: String| if place == 0 { text } else { String::new() };
                let blind = trial.blind_p99_ns.filter(|_| figure.name == "p99");
                let theory = trial.theory_mean_ns.filter(|_| figure.name == "mean");
                vec![
                    Cell {
                        small: first(trial.truth.clone()),
                        ..Cell::new(first(trial.name.clone()))
                    },
                    Cell::new(&figure.name),
                    Cell {
                        small: theory
                            .map_or(String::new(), |ns| format!("theory {}", number(ns / 1e3))),
                        ..microseconds(figure.expected_ns)
                    },
                    microseconds(figure.observed_ns),
                    toned(
                        figure.holds(),
                        format!(
                            "{} of ±{}",
                            number(figure.error_ns() / 1e3),
                            number(figure.allowed_ns / 1e3)
                        ),
                    ),
                    blind.map_or_else(Cell::default, microseconds),
                    toned(trial.faults.is_empty(), first(remarks(trial))),
                ]
            })
    });
    Table {
        head: head(&[
            "Trial",
            "Figure",
            "Expected, µs",
            "Observed, µs",
            "Error, µs",
            "Blind p99, µs",
            "Remarks",
        ]),
        rows: rows.collect(),
    }
}

fn remarks(trial: &Calibration) -> String {
    let disturbed = trial
        .is_disturbed()
        .then(|| "disturbed by the host".to_owned());
    let remarks: Vec<String> = trial.faults.iter().cloned().chain(disturbed).collect();
    remarks.join("; ")
}

fn steps(steps: &[Step]) -> Table {
    let rows = steps.iter().map(|step| {
        vec![
            Cell::new(number(step.rate_per_s)),
            toned(is_held(step), format!("{:.4}", step.achieved_ratio)),
            microseconds(step.cpu_ns),
            microseconds(step.polling_ns),
            toned(is_punctual(step), number(step.send_lag_p99_ns / 1e3)),
            microseconds(step.response_p50_ns),
            microseconds(step.response_p99_ns),
        ]
    });
    Table {
        head: head(&[
            "Asked, 1/s",
            "Achieved/asked",
            "CPU, µs/op",
            "Polling, µs/op",
            "Send lag p99, µs",
            "Response p50, µs",
            "Response p99, µs",
        ]),
        rows: rows.collect(),
    }
}

fn ceilings(ceilings: &[Ceiling]) -> Table {
    let rows = ceilings.iter().map(|it| {
        vec![
            Cell::new(it.layout.as_str()),
            Cell::new(it.connections.to_string()),
            Cell::new(number(it.rate_per_s)),
            Cell::new(format!("{:.0} %", it.busy_ratio * 100.0)),
            toned(it.failed == 0, it.failed.to_string()),
        ]
    });
    Table {
        head: head(&[
            "Layout",
            "Connections",
            "Requests/s",
            "Generator busy",
            "Failed",
        ]),
        rows: rows.collect(),
    }
}

fn machine(it: &Examination) -> Table {
    let row = |name: &str, value: String| vec![Cell::new(name), Cell::new(value)];
    let host = &it.host;
    Table {
        head: head(&["What", "Value"]),
        rows: vec![
            row("CPU", format!("{}, {} cores", host.cpu_model, host.cores)),
            row("kernel", host.kernel.clone()),
            row("idle cores", host.idle_cores().to_owned()),
            row("memory", format!("{} MiB", host.memory_bytes >> 20)),
            row("open files at the most", host.open_files_limit.to_string()),
            row(
                "steal while idle",
                format!("{:.2} %", it.noise.steal_ratio * 100.0),
            ),
            row(
                "CPU of others while idle",
                format!("{:.2} % of a core", it.noise.foreign_cores * 100.0),
            ),
        ],
    }
}

fn timers(timers: &[Lateness]) -> Table {
    let rows = timers.iter().map(|it| {
        vec![
            Cell::new(&it.way),
            microseconds(it.p50_ns),
            microseconds(it.p99_ns),
            microseconds(it.max_ns),
            microseconds(it.cpu_ns),
        ]
    });
    Table {
        head: head(&[
            "Way of waiting",
            "p50, µs",
            "p99, µs",
            "max, µs",
            "CPU each, µs",
        ]),
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests;
