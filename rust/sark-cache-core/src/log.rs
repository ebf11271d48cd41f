//! The invalidation log: what was revoked, and when.
//!
//! Its clock is a counter. A *stamp* is the counter's value at the moment an evaluation began; an
//! *invalidation* adds one to the counter and records its scope under the new value. A decision
//! holds as long as no record newer than its stamp matches it, wherever the decision is: stored, or
//! still on its way from the policy engine.
//!
//! # Cost
//! A decision stamped at or after the newest record costs one atomic load ([`Log::newest`]). An
//! older one is checked once: one look-up (a hash and a probe) for each combination of
//! fields and policy that was ever invalidated; then its owner stamps it anew. Reading takes no lock and never
//! waits. Recording takes one mutex and constant time, amortized.
//!
//! # Memory
//! 16 bytes per slot, at most half of the slots used, at most [`MAX_RECORDS`] records: 2 MiB. One
//! record per scope: invalidating the same user twice takes no more room than once.
//!
//! # The floor
//! Everything stamped below the floor is dead. Three things raise it, and they are all that ever
//! shrinks the log: invalidating everything, pruning (records older than the longest time to live
//! can only matter to decisions that have expired, so the floor takes their place), and a log
//! that is full. When in doubt a decision is dropped; it is never served.
//!
//! Scopes are kept as 64-bit hashes under a random seed. Should two collide, a decision is
//! dropped that could have been kept.

use crate::glob::{Glob, Texts};
use crate::key::{Parts, without_policy};
use crate::shim::atomic::{AtomicU64, Ordering};
use crate::shim::{Mutex, MutexGuard, Swap};
use crate::table::Table;
use ahash::RandomState;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, PoisonError};

/// The most records the log keeps; beyond it everything older than the newest record is dead.
pub const MAX_RECORDS: usize = 65_536;
/// The most patterns the log keeps; beyond it everything older than the newest one is dead.
pub const MAX_GLOBS: usize = 64;

/// Records are pruned a period at a time, so they stay at most 1/16 longer than they must.
const PERIODS_PER_TTL: u64 = 16;
/// Bounds the list of periods when nothing is pruned for long.
const MAX_PERIODS: usize = 256;
/// Records are kept for a minute even if no decision lives that long, for evaluations that outlast
/// the time to live of what they return.
const LEAST_RETENTION: u64 = 60_000_000_000;

/// The bits of a kind that names user, action, resource, policy and a tag.
const FIELDS: [u32; 3] = [1, 2, 4];
const POLICY: u32 = 8;
const TAGGED: u32 = 16;
/// The kind of records that name one whole key.
const KEY_KIND: u32 = 32;
/// The kind of records that name one request under every policy.
const REQUEST_KIND: u32 = 33;

/// Kinds of scopes: bits 0–31 by the mask of fields, policy and tag that one names, two more for
/// whole keys and whole requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Kinds(u64);

impl Kinds {
    fn of(kind: u32) -> Self {
        Self(1 << kind)
    }

    fn has(self, kind: u32) -> bool {
        self.0 & (1 << kind) != 0
    }

    /// Those that name parts of a request or tags, in rising order.
    fn masks(self) -> impl Iterator<Item = u32> {
        (1..KEY_KIND).filter(move |mask| self.has(*mask))
    }

    pub(crate) fn and(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }
}

/// A moment in the log's time: the number of invalidations recorded before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(u64);

impl Stamp {
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

/// Which decisions an invalidation ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Everything,
    /// The one under this key.
    Key(Box<[u8]>),
    /// Those for one request under whatever policy, given by its key under none.
    Request(Box<[u8]>),
    /// Those whose user, action, resource and policy equal the given ones, and, if there are tags,
    /// that carry at least one of them. What is `None` matches anything.
    Fields {
        /// User, action and resource, in this order.
        fields: [Option<Box<str>>; 3],
        /// The policy that decides; the empty one is that of requests that name none.
        policy: Option<Box<str>>,
        /// Tags; empty: tags do not matter.
        tags: Vec<Box<str>>,
    },
    /// Those with a text key that matches a pattern.
    Glob(Glob),
}

impl Scope {
    /// The scope of these fields and tags under whatever policy; [`Scope::Everything`] when none is
    /// given.
    pub fn of(fields: [Option<&str>; 3], tags: &[&str]) -> Self {
        Self::under(None, fields, tags)
    }

    /// The scope of this policy, these fields and tags; [`Scope::Everything`] when none is given.
    pub fn under(policy: Option<&str>, fields: [Option<&str>; 3], tags: &[&str]) -> Self {
        if policy.is_none() && fields.iter().all(Option::is_none) && tags.is_empty() {
            return Self::Everything;
        }
        Self::Fields {
            fields: fields.map(|field| field.map(Box::from)),
            policy: policy.map(Box::from),
            tags: tags.iter().map(|tag| Box::from(*tag)).collect(),
        }
    }
}

/// The tags of a decision, as the log of one cache numbers them: each number once, in rising order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(Box<[u64]>);

impl Tags {
    /// These and those of `more`. Linear in their number.
    #[must_use]
    pub fn with(&self, more: &Self) -> Self {
        if more.is_empty() {
            return self.clone();
        }
        let (mut own, mut others) = (self.iter().peekable(), more.iter().peekable());
        let mut both = Vec::with_capacity(self.len() + more.len());
        while let Some(next) = own.peek().into_iter().chain(others.peek()).min().copied() {
            own.next_if_eq(&next);
            others.next_if_eq(&next);
            both.push(*next);
        }
        Self(both.into())
    }

    /// These without those of `less`.
    #[must_use]
    pub fn without(&self, less: &Self) -> Self {
        Self(self.iter().filter(|tag| less.binary_search(tag).is_err()).copied().collect())
    }
}

impl Deref for Tags {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.0
    }
}

/// A decision as the log sees it: its key and its tags.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The canonical key.
    pub key: &'a [u8],
    /// Its tags, as [`Log::tags`] numbers them.
    pub tags: &'a [u64],
}

/// What the log says of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds; it may be stamped with this stamp, so that it is not checked against the same
    /// records again.
    Holds(Stamp),
    /// A newer record matches it.
    Overtaken,
}

/// What became of an invalidation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Its stamp.
    pub stamp: Stamp,
    /// Everything older is dead, not only what is in its scope: because that was its scope, or
    /// because the log is full.
    pub everything: bool,
}

/// The log of one cache.
pub struct Log {
    newest: AtomicU64,
    floor: AtomicU64,
    /// The [`Kinds`] of records ever made. Only these are looked up.
    kinds: AtomicU64,
    records: Swap<Table>,
    globs: Swap<Vec<(u64, Glob)>>,
    longest_ttl: AtomicU64,
    writer: Mutex<Writer>,
    hasher: RandomState,
}

/// What only the one who records needs.
#[derive(Default)]
struct Writer {
    used: usize,
    /// When records were made, oldest first.
    periods: VecDeque<Period>,
}

/// A stretch of time, in nanoseconds, and the newest record made in it.
struct Period {
    began: u64,
    ended: u64,
    newest: u64,
}

impl Writer {
    /// Notes that the record `stamp` is made at `now`.
    fn note(&mut self, now: u64, stamp: u64, interval: u64) {
        match self.periods.back_mut() {
            Some(period) if now.saturating_sub(period.began) < interval => {
                period.ended = now;
                period.newest = stamp;
            }
            _ => self.periods.push_back(Period { began: now, ended: now, newest: stamp }),
        }
        if self.periods.len() > MAX_PERIODS {
            // Merged into its successor: pruned a little later.
            self.periods.pop_front();
        }
    }

    /// Whether one more record fits with half of the slots left empty.
    fn has_room(&self, records: &Table) -> bool {
        self.used < MAX_RECORDS && (self.used + 1) * 2 <= records.capacity()
    }
}

impl Log {
    /// An empty log.
    #[expect(clippy::new_without_default, reason = "its seed is random: no two are equal")]
    pub fn new() -> Self {
        Self {
            newest: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            kinds: AtomicU64::new(0),
            records: Swap::from_pointee(Table::new(0)),
            globs: Swap::default(),
            longest_ttl: AtomicU64::new(LEAST_RETENTION),
            writer: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// The stamp of now: take it before evaluating.
    #[inline]
    pub fn newest(&self) -> Stamp {
        Stamp(self.newest.load(Ordering::Acquire))
    }

    /// The numbers under which the log knows these tags.
    pub fn tags<N: AsRef<str>>(&self, names: &[N]) -> Tags {
        let mut numbers: Vec<u64> = names.iter().map(|name| self.tag(name.as_ref())).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Tags(numbers.into())
    }

    fn tag(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Tells the log that decisions may live this long, in nanoseconds. To be called before the
    /// verdict that lets such a decision in.
    pub fn expect_ttl(&self, ttl: u64) {
        if self.longest_ttl.load(Ordering::Relaxed) < ttl {
            self.longest_ttl.fetch_max(ttl, Ordering::SeqCst);
        }
    }

    /// Whether a decision with this stamp still holds.
    ///
    /// The order matters. The newest stamp is read first: whoever reads *n* there also sees every
    /// record up to *n*, because a record is written before the counter moves. The floor is read
    /// last: whoever misses a record because it was pruned sees the floor that replaced it.
    #[inline]
    pub fn verdict(&self, stamp: Stamp, subject: Subject<'_>) -> Verdict {
        let newest = self.newest();
        if stamp >= newest {
            return Verdict::Holds(stamp);
        }
        if self.matched_since(stamp, subject) || stamp.0 < self.floor.load(Ordering::Acquire) {
            return Verdict::Overtaken;
        }
        Verdict::Holds(newest)
    }

    #[inline(never)]
    fn matched_since(&self, stamp: Stamp, subject: Subject<'_>) -> bool {
        let kinds = Kinds(self.kinds.load(Ordering::Acquire));
        let records = self.records.load();
        let newer = |hash| records.find(hash).is_some_and(|record| record > stamp.0);
        if self.any_scope(kinds, subject, newer) {
            return true;
        }
        let globs = self.globs.load();
        if let Some((latest, _)) = globs.last()
            && *latest > stamp.0
            && let Some(parts) = Parts::of(subject.key)
        {
            let texts = Texts::of(&parts);
            return globs.iter().any(|(record, glob)| *record > stamp.0 && texts.match_any(glob));
        }
        false
    }

    /// Whether `found` says yes to the hash of any scope of these kinds that covers the subject.
    pub(crate) fn any_scope(
        &self,
        kinds: Kinds,
        subject: Subject<'_>,
        mut found: impl FnMut(u64) -> bool,
    ) -> bool {
        if kinds.has(KEY_KIND) && found(self.hash_whole(KEY_KIND, subject.key)) {
            return true;
        }
        if kinds.has(REQUEST_KIND)
            && found(self.hash_whole(REQUEST_KIND, without_policy(subject.key)))
        {
            return true;
        }
        let parts = Parts::of(subject.key).map(Named::from);
        for mask in kinds.masks() {
            let named = match parts {
                Some(parts) => parts.only(mask),
                // A key without parts is matched by no record that names some.
                None if mask & !TAGGED != 0 => continue,
                None => Named::default(),
            };
            let covers = if mask & TAGGED == 0 {
                found(self.hash_named(named, None))
            } else {
                subject.tags.iter().any(|tag| found(self.hash_named(named, Some(*tag))))
            };
            if covers {
                return true;
            }
        }
        false
    }

    /// The hashes under which [`any_scope`](Self::any_scope) finds this scope, and their kind; none
    /// for everything and for patterns.
    pub(crate) fn scope_hashes(&self, scope: &Scope) -> (Kinds, Vec<u64>) {
        let whole = |kind, key| (Kinds::of(kind), vec![self.hash_whole(kind, key)]);
        match scope {
            Scope::Everything | Scope::Glob(_) => (Kinds::default(), Vec::new()),
            Scope::Key(key) => whole(KEY_KIND, key),
            Scope::Request(key) => whole(REQUEST_KIND, key),
            Scope::Fields { fields, policy, tags } => {
                let fields = fields.each_ref().map(Option::as_deref);
                let named = Named { fields, policy: policy.as_deref() };
                if tags.is_empty() {
                    return (Kinds::of(named.mask()), vec![self.hash_named(named, None)]);
                }
                let numbers = tags.iter().map(|tag| self.tag(tag));
                let hashes = numbers.map(|tag| self.hash_named(named, Some(tag))).collect();
                (Kinds::of(named.mask() | TAGGED), hashes)
            }
        }
    }

    /// Records an invalidation at time `now` (nanoseconds on the cache's clock). From the moment it
    /// returns, no older decision in `scope` holds.
    pub fn record(&self, scope: &Scope, now: u64) -> Recorded {
        let mut writer = self.lock();
        let stamp = self.newest.load(Ordering::Relaxed) + 1;
        let interval = self.longest_ttl.load(Ordering::SeqCst) / PERIODS_PER_TTL;
        writer.note(now, stamp, interval);
        let everything = match scope {
            Scope::Everything => true,
            Scope::Glob(glob) => !self.write_glob(&mut writer, glob, stamp, now),
            Scope::Key(_) | Scope::Request(_) | Scope::Fields { .. } => {
                let (kinds, hashes) = self.scope_hashes(scope);
                self.kinds.fetch_or(kinds.0, Ordering::Release);
                !hashes.into_iter().all(|hash| self.write(&mut writer, hash, stamp, now))
            }
        };
        if everything {
            self.raise_floor(&mut writer, stamp);
        }
        // Last: whoever reads this stamp finds the record, or the floor, that it stands for.
        self.newest.store(stamp, Ordering::SeqCst);
        Recorded { stamp: Stamp(stamp), everything }
    }

    /// How many records the log holds, patterns included.
    pub fn len(&self) -> usize {
        self.lock().used + self.globs.load().len()
    }

    /// Whether nothing is recorded but, perhaps, a floor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // Nothing here panics half way through a change, so a poisoned lock guards sound data.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record; false if the log is full of records that all still matter.
    fn write(&self, writer: &mut Writer, hash: u64, stamp: u64, now: u64) -> bool {
        if self.records.load().update(hash, stamp) {
            return true;
        }
        if !writer.has_room(&self.records.load()) {
            self.prune(writer, now);
            if writer.used == MAX_RECORDS {
                return false;
            }
            let grown = self.records.load().without(0, (writer.used + 1) * 4);
            self.records.store(Arc::new(grown));
        }
        self.records.load().insert(hash, stamp);
        writer.used += 1;
        true
    }

    /// Writes the record of a pattern, in place of an older one of the same pattern; false as above.
    fn write_glob(&self, writer: &mut Writer, glob: &Glob, stamp: u64, now: u64) -> bool {
        if self.globs.load().len() >= MAX_GLOBS {
            self.prune(writer, now);
        }
        let older = self.globs.load();
        let mut globs: Vec<_> = older.iter().filter(|(_, other)| other != glob).cloned().collect();
        if globs.len() >= MAX_GLOBS {
            return false;
        }
        globs.push((stamp, glob.clone()));
        self.globs.store(Arc::new(globs));
        true
    }

    /// Replaces every record older than the longest time to live by a floor.
    fn prune(&self, writer: &mut Writer, now: u64) {
        let horizon = now.saturating_sub(self.longest_ttl.load(Ordering::SeqCst));
        let mut past = None;
        while writer.periods.front().is_some_and(|period| period.ended < horizon) {
            past = writer.periods.pop_front().map(|period| period.newest);
        }
        if let Some(stamp) = past {
            self.raise_floor(writer, stamp);
        }
    }

    /// Everything stamped below `stamp` is dead; records up to it are dropped.
    fn raise_floor(&self, writer: &mut Writer, stamp: u64) {
        // The floor first: whoever no longer finds a record must find the floor.
        self.floor.fetch_max(stamp, Ordering::SeqCst);
        let records = self.records.load().without(stamp, 0);
        writer.used = records.used();
        self.records.store(Arc::new(records));
        let globs = self.globs.load();
        self.globs
            .store(Arc::new(globs.iter().filter(|(record, _)| *record > stamp).cloned().collect()));
    }

    fn hash_whole(&self, kind: u32, key: &[u8]) -> u64 {
        not_empty(self.hasher.hash_one((kind, key)))
    }

    fn hash_named(&self, named: Named<'_>, tag: Option<u64>) -> u64 {
        not_empty(self.hasher.hash_one((named.mask(), named.fields, named.policy, tag)))
    }
}

/// The parts of a request that a record names.
#[derive(Clone, Copy, Default)]
struct Named<'a> {
    fields: [Option<&'a str>; 3],
    policy: Option<&'a str>,
}

impl<'a> From<Parts<'a>> for Named<'a> {
    fn from(parts: Parts<'a>) -> Self {
        Self { fields: parts.fields.map(Some), policy: Some(parts.policy) }
    }
}

impl Named<'_> {
    /// Those of them that a kind names.
    fn only(mut self, mask: u32) -> Self {
        for (field, bit) in self.fields.iter_mut().zip(FIELDS) {
            *field = field.filter(|_| mask & bit != 0);
        }
        self.policy = self.policy.filter(|_| mask & POLICY != 0);
        self
    }

    fn mask(&self) -> u32 {
        let fields = self.fields.iter().zip(FIELDS);
        let named = fields.map(|(field, bit)| if field.is_some() { bit } else { 0 });
        named.sum::<u32>() | if self.policy.is_some() { POLICY } else { 0 }
    }
}

/// Zero marks an empty slot, so no hash may be zero.
fn not_empty(hash: u64) -> u64 {
    hash.max(1)
}
