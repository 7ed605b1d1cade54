//! What only an administrator can do to a broker, such as closing other people's connections.

use std::{process::Command, time::Duration};

use super::{Broker, Error, command, install, nothing_found};

/// Longest command; the tool starts an Erlang machine of its own each time, about a second.
const CONTROL_LIMIT: Duration = Duration::from_secs(30);

impl Broker {
    /// Runs `rabbitmqctl` with these arguments against a private node and returns what it prints.
    ///
    /// # Errors
    /// [`Error::NotOurs`] for any other broker, [`Error::Unavailable`] without the tool,
    /// [`Error::Command`] with its output if it fails.
    pub fn control(&self, arguments: &[&str]) -> Result<String, Error> {
        let origin = self.origin.as_str().to_owned();
        let node = self.node.as_ref().ok_or(Error::NotOurs { origin })?;
        let programs = install::find().ok_or_else(nothing_found)?;
        // Beside the start script: a distribution's wrapper would change the user.
        let mut tool = Command::new(programs.server.with_file_name("rabbitmqctl"));
        node.spec.apply(&mut tool);
        tool.args(arguments);
        command::run(&mut tool, CONTROL_LIMIT)
    }
}
