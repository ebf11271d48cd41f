//! The cache: moka's future cache, each entry with its own expiry, stamp and tags.
//!
//! # Cost
//! A look-up is one hash, one probe and one clock reading: 0.25 µs for a hot key. It is ready at
//! its first poll. An insert costs about 2 µs. `sweep`, `live`, `cleanup_expired` and `clear` visit
//! every entry (up to a microsecond each) and let others run after every 512.
//!
//! # Memory
//! About 420 bytes per entry beside its key and value ([`ENTRY_OVERHEAD`](crate::limits::ENTRY_OVERHEAD)).
//!
//! # Expiry
//! Each entry has its own deadline, which decides to the nanosecond at every look-up. An expired
//! entry keeps its place until [`Cache::cleanup_expired`] removes it, it is overwritten, or it is
//! the one to leave a full cache. moka's own expiry would remove it without saying so, and its
//! eviction listener, which would say so, makes every insert take a lock per key and lets a
//! look-up wait for it; without a listener no look-up ever waits for anything.

mod batch;
mod entry;
mod eviction_count;
mod revoke;
mod sweep;
mod visit;
mod weight;

pub use batch::BatchLookup;
pub use entry::Entry;

use crate::clock::{Clock, nanos};
use crate::error::InsertError;
use crate::invalidation::{KnownPolicies, Log, Stamp, Subject, Tags, Verdict};
use crate::key::Key;
use crate::limits::{MAX_TAGS, TAG_BYTES};
use crate::metrics::{Snapshot, Stats};
use crate::options::{Eviction, Options};
use crate::poll::poll_once;
use ahash::RandomState;
use eviction_count::EvictionCounter;
use moka::policy::EvictionPolicy;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use sweep::Sweeps;
use weight::Weights;

/// Caches up to this size keep to their capacity, and to the exact order of use, at every insert.
const EXACT_UP_TO: u64 = 128;
/// moka looks after itself at least this often, counted in inserts.
const LEAST_MAINTENANCE: u64 = 64;

type Entries<V> = moka::future::Cache<Key, Arc<Entry<V>>, RandomState>;

/// The cache. Share it behind an `Arc`; every method takes `&self`.
pub struct Cache<V> {
    entries: Entries<V>,
    log: Arc<Log>,
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
    /// An empty cache.
    pub fn new(options: Options) -> Self {
        let weights = Weights::new(options);
        let mut entries = moka::future::Cache::builder()
            .max_capacity(weights.capacity)
            .eviction_policy(match options.eviction {
                Eviction::Lru => EvictionPolicy::lru(),
                Eviction::TinyLfu => EvictionPolicy::tiny_lfu(),
            });
        if options.max_bytes.is_some() {
            // Not if all weigh the same: with a weigher moka's TinyLFU remembers the frequencies of
            // a quarter of the keys only, which costs up to six points of the hit ratio.
            entries = entries.weigher(|_key, entry: &Arc<Entry<V>>| entry.weight);
        }
        let entries = entries.build_with_hasher(RandomState::new());
        Self {
            entries,
            log: Arc::new(Log::new()),
            clock: Clock::new(),
            stats: Stats::default(),
            eviction_counter: EvictionCounter::default(),
            policies: KnownPolicies::default(),
            sweeps: Sweeps::default(),
            weights,
            inserts: AtomicU64::new(0),
            maintain_every: (options.max_size / EXACT_UP_TO).clamp(1, LEAST_MAINTENANCE),
        }
    }

    /// What the cache counts.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The log of what was revoked.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// The stamp of now: take it before evaluating, store with it afterwards.
    #[inline]
    pub fn stamp(&self) -> Stamp {
        self.log.newest()
    }

    /// The entry under `key`, unless it has expired or was revoked. Counts a hit or a miss.
    ///
    /// Ready at its first poll, and may be dropped at any point.
    #[inline]
    pub async fn get(&self, key: &[u8]) -> Option<Arc<Entry<V>>> {
        let found = self.find(key).await;
        match found {
            Some(_) => self.stats.counters.hits.increment(),
            None => self.stats.counters.misses.increment(),
        }
        found
    }

    /// The entry under `key`, as [`get`](Self::get) finds it; counts nothing.
    #[inline]
    pub async fn find(&self, key: &[u8]) -> Option<Arc<Entry<V>>> {
        self.entries.get(key).await.filter(|entry| self.is_served(key, entry))
    }

    /// Whether an entry that was just served has less than `fraction` of its time to live left.
    pub fn is_near_expiry(&self, entry: &Entry<V>, fraction: f64) -> bool {
        let left = entry.deadline.saturating_sub(self.clock.now());
        #[expect(clippy::cast_precision_loss, reason = "a time to live does not need 53 bits")]
        let soon = (left as f64) < entry.ttl as f64 * fraction;
        soon
    }

    /// Starts a batch of about `capacity` look-ups.
    pub fn batch_lookup(&self, capacity: usize) -> BatchLookup<'_, V> {
        BatchLookup { cache: self, found: Vec::with_capacity(capacity) }
    }

    /// Stores `value` for `ttl`, evaluated at `stamp`.
    ///
    /// # Errors
    /// [`InsertError`] says why nothing was stored: an invalidation overtook it, it is too large or has
    /// too many tags, or its time to live is zero. But for the first case, what was stored before is
    /// dropped: the decision that was refused has superseded it.
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
        let Verdict::Holds(stamp) = self.log.verdict(stamp, subject) else {
            self.stats.counters.invalidations.increment();
            return Err(InsertError::Invalidated);
        };
        // An invalidation that comes between the verdict and the insert is newer than the stamp,
        // so the next look-up finds it.
        let entry = Entry {
            value,
            stamp: AtomicU64::new(stamp.raw()),
            deadline: self.clock.now().saturating_add(ttl),
            weight,
            tags,
            ttl,
        };
        self.policies.remember(key.as_bytes());
        self.insert_entry(key, Arc::new(entry)).await;
        if self.inserts.fetch_add(1, Ordering::Relaxed) % self.maintain_every
            == self.maintain_every - 1
        {
            self.maintain();
        }
        Ok(())
    }

    /// Drops what is stored under `key` because something superseded it that cannot be stored.
    pub async fn remove_superseded(&self, key: &[u8]) {
        self.remove_entry(key).await;
    }

    /// What an entry of this key, value and tags weighs.
    ///
    /// # Errors
    /// [`InsertError::TooLarge`] and [`InsertError::TooManyTags`], as [`insert`](Self::insert) would return
    /// them.
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

    /// How many entries are held, in constant time. Some may be expired.
    pub fn entry_count(&self) -> u64 {
        self.maintain();
        self.entries.entry_count()
    }

    /// Brings moka's bookkeeping up to date: evictions that are due happen, and are counted. False
    /// if another thread is at it.
    pub fn maintain(&self) -> bool {
        poll_once(self.entries.run_pending_tasks()).is_some()
    }

    /// Everything counted so far, evictions that are due included.
    pub fn snapshot(&self) -> Snapshot {
        let added = self.eviction_counter.added.get();
        // Only right after moka's bookkeeping is up to date is what is missing evicted.
        if self.maintain() {
            let held = self.entries.entry_count();
            self.eviction_counter.update(added, held, &self.stats.counters.evictions);
        }
        self.stats.snapshot()
    }

    /// Sets what is counted to zero.
    pub fn reset_stats(&self) {
        // Evictions that are due belong to the time before.
        self.snapshot();
        self.stats.reset();
    }

    /// Puts an entry in and counts it if it took nobody's place.
    async fn insert_entry(&self, key: Key, entry: Arc<Entry<V>>) {
        let mut insert = pin!(None);
        let mut incoming = Some((key, entry));
        let mut present = false;
        poll_fn(|context| {
            let mut shard = None;
            if let Some((key, entry)) = incoming.take() {
                shard = Some(self.eviction_counter.lock_shard(key.as_bytes()));
                present = self.entries.contains_key(key.as_bytes());
                insert.set(Some(self.entries.insert(key, entry)));
            }
            let polled = insert.as_mut().as_pin_mut().map(|insert| insert.poll(context));
            drop(shard);
            // Pending, it is in already; moka's log of it is full.
            polled.unwrap_or(Poll::Ready(()))
        })
        .await;
        if !present {
            self.eviction_counter.added.increment();
        }
    }

    async fn remove_entry(&self, key: &[u8]) -> Option<Arc<Entry<V>>> {
        // Counted first and taken back: in between too few seem to have been evicted, not too many.
        self.eviction_counter.removed.fetch_add(1, Ordering::SeqCst);
        let removed = self.entries.remove(key).await;
        if removed.is_none() {
            self.eviction_counter.removed.fetch_sub(1, Ordering::SeqCst);
        }
        removed
    }

    #[inline]
    fn is_served(&self, key: &[u8], entry: &Entry<V>) -> bool {
        !self.clock.has_reached(entry.deadline) && self.is_valid(key, entry)
    }

    /// Whether nothing newer than the entry's stamp revokes it. Stamps it anew, so that it is
    /// checked once per invalidation at most.
    #[inline]
    fn is_valid(&self, key: &[u8], entry: &Entry<V>) -> bool {
        let stamp = entry.stamp();
        match self.log.verdict(stamp, entry.subject(key)) {
            Verdict::Invalidated => false,
            Verdict::Holds(newer) => {
                if newer > stamp {
                    entry.stamp.fetch_max(newer.raw(), Ordering::Relaxed);
                }
                true
            }
        }
    }
}
