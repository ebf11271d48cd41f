//! Why the cache did not store something, and why a value has no key. A refusal is never silent: it
//! is returned.

use crate::limits::{MAX_DEPTH, MAX_KEY_BYTES, MAX_TAGS};
use thiserror::Error;

/// Why [`Cache::insert`](crate::Cache::insert) stored nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InsertError {
    /// An invalidation that matches the entry is newer than the entry's stamp.
    #[error("an invalidation overtook the decision while it was being evaluated")]
    Invalidated,
    /// More tags than a decision may have.
    #[error("more than {MAX_TAGS} tags")]
    TooManyTags,
    /// Key and value together are larger than the limit for one entry, or, with its tags, than the
    /// whole cache may be.
    #[error("the entry takes {bytes} bytes and at most {limit} are allowed")]
    TooLarge {
        /// Bytes of key, value and tags.
        bytes: usize,
        /// The most that one entry may take, in bytes.
        limit: usize,
    },
    /// A time to live of zero: the entry would be expired on arrival.
    #[error("a time to live of zero stores nothing")]
    NoTimeToLive,
}

/// Why a value has no canonical bytes: it is not JSON, or too deep or too large to be a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Lists and mappings nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Infinity or not a number: JSON has neither, and NaN is not even equal to itself.
    #[error("a float that is infinite or not a number")]
    NotFinite,
    /// More than [`MAX_KEY_BYTES`].
    #[error("larger than {MAX_KEY_BYTES} bytes")]
    TooLarge,
    /// A part of a request that is longer than it may be.
    #[error("{part} is longer than {limit} bytes")]
    TooLong {
        /// What it is called in Python.
        part: &'static str,
        /// The most bytes that it may have.
        limit: usize,
    },
    /// The same key twice in one mapping.
    #[error("the same key twice in one mapping")]
    DuplicateKey,
}
