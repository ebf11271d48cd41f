//! The errors of this crate. A refusal is never silent: it is returned.

use crate::limits::{MAX_DEPTH, MAX_KEY_BYTES, MAX_TAGS};
use thiserror::Error;

/// The reason why [`Cache::insert`](crate::Cache::insert) stored nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InsertError {
    /// An invalidation that matches the entry is newer than the entry's stamp.
    #[error("the decision was revoked while it was being evaluated")]
    Invalidated,
    /// The decision has more tags than [`MAX_TAGS`].
    #[error("the decision has more than {MAX_TAGS} tags")]
    TooManyTags,
    /// Key and value are larger than [`MAX_ENTRY_BYTES`](crate::limits::MAX_ENTRY_BYTES), or the
    /// entry is larger than the whole cache may be.
    #[error("the entry takes {bytes} bytes and at most {limit} are allowed")]
    TooLarge {
        /// Bytes of key, value and tags.
        bytes: usize,
        /// The largest entry that this cache stores, in bytes.
        limit: usize,
    },
    /// The time to live is zero: the entry would be expired at once.
    #[error("a time to live of zero stores nothing")]
    NoTimeToLive,
}

/// The reason why a value has no canonical bytes: it is not JSON, or too deep or too large for a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Lists and mappings are nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A float is infinite or NaN. JSON has neither, and NaN does not even equal itself.
    #[error("a float that is infinite or not a number")]
    NotFinite,
    /// The key is larger than [`MAX_KEY_BYTES`].
    #[error("larger than {MAX_KEY_BYTES} bytes")]
    TooLarge,
    /// A part of a request is longer than its limit.
    #[error("{part} is longer than {limit} bytes")]
    TooLong {
        /// The name of the part: `user_id`, `action`, `resource` or `policy`.
        part: &'static str,
        /// Its limit, in bytes.
        limit: usize,
    },
    /// The same key appears twice in one mapping.
    #[error("the same key twice in one mapping")]
    DuplicateKey,
}
