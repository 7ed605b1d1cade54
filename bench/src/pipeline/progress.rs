//! Progress on stderr: a bar with the live load on a terminal, one line per launch elsewhere.

mod estimate;

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

pub(super) use estimate::{Estimate, Step};

use crate::load::{Live, Viewer};
use crate::report::live::{lines, time_left};

/// Time between two views of a load.
const REFRESH: Duration = Duration::from_millis(500);
/// Nice value of the display's thread: the lowest priority that there is.
const NICE: i32 = 19;

/// Shows how far a run is.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    done: Cell<usize>,
    began: Cell<Instant>,
    estimate: RefCell<Estimate>,
}

impl Progress {
    /// Steps that take about as long as each other.
    pub(super) fn new(total: usize) -> Self {
        const TEMPLATE: &str = "{bar:30} {pos}/{len} {elapsed} eta {eta} {msg}";
        Self::with(TEMPLATE, total, Estimate::default())
    }

    /// Launches, whose lengths are known about.
    pub(super) fn planned(steps: Vec<Step>) -> Self {
        const TEMPLATE: &str = "{bar:30} {pos}/{len} {elapsed} {prefix}\n{msg}";
        Self::with(TEMPLATE, steps.len(), Estimate::new(steps))
    }

    fn with(template: &str, total: usize, estimate: Estimate) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(template).expect("the template is valid");
            ProgressBar::new(total as u64).with_style(style)
        });
        Self {
            bar,
            total,
            done: Cell::new(0),
            began: Cell::new(Instant::now()),
            estimate: RefCell::new(estimate),
        }
    }

    /// Begins the next step.
    pub(super) fn next(&self, what: &str) {
        let (begun, now) = (self.done.get(), Instant::now());
        if let Some(last) = begun.checked_sub(1) {
            let took = now.duration_since(self.began.get());
            self.estimate.borrow_mut().took(last, took);
        }
        self.done.set(begun + 1);
        self.began.set(now);
        let left = self.estimate.borrow().left(begun);
        match &self.bar {
            Some(bar) => {
                bar.set_position(begun as u64);
                bar.set_prefix(left.map_or_else(String::new, time_left));
                bar.set_message(what.to_owned());
            }
            None => eprintln!("[{}/{}] {what}", begun + 1, self.total),
        }
    }

    /// The display of the load of the step that was begun last and ends at `end`; `None` without
    /// a terminal.
    pub(super) fn display(&self, end: Instant) -> Option<Display> {
        let bar = self.bar.clone()?;
        let done = self.done.get();
        let what = bar.message();
        Some(Display {
            bar,
            what,
            end,
            after: self.estimate.borrow().left(done).unwrap_or_default(),
        })
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

/// Shows one load on the terminal while it runs.
pub(super) struct Display {
    bar: ProgressBar,
    what: String,
    end: Instant,
    /// What is left of the run behind this launch.
    after: Duration,
}

impl Display {
    /// Shows the load twice a second until the other end of `over` is dropped.
    ///
    /// In the layouts that pin, the caller has put this thread on the instrument's core, because the
    /// subject's must stay free; there it must not come before the generator (which runs in the
    /// real-time class or at nice −20) nor before the broker, so it asks for the lowest priority.
    pub(super) fn show(&self, live: &Live, over: &Receiver<()>) {
        let tid = rustix::thread::gettid();
        // Nobody is forbidden to be nicer.
        let _ = rustix::process::setpriority_process(Some(tid), NICE);
        let mut viewer = Viewer::new(live, Instant::now());
        while over.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            let left = self.end.saturating_duration_since(now);
            self.bar.set_prefix(time_left(left + self.after));
            let load = lines(&viewer.view(now));
            let message = format!("{}, {}\n  {load}", self.what, time_left(left));
            self.bar.set_message(message);
        }
        self.bar.set_message(self.what.clone());
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
