//! Starts a subject, waits until it is ready, and stops it so that nothing is left behind.

mod own_file;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::host;
use crate::http::{Client, Request};
use crate::sample::Family;
use crate::subject::tail;

pub use own_file::OwnFile;

/// What a subject prints when its port is open, before the address.
const LISTENING: &str = "listening on http://";
/// Time between two looks at a condition; short against a launch, long against a look.
const LOOK: Duration = Duration::from_millis(2);
/// Longest wait for one answer of `/readyz`; a connection that the subject lost is given up then.
const READY_ANSWER: Duration = Duration::from_millis(200);
/// Lines of stderr that an error quotes.
const QUOTED_LINES: usize = 12;

/// What to start and where.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// Name of the subject, for messages.
    pub name: String,
    /// Executable.
    pub executable: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// `BC_` variables; those of the instrument's own environment are not passed on.
    pub environment: BTreeMap<String, String>,
    /// Cores; `None` for all.
    pub cpus: Option<Vec<usize>>,
    /// File that gets the subject's stderr.
    pub stderr: PathBuf,
    /// Longest time from the start to ready.
    pub ready_within: Duration,
}

impl LaunchPlan {
    /// The command line without the machine's paths: of a file named by its whole path the name alone.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let executable = self.executable.to_string_lossy();
        let args = self.args.iter().map(String::as_str);
        let words = std::iter::once(executable.as_ref()).chain(args);
        words.map(without_folder).collect()
    }
}

fn without_folder(word: &str) -> String {
    let path = Path::new(word);
    let name = path.file_name().filter(|_| path.is_absolute());
    name.map_or_else(
        || word.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Why a subject did not come up or did not stay up.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The process did not start.
    #[error("cannot start {} ({})", name, executable.display())]
    Spawn {
        /// Subject.
        name: String,
        /// Executable.
        executable: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} ended ({status}) before it was ready; its stderr ends with:\n{stderr}")]
    Ended {
        /// Subject.
        name: String,
        /// Exit status.
        status: ExitStatus,
        /// Tail of stderr.
        stderr: String,
    },
    /// It did not open its port, or never answered `/readyz` with 200.
    #[error(
        "{name} was not ready within {within:?} ({last}); is the broker reachable for it? \
         Its stderr ends with:\n{stderr}"
    )]
    NotReady {
        /// Subject.
        name: String,
        /// Deadline.
        within: Duration,
        /// What was seen last.
        last: String,
        /// Tail of stderr.
        stderr: String,
    },
    /// Its threads run on other cores than asked for.
    #[error("{name} does not keep to its cores {cpus:?}: it must not change its own affinity")]
    Unpinned {
        /// Subject.
        name: String,
        /// Cores asked for.
        cpus: Vec<usize>,
    },
}

/// A subject that runs; dropping it kills its whole process tree.
#[derive(Debug)]
pub struct Running {
    plan: LaunchPlan,
    child: Child,
    family: Family,
    address: SocketAddr,
    started: Instant,
    ready_s: f64,
    exited: Option<ExitStatus>,
    /// When it was told to end.
    told: Option<Instant>,
    stopped: bool,
}

/// How a subject ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Stopped {
    /// Stop signal to exit in seconds.
    pub stop_s: f64,
    /// What was wrong with it, in words.
    pub faults: Vec<String>,
}

/// Starts a subject and waits until its port is open, not until it is ready.
///
/// # Errors
/// [`LaunchError`]; nothing is left behind then.
pub fn start(plan: LaunchPlan) -> Result<Running, LaunchError> {
    let started = Instant::now();
    let spawn_error = |source| LaunchError::Spawn {
        name: plan.name.clone(),
        executable: plan.executable.clone(),
        source,
    };
    let mut child = host::with_cpus(plan.cpus.as_deref(), || spawn(&plan))
        .and_then(|spawned| spawned)
        .map_err(spawn_error)?;
    let lines = first_line(child.stdout.take().expect("stdout is piped"));
    let mut running = Running {
        plan,
        family: Family::new(pid(&child)),
        child,
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        started,
        ready_s: 0.0,
        exited: None,
        told: None,
        stopped: false,
    };
    running.address = running.await_address(&lines)?;
    Ok(running)
}

fn spawn(plan: &LaunchPlan) -> std::io::Result<Child> {
    let mut command = Command::new(&plan.executable);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BC_") {
            command.env_remove(name);
        }
    }
    command
        .args(&plan.args)
        .envs(&plan.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&plan.stderr)?)
        // Its own group: Ctrl-C is for the instrument, which then stops the subject in order;
        // and the group still names the children when their parent has died.
        .process_group(0)
        .spawn()
}

/// Reads stdout on a thread, because a pipe has no read with a deadline. Ends with the subject.
fn first_line(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        // Nothing at all means that stdout was closed, which the end of the channel tells.
        if reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            // The receiver may have given up; then nobody wants the line.
            let _ = sender.send(line);
        }
        // Keep the pipe open and empty, so that a subject that prints more is not hurt.
        let _ = std::io::copy(&mut reader.take(u64::MAX), &mut std::io::sink());
    });
    receiver
}

impl Running {
    fn await_address(&mut self, lines: &Receiver<String>) -> Result<SocketAddr, LaunchError> {
        loop {
            match lines.recv_timeout(LOOK) {
                Ok(line) => {
                    let address = line.trim().strip_prefix(LISTENING).map(str::parse);
                    if let Some(Ok(address)) = address {
                        return Ok(address);
                    }
                    self.ended_or(&format!("stdout says {:?}", line.trim()), true)?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.ended_or("its port is not open", false)?;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.ended_or("its stdout is closed", false)?;
                    std::thread::sleep(LOOK);
                }
            }
        }
    }

    /// An error if the subject has ended or its time is over.
    fn ended_or(&mut self, last: &str, give_up: bool) -> Result<(), LaunchError> {
        if let Some(status) = self.ended() {
            return Err(LaunchError::Ended {
                name: self.plan.name.clone(),
                status,
                stderr: self.stderr_tail(),
            });
        }
        if give_up || self.started.elapsed() > self.plan.ready_within {
            return Err(LaunchError::NotReady {
                name: self.plan.name.clone(),
                within: self.plan.ready_within,
                last: last.to_owned(),
                stderr: self.stderr_tail(),
            });
        }
        Ok(())
    }

    /// Waits until `/readyz` answers 200, then reads the affinity of every thread back.
    ///
    /// # Errors
    /// [`LaunchError`] if it ends, is late, or does not keep to its cores.
    pub fn await_ready(&mut self) -> Result<(), LaunchError> {
        loop {
            match self.get_within("/readyz", READY_ANSWER) {
                Ok((200, _)) => break,
                Ok((status, body)) => {
                    self.ended_or(&format!("/readyz says {status} {body}"), false)?;
                }
                Err(error) => {
                    self.ended_or(
                        &format!("/readyz fails: {:#}", anyhow::anyhow!(error)),
                        false,
                    )?;
                }
            }
            std::thread::sleep(LOOK);
        }
        self.ready_s = self.started.elapsed().as_secs_f64();
        self.check_cores()
    }

    fn check_cores(&mut self) -> Result<(), LaunchError> {
        let Some(cpus) = self.plan.cpus.clone() else {
            return Ok(());
        };
        let wrong = |pid: &i32| !host::tasks(*pid).is_empty() && !host::is_pinned(*pid, &cpus);
        if self.living().iter().any(wrong) {
            return Err(LaunchError::Unpinned {
                name: self.plan.name.clone(),
                cpus,
            });
        }
        Ok(())
    }

    /// One `GET` on a connection of its own: status and body.
    ///
    /// # Errors
    /// If there is no answer within a second.
    pub fn get(&self, path: &str) -> Result<(u16, String), crate::http::Error> {
        self.get_within(path, Duration::from_secs(1))
    }

    fn get_within(&self, path: &str, limit: Duration) -> Result<(u16, String), crate::http::Error> {
        let mut client = Client::connect(self.address, limit)?;
        let headers = [("Connection", "close")];
        let request = Request {
            headers: &headers,
            ..Request::new("GET", path)
        };
        let response = client.exchange(&request)?;
        Ok((response.status, response.text()))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Process id of the launched process, and its process group.
    #[must_use]
    pub fn root(&self) -> i32 {
        pid(&self.child)
    }

    /// Every process of it that lives: those below the launched one, and those that were at an
    /// earlier look.
    pub fn living(&mut self) -> Vec<i32> {
        self.family.living()
    }

    /// Start to ready in seconds; 0 before.
    #[must_use]
    pub fn ready_s(&self) -> f64 {
        self.ready_s
    }

    /// Its exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            // An error would mean that it is not our child, which it is.
            self.exited = self.child.try_wait().ok().flatten();
        }
        self.exited
    }

    /// The last lines of its stderr.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        stderr_tail(&self.plan.stderr)
    }

    /// Sends SIGTERM once, and only to the launched process: how it stops its children is part of
    /// the contract.
    pub fn terminate(&mut self) {
        if self.exited.is_none() && self.told.is_none() {
            signal(self.root(), Signal::TERM);
        }
        self.told.get_or_insert_with(Instant::now);
    }

    /// Sends SIGTERM unless that was done, waits up to `grace` from then on, then kills whatever is
    /// left of the tree.
    ///
    /// # Panics
    /// Never: the process id comes from a living child.
    #[must_use]
    pub fn stop(mut self, grace: Duration) -> Stopped {
        let name = self.plan.name.clone();
        let mut faults = Vec::new();
        if let Some(status) = self.ended() {
            let stderr = self.stderr_tail();
            faults.push(format!(
                "{name} died in mid-run ({status}); stderr: {stderr}"
            ));
        }
        // Before the end: what outlives its parent cannot be told by its parent.
        self.living();
        self.terminate();
        let asked = self.told.unwrap_or_else(Instant::now);
        while self.ended().is_none() && asked.elapsed() < grace {
            std::thread::sleep(LOOK / 2);
        }
        let stop_s = asked.elapsed().as_secs_f64();
        match self.exited {
            None => faults.push(format!("{name} did not end within {grace:?} of SIGTERM")),
            Some(status) if faults.is_empty() && !status.success() => {
                let stderr = self.stderr_tail();
                faults.push(format!(
                    "{name} ended with {status} on SIGTERM; stderr: {stderr}"
                ));
            }
            Some(_) => {}
        }
        faults.extend(self.kill_rest());
        Stopped { stop_s, faults }
    }

    /// Kills what is left of the tree; a fault if something outlived its parent.
    fn kill_rest(&mut self) -> Option<String> {
        self.stopped = true;
        let orphans = match self.ended() {
            Some(_) => self.await_no_members(Duration::from_millis(200)),
            None => vec![],
        };
        self.kill_tree();
        (!orphans.is_empty()).then(|| {
            let name = &self.plan.name;
            format!("{name} left processes behind ({orphans:?}); they were killed")
        })
    }

    fn await_no_members(&mut self, limit: Duration) -> Vec<i32> {
        let since = Instant::now();
        loop {
            let living = self.living();
            if living.is_empty() || since.elapsed() > limit {
                return living;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn kill_tree(&mut self) {
        for pid in self.living() {
            signal(pid, Signal::KILL);
        }
        if let Some(group) = Pid::from_raw(self.root()) {
            // Fails if the group is empty, which is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
        if self.exited.is_none() {
            // It was killed: this returns at once.
            self.exited = self.child.wait().ok();
        }
        // A killed process is gone only when the kernel has got to it.
        self.await_no_members(Duration::from_secs(1));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.stopped {
            self.kill_tree();
        }
    }
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("process ids are positive i32")
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // Fails if it has just ended, which is fine.
        let _ = kill_process(pid, signal);
    }
}

fn stderr_tail(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        // What cannot be read cannot be quoted.
        let _ = file.read_to_string(&mut text);
    }
    tail(&text, QUOTED_LINES)
}

#[cfg(test)]
mod tests;
