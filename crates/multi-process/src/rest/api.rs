//! Answers requests, whichever front has taken them off the wire.
//!
//! Particular to processes: half of the routes are answered here and half by the AMQP process, over
//! the connection that the caller brings along. What is shared below is shared by the requests of one
//! process: with the library's front there is one at a time, and a lock that nobody else wants costs
//! about as much as an addition.

use std::{
    ops::DerefMut,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use contract::{
    Method, Problem, ProblemKind, Reply, Resolution, Route,
    limits::HANDLER_TIMEOUT,
    metrics::{Histogram, HttpLabels, HttpMetrics},
    reply::ETAG,
    routes,
    shapes::{Check, Checks, Info, Job},
};
use domain::{UnixMs, jobs, readiness, rest, series};

use crate::{
    background::work::burn,
    config::{Config, MODEL},
    device::Pool,
    ipc::{
        Answer, Client, Question,
        answers::{Figures, Status},
    },
    metrics::{self, Report, Slot},
    state::{Flag, Ids},
};

/// A request, as far as its answer depends on it; the body is read only if it is wanted.
pub struct Asked<'a> {
    /// Method.
    pub method: Method,
    /// Path, without the query.
    pub path: &'a str,
    /// Query, without the question mark.
    pub query: &'a str,
    /// Version that the client has.
    pub if_none_match: Option<&'a str>,
    /// When its head was there.
    pub started: Instant,
}

/// What the requests of a REST process share.
pub struct Api {
    /// Configuration; immutable, so it needs no lock.
    pub config: Arc<Config>,
    /// Raised when the process was told to stop; it may go on serving for a while.
    pub draining: Flag,
    /// Counters.
    pub http: Slot<HttpMetrics>,
    /// Makes ids for requests that have none; no other process makes the same.
    pub ids: Ids,
    /// Round trips to the AMQP process.
    pub roundtrips: Slot<Histogram>,
    /// Requests in hand that need no permission.
    share: Slot<usize>,
    /// This process's share of the connections to the device.
    devices: Pool,
}

/// A request in hand, counted until this is dropped.
struct InFlight<'a> {
    api: &'a Api,
    place: Place,
}

/// By whose permission a request is in hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// This process's own share.
    Share,
    /// That of the AMQP process.
    Permitted,
    /// Nobody's: the AMQP process is away.
    Tolerated,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.api.http.lock().inflight -= 1;
        if self.place == Place::Share {
            *self.api.share.lock() -= 1;
        }
    }
}

impl Api {
    /// The state of a REST process that starts now.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            draining: Flag::default(),
            http: Slot::default(),
            ids: Ids::new(),
            roundtrips: Slot::default(),
            share: Slot::default(),
            devices: Pool::new(config.settings.device_addr, config.device_share()),
            config,
        }
    }

    /// Answers a request.
    ///
    /// `read` reads its body, of at most so many bytes, and is called only if the route takes one;
    /// `client` is called only then, so that nobody holds a connection to the AMQP process while his
    /// client is slow.
    ///
    /// # Errors
    /// Whatever speaks against it; a panic is told as 500.
    pub fn answer<C: DerefMut<Target = Client>>(
        &self,
        asked: &Asked<'_>,
        read: impl FnOnce(usize) -> Result<Vec<u8>, Problem>,
        client: impl FnOnce() -> C,
    ) -> Result<Reply, Problem> {
        let (route, parameter) =
            match routes::resolve(self.config.settings.profile, asked.method, asked.path) {
                Resolution::Refused(problem) => return Err(problem),
                Resolution::Options(route) => return Ok(Reply::options(route.allow())),
                Resolution::Route(route, parameter) => (route, parameter),
            };
        let body = if route.accepts(Method::Post) {
            read(self.config.settings.body_limit)?
        } else {
            Vec::new()
        };
        // Not before: a client that sends its body slowly is not in hand yet.
        let mut client = client();
        let in_flight = self.begin(&mut client)?;
        // A panic is a bug of one handler; it would end the process, and with it the connections of
        // other clients, for which the supervisor could only start anew.
        let handle = AssertUnwindSafe(|| self.handle(&mut client, route, parameter, asked, &body));
        let reply = catch_unwind(handle)
            .unwrap_or_else(|_| Err(Problem::new(ProblemKind::Internal, "see the log")));
        if in_flight.place == Place::Permitted {
            // If this fails, the other side has seen our connection end and noted as much.
            let _ = client.ask(Question::End);
        }
        reply
    }

    /// Counts a request in, if the service has room for it.
    fn begin(&self, client: &mut Client) -> Result<InFlight<'_>, Problem> {
        let mut http = self.http.lock();
        http.inflight += 1;
        let in_hand = http.inflight;
        drop(http);
        let mut share = self.share.lock();
        let place = if *share < self.config.inflight_share() {
            *share += 1;
            Place::Share
        } else {
            Place::Tolerated
        };
        drop(share);
        let mut in_flight = InFlight { api: self, place };
        if place == Place::Share {
            return Ok(in_flight);
        }
        match client.ask(Question::Begin) {
            Ok(_) => in_flight.place = Place::Permitted,
            // Without the process that counts for all, each counts for itself.
            Err(problem)
                if problem.kind == ProblemKind::StoreUnavailable
                    && in_hand <= self.config.settings.max_inflight as u64 => {}
            Err(problem) => return Err(problem),
        }
        Ok(in_flight)
    }

    /// Counts an answered request.
    pub fn answered(&self, asked: &Asked<'_>, code: u16) {
        let labels = HttpLabels {
            route: routes::find(asked.path).map(|(route, _)| route),
            method: asked.method,
            code,
        };
        let seconds = asked.started.elapsed().as_secs_f64();
        self.http.lock().answered(labels, seconds);
    }

    fn handle(
        &self,
        client: &mut Client,
        route: Route,
        parameter: &str,
        asked: &Asked<'_>,
        body: &[u8],
    ) -> Result<Reply, Problem> {
        match route {
            Route::Healthz => Ok(readiness::healthz()),
            Route::Readyz => Ok(readiness::readyz(self.checks(client))),
            Route::Metrics => Ok(Reply::prometheus(self.metrics(client))),
            Route::Info => Ok(Reply::json(200, &self.info(client))),
            Route::Flatten => {
                burn(self.config.settings.cpu_us);
                rest::flatten(body)
            }
            Route::Events => publish(client, body),
            Route::DeviceCommands => self.command(client, body),
            // What is wrong is refused here already, where it costs no round trip.
            Route::Keys => {
                rest::KeysQuery::parse(asked.query)?;
                pass_on(client, Question::Keys(asked.query))
            }
            Route::SeriesQuery => {
                series::Query::parse(body)?;
                pass_on(client, Question::Series(body))
            }
            Route::Latest => latest(client.ask(Question::Latest(parameter)), asked.if_none_match),
            Route::Key => {
                client.ask(Question::Forget(parameter))?;
                Ok(Reply::empty(204))
            }
            Route::Jobs => {
                jobs::parse(body)?;
                Ok(jobs::started(&job(client, Question::StartJob(body))?))
            }
            Route::Job => {
                let id = jobs::parse_id(parameter)?;
                match asked.method {
                    Method::Delete => Ok(jobs::cancelled(&job(client, Question::CancelJob(id))?)),
                    _ => Ok(jobs::shown(&job(client, Question::ShowJob(id))?)),
                }
            }
        }
    }

    /// Sends a command; with fewer connections than processes only by permission.
    ///
    /// The one handler whose waits add up to more than a handler may take, so it has a deadline for
    /// their sum; the others wait once.
    fn command(&self, client: &mut Client, body: &[u8]) -> Result<Reply, Problem> {
        let line = rest::parse_command(body)?;
        let deadline = Instant::now() + HANDLER_TIMEOUT;
        if self.devices.has_share() {
            return rest::device_reply(&self.devices.command(&line, deadline)?);
        }
        client.ask(Question::Lease)?;
        let reply = self.devices.command_once(&line, deadline);
        // If this fails, the other side has seen our connection end and taken the lease back.
        let _ = client.ask(Question::Release);
        rest::device_reply(&reply?)
    }

    /// State of the parts, for `/readyz`: what this process cannot see it asks for, and that it gets
    /// no answer is one of the states.
    fn checks(&self, client: &mut Client) -> Checks {
        let status = status(client);
        Checks {
            http: if self.draining.is_up() {
                Check::Draining
            } else {
                Check::Up
            },
            amqp: status.as_ref().map_or(Check::Down, |status| status.amqp),
            ipc: if status.is_some() {
                Check::Up
            } else {
                Check::Down
            },
        }
    }

    /// Every process of the service. The kernel knows the supervisor's children without fail, the AMQP
    /// process those that do its jobs; without a supervisor, those are known that are connected.
    fn pids(&self, client: &mut Client) -> Vec<u32> {
        let part = self.config.part.as_ref();
        let supervisor = part.and_then(|part| u32::try_from(part.supervisor?).ok());
        let mut pids = supervisor
            .and_then(metrics::family_of)
            .unwrap_or_else(|| vec![std::process::id()]);
        let connected = status(client).map(|status| status.pids).unwrap_or_default();
        pids.extend(connected);
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Who answers, for `/info`: all processes, whichever is asked.
    fn info(&self, client: &mut Client) -> Info {
        let pids = self.pids(client);
        let threads = metrics::of_processes(&pids).threads;
        let settings = &self.config.settings;
        let started_ms = self.config.part.as_ref().map_or(0, |part| part.started_ms);
        Info {
            model: MODEL.into(),
            variant: self.config.variant().into(),
            profile: settings.profile.as_str().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: settings.name.clone(),
            pids,
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            started_at: UnixMs(started_ms).rfc3339(),
            http_workers: settings.http_workers,
        }
    }

    /// The whole service's figures; without the AMQP process, those of this one.
    fn metrics(&self, client: &mut Client) -> String {
        let figures = self.report(client).unwrap_or_else(|| Figures {
            rest: self.own_report(),
            rest_pids: vec![std::process::id()],
            ..Figures::default()
        });
        metrics::render(&figures, &self.pids(client), self.config.front)
    }

    /// Sends this process's figures to where they are added up; returns everybody's, or nothing if
    /// nobody took them.
    pub fn report(&self, client: &mut Client) -> Option<Figures> {
        self.roundtrips.lock().merge(&client.take_roundtrips());
        let report = serde_json::to_vec(&self.own_report()).expect("a report serialises");
        let figures = client.ask(Question::Metrics(&report));
        serde_json::from_slice(&figures.ok()?).ok()
    }

    fn own_report(&self) -> Report {
        Report::new(&self.http.lock(), &self.roundtrips.lock())
    }
}

/// Passes on an answer that the AMQP process has rendered.
fn pass_on(client: &mut Client, question: Question<'_>) -> Result<Reply, Problem> {
    Ok(Reply::raw_json(200, client.ask(question)?))
}

/// The answer of `GET /api/v1/latest/{key}` from what the AMQP process says: the version, a line's
/// end, and the body.
pub fn latest(answer: Answer, if_none_match: Option<&str>) -> Result<Reply, Problem> {
    let mut tag = answer?;
    let end = tag.iter().position(|byte| *byte == b'\n');
    let body = tag.split_off(end.map_or(tag.len(), |end| end + 1));
    tag.pop();
    let tag = String::from_utf8_lossy(&tag).into_owned();
    let reply = Reply::raw_json(200, body).with_header(ETAG, tag);
    Ok(reply.unless_matched(if_none_match))
}

/// A job, as the AMQP process knows it.
fn job(client: &mut Client, question: Question<'_>) -> Result<Job, Problem> {
    let job = client.ask(question)?;
    serde_json::from_slice(&job)
        .map_err(|error| Problem::new(ProblemKind::Internal, error.to_string()))
}

/// Checks the event here, where a wrong one costs no round trip, and has it published there, where
/// the connection is. Whoever calls waits for the confirm.
fn publish(client: &mut Client, body: &[u8]) -> Result<Reply, Problem> {
    let event = rest::parse_event(body)?;
    let event = serde_json::to_vec(&event).expect("an event serialises");
    let message_id = client.ask(Question::Publish(&event))?;
    Ok(rest::published(
        String::from_utf8_lossy(&message_id).into_owned(),
    ))
}

fn status(client: &mut Client) -> Option<Status> {
    serde_json::from_slice(&client.ask(Question::Status).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_and_its_body_are_told_apart() {
        let answer = || Ok(b"\"1-2\"\n{\"key\":\"a\"}".to_vec());
        let reply = latest(answer(), None).expect("known");
        assert_eq!(reply.headers, [(ETAG, "\"1-2\"".to_owned())]);
        assert_eq!(reply.body, b"{\"key\":\"a\"}");
        let reply = latest(answer(), Some("\"1-2\"")).expect("known");
        assert_eq!((reply.status, reply.body.len()), (304, 0));
    }
}
