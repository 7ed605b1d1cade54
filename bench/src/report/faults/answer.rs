//! The answer of a fault campaign in three sentences.

use std::collections::{BTreeMap, BTreeSet};

use super::{format, groups, seconds, title, tried};
use crate::faults::{self, Repetition};
use crate::record::Manifest;

/// What was lost, who recovered last, and what that is worth.
pub fn answer(manifest: &Manifest, repetitions: &[Repetition]) -> [String; 3] {
    let tried = tried(repetitions);
    [
        lost(manifest, &tried),
        slowest(manifest, &tried),
        worth(manifest, &tried),
    ]
}

fn lost(manifest: &Manifest, tried: &[&Repetition]) -> String {
    let messages = tried
        .iter()
        .map(|it| it.messages.confirmed + it.messages.accepted);
    let messages = format::number(messages.sum::<u64>() as f64);
    let count = tried.len();
    let mut losers: BTreeMap<String, u64> = BTreeMap::new();
    for repetition in tried.iter().filter(|it| it.messages.lost > 0) {
        let subject = title(manifest, &repetition.subject);
        let fault = faults::title(&repetition.fault);
        let place = format!("{subject} under \"{fault}\"");
        *losers.entry(place).or_default() += repetition.messages.lost;
    }
    if losers.is_empty() {
        return format!(
            "Nothing lost: every one of {messages} confirmed messages in {count} repetitions is accounted for."
        );
    }
    let places: Vec<String> = losers
        .iter()
        .map(|(place, lost)| format!("{lost} by {place}"))
        .collect();
    format!(
        "Messages lost: {}, of {messages} confirmed ones in {count} repetitions.",
        places.join("; ")
    )
}

/// The longest recovery of each subject in any repetition.
fn slowest(manifest: &Manifest, tried: &[&Repetition]) -> String {
    let mut parts = Vec::new();
    for subject in &manifest.subjects {
        let own = tried.iter().filter(|it| it.subject == subject.name);
        let slowest = own
            .flat_map(|it| {
                let fault = it.fault.as_str();
                [
                    (it.rest_recovery_s, "REST", fault),
                    (it.amqp_recovery_s, "AMQP", fault),
                ]
            })
            .filter_map(|(recovery_s, kind, fault)| Some((recovery_s?, kind, fault)))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((recovery_s, kind, fault)) = slowest {
            let recovery = seconds(recovery_s);
            let fault = faults::title(fault);
            parts.push(format!("{} {recovery} ({kind}, {fault})", subject.title));
        }
    }
    let unrecovered = tried
        .iter()
        .filter(|it| it.rest_recovery_s.is_none() || it.amqp_recovery_s.is_none());
    let unrecovered = match unrecovered.count() {
        0 => "every repetition recovered".to_owned(),
        1 => "one repetition did not recover at all".to_owned(),
        count => format!("{count} repetitions did not recover at all"),
    };
    format!(
        "Slowest recovery of any repetition: {}; {unrecovered}.",
        parts.join(", ")
    )
}

fn worth(manifest: &Manifest, tried: &[&Repetition]) -> String {
    let counts: BTreeSet<usize> = groups(tried).values().map(Vec::len).collect();
    let (least, most) = (counts.first(), counts.last());
    let each = match (least, most) {
        (Some(least), Some(most)) if least != most => format!("{least} to {most} repetitions"),
        (Some(1), _) => "one repetition".to_owned(),
        (Some(count), _) => format!("{count} repetitions"),
        _ => "no repetition".to_owned(),
    };
    let (rest, amqp) = (faults::REST_RATE_PER_S, faults::AMQP_RATE_PER_S);
    let lanes = match manifest.lanes {
        0 | 1 => String::new(),
        lanes => format!(", {lanes} repetitions at a time on brokers of their own"),
    };
    format!(
        "What it is worth: {each} of each fault and subject under {rest} REST requests and {amqp} events per second, \
         nothing pinned{lanes}; medians without intervals, shown and not ranked."
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{manifest, repetition};
    use super::*;

    #[test]
    fn a_loss_is_the_first_thing_that_is_said() {
        let manifest = manifest();
        let name = manifest.subjects[0].name.clone();
        let [first, second, _] = answer(&manifest, &[repetition(&name, 0)]);
        assert!(
            first.starts_with("Nothing lost: every one of 100"),
            "{first}"
        );
        assert!(second.contains("1.25 s (AMQP"), "{second}");
        let [first, ..] = answer(&manifest, &[repetition(&name, 2)]);
        assert!(first.starts_with("Messages lost: 2 by"), "{first}");
    }
}
