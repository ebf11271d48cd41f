//! The entry of a key, and the handle by which moka holds it.

use crate::index::{Found, Index, Indexed};
use crate::invalidation::{Stamp, Subject, Tags};
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A stored decision, with its key, its tags and its time to live.
pub struct Entry<V> {
    pub(super) hash: u64,
    pub(super) stamp: AtomicU64,
    pub(super) deadline: u64,
    pub(super) key: Box<[u8]>,
    pub(super) value: V,
    pub(super) tags: Tags,
    /// The time from the insert to the deadline, in nanoseconds.
    pub(super) ttl: u64,
    pub(super) weight: u32,
    /// The tick in which moka recorded the last read.
    pub(super) read_in: AtomicU32,
    /// The number of handles.
    pub(super) handles: AtomicU32,
    pub(super) index: Weak<Index<Entry<V>>>,
}

impl<V> Entry<V> {
    /// Returns the stored value.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// Returns the tags, each of which can revoke the entry.
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// Returns the whole time to live.
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl)
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { key: &self.key, tags: &self.tags }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp::from_raw(self.stamp.load(Ordering::Relaxed))
    }
}

impl<V> Indexed for Entry<V> {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }

    #[inline]
    fn key(&self) -> &[u8] {
        &self.key
    }

    fn is_held(&self) -> bool {
        self.handles.load(Ordering::SeqCst) > 0
    }
}

/// An entry that moka holds, or a copy of it that a lookup got from moka. When the last handle of an
/// entry is dropped, the index forgets the entry.
pub(super) struct Handle<V>(pub(super) Arc<Entry<V>>);

impl<V> Handle<V> {
    /// Creates the first handle of an entry.
    pub(super) fn new(entry: &Arc<Entry<V>>) -> Self {
        entry.handles.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(entry))
    }
}

impl<V> Clone for Handle<V> {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl<V> Drop for Handle<V> {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(index) = self.0.index.upgrade()
        {
            index.forget(&self.0);
        }
    }
}

/// An entry that a lookup found. It stays alive while this exists.
pub struct Hit<V>(pub(super) Source<V>);

pub(super) enum Source<V> {
    Index(Found<Entry<V>>),
    Moka(Arc<Entry<V>>),
}

impl<V> Hit<V> {
    /// Returns the entry itself, which may be kept for longer.
    pub fn into_arc(self) -> Arc<Entry<V>> {
        match self.0 {
            Source::Index(found) => found.into_arc(),
            Source::Moka(entry) => entry,
        }
    }
}

impl<V> Deref for Hit<V> {
    type Target = Entry<V>;

    #[inline]
    fn deref(&self) -> &Entry<V> {
        match &self.0 {
            Source::Index(found) => found,
            Source::Moka(entry) => entry,
        }
    }
}
