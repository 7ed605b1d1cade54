//! The run folder: the only module that writes below `results/`.
//!
//! ```text
//! results/<run-id>/manifest.json
//! results/<run-id>/launches/<ordinal>-<cell>-<subject>-b<block>/launch.json
//!                                                              /histograms.hlog
//!                                                              /samples.csv
//!                                                              /stderr.log   if there was any
//! ```
//! Every file appears complete or not at all: it is written beside its name and then renamed.

mod histogram_log;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use rustix::fs::{Access, access};

use crate::record::{LAUNCHES, Launch, Manifest, Sample, Slice};

const MANIFEST: &str = "manifest.json";
const LAUNCH: &str = "launch.json";
const HISTOGRAMS: &str = "histograms.hlog";
const SAMPLES: &str = "samples.csv";
const STDERR: &str = "stderr.log";
/// Bytes of a subject's stderr that are kept from its start, and as many from its end.
const KEPT_STDERR: usize = 4096;

/// Histograms of one launch by tag, such as `rest.response`; values in nanoseconds.
pub type Histograms = BTreeMap<String, Histogram<u64>>;
/// Some of these for each equal part of the window, in order.
pub type Intervals = BTreeMap<String, Vec<Histogram<u64>>>;
/// What is read back of the intervals; the histograms themselves would fill the memory.
pub type Slices = BTreeMap<String, Vec<Slice>>;

/// Why a run folder could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// A file or folder could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// No run folder could be made there.
    #[error("no results can be kept in {}; name another folder with --out", path.display())]
    Parent {
        /// The folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder could not be read.
    #[error("cannot read {}; is it a run folder?", path.display())]
    Read {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A file was read but is not what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// One run folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Whether run folders can be made below `parent`, which need not exist; changes nothing.
    ///
    /// # Errors
    /// [`RunDirError::Parent`].
    pub fn check_parent(parent: &Path) -> Result<(), RunDirError> {
        // The last ancestor of a relative path is empty, and stands for the current folder.
        let ancestors = parent.ancestors().filter(|it| !it.as_os_str().is_empty());
        let nearest = ancestors.into_iter().find(|it| it.exists());
        let nearest = nearest.unwrap_or(Path::new("."));
        let usable = if nearest.is_dir() {
            access(nearest, Access::WRITE_OK | Access::EXEC_OK).map_err(std::io::Error::from)
        } else {
            Err(std::io::ErrorKind::NotADirectory.into())
        };
        usable.map_err(|source| RunDirError::Parent {
            path: parent.to_owned(),
            source,
        })
    }

    /// Makes `<parent>/<run_id>` and its `launches`.
    ///
    /// # Errors
    /// [`RunDirError::Write`]; also if the folder exists already.
    pub fn create(parent: &Path, run_id: &str) -> Result<Self, RunDirError> {
        let path = parent.join(run_id);
        let write = |path: &Path| {
            let path = path.to_owned();
            move |source| RunDirError::Write { path, source }
        };
        fs::create_dir_all(parent).map_err(write(parent))?;
        fs::create_dir(&path).map_err(write(&path))?;
        fs::create_dir(path.join(LAUNCHES)).map_err(write(&path))?;
        Ok(Self { path })
    }

    /// Opens an existing run.
    ///
    /// # Errors
    /// [`RunDirError::Read`] if it holds no manifest.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        let manifest = path.join(MANIFEST);
        fs::metadata(&manifest).map_err(|source| RunDirError::Read {
            path: manifest,
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the manifest, replacing an earlier one.
    ///
    /// # Errors
    /// [`RunDirError::Write`].
    pub fn write_manifest(&self, manifest: &Manifest) -> Result<(), RunDirError> {
        let mut text = serde_json::to_string_pretty(manifest).expect("plain data serialises");
        text.push('\n');
        self.write_file(MANIFEST, text.as_bytes())
    }

    /// Reads the manifest.
    ///
    /// # Errors
    /// [`RunDirError::Read`] or [`RunDirError::Damaged`].
    pub fn manifest(&self) -> Result<Manifest, RunDirError> {
        read_json(&self.path.join(MANIFEST))
    }

    /// Writes a file of the run, such as `report.md`.
    ///
    /// # Errors
    /// [`RunDirError::Write`].
    pub fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), RunDirError> {
        write_atomically(&self.path.join(name), bytes)
    }

    /// Makes the folder of one launch, before it starts.
    ///
    /// # Errors
    /// [`RunDirError::Write`].
    pub fn begin_launch(
        &self,
        ordinal: u32,
        cell: &str,
        subject: &str,
        block: u32,
    ) -> Result<LaunchDir, RunDirError> {
        let cell = cell.replace('/', "-");
        let path = self
            .path
            .join(LAUNCHES)
            .join(format!("{ordinal:04}-{cell}-{subject}-b{block}"));
        fs::create_dir(&path).map_err(|source| RunDirError::Write {
            path: path.clone(),
            source,
        })?;
        Ok(LaunchDir { path })
    }

    /// Folders of the complete launches, in order.
    ///
    /// # Errors
    /// [`RunDirError::Read`].
    pub fn launch_dirs(&self) -> Result<Vec<LaunchDir>, RunDirError> {
        let folder = self.path.join(LAUNCHES);
        let read = |source| RunDirError::Read {
            path: folder.clone(),
            source,
        };
        let mut dirs = Vec::new();
        for entry in fs::read_dir(&folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.join(LAUNCH).is_file() {
                dirs.push(LaunchDir { path });
            }
        }
        dirs.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(dirs)
    }

    /// Every complete launch, in order.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn launches(&self) -> Result<Vec<Launch>, RunDirError> {
        self.launch_dirs()?.iter().map(LaunchDir::launch).collect()
    }

    /// Histograms of a launch of this run.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn histograms(&self, launch: &Launch) -> Result<Histograms, RunDirError> {
        self.dir_of(launch).histograms()
    }

    /// Samples of a launch of this run.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn samples(&self, launch: &Launch) -> Result<Vec<Sample>, RunDirError> {
        self.dir_of(launch).samples()
    }

    fn dir_of(&self, launch: &Launch) -> LaunchDir {
        LaunchDir {
            path: self.path.join(launch.folder()),
        }
    }
}

/// The folder of one launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchDir {
    path: PathBuf,
}

impl LaunchDir {
    /// Where the subject's stderr goes while it runs.
    #[must_use]
    pub fn stderr_path(&self) -> PathBuf {
        self.path.join(STDERR)
    }

    /// Writes the raw data of the launch; `launch.json` comes last and marks it complete.
    ///
    /// # Errors
    /// [`RunDirError::Write`].
    pub fn finish(
        &self,
        launch: &Launch,
        (histograms, intervals): (&Histograms, &Intervals),
        samples: &[Sample],
    ) -> Result<(), RunDirError> {
        self.trim_stderr()?;
        if !histograms.is_empty() {
            write_atomically(
                &self.path.join(HISTOGRAMS),
                &histogram_log::encode(histograms, intervals, launch.window_s),
            )?;
        }
        write_atomically(&self.path.join(SAMPLES), samples_csv(samples).as_bytes())?;
        let mut text = serde_json::to_string(launch).expect("plain data serialises");
        text.push('\n');
        write_atomically(&self.path.join(LAUNCH), text.as_bytes())
    }

    /// Removes an empty stderr, and cuts the middle out of a long one: a subject that logs every
    /// operation must not make a run folder of many megabytes.
    fn trim_stderr(&self) -> Result<(), RunDirError> {
        let path = self.stderr_path();
        let Ok(bytes) = fs::read(&path) else {
            return Ok(());
        };
        if bytes.is_empty() {
            return fs::remove_file(&path).map_err(|source| RunDirError::Write { path, source });
        }
        if bytes.len() <= 2 * KEPT_STDERR {
            return Ok(());
        }
        let cut = bytes.len() - 2 * KEPT_STDERR;
        let (head, tail) = (&bytes[..KEPT_STDERR], &bytes[KEPT_STDERR + cut..]);
        let mark = format!("\n[… {cut} bytes cut …]\n");
        write_atomically(&path, &[head, mark.as_bytes(), tail].concat())
    }

    /// The launch.
    ///
    /// # Errors
    /// [`RunDirError::Read`] or [`RunDirError::Damaged`].
    pub fn launch(&self) -> Result<Launch, RunDirError> {
        read_json(&self.path.join(LAUNCH))
    }

    /// Its histograms; none if it had no load.
    ///
    /// # Errors
    /// [`RunDirError::Read`] or [`RunDirError::Damaged`].
    pub fn histograms(&self) -> Result<Histograms, RunDirError> {
        Ok(self.times()?.0)
    }

    /// Its histograms, and their course over the window as far as it was kept.
    ///
    /// # Errors
    /// [`RunDirError::Read`] or [`RunDirError::Damaged`].
    pub fn times(&self) -> Result<(Histograms, Slices), RunDirError> {
        let path = self.path.join(HISTOGRAMS);
        if !path.exists() {
            return Ok(Default::default());
        }
        histogram_log::decode(&read(&path)?).map_err(|reason| RunDirError::Damaged { path, reason })
    }

    /// Its samples.
    ///
    /// # Errors
    /// [`RunDirError::Read`] or [`RunDirError::Damaged`].
    pub fn samples(&self) -> Result<Vec<Sample>, RunDirError> {
        let path = self.path.join(SAMPLES);
        let bytes = read(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        text.lines()
            .skip(1)
            .map(|line| {
                parse_sample(line).ok_or_else(|| RunDirError::Damaged {
                    path: path.clone(),
                    reason: format!("`{line}` is no sample"),
                })
            })
            .collect()
    }
}

const SAMPLE_HEADER: &str = "t_ms,cpu_ns,user_ns,system_ns,run_queue_wait_ns,voluntary_switches,\
involuntary_switches,pss_bytes,uss_bytes,rss_bytes,threads,processes,page_table_bytes";

fn samples_csv(samples: &[Sample]) -> String {
    let mut text = format!("{SAMPLE_HEADER}\n");
    for s in samples {
        text += &format!(
            "{:.3},{},{},{},{},{},{},{},{},{},{},{},{}\n",
            s.t_ms,
            s.cpu_ns,
            s.user_ns,
            s.system_ns,
            s.run_queue_wait_ns,
            s.voluntary_switches,
            s.involuntary_switches,
            s.pss_bytes,
            s.uss_bytes,
            s.rss_bytes,
            s.threads,
            s.processes,
            s.page_table_bytes
        );
    }
    text
}

fn parse_sample(line: &str) -> Option<Sample> {
    let mut columns = line.split(',');
    let t_ms = columns.next()?.parse().ok()?;
    let mut next = || columns.next()?.parse::<u64>().ok();
    Some(Sample {
        t_ms,
        cpu_ns: next()?,
        user_ns: next()?,
        system_ns: next()?,
        run_queue_wait_ns: next()?,
        voluntary_switches: next()?,
        involuntary_switches: next()?,
        pss_bytes: next()?,
        uss_bytes: next()?,
        rss_bytes: next()?,
        threads: u32::try_from(next()?).ok()?,
        processes: u32::try_from(next()?).ok()?,
        // The column is younger than some runs.
        page_table_bytes: next().unwrap_or(0),
    })
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), RunDirError> {
    let beside = path.with_extension("part");
    let write = || {
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| RunDirError::Write {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, RunDirError> {
    fs::read(path).map_err(|source| RunDirError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, RunDirError> {
    serde_json::from_slice(&read(path)?).map_err(|error| RunDirError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_survive_the_table() {
        let sample = Sample {
            t_ms: -12.5,
            cpu_ns: 7,
            threads: 3,
            page_table_bytes: 8_192,
            ..Sample::default()
        };
        let text = samples_csv(&[sample]);
        let line = text.lines().nth(1).expect("one row");
        assert_eq!(parse_sample(line), Some(sample));
        let (older, _) = line.rsplit_once(',').expect("many columns");
        let read = parse_sample(older).expect("a row of an older run");
        assert_eq!((read.threads, read.page_table_bytes), (3, 0));
    }

    #[test]
    fn a_launch_is_found_again_by_its_record() {
        let parent = std::env::temp_dir().join(format!("run-dir-{}", std::process::id()));
        let run = RunDir::create(&parent, "r1").expect("temporary folder");
        let launch = Launch::for_tests();
        let dir = run
            .begin_launch(0, &launch.cell, "async", 0)
            .expect("new folder");
        dir.finish(&launch, (&Histograms::new(), &Intervals::new()), &[])
            .expect("writable");
        assert_eq!(
            run.launches().expect("readable"),
            std::slice::from_ref(&launch)
        );
        assert!(run.samples(&launch).expect("readable").is_empty());
        fs::remove_dir_all(parent).expect("made above");
    }

    #[test]
    fn a_long_stderr_keeps_its_start_and_its_end() {
        let path = std::env::temp_dir().join(format!("run-dir-long-{}", std::process::id()));
        fs::create_dir_all(&path).expect("temporary folder");
        let dir = LaunchDir { path: path.clone() };
        let long = format!("start{}end", "x".repeat(100_000));
        fs::write(dir.stderr_path(), long).expect("writable");
        dir.trim_stderr().expect("writable");
        let kept = fs::read_to_string(dir.stderr_path()).expect("readable");
        assert!(kept.len() < 9_000 && kept.starts_with("start") && kept.ends_with("end"));
        fs::remove_dir_all(path).expect("made above");
    }
}
