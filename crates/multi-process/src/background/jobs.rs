//! Runs the jobs that clients ask for, and knows where each of them stands.
//!
//! Particular to processes: what occupies a thread for as long as it lasts gets a process of its own,
//! which can be cancelled at any moment, whatever it does, by ending it; a thread would have to look
//! now and then whether it is still wanted.
//! What only waits gets a thread here, next to the pool of connections that it uses.

use std::{
    collections::HashMap,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use contract::{
    Problem, ProblemKind,
    limits::HANDLER_TIMEOUT,
    shapes::{Job, JobKind, JobRequest},
};
use domain::{
    jobs::{IO_COMMAND, IO_INTERVAL},
    rest,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::work;
use crate::{
    shutdown::{StopSource, StopToken, stop_pair},
    state::State,
    supervisor,
};

/// Time for killed processes to be collected.
const REAP_PATIENCE: Duration = Duration::from_secs(1);

/// Every job, and the means to end those at work.
#[derive(Default)]
pub struct Jobs {
    /// One lock for both halves of it: a job must not be cancelled between the start of its process
    /// and the note of how to end it.
    table: Mutex<Table>,
    /// Notified when a process has ended and was waited for.
    reaped: Condvar,
}

#[derive(Default)]
struct Table {
    jobs: domain::Jobs,
    running: HashMap<u64, Running>,
    /// Processes at present, those included that were told to end.
    processes: usize,
    /// Whether the service is stopping: no job is started any more.
    closed: bool,
}

/// What ends a job that is at work, by being dropped or by a signal.
struct Running {
    /// Wakes its thread.
    _stop: StopSource,
    process: Option<Process>,
}

/// The process that does a job.
struct Process {
    pid: u32,
    /// A handle in place of the number: by the time of a cancellation the process may have ended, been
    /// waited for, and its number given to a stranger.
    handle: OwnedFd,
}

impl Jobs {
    /// A job as it stands.
    ///
    /// # Errors
    /// 404 if there is no such job.
    pub fn view(&self, id: u64) -> Result<Job, Problem> {
        self.lock().jobs.view(id, Instant::now())
    }

    /// Cancels a job, if it is at work, and returns it as it stands.
    ///
    /// # Errors
    /// 404 if there is no such job.
    pub fn cancel(&self, id: u64) -> Result<Job, Problem> {
        let now = Instant::now();
        let mut table = self.lock();
        table.jobs.cancel(id, now)?;
        table.end(id);
        table.jobs.view(id, now)
    }

    /// Cancels every job and starts none any more.
    ///
    /// The processes are gone at once; what is waited for, for a moment, is that none leaves a dead
    /// entry behind. The threads are not waited for: they end with this process.
    pub fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        let ids: Vec<u64> = table.running.keys().copied().collect();
        for id in ids {
            // Cannot fail: what runs is known.
            let _ = table.jobs.cancel(id, Instant::now());
            table.end(id);
        }
        let _ = self
            .reaped
            .wait_timeout_while(table, REAP_PATIENCE, |table| table.processes > 0);
    }

    /// Pids of the processes that jobs have.
    pub fn pids(&self) -> Vec<u32> {
        let table = self.lock();
        let processes = table.running.values().filter_map(|it| it.process.as_ref());
        processes.map(|process| process.pid).collect()
    }

    /// Notes that a job has come to its end.
    fn ended(&self, id: u64, succeeded: bool) {
        let mut table = self.lock();
        table.running.remove(&id);
        table.jobs.end(id, succeeded, Instant::now());
    }

    /// Room for a process, unless its job was cancelled meanwhile; given back when dropped.
    fn place(&self, id: u64) -> Option<Place<'_>> {
        let mut table = self.lock();
        let wanted = table.running.contains_key(&id);
        table.processes += usize::from(wanted);
        // Lazily: a place that is made is given back, which takes the lock.
        wanted.then(|| Place(self))
    }

    /// Notes how to end a job's process; ends it at once if the job was cancelled meanwhile, or if
    /// there is no descriptor left to ever end it by.
    fn attach(&self, id: u64, child: &mut Child) {
        let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty());
        let mut table = self.lock();
        match (table.running.get_mut(&id), handle) {
            (Some(running), Ok(handle)) => {
                let pid = child.id();
                running.process = Some(Process { pid, handle });
            }
            _ => drop(child.kill()),
        }
    }

    /// A panic of another holder is caught there; the table is valid after every step.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Ends what runs; its thread takes notice.
    fn end(&mut self, id: u64) {
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        if let Some(process) = &running.process {
            // SIGKILL: there is nothing in the process that could want to tidy up.
            let _ = pidfd_send_signal(&process.handle, Signal::KILL);
        }
    }
}

/// A process is counted for as long as this lives.
struct Place<'a>(&'a Jobs);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().processes -= 1;
        self.0.reaped.notify_all();
    }
}

/// Starts a job and returns it as it stands.
///
/// # Errors
/// 503 if too many are at work already, or the service is stopping.
pub fn start(state: &Arc<State>, request: &JobRequest) -> Result<Job, Problem> {
    let now = Instant::now();
    let (stop, token) = stop_pair();
    let mut table = state.jobs.lock();
    if table.closed {
        let detail = "the service is stopping";
        return Err(Problem::new(ProblemKind::Draining, detail));
    }
    let id = table.jobs.start(request, now)?;
    let job = table.jobs.view(id, now)?;
    let running = Running {
        _stop: stop,
        process: None,
    };
    table.running.insert(id, running);
    drop(table);
    let (shared, request) = (Arc::clone(state), request.clone());
    let thread = thread::Builder::new()
        .name("job".to_owned())
        .spawn(move || {
            let work = AssertUnwindSafe(|| run(&shared, id, &request, &token));
            let succeeded = catch_unwind(work).unwrap_or(false);
            shared.jobs.ended(id, succeeded);
        });
    if let Err(error) = thread {
        state.jobs.ended(id, false);
        let detail = format!("no thread for the job: {error}");
        return Err(Problem::new(ProblemKind::Overloaded, detail));
    }
    Ok(job)
}

/// Sees a job through, on its own thread; whether it succeeded.
fn run(state: &State, id: u64, request: &JobRequest, stop: &StopToken) -> bool {
    let length = length(request);
    match request.kind {
        JobKind::Timer => {
            stop.sleep(length);
            true
        }
        JobKind::Io => command_until(state, Instant::now() + length, stop),
        JobKind::Cpu | JobKind::Blocking => in_a_process(&state.jobs, id, request)
            .inspect_err(|error| log::warn!("no process for a job: {error}"))
            .unwrap_or(false),
    }
}

fn length(request: &JobRequest) -> Duration {
    Duration::from_millis(request.duration_ms)
}

/// Commands the device over and over; whether it never failed.
fn command_until(state: &State, end: Instant, stop: &StopToken) -> bool {
    while Instant::now() < end && !stop.is_stopped() {
        let reply = state
            .devices
            .command(IO_COMMAND, Instant::now() + HANDLER_TIMEOUT);
        match reply.and_then(|line| rest::device_reply(&line)) {
            Ok(_) => {}
            // That others use the device is no failure of it.
            Err(problem) if problem.kind == ProblemKind::Overloaded => {}
            Err(problem) => {
                log::info!("a job failed: {}", problem.detail);
                return false;
            }
        }
        stop.sleep(IO_INTERVAL.min(end.saturating_duration_since(Instant::now())));
    }
    true
}

/// Has a job done by a process and waits for its end.
///
/// Called on the job's own thread, and not on the one that serves the asking REST process: the kernel
/// sends a parent-death signal when the *thread* is gone that made the child.
fn in_a_process(jobs: &Jobs, id: u64, request: &JobRequest) -> io::Result<bool> {
    let Some(_place) = jobs.place(id) else {
        return Ok(false);
    };
    let mut child = spawn(request)?;
    jobs.attach(id, &mut child);
    Ok(child.wait()?.success())
}

/// Starts this very program again, to do one thing and end.
fn spawn(request: &JobRequest) -> io::Result<Child> {
    let request = serde_json::to_string(request).expect("a job serialises");
    Command::new("/proc/self/exe")
        .arg0("service-multi-process")
        .arg(format!("--job={request}"))
        .arg(format!("--supervisor={}", std::process::id()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
}

/// Does a job; all that its process is there for.
///
/// Nothing here looks whether the job was cancelled: the process is ended from outside, also in the
/// middle of a call that blocks, and by the kernel when the AMQP process is gone.
///
/// # Errors
/// If the process that wanted the job is gone already.
pub fn run_here(request: &JobRequest, parent: i32) -> io::Result<()> {
    supervisor::tie_to(parent)?;
    match request.kind {
        JobKind::Blocking => thread::sleep(length(request)),
        _ => work::compute(length(request)),
    }
    Ok(())
}
