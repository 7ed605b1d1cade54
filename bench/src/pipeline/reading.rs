//! From a run folder to its reports; nothing here depends on how the run came about.

use crate::analyse::resolution::Resolution;
use crate::analyse::{LaunchData, RunData, Summary, analyse};
use crate::faults::{self, Repetition};
use crate::report;
use crate::run_dir::{LaunchDir, RunDir, RunDirError};

/// Reads a whole run folder.
///
/// # Errors
/// [`RunDirError`].
pub fn read_run(run: &RunDir) -> Result<RunData, RunDirError> {
    let dirs = run.launch_dirs()?;
    let launches = dirs.iter().map(read_launch);
    let launches = launches.collect::<Result<_, RunDirError>>()?;
    Ok(RunData {
        manifest: run.manifest()?,
        launches,
    })
}

/// What was written of the launches that were made last, in their order.
pub(super) fn read_last(run: &RunDir, count: usize) -> Result<Vec<LaunchData>, RunDirError> {
    let dirs = run.launch_dirs()?;
    let first = dirs.len().saturating_sub(count);
    dirs[first..].iter().map(read_launch).collect()
}

fn read_launch(dir: &LaunchDir) -> Result<LaunchData, RunDirError> {
    let (histograms, slices) = dir.times()?;
    Ok(LaunchData {
        launch: dir.launch()?,
        histograms,
        slices,
        samples: dir.samples()?,
    })
}

/// Analyses a run folder and writes summary and reports into it: the same bytes each time.
///
/// # Errors
/// [`RunDirError`].
pub fn write_report(run: &RunDir) -> Result<Summary, RunDirError> {
    let data = read_run(run)?;
    let summary = analyse(&data);
    run.write_file("summary.json", report::summary_json(&summary).as_bytes())?;
    if let Some(repetitions) = read_faults(run)? {
        for (name, text) in report::faults::files(&data.manifest, &repetitions) {
            run.write_file(name, text.as_bytes())?;
        }
        return Ok(summary);
    }
    if let Some(resolution) = Resolution::of(&data, &summary.launches) {
        for (name, text) in report::resolution::files(&data, &summary, &resolution) {
            run.write_file(name, text.as_bytes())?;
        }
        return Ok(summary);
    }
    for exporter in report::exporters() {
        let text = exporter.render(&data, &summary);
        run.write_file(exporter.file_name(), text.as_bytes())?;
    }
    Ok(summary)
}

/// The repetitions of a fault campaign; `None` if the run is none.
fn read_faults(run: &RunDir) -> Result<Option<Vec<Repetition>>, RunDirError> {
    let path = run.path().join(faults::FILE);
    if !path.exists() {
        return Ok(None);
    }
    let read = |source| RunDirError::Read {
        path: path.clone(),
        source,
    };
    let text = std::fs::read_to_string(&path).map_err(read)?;
    let damaged = |error: serde_json::Error| RunDirError::Damaged {
        path: path.clone(),
        reason: error.to_string(),
    };
    faults::parse(&text).map(Some).map_err(damaged)
}
