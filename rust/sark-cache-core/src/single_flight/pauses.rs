//! Pauses between refreshes that bring nothing, so that an evaluator that fails is not asked by
//! every hit.
//!
//! The first pause of a key is [`FIRST`], each next one twice as long, [`LONGEST`] at most; of each a
//! random part of up to a half is taken off, so that keys that failed together are not tried
//! together. A refresh that brings a decision ends the row.
//!
//! At most [`MAX_KEYS`] keys are remembered, by a hash with a random seed: 32 bytes each, whatever
//! the keys are. Two keys that share a hash share their pauses.

use ahash::RandomState;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The first pause of a key.
pub const FIRST: Duration = Duration::from_millis(250);
/// The longest pause.
pub const LONGEST: Duration = Duration::from_secs(60);
/// The most keys that are remembered.
pub const MAX_KEYS: usize = 4_096;

/// The pauses of one cache. Times are the nanoseconds of a monotonic clock.
#[derive(Default)]
pub struct Pauses {
    hasher: RandomState,
    keys: Mutex<HashMap<u64, Pause, RandomState>>,
}

#[derive(Clone, Copy)]
struct Pause {
    /// How many there were in a row, with this one.
    row: u32,
    ends: u64,
}

impl Pauses {
    /// Whether a key has a pause.
    pub fn has(&self, key: &[u8], now: u64) -> bool {
        let keys = self.lock();
        !keys.is_empty() && keys.get(&self.hasher.hash_one(key)).is_some_and(|it| now < it.ends)
    }

    /// Begins the next pause of a key.
    pub fn begin(&self, key: &[u8], now: u64) {
        let hash = self.hasher.hash_one(key);
        let mut keys = self.lock();
        let row = match keys.get(&hash) {
            // Long over, it is no part of the row.
            Some(last) if now < last.ends.saturating_add(nanos(LONGEST)) => last.row + 1,
            _ => 1,
        };
        if keys.len() >= MAX_KEYS && !keys.contains_key(&hash) {
            make_room(&mut keys, now);
        }
        let ends = now.saturating_add(self.length(hash, row, now));
        keys.insert(hash, Pause { row, ends });
    }

    /// Ends the row of a key.
    pub fn end(&self, key: &[u8]) {
        let mut keys = self.lock();
        if !keys.is_empty() {
            keys.remove(&self.hasher.hash_one(key));
        }
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn length(&self, hash: u64, row: u32, now: u64) -> u64 {
        let doubled = nanos(FIRST).saturating_mul(1 << (row - 1).min(30));
        let whole = doubled.min(nanos(LONGEST));
        whole - self.hasher.hash_one((hash, row, now)) % (whole / 2)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Pause, RandomState>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the pauses that are over or, where none is, the one that ends first.
fn make_room(keys: &mut HashMap<u64, Pause, RandomState>, now: u64) {
    keys.retain(|_, pause| now < pause.ends);
    if keys.len() >= MAX_KEYS
        && let Some(first) = keys.iter().min_by_key(|(_, pause)| pause.ends).map(|(hash, _)| *hash)
    {
        keys.remove(&first);
    }
}

fn nanos(duration: Duration) -> u64 {
    crate::clock::nanos(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the pause lasts that begins at `now`, to a millisecond.
    fn begin(pauses: &Pauses, now: u64) -> Duration {
        pauses.begin(b"key", now);
        let mut steps = (0..100_000).map(|step| now + step * 1_000_000);
        let ends = steps.find(|at| !pauses.has(b"key", *at));
        Duration::from_nanos(ends.unwrap() - now)
    }

    #[test]
    fn each_pause_of_a_row_is_about_twice_as_long() {
        let (pauses, mut now) = (Pauses::default(), 0);
        for row in 0..12 {
            let whole = (FIRST * 2_u32.pow(row)).min(LONGEST);
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
        assert_eq!(half(nanos(FIRST) / 2 - 1), 100);
        assert!((5..95).contains(&half(nanos(FIRST) * 3 / 4)));
        assert_eq!(half(nanos(FIRST)), 0);
    }

    #[test]
    fn a_success_ends_the_row() {
        let pauses = Pauses::default();
        pauses.begin(b"key", 0);
        pauses.begin(b"key", 0);
        pauses.end(b"key");
        assert!(!pauses.has(b"key", 0));
        assert!(begin(&pauses, 0) <= FIRST + Duration::from_millis(1));
    }

    #[test]
    fn a_row_that_is_long_over_begins_anew() {
        let pauses = Pauses::default();
        for _ in 0..10 {
            pauses.begin(b"key", 0);
        }
        assert!(begin(&pauses, nanos(LONGEST * 2)) <= FIRST + Duration::from_millis(1));
    }

    #[test]
    fn the_memory_is_bounded_and_the_last_keys_have_their_pause() {
        let pauses = Pauses::default();
        for key in 0..3 * MAX_KEYS {
            pauses.begin(&key.to_le_bytes(), 0);
            assert!(pauses.has(&key.to_le_bytes(), 0));
        }
        assert_eq!(pauses.len(), MAX_KEYS);
        pauses.begin(b"key", nanos(FIRST));
        assert_eq!(pauses.len(), 1, "those that are over make room");
    }
}
