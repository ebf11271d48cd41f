//! Keys: canonical bytes that are equal exactly when the requests are equal.
//!
//! The encoding is injective: every value starts with a byte for its type, every part of variable
//! length carries its length, and the keys of a mapping are sorted. Two different requests never
//! share a key, because no hash is involved. `1`, `1.0`, `true` and `"1"` differ. An empty context
//! equals no context.
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
//! Lengths and counts are 32-bit little-endian.
//!
//! | key | bytes |
//! |---|---|
//! | request | `01`, user, action and resource (length and UTF-8 each), the context's mapping if it has entries |
//! | general key | `02`, one value |
//! | request under a policy | `03`, the policy (length and UTF-8), the key of the request under no policy |
//!
//! An empty policy is not written, so every request has one key.
//!
//! # Cost
//! One pass over the request. No allocation if the writer's buffer is reused.

mod parts;
mod text;
mod writer;

pub use parts::{KeyParts, without_policy};
pub use text::{KEY_PREFIX, KeyTexts, context_digits, key_text};
pub use writer::KeyWriter;

pub(crate) use parts::policy_of;

use std::borrow::Borrow;

const REQUEST: u8 = 1;
const GENERAL: u8 = 2;
const POLICY: u8 = 3;

/// A key to store with. Owns its bytes; equality and hash are those of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// Returns the canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Box<[u8]> {
        self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}
