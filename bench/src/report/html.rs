//! `report.html`: one page that needs nothing but itself.

use std::fmt::Write as _;

use super::Exporter;
use super::document::{Block, Cell, Document, Table, Tone, document};
use super::plot::Figure;
use super::svg::escape;
use crate::analyse::{RunData, Summary};

const STYLE: &str = include_str!("style.css");

/// Writes the page.
#[derive(Debug, Clone, Copy)]
pub struct Html;

impl Exporter for Html {
    fn file_name(&self) -> &'static str {
        "report.html"
    }

    fn render(&self, run: &RunData, summary: &Summary) -> String {
        page(&document(run, summary), &RUN_FILES)
    }
}

/// What a run folder holds beside its page: where each leads, and its name.
pub(super) const RUN_FILES: [(&str, &str); 3] = [
    ("summary.json", "summary.json"),
    ("manifest.json", "manifest.json"),
    ("launches/", "raw data"),
];

/// The page of a document, with links to the files that lie beside it.
pub(super) fn page(document: &Document, files: &[(&str, &str)]) -> String {
    let mut body = String::new();
    document.blocks.iter().for_each(|b| block(&mut body, b));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Threeways: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header>\n<p class=\"kicker\">Threeways · {title}</p>\n\
         <h1>Processes, threads or an event loop?</h1>\n{answer}{validity}{contents}</header>\n\
         <main>\n{body}</main>\n</body>\n</html>\n",
        title = escape(&document.title),
        answer = answer(&document.answer),
        validity = validity(document),
        contents = contents(&document.blocks, files),
    )
}

fn answer(sentences: &[String; 3]) -> String {
    let items: String = sentences
        .iter()
        .map(|sentence| format!("<p>{}</p>\n", emphasised(sentence)))
        .collect();
    format!("<div class=\"answer\">\n{items}</div>\n")
}

/// The words before the colon are what a hurried reader takes away.
fn emphasised(sentence: &str) -> String {
    match sentence.split_once(": ") {
        Some((lead, rest)) if lead.len() < 60 => {
            format!("<strong>{}:</strong> {}", escape(lead), escape(rest))
        }
        _ => escape(sentence),
    }
}

fn validity(document: &Document) -> String {
    let class = if document.validity.complete {
        "good"
    } else {
        "bad"
    };
    let text = escape(&document.validity.text);
    format!("<p class=\"banner {class}\"><strong>Validity:</strong> {text}.</p>\n")
}

fn contents(blocks: &[Block], files: &[(&str, &str)]) -> String {
    let links: String = blocks
        .iter()
        .filter_map(|block| match block {
            Block::Section(title) => Some(title),
            _ => None,
        })
        .map(|title| format!("<a href=\"#{}\">{}</a>\n", anchor(title), escape(title)))
        .collect();
    let files: String = files
        .iter()
        .map(|(path, name)| format!("<a href=\"{path}\">{name}</a>\n"))
        .collect();
    format!("<nav>\n{links}{files}</nav>\n")
}

fn anchor(title: &str) -> String {
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    title.chars().map(keep).collect()
}

fn block(body: &mut String, part: &Block) {
    match part {
        Block::Section(title) => {
            push(
                body,
                format_args!("<h2 id=\"{}\">{}</h2>", anchor(title), escape(title)),
            );
        }
        Block::Part(title) => push(body, format_args!("<h3>{}</h3>", escape(title))),
        Block::Text(text) if text.is_empty() => (),
        Block::Text(text) => push(body, format_args!("<p>{}</p>", escape(text))),
        Block::Table(t) => table(body, t),
        Block::Figures(list) => figures(body, list),
        Block::Terms(list) => terms(body, list),
        Block::Folded(title, blocks) => {
            push(
                body,
                format_args!("<details><summary>{}</summary>", escape(title)),
            );
            blocks.iter().for_each(|b| block(body, b));
            push(body, format_args!("</details>"));
        }
        Block::Verbatim(text) => push(body, format_args!("<pre>{}</pre>", escape(text))),
    }
}

fn figures(body: &mut String, figures: &[Figure]) {
    push(body, format_args!("<div class=\"figures\">"));
    for figure in figures {
        let caption = escape(&figure.caption);
        push(
            body,
            format_args!(
                "<figure>\n{}\n<figcaption>{caption}</figcaption>\n</figure>",
                figure.svg
            ),
        );
    }
    push(body, format_args!("</div>"));
}

fn terms(body: &mut String, terms: &[(String, String)]) {
    push(body, format_args!("<dl>"));
    for (term, meaning) in terms {
        push(
            body,
            format_args!("<dt>{}</dt><dd>{}</dd>", escape(term), escape(meaning)),
        );
    }
    push(body, format_args!("</dl>"));
}

fn table(body: &mut String, table: &Table) {
    push(
        body,
        format_args!("<div class=\"scroll\"><table>\n<thead><tr>"),
    );
    for head in &table.head {
        push(
            body,
            format_args!("<th scope=\"col\">{}</th>", escape(head)),
        );
    }
    push(body, format_args!("</tr></thead>\n<tbody>"));
    for row in &table.rows {
        push(body, format_args!("<tr>"));
        row.iter()
            .enumerate()
            .for_each(|(place, c)| cell(body, place, c));
        push(body, format_args!("</tr>"));
    }
    push(body, format_args!("</tbody></table></div>"));
}

fn cell(body: &mut String, place: usize, cell: &Cell) {
    let mut text = escape(&cell.text);
    if let Some(link) = &cell.link {
        text = format!("<a href=\"{}\">{text}</a>", escape(link));
    }
    if !cell.small.is_empty() {
        write!(text, "<small>{}</small>", escape(&cell.small))
            .expect("writing to a string cannot fail");
    }
    let class = match cell.tone {
        Tone::Plain => "",
        Tone::Winner => " class=\"winner\"",
        Tone::Bad => " class=\"bad\"",
    };
    if place == 0 {
        push(body, format_args!("<th scope=\"row\"{class}>{text}</th>"));
    } else {
        push(body, format_args!("<td{class}>{text}</td>"));
    }
}

fn push(body: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(body, "{text}").expect("writing to a string cannot fail");
}
