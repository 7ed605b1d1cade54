//! What the load did and what came of it, operation by operation and message by message.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Keys per source: few, so that the store does not grow with the load.
pub(super) const KEYS: u64 = 50;

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Published by the load itself.
    Amqp,
    /// Published by the service on `POST /api/v1/events`.
    Rest,
}

/// A message by its sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) source: Source,
    pub(super) seq: u64,
}

impl Source {
    pub(super) const ALL: [Self; 2] = [Self::Amqp, Self::Rest];

    fn letter(self) -> char {
        match self {
            Self::Amqp => 'a',
            Self::Rest => 'r',
        }
    }

    /// The key number `index` of this source.
    pub(super) fn key(self, index: u64) -> String {
        format!("{}-{index:02}", self.letter())
    }
}

impl Id {
    /// The message's key; its value `n` is the sequence number, so that the series of a key tells
    /// which messages had their effect.
    pub(super) fn key(self) -> String {
        self.source.key(self.seq % KEYS)
    }

    /// The message's body.
    pub(super) fn body(self) -> String {
        format!(r#"{{"key":"{}","data":{{"n":{}}}}}"#, self.key(), self.seq)
    }

    /// The message of which this is the body; `None` for any other.
    pub(super) fn of_body(body: &[u8]) -> Option<Self> {
        let body: serde_json::Value = serde_json::from_slice(body).ok()?;
        let key = body["key"].as_str()?;
        let source = Source::ALL
            .into_iter()
            .find(|source| key.starts_with(source.letter()))?;
        let seq = body["data"]["n"].as_u64()?;
        Some(Self { source, seq })
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let source = match self.source {
            Source::Amqp => "amqp",
            Source::Rest => "rest",
        };
        write!(formatter, "{source} {}", self.seq)
    }
}

/// Kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `POST /api/v1/events` on a kept connection.
    Events,
    /// `GET /api/v1/latest/{key}` on a kept connection.
    Latest,
    /// The same on a fresh connection, as a new client would.
    Fresh,
    /// `POST /api/v1/device/commands` on a kept connection.
    Device,
    /// An event published to the broker, until the reply that tells of its effect.
    Amqp,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Latest => "latest",
            Self::Fresh => "latest-fresh",
            Self::Device => "device",
            Self::Amqp => "amqp",
        }
    }

    pub(super) fn is_rest(self) -> bool {
        self != Self::Amqp
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As the contract says.
    Ok,
    /// Answered with another status.
    Status(u16),
    /// Answered, but wrongly: another key, another outcome, or no HTTP.
    Wrong,
    /// Nobody accepted the connection.
    Refused,
    /// The connection ended before the answer.
    Closed,
    /// No answer by the deadline.
    TimedOut,
    /// The broker refused the message or gave it back.
    Returned,
    /// Not sent, because the broker was away or had asked publishers to stop.
    NotSent,
}

impl Outcome {
    pub(super) fn name(self) -> String {
        let name = match self {
            Self::Ok => "ok",
            Self::Status(status) => return status.to_string(),
            Self::Wrong => "wrong",
            Self::Refused => "refused",
            Self::Closed => "closed",
            Self::TimedOut => "timed-out",
            Self::Returned => "returned",
            Self::NotSent => "not-sent",
        };
        name.to_owned()
    }
}

/// One operation; instants count from the start of the load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    /// Fixed by the schedule.
    pub(super) intended: Duration,
    /// When and how it ended; `None` while it is under way.
    pub(super) end: Option<(Duration, Outcome)>,
}

/// Everything that the load knows.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) operations: Vec<Operation>,
    /// Messages that the broker confirmed to the load or the service to its client, and when.
    pub(super) taken: BTreeMap<Id, Duration>,
    /// Messages that must end in the dead-letter queue.
    pub(super) poison: BTreeSet<u64>,
    /// Replies that told of an effect, by the message's sequence number.
    pub(super) replies: BTreeMap<u64, u32>,
    /// Keys that the store must show, since a reply told of them.
    visible: BTreeSet<u64>,
    /// Events so far.
    events: u64,
    /// The first event that only the current store can have seen.
    first_of_store: u64,
}

impl Journal {
    /// Notes an operation that is due, and returns its place.
    pub(super) fn begin(&mut self, kind: Kind, intended: Duration) -> usize {
        self.events += u64::from(kind == Kind::Amqp);
        self.operations.push(Operation {
            kind,
            intended,
            end: None,
        });
        self.operations.len() - 1
    }

    /// Notes how it ended; what comes later, such as a reply behind the deadline, counts no more.
    pub(super) fn end(&mut self, place: usize, at: Duration, outcome: Outcome) {
        self.operations[place].end.get_or_insert((at, outcome));
    }

    /// Notes that somebody has answered for a message.
    pub(super) fn take(&mut self, id: Id, at: Duration) {
        self.taken.entry(id).or_insert(at);
    }

    /// Notes a reply that told of an effect.
    pub(super) fn replied(&mut self, seq: u64) {
        *self.replies.entry(seq).or_default() += 1;
        // The reply to an older event may come from a store that is gone.
        if seq >= self.first_of_store {
            self.visible.insert(seq % KEYS);
        }
    }

    /// Whether the store must show this key of [`Source::Amqp`].
    pub(super) fn is_visible(&self, key: u64) -> bool {
        self.visible.contains(&key)
    }

    /// The store begins anew.
    pub(super) fn forget_visible(&mut self) {
        self.visible.clear();
        self.first_of_store = self.events;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_by_its_body() {
        for source in Source::ALL {
            let id = Id { source, seq: 1234 };
            assert_eq!(Id::of_body(id.body().as_bytes()), Some(id));
            assert!(id.key().ends_with("-34"));
        }
        assert_eq!(Id::of_body(b"no JSON"), None);
        assert_eq!(Id::of_body(br#"{"key":"z","data":{"n":1}}"#), None);
    }

    #[test]
    fn a_late_reply_of_an_old_store_makes_nothing_visible() {
        let mut journal = Journal::default();
        for _ in 0..3 {
            journal.begin(Kind::Amqp, Duration::ZERO);
        }
        journal.replied(1);
        assert!(journal.is_visible(1));
        journal.forget_visible();
        journal.begin(Kind::Amqp, Duration::ZERO);
        journal.replied(2);
        journal.replied(3);
        assert!(!journal.is_visible(1) && !journal.is_visible(2));
        assert!(journal.is_visible(3));
    }

    #[test]
    fn the_first_end_of_an_operation_counts() {
        let mut journal = Journal::default();
        let place = journal.begin(Kind::Amqp, Duration::ZERO);
        journal.end(place, Duration::from_secs(3), Outcome::TimedOut);
        journal.end(place, Duration::from_secs(4), Outcome::Ok);
        let end = Some((Duration::from_secs(3), Outcome::TimedOut));
        assert_eq!(journal.operations[place].end, end);
    }
}
