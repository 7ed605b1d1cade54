//! Proof of the layout: where threads may run, and how often they have moved.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::tasks;
use crate::record::Placement;

/// Every thread of these processes: process and thread id.
#[must_use]
pub fn threads(pids: &[i32]) -> Vec<(i32, i32)> {
    let of = |&pid: &i32| tasks(pid).into_iter().map(move |tid| (pid, tid));
    pids.iter().flat_map(of).collect()
}

/// One look at some threads.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Moves to another core since its start, by thread; `None` where the kernel does not tell.
    migrations: BTreeMap<i32, Option<u64>>,
    strays: u32,
    example: String,
}

impl Look {
    /// Reads the affinity of each thread back and holds it against the cores that it may use;
    /// `None` allows every core. Threads that have ended are left out.
    #[must_use]
    pub fn at(threads: &[(i32, i32)], allowed: Option<&[usize]>) -> Self {
        let mut look = Self::default();
        for &(pid, tid) in threads {
            let Some(Ok(set)) = Pid::from_raw(tid).map(|tid| sched_getaffinity(Some(tid))) else {
                continue;
            };
            look.migrations.insert(tid, migrations(pid, tid));
            if allowed.is_some_and(|allowed| cores(&set).any(|cpu| !allowed.contains(&cpu))) {
                look.strays += 1;
                look.example = format!("thread {tid} {} may run on {}", name(pid, tid), list(&set));
            }
        }
        look
    }

    /// What this look and a later one at the same threads say.
    #[must_use]
    pub fn until(&self, later: &Self, allowed: Option<&[usize]>) -> Placement {
        let moved = later.migrations.iter().map(|(tid, now)| {
            let before = self.migrations.get(tid).copied().flatten();
            // One that began in between has made all of its moves in between.
            now.map(|now| now.saturating_sub(before.unwrap_or(0)))
        });
        let worst = if later.strays >= self.strays {
            later
        } else {
            self
        };
        Placement {
            allowed: allowed.map(<[usize]>::to_vec),
            threads: u32::try_from(later.migrations.len()).unwrap_or(u32::MAX),
            strays: worst.strays,
            example: worst.example.clone(),
            migrations: moved.sum(),
        }
    }
}

fn cores(set: &CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu))
}

fn list(set: &CpuSet) -> String {
    let cores: Vec<_> = cores(set).map(|cpu| cpu.to_string()).collect();
    format!("cpu {}", cores.join(","))
}

fn name(pid: i32, tid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"));
    name.unwrap_or_default().trim().to_owned()
}

/// `se.nr_migrations` of one thread; kernels without scheduler debugging do not have it.
fn migrations(pid: i32, tid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/sched")).ok()?;
    parse_migrations(&text)
}

fn parse_migrations(sched: &str) -> Option<u64> {
    let line = sched
        .lines()
        .find_map(|line| line.strip_prefix("se.nr_migrations"))?;
    line.trim_start_matches([' ', ':']).trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    fn own_thread() -> [(i32, i32); 1] {
        let pid = i32::try_from(std::process::id()).expect("pids are small");
        [(pid, rustix::thread::gettid().as_raw_nonzero().get())]
    }

    #[test]
    fn migrations_are_found_among_the_schedulers_figures() {
        let text = "x (1, #threads: 1)\n---\nse.nr_migrations    :        20\nnr_switches : 7\n";
        assert_eq!(parse_migrations(text), Some(20));
        assert_eq!(parse_migrations("nr_switches : 7\n"), None);
    }

    #[test]
    fn a_thread_that_is_let_go_between_two_looks_strays() {
        let thread = own_thread();
        let before = sched_getaffinity(None).expect("own thread");
        host::pin_current_thread(&[0]).expect("cpu 0 exists");
        let first = Look::at(&thread, Some(&[0]));
        let kept = first.until(&Look::at(&thread, Some(&[0])), Some(&[0]));
        assert_eq!((kept.threads, kept.strays), (1, 0));
        rustix::thread::sched_setaffinity(None, &before).expect("its own cores");
        let let_go = first.until(&Look::at(&thread, Some(&[0])), Some(&[0]));
        if host::cores() > 1 {
            assert_eq!(let_go.strays, 1);
            assert!(let_go.example.contains("may run on cpu 0,1"), "{let_go:?}");
        }
        assert_eq!(Look::at(&thread, None).strays, 0, "every core is allowed");
    }

    #[test]
    fn a_thread_that_is_sent_to_the_other_core_has_migrated() {
        let thread = own_thread();
        let look = || Look::at(&thread, None);
        if host::cores() < 2 || look().until(&look(), None).migrations.is_none() {
            return; // There is nowhere to go, or the kernel does not tell.
        }
        host::pin_current_thread(&[0]).expect("cpu 0 exists");
        let first = look();
        host::pin_current_thread(&[1]).expect("cpu 1 exists");
        assert_eq!(first.until(&look(), None).migrations, Some(1));
    }
}
