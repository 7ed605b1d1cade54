//! Writes the file sink: every event as a line of JSON, appended and synced.
//!
//! Particular to processes: the file belongs to the process that takes the events. The consumer only
//! adds a line in memory, under a lock that is held for microseconds; a thread of its own waits for
//! the disk, which may take seconds.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use contract::{limits::FLUSH_INTERVAL, metrics::Task};
use crossbeam_channel::{select, tick};
use domain::{Reading, Sink, UnixMs};
use signal_hook::consts::SIGXFSZ;

use crate::{shutdown::StopToken, state::State};

/// The file that events are appended to; without a path, nothing happens.
pub struct FileSink {
    path: Option<PathBuf>,
    /// What waits to be written. A mutex and not a channel: what is too much is dropped and counted
    /// by the one who has both numbers.
    lines: Mutex<Sink>,
    /// Whether the last write failed: a full disk is news once, not every five seconds.
    failing: AtomicBool,
}

impl FileSink {
    /// A sink that nothing was written to.
    pub fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            lines: Mutex::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// Adds a line.
    pub fn push(&self, reading: &Reading, now: UnixMs) {
        if self.path.is_some() {
            self.lock().push(reading, now);
        }
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.lock().dropped()
    }

    /// Writes what waits; whether that succeeded.
    ///
    /// The lock is not held meanwhile: the consumer must not wait for the disk.
    fn flush(&self, path: &Path) -> bool {
        let batch = self.lock().take();
        if batch.lines == 0 {
            return true;
        }
        let result = append(path, &batch.bytes);
        let failed = result.is_err();
        match (result, self.failing.swap(failed, Ordering::Relaxed)) {
            (Err(error), false) => log::error!("the sink {} drops: {error}", path.display()),
            (Ok(()), true) => log::warn!("the sink {} writes again", path.display()),
            _ => {}
        }
        if failed {
            self.lock().lost(&batch);
        }
        !failed
    }

    /// A panic of another holder leaves at most one line half-written.
    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `flush` until `stop`, and once more behind it.
pub fn run(state: &Arc<State>, stop: &StopToken) {
    let Some(path) = &state.sink.path else {
        return;
    };
    // A limit of file size (`ulimit -f`) is told by a signal that would end the process; with any
    // handler in its place, the write fails instead.
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        log::warn!("a limit of file size would end this process: {error}");
    }
    let ticks = tick(FLUSH_INTERVAL);
    while !stop.is_stopped() {
        select! {
            recv(ticks) -> _ => {}
            recv(stop.channel()) -> _ => {}
        }
        let ok = state.sink.flush(path);
        state.metrics.timers.lock().ran(Task::Flush, ok);
    }
}

/// Appends `bytes` as a whole or not at all, as far as the disk lets us choose.
///
/// Opened anew each time, so that whoever rotates the file needs to tell nobody.
fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let before = file.metadata()?.len();
    let result = write(&mut file, bytes);
    if result.is_err() {
        // Half a line would spoil the next one, which is appended to it.
        let _ = file.set_len(before);
    }
    result
}

fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    // `sync_data`: what a reader needs to find the bytes again, and not the file's times.
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use domain::decode;

    use super::*;

    fn reading() -> Reading {
        decode(br#"{"key":"s","data":{"t":1}}"#).expect("an event")
    }

    #[test]
    fn lines_are_appended() {
        let path = std::env::temp_dir().join(format!("sink-{:x}", fastrand::u64(..)));
        let sink = FileSink::new(Some(path.clone()));
        for at in 1..=2 {
            sink.push(&reading(), UnixMs(at));
            assert!(sink.flush(&path));
        }
        let text = std::fs::read_to_string(&path).expect("written");
        std::fs::remove_file(&path).expect("ours");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with(r#"{"at":2,"key":"s""#), "{text}");
    }

    #[test]
    fn a_disk_that_is_full_costs_the_lines_and_nothing_else() {
        let path = Path::new("/dev/full");
        let sink = FileSink::new(Some(path.into()));
        sink.push(&reading(), UnixMs(1));
        assert!(!sink.flush(path));
        assert!(sink.failing.load(Ordering::Relaxed));
        assert_eq!(sink.dropped(), 1);
        assert!(sink.flush(path), "nothing was left to write");
    }

    #[test]
    fn without_a_path_nothing_is_kept() {
        let sink = FileSink::new(None);
        sink.push(&reading(), UnixMs(1));
        assert_eq!(sink.lock().take().lines, 0);
    }
}
