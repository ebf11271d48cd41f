//! Many look-ups at once.

use super::{Cache, Entry};
use crate::poll::poll_once;
use std::sync::Arc;

/// A batch of look-ups, which reads the clock once and counts once.
///
/// Each finds what is stored and not revoked when it is made; what has expired when the batch is
/// finished is left out then, so nothing is served late, however long a batch takes.
pub struct BatchLookup<'c, V> {
    pub(super) cache: &'c Cache<V>,
    pub(super) found: Vec<Option<Arc<Entry<V>>>>,
}

impl<V: AsRef<[u8]> + Send + Sync + 'static> BatchLookup<'_, V> {
    /// Looks up `key`.
    #[inline]
    pub fn look_up(&mut self, key: &[u8]) {
        // Never pending; should moka change that, a miss is the safe answer.
        let found = poll_once(self.cache.entries.get(key)).flatten();
        self.found.push(found.filter(|entry| self.cache.is_valid(key, entry)));
    }

    /// Takes down a miss for what has no key.
    pub fn miss(&mut self) {
        self.found.push(None);
    }

    /// The entries, in the order of the look-ups. Counts the hits and the misses.
    pub fn finish(mut self) -> Vec<Option<Arc<Entry<V>>>> {
        let now = self.cache.clock.now();
        let mut hits = 0;
        for found in &mut self.found {
            match found {
                Some(entry) if now < entry.deadline => hits += 1,
                _ => *found = None,
            }
        }
        self.cache.stats.counters.hits.add(hits);
        self.cache.stats.counters.misses.add(self.found.len() as u64 - hits);
        self.found
    }
}
