//! The section on capacities: what was asked, what was found, and every probe.

use std::time::Duration;

use super::document::{Block, Cell, Table, Tone};
use super::format::{self, number, setting, title};
use super::plot::{Figure, Palette, probes};
use crate::analyse::Summary;
use crate::analyse::capacity::{
    Capacity, CapacitySummary, FOLLOWS, Finding, Obstacle, Outcome, Probe, RESOLUTION,
};

/// The section; nothing for a run without a search.
pub fn section(summary: &Summary, palette: &Palette) -> Vec<Block> {
    let Some(found) = &summary.capacity else {
        return Vec::new();
    };
    let figures: Vec<Figure> = probes::figure(palette, found).into_iter().collect();
    vec![
        Block::Section("capacity".into()),
        Block::Text(found.facts.question.clone()),
        Block::Text(asked(found)),
        Block::Table(capacities(summary, found)),
        Block::Figures(figures),
        Block::Folded(
            "Every probe in its order".into(),
            vec![Block::Table(every_probe(summary, found))],
        ),
    ]
}

/// One sentence for the answer; `None` for a run without a search.
pub fn sentence(summary: &Summary) -> Option<String> {
    let found = summary.capacity.as_ref()?;
    let rates = found.subjects.iter().map(|subject| {
        let name = title(summary, &subject.subject);
        format!("{name} {}", rate(subject))
    });
    Some(format!(
        "Capacity: with {} in the {} layout REST answers {}.",
        objective(found),
        found.facts.layout.as_str(),
        format::list(&rates.collect::<Vec<_>>())
    ))
}

/// `p99 ≤ 50 ms`.
fn objective(found: &CapacitySummary) -> String {
    let limit = Duration::from_nanos(found.facts.slo_ns as u64);
    let quantile = setting(found.facts.quantile * 100.0);
    format!("p{quantile} ≤ {} ms", setting(limit.as_secs_f64() * 1e3))
}

/// `4,210/s`, `≥ 9,000/s`, or why there is none.
fn rate(capacity: &Capacity) -> String {
    let value = capacity.rate_per_s.map(number).unwrap_or_default();
    match (capacity.finding, capacity.rate_per_s) {
        (Finding::Found, Some(_)) => format!("{value}/s"),
        (_, Some(_)) => format!("≥ {value}/s"),
        (Finding::NotMeasurable(_), None) => "at an unknown rate".to_owned(),
        (Finding::Unfinished, None) => "at a rate not yet known".to_owned(),
        (_, None) => "too late at every rate".to_owned(),
    }
}

fn asked(found: &CapacitySummary) -> String {
    let facts = &found.facts;
    let layout = facts.layout.as_str();
    let most = number(facts.most_per_s);
    let percent = setting((RESOLUTION - 1.0) * 100.0);
    format!(
        "Capacity is the highest rate with {}, {layout} layout. Each probe is a fresh launch with a window of \
         {} s, longer at low rates; {} more had to hold at the rate that was found, and a rate at most {percent} % \
         above it failed, unless the capacity is but a lower limit (≥). Nothing above {most}/s is asked: that is a third of the generator's ceiling of {}/s.",
        objective(found),
        setting(facts.window_s),
        facts.confirmations,
        number(facts.ceiling_per_s)
    )
}

fn capacities(summary: &Summary, found: &CapacitySummary) -> Table {
    let follows = setting(FOLLOWS * 100.0);
    let head = [
        "Subject".to_owned(),
        "Capacity".to_owned(),
        "Confirmed".to_owned(),
        format!("Saturation: goodput below {follows} %"),
        "Probes".to_owned(),
        "How the search ended".to_owned(),
    ];
    let row = |capacity: &Capacity| {
        vec![
            Cell::new(title(summary, &capacity.subject)),
            Cell::new(match capacity.rate_per_s {
                Some(_) => rate(capacity),
                None => "–".to_owned(),
            }),
            Cell::new(format!(
                "{} of {}",
                capacity.confirmed, found.facts.confirmations
            )),
            saturation(capacity),
            probes_made(capacity),
            Cell::new(ending(capacity)),
        ]
    };
    Table {
        head: head.to_vec(),
        rows: found.subjects.iter().map(row).collect(),
    }
}

fn saturation(capacity: &Capacity) -> Cell {
    let Some(rate) = capacity.saturation_rate_per_s else {
        return Cell::new("not reached");
    };
    Cell {
        small: capacity
            .following_rate_per_s
            .map_or(String::new(), |it| format!("follows at {}/s", number(it))),
        ..Cell::new(format!("{}/s", number(rate)))
    }
}

fn probes_made(capacity: &Capacity) -> Cell {
    let is_void = |probe: &&Probe| matches!(probe.outcome, Outcome::Void(_));
    let void = capacity.probes.iter().filter(is_void).count();
    Cell {
        small: match void {
            0 => String::new(),
            _ => format!("{void} void"),
        },
        ..Cell::new(capacity.probes.len().to_string())
    }
}

fn ending(capacity: &Capacity) -> String {
    match capacity.finding {
        Finding::Found => "a higher rate failed".to_owned(),
        Finding::AtLeast(Obstacle::Generator) => {
            "not measurable above: the generator was late, or may not be asked for more".to_owned()
        }
        Finding::AtLeast(Obstacle::Host) => {
            "not measurable above: the host was noisy whenever it failed".to_owned()
        }
        Finding::Below => "not even the lowest rate holds".to_owned(),
        Finding::NotMeasurable(obstacle) => format!("not measurable: {}", blame(obstacle)),
        Finding::Unfinished => "the run ended before the search".to_owned(),
    }
}

fn blame(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Generator => "the generator",
        Obstacle::Host => "the host",
    }
}

fn every_probe(summary: &Summary, found: &CapacitySummary) -> Table {
    let quantile = setting(found.facts.quantile * 100.0);
    let head = [
        "#".to_owned(),
        "Subject".to_owned(),
        "Offered [/s]".to_owned(),
        format!("REST response p{quantile} [ms]"),
        "Goodput".to_owned(),
        "Outcome".to_owned(),
    ];
    let mut probes: Vec<(&str, &Probe)> = found
        .subjects
        .iter()
        .flat_map(|it| it.probes.iter().map(|probe| (&*it.subject, probe)))
        .collect();
    probes.sort_by_key(|(_, probe)| probe.ordinal);
    let row = |(subject, probe): (&str, &Probe)| {
        let response = probe.quantile_ns.map(|ns| number(ns / 1e6));
        vec![
            Cell::new(probe.ordinal.to_string()),
            Cell::new(title(summary, subject)),
            Cell::new(number(probe.rate_per_s)),
            Cell::new(response.unwrap_or_else(|| "–".to_owned())),
            Cell::new(format!("{} %", setting(probe.goodput_ratio * 100.0))),
            outcome(probe),
        ]
    };
    Table {
        head: head.to_vec(),
        rows: probes.into_iter().map(row).collect(),
    }
}

fn outcome(probe: &Probe) -> Cell {
    let noisy = if probe.disturbed {
        "on a noisy host"
    } else {
        ""
    };
    let (text, tone) = match probe.outcome {
        Outcome::Holds => ("holds".to_owned(), Tone::Plain),
        Outcome::Fails => ("fails".to_owned(), Tone::Bad),
        Outcome::Void(obstacle) => (format!("void: {}", blame(obstacle)), Tone::Plain),
    };
    Cell {
        tone,
        small: noisy.to_owned(),
        ..Cell::new(text)
    }
}
