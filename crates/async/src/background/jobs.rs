//! Runs the jobs that clients ask for, and knows where each of them stands.
//!
//! Particular to tasks: a job is a task, and cancelling it is dropping its future at the place
//! where it waits; that takes no cooperation, but it works at an `await` only. What computes or
//! blocks has none, and on the loop it would stop the whole service. It gets a thread of the pool
//! that tokio keeps for such calls, and there it is as with threads everywhere: nobody can stop
//! it from outside, so it looks up between its steps whether it is still wanted.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    hint::black_box,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use contract::{
    Problem, ProblemKind,
    shapes::{Job, JobKind, JobRequest, JobStatus},
};
use domain::{
    jobs::{IO_COMMAND, IO_INTERVAL},
    work,
};
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{device::DevicePool, state::lock};

/// Longest call that a job of kind `blocking` makes: so late does it learn that it is cancelled.
const STEP: Duration = Duration::from_millis(50);

/// The jobs of the service.
#[derive(Debug)]
pub struct Jobs {
    device: Arc<DevicePool>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    jobs: domain::Jobs,
    /// One for each job at work. Nothing is ever sent: dropping the leash is the message, and it
    /// cannot be forgotten, nor be sent twice, nor wait for a receiver.
    leashes: BTreeMap<u64, oneshot::Sender<Infallible>>,
    /// Whether the service is stopping.
    closed: bool,
}

impl Jobs {
    /// No jobs yet; those of kind `io` will use `device`.
    #[must_use]
    pub fn new(device: Arc<DevicePool>) -> Self {
        Self {
            device,
            table: Mutex::default(),
        }
    }

    /// Starts a job and returns at once.
    ///
    /// # Errors
    /// 503 if too many are at work, or if the service is stopping.
    pub fn start(self: &Arc<Self>, request: &JobRequest) -> Result<Job, Problem> {
        let now = Instant::now();
        let (cancel, cancelled) = oneshot::channel();
        let job = {
            let mut table = lock(&self.table);
            if table.closed {
                let detail = "the service is stopping";
                return Err(Problem::new(ProblemKind::Draining, detail));
            }
            let id = table.jobs.start(request, now.into_std())?;
            table.leashes.insert(id, cancel);
            table.jobs.view(id, now.into_std())?
        };
        let until = now + Duration::from_millis(request.duration_ms);
        tokio::spawn(Arc::clone(self).run(job.id, job.kind, until, cancelled));
        Ok(job)
    }

    /// A job as it stands.
    ///
    /// # Errors
    /// 404 if there is no such job, or if it ended long ago.
    pub fn view(&self, id: u64) -> Result<Job, Problem> {
        let now = Instant::now().into_std();
        lock(&self.table).jobs.view(id, now)
    }

    /// Cancels a job, unless it has ended already; returns it as it stands then.
    ///
    /// # Errors
    /// 404 as [`Self::view`].
    pub fn cancel(&self, id: u64) -> Result<Job, Problem> {
        let now = Instant::now().into_std();
        let mut table = lock(&self.table);
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
        let now = Instant::now().into_std();
        let mut table = lock(&self.table);
        table.closed = true;
        for id in std::mem::take(&mut table.leashes).into_keys() {
            // Whoever has a leash is in the table, so this cannot fail.
            let _ = table.jobs.cancel(id, now);
        }
    }

    /// Does a job's work until it is done or cancelled.
    async fn run(
        self: Arc<Self>,
        id: u64,
        kind: JobKind,
        until: Instant,
        cancelled: oneshot::Receiver<Infallible>,
    ) {
        let mut ending = Ending {
            jobs: &self,
            id,
            succeeded: false,
        };
        // `select!` drops the branch that lost, and with it whatever that was waiting for.
        ending.succeeded = tokio::select! {
            succeeded = perform(kind, &self.device, until) => succeeded,
            _ = cancelled => false,
        };
    }
}

/// Notes the end of a job when it is dropped, so that one which panics has failed and does not
/// stay in the table as running for ever.
struct Ending<'a> {
    jobs: &'a Jobs,
    id: u64,
    succeeded: bool,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut table = lock(&self.jobs.table);
        table.leashes.remove(&self.id);
        let now = Instant::now().into_std();
        table.jobs.end(self.id, self.succeeded, now);
    }
}

/// What a job of `kind` does; whether it succeeded.
async fn perform(kind: JobKind, device: &DevicePool, until: Instant) -> bool {
    match kind {
        // An entry in the timer wheel: a million such jobs would be a matter of memory only.
        JobKind::Timer => {
            sleep_until(until).await;
            true
        }
        JobKind::Io => read_device(device, until).await,
        JobKind::Cpu => {
            let mut hash = 0;
            occupy(until, move |_| hash = black_box(work::slice(hash))).await
        }
        JobKind::Blocking => occupy(until, |left| thread::sleep(left.min(STEP))).await,
    }
}

/// Sends a command to the device again and again; whether all of them were answered.
async fn read_device(device: &DevicePool, until: Instant) -> bool {
    let mut ticks = interval(IO_INTERVAL);
    // After a slow answer the next command comes an interval later, not as a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < until {
        ticks.tick().await;
        if let Err(problem) = device.command(IO_COMMAND.to_vec()).await {
            log::info!("a job failed: {}", problem.detail);
            return false;
        }
    }
    true
}

/// Repeats `step` on a thread until the time is over; whether it came so far.
///
/// `step` is told how much time is left.
/// The thread holds one end of a channel, whose other end goes with this future: the thread asks
/// between its steps whether anybody still waits for it, which costs it one look at an atomic.
async fn occupy(until: Instant, mut step: impl FnMut(Duration) + Send + 'static) -> bool {
    let until = until.into_std();
    let (tell, told) = oneshot::channel();
    // Not awaited through its handle: what must be noticed is that *we* are gone.
    spawn_blocking(move || {
        while !tell.is_closed() {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                break;
            }
            step(left);
        }
        // Fails if nobody waits any more, which is no failure.
        let _ = tell.send(());
    });
    // An error means that the step panicked.
    told.await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        net::TcpListener,
        task::yield_now,
        time::{sleep, timeout},
    };

    /// Jobs whose device is at an address where nobody listens.
    async fn jobs() -> Arc<Jobs> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        Arc::new(Jobs::new(Arc::new(DevicePool::new(address, 1))))
    }

    fn request(kind: JobKind, duration_ms: u64) -> JobRequest {
        JobRequest { kind, duration_ms }
    }

    async fn ended(jobs: &Jobs, id: u64) -> JobStatus {
        let ending = async {
            loop {
                match jobs.view(id).expect("known").status {
                    JobStatus::Running => sleep(Duration::from_millis(1)).await,
                    status => break status,
                }
            }
        };
        timeout(Duration::from_secs(10), ending)
            .await
            .expect("an end")
    }

    #[tokio::test]
    async fn every_kind_ends_by_itself_and_without_a_device_one_fails() {
        let jobs = jobs().await;
        for (kind, status) in [
            (JobKind::Timer, JobStatus::Done),
            (JobKind::Cpu, JobStatus::Done),
            (JobKind::Blocking, JobStatus::Done),
            (JobKind::Io, JobStatus::Failed),
        ] {
            let job = jobs.start(&request(kind, 20)).expect("room");
            assert_eq!(job.status, JobStatus::Running);
            assert_eq!(ended(&jobs, job.id).await, status, "{kind:?}");
        }
        assert!(lock(&jobs.table).leashes.is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_job_is_dropped_where_it_waits() {
        let jobs = jobs().await;
        let job = jobs.start(&request(JobKind::Timer, 600_000)).expect("room");
        let cancelled = jobs.cancel(job.id).expect("known");
        assert_eq!(cancelled.status, JobStatus::Cancelled);
        // The task holds the second reference.
        let dropped = async {
            while Arc::strong_count(&jobs) > 1 {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), dropped)
            .await
            .expect("dropped");
    }

    #[tokio::test]
    async fn a_thread_is_given_back_when_nobody_waits_for_it() {
        let used = Arc::new(());
        let by_thread = Arc::clone(&used);
        let until = Instant::now() + Duration::from_secs(600);
        let occupied = occupy(until, move |_| {
            let _used = &by_thread;
            thread::sleep(Duration::from_millis(1));
        });
        timeout(Duration::from_millis(20), occupied)
            .await
            .expect_err("at work for ten minutes");
        let given_back = async {
            while Arc::strong_count(&used) > 1 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), given_back)
            .await
            .expect("given back");
    }

    #[tokio::test]
    async fn a_step_that_panics_is_a_failure() {
        let until = Instant::now() + Duration::from_secs(600);
        assert!(!occupy(until, |_| panic!("a bug")).await);
    }

    #[tokio::test]
    async fn a_drain_cancels_every_job_and_takes_no_more() {
        let jobs = jobs().await;
        for kind in [JobKind::Timer, JobKind::Cpu, JobKind::Blocking] {
            jobs.start(&request(kind, 600_000)).expect("room");
        }
        jobs.cancel_all();
        for id in 1..=3 {
            let status = jobs.view(id).expect("known").status;
            assert_eq!(status, JobStatus::Cancelled);
        }
        let refused = jobs.start(&request(JobKind::Timer, 1)).expect_err("closed");
        assert_eq!(refused.kind, ProblemKind::Draining);
    }
}
