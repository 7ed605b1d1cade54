//! The results as JUnit XML, which continuous integration reads.
//!
//! Five elements with attributes need no XML library, only an escape that leaves nothing out.

use std::fmt::Write as _;

use super::{
    Class,
    verdict::{CaseResult, Verdict},
};

/// One document with a suite per subject.
#[must_use]
pub fn document(suites: &[(String, Vec<CaseResult>)]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for (subject, results) in suites {
        suite(&mut text, subject, results);
    }
    text.push_str("</testsuites>\n");
    text
}

fn suite(text: &mut String, subject: &str, results: &[CaseResult]) {
    let failures = results.iter().filter(|result| result.is_failure()).count();
    let skipped = results.iter().filter(|result| is_skipped(result)).count();
    let seconds: f64 = results.iter().map(|result| result.took.as_secs_f64()).sum();
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\" \
         errors=\"0\" time=\"{seconds:.3}\">",
        escaped(subject),
        results.len()
    );
    for result in results {
        case(text, subject, result);
    }
    text.push_str("  </testsuite>\n");
}

fn case(text: &mut String, subject: &str, result: &CaseResult) {
    let class = match result.class {
        Class::Required => "required",
        Class::Hardening => "hardening",
    };
    let _ = write!(
        text,
        "    <testcase classname=\"{}.{class}\" name=\"{}\" time=\"{:.3}\"",
        escaped(subject),
        escaped(result.name),
        result.took.as_secs_f64()
    );
    let _ = match &result.verdict {
        Verdict::Passed => writeln!(text, "/>"),
        Verdict::Failed(reason) => writeln!(
            text,
            "><failure message=\"{}\">{}</failure></testcase>",
            escaped(reason.lines().next().unwrap_or_default()),
            escaped(reason)
        ),
        // JUnit knows no third way; what is excused must not break a build.
        Verdict::Deviates { seen, declared } => writeln!(
            text,
            "><skipped message=\"deviates: {}\"/><system-out>{}</system-out></testcase>",
            escaped(declared),
            escaped(seen)
        ),
        Verdict::Skipped(reason) => writeln!(
            text,
            "><skipped message=\"{}\"/></testcase>",
            escaped(reason)
        ),
    };
}

fn is_skipped(result: &CaseResult) -> bool {
    matches!(
        result.verdict,
        Verdict::Skipped(_) | Verdict::Deviates { .. }
    )
}

/// The text as it may stand in an element or an attribute. A line break is kept as a reference,
/// since an attribute would turn it into a space; what XML 1.0 has no way to say becomes �.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            '\t' => escaped.push_str("&#9;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control < ' ' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_document_counts_and_escapes() {
        let result = |verdict, class| CaseResult {
            name: "1 < 2 & \"two\"",
            class,
            verdict,
            took: Duration::from_millis(1500),
        };
        let results = vec![
            result(Verdict::Passed, Class::Required),
            result(
                Verdict::Failed("it\nis \u{1b}[1m".to_owned()),
                Class::Required,
            ),
            result(
                Verdict::Deviates {
                    seen: "<x>".to_owned(),
                    declared: "it must".to_owned(),
                },
                Class::Hardening,
            ),
            result(Verdict::Skipped("no".to_owned()), Class::Hardening),
        ];
        let name = "name=\"1 &lt; 2 &amp; &quot;two&quot;\" time=\"1.500\"";
        assert_eq!(
            document(&[("a".to_owned(), results)]),
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n\
                 \x20 <testsuite name=\"a\" tests=\"4\" failures=\"1\" skipped=\"2\" errors=\"0\" time=\"6.000\">\n\
                 \x20   <testcase classname=\"a.required\" {name}/>\n\
                 \x20   <testcase classname=\"a.required\" {name}><failure message=\"it\">it&#10;is \u{fffd}[1m</failure></testcase>\n\
                 \x20   <testcase classname=\"a.hardening\" {name}><skipped message=\"deviates: it must\"/><system-out>&lt;x&gt;</system-out></testcase>\n\
                 \x20   <testcase classname=\"a.hardening\" {name}><skipped message=\"no\"/></testcase>\n\
                 \x20 </testsuite>\n</testsuites>\n"
            )
        );
    }
}
