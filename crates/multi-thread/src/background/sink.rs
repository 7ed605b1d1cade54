//! Appends events to a file.
//!
//! Particular to threads: waiting for the disk is waiting like any other, and nothing has to be
//! handed to anybody; it only must not be the thread that somebody else waits for.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use domain::sink::Batch;

use crate::shutdown;

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
        if let Err(error) = shutdown::outlive_the_size_limit() {
            log::warn!("a limit of file sizes will end the service: {error}");
        }
        Self {
            path,
            broken: false,
        }
    }

    /// Appends a batch and waits until it is on the disk; `false` if it is not, or not wholly,
    /// which is counted and not tried again.
    ///
    /// Logs a failure once, and once that it has passed: a full disk would otherwise be filled by
    /// the log of its being full.
    pub fn append(&mut self, batch: &Batch) -> bool {
        if batch.lines == 0 {
            return true;
        }
        let written = append(&self.path, self.broken, &batch.bytes);
        let path = self.path.display();
        match (&written, self.broken) {
            (Ok(()), true) => log::warn!("the sink {path} takes events again"),
            (Err(error), false) => {
                log::error!("the sink {path} takes no events, they are dropped: {error}");
            }
            _ => {}
        }
        self.broken = written.is_err();
        written.is_ok()
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

    #[test]
    fn what_follows_a_failure_starts_on_a_line_of_its_own() {
        let name = format!("service-multi-thread-sink-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = SinkFile::new(path.clone());
        assert!(file.append(&batch("{\"n\":1}\n")));
        file.path = "/dev/full".into();
        assert!(!file.append(&batch("{\"n\":2}\n")));
        file.path.clone_from(&path);
        assert!(file.append(&batch("{\"n\":3}\n")));
        let text = fs::read_to_string(&path).expect("readable");
        fs::remove_file(&path).expect("removable");
        assert_eq!(text, "{\"n\":1}\n\n{\"n\":3}\n");
    }

    #[test]
    fn a_path_that_leads_nowhere_is_a_failure_unless_there_is_nothing_to_write() {
        let mut file = SinkFile::new("/nowhere/at/all".into());
        assert!(!file.append(&batch("x\n")));
        assert!(file.append(&Batch::default()));
    }
}
