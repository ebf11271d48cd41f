//! The weight of an entry: the larger of its shares of the entries and of the bytes.

use crate::limits::{ENTRY_OVERHEAD, MAX_ENTRY_BYTES, MAX_TAGS, TAG_BYTES};
use crate::options::Options;

/// The weights of the entries of one cache, which stand for both limits.
pub(crate) struct Weights {
    pub(crate) capacity: u64,
    per_entry: u32,
    max_bytes: Option<u64>,
    pub(crate) entry_limit: usize,
}

impl Weights {
    /// The weight of the smallest entry. Rounding up then costs at most 0.1 % of the capacity.
    const PER_ENTRY: u64 = 1024;

    pub(crate) fn new(options: &Options) -> Self {
        let Some(max_bytes) = options.max_bytes else {
            return Self {
                capacity: options.max_size,
                per_entry: 1,
                max_bytes: None,
                entry_limit: MAX_ENTRY_BYTES,
            };
        };
        let most = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let entry_limit = MAX_ENTRY_BYTES.min(most.saturating_sub(ENTRY_OVERHEAD));
        // moka's weights have 32 bits. The weight of the largest entry must fit.
        let largest = (MAX_ENTRY_BYTES + MAX_TAGS * TAG_BYTES + ENTRY_OVERHEAD).min(most);
        let finest = u128::from(max_bytes) * u128::from(u32::MAX) / largest as u128;
        let capacity = options.max_size.saturating_mul(Self::PER_ENTRY);
        let capacity = capacity.min(u64::try_from(finest).unwrap_or(u64::MAX));
        Self {
            capacity,
            per_entry: u32::try_from(capacity.div_ceil(options.max_size.max(1)))
                .unwrap_or(u32::MAX),
            max_bytes: Some(max_bytes),
            entry_limit,
        }
    }

    /// Returns the weight of an entry with this many bytes of key and value, and of tags.
    ///
    /// Returns `None` if the entry is too large.
    pub(crate) fn of(&self, bytes: usize, tags: usize) -> Option<u32> {
        if bytes > self.entry_limit {
            return None;
        }
        let Some(max_bytes) = self.max_bytes else {
            return Some(self.per_entry);
        };
        let whole = (bytes + tags + ENTRY_OVERHEAD) as u128;
        if whole > u128::from(max_bytes) {
            return None;
        }
        let share = whole * u128::from(self.capacity);
        let share = u32::try_from(share.div_ceil(u128::from(max_bytes))).unwrap_or(u32::MAX);
        Some(share.max(self.per_entry))
    }
}
