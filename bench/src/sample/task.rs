//! Counters of one thread.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Room for `status`, which is the longer one of the two files.
const BYTES: usize = 4096;

/// Counters of one thread as last seen.
#[derive(Debug, Default)]
pub(super) struct Task {
    /// On a core.
    pub(super) cpu_ns: u64,
    /// Runnable without a core.
    pub(super) wait_ns: u64,
    /// Voluntary context switches.
    pub(super) voluntary: u64,
    /// Involuntary context switches.
    pub(super) involuntary: u64,
    /// Whether it ran since its switches were read.
    ran: bool,
    /// Its files while they are open: to read them again costs a quarter of opening them.
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    schedstat: File,
    status: File,
}

impl Files {
    fn open(pid: i32, tid: i32) -> Option<Self> {
        let open = |name| File::open(format!("/proc/{pid}/task/{tid}/{name}")).ok();
        Some(Self {
            schedstat: open("schedstat")?,
            status: open("status")?,
        })
    }
}

impl Task {
    /// Reads how long it ran and waited; opens its files for it, again if another thread has its number
    /// now.
    pub(super) fn read_cpu(&mut self, pid: i32, tid: i32) {
        if self.try_cpu().is_none() {
            self.files = Files::open(pid, tid);
            if self.try_cpu().is_none() {
                // It has just ended: what was seen stays.
                self.files = None;
            }
        }
    }

    fn try_cpu(&mut self) -> Option<()> {
        let files = self.files.as_ref()?;
        let (cpu_ns, wait_ns) = read(&files.schedstat, |text| {
            let mut fields = text.split_whitespace().map(str::parse);
            Some((fields.next()?.ok()?, fields.next()?.ok()?))
        })?;
        self.ran |= self.cpu_ns != cpu_ns;
        (self.cpu_ns, self.wait_ns) = (cpu_ns, wait_ns);
        Some(())
    }

    /// Reads the switches behind [`Task::read_cpu`], if it ran at all; whether the thread lives.
    pub(super) fn read_switches(&mut self) -> bool {
        let Some(files) = &self.files else {
            return false;
        };
        if !self.ran {
            return true;
        }
        let found = read(&files.status, |text| {
            let voluntary = number(text, "\nvoluntary_ctxt_switches:")?;
            Some((voluntary, number(text, "\nnonvoluntary_ctxt_switches:")?))
        });
        let Some((voluntary, involuntary)) = found else {
            return false;
        };
        (self.voluntary, self.involuntary) = (voluntary, involuntary);
        self.ran = false;
        true
    }

    /// Gives its files back.
    pub(super) fn close(&mut self) {
        self.files = None;
    }
}

/// Reads a file from its begin and takes something out of it.
fn read<T>(file: &File, take: impl Fn(&str) -> Option<T>) -> Option<T> {
    let mut bytes = [0; BYTES];
    let count = file.read_at(&mut bytes, 0).ok()?;
    // A thread may have any bytes for its name.
    take(&String::from_utf8_lossy(&bytes[..count]))
}

fn number(text: &str, key: &str) -> Option<u64> {
    let (_, rest) = text.split_once(key)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_thread_is_counted_again_and_again_and_its_end_is_seen() {
        let mut child = std::process::Command::new("sleep")
            .arg("5")
            .spawn()
            .expect("sleep exists");
        let pid = i32::try_from(child.id()).expect("pids are small");
        let mut task = Task::default();
        // The kernel accounts for a stretch on a core when it ends, or at a tick.
        let since = Instant::now();
        while task.cpu_ns == 0 && since.elapsed() < Duration::from_secs(4) {
            task.read_cpu(pid, pid);
        }
        assert!(task.cpu_ns > 0 && task.read_switches());
        let (cpu_ns, files) = (task.cpu_ns, task.files.is_some());
        assert!(files);
        child.kill().and_then(|()| child.wait()).expect("own child");
        task.read_cpu(pid, pid);
        assert!(task.cpu_ns == cpu_ns && !task.read_switches());
    }
}
