//! Recognition of duplicates.

use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

/// The last `capacity` message ids, as 64-bit hashes.
///
/// Two of 8,192 ids collide with a probability of about 2·10⁻¹² (birthday bound n²/2⁶⁵), which is
/// below that of a memory error; keeping hashes bounds the memory whatever the ids' length.
/// Its memory is reserved at once: growing would move every id while a message waits, and a service
/// would not be as large as it will be until it has seen so many.
#[derive(Debug)]
pub struct Dedup {
    order: VecDeque<u64>,
    known: HashSet<u64>,
    capacity: usize,
}

impl Dedup {
    /// Remembers the last `capacity` ids.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        // One more: the new id is there before the oldest goes.
        let most = capacity + 1;
        Self {
            order: VecDeque::with_capacity(most),
            // A table that is more than half full grows once removed ids have used up its free
            // places; else it is tidied where it is.
            known: HashSet::with_capacity(2 * most),
            capacity,
        }
    }

    /// Whether `message_id` is new; it is remembered from now on.
    /// A message without an id is always new: nothing tells it from another.
    pub fn is_new(&mut self, message_id: Option<&str>) -> bool {
        let Some(message_id) = message_id else {
            return true;
        };
        let hash = hash(message_id);
        if !self.known.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// Takes back that `message_id` was seen: its effect failed, and it will come again.
    pub fn forget(&mut self, message_id: Option<&str>) {
        let Some(hash) = message_id.map(hash) else {
            return;
        };
        if self.known.remove(&hash) {
            self.order.retain(|known| *known != hash);
        }
    }
}

fn hash(message_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    message_id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_memory_is_there_from_the_start() {
        let mut dedup = Dedup::new(100);
        let reserved = (dedup.order.capacity(), dedup.known.capacity());
        for id in 0..20_000 {
            assert!(dedup.is_new(Some(&id.to_string())));
            assert_eq!(dedup.order.capacity(), reserved.0);
            // Of a table it counts what is free without tidying, so it may be less.
            assert!(dedup.known.capacity() <= reserved.1);
        }
    }

    #[test]
    fn an_id_is_new_once() {
        let mut dedup = Dedup::new(4);
        assert!(dedup.is_new(Some("a")));
        assert!(!dedup.is_new(Some("a")));
        assert!(dedup.is_new(Some("b")));
    }

    #[test]
    fn a_forgotten_id_is_new_again() {
        let mut dedup = Dedup::new(2);
        assert!(dedup.is_new(Some("a")));
        dedup.forget(Some("a"));
        dedup.forget(Some("never seen"));
        dedup.forget(None);
        assert!(dedup.is_new(Some("a")));
        assert_eq!(dedup.order.len(), 1);
    }

    #[test]
    fn messages_without_an_id_are_never_duplicates() {
        let mut dedup = Dedup::new(4);
        assert!(dedup.is_new(None));
        assert!(dedup.is_new(None));
    }

    #[test]
    fn only_the_last_ids_are_remembered() {
        let mut dedup = Dedup::new(2);
        for id in ["a", "b", "c"] {
            assert!(dedup.is_new(Some(id)));
        }
        assert!(dedup.is_new(Some("a")), "forgotten");
        assert!(!dedup.is_new(Some("c")));
        assert_eq!(dedup.order.len(), 2);
        assert_eq!(dedup.known.len(), 2);
    }
}
