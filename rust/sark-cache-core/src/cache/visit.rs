//! Operations that visit every entry and yield to other tasks in between.

use super::{Cache, Entry};
use crate::poll::yield_once;

/// The number of visits after which an operation yields.
const VISITS_PER_YIELD: usize = 512;

impl<V: AsRef<[u8]> + Send + Sync + 'static> Cache<V> {
    /// Removes every expired entry and returns the number of entries removed.
    ///
    /// Visits every entry, up to a microsecond each, and yields after every 512.
    pub async fn cleanup_expired(&self) -> u64 {
        let now = self.clock.now();
        let mut removed = 0;
        let expired = |entry: &Entry<V>| (entry.deadline <= now).then_some(());
        self.remove_if(expired, |(), _| removed += 1).await;
        self.stats.counters.expirations.add(removed);
        removed
    }

    /// Returns the number of entries that are neither expired nor revoked.
    ///
    /// Visits every entry, up to a microsecond each, and yields after every 512.
    pub async fn count_live(&self) -> u64 {
        self.maintain();
        let now = self.clock.now();
        let mut live = 0;
        let mut visits = 0;
        if self.is_large() {
            yield_once().await;
        }
        for (_, handle) in &self.entries {
            let entry = &handle.0;
            live += u64::from(entry.deadline > now && self.is_valid(entry));
            yield_after(&mut visits, 1).await;
        }
        live
    }

    /// Returns whether a visit to every entry takes long enough to yield in between.
    pub(super) fn is_large(&self) -> bool {
        self.entries.entry_count() > VISITS_PER_YIELD as u64
    }

    /// Visits every entry and removes those for which `reason` returns one. `removed` gets the
    /// reason and the entry.
    pub(super) async fn remove_if<W>(
        &self,
        reason: impl Fn(&Entry<V>) -> Option<W>,
        mut removed: impl FnMut(W, &Entry<V>),
    ) {
        let mut visits = 0;
        if self.is_large() {
            // In a large cache, creating the iterator takes long. A runtime does it after this
            // yield.
            yield_once().await;
        }
        for (_, handle) in &self.entries {
            let entry = &handle.0;
            // Another thread may store a new decision between the check and the removal. That
            // decision is removed too, which costs an evaluation; it is not counted.
            if reason(entry).is_some()
                && let Some(entry) = self.remove_entry(&entry.key).await
                && let Some(why) = reason(&entry)
            {
                removed(why, &entry);
            }
            // Comparing a long key with patterns takes longer, so it counts as several visits.
            yield_after(&mut visits, 1 + entry.key.len() / VISITS_PER_YIELD).await;
        }
        self.maintain();
    }
}

/// Adds `more` visits and yields after every [`VISITS_PER_YIELD`].
///
/// An operation that yields is pending once, so it moves from the caller's thread to a runtime.
async fn yield_after(visits: &mut usize, more: usize) {
    *visits += more;
    if *visits >= VISITS_PER_YIELD {
        *visits = 0;
        yield_once().await;
    }
}
