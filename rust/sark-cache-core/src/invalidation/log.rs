//! The records of what was revoked, one writer and any number of readers.

use super::glob::Glob;
use super::scope::{Scope, ScopeHasher, ScopeKinds, Subject};
use super::table::RecordTable;
use super::tags::Tags;
use crate::key::{KeyParts, KeyTexts};
use crate::shim::atomic::{AtomicU64, Ordering};
use crate::shim::{Mutex, MutexGuard, Swap};
use std::collections::VecDeque;
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

/// What the log says of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds; it may be stamped with this stamp, so that it is not checked against the same
    /// records again.
    Holds(Stamp),
    /// A newer record matches it.
    Invalidated,
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
    /// The [`ScopeKinds`] of records ever made. Only these are looked up.
    kinds: AtomicU64,
    records: Swap<RecordTable>,
    globs: Swap<Vec<(u64, Glob)>>,
    longest_ttl: AtomicU64,
    writer: Mutex<Writer>,
    scopes: ScopeHasher,
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
    fn record_period(&mut self, now: u64, stamp: u64, interval: u64) {
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
    fn has_room(&self, records: &RecordTable) -> bool {
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
            records: Swap::from_pointee(RecordTable::new(0)),
            globs: Swap::default(),
            longest_ttl: AtomicU64::new(LEAST_RETENTION),
            writer: Mutex::default(),
            scopes: ScopeHasher::new(),
        }
    }

    /// The stamp of now: take it before evaluating.
    #[inline]
    pub fn newest(&self) -> Stamp {
        Stamp(self.newest.load(Ordering::Acquire))
    }

    /// The numbers under which the log knows these tags.
    pub fn tags<N: AsRef<str>>(&self, names: &[N]) -> Tags {
        self.scopes.tags(names)
    }

    pub(crate) fn scopes(&self) -> &ScopeHasher {
        &self.scopes
    }

    /// Tells the log that decisions may live this long, in nanoseconds. To be called before the
    /// verdict that lets such a decision in.
    pub fn retain_for(&self, ttl: u64) {
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
            return Verdict::Invalidated;
        }
        Verdict::Holds(newest)
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

    /// Records an invalidation at time `now` (nanoseconds on the cache's clock). From the moment it
    /// returns, no older decision in `scope` holds.
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
            let grown = self.records.load().copy_newer(0, (writer.used + 1) * 4);
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
        let records = self.records.load().copy_newer(stamp, 0);
        writer.used = records.used();
        self.records.store(Arc::new(records));
        let globs = self.globs.load();
        self.globs
            .store(Arc::new(globs.iter().filter(|(record, _)| *record > stamp).cloned().collect()));
    }
}
