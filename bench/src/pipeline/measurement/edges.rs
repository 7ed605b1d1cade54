//! What is read at both edges of a launch's window: the machine, and where the threads may run.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::host::pinning::{Look, threads};
use crate::host::{self, Reading};
use crate::record::{HostDuring, Layout, Pinning};
use crate::sample::{Timeline, members};

/// Distance of a reading from the sampler's edges, so that the two do not read at the same instant.
const STEP: Duration = Duration::from_millis(10);

/// Whose threads are looked at.
#[derive(Debug)]
pub(super) struct Edges<'a> {
    layout: Layout,
    /// Process of the subject that was launched.
    root: i32,
    /// Processes of the broker, if it is ours.
    broker: &'a [i32],
    /// Thread of the generator; 0 until it has begun.
    generator: AtomicI32,
}

/// One look.
#[derive(Debug, Default)]
pub(super) struct Places {
    subject: Look,
    broker: Look,
    generator: Look,
}

/// Both readings of the machine and both looks.
#[derive(Debug)]
pub(super) struct Between {
    readings: (Reading, Reading),
    places: (Places, Places),
}

impl Between {
    pub(super) fn new(readings: (Reading, Reading), places: (Places, Places)) -> Self {
        Self { readings, places }
    }
}

impl<'a> Edges<'a> {
    pub(super) fn new(layout: Layout, root: i32, broker: &'a [i32]) -> Self {
        Self {
            layout,
            root,
            broker,
            generator: AtomicI32::new(0),
        }
    }

    /// The calling thread is the generator's.
    pub(super) fn i_am_the_generator(&self) {
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        self.generator.store(tid, Ordering::Relaxed);
    }

    fn instrument(&self) -> Option<Vec<usize>> {
        host::instrument_cpu(self.layout).map(|cpu| vec![cpu])
    }

    /// The broker is kept off the subject's core where the subject has one of its own.
    fn broker_cpus(&self) -> Option<Vec<usize>> {
        self.instrument()
            .filter(|_| self.layout == Layout::Isolated)
    }

    /// Where subject and broker are now.
    pub(super) fn look(&self) -> Places {
        let subject = threads(&members(self.root));
        Places {
            subject: Look::at(&subject, host::subject_cpus(self.layout).as_deref()),
            broker: Look::at(&threads(self.broker), self.broker_cpus().as_deref()),
            generator: Look::default(),
        }
    }

    /// Where subject, broker and generator are now.
    pub(super) fn look_at_all(&self) -> Places {
        Places {
            generator: self.look_at_generator(),
            ..self.look()
        }
    }

    fn look_at_generator(&self) -> Look {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let tid = self.generator.load(Ordering::Relaxed);
        Look::at(&[(own, tid)], self.instrument().as_deref())
    }

    /// Reads the machine just inside of the window, the generator with it, and the others before
    /// and behind it; `None` after an abort.
    pub(super) fn watch(&self, timeline: Timeline, abort: &AtomicBool) -> Option<Between> {
        let edge = |after_start| wait(timeline.start + after_start, abort);
        let mut first = self.look();
        edge(timeline.window_start + STEP)?;
        first.generator = self.look_at_generator();
        let before = Reading::take();
        edge(timeline.window_end.saturating_sub(STEP * 2))?;
        let after = Reading::take();
        let generator = self.look_at_generator();
        edge(timeline.window_end)?;
        let last = Places {
            generator,
            ..self.look()
        };
        Some(Between {
            readings: (before, after),
            places: (first, last),
        })
    }

    /// What both edges say together, with the processes of all subjects that are up.
    pub(super) fn host(&self, between: &Between, subjects: &[i32]) -> HostDuring {
        let (before, after) = &between.readings;
        after.since(before, subjects, self.broker)
    }

    /// Where the threads ran, with a generator.
    pub(super) fn pinning_of(&self, between: &Between) -> Pinning {
        let (first, last) = &between.places;
        let cpus = self.instrument();
        let generator = first.generator.until(&last.generator, cpus.as_deref());
        Pinning {
            generator: Some(generator),
            ..self.pinning(first, last)
        }
    }

    /// Where the threads ran, without a generator.
    pub(super) fn pinning(&self, first: &Places, last: &Places) -> Pinning {
        let cpus = host::subject_cpus(self.layout);
        let broker = self.broker_cpus();
        let broker = first.broker.until(&last.broker, broker.as_deref());
        Pinning {
            subject: first.subject.until(&last.subject, cpus.as_deref()),
            generator: None,
            broker: (!self.broker.is_empty()).then_some(broker),
        }
    }
}

fn wait(until: Instant, abort: &AtomicBool) -> Option<()> {
    while Instant::now() < until {
        if abort.load(Ordering::Relaxed) {
            return None;
        }
        std::thread::sleep(STEP.min(until.saturating_duration_since(Instant::now())));
    }
    Some(())
}
