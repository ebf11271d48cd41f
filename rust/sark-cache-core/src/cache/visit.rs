//! Visits to every entry, which let others run.

use super::{Cache, Entry};
use crate::poll::yield_once;

/// How many entries a sweep visits before it lets others run.
const VISITS_PER_YIELD: usize = 512;

impl<V: AsRef<[u8]> + Send + Sync + 'static> Cache<V> {
    /// Removes every entry whose time to live is over and returns how many those were.
    pub async fn cleanup_expired(&self) -> u64 {
        let now = self.clock.now();
        let mut removed = 0;
        let expired = |_: &[u8], entry: &Entry<V>| (entry.deadline <= now).then_some(());
        self.remove_if(expired, |(), _| removed += 1).await;
        self.stats.counters.expirations.add(removed);
        removed
    }

    /// How many entries would be served now: neither expired nor revoked.
    pub async fn count_live(&self) -> u64 {
        self.maintain();
        let now = self.clock.now();
        let mut live = 0;
        let mut visits = 0;
        if self.is_large() {
            yield_once().await;
        }
        for (key, entry) in &self.entries {
            live += u64::from(entry.deadline > now && self.is_valid(key.as_bytes(), &entry));
            yield_after(&mut visits, 1).await;
        }
        live
    }

    /// Whether to visit every entry takes so long that others have to run meanwhile.
    pub(super) fn is_large(&self) -> bool {
        self.entries.entry_count() > VISITS_PER_YIELD as u64
    }

    /// Visits every entry and removes those that are `dead`, and why; `removed` is told of each.
    pub(super) async fn remove_if<W>(
        &self,
        dead: impl Fn(&[u8], &Entry<V>) -> Option<W>,
        mut removed: impl FnMut(W, &Entry<V>),
    ) {
        let mut visits = 0;
        if self.is_large() {
            // Even to begin takes a while in a large cache: not on the caller's thread.
            yield_once().await;
        }
        for (key, entry) in &self.entries {
            // Between the look and the removal somebody may have stored a new decision. Then that
            // one is lost, which costs an evaluation; it is not counted.
            if dead(key.as_bytes(), &entry).is_some()
                && let Some(gone) = self.remove_entry(key.as_bytes()).await
                && let Some(why) = dead(key.as_bytes(), &gone)
            {
                removed(why, &gone);
            }
            // Long keys take long to compare with patterns.
            yield_after(&mut visits, 1 + key.as_bytes().len() / VISITS_PER_YIELD).await;
        }
        self.maintain();
    }
}

/// Lets others run after every [`VISITS_PER_YIELD`] visits: pending once, so that what has many
/// entries to visit leaves the caller's thread for a runtime's.
async fn yield_after(visits: &mut usize, more: usize) {
    *visits += more;
    if *visits >= VISITS_PER_YIELD {
        *visits = 0;
        yield_once().await;
    }
}
