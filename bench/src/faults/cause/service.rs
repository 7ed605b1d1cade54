//! Faults of the service's own processes.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::super::stage::{Setup, Skip, Stage};
use super::Cause;

/// SIGKILL to every process of the service, which is then started again.
pub(in crate::faults) struct Killed;

impl Cause for Killed {
    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        stage.kill_service()
    }

    fn heal(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        // The fault ends when somebody starts it again: how long it takes to start is recovery.
        stage.ended = Some(Instant::now());
        stage.start_service()
    }
}

/// SIGKILL to one child; the service has to help itself.
pub(in crate::faults) struct ChildKilled {
    role: &'static str,
    holds_the_store: bool,
}

impl ChildKilled {
    pub(in crate::faults) fn amqp() -> Self {
        Self {
            role: "amqp",
            holds_the_store: true,
        }
    }

    pub(in crate::faults) fn rest() -> Self {
        Self {
            role: "rest",
            holds_the_store: false,
        }
    }
}

impl Cause for ChildKilled {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        match setup.model {
            "multi-process" => Ok(()),
            model => Err(Skip(format!("{model} has one process")).into()),
        }
    }

    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        let processes = stage.processes()?;
        let of_role = format!("--role={}", self.role);
        let child = processes
            .into_iter()
            .find(|pid| has_argument(*pid, &of_role));
        let child = child.and_then(Pid::from_raw);
        let child = child.with_context(|| format!("it has no {} process", self.role))?;
        if self.holds_the_store {
            stage.store_will_go()?;
        }
        kill_process(child, Signal::KILL).context("the child is gone")?;
        stage.ended = Some(Instant::now());
        if self.holds_the_store {
            stage.store_is_gone();
        }
        Ok(())
    }
}

fn has_argument(pid: i32, argument: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .any(|word| word == argument.as_bytes())
}

/// How long a service that was told to end goes on serving, in seconds: each answer of that time
/// announces the end of its connection. Without it a request may cross the end of a kept connection
/// on the wire, which HTTP/1.1 cannot tell from a failure.
const DRAIN_DELAY_S: u64 = 1;
/// When the store is asked for the last time, shortly before the end of that.
const LAST_QUESTION: Duration = Duration::from_millis(900);

/// SIGTERM under load: what is in flight shall be answered, and nothing be lost; then it is
/// started again.
pub(in crate::faults) struct Stopped;

impl Cause for Stopped {
    fn prepare(&mut self, setup: &mut Setup<'_>) -> anyhow::Result<()> {
        let delay = ("BC_DRAIN_DELAY_S".to_owned(), DRAIN_DELAY_S.to_string());
        setup.environment.extend([delay]);
        Ok(())
    }

    fn cause(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        stage.terminate_service()?;
        std::thread::sleep(LAST_QUESTION);
        stage.store_will_go()?;
        let stopped = stage.stop_service()?;
        stage.store_is_gone();
        stage.note("ms from SIGTERM to the end", stopped.stop_s * 1e3);
        Ok(())
    }

    fn heal(&mut self, stage: &mut Stage<'_>) -> anyhow::Result<()> {
        stage.ended = Some(Instant::now());
        stage.start_service()
    }
}
