//! Starts the other processes, restarts what crashed, and stops everything in order.
//!
//! Particular to processes: what a crash takes with it ends at the edge of its process. The kernel
//! frees its memory and sockets, the other half goes on, and all that is left to do is to start a
//! new one. No thread and no task can be ended and begun anew like that.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixListener,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use contract::settings::EXIT_CONFIG;
use domain::Backoff;
use rustix::process::{Pid, Signal};

use crate::{
    config::{Config, Role},
    ipc,
    rest::sockets,
    server::ServiceError,
    shutdown::{Deadline, Fatal, Signals},
};

/// A child that lived this long was healthy: the next crash starts again from the shortest delay.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Time for a child to get as far as handling signals, and between two looks.
const START_PATIENCE: Duration = Duration::from_secs(1);
const START_STEP: Duration = Duration::from_millis(1);
/// How long newcomers may take to be accepted before the listener is closed.
const BACKLOG_PATIENCE: Duration = Duration::from_millis(250);
/// The supervisor's own time on top of the children's grace, so that they can tell what they dropped.
const MARGIN: Duration = Duration::from_millis(500);

/// Starts every process; then stays as supervisor, or exits at once if detached.
///
/// The supervisor has one thread and no state of the service: the less the one process can do whose
/// crash ends everything, the less it can crash.
///
/// # Errors
/// If a child cannot be started, says that waiting will not help, or had to be killed.
pub fn run(config: &Config, http: TcpListener, signals: &Signals) -> Result<(), ServiceError> {
    let name = ipc::unique_name();
    let ipc = ipc::bind(&name)?;
    let mut family = Family::start(config, Sockets { http, ipc, name })?;
    if config.detach {
        family.announce();
        return Ok(());
    }
    let outcome = family.watch(signals);
    outcome.and(family.stop(signals))
}

/// The listening sockets, bound once and handed down.
///
/// Both outlive every child: while a crashed process is replaced, the kernel keeps new connections
/// in the backlog in place of refusing them. With `SO_REUSEPORT` and a bind in each child the
/// connections that wait in a crashed child's own backlog would be reset.
#[derive(Debug)]
struct Sockets {
    /// Shared by all REST processes: whichever is blocked in `accept` longest gets the next client,
    /// which spreads clients evenly, as an epoll loop in each would not.
    http: TcpListener,
    /// Kept here only to be handed to the next AMQP process.
    ipc: UnixListener,
    name: String,
}

impl Sockets {
    /// The socket that a child serves, as its stdin: the convention of inetd, and the one descriptor
    /// that a child finds without `unsafe` and without a number on the command line.
    fn stdin_of(&self, role: Role) -> io::Result<Stdio> {
        let socket: OwnedFd = match role {
            Role::Amqp => self.ipc.try_clone()?.into(),
            Role::Rest => self.http.try_clone()?.into(),
        };
        Ok(Stdio::from(socket))
    }
}

/// One child, or its absence between a crash and the restart.
#[derive(Debug)]
struct Member {
    role: Role,
    /// `None` between its end and its restart.
    process: Option<Child>,
    started: Instant,
    /// When the next attempt is due.
    restart_at: Option<Instant>,
    /// The same delays as for the broker: a child that crashes at once must not busy the machine.
    backoff: Backoff,
}

/// All children.
struct Family<'a> {
    config: &'a Config,
    sockets: Sockets,
    /// Told to the children, so that all of them give the same answer.
    started_ms: u64,
    members: Vec<Member>,
}

impl<'a> Family<'a> {
    /// Starts one AMQP process and as many REST processes as configured.
    fn start(config: &'a Config, sockets: Sockets) -> io::Result<Self> {
        let started_ms = domain::UnixMs::from_system(std::time::SystemTime::now()).0;
        let mut family = Self {
            config,
            sockets,
            started_ms,
            members: Vec::new(),
        };
        let rest = std::iter::repeat_n(Role::Rest, config.settings.http_workers);
        for role in std::iter::once(Role::Amqp).chain(rest) {
            let process = Some(family.spawn(role, false)?);
            let started = Instant::now();
            let member = Member {
                role,
                process,
                started,
                restart_at: None,
                backoff: Backoff::default(),
            };
            family.members.push(member);
        }
        Ok(family)
    }

    /// Starts this very program again in a role.
    ///
    /// A fork without exec would share the parent's memory copy-on-write, but inherit its locks in
    /// whatever state they are; exec starts clean, and the code pages are shared all the same.
    fn spawn(&self, role: Role, again: bool) -> io::Result<Child> {
        // Not by its path: if the file was replaced meanwhile (an upgrade), a restarted child would be
        // of another version than its siblings.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("service-multi-process")
            .args(std::env::args_os().skip(1))
            .arg(format!("--role={}", role.as_str()))
            .arg(format!("--ipc-name={}", self.sockets.name))
            .arg(format!("--started-ms={}", self.started_ms))
            .stdin(self.sockets.stdin_of(role)?)
            // stdout belongs to the one line of the first process.
            .stdout(Stdio::null())
            // A group of its own: Ctrl-C in a terminal reaches the supervisor alone, which passes
            // it on once; two signals would mean "at once".
            .process_group(0);
        if !self.config.detach {
            command.arg(format!("--supervisor={}", std::process::id()));
        }
        if again {
            command.arg("--again");
        }
        command.spawn()
    }

    /// Prints the pids, the only handle that is left of detached processes.
    fn announce(&self) {
        for member in &self.members {
            if let Some(process) = &member.process {
                eprintln!("{} pid {}", member.role.as_str(), process.id());
            }
        }
    }

    /// Restarts what crashes, until a stop is asked for.
    ///
    /// Everything that can happen ends the one sleep: SIGCHLD, a signal to stop, or the time of a
    /// restart. Signals of the same kind that come together arrive as one, so every child is looked
    /// at whichever it was.
    ///
    /// # Errors
    /// If a child says that trying again is of no use.
    fn watch(&mut self, signals: &Signals) -> Result<(), ServiceError> {
        while !signals.asked_to_stop() {
            let next = self
                .members
                .iter()
                .filter_map(|member| member.restart_at)
                .min();
            signals.wait_until(next);
            if signals.asked_to_stop() {
                break;
            }
            for index in 0..self.members.len() {
                self.look_after(index)?;
            }
        }
        Ok(())
    }

    /// Notes that a child has ended (which also frees its entry in the process table), or starts the next one when its time has come.
    fn look_after(&mut self, index: usize) -> Result<(), ServiceError> {
        let member = &mut self.members[index];
        if let Some(status) = member.ended()? {
            if status.code() == Some(i32::from(EXIT_CONFIG)) {
                return Err(Fatal::GaveUp(member.role.as_str()).into());
            }
            member.plan_restart(status, fastrand::f64());
        }
        if member.restart_at.is_some_and(|at| at <= Instant::now()) {
            let process = self.spawn(self.members[index].role, true)?;
            self.members[index].restarted(process);
        }
        Ok(())
    }

    /// Ends every child: SIGTERM to all, which work out their order among themselves (the AMQP
    /// process stays until the REST processes are gone), then SIGKILL to what is left.
    ///
    /// Told at once and stopped later: from the signal on they say that they are not ready, and each
    /// goes on serving for the drain delay, which a load balancer needs to notice.
    fn stop(self, signals: &Signals) -> Result<(), ServiceError> {
        let Self {
            config,
            sockets: listeners,
            mut members,
            ..
        } = self;
        members.iter().for_each(Member::await_handler);
        signal_all(&members, Signal::TERM);
        let mut failed = Vec::new();
        let closing = Deadline::after(config.drain_delay());
        wait_for_all(&mut members, &mut failed, closing, signals);
        // Whoever has come is accepted, as long as somebody accepts.
        sockets::await_empty_backlog(&listeners.http, Instant::now() + BACKLOG_PATIENCE);
        // Whoever comes now is refused and does not wait in vain; the socket is shared, so this ends
        // `accept` in every REST process at once, and they finish what they have.
        let _ = rustix::net::shutdown(&listeners.http, rustix::net::Shutdown::Both);
        drop(listeners);
        let grace = Duration::from_secs(config.settings.grace_s);
        wait_for_all(
            &mut members,
            &mut failed,
            Deadline::after(grace + MARGIN),
            signals,
        );
        for member in members.iter().filter(|member| member.process.is_some()) {
            failed.push(format!("the {} process was killed", member.role.as_str()));
        }
        signal_all(&members, Signal::KILL);
        if failed.is_empty() {
            Ok(())
        } else {
            Err(ServiceError::Dropped(failed.join(", ")))
        }
    }
}

/// Waits until all children have ended, or until the deadline.
fn wait_for_all(
    members: &mut [Member],
    failed: &mut Vec<String>,
    deadline: Deadline,
    signals: &Signals,
) {
    while reap(members, failed) > 0 && !deadline.left().is_zero() {
        signals.wait_until(Some(deadline.at()));
    }
}

/// Collects ended children; returns how many still run.
fn reap(members: &mut [Member], failed: &mut Vec<String>) -> usize {
    for member in &mut *members {
        // A child that dies of the signal itself had not got as far as handling it: it was about to
        // start, and has nothing to drop.
        if let Ok(Some(status)) = member.ended()
            && !status.success()
            && status.signal() != Some(Signal::TERM.as_raw())
        {
            failed.push(format!("the {} process: {status}", member.role.as_str()));
        }
    }
    members
        .iter()
        .filter(|member| member.process.is_some())
        .count()
}

/// Whether a process handles `signal`, by the text of its `/proc/<pid>/status`.
fn handles(status: &str, signal: Signal) -> bool {
    let mut lines = status.lines();
    let caught = lines.find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

/// Sends a signal to every child.
fn signal_all(members: &[Member], signal: Signal) {
    for process in members.iter().filter_map(|member| member.process.as_ref()) {
        // A child that is not yet waited for keeps its pid, so this cannot hit a stranger.
        let _ = rustix::process::kill_process(Pid::from_child(process), signal);
    }
}

impl Member {
    /// Waits for a child that has just been started to handle signals: one that comes before would end
    /// it there and then, with the clients that wait in the listener's backlog.
    ///
    /// It takes some milliseconds, once, and nothing tells of it but the kernel's table.
    fn await_handler(&self) {
        let Some(process) = &self.process else { return };
        let path = format!("/proc/{}/status", process.id());
        let deadline = Deadline::after(START_PATIENCE);
        while let Ok(status) = fs::read_to_string(&path)
            && !handles(&status, Signal::TERM)
            && !deadline.left().is_zero()
        {
            thread::sleep(START_STEP);
        }
    }

    /// The status of the child if it has ended since the last look.
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let status = process.try_wait()?;
        if status.is_some() {
            self.process = None;
        }
        Ok(status)
    }

    /// Plans the restart of a crashed child, later and later if it keeps crashing.
    fn plan_restart(&mut self, status: ExitStatus, random: f64) {
        if self.started.elapsed() > HEALTHY_AFTER {
            self.backoff = Backoff::default();
        }
        let delay = self.backoff.next(random);
        log::error!(
            "the {} process ended ({status}); restart in {delay:.1?}",
            self.role.as_str()
        );
        self.restart_at = Some(Instant::now() + delay);
    }

    fn restarted(&mut self, process: Child) {
        self.process = Some(process);
        self.started = Instant::now();
        self.restart_at = None;
    }
}

/// Ties this child to its supervisor (or a job to the process that wants it): the kernel sends SIGTERM
/// when that one is gone, however it went, so that no orphan is ever left.
///
/// The signal is armed from here on only; the supervisor may have died a moment before, which
/// the pid of the parent tells. (SIGTERM and not SIGKILL: a child in full flight still has acks to
/// send.)
///
/// # Errors
/// If the kernel refuses, or the supervisor is gone already.
pub fn tie_to(supervisor: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    let parent = rustix::process::getppid().map_or(0, Pid::as_raw_pid);
    if parent == supervisor {
        Ok(())
    } else {
        Err(io::Error::other("whoever started this process is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_which_signals_a_process_handles() {
        let status = "Name:\tx\nSigIgn:\t0000000000004000\nSigCgt:\t0000000180004002\n";
        assert!(handles(status, Signal::TERM) && handles(status, Signal::INT));
        assert!(!handles(status, Signal::HUP));
        assert!(!handles("", Signal::TERM));
        let own = fs::read_to_string("/proc/self/status").expect("Linux");
        assert!(!handles(&own, Signal::TERM));
    }
}
