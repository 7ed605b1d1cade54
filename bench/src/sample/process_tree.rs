//! The real sampler: `schedstat`, `stat`, `status` and `smaps_rollup` of a process tree.

use std::collections::{BTreeMap, BTreeSet};

use procfs::process::Process;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::Sampler;
use super::task::Task;
use crate::host;
use crate::record::Sample;

/// The living processes below `root` (it included) and those in its process group.
///
/// The group also holds children whose parent has ended, as under `--detach`.
#[must_use]
pub fn members(root: i32) -> Vec<i32> {
    let all = relations();
    let own = all
        .iter()
        .filter(|(pid, (_, group))| *pid == root || *group == root)
        .map(|(pid, _)| *pid);
    with_children(own.collect(), &all).into_iter().collect()
}

/// The living processes below `root`, it not included; those whose parent has ended are not found.
#[must_use]
pub fn descendants(root: i32) -> Vec<i32> {
    let found = with_children(BTreeSet::from([root]), &relations());
    found.into_iter().filter(|pid| *pid != root).collect()
}

/// Every process with its parent and its group.
fn relations() -> Vec<(i32, (i32, i32))> {
    host::processes()
        .into_iter()
        .filter_map(|pid| host::parent_and_group(pid).map(|relation| (pid, relation)))
        .collect()
}

fn with_children(mut members: BTreeSet<i32>, all: &[(i32, (i32, i32))]) -> BTreeSet<i32> {
    loop {
        let before = members.len();
        let children: Vec<_> = all
            .iter()
            .filter(|(_, (parent, _))| members.contains(parent))
            .map(|(pid, _)| *pid)
            .collect();
        members.extend(children);
        if members.len() == before {
            return members;
        }
    }
}

/// The processes of a tree for as long as they live.
///
/// One that was seen once is found again when its parent has ended, although it then has another
/// parent and may have a process group of its own, so that [`members`] knows nothing of it.
#[derive(Debug)]
pub struct Family {
    root: i32,
    seen: BTreeSet<i32>,
}

impl Family {
    /// The tree below `root`; who is in it shows at the first look.
    #[must_use]
    pub fn new(root: i32) -> Self {
        Self {
            root,
            seen: BTreeSet::new(),
        }
    }

    /// Those of the tree, and of the tree at any earlier look, that live.
    pub fn living(&mut self) -> Vec<i32> {
        self.seen.extend(members(self.root));
        self.seen
            .retain(|pid| host::parent_and_group(*pid).is_some());
        self.seen.iter().copied().collect()
    }
}

/// Threads whose files stay open at the most.
const MOST_OPEN: usize = 1_000;

/// Counters of one process.
#[derive(Debug, Clone, Copy, Default)]
struct Ticks {
    user: u64,
    system: u64,
}

/// Samples a process tree.
///
/// Threads and processes that have ended keep their last seen counters, so that a sum never
/// falls; what they did between the last look and their end is lost.
#[derive(Debug)]
pub struct ProcessTree {
    root: i32,
    members: Vec<i32>,
    tasks: BTreeMap<(i32, i32), Task>,
    ticks: BTreeMap<i32, Ticks>,
    system: Option<System>,
    /// The last sample with sizes.
    last: Option<Sample>,
}

impl ProcessTree {
    /// The tree below `root`, as it is now.
    #[must_use]
    pub fn new(root: i32) -> Self {
        Self {
            root,
            members: members(root),
            tasks: BTreeMap::new(),
            ticks: BTreeMap::new(),
            // Without it there is no RSS; everything else comes from procfs.
            system: System::new().ok(),
            last: None,
        }
    }

    /// Processes as last discovered.
    #[must_use]
    pub fn members(&self) -> &[i32] {
        &self.members
    }

    /// On-CPU time of the tree in nanoseconds: the cheap part of a sample.
    pub fn cpu_ns(&mut self) -> u64 {
        for &pid in &self.members {
            for tid in host::tasks(pid) {
                let task = self.tasks.entry((pid, tid)).or_default();
                task.read_cpu(pid, tid);
            }
        }
        self.tasks.values().map(|task| task.cpu_ns).sum()
    }

    /// A sample without sizes; `None` if nobody lives.
    fn counted(&mut self, t_ms: f64) -> Option<Sample> {
        // CPU first: it is what must belong to the instant.
        let mut sample = Sample {
            t_ms,
            cpu_ns: self.cpu_ns(),
            ..Sample::default()
        };
        self.read_counters(&mut sample);
        (sample.processes > 0).then_some(sample)
    }

    /// Reads the switches of every thread; how many live.
    fn read_switches(&mut self) -> u32 {
        let (mut threads, many) = (0, self.tasks.len() > MOST_OPEN);
        for task in self.tasks.values_mut() {
            threads += u32::from(task.read_switches());
            if many {
                task.close();
            }
        }
        threads
    }

    /// The counters of each process, and how many threads and processes there are.
    fn read_counters(&mut self, sample: &mut Sample) {
        let ns_per_tick = 1_000_000_000 / procfs::ticks_per_second();
        for pid in self.members.clone() {
            let Ok(process) = Process::new(pid) else {
                continue;
            };
            if let Ok(stat) = process.stat() {
                let ticks = self.ticks.entry(process.pid).or_default();
                ticks.user = stat.utime * ns_per_tick;
                ticks.system = stat.stime * ns_per_tick;
            }
            sample.processes += 1;
        }
        sample.threads = self.read_switches();
        for task in self.tasks.values() {
            sample.run_queue_wait_ns += task.wait_ns;
            sample.voluntary_switches += task.voluntary;
            sample.involuntary_switches += task.involuntary;
        }
        for ticks in self.ticks.values() {
            sample.user_ns += ticks.user;
            sample.system_ns += ticks.system;
        }
    }

    fn read_sizes(&mut self, sample: &mut Sample) {
        for &pid in &self.members {
            let Ok(process) = Process::new(pid) else {
                continue;
            };
            if let Ok(rollup) = process.smaps_rollup() {
                for map in rollup.memory_map_rollup {
                    let of = |name: &str| map.extension.map.get(name).copied().unwrap_or(0);
                    sample.pss_bytes += of("Pss");
                    sample.uss_bytes += of("Private_Clean") + of("Private_Dirty");
                }
            }
            let status = process.status().ok();
            let page_tables = status.and_then(|status| status.vmpte);
            sample.page_table_bytes += page_tables.unwrap_or(0) * 1024;
        }
        sample.rss_bytes = self.rss_bytes();
    }

    /// RSS by `sysinfo`, which reads it on every system that it knows.
    fn rss_bytes(&mut self) -> u64 {
        let pids: Vec<_> = self
            .members
            .iter()
            .filter_map(|pid| usize::try_from(*pid).ok())
            .map(Pid::from)
            .collect();
        let Some(system) = &mut self.system else {
            return 0;
        };
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&pids),
            true,
            ProcessRefreshKind::nothing().with_memory().without_tasks(),
        );
        let process = |pid| system.process(pid).map(sysinfo::Process::memory);
        pids.into_iter().filter_map(process).sum()
    }
}

impl Sampler for ProcessTree {
    fn sample(&mut self, t_ms: f64) -> Option<Sample> {
        let mut sample = self.counted(t_ms)?;
        self.read_sizes(&mut sample);
        self.last = Some(sample);
        Some(sample)
    }

    fn counters(&mut self, t_ms: f64) -> Option<Sample> {
        let Some(last) = self.last else {
            return self.sample(t_ms);
        };
        Some(Sample {
            pss_bytes: last.pss_bytes,
            uss_bytes: last.uss_bytes,
            rss_bytes: last.rss_bytes,
            page_table_bytes: last.page_table_bytes,
            ..self.counted(t_ms)?
        })
    }

    fn discover(&mut self) {
        self.members = members(self.root);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_tree_is_found_and_counted_with_its_children() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 5 & wait"])
            .spawn()
            .expect("sh exists");
        let root = i32::try_from(shell.id()).expect("pids are small");
        let mut tree = ProcessTree::new(root);
        while tree.members().len() < 2 {
            tree.discover();
        }
        let sample = tree.sample(0.0).expect("it lives");
        assert_eq!(sample.processes, 2);
        assert_eq!(sample.threads, 2);
        assert!(sample.cpu_ns > 0 && sample.pss_bytes > 0);
        assert!(sample.page_table_bytes >= 2 * 4096, "{sample:?}");
        assert!(sample.uss_bytes <= sample.pss_bytes && sample.pss_bytes <= sample.rss_bytes);
        for pid in tree.members().iter().rev() {
            let pid = rustix::process::Pid::from_raw(*pid).expect("not zero");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("own child");
        }
        shell.wait().expect("own child");
    }

    #[test]
    fn nothing_is_sampled_once_the_tree_has_ended() {
        let mut child = Command::new("true").spawn().expect("true exists");
        let root = i32::try_from(child.id()).expect("pids are small");
        child.wait().expect("own child");
        assert_eq!(ProcessTree::new(root).sample(0.0), None);
    }
}
