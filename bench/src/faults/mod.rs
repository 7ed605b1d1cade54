//! The fault campaign: what each model loses, and how soon it is back, when something breaks.
//!
//! Under a mixed load at a fixed rate a fault is caused and healed, and every message is accounted
//! for by its sequence number. One fault is one entry of `catalogue`; `repetition` knows the
//! order `prepare → launch → load → cause → hold → heal → recover → drain → account` and nothing
//! about any fault.

mod account;
mod catalogue;
mod cause;
mod journal;
mod load;
mod record;
mod recovery;
mod repetition;
mod stage;

use crate::scenario::DefinitionError;

pub use catalogue::Fault;
pub use load::{AMQP_RATE_PER_S, REST_RATE_PER_S};
pub use record::{Messages, Repetition};
pub use repetition::{Ground, perform};

/// Name of the campaign on the command line, in place of a scenario.
pub const NAME: &str = "faults";
/// File of a run folder with a line for each repetition.
pub const FILE: &str = "faults.jsonl";
/// What the campaign asks.
pub const QUESTION: &str =
    "What is lost, and how soon does each model recover, when something breaks?";

/// The faults of these names, or all if there are none.
///
/// # Errors
/// [`DefinitionError::Unknown`], which lists the known names.
pub fn select(names: &[String]) -> Result<Vec<&'static Fault>, DefinitionError> {
    if names.is_empty() {
        return Ok(catalogue::FAULTS.iter().collect());
    }
    let known: Vec<_> = catalogue::FAULTS.iter().map(|fault| fault.name).collect();
    let find = |name: &String| {
        let found = catalogue::FAULTS.iter().find(|fault| fault.name == name);
        found.ok_or_else(|| DefinitionError::Unknown {
            what: "fault",
            name: name.clone(),
            known: known.join(", "),
        })
    };
    names.iter().map(find).collect()
}

/// The title of a fault by its name; the name itself for one that is not known any more.
#[must_use]
pub fn title(name: &str) -> &str {
    let found = catalogue::FAULTS.iter().find(|fault| fault.name == name);
    found.map_or(name, |fault| fault.title)
}

/// The lines of `faults.jsonl`.
///
/// # Panics
/// Never: plain data serialises.
#[must_use]
pub fn lines(repetitions: &[Repetition]) -> String {
    repetitions
        .iter()
        .map(|repetition| {
            let line = serde_json::to_string(repetition).expect("plain data serialises");
            line + "\n"
        })
        .collect()
}

/// The repetitions of `faults.jsonl`.
///
/// # Errors
/// The first line that is none.
pub fn parse(text: &str) -> Result<Vec<Repetition>, serde_json::Error> {
    text.lines().map(serde_json::from_str).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn faults_are_chosen_by_name() {
        let all = select(&[]).expect("all of them");
        let names: BTreeSet<_> = all.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), all.len(), "each has a name of its own");
        let one = select(&["service-killed".to_owned()]).expect("known");
        assert_eq!(one.len(), 1);
        let error = select(&["meteorite".to_owned()]).expect_err("unknown");
        assert!(error.to_string().contains("service-killed"), "{error}");
    }

    #[test]
    fn a_repetition_survives_its_line() {
        let repetition = Repetition {
            fault: "control".to_owned(),
            rest_recovery_s: Some(0.25),
            ..Repetition::default()
        };
        let text = lines(&[repetition.clone(), repetition.clone()]);
        assert_eq!(
            parse(&text).expect("valid"),
            [repetition.clone(), repetition]
        );
        assert!(parse("{}").is_err());
    }
}
