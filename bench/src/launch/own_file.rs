//! An executable of a launch's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Begin of the folders' names; the process and the launch follow.
const PREFIX: &str = "launch-";

/// A copy of an executable, removed when dropped.
///
/// Where the pages of a file lie in memory decides which of them are in each other's way in the caches:
/// two files with the same content differed by 2.7 % in CPU per operation, block after block, since
/// their pages stayed where they were. With a copy for each launch that is a matter of chance which the
/// blocks average out (Curtsinger and Berger, "Stabilizer", 2013). And launches of one file that are
/// up at the same time would share its pages, and halve each other's PSS.
#[derive(Debug)]
pub struct OwnFile {
    folder: PathBuf,
    path: PathBuf,
}

impl OwnFile {
    /// Copies `executable` for the launch with this number into a folder beside it, and onto the disk,
    /// so that nobody writes it there later, while something is measured.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn copy(executable: &Path, ordinal: u32) -> std::io::Result<Self> {
        let beside = executable.parent().unwrap_or(Path::new("."));
        sweep(beside);
        let folder = beside.join(format!("{PREFIX}{}-{ordinal}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let path = folder.join(executable.file_name().unwrap_or_default());
        let own = Self { folder, path };
        fs::copy(executable, &own.path)?;
        File::open(&own.path)?.sync_all()?;
        Ok(own)
    }

    /// The copy.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::warn!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

/// Removes what processes that were killed have left.
fn sweep(beside: &Path) {
    let Ok(entries) = fs::read_dir(beside) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let owner = owner.and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another run may be at it.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_runs_and_goes_with_its_owner_and_one_without_owner_is_swept() {
        let name = format!("threeways-own-{}", std::process::id());
        let beside = std::env::temp_dir().join(name);
        let stale = beside.join(format!("{PREFIX}999999999-3"));
        fs::create_dir_all(&stale).expect("a folder of its own");
        let original = beside.join("true");
        fs::copy("/bin/true", &original).expect("every system has it");
        let own = OwnFile::copy(&original, 7).expect("copied");
        let status = std::process::Command::new(own.path()).status();
        assert!(status.expect("it starts").success());
        assert!(!stale.exists());
        let folder = own.folder.clone();
        drop(own);
        assert!(!folder.exists() && original.exists());
        fs::remove_dir_all(&beside).expect("own folder");
    }
}
