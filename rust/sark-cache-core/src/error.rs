//! Why the cache did not store something. A refusal is never silent: it is returned.

use crate::limits::MAX_TAGS;
use thiserror::Error;

/// Why [`Cache::insert`](crate::Cache::insert) stored nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// An invalidation that matches the entry is newer than the entry's stamp.
    #[error("an invalidation overtook the decision while it was being evaluated")]
    Overtaken,
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
