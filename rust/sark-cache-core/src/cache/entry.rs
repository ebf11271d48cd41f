//! What is stored under a key.

use crate::invalidation::{Stamp, Subject, Tags};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A stored decision.
#[derive(Debug)]
pub struct Entry<V> {
    pub(super) value: V,
    pub(super) stamp: AtomicU64,
    pub(super) deadline: u64,
    pub(super) weight: u32,
    pub(super) tags: Tags,
    /// Nanoseconds from when it was stored to its deadline.
    pub(super) ttl: u64,
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

    pub(super) fn subject<'a>(&'a self, key: &'a [u8]) -> Subject<'a> {
        Subject { key, tags: &self.tags }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp::from_raw(self.stamp.load(Ordering::Relaxed))
    }
}
