//! The broker of `docker-compose.yml`.

use std::{path::Path, process::Command, time::Duration};

use super::{
    Error,
    command::{run, succeeds},
};

/// Service of the broker in `docker-compose.yml`.
const SERVICE: &str = "rabbitmq";
/// Longest start, the download of the image included.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Longest stop.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Whether an engine runs and the workspace has a compose file; a client without an engine does
/// not count.
pub(super) fn is_usable(root: &Path) -> bool {
    root.join("docker-compose.yml").is_file()
        && succeeds(Command::new("docker").arg("info"))
        && compose(root).is_some()
}

/// Starts the broker's container; it is waited for by the caller, because version 1 of Compose
/// cannot.
///
/// # Errors
/// [`Error::Command`].
pub(super) fn up(root: &Path) -> Result<(), Error> {
    let mut command = compose(root).unwrap_or_else(|| Command::new("docker-compose"));
    run(command.args(["up", "-d", SERVICE]), START_LIMIT).map(drop)
}

/// Stops and removes the broker's container.
///
/// # Errors
/// [`Error::Command`].
pub(super) fn down(root: &Path) -> Result<(), Error> {
    let mut command = compose(root).unwrap_or_else(|| Command::new("docker-compose"));
    run(
        command.args(["rm", "--stop", "--force", SERVICE]),
        STOP_LIMIT,
    )
    .map(drop)
}

/// Compose version 2 (a plug-in) or version 1 (a program of its own).
fn compose(root: &Path) -> Option<Command> {
    let mut plugin = Command::new("docker");
    plugin.arg("compose").current_dir(root);
    if succeeds(Command::new("docker").args(["compose", "version"])) {
        return Some(plugin);
    }
    let mut program = Command::new("docker-compose");
    program.current_dir(root);
    succeeds(Command::new("docker-compose").arg("version")).then_some(program)
}
