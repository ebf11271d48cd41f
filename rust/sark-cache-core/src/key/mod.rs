//! Requests as canonical bytes: equal bytes exactly when the requests are equal.
//!
//! The encoding is injective: every value starts with a tag for its type, everything of variable
//! length carries its length, and mappings are written with their keys sorted. Two different
//! requests never share a key, and there is no hash to collide. `1`, `1.0`, `true` and `"1"`
//! differ; an empty context and no context are the same request.
//!
//! | value | bytes |
//! |---|---|
//! | null, false, true | `00`, `01`, `02` |
//! | integer that fits in 64 bits | `03`, 8 bytes little-endian two's complement |
//! | any other integer | `04`, length, its digits in lower-case hexadecimal, `-` in front if negative |
//! | float | `05`, the 8 bytes of its IEEE 754 bits, little-endian |
//! | string | `06`, length, UTF-8 |
//! | list | `07`, count, the items |
//! | mapping | `08`, count, for each key in byte order: length, UTF-8, the value |
//!
//! Lengths and counts are 32-bit little-endian. A request is `01`, then user, action and resource
//! (length and UTF-8 each), then the context's mapping if it has entries. A general key is `02` and
//! one value. A request under a policy is `03`, the policy (length and UTF-8) and the key of the
//! request without it; the empty policy is written as none, so every request has one key.
//! Cost: one pass; no allocation when the writer's buffer is used again.

mod parts;
mod text;
mod writer;

pub use parts::{KeyParts, without_policy};
pub use text::{KEY_PREFIX, KeyTexts, key_text};
pub use writer::KeyWriter;

pub(crate) use parts::policy_of;

use std::borrow::Borrow;

const REQUEST: u8 = 1;
const GENERAL: u8 = 2;
const POLICY: u8 = 3;

/// A canonical key that owns its bytes. Equality and hash are those of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}
