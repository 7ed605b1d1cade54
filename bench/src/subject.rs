//! Subjects: one TOML file each; a subject is built alone, so that no feature of another crate
//! leaks into it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::record::SubjectFacts;
use crate::scenario::{DefinitionError, read_toml, toml_files};

/// A declared deviation from the contract: a hardening case of the black-box suite that fails
/// because of a library, not of the model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// Name of the black-box case that fails.
    pub case: String,
    /// Library that makes it fail, with its version.
    pub library: String,
    /// Upstream issue, or the place in the library's source.
    pub reference: String,
    /// What the library does or lacks.
    pub why: String,
}

impl std::fmt::Display for Deviation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({})", self.library, self.why, self.reference)
    }
}

/// One subject file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Name, equal to the file's name.
    pub name: String,
    /// Name in tables and plots.
    pub title: String,
    /// `multi-process`, `multi-thread` or `async`; also what `/info` says.
    pub model: String,
    /// Cargo package that is built.
    pub package: String,
    /// Binary of that package.
    pub binary: String,
    /// Arguments of every launch.
    #[serde(default)]
    pub args: Vec<String>,
    /// Whether it is compared when no subject is named.
    #[serde(default)]
    pub default: bool,
    /// What it is known not to keep.
    #[serde(default)]
    pub deviations: Vec<Deviation>,
}

/// A subject with its binary.
#[derive(Debug, Clone)]
pub struct BuiltSubject {
    /// The file.
    pub subject: Subject,
    /// The executable.
    pub executable: PathBuf,
    /// What runs it, command line first; nothing as a rule.
    pub before: Vec<String>,
    /// What the manifest says of it.
    pub facts: SubjectFacts,
}

/// Why a subject could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo did not start.
    #[error("cannot start cargo; it must be on the PATH")]
    Cargo(#[source] std::io::Error),
    /// The package does not compile.
    #[error("`cargo build --release -p {package}` failed:\n{output}")]
    Compile {
        /// Package.
        package: String,
        /// What cargo said.
        output: String,
    },
    /// Cargo built, but not the binary that the subject file names.
    #[error("package `{package}` has no binary `{binary}`; correct the subject file")]
    NoBinary {
        /// Package.
        package: String,
        /// Binary.
        binary: String,
    },
}

/// Every subject of a folder, the default ones first.
///
/// # Errors
/// [`DefinitionError`] of the first file that is wrong.
pub fn read_all(folder: &Path) -> Result<Vec<Subject>, DefinitionError> {
    let mut subjects = toml_files(folder)?
        .iter()
        .map(|path| read_toml::<Subject>(path))
        .collect::<Result<Vec<_>, _>>()?;
    let order = ["multi-process", "multi-thread", "async"];
    subjects.sort_by_key(|subject| {
        let known = order.iter().position(|name| *name == subject.name);
        (known.unwrap_or(order.len()), subject.name.clone())
    });
    Ok(subjects)
}

/// Those of `all` that are named, or the default ones if none is named.
///
/// # Errors
/// [`DefinitionError::Unknown`], which lists the known names.
pub fn select(all: &[Subject], names: &[String]) -> Result<Vec<Subject>, DefinitionError> {
    if names.is_empty() {
        return Ok(all
            .iter()
            .filter(|subject| subject.default)
            .cloned()
            .collect());
    }
    names
        .iter()
        .map(|name| {
            all.iter()
                .find(|subject| subject.name == *name)
                .cloned()
                .ok_or_else(|| DefinitionError::Unknown {
                    what: "subject",
                    name: name.clone(),
                    known: all
                        .iter()
                        .map(|subject| subject.name.as_str())
                        .collect::<Vec<_>>()
                        .join(", "),
                })
        })
        .collect()
}

impl Subject {
    /// Builds the package in release mode, alone, and finds its executable.
    ///
    /// # Errors
    /// [`BuildError`] with what cargo said.
    pub fn build(&self, workspace: &Path) -> Result<BuiltSubject, BuildError> {
        let output = cargo(workspace)
            .args([
                "build",
                "--release",
                "--message-format=json-render-diagnostics",
            ])
            .args(["-p", &self.package])
            .stderr(Stdio::piped())
            .output()
            .map_err(BuildError::Cargo)?;
        if !output.status.success() {
            return Err(BuildError::Compile {
                package: self.package.clone(),
                output: tail(&String::from_utf8_lossy(&output.stderr), 40),
            });
        }
        let executable =
            executable(&output.stdout, &self.binary).ok_or_else(|| BuildError::NoBinary {
                package: self.package.clone(),
                binary: self.binary.clone(),
            })?;
        let facts = self.facts(workspace, &executable);
        Ok(BuiltSubject {
            subject: self.clone(),
            executable,
            before: Vec::new(),
            facts,
        })
    }

    fn facts(&self, workspace: &Path, executable: &Path) -> SubjectFacts {
        SubjectFacts {
            name: self.name.clone(),
            title: self.title.clone(),
            model: self.model.clone(),
            deviations: self
                .deviations
                .iter()
                .map(|deviation| format!("{}: {deviation}", deviation.case))
                .collect(),
            binary_bytes: std::fs::metadata(executable).map_or(0, |metadata| metadata.len()),
            features: feature_tree(workspace, &self.package),
            twin_of: None,
        }
    }
}

impl BuiltSubject {
    /// The same subject under a second name, to be compared with itself.
    #[must_use]
    pub fn twin(&self) -> Self {
        let mut twin = self.again("twin");
        twin.facts.twin_of = Some(self.subject.name.clone());
        twin
    }

    /// The same subject under another name.
    #[must_use]
    pub fn again(&self, what: &str) -> Self {
        let mut again = self.clone();
        again.subject.name = format!("{}-{what}", self.subject.name);
        again.subject.title = format!("{} ({what})", self.subject.title);
        again.facts.name.clone_from(&again.subject.name);
        again.facts.title.clone_from(&again.subject.title);
        again
    }

    /// Whether this is a second name.
    #[must_use]
    pub fn is_twin(&self) -> bool {
        self.facts.twin_of.is_some()
    }
}

fn cargo(workspace: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(workspace).stdin(Stdio::null());
    command
}

/// The path that cargo's JSON messages give for `binary`.
fn executable(messages: &[u8], binary: &str) -> Option<PathBuf> {
    String::from_utf8_lossy(messages).lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        if message["target"]["name"] != binary {
            return None;
        }
        message["executable"].as_str().map(PathBuf::from)
    })
}

/// Direct and transitive features as resolved for this package alone; without machine paths.
fn feature_tree(workspace: &Path, package: &str) -> Vec<String> {
    let output = cargo(workspace)
        .args([
            "tree",
            "--offline",
            "-e",
            "features,no-dev,no-build",
            "--prefix",
            "none",
        ])
        .args(["--no-dedupe", "-f", "{p} {f}", "-p", package])
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return vec![] };
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.contains(" feature ") && !line.trim().is_empty())
        .map(|line| without_path(line).trim().to_owned())
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Drops the `(/path/of/a/workspace/member)` that cargo prints behind local packages.
fn without_path(line: &str) -> String {
    match (line.find(" (/"), line.find(')')) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{}", &line[..start], &line[end + 1..])
        }
        _ => line.replace(" (*)", ""),
    }
}

/// The last `lines` lines of `text`.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages =
            br#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"service-async"},"executable":"/t/service-async"}"#;
        assert_eq!(
            executable(messages, "service-async"),
            Some(PathBuf::from("/t/service-async"))
        );
    }

    #[test]
    fn local_paths_are_left_out_of_the_feature_list() {
        assert_eq!(
            without_path("domain v0.1.0 (/home/u/x) default"),
            "domain v0.1.0 default"
        );
        assert_eq!(without_path("serde v1.0.0 std"), "serde v1.0.0 std");
    }

    #[test]
    fn the_three_models_are_compared_by_default() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("subjects");
        let all = read_all(&folder).expect("the files are valid");
        let chosen = select(&all, &[]).expect("no name was given");
        let names: Vec<_> = chosen.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!(names, ["multi-process", "multi-thread", "async"]);
    }
}
