//! Pauses between failed refreshes of a key, so that not every hit asks an evaluator that fails.
//!
//! The first pause of a key is [`FIRST_PAUSE`]. Each further one is twice as long, up to
//! [`LONGEST_PAUSE`]. A random part of up to a half is subtracted from each, so that keys that failed
//! together are not retried together. A successful refresh resets the key.
//!
//! At most [`MAX_PAUSES`] keys are remembered, each by a hash with a random seed: 32 bytes per key,
//! however long the keys are. Two keys with the same hash share their pauses.

use crate::clock::nanos;
use ahash::RandomState;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The length of the first pause of a key.
pub const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The length of the longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The largest number of keys with a pause that one cache remembers.
pub const MAX_PAUSES: usize = 4_096;

/// The pauses of one cache, by key.
///
/// Times are nanoseconds of any monotonic clock. Each method takes one mutex and hashes the key.
/// Memory: at most 128 KiB.
#[derive(Default)]
pub struct Pauses {
    hasher: RandomState,
    keys: Mutex<HashMap<u64, Pause, RandomState>>,
}

#[derive(Clone, Copy)]
struct Pause {
    /// The number of failed refreshes in a row, this one included.
    failures: u32,
    ends: u64,
}

impl Pauses {
    /// Returns whether a key has a pause at `now`.
    pub fn has(&self, key: &[u8], now: u64) -> bool {
        let keys = self.lock();
        !keys.is_empty() && keys.get(&self.hasher.hash_one(key)).is_some_and(|it| now < it.ends)
    }

    /// Starts the next pause of a key, after a failed refresh.
    pub fn begin(&self, key: &[u8], now: u64) {
        let hash = self.hasher.hash_one(key);
        let mut keys = self.lock();
        let failures = match keys.get(&hash) {
            // A pause that ended long ago does not count.
            Some(last) if now < last.ends.saturating_add(nanos(LONGEST_PAUSE)) => last.failures + 1,
            _ => 1,
        };
        if keys.len() >= MAX_PAUSES && !keys.contains_key(&hash) {
            make_room(&mut keys, now);
        }
        let ends = now.saturating_add(self.length(hash, failures, now));
        keys.insert(hash, Pause { failures, ends });
    }

    /// Resets a key, after a successful refresh.
    pub fn end(&self, key: &[u8]) {
        let mut keys = self.lock();
        if !keys.is_empty() {
            keys.remove(&self.hasher.hash_one(key));
        }
    }

    /// Returns the number of keys that are remembered.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn length(&self, hash: u64, failures: u32, now: u64) -> u64 {
        let doubled = nanos(FIRST_PAUSE).saturating_mul(1 << (failures - 1).min(30));
        let whole = doubled.min(nanos(LONGEST_PAUSE));
        whole - self.hasher.hash_one((hash, failures, now)) % (whole / 2)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Pause, RandomState>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the pauses that have ended or, if there are none, the one that ends first.
fn make_room(keys: &mut HashMap<u64, Pause, RandomState>, now: u64) {
    keys.retain(|_, pause| now < pause.ends);
    if keys.len() >= MAX_PAUSES
        && let Some(first) = keys.iter().min_by_key(|(_, pause)| pause.ends).map(|(hash, _)| *hash)
    {
        keys.remove(&first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a pause at `now` and returns its length, to a millisecond.
    fn begin(pauses: &Pauses, now: u64) -> Duration {
        pauses.begin(b"key", now);
        let mut steps = (0..100_000).map(|step| now + step * 1_000_000);
        let ends = steps.find(|at| !pauses.has(b"key", *at));
        Duration::from_nanos(ends.unwrap() - now)
    }

    #[test]
    fn each_pause_is_about_twice_as_long_as_the_last() {
        let (pauses, mut now) = (Pauses::default(), 0);
        for failures in 0..12 {
            let whole = (FIRST_PAUSE * 2_u32.pow(failures)).min(LONGEST_PAUSE);
            let lasts = begin(&pauses, now);
            assert!(whole / 2 <= lasts && lasts <= whole + Duration::from_millis(1), "{lasts:?}");
            now += nanos(lasts);
        }
    }

    #[test]
    fn pauses_of_different_keys_end_at_different_times() {
        let pauses = Pauses::default();
        for key in 0_u32..100 {
            pauses.begin(&key.to_le_bytes(), 0);
        }
        let half = |at: u64| (0_u32..100).filter(|key| pauses.has(&key.to_le_bytes(), at)).count();
        assert_eq!(half(nanos(FIRST_PAUSE) / 2 - 1), 100);
        assert!((5..95).contains(&half(nanos(FIRST_PAUSE) * 3 / 4)));
        assert_eq!(half(nanos(FIRST_PAUSE)), 0);
    }

    #[test]
    fn a_success_resets_the_key() {
        let pauses = Pauses::default();
        pauses.begin(b"key", 0);
        pauses.begin(b"key", 0);
        pauses.end(b"key");
        assert!(!pauses.has(b"key", 0));
        assert!(begin(&pauses, 0) <= FIRST_PAUSE + Duration::from_millis(1));
    }

    #[test]
    fn failures_of_long_ago_do_not_count() {
        let pauses = Pauses::default();
        for _ in 0..10 {
            pauses.begin(b"key", 0);
        }
        assert!(begin(&pauses, nanos(LONGEST_PAUSE * 2)) <= FIRST_PAUSE + Duration::from_millis(1));
    }

    #[test]
    fn memory_is_bounded_and_the_newest_keys_have_their_pause() {
        let pauses = Pauses::default();
        for key in 0..3 * MAX_PAUSES {
            pauses.begin(&key.to_le_bytes(), 0);
            assert!(pauses.has(&key.to_le_bytes(), 0));
        }
        assert_eq!(pauses.len(), MAX_PAUSES);
        pauses.begin(b"key", nanos(FIRST_PAUSE));
        assert_eq!(pauses.len(), 1, "the pauses that have ended are removed");
    }
}
