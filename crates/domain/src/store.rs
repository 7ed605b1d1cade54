//! The store: latest values and bounded series.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    time::Duration,
};

use contract::{
    Settings,
    shapes::{KeysPage, Latest},
};

use crate::{event::Reading, flatten::Fields, time::UnixMs};

/// Bounds of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Time to live of a value.
    pub ttl: Duration,
    /// Points kept per key and field.
    pub series_points: usize,
    /// Keys kept.
    pub max_keys: usize,
}

impl From<&Settings> for Bounds {
    fn from(settings: &Settings) -> Self {
        Self {
            ttl: Duration::from_secs(settings.ttl_s),
            series_points: settings.series_points,
            max_keys: settings.max_keys,
        }
    }
}

/// One value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When it was received.
    pub at: UnixMs,
    /// Its value.
    pub value: f64,
}

/// Latest values and series of every key; iteration is in the order of the keys.
#[derive(Debug)]
pub struct Store {
    bounds: Bounds,
    keys: BTreeMap<String, Entry>,
    /// Keys by the sequence number of their newest event: the first is the longest unchanged.
    by_age: BTreeMap<u64, String>,
    points: usize,
    seq: u64,
}

#[derive(Debug)]
struct Entry {
    fields: Fields,
    seq: u64,
    received: UnixMs,
    series: BTreeMap<String, VecDeque<Point>>,
}

impl Entry {
    const fn empty(now: UnixMs) -> Self {
        Self {
            fields: Fields::new(),
            seq: 0,
            received: now,
            series: BTreeMap::new(),
        }
    }

    fn points(&self) -> usize {
        self.series.values().map(VecDeque::len).sum()
    }
}

impl Store {
    /// An empty store.
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            keys: BTreeMap::new(),
            by_age: BTreeMap::new(),
            points: 0,
            seq: 0,
        }
    }

    /// Stores a reading and returns its sequence number, counted from 1.
    ///
    /// The newest event replaces the latest values of its key as a whole.
    /// If the store is full, the longest unchanged key gives way.
    pub fn apply(&mut self, reading: Reading, now: UnixMs) -> u64 {
        self.seq += 1;
        let age_key = match self.keys.get(&reading.key) {
            Some(entry) => self
                .by_age
                .remove(&entry.seq)
                .expect("every key has an age"),
            None => {
                if self.keys.len() >= self.bounds.max_keys {
                    self.drop_oldest();
                }
                reading.key.clone()
            }
        };
        self.by_age.insert(self.seq, age_key);
        let entry = self
            .keys
            .entry(reading.key)
            .or_insert_with(|| Entry::empty(now));
        for (field, value) in &reading.fields {
            let point = Point {
                at: now,
                value: *value,
            };
            self.points += append(&mut entry.series, field, point, self.bounds.series_points);
        }
        (entry.fields, entry.seq, entry.received) = (reading.fields, self.seq, now);
        self.seq
    }

    /// The latest values of `key` that have not expired at `now`.
    #[must_use]
    pub fn latest(&self, key: &str, now: UnixMs) -> Option<Latest> {
        let entry = self
            .keys
            .get(key)
            .filter(|entry| !self.is_expired(entry, now))?;
        Some(Latest {
            key: key.to_owned(),
            fields: entry.fields.clone(),
            seq: entry.seq,
            received_at: entry.received.rfc3339(),
            expires_at: entry.received.plus(self.bounds.ttl).rfc3339(),
        })
    }

    /// The version of what [`Self::latest`] shows, for `ETag`: the instant is in it because the
    /// numbers start anew with the service.
    #[must_use]
    pub fn version(&self, key: &str) -> Option<String> {
        let entry = self.keys.get(key)?;
        Some(format!("\"{:x}-{:x}\"", entry.seq, entry.received.0))
    }

    /// The points of one field of `key`, oldest first; nothing if the key has expired at `now`.
    pub fn series(&self, key: &str, field: &str, now: UnixMs) -> impl Iterator<Item = Point> {
        let entry = self.keys.get(key);
        let entry = entry.filter(|entry| !self.is_expired(entry, now));
        let points = entry.and_then(|entry| entry.series.get(field));
        points.into_iter().flatten().copied()
    }

    /// Forgets a key; whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(entry) = self.keys.remove(key) else {
            return false;
        };
        self.by_age.remove(&entry.seq);
        self.points -= entry.points();
        true
    }

    /// Up to `limit` keys with `prefix` behind `after` that have not expired at `now`.
    #[must_use]
    pub fn keys(&self, prefix: &str, after: &str, limit: usize, now: UnixMs) -> KeysPage {
        let start = if after >= prefix {
            Bound::Excluded(after)
        } else {
            Bound::Included(prefix)
        };
        let mut found = self
            .keys
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(_, entry)| !self.is_expired(entry, now))
            .map(|(key, _)| key.clone());
        let keys: Vec<String> = found.by_ref().take(limit).collect();
        let next = found.next().and_then(|_| keys.last().cloned());
        KeysPage { keys, next }
    }

    /// Drops what has expired at `now`; returns the number of dropped keys.
    pub fn cleanup(&mut self, now: UnixMs) -> usize {
        let before = self.keys.len();
        while let Some((_, key)) = self.by_age.first_key_value() {
            let expired = self
                .keys
                .get(key)
                .is_none_or(|entry| self.is_expired(entry, now));
            if !expired {
                break;
            }
            self.drop_oldest();
        }
        before - self.keys.len()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Number of points over all series.
    #[must_use]
    pub const fn points(&self) -> usize {
        self.points
    }

    fn is_expired(&self, entry: &Entry, now: UnixMs) -> bool {
        entry.received.plus(self.bounds.ttl) <= now
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.by_age.pop_first()
            && let Some(entry) = self.keys.remove(&key)
        {
            self.points -= entry.points();
        }
    }
}

/// Appends a point to a field's series, dropping the oldest beyond `bound`; returns the growth.
fn append(
    series: &mut BTreeMap<String, VecDeque<Point>>,
    field: &str,
    point: Point,
    bound: usize,
) -> usize {
    let Some(points) = series.get_mut(field) else {
        series.insert(field.to_owned(), VecDeque::from([point]));
        return 1;
    };
    let full = points.len() >= bound;
    if full {
        points.pop_front();
    }
    points.push_back(point);
    usize::from(!full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        ttl: Duration::from_secs(10),
        series_points: 3,
        max_keys: 4,
    };

    fn reading(key: &str, value: f64) -> Reading {
        Reading {
            key: key.into(),
            fields: Fields::from([("v".into(), value)]),
        }
    }

    #[test]
    fn the_newest_event_is_the_latest() {
        let mut store = Store::new(BOUNDS);
        assert_eq!(store.apply(reading("a", 1.0), UnixMs(0)), 1);
        assert_eq!(store.apply(reading("a", 2.0), UnixMs(1_000)), 2);
        let latest = store.latest("a", UnixMs(1_000)).expect("stored");
        assert_eq!((latest.seq, latest.fields.get("v")), (2, Some(&2.0)));
        assert_eq!(latest.received_at, "1970-01-01T00:00:01.000Z");
        assert_eq!(latest.expires_at, "1970-01-01T00:00:11.000Z");
    }

    #[test]
    fn a_value_is_gone_when_its_time_is_over_and_cleanup_frees_it() {
        let mut store = Store::new(BOUNDS);
        store.apply(reading("a", 1.0), UnixMs(0));
        store.apply(reading("b", 1.0), UnixMs(5_000));
        assert!(store.latest("a", UnixMs(9_999)).is_some());
        assert!(store.latest("a", UnixMs(10_000)).is_none());
        assert_eq!(store.cleanup(UnixMs(10_000)), 1);
        assert_eq!((store.len(), store.points()), (1, 1));
    }

    #[test]
    fn the_longest_unchanged_key_gives_way() {
        let mut store = Store::new(BOUNDS);
        for key in ["a", "b", "c", "d", "a", "e"] {
            store.apply(reading(key, 1.0), UnixMs(0));
        }
        assert_eq!(store.keys("", "", 9, UnixMs(0)).keys, ["a", "c", "d", "e"]);
    }

    #[test]
    fn pages_follow_one_another_without_gap_or_overlap() {
        let mut store = Store::new(BOUNDS);
        for key in ["x:1", "x:2", "x:3", "y:1"] {
            store.apply(reading(key, 1.0), UnixMs(0));
        }
        let first = store.keys("x:", "", 2, UnixMs(0));
        assert_eq!(first.keys, ["x:1", "x:2"]);
        let second = store.keys("x:", first.next.as_deref().expect("more"), 2, UnixMs(0));
        assert_eq!((second.keys, second.next), (vec!["x:3".to_owned()], None));
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_the_point_count_is_true(
            events in prop::collection::vec(
                (0..8_u8, 0..20_u64, any::<bool>(), any::<bool>()), 0..200
            )
        ) {
            let mut store = Store::new(BOUNDS);
            let mut now = 0;
            for (key, step, clean, forget) in events {
                now += step * 100;
                if forget {
                    store.remove(&(key / 2).to_string());
                }
                store.apply(reading(&key.to_string(), 1.0), UnixMs(now));
                if clean {
                    store.cleanup(UnixMs(now));
                }
                let points: usize = store.keys.values().map(Entry::points).sum();
                prop_assert!(store.len() <= BOUNDS.max_keys);
                prop_assert_eq!(store.by_age.len(), store.keys.len());
                prop_assert_eq!(points, store.points());
                prop_assert!(points <= BOUNDS.max_keys * BOUNDS.series_points);
            }
        }
    }
}
