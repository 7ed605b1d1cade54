//! JSON shapes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Body of a sensor event and of `POST /api/v1/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Sensor, `^[A-Za-z0-9._~:-]{1,128}$`; also the routing key.
    pub key: String,
    /// Values, nested as the sensor likes.
    pub data: Map<String, Value>,
}

/// Answer to an accepted event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Id of the confirmed message.
    pub message_id: String,
}

/// Answer to an event that carried `reply_to`, sent once its effect is visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Id of the event's message, empty if it had none.
    pub message_id: String,
    /// What became of it.
    pub outcome: Settlement,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Settlement {
    /// Counted, and stored in the profile `shared`.
    Ok,
    /// Seen before; acked and not counted again.
    Duplicate,
    /// Not an event; rejected to the dead-letter queue.
    Invalid,
    /// Failed for a reason that may pass; goes back to the queue after a while.
    Transient,
}

impl Settlement {
    /// Every settlement.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Duplicate, Self::Invalid, Self::Transient];

    /// Label in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Duplicate => "duplicate",
            Self::Invalid => "invalid",
            Self::Transient => "transient",
        }
    }
}

/// Body of `POST /api/v1/device/commands`, and one line to the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceCommand {
    /// Name of the command.
    pub command: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Value,
}

/// Answer of `GET /api/v1/latest/{key}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latest {
    /// Sensor.
    pub key: String,
    /// Flattened values of the newest event.
    pub fields: BTreeMap<String, f64>,
    /// Position of the event among all that this instance stored, from 1.
    pub seq: u64,
    /// RFC 3339.
    pub received_at: String,
    /// RFC 3339.
    pub expires_at: String,
}

/// Answer of `GET /api/v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysPage {
    /// Keys in ascending order.
    pub keys: Vec<String>,
    /// Value for `after` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Body of `POST /api/v1/series/query`.
///
/// At most two of `start`, `end` and `duration`; what is left out is open, and a duration alone
/// reaches back from now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesQuery {
    /// Fields as `key/path`, such as `fridge/temperature/0`; 1 to 100.
    pub fields: Vec<String>,
    /// First instant, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// First instant behind the window, RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Length of the window in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Points per field at most, 1 to 10,000; the newest stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Seconds per point: the points of each such interval, counted from the epoch, become their
    /// mean at the interval's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downsample: Option<f64>,
}

/// Answer of `POST /api/v1/series/query`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeriesAnswer {
    /// One series per asked field, in the order of the question.
    pub series: Vec<Series>,
}

/// The points of one field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// The field, as asked for.
    pub field: String,
    /// Milliseconds since the epoch and value, ascending; empty for an unknown field.
    pub points: Vec<(u64, f64)>,
}

/// What a job does until its time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Waits.
    Timer,
    /// Sends commands to the device, one after another.
    Io,
    /// Computes.
    Cpu,
    /// Calls something that blocks its thread.
    Blocking,
}

/// Body of `POST /api/v1/jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// What the job does.
    pub kind: JobKind,
    /// For how long, in milliseconds, 1 to 600,000.
    pub duration_ms: u64,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// At work.
    Running,
    /// Done.
    Done,
    /// Could not be done.
    Failed,
    /// Cancelled by a client.
    Cancelled,
}

/// A job, as `/api/v1/jobs` and `/api/v1/jobs/{id}` show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Id, the last part of its path.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// How long it takes, in milliseconds.
    pub duration_ms: u64,
    /// Where it stands.
    pub status: JobStatus,
    /// Share that is done, 0 to 1.
    pub progress: f64,
}

/// State of one part of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// Works.
    Up,
    /// Does not work.
    Down,
    /// The broker refuses publishes; consuming goes on.
    Blocked,
    /// Not yet, or not any more.
    Connecting,
    /// The service is stopping.
    Draining,
}

/// The parts of the service; a model without inter-process communication reports `ipc` as up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// The REST side.
    pub http: Check,
    /// The AMQP side: consumer running and publisher not blocked.
    pub amqp: Check,
    /// Between them.
    pub ipc: Check,
}

/// Answer of `GET /readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// `ready` or `unavailable`.
    pub status: &'static str,
    /// The parts.
    pub checks: Checks,
}

/// Answer of `GET /healthz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Always `ok`: whoever answers is alive.
    pub status: &'static str,
}

/// Answer of `GET /info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// `multi-process`, `multi-thread` or `async`.
    pub model: String,
    /// Variant of the model, such as `pool` or `current-thread`.
    pub variant: String,
    /// `isolated` or `shared`.
    pub profile: String,
    /// Version of the service.
    pub version: String,
    /// Name of the instance.
    pub name: String,
    /// Every process of the service.
    pub pids: Vec<u32>,
    /// Threads over all processes.
    pub threads: u32,
    /// RFC 3339.
    pub started_at: String,
    /// REST workers as configured.
    pub http_workers: usize,
}
