//! Processes by number *and* start time, so that a reused number is never taken for ours.

use std::{
    io,
    time::{Duration, Instant},
};

use procfs::process::{Process, all_processes};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

use crate::host;

/// Pause between two looks at a process that shall end.
const POLL: Duration = Duration::from_millis(20);

/// Time for the kernel to remove a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A process for good: its number may be used again, number and start time are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Process number.
    pub pid: u32,
    /// Start in clock ticks since boot.
    pub started_ticks: u64,
}

impl Identity {
    /// The identity of a running process; `None` if there is none of this number.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
        // A zombie runs no more: it only waits for its parent, which may be nobody in a container.
        (stat.state != 'Z').then_some(Self {
            pid,
            started_ticks: stat.starttime,
        })
    }

    /// Whether this very process still runs.
    pub(super) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.is_alive()) {
            // It may end between the check and the signal, which is what was wanted.
            let _ = kill_process(pid, signal);
        }
    }
}

/// A process and everything below it.
pub(super) fn tree(root: Identity) -> Vec<Identity> {
    if !root.is_alive() {
        return Vec::new();
    }
    let parents: Vec<(u32, u32)> = all_processes()
        .into_iter()
        .flatten()
        .filter_map(|process| process.ok()?.stat().ok())
        .filter_map(|stat| Some((stat.pid.try_into().ok()?, stat.ppid.try_into().ok()?)))
        .collect();
    let mut pids = vec![root.pid];
    let mut next = 0;
    while let Some(&parent) = pids.get(next) {
        pids.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    pids.into_iter().filter_map(Identity::of).collect()
}

/// Ends a process and everything below it: asks the root first, then kills what is left after
/// `grace`.
pub(super) fn end(root: Identity, grace: Duration) {
    let members = tree(root);
    root.signal(Signal::TERM);
    await_end(&members, grace);
    for member in &members {
        member.signal(Signal::KILL);
    }
    await_end(&members, KILL_LIMIT);
}

/// Kills a process and everything below it, as a crash or the kernel would.
pub(super) fn kill(root: Identity) {
    let members = tree(root);
    for member in &members {
        member.signal(Signal::KILL);
    }
    await_end(&members, KILL_LIMIT);
}

fn await_end(members: &[Identity], limit: Duration) {
    let deadline = Instant::now() + limit;
    while members.iter().any(|member| member.is_alive()) && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
}

/// Processes of these names, whoever runs them.
pub(super) fn named(names: &[&str]) -> Vec<i32> {
    let bears = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| names.contains(&name.trim_end()))
    };
    host::processes().into_iter().filter(bears).collect()
}

/// Pins every thread of the processes to `cpus`; later threads inherit it.
///
/// # Errors
/// If a CPU does not exist or the processes belong to somebody else.
pub(super) fn pin(pids: &[i32], cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    for pid in pids {
        // The folder is read while threads come and go; one that is gone needs no pinning.
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let tid: Option<i32> = task.file_name().to_str().and_then(|name| name.parse().ok());
            match sched_setaffinity(tid.and_then(Pid::from_raw), &set) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep exists");
        let identity = Identity::of(child.id()).expect("runs");
        assert!(identity.is_alive());
        let stranger = Identity {
            started_ticks: identity.started_ticks + 1,
            ..identity
        };
        assert!(!stranger.is_alive(), "a reused number is not ours");
        end(stranger, Duration::ZERO);
        assert!(identity.is_alive(), "and is not killed");
        end(identity, Duration::from_secs(5));
        assert!(!identity.is_alive());
        child.wait().expect("reaped");
    }

    #[test]
    fn a_tree_holds_the_children() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .expect("sh exists");
        let root = Identity::of(shell.id()).expect("runs");
        let deadline = Instant::now() + Duration::from_secs(5);
        while tree(root).len() < 2 && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        let members = tree(root);
        assert_eq!(members.len(), 2);
        end(root, Duration::from_millis(200));
        assert!(members.iter().all(|member| !member.is_alive()));
        shell.wait().expect("reaped");
    }
}
