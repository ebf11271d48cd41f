//! Revocation, and the removal of revoked entries.

use super::sweep::{Sweep, SweepIndex};
use super::{Cache, Entry};
use crate::invalidation::{Recorded, Scope, Stamp};
use std::future::Future;
use std::sync::Arc;

impl<V: AsRef<[u8]> + Send + Sync + 'static> Cache<V> {
    /// Revokes the decision under `key`, stored or being evaluated, and removes its entry.
    ///
    /// Takes effect when called. The future removes the entry and returns whether a lookup would have
    /// found it. Costs a record in the log, a lookup and a removal.
    pub fn remove(self: &Arc<Self>, key: &[u8]) -> impl Future<Output = bool> + Send + use<V> {
        self.remove_each(Scope::Key(key.into()), Some(vec![key.into()]))
    }

    /// Revokes the decisions for a request under every policy, stored or being evaluated, and removes
    /// their entries. `key` is the key of the request under no policy.
    ///
    /// Works as [`remove`](Self::remove), with one lookup for each policy that a decision was ever
    /// stored under. With more than 256 policies it visits every entry.
    pub fn remove_request(
        self: &Arc<Self>,
        key: &[u8],
    ) -> impl Future<Output = bool> + Send + use<V> {
        self.remove_each(Scope::Request(key.into()), self.policies.keys_of(key))
    }

    /// Revokes `scope` and removes the entries under `keys`, which are all keys in that scope.
    ///
    /// If the keys are not known, it visits every entry.
    fn remove_each(
        self: &Arc<Self>,
        scope: Scope,
        keys: Option<Vec<Box<[u8]>>>,
    ) -> impl Future<Output = bool> + Send + use<V> {
        let cache = Arc::clone(self);
        let would_be_served = |key: &[u8]| self.look_up(key).is_some();
        let served = keys.iter().flatten().filter(|key| would_be_served(key)).count() as u64;
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
    /// Takes effect when called: from then on no older decision in `scope` is served or stored. That
    /// costs a record in the log, under one mutex.
    ///
    /// The future removes the entries and returns the number of entries removed. It visits every entry,
    /// up to a microsecond each, and yields after every 512. Invalidations that run at the same time
    /// share a visit. The number is exact if no other operation removes entries at the same time.
    pub fn invalidate(self: &Arc<Self>, scope: Scope) -> impl Future<Output = u64> + Send + use<V> {
        let recorded = self.record(&scope);
        let cache = Arc::clone(self);
        async move { cache.sweep(scope, recorded).await }
    }

    /// Revokes every decision in `scope`, because another process did. Counts a foreign revocation.
    ///
    /// Takes effect when called. Visits no entry: revoked ones take memory until they are overwritten,
    /// evicted or [cleaned up](Self::cleanup_expired). Costs a record in the log, under one mutex.
    pub fn note_foreign(&self, scope: &Scope) -> Stamp {
        self.stats.coherence.foreign_revocations.increment();
        self.record(scope).stamp
    }

    /// Revokes every decision, stored or being evaluated. Counts a flush.
    ///
    /// Takes effect when called, in constant time: it raises the floor of the log, and visits no
    /// entry.
    pub fn flush(&self) -> Stamp {
        self.stats.counters.flushes.increment();
        self.begin_to_follow()
    }

    /// Revokes every decision that was stored or being evaluated before this process knew a position
    /// of the shared log. The same as [`flush`](Self::flush), but expected, so it is not counted.
    pub fn begin_to_follow(&self) -> Stamp {
        self.record(&Scope::Everything).stamp
    }

    /// Records an invalidation. Counts a flush if the log was full and had to revoke everything.
    fn record(&self, scope: &Scope) -> Recorded {
        let recorded = self.log.record(scope, self.clock.now());
        if recorded.everything && *scope != Scope::Everything {
            self.stats.counters.flushes.increment();
        }
        recorded
    }

    /// Removes the entries that an invalidation revoked and returns their number.
    ///
    /// Expired entries among them are removed too, and counted as expirations.
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
        let index = SweepIndex::new(sweeps, &self.log);
        let now = self.clock.now();
        let (mut removed, mut expired) = (0, 0);
        let first_match = |entry: &Entry<V>| index.first_match(entry.stamp(), entry.subject());
        let count = |sweep: &Sweep, entry: &Entry<V>| {
            if entry.deadline > now {
                sweep.count_removed();
                removed += 1;
            } else {
                expired += 1;
            }
        };
        self.remove_if(first_match, count).await;
        self.stats.counters.invalidations.add(removed);
        self.stats.counters.expirations.add(expired);
    }
}
