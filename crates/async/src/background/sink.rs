//! Writes the file sink: every event as a line of JSON, appended and synced.
//!
//! Particular to tasks: a file is the one thing that an event loop cannot wait for. The kernel
//! calls it readable and writable at all times and then lets the caller sleep in `write` and
//! `fsync`, on a busy disk for seconds, and the loop would sleep with it. So a thread does it, from
//! the pool that tokio keeps for calls that block, and the loop waits for the thread.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use domain::sink::Batch;
use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

/// The file of the sink.
#[derive(Debug)]
pub struct SinkFile {
    path: PathBuf,
    /// Whether the last write failed, perhaps in the middle of a line.
    broken: bool,
}

impl SinkFile {
    /// The file at `path`, which is made by the first write.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        outlive_the_size_limit();
        Self {
            path,
            broken: false,
        }
    }

    /// Appends a batch and waits until it is on the disk.
    ///
    /// Logs a failure once, and once that it has passed: a full disk would otherwise be filled by
    /// the log of its being full.
    ///
    /// # Errors
    /// The batch, if it is not or not wholly written; the remedy is room on the disk.
    pub async fn append(&mut self, batch: Batch) -> Result<(), Batch> {
        if batch.lines == 0 {
            return Ok(());
        }
        let (path, was_broken) = (self.path.clone(), self.broken);
        // The batch goes with the thread and comes back, so that nothing is copied or shared.
        let appending = spawn_blocking(move || {
            let written = append(&path, was_broken, &batch.bytes);
            (batch, written)
        });
        let (batch, written) = appending.await.expect("appending does not panic");
        self.broken = written.is_err();
        let path = self.path.display();
        match written {
            Ok(()) => {
                if was_broken {
                    log::warn!("the sink {path} takes events again");
                }
                Ok(())
            }
            Err(error) => {
                if !was_broken {
                    log::error!("the sink {path} takes no events, they are dropped: {error}");
                }
                Err(batch)
            }
        }
    }
}

/// Appends `bytes`; a line that broke off before is ended first, so that it spoils no other.
///
/// Opened anew each time, which costs nothing every few seconds: a file that was moved away by
/// whoever rotates it is made again, and a disk that was changed is found.
fn append(path: &Path, line_is_broken: bool, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if line_is_broken {
        file.write_all(b"\n")?;
    }
    file.write_all(bytes)?;
    // The data and what is needed to find it again, but not the time of the last change.
    file.sync_data()
}

/// Lets a write beyond the largest file that the process may have fail like one to a full disk.
///
/// By default the kernel ends the process with a signal instead. It is caught and not ignored,
/// because tokio catches signals safely and ignores none; nobody reads what it catches.
fn outlive_the_size_limit() {
    let kind = SignalKind::from_raw(Signal::XFSZ.as_raw());
    if let Err(error) = signal(kind) {
        log::warn!("a limit of file sizes will end the service: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn batch(text: &str) -> Batch {
        Batch {
            bytes: text.as_bytes().to_vec(),
            lines: 1,
        }
    }

    #[tokio::test]
    async fn what_follows_a_failure_starts_on_a_line_of_its_own() {
        let name = format!("service-async-sink-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = SinkFile::new(path.clone());
        file.append(batch("{\"n\":1}\n")).await.expect("written");
        file.path = "/dev/full".into();
        let lost = file.append(batch("{\"n\":2}\n")).await.expect_err("full");
        assert_eq!(lost.lines, 1);
        file.path = path.clone();
        file.append(batch("{\"n\":3}\n")).await.expect("written");
        let text = fs::read_to_string(&path).expect("readable");
        fs::remove_file(&path).expect("removable");
        assert_eq!(text, "{\"n\":1}\n\n{\"n\":3}\n");
    }

    #[tokio::test]
    async fn a_path_that_leads_nowhere_loses_the_batch_and_not_the_service() {
        let mut file = SinkFile::new("/nowhere/at/all".into());
        assert_eq!(file.append(batch("x\n")).await.expect_err("none").lines, 1);
        file.append(Batch::default()).await.expect("nothing to do");
    }
}
