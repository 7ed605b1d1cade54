//! The machine: what it is, whether it is quiet, and who used it during a window.

pub mod awake;
pub mod pinning;
pub mod priority;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::load::nanoseconds;
use crate::record::{Host, HostDuring, Layout};

/// PSI `some avg10` of the CPU below which a machine counts as quiet, in percent.
const QUIET_PRESSURE: f64 = 5.0;
/// CPU of other processes below which a machine counts as quiet, in cores.
const QUIET_FOREIGN_CORES: f64 = 0.02;

/// What the machine is.
#[must_use]
pub fn facts() -> Host {
    let cpuinfo = read("/proc/cpuinfo");
    let limits = read("/proc/self/limits");
    Host {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        cpu_model: after(&cpuinfo, "model name")
            .trim_start_matches([' ', ':', '\t'])
            .to_owned(),
        cores: u32::try_from(cores()).unwrap_or(u32::MAX),
        memory_bytes: 1024 * first_number(after(&read("/proc/meminfo"), "MemTotal:")),
        open_files_limit: after(&limits, "Max open files")
            .split_whitespace()
            .nth(1)
            .and_then(|hard| hard.parse().ok())
            .unwrap_or(0),
        cores_stay_awake: awake::cores_stay_awake(),
    }
}

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// Cores of the subject in a layout; `None` leaves it alone.
#[must_use]
pub fn subject_cpus(layout: Layout) -> Option<Vec<usize>> {
    match layout {
        Layout::Isolated if cores() > 1 => Some(vec![0]),
        Layout::Isolated | Layout::Shared | Layout::Native => None,
    }
}

/// Core of the generator, the sampler, the device and the broker; `None` leaves them alone.
#[must_use]
pub fn instrument_cpu(layout: Layout) -> Option<usize> {
    match layout {
        Layout::Isolated | Layout::Shared if cores() > 1 => Some(1),
        Layout::Isolated | Layout::Shared | Layout::Native => None,
    }
}

/// Runs `work` on the given cores and gives the calling thread its old ones back.
///
/// Threads and processes that `work` starts inherit the cores: this is how a subject has its
/// affinity before its first instruction.
///
/// # Errors
/// If the cores do not exist or are not allowed.
pub fn with_cpus<T>(cpus: Option<&[usize]>, work: impl FnOnce() -> T) -> std::io::Result<T> {
    let Some(cpus) = cpus else { return Ok(work()) };
    let before = sched_getaffinity(None)?;
    pin_current_thread(cpus)?;
    let result = work();
    sched_setaffinity(None, &before)?;
    Ok(result)
}

/// Pins the calling thread.
///
/// # Errors
/// If the cores do not exist or are not allowed.
pub fn pin_current_thread(cpus: &[usize]) -> std::io::Result<()> {
    Ok(sched_setaffinity(None, &cpu_set(cpus))?)
}

/// Allows this program, and every subject that it launches from now on, as many open files as the
/// hard limit does.
///
/// # Errors
/// If the system refuses, which it may not.
pub fn raise_open_files() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// Whether every thread of `pid` may run on exactly these cores; false if it has ended.
#[must_use]
pub fn is_pinned(pid: i32, cpus: &[usize]) -> bool {
    let wanted = cpu_set(cpus);
    let threads = tasks(pid);
    !threads.is_empty()
        && threads.into_iter().all(|tid| {
            let tid = rustix::process::Pid::from_raw(tid);
            tid.is_some() && sched_getaffinity(tid).is_ok_and(|set| set == wanted)
        })
}

fn cpu_set(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    set
}

/// Thread ids of a process; empty if it has ended.
#[must_use]
pub fn tasks(pid: i32) -> Vec<i32> {
    numbers_in(Path::new(&format!("/proc/{pid}/task")))
}

/// Every process id.
#[must_use]
pub fn processes() -> Vec<i32> {
    numbers_in(Path::new("/proc"))
}

fn numbers_in(folder: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return vec![];
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Parent and process group of a process that is not a zombie.
#[must_use]
pub fn parent_and_group(pid: i32) -> Option<(i32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold blanks and brackets; the numbers follow its last bracket.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// CPU of the calling thread since its start, in ns.
#[must_use]
pub fn own_cpu_ns() -> u64 {
    let time = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime));
    // CPU time is never negative.
    nanoseconds(time.unwrap_or_default())
}

/// On-CPU and run-queue waiting time of one thread in nanoseconds.
#[must_use]
pub fn schedstat(pid: i32, tid: i32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let mut fields = text.split_whitespace().map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

/// CPU of every user-space process since its start, in nanoseconds; and the stolen ticks.
#[derive(Debug, Clone)]
pub struct Reading {
    at: Instant,
    cpu_ns: BTreeMap<i32, u64>,
    stolen_ticks: u64,
    all_ticks: u64,
}

impl Reading {
    /// Reads the `schedstat` of every thread: a few milliseconds.
    ///
    /// `/proc/stat` would be quicker but counts in ticks of 10 ms, which is 2 % of a window of
    /// half a second: as much as the gate that rests on it.
    #[must_use]
    pub fn take() -> Self {
        let (stolen_ticks, all_ticks) = ticks(&read("/proc/stat"));
        Self {
            at: Instant::now(),
            cpu_ns: processes()
                .into_iter()
                .filter(|pid| parent_and_group(*pid).is_some_and(|(parent, _)| parent != KTHREADD))
                .map(|pid| (pid, cpu_ns(pid)))
                .collect(),
            stolen_ticks,
            all_ticks,
        }
    }

    /// What happened since `earlier`, told apart by whose process it was.
    #[must_use]
    pub fn since(&self, earlier: &Self, subject: &[i32], broker: &[i32]) -> HostDuring {
        let window_ns = self.at.duration_since(earlier.at).as_nanos() as f64;
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let (mut foreign, mut of_broker) = (0, 0);
        for (pid, cpu) in &self.cpu_ns {
            let used = cpu.saturating_sub(earlier.cpu_ns.get(pid).copied().unwrap_or(0));
            if broker.contains(pid) {
                of_broker += used;
            } else if *pid != own && !subject.contains(pid) {
                foreign += used;
            }
        }
        let all = self.all_ticks.saturating_sub(earlier.all_ticks).max(1);
        let stolen = self.stolen_ticks.saturating_sub(earlier.stolen_ticks);
        HostDuring {
            steal_ratio: stolen as f64 / all as f64,
            foreign_cores: foreign as f64 / window_ns,
            broker_cores: of_broker as f64 / window_ns,
        }
    }
}

/// Parent of every kernel thread; their work is done for somebody who is counted already.
const KTHREADD: i32 = 2;

fn cpu_ns(pid: i32) -> u64 {
    tasks(pid)
        .into_iter()
        .filter_map(|tid| schedstat(pid, tid))
        .map(|(cpu, _)| cpu)
        .sum()
}

fn ticks(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    (fields.get(7).copied().unwrap_or(0), fields.iter().sum())
}

/// Waits until the machine is quiet; returns what still disturbed it after `limit`.
#[must_use]
pub fn wait_until_quiet(limit: Duration, broker: &[i32], interrupt: &AtomicBool) -> Option<String> {
    let deadline = Instant::now() + limit;
    loop {
        let before = Reading::take();
        std::thread::sleep(Duration::from_millis(300));
        let foreign = Reading::take().since(&before, &[], broker).foreign_cores;
        let pressure = pressure();
        if foreign < QUIET_FOREIGN_CORES && pressure < QUIET_PRESSURE {
            return None;
        }
        if Instant::now() >= deadline || interrupt.load(Ordering::Relaxed) {
            return Some(format!(
                "the machine is not quiet: other processes use {foreign:.2} cores, \
                 CPU pressure (PSI, avg10) is {pressure:.1} %"
            ));
        }
    }
}

/// PSI `some avg10` of the CPU in percent; 0 where the kernel does not tell.
fn pressure() -> f64 {
    let text = read("/proc/pressure/cpu");
    after(text.lines().next().unwrap_or_default(), "avg10=")
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0.0)
}

/// Root of the workspace: the nearest folder upwards that holds `bench/scenarios`.
#[must_use]
pub fn workspace() -> PathBuf {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR"));
    let current = std::env::current_dir().unwrap_or_default();
    current
        .ancestors()
        .chain(built_from.ancestors())
        .find(|folder| folder.join("bench/scenarios").is_dir())
        .unwrap_or(&current)
        .to_owned()
}

/// Commit of the tree and whether it differs from it; `unknown` outside of a repository.
#[must_use]
pub fn commit(workspace: &Path) -> (String, bool) {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(workspace)
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return ("unknown".into(), false);
    };
    // Results are written by the run itself and say nothing of the code.
    let changes = git(&["status", "--porcelain", "--", ".", ":!results"]);
    (commit, changes.is_some_and(|changes| !changes.is_empty()))
}

/// `rustc --version`, or `unknown`.
#[must_use]
pub fn rustc() -> String {
    Command::new("rustc").arg("--version").output().map_or_else(
        |_| "unknown".into(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// FNV-1a hash of a file, hexadecimal; `unknown` if it cannot be read.
#[must_use]
pub fn file_hash(path: &Path) -> String {
    let Ok(bytes) = fs::read(path) else {
        return "unknown".into();
    };
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Rest of the first line behind `key`.
fn after<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.split_once(key))
        .map_or("", |(_, rest)| rest)
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let host = facts();
        assert!(host.cores > 0 && host.memory_bytes > 0 && host.open_files_limit > 0);
        assert!(!host.kernel.is_empty() && !host.cpu_model.is_empty());
    }

    #[test]
    fn own_work_is_not_foreign() {
        let before = Reading::take();
        let own = i32::try_from(std::process::id()).expect("pids are small");
        // By its own CPU time, because on a busy machine 50 ms may pass without any.
        while cpu_ns(own) - before.cpu_ns[&own] < 30_000_000 {}
        let after = Reading::take();
        let used = after.cpu_ns[&own] - before.cpu_ns[&own];
        assert!(used > 20_000_000, "{used}");
        assert!(after.since(&before, &[], &[]).broker_cores.abs() < f64::EPSILON);
    }

    #[test]
    fn a_child_inherits_the_cores_and_the_thread_gets_its_own_back() {
        let before = sched_getaffinity(None).expect("own thread");
        let mut child = with_cpus(Some(&[0]), || Command::new("sleep").arg("5").spawn())
            .expect("cpu 0 exists")
            .expect("sleep exists");
        let pid = i32::try_from(child.id()).expect("pids are small");
        assert!(is_pinned(pid, &[0]));
        child.kill().and_then(|()| child.wait()).expect("own child");
        assert!(sched_getaffinity(None).expect("own thread") == before);
    }

    #[test]
    fn a_missing_file_has_no_hash() {
        assert_eq!(file_hash(Path::new("/nowhere")), "unknown");
    }
}
