//! Where the threads of the launches ran, by layout.

use std::collections::BTreeMap;

use super::document::{Cell, Table, Tone};
use super::format;
use crate::analyse::{RunData, Summary};
use crate::record::{Layout, Placement};

/// What the launches of one layout say about some threads.
#[derive(Default)]
struct Tally {
    cores: String,
    launches: usize,
    threads: u32,
    strays: u32,
    /// `None` as soon as one launch could not tell.
    migrations: Option<u64>,
}

impl Tally {
    fn add(&mut self, placement: &Placement) {
        let before = if self.launches == 0 {
            Some(0)
        } else {
            self.migrations
        };
        let sum = before.zip(placement.migrations).map(|(a, b)| a + b);
        self.cores = cores(placement);
        self.launches += 1;
        self.threads = self.threads.max(placement.threads);
        self.strays += placement.strays;
        self.migrations = sum;
    }

    fn row(&self, (layout, who): &(Layout, String)) -> Vec<Cell> {
        let migrations = self.migrations.map(|it| format::setting(it as f64));
        let tone = if self.strays > 0 {
            Tone::Bad
        } else {
            Tone::Plain
        };
        vec![
            Cell::new(who),
            Cell::new(layout.as_str()),
            Cell::new(&self.cores),
            Cell::new(self.launches.to_string()),
            Cell::new(self.threads.to_string()),
            Cell {
                tone,
                ..Cell::new(self.strays.to_string())
            },
            Cell::new(migrations.unwrap_or_else(|| "the kernel does not tell".to_owned())),
        ]
    }
}

fn cores(placement: &Placement) -> String {
    let Some(allowed) = &placement.allowed else {
        return "any".to_owned();
    };
    let names: Vec<_> = allowed.iter().map(|cpu| format!("cpu{cpu}")).collect();
    names.join(", ")
}

/// One row per layout and subject, one for the generator and one for a broker that is ours; `None`
/// if no launch was looked at.
pub fn table(run: &RunData, summary: &Summary) -> Option<Table> {
    let mut tallies: BTreeMap<(Layout, String), Tally> = BTreeMap::new();
    for launch in run.launches.iter().map(|data| &data.launch) {
        let Some(pinning) = &launch.pinning else {
            continue;
        };
        let subject = format::title(summary, &launch.subject).to_owned();
        let parts = [
            (subject, Some(&pinning.subject)),
            ("the generator".to_owned(), pinning.generator.as_ref()),
            ("the broker".to_owned(), pinning.broker.as_ref()),
        ];
        for (who, placement) in parts {
            if let Some(placement) = placement {
                tallies
                    .entry((launch.layout, who))
                    .or_default()
                    .add(placement);
            }
        }
    }
    let head = [
        "Threads of",
        "Layout",
        "Allowed",
        "Launches",
        "Most threads",
        "Strayed",
        "Moves to another core",
    ];
    (!tallies.is_empty()).then(|| Table {
        head: head.map(str::to_owned).to_vec(),
        rows: tallies.iter().map(|(key, tally)| tally.row(key)).collect(),
    })
}
