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
