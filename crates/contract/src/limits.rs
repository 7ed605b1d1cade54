//! Limits that hold in every model; the ones an operator may change are in [`crate::settings`].

use std::time::Duration;

/// Deepest nesting that `flatten` and an event's `data` may have.
pub const MAX_DEPTH: usize = 32;
/// Longest key in bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// Largest AMQP message body in bytes; a larger one is invalid.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// How long a handler may take before the answer is 504.
pub const HANDLER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the device may take for one line.
pub const DEVICE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a caller waits for a free device connection before the answer is 503.
pub const DEVICE_POOL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a publisher waits for the broker's confirm before the answer is 504.
pub const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// Unconfirmed publishes at once; one more is refused with 503.
pub const PUBLISH_WINDOW: usize = 64;
/// Deadline of each attempt to connect to the broker.
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
