//! What the file sink writes next, and what it drops.

use contract::limits::{SINK_BYTES, SINK_LINES};
use serde::Serialize;

use crate::{event::Reading, time::UnixMs};

/// Lines that wait to be appended to the file.
///
/// Bounded in number and in bytes: a disk that is full or slow must not take the service's memory as
/// well, and ten thousand of the largest events would be gigabytes.
#[derive(Debug, Default)]
pub struct Sink {
    /// JSON lines with their ends.
    bytes: Vec<u8>,
    lines: usize,
    dropped: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    at: u64,
    #[serde(flatten)]
    reading: &'a Reading,
}

impl Sink {
    /// Nothing to write.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a reading as a line, or drops and counts it if [`SINK_LINES`] wait already, or with it
    /// more than [`SINK_BYTES`] would.
    ///
    /// # Panics
    /// Never: a reading has string keys and finite numbers.
    pub fn push(&mut self, reading: &Reading, now: UnixMs) {
        if self.lines >= SINK_LINES {
            self.dropped += 1;
            return;
        }
        let waiting = self.bytes.len();
        let line = Line { at: now.0, reading };
        serde_json::to_writer(&mut self.bytes, &line).expect("a reading serialises");
        self.bytes.push(b'\n');
        // Only now is it known how long the line is.
        if self.bytes.len() > SINK_BYTES {
            self.bytes.truncate(waiting);
            self.dropped += 1;
        } else {
            self.lines += 1;
        }
    }

    /// Takes what waits, to be written.
    pub fn take(&mut self) -> Batch {
        Batch {
            bytes: std::mem::take(&mut self.bytes),
            lines: std::mem::take(&mut self.lines),
        }
    }

    /// Counts a batch that could not be written: writing it again could double its first lines.
    pub fn lost(&mut self, batch: &Batch) {
        self.dropped += batch.lines as u64;
    }

    /// Lines dropped so far.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Lines that are written together.
#[derive(Debug, Default)]
pub struct Batch {
    /// JSON lines with their ends.
    pub bytes: Vec<u8>,
    /// How many.
    pub lines: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flatten::Fields;

    fn reading() -> Reading {
        Reading {
            key: "s".to_owned(),
            fields: Fields::from([("t".to_owned(), 1.5)]),
        }
    }

    #[test]
    fn a_reading_is_a_line() {
        let mut sink = Sink::new();
        sink.push(&reading(), UnixMs(7));
        let batch = sink.take();
        assert_eq!(batch.lines, 1);
        assert_eq!(
            String::from_utf8_lossy(&batch.bytes),
            "{\"at\":7,\"key\":\"s\",\"fields\":{\"t\":1.5}}\n"
        );
        assert_eq!(sink.take().lines, 0);
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let long = Reading {
            key: "s".to_owned(),
            fields: Fields::from([("t".repeat(1024 * 1024), 1.5)]),
        };
        let mut sink = Sink::new();
        for _ in 0..16 {
            sink.push(&long, UnixMs(0));
        }
        assert_eq!(sink.dropped(), 1, "sixteen of them are a little too much");
        sink.push(&reading(), UnixMs(0));
        assert_eq!(sink.dropped(), 1, "a short one still fits");
        let batch = sink.take();
        assert_eq!(batch.lines, 16);
        assert!(batch.bytes.len() <= SINK_BYTES);
        let ends = batch.bytes.iter().filter(|byte| **byte == b'\n');
        assert_eq!(ends.count(), 16, "no line is cut");
        sink.push(&long, UnixMs(0));
        assert_eq!(sink.take().lines, 1, "there is room again");
    }

    #[test]
    fn what_is_too_much_or_cannot_be_written_is_counted() {
        let mut sink = Sink::new();
        for _ in 0..SINK_LINES + 3 {
            sink.push(&reading(), UnixMs(0));
        }
        assert_eq!(sink.dropped(), 3);
        let batch = sink.take();
        sink.lost(&batch);
        assert_eq!(sink.dropped(), 3 + SINK_LINES as u64);
    }
}
