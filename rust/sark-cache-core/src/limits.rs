//! How large the parts of one decision may be, so that no client costs more than a bounded amount of
//! work and memory. The Python package has the same numbers in `sark_cache/arguments.py`.

/// The most bytes of a user id, an action or a resource.
pub const MAX_FIELD_BYTES: usize = 8 * 1024;
/// The most bytes of the name of a policy.
pub const MAX_POLICY_BYTES: usize = 256;
/// The most tags of a decision.
pub const MAX_TAGS: usize = 64;
/// The most bytes of a tag.
pub const MAX_TAG_BYTES: usize = 256;
/// The most tags that one revocation can name.
pub const MAX_REVOKED_TAGS: usize = 10_000;
/// The most that key and value of one entry may take together, in bytes.
pub const MAX_ENTRY_BYTES: usize = 64 * 1024;
/// How deep lists and mappings may be nested.
pub const MAX_DEPTH: usize = 64;
/// The most bytes of a key. A larger one could not be stored, so writing stops there: a few objects
/// that hold each other many times over cannot become gigabytes.
pub const MAX_KEY_BYTES: usize = MAX_ENTRY_BYTES;
/// The longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;
/// What an entry takes beside its key and value, in bytes, for `max_bytes`: resident memory
/// measured with 300,000 entries, moka's share included.
pub const ENTRY_OVERHEAD: usize = 420;
/// What a tag of an entry takes, in bytes, for `max_bytes`: the number that the log knows it by.
pub const TAG_BYTES: usize = 8;
