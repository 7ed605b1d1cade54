//! The REST side: a pacer that notes what is due, and two pools of clients that do it.
//!
//! Publishing has clients of its own, because it may wait for seconds for a broker that is away:
//! it must not keep readers from finding out that reading works.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::journal::{Id, KEYS, Kind, Outcome, Source};
use super::{REST_RATE_PER_S, Shared, due};
use crate::http::{Client, Error, Request, Response};

/// The requests in turn.
const TURNS: [Kind; 10] = [
    Kind::Events,
    Kind::Latest,
    Kind::Events,
    Kind::Fresh,
    Kind::Device,
    Kind::Events,
    Kind::Latest,
    Kind::Events,
    Kind::Fresh,
    Kind::Latest,
];
/// Clients that publish: more than the service's window of 64, so that the refusal of one more is
/// seen.
const PUBLISHERS: usize = 72;
/// Deadline of a publish, above the contract's 5 s for a confirm.
const PUBLISH_LIMIT: Duration = Duration::from_secs(6);
/// Clients for everything else.
const READERS: usize = 48;
/// Deadline of everything else.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// How long a client waits for the news that its kept connection was closed meanwhile.
const NEWS: Duration = Duration::from_millis(1);
/// Stack of a client, which calls nothing deep.
const STACK_BYTES: usize = 256 * 1024;

/// A request that is due.
#[derive(Debug)]
struct Job {
    place: usize,
    kind: Kind,
    seq: u64,
    intended: Instant,
}

/// Requests that wait for a client.
#[derive(Debug)]
struct Queue {
    limit: Duration,
    jobs: Mutex<(VecDeque<Job>, bool)>,
    changed: Condvar,
}

impl Queue {
    fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            jobs: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn jobs(&self) -> MutexGuard<'_, (VecDeque<Job>, bool)> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) {
        self.jobs().0.push_back(job);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.jobs().1 = true;
        self.changed.notify_all();
    }

    /// The next job; `None` when the queue was closed and is empty.
    fn pop(&self) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            if let Some(job) = jobs.0.pop_front() {
                return Some(job);
            }
            if jobs.1 {
                return None;
            }
            let woken = self.changed.wait(jobs);
            jobs = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts the pacer and the clients.
pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let publishing = Queue::new(PUBLISH_LIMIT);
    let reading = Queue::new(READ_LIMIT);
    let mut threads = Vec::new();
    for (queue, clients) in [(&publishing, PUBLISHERS), (&reading, READERS)] {
        for _ in 0..clients {
            let (queue, shared) = (Arc::clone(queue), Arc::clone(shared));
            let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
            threads.push(builder.spawn(move || serve(&queue, &shared))?);
        }
    }
    let shared = Arc::clone(shared);
    threads.push(std::thread::Builder::new().spawn(move || pace(&shared, &publishing, &reading))?);
    Ok(threads)
}

/// Notes every request at its instant, whatever became of the ones before it.
fn pace(shared: &Shared, publishing: &Queue, reading: &Queue) {
    for seq in 0_u64.. {
        let intended = due(shared.start, seq, REST_RATE_PER_S);
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        if shared.is_stopping() {
            break;
        }
        let kind = TURNS[seq as usize % TURNS.len()];
        let place = shared.journal().begin(kind, shared.at(intended));
        let job = Job {
            place,
            kind,
            seq,
            intended,
        };
        match kind {
            Kind::Events => publishing.push(job),
            _ => reading.push(job),
        }
    }
    publishing.close();
    reading.close();
}

/// One client: a job after the other, on a connection that is kept while it works.
fn serve(queue: &Queue, shared: &Shared) {
    // Opened at once: a connection that is only opened when its client gets its first job would be
    // taken for memory that the fault has cost.
    let target = shared.target();
    let mut kept: Option<(SocketAddr, Client)> = Client::connect(target, queue.limit)
        .ok()
        .map(|client| (target, client));
    while let Some(job) = queue.pop() {
        let outcome = if job.intended.elapsed() >= queue.limit {
            Outcome::TimedOut
        } else {
            perform(&job, queue.limit, &mut kept, shared)
        };
        let mut journal = shared.journal();
        let at = shared.at(Instant::now());
        if outcome == Outcome::Ok && job.kind == Kind::Events {
            journal.take(event(&job), at);
        }
        journal.end(job.place, at, outcome);
    }
}

fn event(job: &Job) -> Id {
    Id {
        source: Source::Rest,
        seq: job.seq,
    }
}

fn perform(
    job: &Job,
    limit: Duration,
    kept: &mut Option<(SocketAddr, Client)>,
    shared: &Shared,
) -> Outcome {
    let target = shared.target();
    let key = job.seq % KEYS;
    let must_exist = shared.journal().is_visible(key);
    let exchanged = match job.kind {
        Kind::Events => {
            let body = event(job).body();
            on_kept(
                kept,
                target,
                limit,
                &Request::post("/api/v1/events", body.as_bytes()),
            )
        }
        Kind::Device => {
            let body = br#"{"command":"read"}"#;
            on_kept(
                kept,
                target,
                limit,
                &Request::post("/api/v1/device/commands", body),
            )
        }
        Kind::Latest | Kind::Fresh | Kind::Amqp => {
            let path = format!("/api/v1/latest/{}", Source::Amqp.key(key));
            let close = [("Connection", "close")];
            let request = Request::new("GET", &path);
            if job.kind == Kind::Fresh {
                let request = Request {
                    headers: &close,
                    ..request
                };
                Client::connect(target, limit).and_then(|mut client| client.exchange(&request))
            } else {
                on_kept(kept, target, limit, &request)
            }
        }
    };
    match exchanged {
        Ok(response) => judge(job.kind, &Source::Amqp.key(key), must_exist, &response),
        Err(error) => failure(&error),
    }
}

/// Exchanges on the kept connection, or on a new one if that is gone or leads elsewhere.
fn on_kept(
    kept: &mut Option<(SocketAddr, Client)>,
    target: SocketAddr,
    limit: Duration,
    request: &Request<'_>,
) -> Result<Response, Error> {
    // As any client with a pool does: a connection that was closed meanwhile is not used again.
    let usable = kept
        .take()
        .filter(|(address, _)| *address == target)
        .and_then(|(_, mut client)| (!client.is_closed_within(NEWS)).then_some(client));
    let mut client = match usable {
        Some(client) => client,
        None => Client::connect(target, limit)?,
    };
    let response = client.exchange(request)?;
    if response.keep_alive {
        *kept = Some((target, client));
    }
    Ok(response)
}

/// Whether the answer is the contract's.
fn judge(kind: Kind, key: &str, must_exist: bool, response: &Response) -> Outcome {
    match (kind, response.status) {
        (Kind::Events, 202) | (Kind::Device, 200) => Outcome::Ok,
        (Kind::Latest | Kind::Fresh, 200) if response.json()["key"] == key => Outcome::Ok,
        (Kind::Latest | Kind::Fresh, 200) => Outcome::Wrong,
        // A store that has begun anew may not know the key yet, and says so rightly.
        (Kind::Latest | Kind::Fresh, 404) if !must_exist => Outcome::Ok,
        (_, status) => Outcome::Status(status),
    }
}

fn failure(error: &Error) -> Outcome {
    match error {
        Error::TimedOut(_) => Outcome::TimedOut,
        Error::Closed(_) => Outcome::Closed,
        Error::Malformed(_) => Outcome::Wrong,
        Error::Socket { source, .. } => match source.kind() {
            ErrorKind::ConnectionRefused => Outcome::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::TimedOut,
            _ => Outcome::Closed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            headers: vec![],
            body: body.as_bytes().to_vec(),
            keep_alive: true,
        }
    }

    #[test]
    fn an_unknown_key_is_right_only_while_nothing_is_visible() {
        let found = response(200, r#"{"key":"a-01"}"#);
        let unknown = response(404, "{}");
        let judge = |response, must_exist| judge(Kind::Latest, "a-01", must_exist, response);
        assert_eq!(judge(&found, true), Outcome::Ok);
        assert_eq!(judge(&unknown, false), Outcome::Ok);
        assert_eq!(judge(&unknown, true), Outcome::Status(404));
        assert_eq!(
            judge(&response(200, r#"{"key":"b"}"#), true),
            Outcome::Wrong
        );
    }

    #[test]
    fn nobody_listening_is_told_from_silence() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let error = Client::connect(nobody, READ_LIMIT).expect_err("nobody listens there");
        assert_eq!(failure(&error), Outcome::Refused);
        assert_eq!(failure(&Error::TimedOut(READ_LIMIT)), Outcome::TimedOut);
    }
}
