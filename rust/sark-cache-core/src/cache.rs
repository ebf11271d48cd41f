//! The cache: moka's future cache, each entry with its own expiry, stamp and tags.
//!
//! # Cost
//! A look-up is one hash, one probe and one clock reading: 0.25 µs for a hot key. It is ready at
//! its first poll. An insert costs about 2 µs. `sweep`, `live`, `cleanup_expired` and `clear` visit
//! every entry (up to a microsecond each) and let others run after every 512.
//!
//! # Memory
//! About 420 bytes per entry beside its key and value ([`ENTRY_OVERHEAD`]).
//!
//! # Expiry
//! Each entry has its own deadline, which decides to the nanosecond at every look-up. An expired
//! entry keeps its place until [`Cache::cleanup_expired`] removes it, it is overwritten, or it is
//! the one to leave a full cache. moka's own expiry would remove it without saying so, and its
//! eviction listener, which would say so, makes every insert take a lock per key and lets a
//! look-up wait for it; without a listener no look-up ever waits for anything.

use crate::census::Census;
use crate::clock::{Clock, nanos};
use crate::error::Refused;
use crate::key::Key;
use crate::limits::MAX_TAGS;
use crate::log::{Log, Recorded, Scope, Stamp, Subject, Tags, Verdict};
use crate::policies::Policies;
use crate::ready::{poll_once, yield_once};
use crate::stats::{Snapshot, Stats};
use crate::sweep::{Sweep, Sweepers, Sweeps};
use crate::weight::Weights;
use ahash::RandomState;
use moka::policy::EvictionPolicy;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

pub use crate::limits::MAX_ENTRY_BYTES;
/// What an entry takes beside its key and value, in bytes, for `max_bytes`: resident memory
/// measured with 300,000 entries, moka's share included.
pub const ENTRY_OVERHEAD: usize = 420;
/// What a tag of an entry takes, in bytes, for `max_bytes`: the number that the log knows it by.
pub const TAG_BYTES: usize = 8;

/// How many entries a sweep visits before it lets others run.
const VISITS_PER_TURN: usize = 512;
/// Caches up to this size keep to their capacity, and to the exact order of use, at every insert.
const EXACT_UP_TO: u64 = 128;
/// moka looks after itself at least this often, counted in inserts.
const LEAST_MAINTENANCE: u64 = 64;

/// Which entry leaves a full cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eviction {
    /// The least recently used. The order is exact up to 128 entries; larger caches keep to it
    /// within 1 % of their capacity, at most 64 entries.
    #[default]
    Lru,
    /// The least frequently used of those that are not recent: resists scans.
    TinyLfu,
}

/// How large a cache is and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The most entries.
    pub max_size: u64,
    /// The most bytes, counting keys, values, [`TAG_BYTES`] a tag and [`ENTRY_OVERHEAD`]; `None`:
    /// any.
    ///
    /// With both limits an entry weighs the larger of its share of the entries and its share of
    /// the bytes, so neither is ever exceeded.
    pub max_bytes: Option<u64>,
    /// Which entry leaves first.
    pub eviction: Eviction,
}

/// A stored decision.
#[derive(Debug)]
pub struct Entry<V> {
    value: V,
    stamp: AtomicU64,
    deadline: u64,
    weight: u32,
    tags: Tags,
    /// Nanoseconds from when it was stored to its deadline.
    ttl: u64,
}

impl<V> Entry<V> {
    /// The stored value.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// What it can be revoked by besides its key.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// How long it lives in all.
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl)
    }

    fn subject<'a>(&'a self, key: &'a [u8]) -> Subject<'a> {
        Subject { key, tags: &self.tags }
    }

    fn stamp(&self) -> Stamp {
        Stamp::from_raw(self.stamp.load(Ordering::Relaxed))
    }
}

type Store<V> = moka::future::Cache<Key, Arc<Entry<V>>, RandomState>;

/// The cache. Share it behind an `Arc`; every method takes `&self`.
pub struct Cache<V> {
    store: Store<V>,
    log: Arc<Log>,
    clock: Clock,
    stats: Stats,
    census: Census,
    policies: Policies,
    sweeps: Sweeps,
    weights: Weights,
    inserts: AtomicU64,
    maintain_every: u64,
}

impl<V: AsRef<[u8]> + Send + Sync + 'static> Cache<V> {
    /// An empty cache.
    pub fn new(options: Options) -> Self {
        let weights = Weights::new(options);
        let mut store = moka::future::Cache::builder()
            .max_capacity(weights.capacity)
            .eviction_policy(match options.eviction {
                Eviction::Lru => EvictionPolicy::lru(),
                Eviction::TinyLfu => EvictionPolicy::tiny_lfu(),
            });
        if options.max_bytes.is_some() {
            // Not if all weigh the same: with a weigher moka's TinyLFU remembers the frequencies of
            // a quarter of the keys only, which costs up to six points of the hit ratio.
            store = store.weigher(|_key, entry: &Arc<Entry<V>>| entry.weight);
        }
        let store = store.build_with_hasher(RandomState::new());
        Self {
            store,
            log: Arc::new(Log::new()),
            clock: Clock::new(),
            stats: Stats::default(),
            census: Census::default(),
            policies: Policies::default(),
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
        self.store.get(key).await.filter(|entry| self.serves(key, entry))
    }

    /// Whether an entry that was just served has less than `part` of its time to live left.
    pub fn ends_soon(&self, entry: &Entry<V>, part: f64) -> bool {
        let left = entry.deadline.saturating_sub(self.clock.now());
        #[expect(clippy::cast_precision_loss, reason = "a time to live does not need 53 bits")]
        let soon = (left as f64) < entry.ttl as f64 * part;
        soon
    }

    /// Starts a batch of about this many look-ups.
    pub fn look_ups(&self, about: usize) -> LookUps<'_, V> {
        LookUps { cache: self, found: Vec::with_capacity(about) }
    }

    /// Stores `value` for `ttl`, evaluated at `stamp`.
    ///
    /// # Errors
    /// [`Refused`] says why nothing was stored: an invalidation overtook it, it is too large or has
    /// too many tags, or its time to live is zero. But for the first case, what was stored before is
    /// dropped: the decision that was refused has superseded it.
    pub async fn insert(
        &self,
        key: Key,
        value: V,
        ttl: Duration,
        tags: Tags,
        stamp: Stamp,
    ) -> Result<(), Refused> {
        let ttl = nanos(ttl);
        let weight = match self.weigh(&key, &value, &tags) {
            Ok(weight) if ttl > 0 => weight,
            weighed => {
                self.discard(key.as_bytes()).await;
                return Err(weighed.err().unwrap_or(Refused::NoTimeToLive));
            }
        };
        self.log.expect_ttl(ttl);
        let subject = Subject { key: key.as_bytes(), tags: &tags };
        let Verdict::Holds(stamp) = self.log.verdict(stamp, subject) else {
            self.stats.counters.invalidations.increment();
            return Err(Refused::Overtaken);
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
        self.policies.note(key.as_bytes());
        self.put(key, Arc::new(entry)).await;
        if self.inserts.fetch_add(1, Ordering::Relaxed) % self.maintain_every
            == self.maintain_every - 1
        {
            self.maintain();
        }
        Ok(())
    }

    /// Drops what is stored under `key` because something superseded it that cannot be stored.
    pub async fn discard(&self, key: &[u8]) {
        self.take_out(key).await;
    }

    /// What an entry of this key, value and tags weighs.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] and [`Refused::TooManyTags`], as [`insert`](Self::insert) would return
    /// them.
    pub fn weigh(&self, key: &Key, value: &V, tags: &Tags) -> Result<u32, Refused> {
        if tags.len() > MAX_TAGS {
            return Err(Refused::TooManyTags);
        }
        let bytes = key.as_bytes().len() + value.as_ref().len();
        let of_tags = tags.len() * TAG_BYTES;
        self.weights
            .of(bytes, of_tags)
            .ok_or(Refused::TooLarge { bytes: bytes + of_tags, limit: self.weights.entry_limit })
    }

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
        self.remove_each(Scope::Request(key.into()), self.policies.keys(key))
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
            poll_once(self.store.get(key)).flatten().is_some_and(|entry| self.serves(key, &entry))
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
                cache.take_out(&key).await;
            }
            cache.stats.counters.invalidations.add(served);
            served > 0
        }
    }

    /// Revokes every decision in `scope`, stored or being evaluated.
    ///
    /// Takes effect when called: from then on nothing older in `scope` is served. The future
    /// removes the entries and returns how many died; it visits them all and lets others run. The
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
    pub async fn live(&self) -> u64 {
        self.maintain();
        let now = self.clock.now();
        let mut live = 0;
        let mut visits = 0;
        if self.is_large() {
            yield_once().await;
        }
        for (key, entry) in &self.store {
            live += u64::from(entry.deadline > now && self.holds(key.as_bytes(), &entry));
            rest_after(&mut visits, 1).await;
        }
        live
    }

    /// How many entries are held, in constant time. Some may be expired.
    pub fn held(&self) -> u64 {
        self.maintain();
        self.store.entry_count()
    }

    /// Brings moka's bookkeeping up to date: evictions that are due happen, and are counted. False
    /// if another thread is at it.
    pub fn maintain(&self) -> bool {
        poll_once(self.store.run_pending_tasks()).is_some()
    }

    /// Everything counted so far, evictions that are due included.
    pub fn snapshot(&self) -> Snapshot {
        let added = self.census.added.get();
        // Only right after moka's bookkeeping is up to date is what is missing evicted.
        if self.maintain() {
            let held = self.store.entry_count();
            self.census.note(added, held, &self.stats.counters.evictions);
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
    async fn put(&self, key: Key, entry: Arc<Entry<V>>) {
        let mut insert = pin!(None);
        let mut incoming = Some((key, entry));
        let mut present = false;
        poll_fn(|context| {
            let mut turn = None;
            if let Some((key, entry)) = incoming.take() {
                turn = Some(self.census.turn(key.as_bytes()));
                present = self.store.contains_key(key.as_bytes());
                insert.set(Some(self.store.insert(key, entry)));
            }
            let polled = insert.as_mut().as_pin_mut().map(|insert| insert.poll(context));
            drop(turn);
            // Pending, it is in already; moka's log of it is full.
            polled.unwrap_or(Poll::Ready(()))
        })
        .await;
        if !present {
            self.census.added.increment();
        }
    }

    async fn take_out(&self, key: &[u8]) -> Option<Arc<Entry<V>>> {
        // Counted first and taken back: in between too few seem to have been evicted, not too many.
        self.census.removed.fetch_add(1, Ordering::SeqCst);
        let removed = self.store.remove(key).await;
        if removed.is_none() {
            self.census.removed.fetch_sub(1, Ordering::SeqCst);
        }
        removed
    }

    #[inline]
    fn serves(&self, key: &[u8], entry: &Entry<V>) -> bool {
        !self.clock.has_reached(entry.deadline) && self.holds(key, entry)
    }

    /// Whether nothing newer than the entry's stamp revokes it. Stamps it anew, so that it is
    /// checked once per invalidation at most.
    #[inline]
    fn holds(&self, key: &[u8], entry: &Entry<V>) -> bool {
        let stamp = entry.stamp();
        match self.log.verdict(stamp, entry.subject(key)) {
            Verdict::Overtaken => false,
            Verdict::Holds(newer) => {
                if newer > stamp {
                    entry.stamp.fetch_max(newer.raw(), Ordering::Relaxed);
                }
                true
            }
        }
    }

    /// Removes what an invalidation ended and returns how many entries died of it. The expired
    /// ones among them go too, and count as such.
    async fn sweep(&self, scope: Scope, recorded: Recorded) -> u64 {
        let sweep = Sweep::new(scope, recorded, &self.log);
        if !self.is_large() {
            self.sweep_together(&[Arc::clone(&sweep)]).await;
            return sweep.died();
        }
        let waiting = self.sweeps.waiting();
        waiting.add(&sweep);
        let _turn = waiting.turn.lock().await;
        if let Some(together) = waiting.with(&sweep) {
            self.sweep_together(&together).await;
            waiting.done(&together);
        }
        sweep.died()
    }

    async fn sweep_together(&self, sweeps: &[Arc<Sweep>]) {
        let sweepers = Sweepers::new(sweeps, &self.log);
        let now = self.clock.now();
        let (mut died, mut expired) = (0, 0);
        let ended =
            |key: &[u8], entry: &Entry<V>| sweepers.ended(entry.stamp(), entry.subject(key));
        let count = |sweep: &Sweep, entry: &Entry<V>| {
            if entry.deadline > now {
                sweep.count();
                died += 1;
            } else {
                expired += 1;
            }
        };
        self.remove_if(ended, count).await;
        self.stats.counters.invalidations.add(died);
        self.stats.counters.expirations.add(expired);
    }

    /// Whether to visit every entry takes so long that others have to run meanwhile.
    fn is_large(&self) -> bool {
        self.store.entry_count() > VISITS_PER_TURN as u64
    }

    /// Visits every entry and removes those that are `dead`, and why; `removed` is told of each.
    async fn remove_if<W>(
        &self,
        dead: impl Fn(&[u8], &Entry<V>) -> Option<W>,
        mut removed: impl FnMut(W, &Entry<V>),
    ) {
        let mut visits = 0;
        if self.is_large() {
            // Even to begin takes a while in a large cache: not on the caller's thread.
            yield_once().await;
        }
        for (key, entry) in &self.store {
            // Between the look and the removal somebody may have stored a new decision. Then that
            // one is lost, which costs an evaluation; it is not counted.
            if dead(key.as_bytes(), &entry).is_some()
                && let Some(gone) = self.take_out(key.as_bytes()).await
                && let Some(why) = dead(key.as_bytes(), &gone)
            {
                removed(why, &gone);
            }
            // Long keys take long to compare with patterns.
            rest_after(&mut visits, 1 + key.as_bytes().len() / VISITS_PER_TURN).await;
        }
        self.maintain();
    }
}

/// A batch of look-ups, which reads the clock once and counts once.
///
/// Each finds what is stored and not revoked when it is made; what has expired when the batch is
/// finished is left out then, so nothing is served late, however long a batch takes.
pub struct LookUps<'c, V> {
    cache: &'c Cache<V>,
    found: Vec<Option<Arc<Entry<V>>>>,
}

impl<V: AsRef<[u8]> + Send + Sync + 'static> LookUps<'_, V> {
    /// Looks up `key`.
    #[inline]
    pub fn look_up(&mut self, key: &[u8]) {
        // Never pending; should moka change that, a miss is the safe answer.
        let found = poll_once(self.cache.store.get(key)).flatten();
        self.found.push(found.filter(|entry| self.cache.holds(key, entry)));
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

/// Lets others run after every [`VISITS_PER_TURN`] visits: pending once, so that what has many
/// entries to visit leaves the caller's thread for a runtime's.
async fn rest_after(visits: &mut usize, more: usize) {
    *visits += more;
    if *visits >= VISITS_PER_TURN {
        *visits = 0;
        yield_once().await;
    }
}
