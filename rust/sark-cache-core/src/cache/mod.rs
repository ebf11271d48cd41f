//! The cache: moka's future cache, whose entries have an expiration, a stamp and tags, and an
//! [index](crate::index) in front of it.
//!
//! # Cost
//! A lookup is one hash, one set of the index and one clock reading. It is ready at its first poll.
//! The first hit of an entry in a tick also asks moka, which records the read. An insert costs about
//! 2 µs. `invalidate`, `count_live` and `cleanup_expired` visit every entry, up to a microsecond each,
//! and yield after every 512.
//!
//! # Keys
//! moka knows the entries by the hash of their key, with a random seed. A lookup compares the whole
//! key of what it finds, so a request never gets the decision of another one. Of two keys with the
//! same hash, which is one in 10¹⁹ pairs, only the newer one has an entry.
//!
//! # Memory
//! About 520 bytes per entry in addition to its key and value
//! ([`ENTRY_OVERHEAD`](crate::limits::ENTRY_OVERHEAD)).
//!
//! # Expiration
//! Every lookup compares the deadline of the entry with the clock, to the nanosecond. An expired entry
//! takes memory until [`Cache::cleanup_expired`] removes it, it is overwritten, or it is evicted.
//! moka's own expiration is not used: it would remove entries without reporting them. moka's eviction
//! listener would report them, but with a listener every insert takes a lock per key, and a lookup
//! can wait for it. Without one no lookup ever waits.
//!
//! # Lease
//! A lookup loads the [lease](Options::lease) first, then reads the clock, then asks the log. Without
//! a valid lease it finds nothing; what is stored stays, and is served under the next lease. A lease
//! that never ends costs a lookup one atomic load. Any other makes it read the precise clock.

mod batch;
mod entry;
mod eviction_count;
mod hashing;
mod recency;
mod revoke;
mod sweep;
mod visit;
mod weight;

pub use batch::BatchLookup;
pub use entry::{Entry, Hit};

use crate::clock::{Clock, nanos};
use crate::coherence::Lease;
use crate::error::InsertError;
use crate::index::Index;
use crate::invalidation::{KnownPolicies, Log, Stamp, Subject, Tags, Verdict};
use crate::key::Key;
use crate::limits::{MAX_TAGS, TAG_BYTES};
use crate::metrics::{Snapshot, Stats};
use crate::options::{Eviction, Options};
use crate::poll::poll_once;
use entry::{Handle, Source};
use eviction_count::EvictionCounter;
use hashing::{Hashed, KeyHasher};
use moka::policy::EvictionPolicy;
use recency::Recency;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use sweep::Sweeps;
use weight::Weights;

/// The largest cache that enforces its capacity, and the exact order of use, at every insert.
const EXACT_UP_TO: u64 = 128;
/// The largest number of inserts between two runs of moka's maintenance.
const MAX_MAINTENANCE_INTERVAL: u64 = 64;

/// Entries by the hash of their key. An entry of another key with the same hash is replaced, so a
/// lookup compares the whole key.
type Entries<V> = moka::future::Cache<u64, Handle<V>, Hashed>;

/// A cache of decisions. Share it in an `Arc`; every method takes `&self`.
///
/// The value `V` is the encoded decision. Its bytes count towards [`Options::max_bytes`].
pub struct Cache<V> {
    index: Arc<Index<Entry<V>>>,
    hasher: KeyHasher,
    recency: Recency,
    entries: Entries<V>,
    log: Arc<Log>,
    lease: Lease,
    clock: Clock,
    stats: Stats,
    eviction_counter: EvictionCounter,
    policies: KnownPolicies,
    sweeps: Sweeps,
    weights: Weights,
    inserts: AtomicU64,
    maintain_every: u64,
}

impl<V: AsRef<[u8]> + Send + Sync + 'static> Cache<V> {
    /// Creates an empty cache.
    pub fn new(options: Options) -> Self {
        let weights = Weights::new(&options);
        let mut entries = moka::future::Cache::builder()
            .max_capacity(weights.capacity)
            .eviction_policy(match options.eviction {
                Eviction::Lru => EvictionPolicy::lru(),
                Eviction::TinyLfu => EvictionPolicy::tiny_lfu(),
            });
        if options.max_bytes.is_some() {
            // Only with a limit on bytes: with a weigher, moka's TinyLFU remembers the frequencies of
            // only a quarter of the keys, which costs up to six points of the hit ratio.
            entries = entries.weigher(|_hash, handle: &Handle<V>| handle.0.weight);
        }
        let entries = entries.build_with_hasher(Hashed);
        // The order of a small cache is exact: moka has to see each read.
        let indexed = if options.max_size > EXACT_UP_TO { options.max_size } else { 0 };
        Self {
            index: Arc::new(Index::new(indexed)),
            hasher: KeyHasher::default(),
            recency: Recency::default(),
            entries,
            log: Arc::new(Log::new()),
            clock: options.lease.clock(),
            lease: options.lease,
            stats: Stats::default(),
            eviction_counter: EvictionCounter::default(),
            policies: KnownPolicies::default(),
            sweeps: Sweeps::default(),
            weights,
            inserts: AtomicU64::new(0),
            maintain_every: (options.max_size / EXACT_UP_TO).clamp(1, MAX_MAINTENANCE_INTERVAL),
        }
    }

    /// Returns the metrics of the cache.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the invalidation log of the cache.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Returns the lease of the cache.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Returns the newest stamp: take it before an evaluation, and [`insert`](Self::insert) with it.
    ///
    /// Costs one atomic load.
    #[inline]
    pub fn stamp(&self) -> Stamp {
        self.log.newest()
    }

    /// Returns the entry under `key`, unless it has expired or was revoked, or there is no valid
    /// lease. Counts a hit, or else calls [`count_miss`](Self::count_miss).
    ///
    /// Ready at its first poll; may be dropped at any point. Costs 0.25 µs for a hot key.
    #[inline]
    #[expect(clippy::unused_async, reason = "ready at its first poll, whatever moka's future does")]
    pub async fn get(&self, key: &[u8]) -> Option<Arc<Entry<V>>> {
        let found = self.look_up(key).map(Hit::into_arc);
        match found {
            Some(_) => self.stats.counters.hits.increment(),
            None => self.count_miss(),
        }
        found
    }

    /// Counts a lookup that found nothing: as lapsed if there is no valid lease, and as a miss
    /// otherwise.
    #[inline]
    pub fn count_miss(&self) {
        let Stats { counters, coherence, .. } = &self.stats;
        if self.lease.is_valid() { &counters.misses } else { &coherence.lapsed }.increment();
    }

    /// Returns the entry under `key` as [`get`](Self::get) does, but counts nothing, and is no future.
    ///
    /// While the result exists, the entry stays alive. A thread should have few of them at a time.
    #[inline]
    pub fn look_up(&self, key: &[u8]) -> Option<Hit<V>> {
        self.stored(key).filter(|entry| self.is_served(entry))
    }

    /// Returns whether an entry with another value than `value` is stored under `key`, and has neither
    /// expired nor been revoked. Ignores the lease, and counts nothing.
    pub fn holds_other(&self, key: &[u8], value: &[u8]) -> bool {
        self.stored(key).is_some_and(|entry| {
            entry.value.as_ref() != value
                && !self.clock.has_reached_exactly(entry.deadline)
                && self.is_valid(&entry)
        })
    }

    /// Returns what is stored under `key`, served or not. Records the read once per tick.
    #[inline]
    fn stored(&self, key: &[u8]) -> Option<Hit<V>> {
        let hash = self.hasher.hash(key);
        if let Some(found) = self.index.find(hash, key) {
            if found.read_in.load(Ordering::Relaxed) == self.recency.tick() {
                return Some(Hit(Source::Index(found)));
            }
            return self.recorded(hash, key).map(|entry| Hit(Source::Moka(entry)));
        }
        let entry = self.index.adopt(hash, || self.recorded(hash, key))?;
        Some(Hit(Source::Moka(entry)))
    }

    /// Returns what moka holds under `key`. Moka records the read.
    #[inline(never)]
    fn recorded(&self, hash: u64, key: &[u8]) -> Option<Arc<Entry<V>>> {
        // Never pending with today's moka. If that changes, a miss is the safe answer.
        let handle = poll_once(self.entries.get(&hash)).flatten()?;
        let entry = &handle.0;
        entry.read_in.store(self.recency.tick(), Ordering::Relaxed);
        (*entry.key == *key).then(|| Arc::clone(entry))
    }

    /// Returns whether less than `fraction` of the entry's time to live is left. Reads the clock.
    pub fn is_near_expiry(&self, entry: &Entry<V>, fraction: f64) -> bool {
        let left = entry.deadline.saturating_sub(self.clock.now());
        #[expect(clippy::cast_precision_loss, reason = "a time to live does not need 53 bits")]
        let soon = (left as f64) < entry.ttl as f64 * fraction;
        soon
    }

    /// Starts a batch of lookups, with space for `capacity` of them.
    pub fn batch_lookup(&self, capacity: usize) -> BatchLookup<'_, V> {
        let leased_until = self.lease.until();
        BatchLookup { cache: self, found: Vec::with_capacity(capacity), leased_until }
    }

    /// Stores `value` for `ttl`. `stamp` is the [stamp](Self::stamp) from before its evaluation.
    ///
    /// Costs about 2 µs. A future that is pending must be polled to completion: usually it has stored
    /// the entry already.
    ///
    /// # Errors
    /// [`InsertError`] says why nothing was stored: the decision was revoked during its evaluation, it
    /// is too large or has too many tags, or its time to live is zero. An older entry under `key`
    /// is removed, because the new decision superseded it. In the first case it stays if the
    /// revocation matches it, too: then it is not served.
    pub async fn insert(
        &self,
        key: Key,
        value: V,
        ttl: Duration,
        tags: Tags,
        stamp: Stamp,
    ) -> Result<(), InsertError> {
        let ttl = nanos(ttl);
        let weight = match self.weigh(&key, &value, &tags) {
            Ok(weight) if ttl > 0 => weight,
            weighed => {
                self.remove_superseded(key.as_bytes()).await;
                return Err(weighed.err().unwrap_or(InsertError::NoTimeToLive));
            }
        };
        self.log.retain_for(ttl);
        let subject = Subject { key: key.as_bytes(), tags: &tags };
        let Verdict::Valid(stamp) = self.log.verdict(stamp, subject) else {
            self.stats.counters.invalidations.increment();
            self.remove_older(key.as_bytes(), stamp).await;
            return Err(InsertError::Invalidated);
        };
        // An invalidation between the verdict and the insert is newer than the stamp, so the next
        // lookup finds it.
        self.policies.remember(key.as_bytes());
        let entry = Entry {
            hash: self.hasher.hash(key.as_bytes()),
            stamp: AtomicU64::new(stamp.raw()),
            deadline: self.clock.now().saturating_add(ttl),
            key: key.into_bytes(),
            value,
            tags,
            ttl,
            weight,
            read_in: AtomicU32::new(self.recency.tick()),
            handles: AtomicU32::new(0),
            index: Arc::downgrade(&self.index),
        };
        self.insert_entry(Arc::new(entry)).await;
        let held = self.entries.entry_count();
        self.recency.note_insert(held);
        self.index.grow(held + 1);
        if self.inserts.fetch_add(1, Ordering::Relaxed) % self.maintain_every
            == self.maintain_every - 1
        {
            self.maintain();
        }
        Ok(())
    }

    /// Removes the entry under `key`, because a decision that cannot be stored superseded it.
    pub async fn remove_superseded(&self, key: &[u8]) {
        self.remove_entry(key).await;
    }

    /// Removes the entry under `key`, because a newer decision superseded it and was invalidated before
    /// it was stored. The record may match only the tags of the newer decision. An entry that the record
    /// matches too stays: it is served only if it is newer than the record.
    async fn remove_older(&self, key: &[u8], stamp: Stamp) {
        let Some(entry) = self.stored(key) else { return };
        if self.log.verdict(stamp, entry.subject()) != Verdict::Invalidated {
            self.remove_entry(key).await;
        }
    }

    /// Returns the weight that an entry of this key, value and tags would have. Constant time.
    ///
    /// # Errors
    /// [`InsertError::TooLarge`] and [`InsertError::TooManyTags`], as [`insert`](Self::insert) would
    /// return them.
    pub fn weigh(&self, key: &Key, value: &V, tags: &Tags) -> Result<u32, InsertError> {
        if tags.len() > MAX_TAGS {
            return Err(InsertError::TooManyTags);
        }
        let bytes = key.as_bytes().len() + value.as_ref().len();
        let of_tags = tags.len() * TAG_BYTES;
        self.weights.of(bytes, of_tags).ok_or(InsertError::TooLarge {
            bytes: bytes + of_tags,
            limit: self.weights.entry_limit,
        })
    }

    /// Returns the number of entries, expired and revoked ones included, without visiting them.
    ///
    /// Runs moka's maintenance first, so that pending evictions happen.
    pub fn entry_count(&self) -> u64 {
        self.maintain();
        self.entries.entry_count()
    }

    /// Runs moka's maintenance, so that pending evictions happen. Returns false if another thread
    /// runs it.
    pub fn maintain(&self) -> bool {
        poll_once(self.entries.run_pending_tasks()).is_some()
    }

    /// Copies all metrics, pending evictions included. Runs moka's maintenance first.
    pub fn snapshot(&self) -> Snapshot {
        let added = self.eviction_counter.added.get();
        // Only right after moka's maintenance are the missing entries evicted ones.
        if self.maintain() {
            let held = self.entries.entry_count();
            self.eviction_counter.update(added, held, &self.stats.counters.evictions);
        }
        self.stats.snapshot()
    }

    /// Sets all metrics to zero.
    pub fn reset_stats(&self) {
        // Pending evictions belong to the time before.
        self.snapshot();
        self.stats.reset();
    }

    /// Inserts an entry and counts it as added if it replaced none.
    async fn insert_entry(&self, entry: Arc<Entry<V>>) {
        let hash = entry.hash;
        let mut insert = pin!(self.entries.insert(hash, Handle::new(&entry)));
        let mut present = false;
        let first = self.index.write(&entry, || {
            present = self.entries.contains_key(&hash);
            poll_now(insert.as_mut())
        });
        if first.is_pending() {
            // Usually the entry is stored already, and moka's log of writes is full. If an earlier
            // future was dropped while it was pending, moka may still hold the older entry.
            insert.await;
            self.index.erase(hash, &entry.key, || ());
        }
        if !present {
            self.eviction_counter.added.increment();
        }
    }

    async fn remove_entry(&self, key: &[u8]) -> Option<Arc<Entry<V>>> {
        // Counted first and taken back if nothing was removed: in between, the number of evictions is
        // too small rather than too large.
        self.eviction_counter.removed.fetch_add(1, Ordering::SeqCst);
        let hash = self.hasher.hash(key);
        let mut remove = pin!(self.entries.remove(&hash));
        let first = self.index.erase(hash, key, || poll_now(remove.as_mut()));
        let removed = match first {
            Poll::Ready(removed) => removed,
            Poll::Pending => {
                let removed = remove.await;
                // Until then, a lookup may have found the entry in moka, as after an insert.
                self.index.erase(hash, key, || ());
                removed
            }
        };
        if removed.is_none() {
            self.eviction_counter.removed.fetch_sub(1, Ordering::SeqCst);
        }
        removed.map(|handle| Arc::clone(&handle.0))
    }

    #[inline]
    fn is_served(&self, entry: &Entry<V>) -> bool {
        // The lease first, the log last: the records that the lease relies on are in the log.
        let until = self.lease.until();
        let is_in_time = if Lease::never_ends(until) {
            !self.clock.has_reached(entry.deadline)
        } else {
            !self.clock.has_reached_exactly(entry.deadline.min(until))
        };
        is_in_time && self.is_valid(entry)
    }

    /// Returns whether no record newer than the entry's stamp matches it. Raises its stamp, so that it
    /// is checked once per invalidation at most.
    #[inline]
    fn is_valid(&self, entry: &Entry<V>) -> bool {
        let stamp = entry.stamp();
        match self.log.verdict(stamp, entry.subject()) {
            Verdict::Invalidated => false,
            Verdict::Valid(newer) => {
                if newer > stamp {
                    entry.stamp.fetch_max(newer.raw(), Ordering::Relaxed);
                }
                true
            }
        }
    }
}

/// Polls a future with a waker that does nothing. If it is pending, it has to be awaited.
fn poll_now<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(std::task::Waker::noop()))
}
