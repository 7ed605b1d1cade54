//! What lies below `target/broker/`: one folder per private node, with a file that names its
//! processes, so that `down` and later runs find exactly them.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Error,
    error::io_error,
    node::{Node, Spec},
    process::Identity,
};

/// Name of the state file in a node's folder.
const FILE: &str = "state.json";
/// Name of the file in a node's folder that the run locks which uses it.
const CLAIM: &str = "in-use";

/// A private node as later programs find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The node.
    pub spec: Spec,
    /// Its port mapper.
    pub epmd: Identity,
    /// Its server.
    pub server: Identity,
    /// The run that it belongs to; `None` after `up`.
    pub owner: Option<Identity>,
}

impl State {
    /// Whether its server runs.
    pub(super) fn is_alive(&self) -> bool {
        self.server.is_alive()
    }

    /// Whether nobody will stop it: its run ended without doing so, or it died after `up`.
    ///
    /// A dead server of a living run is that run's business, which may be restarting it.
    pub(super) fn is_abandoned(&self) -> bool {
        match self.owner {
            Some(owner) => !owner.is_alive(),
            None => !self.is_alive(),
        }
    }

    /// The node as a thing to stop.
    pub(super) fn node(&self) -> Node {
        Node::adopted(self.spec.clone(), self.epmd, self.server)
    }
}

/// Folder of all nodes of a workspace.
pub(super) fn base(root: &Path) -> PathBuf {
    root.join("target").join("broker")
}

/// Writes down a node.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn save(state: &State) -> Result<(), Error> {
    let file = state.spec.folder.join(FILE);
    let text = serde_json::to_string_pretty(state).expect("plain data serialises");
    fs::write(&file, text).map_err(io_error(format!("cannot write {}", file.display())))
}

/// Every node that was written down.
pub(super) fn load_all(root: &Path) -> Vec<State> {
    let folders = fs::read_dir(base(root)).into_iter().flatten().flatten();
    folders
        .filter_map(|entry| fs::read_to_string(entry.path().join(FILE)).ok())
        .filter_map(|text| serde_json::from_str(&text).ok())
        .collect()
}

/// Removes a stopped node's folder.
pub(super) fn forget(spec: &Spec) {
    if let Err(error) = fs::remove_dir_all(&spec.folder) {
        log::warn!("cannot remove {}: {error}", spec.folder.display());
    }
}

/// The running node of an earlier `up`.
pub(super) fn find_up(root: &Path) -> Option<State> {
    load_all(root)
        .into_iter()
        .find(|state| state.owner.is_none() && state.is_alive())
}

/// Takes a node of an earlier `up` for one run: two would empty each other's queues and consume each
/// other's messages. `None` if another has it; the claim ends with the value, or with the process.
pub(super) fn claim(spec: &Spec) -> Option<File> {
    let file = File::create(spec.folder.join(CLAIM)).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Ends what runs left behind that were killed before they could stop their node.
pub(super) fn sweep(root: &Path) {
    for state in load_all(root) {
        if state.is_abandoned() {
            state.node().stop();
            forget(&state.spec);
        }
    }
}
