//! How cases end, and what a subject's declared deviations change about that.

use std::time::Duration;

use super::Class;
use crate::subject::Deviation;

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As the contract says.
    Passed,
    /// Otherwise, and how.
    Failed(String),
    /// Otherwise, as the subject's file declares: how, and why that must be.
    Deviates {
        /// What was seen.
        seen: String,
        /// Library, reason and upstream reference.
        declared: String,
    },
    /// Not tried, and why.
    Skipped(String),
}

/// One case of the suite with its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// The case as a sentence.
    pub name: &'static str,
    /// Whether it may fail.
    pub class: Class,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it took, launch and stop included.
    pub took: Duration,
}

impl CaseResult {
    /// Whether the subject has to be mended, or its file.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self.verdict, Verdict::Failed(_))
    }
}

/// Turns the failures of hardening cases that `deviations` declare into [`Verdict::Deviates`].
///
/// A declaration that does not hold fails the case: of a required case, because nothing excuses it,
/// and of one that passes, because a list of what a library cannot do must not outlive the reason.
#[must_use]
pub fn judge(results: Vec<CaseResult>, deviations: &[Deviation]) -> Vec<CaseResult> {
    let judged = results.into_iter().map(|result| {
        let mut declared = deviations.iter();
        match declared.find(|deviation| deviation.case == result.name) {
            Some(deviation) => CaseResult {
                verdict: declared_verdict(result.verdict, result.class, deviation),
                ..result
            },
            None => result,
        }
    });
    judged.collect()
}

fn declared_verdict(verdict: Verdict, class: Class, deviation: &Deviation) -> Verdict {
    match (verdict, class) {
        (Verdict::Failed(seen), Class::Hardening) => Verdict::Deviates {
            seen,
            declared: deviation.to_string(),
        },
        (Verdict::Failed(seen), Class::Required) => Verdict::Failed(format!(
            "{seen}\ndeclared as a deviation, but the case is required"
        )),
        (Verdict::Passed, _) => Verdict::Failed(
            "declared as a deviation, but it passes: remove the declaration".to_owned(),
        ),
        (other, _) => other,
    }
}

/// The results as text: one line per case, and a last line with the counts.
#[must_use]
pub fn text(subject: &str, results: &[CaseResult]) -> String {
    let mut lines: Vec<String> = results.iter().map(line).collect();
    let count = |wanted: fn(&Verdict) -> bool| {
        let verdicts = results.iter().map(|result| &result.verdict);
        verdicts.filter(|verdict| wanted(verdict)).count()
    };
    let passed = count(|verdict| matches!(verdict, Verdict::Passed));
    let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
    let deviates = count(|verdict| matches!(verdict, Verdict::Deviates { .. }));
    let skipped = count(|verdict| matches!(verdict, Verdict::Skipped(_)));
    lines.push(format!(
        "{subject}: {passed} passed, {failed} failed, {deviates} deviate, {skipped} skipped"
    ));
    lines.join("\n") + "\n"
}

fn line(result: &CaseResult) -> String {
    let below = |text: &str| format!("\n    {}", text.replace('\n', "\n    "));
    let (mark, reason) = match &result.verdict {
        Verdict::Passed => ("✓", String::new()),
        Verdict::Failed(reason) => ("✗", below(reason)),
        Verdict::Deviates { seen, declared } => (
            "≠",
            format!(" (deviates){}{}", below(seen), below(declared)),
        ),
        Verdict::Skipped(reason) => ("–", format!(" (skipped: {reason})")),
    };
    let class = match result.class {
        Class::Required => "",
        Class::Hardening => " [hardening]",
    };
    let milliseconds = result.took.as_millis();
    format!("{mark} {}{class} {milliseconds} ms{reason}", result.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(verdict: Verdict, class: Class) -> CaseResult {
        CaseResult {
            name: "water is wet",
            class,
            verdict,
            took: Duration::from_millis(12),
        }
    }

    fn dry() -> Verdict {
        Verdict::Failed("it is\ndry".to_owned())
    }

    fn judged(verdict: Verdict, class: Class) -> Verdict {
        let deviation = Deviation {
            case: "water is wet".to_owned(),
            library: "desert 1.0".to_owned(),
            reference: "desert#7".to_owned(),
            why: "it has none".to_owned(),
        };
        let mut results = judge(vec![result(verdict, class)], &[deviation]);
        results.remove(0).verdict
    }

    #[test]
    fn only_the_declared_failure_of_a_hardening_case_is_excused() {
        assert_eq!(
            judged(dry(), Class::Hardening),
            Verdict::Deviates {
                seen: "it is\ndry".to_owned(),
                declared: "desert 1.0: it has none (desert#7)".to_owned(),
            }
        );
        let required = judged(dry(), Class::Required);
        assert!(matches!(required, Verdict::Failed(why) if why.contains("is required")));
        let undeclared = judge(vec![result(dry(), Class::Hardening)], &[]);
        assert!(undeclared[0].is_failure());
    }

    #[test]
    fn a_declaration_that_is_no_longer_true_fails() {
        for class in [Class::Hardening, Class::Required] {
            let verdict = judged(Verdict::Passed, class);
            assert!(matches!(verdict, Verdict::Failed(why) if why.contains("it passes")));
        }
        let skipped = Verdict::Skipped("no water".to_owned());
        assert_eq!(judged(skipped.clone(), Class::Hardening), skipped);
    }

    #[test]
    fn a_reason_stands_below_its_case() {
        let results = [
            result(Verdict::Passed, Class::Required),
            result(dry(), Class::Hardening),
            result(Verdict::Skipped("no water".to_owned()), Class::Required),
            result(judged(dry(), Class::Hardening), Class::Hardening),
        ];
        assert_eq!(
            text("sea", &results),
            "✓ water is wet 12 ms\n\
             ✗ water is wet [hardening] 12 ms\n    it is\n    dry\n\
             – water is wet 12 ms (skipped: no water)\n\
             ≠ water is wet [hardening] 12 ms (deviates)\n    it is\n    dry\n    \
             desert 1.0: it has none (desert#7)\n\
             sea: 1 passed, 1 failed, 1 deviate, 1 skipped\n"
        );
    }
}
