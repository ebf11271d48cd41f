//! Sweeps: the removal of the entries that invalidations revoked.
//!
//! An invalidation takes effect when it is recorded. A *sweep* frees the memory of the revoked
//! entries and counts them. That takes a visit to every entry, about a microsecond each. Invalidations
//! that arrive during a visit wait for the next visit, which serves all of them: however many there
//! are, the entries are visited twice.
//!
//! # Cost
//! Per entry, one lookup for each kind of scope among the pending sweeps, as in the log, and one match
//! for each pending pattern. Memory: about 200 bytes per pending sweep.

use crate::invalidation::{Log, Recorded, Scope, ScopeKinds, Stamp, Subject, Tags};
use crate::key::KeyTexts;
use crate::key::{KeyParts, without_policy};
use ahash::RandomState;
use std::collections::HashMap;
use std::mem;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The sweep of one invalidation.
pub(crate) struct Sweep {
    scope: Scope,
    tags: Tags,
    stamp: Stamp,
    removed: AtomicU64,
    done: AtomicBool,
}

impl Sweep {
    pub(crate) fn new(scope: Scope, recorded: Recorded, log: &Log) -> Arc<Self> {
        let scope = if recorded.everything { Scope::Everything } else { scope };
        let tags = match &scope {
            Scope::Fields { tags, .. } => log.tags(tags),
            _ => Tags::default(),
        };
        let (removed, done) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { scope, tags, stamp: recorded.stamp, removed, done })
    }

    /// Counts an entry that was removed for this sweep.
    pub(crate) fn count_removed(&self) {
        self.removed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of entries removed for this sweep.
    pub(crate) fn removed(&self) -> u64 {
        self.removed.load(Ordering::Acquire)
    }

    /// Returns whether the scope covers the entry. Compares the fields, not their hashes.
    fn covers(&self, subject: Subject<'_>) -> bool {
        match &self.scope {
            Scope::Everything => true,
            Scope::Key(key) => **key == *subject.key,
            Scope::Request(key) => **key == *without_policy(subject.key),
            Scope::Fields { fields, policy, .. } => {
                let parts = KeyParts::of(subject.key);
                let equals = |wanted: &Option<Box<str>>, part: fn(KeyParts<'_>) -> &str| {
                    wanted.as_deref().is_none_or(|wanted| parts.map(part) == Some(wanted))
                };
                equals(policy, |parts| parts.policy)
                    && equals(&fields[0], |parts| parts.fields[0])
                    && equals(&fields[1], |parts| parts.fields[1])
                    && equals(&fields[2], |parts| parts.fields[2])
                    && (self.tags.is_empty()
                        || self.tags.iter().any(|tag| subject.tags.contains(tag)))
            }
            Scope::Glob(glob) => KeyParts::of(subject.key)
                .is_some_and(|parts| glob.matches_any(&KeyTexts::of(&parts))),
        }
    }
}

/// Pending sweeps, indexed so that the first one that matches an entry is found fast.
pub(crate) struct SweepIndex<'s> {
    log: &'s Log,
    kinds: ScopeKinds,
    by_hash: HashMap<u64, Vec<&'s Sweep>, RandomState>,
    everything: Vec<&'s Sweep>,
    globs: Vec<&'s Sweep>,
}

impl<'s> SweepIndex<'s> {
    pub(crate) fn new(sweeps: &'s [Arc<Sweep>], log: &'s Log) -> Self {
        let (kinds, by_hash) = (ScopeKinds::default(), HashMap::default());
        let mut made = Self { log, kinds, by_hash, everything: Vec::new(), globs: Vec::new() };
        let mut sweeps: Vec<&Sweep> = sweeps.iter().map(Arc::as_ref).collect();
        sweeps.sort_by_key(|sweep| sweep.stamp);
        for sweep in sweeps {
            match &sweep.scope {
                Scope::Everything => made.everything.push(sweep),
                Scope::Glob(_) => made.globs.push(sweep),
                scope => {
                    let (kinds, hashes) = log.scopes().hashes(scope);
                    made.kinds = made.kinds.union(kinds);
                    for hash in hashes {
                        made.by_hash.entry(hash).or_default().push(sweep);
                    }
                }
            }
        }
        made
    }

    /// Returns the first sweep, newer than `stamp`, that covers the entry.
    pub(crate) fn first_match(&self, stamp: Stamp, subject: Subject<'_>) -> Option<&'s Sweep> {
        let after = |sweeps: &[&'s Sweep]| {
            let since = sweeps.partition_point(|sweep| sweep.stamp <= stamp);
            sweeps[since..].iter().find(|sweep| sweep.covers(subject)).copied()
        };
        let mut first = after(&self.everything);
        let mut consider = |found: Option<&'s Sweep>| {
            first = first.into_iter().chain(found).min_by_key(|sweep| sweep.stamp);
        };
        consider(after(&self.globs));
        self.log.scopes().matches_any_scope(self.kinds, subject, |hash| {
            consider(self.by_hash.get(&hash).and_then(|sweeps| after(sweeps)));
            false
        });
        first
    }
}

/// The pending sweeps of one cache.
pub(crate) struct Sweeps(Mutex<Arc<PendingSweeps>>);

/// The pending sweeps of one process. A sweep that runs during a fork does not run in the child.
pub(crate) struct PendingSweeps {
    process: u32,
    sweeps: Mutex<Vec<Arc<Sweep>>>,
    /// Held by the invalidation that visits the entries.
    pub(crate) sweeping: async_lock::Mutex<()>,
}

impl Default for Sweeps {
    fn default() -> Self {
        Self(Mutex::new(Arc::new(PendingSweeps::new())))
    }
}

impl Sweeps {
    /// Returns the pending sweeps of this process.
    pub(crate) fn pending(&self) -> Arc<PendingSweeps> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.process != process::id() {
            // Not dropped: it may be locked by a thread of the parent.
            mem::forget(mem::replace(&mut *pending, Arc::new(PendingSweeps::new())));
        }
        Arc::clone(&pending)
    }
}

impl PendingSweeps {
    fn new() -> Self {
        let (sweeps, sweeping) = (Mutex::default(), async_lock::Mutex::new(()));
        Self { process: process::id(), sweeps, sweeping }
    }

    pub(crate) fn add(&self, sweep: &Arc<Sweep>) {
        self.sweeps.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(sweep));
    }

    /// Returns the sweeps to make together with `sweep`, or `None` if another visit already made it.
    ///
    /// They stay pending until [`finish`](Self::finish), so that another visit makes them if this one
    /// is cancelled.
    pub(crate) fn batch_with(&self, sweep: &Sweep) -> Option<Vec<Arc<Sweep>>> {
        let pending = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
        (!sweep.done.load(Ordering::Acquire)).then(|| pending.clone())
    }

    /// Marks these sweeps as done and removes them from the pending ones.
    pub(crate) fn finish(&self, swept: &[Arc<Sweep>]) {
        let mut pending = self.sweeps.lock().unwrap_or_else(PoisonError::into_inner);
        for sweep in swept {
            sweep.done.store(true, Ordering::Release);
        }
        pending.retain(|sweep| !sweep.done.load(Ordering::Relaxed));
    }
}
