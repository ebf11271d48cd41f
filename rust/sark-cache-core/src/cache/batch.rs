//! Batches of lookups.

use super::{Cache, Entry, Hit};
use std::sync::Arc;

/// A batch of lookups, which reads the clock once and updates the counters once.
///
/// Each lookup finds the entry if it is not revoked at that moment. [`finish`](Self::finish) leaves
/// out the entries that have expired by then, and all of them if the lease has ended by then, so no
/// entry is served late, however long the batch takes.
pub struct BatchLookup<'c, V> {
    pub(super) cache: &'c Cache<V>,
    pub(super) found: Vec<Option<Arc<Entry<V>>>>,
    /// The end of the lease, loaded before the first lookup asked the log.
    pub(super) leased_until: u64,
}

impl<V: AsRef<[u8]> + Send + Sync + 'static> BatchLookup<'_, V> {
    /// Looks up `key`.
    #[inline]
    pub fn look_up(&mut self, key: &[u8]) {
        let found = self.cache.stored(key).filter(|entry| self.cache.is_valid(entry));
        self.found.push(found.map(Hit::into_arc));
    }

    /// Adds a miss, for a request that has no key.
    pub fn miss(&mut self) {
        self.found.push(None);
    }

    /// Returns the entries in the order of the lookups. Counts the hits and the misses. Without a
    /// valid lease, the misses count as lapsed.
    pub fn finish(self) -> Vec<Option<Arc<Entry<V>>>> {
        let (cache, total) = (self.cache, self.found.len() as u64);
        let (found, hits, is_leased) = self.served();
        let stats = &cache.stats;
        let unserved = if is_leased { &stats.counters.misses } else { &stats.coherence.lapsed };
        unserved.add(total - hits);
        found
    }

    /// The same as [`finish`](Self::finish), but counts only the hits. The misses are looked up again.
    pub fn finish_hits(self) -> Vec<Option<Arc<Entry<V>>>> {
        self.served().0
    }

    fn served(mut self) -> (Vec<Option<Arc<Entry<V>>>>, u64, bool) {
        let now = self.cache.clock.now();
        let mut hits = 0;
        for found in &mut self.found {
            match found {
                Some(entry) if now < entry.deadline.min(self.leased_until) => hits += 1,
                _ => *found = None,
            }
        }
        self.cache.stats.counters.hits.add(hits);
        (self.found, hits, now < self.leased_until)
    }
}
