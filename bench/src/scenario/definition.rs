//! TOML files of the instrument: read strictly, with errors that name the file.

use std::path::{Path, PathBuf};

/// Why a TOML file of the instrument could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The file or folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{} is not valid: correct or remove what the next line names", path.display())]
    Parse {
        /// File.
        path: PathBuf,
        /// Cause, with line and column.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The values contradict each other.
    #[error("{} is not valid: {reason}", path.display())]
    Contradiction {
        /// File.
        path: PathBuf,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// No file defines this name.
    #[error("unknown {what} `{name}`; known are: {known}")]
    Unknown {
        /// `scenario` or `subject`.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is, comma-separated.
        known: String,
    },
}

/// Reads a TOML file of the instrument; unknown keys are refused.
///
/// # Errors
/// [`DefinitionError::Read`] or [`DefinitionError::Parse`], which name the file.
pub fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DefinitionError> {
    let text = std::fs::read_to_string(path).map_err(|source| DefinitionError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| DefinitionError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// The TOML files of a folder, sorted by name.
///
/// # Errors
/// [`DefinitionError::Read`] if the folder cannot be listed.
pub fn toml_files(folder: &Path) -> Result<Vec<PathBuf>, DefinitionError> {
    let read = |source| DefinitionError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
