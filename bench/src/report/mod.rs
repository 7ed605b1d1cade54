//! Reports: pure functions of a run's values and of its summary, byte for byte reproducible.

pub mod answer;
pub mod capacity;
pub mod change;
pub mod doctor;
pub mod document;
pub mod faults;
pub mod format;
pub mod glossary;
pub mod html;
pub mod ladder;
pub mod live;
pub mod markdown;
pub mod objectives;
pub mod pinning;
pub mod plot;
pub mod resolution;
pub mod svg;
pub mod tables;

use crate::analyse::{RunData, Summary};

/// First line of the generated block in a README.
pub const ANSWER_BEGIN: &str = "<!-- answer:begin -->";
/// Last line of the generated block in a README.
pub const ANSWER_END: &str = "<!-- answer:end -->";

/// One form of the report.
pub trait Exporter {
    /// Name of the file below the run folder.
    fn file_name(&self) -> &'static str;

    /// The whole file: the same bytes for the same run.
    fn render(&self, run: &RunData, summary: &Summary) -> String;
}

/// Every form that a run folder gets.
pub fn exporters() -> [&'static dyn Exporter; 2] {
    [&markdown::Markdown, &html::Html]
}

/// The text of `summary.json`.
pub fn summary_json(summary: &Summary) -> String {
    let mut text = serde_json::to_string(summary).expect("plain data serialises");
    text.push('\n');
    text
}

/// The README's answer between its markers: three sentences and where they come from.
pub fn readme_block(summary: &Summary) -> String {
    let answer = answer::answer(summary).join("\n");
    let run = &summary.run_id;
    let profile = &summary.profile;
    format!(
        "{ANSWER_BEGIN}\n{answer}\n\n\
         Source: the `{profile}` run [{run}](results/{run}/report.md), method version {}.\n{ANSWER_END}\n",
        summary.method_version
    )
}

/// A README with its answer block replaced; `None` if it has no markers.
pub fn with_answer(readme: &str, summary: &Summary) -> Option<String> {
    let (before, rest) = readme.split_once(ANSWER_BEGIN)?;
    let (_, after) = rest.split_once(ANSWER_END)?;
    let block = readme_block(summary);
    Some(format!("{before}{}{after}", block.trim_end()))
}

#[cfg(test)]
mod tests;
