//! Numbers, units and fixed phrases; the same everywhere, and the same on every machine.

use crate::analyse::Summary;
use crate::analyse::comparison::{Comparison, Row, Verdict};
use crate::analyse::gates::{Gate, GateUnit, Limit};
use crate::analyse::metric::{Metric, Unit};
use crate::analyse::statistics::{EQUIVALENCE_MARGIN, Interval, RatioEstimate};
use crate::record::{CellFacts, Kind, Layout};

/// About three significant digits, thousands grouped, never an exponent.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        _ if size >= 999.5 => grouped(size),
        _ if size >= 99.95 => format!("{size:.0}"),
        _ if size >= 9.995 => format!("{size:.1}"),
        _ if size >= 0.9995 => format!("{size:.2}"),
        _ if size >= 0.009_995 => format!("{size:.3}"),
        _ if size < 0.000_05 => return "0".to_owned(),
        _ => format!("{size:.4}"),
    };
    if value < 0.0 {
        format!("−{text}")
    } else {
        text
    }
}

/// A setting: without trailing zeros.
pub fn setting(value: f64) -> String {
    let text = number(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A size of at least 0 with a comma between thousands.
fn grouped(size: f64) -> String {
    let digits = format!("{size:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Factor from the stored to the printed value.
pub fn scale(unit: Unit) -> f64 {
    match unit {
        Unit::Milliseconds | Unit::MillisecondsPerSecond => 1e-6,
        Unit::Microseconds => 1e-3,
        Unit::Mebibytes | Unit::MebibytesPerHour => 1.0 / 1_048_576.0,
        Unit::Seconds | Unit::PerSecond | Unit::Count => 1.0,
    }
}

/// The unit as printed; empty for counts.
pub fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Milliseconds => "ms",
        Unit::MillisecondsPerSecond => "ms/s",
        Unit::Microseconds => "µs",
        Unit::Mebibytes => "MiB",
        Unit::MebibytesPerHour => "MiB/h",
        Unit::Seconds => "s",
        Unit::PerSecond => "/s",
        Unit::Count => "",
    }
}

/// A stored value without its unit.
pub fn bare(metric: Metric, value: f64) -> String {
    if metric == Metric::Threads {
        return format!("{value:.0}");
    }
    number(value * scale(metric.unit()))
}

/// A stored value with its unit.
pub fn figure(metric: Metric, value: f64) -> String {
    format!("{} {}", bare(metric, value), unit(metric.unit()))
        .trim_end()
        .replace(" /s", "/s")
}

/// Title of a metric with its unit, for heads of columns and axes.
pub fn title_with_unit(metric: Metric) -> String {
    match unit(metric.unit()) {
        "" => metric.title().to_owned(),
        unit => format!("{} [{unit}]", metric.title()),
    }
}

/// An interval of stored values without unit: `12.1–12.9`; empty if its ends print alike.
pub fn interval(metric: Metric, interval: Interval) -> String {
    if bare(metric, interval.low) == bare(metric, interval.high) {
        return String::new();
    }
    format!(
        "{}–{}",
        bare(metric, interval.low),
        bare(metric, interval.high)
    )
}

/// A ratio with its interval: `1.43 (1.40–1.46)`.
pub fn ratio(estimate: RatioEstimate) -> String {
    let value = number(estimate.ratio);
    match estimate.interval {
        Some(i) => format!("{value} ({}–{})", number(i.low), number(i.high)),
        None => format!("{value} (one block)"),
    }
}

/// The adjusted p value of a ratio: `; p 0.012`; empty if it has none.
pub fn chance(estimate: RatioEstimate) -> String {
    match estimate.adjusted_p_value {
        None => String::new(),
        Some(p) if p < 0.001 => "; p < 0.001".to_owned(),
        Some(p) => format!("; p {p:.3}"),
    }
}

/// What stands in the table for a subject: value and, beneath it, the interval or the reason.
pub fn row(metric: Metric, row: &Row) -> (String, String) {
    if let Some(count) = row.unsteady {
        return (
            "–".to_owned(),
            format!("no steady state in {}", launches(count)),
        );
    }
    match (row.median, row.interval, row.pooled, row.too_few) {
        (Some(median), Some(i), _, _) => (bare(metric, median), interval(metric, i)),
        (Some(median), None, _, _) => (bare(metric, median), "one block".to_owned()),
        (None, _, Some(pooled), _) => (bare(metric, pooled), "pooled, not ranked".to_owned()),
        (None, _, None, Some((n, needed))) => {
            ("–".to_owned(), format!("n too small: {n} of {needed}"))
        }
        (None, _, None, None) => ("–".to_owned(), "no valid launch".to_owned()),
    }
}

/// The verdict in words.
pub fn verdict(summary: &Summary, comparison: &Comparison) -> String {
    match &comparison.verdict {
        Verdict::Winner { subject } => {
            let adjective = if comparison.metric.better() == crate::analyse::metric::Better::Higher
            {
                "highest"
            } else {
                "lowest"
            };
            let silent = comparison.rows.values().any(|row| row.median.is_none());
            let among = if silent {
                " of those with valid figures"
            } else {
                ""
            };
            format!("{adjective}: {}{among}", title(summary, subject))
        }
        Verdict::NoDifference { subjects } => {
            let names: Vec<_> = subjects.iter().map(|s| title(summary, s)).collect();
            format!("no difference shown between {}", list(&names))
        }
        Verdict::Equivalent { subjects } => {
            let names: Vec<_> = subjects.iter().map(|s| title(summary, s)).collect();
            format!("{}: {}", equal(), list(&names))
        }
        Verdict::NoData => "not enough valid figures".to_owned(),
        Verdict::NotRanked => "shown, not ranked".to_owned(),
    }
}

/// What is said of subjects that are shown to be equal.
pub fn equal() -> String {
    format!("equal within {} %", setting(EQUIVALENCE_MARGIN * 100.0))
}

/// The subject's name in tables.
pub fn title<'a>(summary: &'a Summary, subject: &'a str) -> &'a str {
    summary.titles.get(subject).map_or(subject, String::as_str)
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[impl AsRef<str>]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match items.split_last() {
        None => String::new(),
        Some((only, [])) => (*only).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// `1 launch`, `2 launches`.
pub fn launches(count: usize) -> String {
    if count == 1 {
        "1 launch".to_owned()
    } else {
        format!("{count} launches")
    }
}

/// The offered load in words.
pub fn load(cell: &CellFacts) -> String {
    if cell.prefill > 0 {
        return format!("{} prefilled messages", grouped(cell.prefill as f64));
    }
    if cell.closed_loop {
        return "closed loop".to_owned();
    }
    let rates: Vec<String> = cell
        .arrival_rate_per_s
        .iter()
        .map(|(kind, rate)| format!("{} {}", setting(*rate), kind_word(*kind)))
        .collect();
    if rates.is_empty() {
        "no load".to_owned()
    } else {
        format!("{} operations per second", rates.join(" + "))
    }
}

/// `REST` or `AMQP`.
pub fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Rest => "REST",
        Kind::Amqp => "AMQP",
    }
}

/// What the layout means.
pub fn layout_meaning(layout: Layout) -> &'static str {
    match layout {
        Layout::Isolated => "subject alone on cpu0; generator, sampler, device and broker on cpu1",
        Layout::Shared => "subject on every core; generator on cpu1",
        Layout::Native => "nothing pinned, everything competes",
    }
}

/// A gate's value or limit.
pub fn gate_value(unit: GateUnit, value: f64) -> String {
    match unit {
        GateUnit::Ratio => format!("{} %", trimmed(value * 100.0)),
        GateUnit::Nanoseconds => format!("{} µs", number(value / 1e3)),
        GateUnit::Count => trimmed(value),
        GateUnit::Cores => format!("{} % of a core", trimmed(value * 100.0)),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0')
        .trim_end_matches('.')
        .replace('-', "−")
}

/// A gate's limit in words.
pub fn limit(unit: GateUnit, limit: Limit) -> String {
    let value = |v| gate_value(unit, v);
    match (limit.min, limit.max) {
        (Some(min), Some(max)) if min >= max => format!("= {}", value(min)),
        (Some(min), Some(max)) => format!("{} to {}", value(min), value(max)),
        (Some(min), None) => format!("≥ {}", value(min)),
        (None, Some(max)) if max <= 0.0 => "= 0".to_owned(),
        (None, Some(max)) => format!("≤ {}", value(max)),
        (None, None) => "none".to_owned(),
    }
}

/// A failed gate in one phrase.
pub fn failed_gate(gate: &Gate) -> String {
    let note = gate
        .note
        .as_ref()
        .map_or(String::new(), |note| format!(" [{note}]"));
    let value = gate_value(gate.unit, gate.value);
    format!(
        "{}: {value} ({}){note}",
        gate.name,
        limit(gate.unit, gate.limit)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_grouped_thousands() {
        let texts = [
            0.0,
            0.001_23,
            0.0123,
            0.5,
            1.234,
            12.34,
            123.4,
            1_234.5,
            -1_234_567.0,
        ]
        .map(number);
        assert_eq!(
            texts,
            [
                "0",
                "0.0012",
                "0.012",
                "0.500",
                "1.23",
                "12.3",
                "123",
                "1,234",
                "−1,234,567"
            ]
        );
    }

    #[test]
    fn figures_carry_the_unit_of_the_metric() {
        assert_eq!(figure(Metric::RestP50, 1_234_000.0), "1.23 ms");
        assert_eq!(figure(Metric::Pss, 4_194_304.0), "4.00 MiB");
        assert_eq!(figure(Metric::MessagesPerSecond, 41_000.0), "41,000/s");
        assert_eq!(figure(Metric::Threads, 3.0), "3");
    }

    #[test]
    fn limits_read_as_ranges() {
        let at_most = Limit {
            min: None,
            max: Some(0.02),
        };
        let exactly = Limit {
            min: Some(0.0),
            max: Some(0.0),
        };
        assert_eq!(limit(GateUnit::Ratio, at_most), "≤ 2 %");
        assert_eq!(limit(GateUnit::Count, exactly), "= 0");
        assert_eq!(
            limit(
                GateUnit::Nanoseconds,
                Limit {
                    min: None,
                    max: Some(100_000.0)
                }
            ),
            "≤ 100 µs"
        );
    }

    #[test]
    fn lists_end_with_and() {
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(list(&["a"]), "a");
    }
}
