//! Empty queues to begin with, but never at the cost of somebody else's messages.

use std::time::Duration;

use contract::{
    QueueType,
    amqp::{Queue, queues},
};

use super::Error;
use crate::amqp::{self, Session, declare_queue, declare_topology};

/// Code with which a broker refuses to declare a queue that exists with other arguments.
const PRECONDITION_FAILED: u16 = 406;
/// Code with which a broker closes the connection if it stumbles itself: for a moment after a quorum
/// queue was deleted, the members of its former self are in the way of a new one.
const INTERNAL_ERROR: u16 = 541;
/// Attempts to get past such a moment.
const PATIENCE: u32 = 20;
/// Attempts to empty a queue: deliveries of a consumer that just went come back late.
const ATTEMPTS: u32 = 40;

/// Repeats `reset` while the broker stumbles.
///
/// # Errors
/// Those of `reset`.
pub(super) fn patiently(reset: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
    for _ in 1..PATIENCE {
        match reset() {
            Err(Error::Amqp(error)) if error.code() == Some(INTERNAL_ERROR) => {
                std::thread::sleep(Duration::from_millis(250));
            }
            other => return other,
        }
    }
    reset()
}

/// Declares the contract's topology with empty queues.
///
/// `may_destroy` allows to purge messages and to delete queues that have other arguments.
///
/// # Errors
/// [`Error::NotEmpty`] and [`Error::Mismatch`] if that is not allowed, else [`Error::Amqp`].
pub(super) fn reset(
    session: &mut Session,
    queue_type: QueueType,
    may_destroy: bool,
) -> Result<(), Error> {
    let queues = queues(queue_type);
    for queue in &queues {
        let messages = session.depth(queue.name)?.unwrap_or_default();
        if messages > 0 && !may_destroy {
            let queue = queue.name;
            return Err(Error::NotEmpty { queue, messages });
        }
    }
    for queue in &queues {
        make_declarable(session, queue, may_destroy)?;
    }
    declare_topology(session, queue_type)?;
    for queue in &queues {
        empty(session, queue)?;
    }
    Ok(())
}

/// Deletes a queue that exists with other arguments.
fn make_declarable(session: &mut Session, queue: &Queue, may_destroy: bool) -> Result<(), Error> {
    match declare_queue(session, queue) {
        Err(error) if error.code() == Some(PRECONDITION_FAILED) && may_destroy => {
            Ok(session.delete_queue(queue.name)?)
        }
        Err(error) if error.code() == Some(PRECONDITION_FAILED) => Err(Error::Mismatch {
            queue: queue.name,
            reason: error.to_string(),
        }),
        other => Ok(other?),
    }
}

fn empty(session: &mut Session, queue: &Queue) -> Result<(), amqp::Error> {
    for _ in 0..ATTEMPTS {
        if session.purge(queue.name)? == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Ok(())
}
