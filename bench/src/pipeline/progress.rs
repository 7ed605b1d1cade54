//! Progress on stderr: a bar on a terminal, one line per launch elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far a run is.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    done: std::cell::Cell<usize>,
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} eta {eta} {msg}")
                    .expect("the template is valid");
            ProgressBar::new(total as u64).with_style(style)
        });
        Self {
            bar,
            total,
            done: std::cell::Cell::new(0),
        }
    }

    /// Begins the next step.
    pub(super) fn next(&self, what: &str) {
        let done = self.done.get();
        self.done.set(done + 1);
        match &self.bar {
            Some(bar) => {
                bar.set_position(done as u64);
                bar.set_message(what.to_owned());
            }
            None => eprintln!("[{}/{}] {what}", done + 1, self.total),
        }
    }

    /// Says something that stays.
    pub(super) fn warn(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Progress of the builds.
pub(super) fn building(subjects: usize) -> Building {
    Building(Progress::new(subjects))
}

/// Shows what is being built.
pub(super) struct Building(Progress);

impl Building {
    pub(super) fn next(&self, subject: &str) {
        self.0.next(&format!("building {subject}"));
    }

    pub(super) fn finish(&self) {
        self.0.finish();
    }
}
