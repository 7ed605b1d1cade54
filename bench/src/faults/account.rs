//! Every message accounted for by its sequence number; a pure function of what was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::journal::{Id, Journal, Source};
use super::record::Messages;

/// How long before the fault a message may have been taken that it destroyed or hid: far longer
/// than one lies in the queue at the load's rate, and short enough to excuse few.
const REACH: Duration = Duration::from_secs(1);
/// Lost messages that are named.
const EXAMPLES: usize = 20;

/// What the service said about itself, over all its lives.
#[derive(Debug, Default)]
pub(super) struct Testimony {
    /// How often each message is in the store of the current life.
    pub(super) current: BTreeMap<Id, u32>,
    /// Messages that were in the store of an earlier life.
    pub(super) earlier: BTreeSet<Id>,
    /// Duplicates that the current life has counted.
    pub(super) duplicates: u64,
    /// Duplicates that the earlier lives had counted when they were asked last.
    pub(super) earlier_duplicates: u64,
}

impl Testimony {
    /// The service begins anew, and with it its store and its counters.
    pub(super) fn new_life(&mut self) {
        let ids = std::mem::take(&mut self.current).into_keys();
        self.earlier.extend(ids);
        self.earlier_duplicates += std::mem::take(&mut self.duplicates);
    }
}

/// What the fault itself did to messages, beside what the service made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excuse {
    kind: ExcuseKind,
    /// First and last instant at which an excused message was taken.
    from: Duration,
    until: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExcuseKind {
    /// The queue was deleted with what was in it.
    Destroyed,
    /// The process that could have told was ended. The load's own messages need no excuse: their
    /// replies outlive the process.
    Silenced,
}

impl Excuse {
    /// The queue was deleted at this instant.
    pub(super) fn destroyed(at: Duration) -> Self {
        Self {
            kind: ExcuseKind::Destroyed,
            from: at.saturating_sub(REACH),
            until: at,
        }
    }

    /// The store was asked for the last time at `asked`, and was gone at `gone`.
    pub(super) fn silenced(asked: Duration, gone: Duration) -> Self {
        Self {
            kind: ExcuseKind::Silenced,
            from: asked.saturating_sub(REACH),
            until: gone,
        }
    }

    fn covers(self, id: Id, taken: Duration) -> bool {
        let concerns = self.kind == ExcuseKind::Destroyed || id.source == Source::Rest;
        concerns && (self.from..=self.until).contains(&taken)
    }
}

/// What was found when everything had come to rest.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// In the dead-letter queue.
    pub(super) dead: BTreeSet<Id>,
    /// In the ingest queue after the service had stopped.
    pub(super) queued: BTreeSet<Id>,
}

/// Messages that were taken and should have an effect, of which nothing was seen so far.
pub(super) fn missing(journal: &Journal, testimony: &Testimony) -> BTreeSet<Id> {
    let is_poison = |id: &Id| id.source == Source::Amqp && journal.poison.contains(&id.seq);
    let taken = journal.taken.keys().copied();
    taken
        .filter(|id| !is_poison(id) && !is_applied(*id, journal, testimony))
        .collect()
}

fn is_applied(id: Id, journal: &Journal, testimony: &Testimony) -> bool {
    let is_told = id.source == Source::Amqp && journal.replies.contains_key(&id.seq);
    is_told || testimony.current.contains_key(&id) || testimony.earlier.contains(&id)
}

/// Counts every message that somebody had answered for.
pub(super) fn account(
    journal: &Journal,
    testimony: &Testimony,
    remains: &Remains,
    excuse: Option<Excuse>,
) -> Messages {
    let mut messages = Messages {
        duplicates: testimony.earlier_duplicates + testimony.duplicates,
        repeated: repeated(journal, testimony),
        ..Messages::default()
    };
    for (&id, &at) in &journal.taken {
        match id.source {
            Source::Amqp => messages.confirmed += 1,
            Source::Rest => messages.accepted += 1,
        }
        if is_applied(id, journal, testimony) {
            messages.applied += 1;
        } else if remains.dead.contains(&id) {
            messages.dead_lettered += 1;
        } else if remains.queued.contains(&id) {
            messages.still_queued += 1;
        } else if let Some(excuse) = excuse.filter(|excuse| excuse.covers(id, at)) {
            match excuse.kind {
                ExcuseKind::Destroyed => messages.destroyed += 1,
                ExcuseKind::Silenced => messages.unproven += 1,
            }
        } else {
            messages.lost += 1;
            if messages.lost_examples.len() < EXAMPLES {
                let ms = at.as_millis();
                messages.lost_examples.push(format!("{id} at {ms} ms"));
            }
        }
    }
    messages
}

fn repeated(journal: &Journal, testimony: &Testimony) -> u64 {
    let again = testimony
        .current
        .iter()
        .filter(|(id, times)| **times > 1 || testimony.earlier.contains(id))
        .map(|(id, _)| *id);
    let told_again = journal.replies.iter().filter(|(_, times)| **times > 1);
    let told_again = told_again.map(|(&seq, _)| Id {
        source: Source::Amqp,
        seq,
    });
    again.chain(told_again).collect::<BTreeSet<_>>().len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(source: Source, seq: u64) -> Id {
        Id { source, seq }
    }

    fn journal(taken: &[(Source, u64, u64)]) -> Journal {
        let mut journal = Journal::default();
        for (source, seq, at_ms) in taken {
            journal.take(id(*source, *seq), Duration::from_millis(*at_ms));
        }
        journal
    }

    #[test]
    fn a_message_without_a_trace_is_lost() {
        use Source::{Amqp, Rest};
        let mut journal = journal(&[(Amqp, 1, 10), (Amqp, 2, 20), (Rest, 1, 30), (Rest, 2, 40)]);
        journal.replied(1);
        let mut testimony = Testimony::default();
        testimony.current.insert(id(Rest, 1), 1);
        let missing = missing(&journal, &testimony);
        assert_eq!(missing, BTreeSet::from([id(Amqp, 2), id(Rest, 2)]));
        let remains = Remains {
            dead: BTreeSet::from([id(Amqp, 2)]),
            ..Remains::default()
        };
        let messages = account(&journal, &testimony, &remains, None);
        assert_eq!((messages.confirmed, messages.accepted), (2, 2));
        assert_eq!((messages.applied, messages.dead_lettered), (2, 1));
        assert_eq!(messages.lost_examples, ["rest 2 at 40 ms"]);
    }

    #[test]
    fn earlier_lives_count_and_what_comes_again_is_repeated() {
        use Source::{Amqp, Rest};
        let mut journal = journal(&[(Rest, 1, 10), (Rest, 2, 20), (Amqp, 3, 30)]);
        journal.replied(3);
        journal.replied(3);
        let mut testimony = Testimony::default();
        testimony.current.insert(id(Rest, 1), 1);
        testimony.current.insert(id(Rest, 2), 1);
        testimony.duplicates = 4;
        testimony.new_life();
        testimony.current.insert(id(Rest, 2), 1);
        testimony.duplicates = 1;
        let messages = account(&journal, &testimony, &Remains::default(), None);
        assert_eq!((messages.applied, messages.lost), (3, 0));
        assert_eq!((messages.duplicates, messages.repeated), (5, 2));
    }

    #[test]
    fn an_excuse_reaches_a_second_back_and_not_forward() {
        use Source::{Amqp, Rest};
        let taken = [
            (Rest, 1, 100),
            (Rest, 2, 1_900),
            (Rest, 3, 2_001),
            (Amqp, 4, 1_900),
        ];
        let journal = journal(&taken);
        let account = |excuse| {
            let remains = Remains::default();
            let messages = account(&journal, &Testimony::default(), &remains, Some(excuse));
            (messages.unproven, messages.destroyed, messages.lost)
        };
        let at = Duration::from_millis(2_000);
        assert_eq!(account(Excuse::silenced(at, at)), (1, 0, 3));
        assert_eq!(account(Excuse::destroyed(at)), (0, 2, 2));
        let later = Duration::from_millis(2_500);
        assert_eq!(account(Excuse::silenced(at, later)), (2, 0, 2));
    }
}
