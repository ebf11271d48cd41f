//! Revoking decisions, and removing the entries that were revoked.

use super::sweep::{Sweep, Sweepers};
use super::{Cache, Entry};
use crate::invalidation::{Recorded, Scope};
use crate::poll::poll_once;
use std::future::Future;
use std::sync::Arc;

impl<V: AsRef<[u8]> + Send + Sync + 'static> Cache<V> {
    /// Revokes the entry under `key` and whatever is being evaluated for it, and removes it.
    ///
    /// Takes effect when called. The future removes the entry and says whether it was there and
    /// would have been served.
    pub fn remove(self: &Arc<Self>, key: &[u8]) -> impl Future<Output = bool> + Send + use<V> {
        self.remove_each(Scope::Key(key.into()), Some(vec![key.into()]))
    }

    /// Revokes what is stored for a request under whatever policy, and whatever is being evaluated
    /// for it, and removes it. `key` is its key under none.
    ///
    /// As [`remove`](Self::remove), with one look-up for each policy that something was stored
    /// under. With more than 256 of them it visits every entry.
    pub fn remove_request(
        self: &Arc<Self>,
        key: &[u8],
    ) -> impl Future<Output = bool> + Send + use<V> {
        self.remove_each(Scope::Request(key.into()), self.policies.keys_of(key))
    }

    /// Revokes what `scope` covers and removes what is under these keys, which are all of its keys;
    /// if they are not known, every entry is visited.
    fn remove_each(
        self: &Arc<Self>,
        scope: Scope,
        keys: Option<Vec<Box<[u8]>>>,
    ) -> impl Future<Output = bool> + Send + use<V> {
        let cache = Arc::clone(self);
        let is_served = |key: &[u8]| {
            poll_once(self.entries.get(key))
                .flatten()
                .is_some_and(|entry| self.is_served(key, &entry))
        };
        let served = keys.iter().flatten().filter(|key| is_served(key)).count() as u64;
        let recorded = self.record(&scope);
        async move {
            let Some(keys) = keys else { return cache.sweep(scope, recorded).await > 0 };
            if recorded.everything {
                cache.sweep(scope, recorded).await;
                return served > 0;
            }
            for key in keys {
                cache.remove_entry(&key).await;
            }
            cache.stats.counters.invalidations.add(served);
            served > 0
        }
    }

    /// Revokes every decision in `scope`, stored or being evaluated.
    ///
    /// Takes effect when called: from then on nothing older in `scope` is served. The future
    /// removes the entries and returns how many removed; it visits them all and lets others run. The
    /// number is exact if nobody else removes entries meanwhile.
    pub fn invalidate(self: &Arc<Self>, scope: Scope) -> impl Future<Output = u64> + Send + use<V> {
        let recorded = self.record(&scope);
        let cache = Arc::clone(self);
        async move { cache.sweep(scope, recorded).await }
    }

    /// Records an invalidation, and counts it if the log was too full to record less than everything.
    fn record(&self, scope: &Scope) -> Recorded {
        let recorded = self.log.record(scope, self.clock.now());
        if recorded.everything && *scope != Scope::Everything {
            self.stats.counters.flushes.increment();
        }
        recorded
    }

    /// Removes what an invalidation ended and returns how many entries removed of it. The expired
    /// ones among them go too, and count as such.
    async fn sweep(&self, scope: Scope, recorded: Recorded) -> u64 {
        let sweep = Sweep::new(scope, recorded, &self.log);
        if !self.is_large() {
            self.sweep_together(&[Arc::clone(&sweep)]).await;
            return sweep.removed();
        }
        let pending = self.sweeps.pending();
        pending.add(&sweep);
        let _sweeping = pending.sweeping.lock().await;
        if let Some(together) = pending.batch_with(&sweep) {
            self.sweep_together(&together).await;
            pending.finish(&together);
        }
        sweep.removed()
    }

    async fn sweep_together(&self, sweeps: &[Arc<Sweep>]) {
        let sweepers = Sweepers::new(sweeps, &self.log);
        let now = self.clock.now();
        let (mut removed, mut expired) = (0, 0);
        let ended =
            |key: &[u8], entry: &Entry<V>| sweepers.first_match(entry.stamp(), entry.subject(key));
        let count = |sweep: &Sweep, entry: &Entry<V>| {
            if entry.deadline > now {
                sweep.count_removed();
                removed += 1;
            } else {
                expired += 1;
            }
        };
        self.remove_if(ended, count).await;
        self.stats.counters.invalidations.add(removed);
        self.stats.counters.expirations.add(expired);
    }
}
