//! Figures of contestants that take turns, and their table.

use anyhow::{Context, Result};

/// The number in an environment variable; `default` if it is not set.
pub fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| {
        text.parse().with_context(|| format!("{name}={text}"))
    })
}

/// One measured figure of one contestant.
pub struct Figure {
    contestant: String,
    /// Contestant that it is compared with; empty for that one itself.
    beside: &'static str,
    metric: &'static str,
    values: Vec<f64>,
}

/// Notes one value.
pub fn add(
    figures: &mut Vec<Figure>,
    contestant: &str,
    beside: &'static str,
    metric: &'static str,
    value: f64,
) {
    let known = figures
        .iter_mut()
        .find(|known| known.contestant == contestant && known.metric == metric);
    match known {
        Some(figure) => figure.values.push(value),
        None => {
            let contestant = contestant.to_owned();
            figures.push(Figure {
                contestant,
                beside,
                metric,
                values: vec![value],
            });
        }
    }
}

/// The middle value; the upper one of an even number.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Every figure with its spread and its ratio to the contestant that it is compared with, as
/// Markdown.
pub fn table(figures: &[Figure]) -> String {
    let mut text = "| metric | contestant | median | lowest | highest | ratio |\n".to_owned();
    text += "|---|---|--:|--:|--:|--:|\n";
    for figure in figures {
        let value = median(&figure.values);
        let bare = figures
            .iter()
            .find(|bare| bare.contestant == figure.beside && bare.metric == figure.metric);
        let ratio = bare.map_or_else(String::new, |bare| {
            format!("{:.2} × {}", value / median(&bare.values), bare.contestant)
        });
        let (low, high) = figure
            .values
            .iter()
            .fold((f64::MAX, f64::MIN), |(low, high), value| {
                (low.min(*value), high.max(*value))
            });
        let Figure {
            metric, contestant, ..
        } = figure;
        text +=
            &format!("| {metric} | {contestant} | {value:.2} | {low:.2} | {high:.2} | {ratio} |\n");
    }
    text
}
