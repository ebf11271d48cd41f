//! Upper bounds on the parts of a decision. They bound the work and memory that one client costs.

/// The largest user id, action or resource, in bytes.
pub const MAX_FIELD_BYTES: usize = 8 * 1024;
/// The largest name of a policy, in bytes.
pub const MAX_POLICY_BYTES: usize = 256;
/// The largest number of tags of one decision.
pub const MAX_TAGS: usize = 64;
/// The largest tag, in bytes.
pub const MAX_TAG_BYTES: usize = 256;
/// The largest number of tags that one invalidation can name.
pub const MAX_REVOKED_TAGS: usize = 10_000;
/// The largest entry, in bytes of key and value together.
pub const MAX_ENTRY_BYTES: usize = 64 * 1024;
/// The deepest nesting of lists and mappings.
pub const MAX_DEPTH: usize = 64;
/// The largest key, in bytes.
///
/// A larger one could not be stored, so encoding stops there: a few objects that contain each other
/// many times cannot grow to gigabytes.
pub const MAX_KEY_BYTES: usize = MAX_ENTRY_BYTES;
/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// The memory that an entry takes in addition to its key and value, in bytes, as counted for
/// [`Options::max_bytes`](crate::Options::max_bytes).
///
/// Resident memory, measured with 300,000 entries; the shares of moka and of the index are included.
pub const ENTRY_OVERHEAD: usize = 520;
/// The memory that one tag of an entry takes, in bytes, as counted for
/// [`Options::max_bytes`](crate::Options::max_bytes).
pub const TAG_BYTES: usize = 8;
