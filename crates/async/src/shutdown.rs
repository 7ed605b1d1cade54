//! From the first signal to the last ack.
//!
//! Particular to tasks: a task cannot be stopped from outside without losing what it holds, so
//! stopping is a value that every task looks at where it waits anyway, beside its other events in
//! one `select!`. No thread has to be woken by a trick, and no call has to be interrupted.

use std::{io, process};

use contract::settings::EXIT_SECOND_SIGNAL;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// What still goes on; phases follow one another in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Everything.
    Running,
    /// No more deliveries are taken; requests are.
    NoConsuming,
    /// No more requests are taken; confirms are awaited.
    NoServing,
    /// Nothing is published any more.
    NoPublishing,
}

/// Tells every task what still goes on.
///
/// A `watch` channel and not a `Notify`: it keeps its value, so that a task which looks late
/// learns of the phase all the same; and not a broadcast, since only the latest phase matters.
#[derive(Debug)]
pub struct Phases(watch::Sender<Phase>);

impl Phases {
    /// Everything goes on.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }

    /// Enters `phase`.
    pub fn enter(&self, phase: Phase) {
        log::info!("entering {phase:?}");
        self.0.send_replace(phase);
    }

    /// A view for one task.
    #[must_use]
    pub fn view(&self) -> PhaseView {
        PhaseView(self.0.subscribe())
    }
}

/// One task's view of the phases.
#[derive(Debug, Clone)]
pub struct PhaseView(watch::Receiver<Phase>);

impl PhaseView {
    /// Waits until `phase` has begun; returns at once if it has.
    ///
    /// Safe to drop half-way, as `select!` does: nothing is taken out of the channel by looking.
    pub async fn reached(&mut self, phase: Phase) {
        // An error means that the sender is gone, and with it the service.
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// If the kernel refuses the handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    ///
    /// The handler itself only writes a byte into a pipe, the one thing that is safe in it; the
    /// loop reads the pipe like any socket, and so a signal becomes an event among others.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Ends the process at once if another signal comes: whoever asks twice does not want to wait.
    pub async fn exit_on_next(mut self) {
        self.next().await;
        log::warn!("second signal: leaving without finishing");
        process::exit(EXIT_SECOND_SIGNAL.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_look_still_sees_the_phase() {
        let phases = Phases::new();
        let mut view = phases.view();
        phases.enter(Phase::NoServing);
        view.reached(Phase::NoConsuming).await;
        view.reached(Phase::NoServing).await;
    }
}
