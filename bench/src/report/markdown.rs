//! `report.md`: the report as text, without the figures.

use super::Exporter;
use super::document::{Block, Cell, Document, Table, Tone, document};
use super::svg::escape;
use crate::analyse::{RunData, Summary};

/// Writes Markdown with one sentence per line where it can.
#[derive(Debug, Clone, Copy)]
pub struct Markdown;

impl Exporter for Markdown {
    fn file_name(&self) -> &'static str {
        "report.md"
    }

    fn render(&self, run: &RunData, summary: &Summary) -> String {
        let numbers = "The figures stand in [report.html](report.html), the numbers in [summary.json](summary.json).";
        text(&document(run, summary), numbers)
    }
}

/// The text of a document; `numbers` says where its numbers stand.
pub(super) fn text(document: &Document, numbers: &str) -> String {
    let Document {
        title,
        answer,
        validity,
        blocks,
    } = document;
    let mut text = format!("# Threeways: {title}\n\n");
    text.push_str(&answer.join("\n"));
    text.push_str(&format!("\n\n**Validity:** {}.\n", validity.text));
    text.push_str(&format!("{numbers}\n"));
    blocks.iter().for_each(|b| block(&mut text, b));
    text
}

fn block(text: &mut String, block: &Block) {
    match block {
        Block::Section(title) => text.push_str(&format!("\n## {title}\n")),
        Block::Part(title) => text.push_str(&format!("\n### {title}\n")),
        Block::Text(line) if line.is_empty() => (),
        Block::Text(line) => text.push_str(&format!("\n{}\n", line.replace(". ", ".\n"))),
        Block::Table(t) => table(text, t),
        Block::Figures(_) => (),
        Block::Terms(terms) => {
            text.push('\n');
            for (term, meaning) in terms {
                text.push_str(&format!("* **{term}**: {meaning}\n"));
            }
        }
        Block::Folded(title, blocks) => folded(text, title, blocks),
        Block::Verbatim(lines) => text.push_str(&format!("\n```text\n{lines}\n```\n")),
    }
}

fn folded(text: &mut String, title: &str, blocks: &[Block]) {
    let title = escape(title);
    text.push_str(&format!("\n<details><summary>{title}</summary>\n"));
    blocks.iter().for_each(|b| block(text, b));
    text.push_str("\n</details>\n");
}

fn table(text: &mut String, table: &Table) {
    text.push_str(&format!("\n| {} |\n", table.head.join(" | ")));
    text.push_str(&format!("|{}\n", "---|".repeat(table.head.len())));
    for row in &table.rows {
        let cells: Vec<String> = row.iter().map(cell).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
}

fn cell(cell: &Cell) -> String {
    let mut text = escape(&cell.text).replace('|', "\\|").replace('\n', "; ");
    if cell.tone != Tone::Plain && !text.is_empty() {
        text = format!("**{text}**");
    }
    if let Some(link) = &cell.link {
        text = format!("[{text}]({link})");
    }
    if !cell.small.is_empty() {
        text = format!("{text} ({})", cell.small.replace('\n', "; "));
    }
    text
}
