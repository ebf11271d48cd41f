//! The records of revocations, with one writer at a time and readers that take no lock.

use super::glob::Glob;
use super::scope::{Scope, ScopeHasher, ScopeKinds, Subject};
use super::table::RecordTable;
use super::tags::Tags;
use crate::key::{KeyParts, KeyTexts};
use crate::shim::atomic::{AtomicU64, Ordering};
use crate::shim::{Mutex, MutexGuard, Swap};
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

/// The largest number of records. When it is exceeded, every older decision is revoked.
pub const MAX_RECORDS: usize = 65_536;
/// The largest number of patterns. When it is exceeded, every older decision is revoked.
pub const MAX_GLOBS: usize = 64;

/// Records are pruned by period, so they are kept at most 1/16 longer than necessary.
const PERIODS_PER_TTL: u64 = 16;
/// The largest number of periods, for logs that are not pruned for a long time.
const MAX_PERIODS: usize = 256;
/// The shortest retention of records: one minute, in nanoseconds, for evaluations that take longer
/// than the time to live of their decision.
const MIN_RETENTION: u64 = 60_000_000_000;

/// A moment in the time of a log: the number of invalidations recorded before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(u64);

impl Stamp {
    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Returns the stamp just before this one.
    pub(crate) fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// The result of [`Log::verdict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The decision is valid. It may take this stamp, so that it is not checked against the same
    /// records again.
    Valid(Stamp),
    /// A newer record matches the decision.
    Invalidated,
}

/// The result of [`Log::record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The stamp of the invalidation.
    pub stamp: Stamp,
    /// True if every older decision is revoked: because that was the scope, or because the log is
    /// full.
    pub everything: bool,
}

/// The log of one cache.
pub struct Log {
    newest: AtomicU64,
    floor: AtomicU64,
    /// The [`ScopeKinds`] that were ever recorded. Only these are looked up.
    kinds: AtomicU64,
    records: Swap<RecordTable>,
    globs: Swap<Vec<(u64, Glob)>>,
    longest_ttl: AtomicU64,
    writer: Mutex<Writer>,
    scopes: ScopeHasher,
}

/// The state that only a writer needs.
#[derive(Default)]
struct Writer {
    used: usize,
    /// The times of the records, oldest first.
    periods: VecDeque<Period>,
}

/// A period of time, in nanoseconds, and the newest record made in it.
struct Period {
    began: u64,
    ended: u64,
    newest: u64,
}

impl Writer {
    /// Adds a record made at `now` to the last period, or to a new one.
    fn record_period(&mut self, now: u64, stamp: u64, interval: u64) {
        match self.periods.back_mut() {
            Some(period) if now.saturating_sub(period.began) < interval => {
                period.ended = now;
                period.newest = stamp;
            }
            _ => self.periods.push_back(Period { began: now, ended: now, newest: stamp }),
        }
        if self.periods.len() > MAX_PERIODS {
            // The next period now stands for its records too, which are pruned a little later.
            self.periods.pop_front();
        }
    }

    /// Returns whether one more record fits while half of the slots stay empty.
    fn has_room(&self, records: &RecordTable) -> bool {
        self.used < MAX_RECORDS && (self.used + 1) * 2 <= records.capacity()
    }
}

impl Log {
    /// Creates an empty log.
    #[expect(clippy::new_without_default, reason = "the seed is random: no two logs are equal")]
    pub fn new() -> Self {
        Self {
            newest: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            kinds: AtomicU64::new(0),
            records: Swap::from_pointee(RecordTable::new(0)),
            globs: Swap::default(),
            longest_ttl: AtomicU64::new(MIN_RETENTION),
            writer: Mutex::default(),
            scopes: ScopeHasher::new(),
        }
    }

    /// Returns the newest stamp. Take it before an evaluation begins. Costs one atomic load.
    #[inline]
    pub fn newest(&self) -> Stamp {
        Stamp(self.newest.load(Ordering::Acquire))
    }

    /// Returns the numbers of these tags. Costs one hash per tag and a sort.
    pub fn tags<N: AsRef<str>>(&self, names: &[N]) -> Tags {
        self.scopes.tags(names)
    }

    pub(crate) fn scopes(&self) -> &ScopeHasher {
        &self.scopes
    }

    /// Keeps records for at least `ttl`, in nanoseconds.
    ///
    /// Call it before the verdict on a decision with that time to live. Costs one atomic load, unless
    /// the time is the longest so far.
    pub fn retain_for(&self, ttl: u64) {
        if self.longest_ttl.load(Ordering::Relaxed) < ttl {
            self.longest_ttl.fetch_max(ttl, Ordering::SeqCst);
        }
    }

    /// Returns whether a decision with this stamp is still valid.
    ///
    /// Costs one atomic load if the stamp is the newest one, and otherwise a lookup per kind of scope
    /// that was ever recorded. Takes no lock.
    #[inline]
    pub fn verdict(&self, stamp: Stamp, subject: Subject<'_>) -> Verdict {
        // The newest stamp is read first: a thread that reads *n* here sees every record up to *n*,
        // because a record is written before the counter advances. The floor is read last: a thread
        // that misses a pruned record sees the floor that replaced it.
        let newest = self.newest();
        if stamp >= newest {
            return Verdict::Valid(stamp);
        }
        if self.matched_since(stamp, subject) || stamp.0 < self.floor.load(Ordering::Acquire) {
            return Verdict::Invalidated;
        }
        Verdict::Valid(newest)
    }

    #[inline(never)]
    fn matched_since(&self, stamp: Stamp, subject: Subject<'_>) -> bool {
        let kinds = ScopeKinds(self.kinds.load(Ordering::Acquire));
        let records = self.records.load();
        let newer = |hash| records.find(hash).is_some_and(|record| record > stamp.0);
        if self.scopes.matches_any_scope(kinds, subject, newer) {
            return true;
        }
        let globs = self.globs.load();
        if let Some((latest, _)) = globs.last()
            && *latest > stamp.0
            && let Some(parts) = KeyParts::of(subject.key)
        {
            let texts = KeyTexts::of(&parts);
            return globs
                .iter()
                .any(|(record, glob)| *record > stamp.0 && glob.matches_any(&texts));
        }
        false
    }

    /// Records an invalidation. From the moment it returns, no older decision in `scope` is valid.
    ///
    /// `now` is the time in nanoseconds of the cache's clock. Takes one mutex; constant time,
    /// amortized.
    pub fn record(&self, scope: &Scope, now: u64) -> Recorded {
        let mut writer = self.lock();
        let stamp = self.newest.load(Ordering::Relaxed) + 1;
        let interval = self.longest_ttl.load(Ordering::SeqCst) / PERIODS_PER_TTL;
        writer.record_period(now, stamp, interval);
        let everything = match scope {
            Scope::Everything => true,
            Scope::Glob(glob) => !self.write_glob(&mut writer, glob, stamp, now),
            Scope::Key(_) | Scope::Request(_) | Scope::Fields { .. } => {
                let (kinds, hashes) = self.scopes.hashes(scope);
                self.kinds.fetch_or(kinds.0, Ordering::Release);
                !hashes.into_iter().all(|hash| self.write(&mut writer, hash, stamp, now))
            }
        };
        if everything {
            self.raise_floor_over_all(&mut writer, stamp);
        }
        // Last, so that a thread that reads this stamp finds the record, or the floor.
        self.newest.store(stamp, Ordering::SeqCst);
        Recorded { stamp: Stamp(stamp), everything }
    }

    /// Returns the number of records, patterns included.
    pub fn len(&self) -> usize {
        self.lock().used + self.globs.load().len()
    }

    /// Returns whether the log has no records. It may still have a floor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // No code under this lock panics half way through a change, so poisoning is ignored.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a record. Returns false if the log is full and no record can be pruned.
    fn write(&self, writer: &mut Writer, hash: u64, stamp: u64, now: u64) -> bool {
        if self.records.load().update(hash, stamp) {
            return true;
        }
        if !writer.has_room(&self.records.load()) {
            self.prune(writer, now);
            if writer.used == MAX_RECORDS {
                return false;
            }
            let grown = self.records.load().copy_newer(0, (writer.used + 1) * 4);
            self.records.store(Arc::new(grown));
        }
        self.records.load().insert(hash, stamp);
        writer.used += 1;
        true
    }

    /// Writes the record of a pattern, replacing an older one of the same pattern. Returns false if
    /// the log is full of patterns that cannot be pruned.
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

    /// Replaces every record older than the longest time to live by the floor.
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

    /// Revokes every decision stamped below `stamp`, which is newer than all records, and removes
    /// all records. Constant time.
    fn raise_floor_over_all(&self, writer: &mut Writer, stamp: u64) {
        self.floor.fetch_max(stamp, Ordering::SeqCst);
        self.records.store(Arc::new(RecordTable::new(0)));
        self.globs.store(Arc::default());
        writer.used = 0;
    }

    /// Revokes every decision stamped below `stamp` and removes the records up to it. Linear in the
    /// number of records.
    fn raise_floor(&self, writer: &mut Writer, stamp: u64) {
        // The floor first, so that a thread that no longer finds a record finds the floor.
        self.floor.fetch_max(stamp, Ordering::SeqCst);
        let records = self.records.load().copy_newer(stamp, 0);
        writer.used = records.used();
        self.records.store(Arc::new(records));
        let globs = self.globs.load();
        self.globs
            .store(Arc::new(globs.iter().filter(|(record, _)| *record > stamp).cloned().collect()));
    }
}
