//! Answers the questions of the REST processes; only in the AMQP process.
//!
//! Particular to processes: this is where the two halves meet. A thread per REST process takes the
//! lock that the consumer takes too, and renders the answer into bytes that the REST process only
//! has to pass on.

use std::{os::unix::net::UnixListener, sync::Arc, thread, time::SystemTime};

use contract::{
    Problem, ProblemKind, Reply,
    metrics::{AmqpMetrics, Role},
    reply::ETAG,
    shapes::Check,
};
use domain::{UnixMs, jobs, rest, series};
use serde::{Deserialize, Serialize};

use super::{Answer, Question, answer_all, is_ours};
use crate::{background::jobs as running, metrics::Report, state::State};

/// Answer to [`Question::Status`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// State of the AMQP side.
    pub amqp: Check,
    /// Every connected process of the service.
    pub pids: Vec<u32>,
}

/// Answer to [`Question::Metrics`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Counters of the AMQP side.
    pub amqp: AmqpMetrics,
    /// Counters of all REST processes.
    pub rest: Report,
    /// Connected REST processes.
    pub rest_pids: Vec<u32>,
}

/// Accepts REST processes for as long as this process lives.
///
/// There is no stop: the socket answers until the very end, since a REST process that finishes its
/// last requests still has to ask.
pub fn serve(state: &Arc<State>, listener: &UnixListener) {
    for stream in listener.incoming().filter_map(Result::ok) {
        // An abstract name has no permissions: anybody may connect, but not everybody is answered.
        if !is_ours(&stream) {
            log::error!("a process of another user tried to connect");
            continue;
        }
        let mut visitor = Visitor {
            state: Arc::clone(state),
            pid: None,
            leases: 0,
            in_hand: 0,
        };
        let thread = thread::Builder::new()
            .name("ipc".to_owned())
            .spawn(move || answer_all(stream, |question| visitor.answer(question)));
        if let Err(error) = thread {
            log::error!("no thread for a REST process: {error}");
        }
    }
}

/// One connected REST process, and what has to be undone when it is gone.
///
/// Its thread owns it, so that nothing in it is shared; what it changes for others is in the state.
struct Visitor {
    state: Arc<State>,
    pid: Option<u32>,
    leases: usize,
    /// Requests that it has permission for.
    in_hand: usize,
}

impl Visitor {
    fn answer(&mut self, question: Question<'_>) -> Answer {
        let state = &*self.state;
        match question {
            Question::Hello(pid) => {
                state.siblings.joined(pid);
                self.pid = Some(pid);
                Ok(Vec::new())
            }
            // Rendered under the lock: the copy of the values that would spare this takes as long.
            Question::Latest(key) => rest::latest(&state.store(), key, now()).map(with_tag),
            Question::Keys(query) => {
                let query = rest::KeysQuery::parse(query)?;
                Ok(query.answer(&state.store(), now()).body)
            }
            // A long one keeps the consumer waiting (some ms for 25,000 points): a copy of the points
            // made first would take about as long as their rendering.
            Question::Series(query) => {
                let query = series::Query::parse(query)?;
                Ok(query.answer(&state.store(), now()).body)
            }
            Question::Forget(key) => Ok(rest::forget(&mut state.store(), key).body),
            Question::StartJob(request) => {
                let request = jobs::parse(request)?;
                running::start(&self.state, &request).map(|job| json(&job))
            }
            Question::ShowJob(id) => state.jobs.view(id).map(|job| json(&job)),
            Question::CancelJob(id) => state.jobs.cancel(id).map(|job| json(&job)),
            Question::Publish(event) => publish(state, event),
            Question::Status => Ok(json(&Status {
                amqp: state.check(),
                pids: state.pids(),
            })),
            Question::Metrics(report) => Ok(json(&self.figures(report))),
            Question::Lease => self.lease(),
            Question::Release => {
                self.release();
                Ok(Vec::new())
            }
            Question::Begin => self.begin(),
            Question::End => {
                self.end();
                Ok(Vec::new())
            }
            Question::Enter(own) => self.enter(own),
            Question::Leave => {
                let pid = self.pid.unwrap_or_default();
                state.siblings.client_left(pid);
                Ok(Vec::new())
            }
        }
    }

    fn figures(&self, report: &[u8]) -> Figures {
        let state = &*self.state;
        if let (Some(pid), Ok(report)) = (self.pid, serde_json::from_slice(report)) {
            state.siblings.report(pid, report);
        }
        let mut amqp = state.metrics.amqp();
        amqp.up
            .insert(Role::Consumer, state.flags.consuming.is_up());
        amqp.up
            .insert(Role::Publisher, state.flags.publishing.is_up());
        let store = state.store();
        (amqp.store_keys, amqp.store_points) = (store.len() as u64, store.points() as u64);
        drop(store);
        amqp.sink_dropped = state.sink.dropped();
        Figures {
            amqp,
            rest: state.siblings.total(),
            rest_pids: state.siblings.pids(),
        }
    }

    /// Counts a client in, if there is room.
    fn enter(&self, own: u32) -> Answer {
        let limit = self.state.config.settings.max_conns;
        let pid = self.pid.unwrap_or_default();
        if self.state.siblings.client_came(pid, own, limit) {
            return Ok(Vec::new());
        }
        let detail = format!("{limit} clients are connected already");
        Err(Problem::new(ProblemKind::Overloaded, detail))
    }

    /// Waits here for a free connection to the device, since this thread has nothing else to do: it
    /// serves a process that waits as well.
    fn lease(&mut self) -> Answer {
        self.state.devices.lend()?;
        self.leases += 1;
        Ok(Vec::new())
    }

    /// Counts a request in, if there is room.
    fn begin(&mut self) -> Answer {
        if self.state.in_flight.take() {
            self.in_hand += 1;
            return Ok(Vec::new());
        }
        let limit = self.state.config.settings.max_inflight;
        let detail = format!("{limit} requests are in hand already");
        Err(Problem::new(ProblemKind::Overloaded, detail))
    }

    fn end(&mut self) {
        if self.in_hand > 0 {
            self.in_hand -= 1;
            self.state.in_flight.give_back();
        }
    }

    fn release(&mut self) {
        if self.leases > 0 {
            self.leases -= 1;
            self.state.devices.take_back();
        }
    }
}

/// However a REST process ends, the kernel closes its socket, and this gives back what it held.
impl Drop for Visitor {
    fn drop(&mut self) {
        while self.leases > 0 {
            self.release();
        }
        while self.in_hand > 0 {
            self.end();
        }
        if let Some(pid) = self.pid {
            self.state.siblings.left(pid);
        }
    }
}

/// Body and version of an answer, apart by a line's end: JSON as we write it has none.
fn with_tag(reply: Reply) -> Vec<u8> {
    let mut headers = reply.headers.into_iter();
    let tag = headers.find(|(name, _)| *name == ETAG);
    let tag = tag.map(|(_, tag)| tag).unwrap_or_default();
    [tag.as_bytes(), b"\n", &reply.body].concat()
}

/// Publishes an event and waits for the confirm; only the REST process that asked waits as well.
fn publish(state: &State, event: &[u8]) -> Answer {
    let event = serde_json::from_slice(event)
        .map_err(|error| Problem::new(ProblemKind::Internal, error.to_string()))?;
    let message_id = state.id();
    state.outbox.publish(state, event, message_id.clone())?;
    Ok(message_id.into_bytes())
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own shapes serialise")
}

fn now() -> UnixMs {
    UnixMs::from_system(SystemTime::now())
}
