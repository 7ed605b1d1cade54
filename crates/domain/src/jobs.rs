//! Background jobs: which there are, how far they are, and when one more is too many.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use contract::{
    Problem, ProblemKind, Reply, Route,
    limits::{JOB_DURATION_MAX, JOBS_ENDED_MAX, JOBS_RUNNING_MAX},
    shapes::{Job, JobKind, JobRequest, JobStatus},
};

use crate::rest;

/// Reads the body of `POST /api/v1/jobs`.
///
/// # Errors
/// 400 if the body is no JSON, 422 if it is no job.
pub fn parse(body: &[u8]) -> Result<JobRequest, Problem> {
    let request: JobRequest = rest::parse(body)?;
    let longest = u64::try_from(JOB_DURATION_MAX.as_millis()).unwrap_or(u64::MAX);
    if (1..=longest).contains(&request.duration_ms) {
        Ok(request)
    } else {
        let detail = format!("must be 1 to {longest}");
        Err(Problem::unprocessable("/duration_ms", detail))
    }
}

/// Reads the id at the end of a job's path.
///
/// # Errors
/// 404 if it is no number.
pub fn parse_id(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| unknown())
}

/// Every job that is at work or has ended not long ago.
#[derive(Debug, Default)]
pub struct Jobs {
    jobs: BTreeMap<u64, Entry>,
    /// Ids of those that have ended, in the order in which they did.
    ended: VecDeque<u64>,
    last_id: u64,
}

#[derive(Debug)]
struct Entry {
    request: JobRequest,
    started: Instant,
    status: JobStatus,
    /// Share that was done when it ended.
    progress: f64,
}

impl Entry {
    fn length(&self) -> Duration {
        Duration::from_millis(self.request.duration_ms)
    }

    fn progress(&self, now: Instant) -> f64 {
        match self.status {
            JobStatus::Running => {
                let done = now.saturating_duration_since(self.started);
                // Only who does the work knows that it is done.
                (done.as_secs_f64() / self.length().as_secs_f64()).min(0.999)
            }
            _ => self.progress,
        }
    }
}

impl Jobs {
    /// No jobs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a job that starts at `now` and returns its id.
    ///
    /// # Errors
    /// 503 if [`JOBS_RUNNING_MAX`] are at work already.
    pub fn start(&mut self, request: &JobRequest, now: Instant) -> Result<u64, Problem> {
        if self.running() >= JOBS_RUNNING_MAX {
            let detail = format!("{JOBS_RUNNING_MAX} jobs are at work already");
            return Err(Problem::new(ProblemKind::Overloaded, detail));
        }
        self.last_id += 1;
        let entry = Entry {
            request: request.clone(),
            started: now,
            status: JobStatus::Running,
            progress: 0.0,
        };
        self.jobs.insert(self.last_id, entry);
        Ok(self.last_id)
    }

    /// Notes that a job is done or has failed; one that was cancelled meanwhile stays so.
    pub fn end(&mut self, id: u64, succeeded: bool, now: Instant) {
        let Some(entry) = self.jobs.get_mut(&id) else {
            return;
        };
        if entry.status == JobStatus::Running {
            (entry.status, entry.progress) = if succeeded {
                (JobStatus::Done, 1.0)
            } else {
                (JobStatus::Failed, entry.progress(now))
            };
            self.note_end(id);
        }
    }

    /// Cancels a job; whether it was at work, so that whoever runs it is to be told.
    ///
    /// # Errors
    /// 404 if there is no such job.
    pub fn cancel(&mut self, id: u64, now: Instant) -> Result<bool, Problem> {
        let entry = self.jobs.get_mut(&id).ok_or_else(unknown)?;
        if entry.status != JobStatus::Running {
            return Ok(false);
        }
        entry.progress = entry.progress(now);
        entry.status = JobStatus::Cancelled;
        self.note_end(id);
        Ok(true)
    }

    /// Whether a job is to go on.
    #[must_use]
    pub fn is_running(&self, id: u64) -> bool {
        let entry = self.jobs.get(&id);
        entry.is_some_and(|entry| entry.status == JobStatus::Running)
    }

    /// A job as it stands at `now`.
    ///
    /// # Errors
    /// 404 if there is no such job, or if it ended long ago.
    pub fn view(&self, id: u64, now: Instant) -> Result<Job, Problem> {
        let entry = self.jobs.get(&id).ok_or_else(unknown)?;
        Ok(Job {
            id,
            kind: entry.request.kind,
            duration_ms: entry.request.duration_ms,
            status: entry.status,
            progress: entry.progress(now),
        })
    }

    /// Jobs at work.
    #[must_use]
    pub fn running(&self) -> usize {
        self.jobs.len() - self.ended.len()
    }

    /// Notes that a job has ended, and forgets the one that did so longest ago if there are too many:
    /// by its end and not by its id, or a long job would be forgotten as soon as it is done.
    fn note_end(&mut self, id: u64) {
        self.ended.push_back(id);
        if self.ended.len() > JOBS_ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.jobs.remove(&oldest);
        }
    }
}

/// The answer to a job that was started: where it is to be found.
#[must_use]
pub fn started(job: &Job) -> Reply {
    let path = Route::Job.template().replace("{id}", &job.id.to_string());
    Reply::json(202, job).with_header("Location", path)
}

/// The answer to a look at a job.
#[must_use]
pub fn shown(job: &Job) -> Reply {
    Reply::json(200, job)
}

/// The answer to a cancellation.
#[must_use]
pub fn cancelled(job: &Job) -> Reply {
    Reply::json(202, job)
}

fn unknown() -> Problem {
    Problem::new(ProblemKind::NotFound, "no such job")
}

/// A command for the device that a job of kind [`JobKind::Io`] repeats, without its line end.
pub const IO_COMMAND: &[u8] = br#"{"command":"read","args":null}"#;
/// Time between two commands of such a job.
pub const IO_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the work of a job occupies the thread that does it.
#[must_use]
pub const fn occupies_a_thread(kind: JobKind) -> bool {
    matches!(kind, JobKind::Cpu | JobKind::Blocking)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: JobKind, duration_ms: u64) -> JobRequest {
        JobRequest { kind, duration_ms }
    }

    #[test]
    fn a_job_is_checked_before_it_is_started() {
        assert_eq!(
            parse(br#"{"kind":"cpu","duration_ms":5}"#).expect("valid"),
            request(JobKind::Cpu, 5)
        );
        for (body, status) in [
            (&b"{"[..], 400),
            (br#"{"kind":"gpu","duration_ms":5}"#, 422),
            (br#"{"kind":"cpu","duration_ms":0}"#, 422),
            (br#"{"kind":"cpu","duration_ms":600001}"#, 422),
            (br#"{"kind":"cpu"}"#, 422),
        ] {
            assert_eq!(parse(body).expect_err("refused").kind.status(), status);
        }
        assert_eq!(parse_id("x").expect_err("no number").kind.status(), 404);
    }

    #[test]
    fn a_job_runs_and_is_done() {
        let now = Instant::now();
        let mut jobs = Jobs::new();
        let id = jobs
            .start(&request(JobKind::Timer, 100), now)
            .expect("room");
        let half = jobs
            .view(id, now + Duration::from_millis(50))
            .expect("known");
        assert_eq!((half.status, half.progress), (JobStatus::Running, 0.5));
        let late = jobs.view(id, now + Duration::from_secs(9)).expect("known");
        assert!(late.progress < 1.0, "nobody said that it is done");
        jobs.end(id, true, now);
        let done = jobs.view(id, now).expect("known");
        assert_eq!((done.status, done.progress), (JobStatus::Done, 1.0));
    }

    #[test]
    fn a_cancelled_job_stays_cancelled() {
        let now = Instant::now();
        let mut jobs = Jobs::new();
        let id = jobs.start(&request(JobKind::Cpu, 100), now).expect("room");
        assert_eq!(jobs.cancel(id, now), Ok(true));
        assert_eq!(jobs.cancel(id, now), Ok(false));
        jobs.end(id, true, now);
        assert_eq!(
            jobs.view(id, now).expect("known").status,
            JobStatus::Cancelled
        );
        assert!(!jobs.is_running(id));
        assert_eq!(
            jobs.cancel(99, now).expect_err("unknown").kind.status(),
            404
        );
    }

    #[test]
    fn jobs_are_bounded_at_work_and_in_memory() {
        let now = Instant::now();
        let mut jobs = Jobs::new();
        let job = request(JobKind::Timer, 1);
        for _ in 0..JOBS_RUNNING_MAX {
            jobs.start(&job, now).expect("room");
        }
        let refused = jobs.start(&job, now).expect_err("no room");
        assert_eq!(refused.kind, ProblemKind::Overloaded);
        jobs.end(1, false, now);
        assert_eq!(jobs.view(1, now).expect("known").status, JobStatus::Failed);
        for _ in 0..2 * JOBS_ENDED_MAX {
            let id = jobs.start(&job, now).expect("room again");
            jobs.end(id, true, now);
        }
        assert_eq!(jobs.jobs.len(), JOBS_RUNNING_MAX - 1 + JOBS_ENDED_MAX);
        assert!(jobs.view(1, now).is_err(), "forgotten");
    }

    #[test]
    fn the_job_that_ended_longest_ago_is_forgotten_whenever_it_started() {
        let now = Instant::now();
        let mut jobs = Jobs::new();
        let job = request(JobKind::Timer, 1);
        let long = jobs.start(&job, now).expect("room");
        let mut short = Vec::new();
        for _ in 0..JOBS_ENDED_MAX {
            let id = jobs.start(&job, now).expect("room");
            jobs.end(id, true, now);
            short.push(id);
        }
        jobs.end(long, true, now);
        let done = jobs.view(long, now).expect("it has only just ended");
        assert_eq!(done.status, JobStatus::Done);
        assert!(jobs.view(short[0], now).is_err(), "ended first");
        assert!(jobs.view(short[1], now).is_ok());
        assert_eq!(jobs.running(), 0);
    }

    #[test]
    fn a_started_job_says_where_it_is() {
        let now = Instant::now();
        let mut jobs = Jobs::new();
        let id = jobs.start(&request(JobKind::Io, 1), now).expect("room");
        let reply = started(&jobs.view(id, now).expect("known"));
        assert_eq!(reply.headers, [("Location", "/api/v1/jobs/1".to_owned())]);
    }
}
