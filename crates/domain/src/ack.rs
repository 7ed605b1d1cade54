//! When to acknowledge.

use std::time::{Duration, Instant};

/// An ack to be sent: everything up to and including `delivery_tag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Highest settled delivery.
    pub delivery_tag: u64,
    /// Deliveries that it settles.
    pub count: u64,
}

/// Gathers settled deliveries of one channel into acks with `multiple` set.
///
/// Deliveries must be settled in the order of their tags; a delivery that is rejected instead is
/// simply left out, because an ack of a higher tag passes over what is settled already.
#[derive(Debug)]
pub struct AckBatcher {
    batch: u64,
    delay: Duration,
    pending: Option<Pending>,
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
        }
    }

    /// Notes that `delivery_tag` is settled at `now`; returns the ack if the batch is full.
    pub fn settled(&mut self, delivery_tag: u64, now: Instant) -> Option<Ack> {
        let pending = self.pending.get_or_insert(Pending {
            ack: Ack {
                delivery_tag,
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

    /// When the unfinished batch must be acked; `None` if there is none.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.pending.map(|pending| pending.due)
    }

    /// The unfinished batch's ack, if it is due at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<Ack> {
        if self.due().is_some_and(|due| due <= now) {
            self.flush()
        } else {
            None
        }
    }

    /// The unfinished batch's ack at once, for a drain.
    pub fn flush(&mut self) -> Option<Ack> {
        self.pending.take().map(|pending| pending.ack)
    }

    /// Forgets the unfinished batch: the channel is gone, and the broker delivers it again.
    pub fn reset(&mut self) {
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
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
                count: 1
            })
        );
    }

    #[test]
    fn with_a_prefetch_of_one_every_delivery_is_acked_at_once() {
        let mut batcher = AckBatcher::new(32, 1, DELAY);
        assert!(batcher.settled(1, Instant::now()).is_some());
    }

    proptest! {
        #[test]
        fn every_delivery_is_acked_exactly_once(
            batch in 1..40_u16, prefetch in 1..200_u16, steps in prop::collection::vec(0..5_u64, 1..200)
        ) {
            let mut now = Instant::now();
            let mut batcher = AckBatcher::new(batch, prefetch, DELAY);
            let (mut acked, mut highest) = (0, 0);
            for (tag, step) in (1..).zip(&steps) {
                now += Duration::from_millis(*step);
                for ack in [batcher.take_due(now), batcher.settled(tag, now)].into_iter().flatten() {
                    prop_assert!(ack.delivery_tag > highest);
                    (acked, highest) = (acked + ack.count, ack.delivery_tag);
                }
                prop_assert!(batcher.due().is_none_or(|due| due <= now + DELAY));
            }
            acked += batcher.flush().map_or(0, |ack| ack.count);
            prop_assert_eq!(acked, steps.len() as u64);
        }
    }
}
