//! `threeways broker up|down|status`.

use std::path::Path;

use super::{
    Broker, Error, Options, Origin, acquire_as,
    node::Lifetime,
    process::{Identity, kill},
    state::{self, State},
};
use crate::amqp::redact;

/// Makes sure that a broker runs, leaves it running, and returns the line to print.
///
/// # Errors
/// As [`super::acquire`].
pub fn up(options: &Options) -> Result<String, Error> {
    let broker = acquire_as(options, Lifetime::Detached)?;
    let line = format!("up: {}", line(&broker));
    broker.leave_running();
    Ok(line)
}

/// Ends every private node that `up` or a killed run left behind, and the container that `up`
/// started; nothing else. Returns the line to print.
///
/// # Errors
/// [`Error::Command`] if the container cannot be stopped.
pub fn down(root: &Path) -> Result<String, Error> {
    let mut ended = Vec::new();
    for state in state::load_all(root) {
        if state.owner.is_some_and(Identity::is_alive) {
            continue; // A run is using it.
        }
        if state.is_alive() {
            ended.push(state.spec.name.clone());
        }
        state.node().stop();
        state::forget(&state.spec);
    }
    if super::compose_marker(root).is_file() {
        super::stop_compose(root)?;
        ended.push("container".to_owned());
    }
    Ok(match ended.as_slice() {
        [] => "down: nothing was running".to_owned(),
        names => format!("down: ended {}", names.join(", ")),
    })
}

/// Kills every private node that this very program has started for its run, without asking it first:
/// for a program that must end at once. Returns the command that ends what is left, if anything is.
#[must_use]
pub fn kill_own(root: &Path) -> Option<&'static str> {
    let own = Identity::of(std::process::id());
    let states = state::load_all(root).into_iter();
    for state in states.filter(|state| state.owner.is_some() && state.owner == own) {
        kill(state.server);
        kill(state.epmd);
        state::forget(&state.spec);
    }
    // A container takes longer to stop than somebody waits who presses Ctrl-C twice.
    super::compose_marker(root)
        .is_file()
        .then_some("threeways broker down")
}

/// What runs, as lines to print.
#[must_use]
pub fn status(options: &Options) -> String {
    let mut lines: Vec<String> = state::load_all(&options.root)
        .iter()
        .map(node_line)
        .collect();
    if let Some(broker) = super::existing(options, Lifetime::Run) {
        lines.push(format!("a run would use: {}", line(&broker)));
        broker.leave_running();
    } else {
        lines.push("no broker answers; a run would start one".to_owned());
    }
    lines.join("\n")
}

fn line(broker: &Broker) -> String {
    let url = redact(&broker.url);
    format!(
        "{} at {url} ({})",
        broker.facts.version, broker.facts.origin
    )
}

fn node_line(state: &State) -> String {
    let whose = match state.owner {
        None => "left by up".to_owned(),
        Some(owner) if owner.is_alive() => format!("of the run with process {}", owner.pid),
        Some(_) => "of a run that is gone".to_owned(),
    };
    let alive = if state.is_alive() { "running" } else { "dead" };
    let (name, server) = (&state.spec.name, state.server.pid);
    format!("private node {name}: {alive}, process {server}, {whose}")
}

impl Origin {
    /// Word for the manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Answering => "answering",
            Self::Compose => "compose",
            Self::PrivateNode => "private-node",
        }
    }
}
