//! Runs the jobs that clients start: timer, io, cpu and blocking.
//!
//! Particular to threads: a job is a thread, whatever it does; the kernel shares the processors
//! out, so a job that computes takes its share from the requests and stops none of them.
//! What it costs is a stack for each, also for those that only wait, and that nobody can stop a
//! thread from outside: it looks up between its steps whether it is still wanted.
//! Nobody joins these threads, and the process does not wait for them either.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use contract::{
    Problem, ProblemKind,
    limits::{DEVICE_POOL_TIMEOUT, DEVICE_TIMEOUT},
    shapes::{Job, JobKind, JobRequest, JobStatus},
};
use domain::{
    jobs::{IO_COMMAND, IO_INTERVAL},
    work,
};

use crate::{
    device::Pool,
    shutdown::{StopSource, StopToken, stop_pair},
    state::{State, lock},
};

/// Longest call that a job of kind `blocking` makes: so late does it learn that it is cancelled.
const STEP: Duration = Duration::from_millis(50);

/// The jobs of the service.
///
/// A mutex, because whoever asks wants an answer now and the answer is a look into a table.
#[derive(Default)]
pub struct Jobs(Mutex<Table>);

#[derive(Default)]
struct Table {
    jobs: domain::Jobs,
    /// What stops the jobs at work: dropping it wakes a job that waits.
    leashes: BTreeMap<u64, StopSource>,
    /// Whether the service is stopping.
    closed: bool,
}

impl Jobs {
    /// Starts a job and returns at once.
    ///
    /// # Errors
    /// 503 if too many are at work, if the system has no room for a thread, or if the service is
    /// stopping.
    pub fn start(state: &Arc<State>, request: &JobRequest) -> Result<Job, Problem> {
        let now = Instant::now();
        let (leash, stop) = stop_pair();
        let job = {
            let mut table = lock(&state.jobs.0);
            if table.closed {
                let detail = "the service is stopping";
                return Err(Problem::new(ProblemKind::Draining, detail));
            }
            let id = table.jobs.start(request, now)?;
            table.leashes.insert(id, leash);
            table.jobs.view(id, now)?
        };
        let until = now + Duration::from_millis(request.duration_ms);
        // Made here, so that the job has ended also if its thread cannot be started.
        let running = Running {
            state: Arc::clone(state),
            id: job.id,
            succeeded: false,
        };
        let kind = job.kind;
        let work = move || running.run(kind, until, &stop);
        match thread::Builder::new().name("job".into()).spawn(work) {
            Ok(_) => Ok(job),
            Err(error) => {
                let detail = format!("no room for another thread: {error}");
                Err(Problem::new(ProblemKind::Overloaded, detail))
            }
        }
    }

    /// A job as it stands.
    ///
    /// # Errors
    /// 404 if there is no such job, or if it ended long ago.
    pub fn view(&self, id: u64) -> Result<Job, Problem> {
        lock(&self.0).jobs.view(id, Instant::now())
    }

    /// Cancels a job, unless it has ended already; returns it as it stands then.
    ///
    /// # Errors
    /// 404 as [`Self::view`].
    pub fn cancel(&self, id: u64) -> Result<Job, Problem> {
        let now = Instant::now();
        let mut table = lock(&self.0);
        // Looked at before: a job that has run for very long may be forgotten as soon as it ends.
        let mut job = table.jobs.view(id, now)?;
        if table.jobs.cancel(id, now)? {
            table.leashes.remove(&id);
            job.status = JobStatus::Cancelled;
        }
        Ok(job)
    }

    /// Cancels every job and takes no more: a drain does not wait for them.
    pub fn cancel_all(&self) {
        let now = Instant::now();
        let mut table = lock(&self.0);
        table.closed = true;
        for id in std::mem::take(&mut table.leashes).into_keys() {
            // Whoever has a leash is in the table, so this cannot fail.
            let _ = table.jobs.cancel(id, now);
        }
    }
}

/// A job at work. Its end is noted when this is dropped, so that a job which panics has failed and
/// does not stay in the table as running for ever.
struct Running {
    state: Arc<State>,
    id: u64,
    succeeded: bool,
}

impl Running {
    fn run(mut self, kind: JobKind, until: Instant, stop: &StopToken) {
        self.succeeded = work(kind, &self.state.device, until, stop);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut table = lock(&self.state.jobs.0);
        table.leashes.remove(&self.id);
        table.jobs.end(self.id, self.succeeded, Instant::now());
    }
}

/// What a job of `kind` does until its time is over or it is stopped; whether it succeeded.
fn work(kind: JobKind, device: &Pool, until: Instant, stop: &StopToken) -> bool {
    let left = || until.saturating_duration_since(Instant::now());
    match kind {
        // A stack that sleeps: a thousand such jobs would be a matter of address space.
        JobKind::Timer => stop.sleep(left()),
        JobKind::Io => return read_device(device, until, stop),
        JobKind::Cpu => {
            let mut hash = 0;
            while !left().is_zero() && !stop.is_stopped() {
                hash = black_box(work::slice(hash));
            }
        }
        JobKind::Blocking => {
            while !left().is_zero() && !stop.is_stopped() {
                thread::sleep(left().min(STEP));
            }
        }
    }
    true
}

/// Sends a command to the device again and again; whether all of them were answered.
fn read_device(device: &Pool, until: Instant, stop: &StopToken) -> bool {
    while Instant::now() < until && !stop.is_stopped() {
        // A job has no handler's deadline: the device has its full time for each command.
        let deadline = Instant::now() + DEVICE_POOL_TIMEOUT + DEVICE_TIMEOUT;
        if let Err(problem) = device.command(IO_COMMAND, deadline) {
            log::info!("a job failed: {}", problem.detail);
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        stop.sleep(left.min(IO_INTERVAL));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::state;

    fn request(kind: JobKind, duration_ms: u64) -> JobRequest {
        JobRequest { kind, duration_ms }
    }

    /// Waits for a condition that another thread brings about.
    fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "not in time");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn every_kind_ends_by_itself_and_without_a_device_one_fails() {
        let state = state(&["--device-addr=127.0.0.1:1"]);
        for (kind, status) in [
            (JobKind::Timer, JobStatus::Done),
            (JobKind::Cpu, JobStatus::Done),
            (JobKind::Blocking, JobStatus::Done),
            (JobKind::Io, JobStatus::Failed),
        ] {
            let job = Jobs::start(&state, &request(kind, 20)).expect("room");
            assert_eq!(job.status, JobStatus::Running);
            let now = || state.jobs.view(job.id).expect("known").status;
            until(|| now() != JobStatus::Running);
            assert_eq!(now(), status, "{kind:?}");
        }
        assert!(lock(&state.jobs.0).leashes.is_empty());
    }

    #[test]
    fn a_cancelled_job_gives_its_thread_back() {
        let state = state(&[]);
        for kind in [JobKind::Timer, JobKind::Cpu, JobKind::Blocking] {
            let job = Jobs::start(&state, &request(kind, 600_000)).expect("room");
            let cancelled = state.jobs.cancel(job.id).expect("known");
            assert_eq!(cancelled.status, JobStatus::Cancelled);
            // The thread holds the second reference.
            until(|| Arc::strong_count(&state) == 1);
        }
    }

    #[test]
    fn a_job_that_panics_has_failed() {
        let state = state(&[]);
        let id = {
            let mut table = lock(&state.jobs.0);
            table.jobs.start(&request(JobKind::Cpu, 1), Instant::now())
        };
        let id = id.expect("room");
        let running = Running {
            state: Arc::clone(&state),
            id,
            succeeded: false,
        };
        let panicking = thread::spawn(move || {
            let _running = running;
            panic!("a bug");
        });
        assert!(panicking.join().is_err());
        assert_eq!(
            state.jobs.view(id).expect("known").status,
            JobStatus::Failed
        );
    }

    #[test]
    fn a_drain_cancels_every_job_and_takes_no_more() {
        let state = state(&[]);
        for kind in [JobKind::Timer, JobKind::Cpu, JobKind::Blocking] {
            Jobs::start(&state, &request(kind, 600_000)).expect("room");
        }
        state.jobs.cancel_all();
        for id in 1..=3 {
            let status = state.jobs.view(id).expect("known").status;
            assert_eq!(status, JobStatus::Cancelled);
        }
        let refused = Jobs::start(&state, &request(JobKind::Timer, 1)).expect_err("closed");
        assert_eq!(refused.kind, ProblemKind::Draining);
    }
}
