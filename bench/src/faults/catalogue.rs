//! The faults, one entry each: what happens, for how long, and who causes it.

use std::time::Duration;

use super::cause::{Cause, broker, client, host, service};

/// One fault of the campaign.
#[derive(Debug)]
pub struct Fault {
    /// Name on the command line and in files.
    pub name: &'static str,
    /// What happens, for tables.
    pub title: &'static str,
    /// From the cause to the healing.
    pub(super) hold: Duration,
    /// Makes what causes and heals it.
    pub(super) make: fn() -> Box<dyn Cause>,
}

const fn fault(
    name: &'static str,
    title: &'static str,
    hold_ms: u64,
    make: fn() -> Box<dyn Cause>,
) -> Fault {
    Fault {
        name,
        title,
        hold: Duration::from_millis(hold_ms),
        make,
    }
}

/// Every fault in the order in which they are caused; the first is none, to show what the load
/// itself does.
pub(super) static FAULTS: [Fault; 16] = [
    fault("control", "nothing (control)", 500, || {
        Box::new(client::Nothing)
    }),
    fault(
        "broker-killed",
        "broker killed and started again",
        300,
        || Box::new(broker::Killed),
    ),
    fault(
        "connections-closed",
        "connections closed by the broker",
        0,
        || Box::new(broker::ConnectionsClosed),
    ),
    fault("queue-deleted", "ingest queue deleted", 0, || {
        Box::new(broker::QueueDeleted)
    }),
    fault("memory-alarm", "broker's memory alarm", 1_500, || {
        Box::new(broker::MemoryAlarm::default())
    }),
    fault("broker-silent", "broker's network silent", 3_500, || {
        Box::new(broker::Silent)
    }),
    fault(
        "service-killed",
        "service killed and started again",
        0,
        || Box::new(service::Killed),
    ),
    fault("amqp-child-killed", "AMQP process killed", 0, || {
        Box::new(service::ChildKilled::amqp())
    }),
    fault("rest-child-killed", "one REST process killed", 0, || {
        Box::new(service::ChildKilled::rest())
    }),
    fault(
        "service-stopped",
        "SIGTERM under load, then started again",
        0,
        || Box::new(service::Stopped),
    ),
    fault("device-gone", "device gone and back", 1_000, || {
        Box::new(host::DeviceGone::default())
    }),
    fault(
        "slow-loris",
        "200 clients that send one byte per second",
        2_500,
        || Box::new(client::SlowLoris::default()),
    ),
    fault(
        "idle-connections",
        "10,000 idle connections, or as many as are taken in 10 s",
        1_000,
        || Box::new(client::IdleConnections::default()),
    ),
    fault("no-descriptors", "no descriptor left", 1_500, || {
        Box::new(host::NoDescriptors::default())
    }),
    fault("poison", "1 % poison messages", 2_500, || {
        Box::new(client::Poison)
    }),
    fault("disk-full", "disk of the file sink full", 5_200, || {
        Box::new(host::DiskFull::default())
    }),
];
