//! Limits that hold in every model; the ones an operator may change are in [`crate::settings`].

use std::time::Duration;

/// Deepest nesting that `flatten` and an event's `data` may have.
pub const MAX_DEPTH: usize = 32;
/// Longest key in bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// Largest AMQP message body in bytes; a larger one is invalid.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// How long a handler may take before the answer is 504. It does not apply where a handler waits for
/// the broker's confirm, and for nothing else: there [`CONFIRM_TIMEOUT`] says better what was late.
pub const HANDLER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the device may take for one line.
pub const DEVICE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a caller waits for a free device connection before the answer is 503.
pub const DEVICE_POOL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a publisher waits for the broker's confirm before the answer is 504.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// Unconfirmed publishes at once; one more is refused with 503.
pub const PUBLISH_WINDOW: usize = 64;
/// Replies and broadcasts that may wait for the publisher, be it that it has no connection; more are
/// dropped.
///
/// Ten prefetch windows: a requester that lets so many pile up has stopped reading them.
pub const NOTICES_MAX: usize = 1000;
/// How long the broker may take to shake hands. A sound one does so within milliseconds; one that
/// accepts and says nothing is most likely starting, and is better asked again than waited for.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// Deadline of each attempt to connect to the broker as a whole: the topology's declaration may have
/// to wait until a quorum queue has elected its leader.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time between a settled delivery and its ack.
pub const ACK_DELAY: Duration = Duration::from_millis(10);
/// `Retry-After` of a 503, in seconds.
pub const RETRY_AFTER_S: u32 = 1;
/// Message ids remembered to recognise duplicates; a redelivery comes within the prefetch window,
/// so this covers a publisher's own retries as well.
pub const REMEMBERED_IDS: usize = 8192;
/// Default page length of `GET /api/v1/keys`.
pub const PAGE_DEFAULT: usize = 100;
/// Largest page length of `GET /api/v1/keys`.
pub const PAGE_MAX: usize = 1000;
/// Seconds between two runs of the `cleanup` task.
pub const CLEANUP_INTERVAL: Duration = Duration::from_secs(10);
/// Most fields in a series query.
pub const QUERY_FIELDS_MAX: usize = 100;
/// Points per field in a series query that names no limit.
pub const QUERY_POINTS_DEFAULT: usize = 1000;
/// Largest limit of a series query.
pub const QUERY_POINTS_MAX: usize = 10_000;
/// Jobs at work at once; one more is refused with 503.
pub const JOBS_RUNNING_MAX: usize = 64;
/// Ended jobs that are remembered; those that ended first are forgotten first.
pub const JOBS_ENDED_MAX: usize = 256;
/// Longest job.
pub const JOB_DURATION_MAX: Duration = Duration::from_secs(600);
/// Largest request head in bytes; a larger one is answered with 431.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// How long a client may take to send a request's head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take to send a request's body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may stay without a request.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a transiently failed delivery waits before it goes back to the queue.
pub const REQUEUE_DELAY: Duration = Duration::from_millis(200);
/// Seconds between two writes of the file sink.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Lines that wait for the file sink; more are dropped and counted.
pub const SINK_LINES: usize = 10_000;
/// Bytes of the lines that wait for the file sink; what would go beyond is dropped and counted.
pub const SINK_BYTES: usize = 16 * 1024 * 1024;
