//! The entry of a key.

use crate::invalidation::{Stamp, Subject, Tags};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A stored decision, with its tags and its time to live.
#[derive(Debug)]
pub struct Entry<V> {
    pub(super) value: V,
    pub(super) stamp: AtomicU64,
    pub(super) deadline: u64,
    pub(super) weight: u32,
    pub(super) tags: Tags,
    /// The time from the insert to the deadline, in nanoseconds.
    pub(super) ttl: u64,
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

    pub(super) fn subject<'a>(&'a self, key: &'a [u8]) -> Subject<'a> {
        Subject { key, tags: &self.tags }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp::from_raw(self.stamp.load(Ordering::Relaxed))
    }
}
