//! How large a cache is, and which entry leaves it when it is full.

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
    /// The most bytes, counting keys, values, [`TAG_BYTES`](crate::limits::TAG_BYTES) a tag and
    /// [`ENTRY_OVERHEAD`](crate::limits::ENTRY_OVERHEAD); `None`: any.
    ///
    /// With both limits an entry weighs the larger of its share of the entries and its share of
    /// the bytes, so neither is ever exceeded.
    pub max_bytes: Option<u64>,
    /// Which entry leaves first.
    pub eviction: Eviction,
}
