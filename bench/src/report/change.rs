//! Two runs side by side, for a terminal.

use super::format;
use crate::analyse::change::{Change, ChangeVerdict, Changes};

/// The changes that are shown, the caveats, and how many figures were compared.
pub fn text(changes: &Changes) -> String {
    let Changes { before, after, .. } = changes;
    let mut lines = vec![format!("{before} → {after}")];
    lines.extend(changes.caveats.iter().map(|it| format!("caveat: {it}")));
    for (verdict, word) in [
        (ChangeVerdict::Worse, "worse"),
        (ChangeVerdict::Better, "better"),
    ] {
        lines.extend(changes.with(verdict).map(|change| line(word, change)));
    }
    let count = |verdict| changes.with(verdict).count();
    lines.push(format!(
        "{} figures compared: {} worse, {} better, {} without a change that shows, {} not ranked",
        changes.changes.len(),
        count(ChangeVerdict::Worse),
        count(ChangeVerdict::Better),
        count(ChangeVerdict::NoneShown),
        count(ChangeVerdict::NotRanked),
    ));
    lines.join("\n") + "\n"
}

fn line(word: &str, change: &Change) -> String {
    let Change {
        cell,
        subject,
        metric,
        before,
        after,
        estimate,
        ..
    } = change;
    format!(
        "{word:<6} {cell}, {subject}: {} {} → {}, ratio {}",
        format::title_with_unit(*metric),
        format::bare(*metric, *before),
        format::bare(*metric, *after),
        format::ratio(*estimate),
    )
}
