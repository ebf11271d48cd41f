//! The size of a cache, its eviction policy and its lease.

use crate::coherence::Lease;

/// The choice of the entry that is evicted from a full cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eviction {
    /// The least recently used entry. The order is exact in caches of up to 128 entries. In larger
    /// ones an entry may be evicted early or late by up to 3 % of the capacity.
    #[default]
    Lru,
    /// The least frequently used of the entries that were not used recently. Resists scans.
    TinyLfu,
}

/// The options of a [`Cache`](crate::Cache).
#[derive(Debug, Clone)]
pub struct Options {
    /// The largest number of entries.
    pub max_size: u64,
    /// The largest number of bytes, or `None` for no limit.
    ///
    /// An entry counts with its key, its value, [`TAG_BYTES`](crate::limits::TAG_BYTES) per tag and
    /// [`ENTRY_OVERHEAD`](crate::limits::ENTRY_OVERHEAD). Its weight is the larger of its share of
    /// the entries and its share of the bytes, so neither limit is ever exceeded.
    pub max_bytes: Option<u64>,
    /// The entry that is evicted first.
    pub eviction: Eviction,
    /// The lease without which no entry is served, and the clock of the cache. It never ends, unless
    /// the cache shares its invalidation log with other processes.
    pub lease: Lease,
}

impl Options {
    /// Returns options for at most `max_size` entries, without a limit on bytes, with LRU eviction and
    /// with a lease that never ends.
    pub fn new(max_size: u64) -> Self {
        Self { max_size, max_bytes: None, eviction: Eviction::Lru, lease: Lease::always() }
    }
}
