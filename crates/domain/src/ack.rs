//! When to acknowledge, and when to give back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// An ack to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Highest settled delivery.
    pub delivery_tag: u64,
    /// Whether everything before it is meant as well.
    pub multiple: bool,
    /// Deliveries that it settles.
    pub count: u64,
}

/// Gathers settled deliveries of one channel into acks with `multiple` set.
///
/// Deliveries must be settled in the order of their tags; a delivery that is rejected instead is
/// simply left out, because an ack of a higher tag passes over what is settled already.
///
/// A delivery that failed for a reason that may pass is held back before it goes to the queue
/// again. An ack with `multiple` would settle it, so as long as one is held back, each delivery is
/// acked alone.
#[derive(Debug)]
pub struct AckBatcher {
    batch: u64,
    delay: Duration,
    /// `None` as long as anything is held back.
    pending: Option<Pending>,
    /// Deliveries that are held back, and until when.
    held: BTreeMap<u64, Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    ack: Ack,
    due: Instant,
}

impl AckBatcher {
    /// Acks every `batch` deliveries, or `delay` after the first of an unfinished batch.
    ///
    /// The batch never exceeds half of the prefetch: a consumer that waits for more deliveries
    /// than the broker may send would only ever move on by the delay.
    #[must_use]
    pub fn new(batch: u16, prefetch: u16, delay: Duration) -> Self {
        Self {
            batch: u64::from(batch.min((prefetch / 2).max(1))),
            delay,
            pending: None,
            held: BTreeMap::new(),
        }
    }

    /// Notes that `delivery_tag` is settled at `now`; returns the ack if it is to be sent now.
    pub fn settled(&mut self, delivery_tag: u64, now: Instant) -> Option<Ack> {
        if !self.held.is_empty() {
            return Some(Ack {
                delivery_tag,
                multiple: false,
                count: 1,
            });
        }
        let pending = self.pending.get_or_insert(Pending {
            ack: Ack {
                delivery_tag,
                multiple: true,
                count: 0,
            },
            due: now + self.delay,
        });
        pending.ack.delivery_tag = delivery_tag;
        pending.ack.count += 1;
        if pending.ack.count >= self.batch {
            self.flush()
        } else {
            None
        }
    }

    /// Holds `delivery_tag` back until `until`; returns the ack of what was settled before it.
    pub fn hold(&mut self, delivery_tag: u64, until: Instant) -> Option<Ack> {
        self.held.insert(delivery_tag, until);
        self.flush()
    }

    /// A delivery that was held back long enough at `now`, to be given back to the queue.
    pub fn take_released(&mut self, now: Instant) -> Option<u64> {
        let mut held = self.held.iter();
        let (&delivery_tag, _) = held.find(|(_, until)| **until <= now)?;
        self.held.remove(&delivery_tag);
        Some(delivery_tag)
    }

    /// When the unfinished batch must be acked or a delivery is to be given back; `None` if there
    /// is neither.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let held = self.held.values().copied();
        held.chain(self.pending.map(|pending| pending.due)).min()
    }

    /// The unfinished batch's ack, if it is due at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<Ack> {
        let pending = self.pending.filter(|pending| pending.due <= now);
        pending.and_then(|_| self.flush())
    }

    /// The unfinished batch's ack at once, for a drain.
    pub fn flush(&mut self) -> Option<Ack> {
        self.pending.take().map(|pending| pending.ack)
    }

    /// Forgets everything: the channel is gone, and the broker delivers it again.
    pub fn reset(&mut self) {
        self.pending = None;
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    const DELAY: Duration = Duration::from_millis(10);

    #[test]
    fn a_full_batch_is_acked_at_once() {
        let now = Instant::now();
        let mut batcher = AckBatcher::new(3, 100, DELAY);
        assert_eq!(batcher.settled(1, now), None);
        assert_eq!(batcher.settled(2, now), None);
        assert_eq!(
            batcher.settled(3, now),
            Some(Ack {
                delivery_tag: 3,
                multiple: true,
                count: 3
            })
        );
        assert_eq!(batcher.due(), None);
    }

    #[test]
    fn a_lone_delivery_is_acked_after_the_delay() {
        let now = Instant::now();
        let mut batcher = AckBatcher::new(32, 100, DELAY);
        assert_eq!(batcher.settled(7, now), None);
        assert_eq!(batcher.take_due(now + DELAY / 2), None);
        assert_eq!(
            batcher.take_due(now + DELAY),
            Some(Ack {
                delivery_tag: 7,
                multiple: true,
                count: 1
            })
        );
    }

    #[test]
    fn with_a_prefetch_of_one_every_delivery_is_acked_at_once() {
        let mut batcher = AckBatcher::new(32, 1, DELAY);
        assert!(batcher.settled(1, Instant::now()).is_some());
    }

    #[test]
    fn a_delivery_that_is_held_back_is_not_acked_with_the_others() {
        let now = Instant::now();
        let mut batcher = AckBatcher::new(10, 100, DELAY);
        batcher.settled(1, now);
        let before = batcher
            .hold(2, now + 5 * DELAY)
            .expect("the batch before it");
        assert_eq!((before.delivery_tag, before.multiple), (1, true));
        let behind = batcher.settled(3, now).expect("alone");
        assert_eq!((behind.delivery_tag, behind.multiple), (3, false));
        assert_eq!(batcher.due(), Some(now + 5 * DELAY));
        assert_eq!(batcher.take_released(now + DELAY), None);
        assert_eq!(batcher.take_released(now + 5 * DELAY), Some(2));
        assert_eq!(batcher.settled(4, now), None, "in a batch again");
    }

    /// Takes the deliveries that an ack settles out of those that are open.
    fn settle(open: &mut BTreeSet<u64>, ack: Ack) -> u64 {
        let before = open.len();
        open.retain(|tag| {
            let settled = *tag == ack.delivery_tag || (ack.multiple && *tag < ack.delivery_tag);
            !settled
        });
        (before - open.len()) as u64
    }

    proptest! {
        #[test]
        fn every_delivery_is_acked_or_given_back_exactly_once(
            batch in 1..40_u16, prefetch in 1..200_u16,
            steps in prop::collection::vec((0..5_u64, prop::bool::weighted(0.1)), 1..200)
        ) {
            let mut now = Instant::now();
            let mut batcher = AckBatcher::new(batch, prefetch, DELAY);
            let mut open = BTreeSet::new();
            for (tag, (step, fails)) in (1..).zip(&steps) {
                now += Duration::from_millis(*step);
                while let Some(released) = batcher.take_released(now) {
                    prop_assert!(open.remove(&released), "settled twice: {released}");
                }
                if let Some(ack) = batcher.take_due(now) {
                    prop_assert_eq!(settle(&mut open, ack), ack.count);
                }
                open.insert(tag);
                let ack = if *fails {
                    // What was settled before it; it is not among them.
                    open.remove(&tag);
                    let ack = batcher.hold(tag, now + 3 * DELAY);
                    let settled = ack.map(|ack| (settle(&mut open, ack), ack.count));
                    open.insert(tag);
                    prop_assert!(settled.is_none_or(|(settled, count)| settled == count));
                    None
                } else {
                    batcher.settled(tag, now)
                };
                if let Some(ack) = ack {
                    prop_assert_eq!(settle(&mut open, ack), ack.count);
                }
                prop_assert!(batcher.due().is_none_or(|due| due <= now + 3 * DELAY));
            }
            if let Some(ack) = batcher.flush() {
                prop_assert_eq!(settle(&mut open, ack), ack.count);
            }
            let held: BTreeSet<u64> = batcher.held.keys().copied().collect();
            prop_assert_eq!(open, held);
        }
    }
}
