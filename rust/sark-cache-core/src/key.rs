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

use crate::limits::{MAX_FIELD_BYTES, MAX_POLICY_BYTES};
use std::borrow::Borrow;
use thiserror::Error;

/// How deep lists and mappings may be nested.
pub const MAX_DEPTH: usize = 64;
/// The most bytes of a key. A larger one could not be stored, so writing stops there: a few objects
/// that hold each other many times over cannot become gigabytes.
pub const MAX_KEY_BYTES: usize = crate::limits::MAX_ENTRY_BYTES;

const REQUEST: u8 = 1;
const GENERAL: u8 = 2;
const POLICY: u8 = 3;

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const BIG_INT: u8 = 4;
const FLOAT: u8 = 5;
const STRING: u8 = 6;
const LIST: u8 = 7;
const MAP: u8 = 8;

/// Why a value has no canonical bytes: it is not JSON, or too deep or too large to be a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotJson {
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

/// Writes one key: first [`request`](Self::request) or [`general`](Self::general), then its values.
#[derive(Debug, Clone, Default)]
pub struct KeyWriter {
    bytes: Vec<u8>,
    depth: usize,
}

impl KeyWriter {
    /// A writer with a buffer of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer that uses the buffer of an earlier one, whose contents are dropped.
    pub fn reusing(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { bytes: buffer, depth: 0 }
    }

    /// The buffer, to be used again.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// Starts the key of a request under this policy, unless it is empty; the request follows.
    ///
    /// # Errors
    /// [`NotJson::TooLong`].
    #[inline]
    pub fn policy(&mut self, policy: &str) -> Result<(), NotJson> {
        if policy.is_empty() {
            return Ok(());
        }
        self.bytes.push(POLICY);
        self.part("policy", policy, MAX_POLICY_BYTES)
    }

    /// The key of a request under a policy, which is short enough, made of its key under none.
    pub(crate) fn under(policy: &str, request: &[u8]) -> Box<[u8]> {
        let mut writer = Self::new();
        // What was a key's policy before is not too long.
        _ = writer.policy(policy);
        writer.bytes.extend_from_slice(request);
        writer.bytes.into()
    }

    /// Writes an authorization request; a context, if any, follows as one [`map`](Self::map).
    ///
    /// # Errors
    /// [`NotJson::TooLong`].
    pub fn request(&mut self, user: &str, action: &str, resource: &str) -> Result<(), NotJson> {
        self.begin_request(user, action)?;
        self.resource(resource)
    }

    /// Writes what requests of the same user and action have in common;
    /// [`resource`](Self::resource) follows.
    ///
    /// # Errors
    /// [`NotJson::TooLong`].
    pub fn begin_request(&mut self, user: &str, action: &str) -> Result<(), NotJson> {
        self.bytes.push(REQUEST);
        self.part("user_id", user, MAX_FIELD_BYTES)?;
        self.part("action", action, MAX_FIELD_BYTES)
    }

    /// Writes the resource of a request that was [begun](Self::begin_request).
    ///
    /// # Errors
    /// [`NotJson::TooLong`].
    pub fn resource(&mut self, resource: &str) -> Result<(), NotJson> {
        self.part("resource", resource, MAX_FIELD_BYTES)
    }

    /// Goes back to where the first `written` bytes were written, to go on in another way.
    pub fn back_to(&mut self, written: usize) {
        self.bytes.truncate(written);
        self.depth = 0;
    }

    /// Starts a general key; exactly one value follows.
    pub fn general(&mut self) {
        self.bytes.push(GENERAL);
    }

    /// Writes null.
    pub fn null(&mut self) {
        self.bytes.push(NULL);
    }

    /// Writes true or false.
    pub fn bool(&mut self, value: bool) {
        self.bytes.push(if value { TRUE } else { FALSE });
    }

    /// Writes an integer that fits in 64 bits.
    pub fn int(&mut self, value: i64) {
        self.bytes.push(INT);
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes an integer that does not fit in 64 bits, given as lower-case hexadecimal digits with
    /// `-` in front if negative and no leading zeros.
    ///
    /// # Errors
    /// [`NotJson::TooLarge`].
    pub fn big_int(&mut self, hexadecimal: &str) -> Result<(), NotJson> {
        self.bytes.push(BIG_INT);
        self.text(hexadecimal)
    }

    /// Writes a float.
    ///
    /// # Errors
    /// [`NotJson::NotFinite`] for infinities and NaN.
    pub fn float(&mut self, value: f64) -> Result<(), NotJson> {
        if !value.is_finite() {
            return Err(NotJson::NotFinite);
        }
        self.bytes.push(FLOAT);
        self.bytes.extend_from_slice(&value.to_bits().to_le_bytes());
        Ok(())
    }

    /// Writes a string.
    ///
    /// # Errors
    /// [`NotJson::TooLarge`].
    pub fn string(&mut self, value: &str) -> Result<(), NotJson> {
        self.bytes.push(STRING);
        self.text(value)
    }

    /// Writes a list; `write` writes one item.
    ///
    /// # Errors
    /// What `write` returns; [`NotJson::TooDeep`]; [`NotJson::TooLarge`].
    pub fn list<T, E: From<NotJson>>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter_list(items.len())?;
        for item in items {
            write(self, item)?;
            self.room_for(0)?;
        }
        self.leave();
        Ok(())
    }

    /// Writes a mapping; `write` writes one value. Sorts `entries` by key.
    ///
    /// # Errors
    /// What `write` returns; [`NotJson::DuplicateKey`]; [`NotJson::TooDeep`]; [`NotJson::TooLarge`].
    pub fn map<T: Copy, E: From<NotJson>>(
        &mut self,
        entries: &mut [(&str, T)],
        mut write: impl FnMut(&mut Self, T) -> Result<(), E>,
    ) -> Result<(), E> {
        entries.sort_unstable_by_key(|(key, _)| *key);
        if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(NotJson::DuplicateKey.into());
        }
        self.enter_map(entries.len())?;
        for (key, value) in entries {
            self.name(key)?;
            write(self, *value)?;
            self.room_for(0)?;
        }
        self.leave();
        Ok(())
    }

    /// Begins a list. Its items follow, and then [`leave`](Self::leave).
    ///
    /// # Errors
    /// [`NotJson::TooDeep`]; [`NotJson::TooLarge`].
    pub fn enter_list(&mut self, items: usize) -> Result<(), NotJson> {
        self.enter(LIST, items)
    }

    /// Begins a mapping. For each key in byte order, none of them twice, its [`name`](Self::name) and
    /// its value follow, and then [`leave`](Self::leave).
    ///
    /// # Errors
    /// [`NotJson::TooDeep`]; [`NotJson::TooLarge`].
    pub fn enter_map(&mut self, entries: usize) -> Result<(), NotJson> {
        self.enter(MAP, entries)
    }

    /// Writes a key of a mapping.
    ///
    /// # Errors
    /// [`NotJson::TooLarge`].
    pub fn name(&mut self, name: &str) -> Result<(), NotJson> {
        self.text(name)
    }

    /// Ends a list or mapping.
    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// An error unless so many more bytes fit. Atoms of a fixed size are written without asking.
    ///
    /// # Errors
    /// [`NotJson::TooLarge`].
    #[inline]
    pub fn room_for(&self, bytes: usize) -> Result<(), NotJson> {
        if self.bytes.len() + bytes > MAX_KEY_BYTES { Err(NotJson::TooLarge) } else { Ok(()) }
    }

    /// The bytes written so far: the key to look up with.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key to store with.
    pub fn to_key(&self) -> Key {
        Key(self.bytes.as_slice().into())
    }

    fn enter(&mut self, tag: u8, count: usize) -> Result<(), NotJson> {
        if self.depth == MAX_DEPTH {
            return Err(NotJson::TooDeep);
        }
        self.depth += 1;
        self.bytes.push(tag);
        self.length(count)
    }

    /// Writes a part of a request. All of them together are less than the largest key.
    #[inline]
    fn part(&mut self, part: &'static str, text: &str, limit: usize) -> Result<(), NotJson> {
        if text.len() > limit {
            return Err(NotJson::TooLong { part, limit });
        }
        self.length(text.len())?;
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), NotJson> {
        self.room_for(text.len())?;
        self.length(text.len())?;
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn length(&mut self, length: usize) -> Result<(), NotJson> {
        let length = u32::try_from(length).map_err(|_| NotJson::TooLarge)?;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        Ok(())
    }
}

/// The parts of a request that an invalidation can name, read back from its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'k> {
    /// The policy that decides; empty when none is named.
    pub policy: &'k str,
    /// User, action and resource, in this order.
    pub fields: [&'k str; 3],
    /// The canonical bytes of the context; empty when there is none.
    pub context: &'k [u8],
}

impl<'k> Parts<'k> {
    /// Reads the parts of a request's key; `None` for a general key, which has none.
    pub fn of(key: &'k [u8]) -> Option<Self> {
        let (policy, request) = split_policy(key)?;
        let (&REQUEST, mut rest) = request.split_first()? else {
            return None;
        };
        let mut fields = [""; 3];
        for field in &mut fields {
            (*field, rest) = split_text(rest)?;
        }
        Some(Self { policy, fields, context: rest })
    }
}

/// The key of the same request under no policy; other keys as they are.
pub fn without_policy(key: &[u8]) -> &[u8] {
    split_policy(key).map_or(key, |(_, request)| request)
}

/// The policy of a key; empty if it names none.
pub(crate) fn policy_of(key: &[u8]) -> &str {
    split_policy(key).map_or("", |(policy, _)| policy)
}

/// The policy that a key begins with, and what follows it; `None` if it is cut short, or written
/// although it is empty.
fn split_policy(key: &[u8]) -> Option<(&str, &[u8])> {
    match key.split_first() {
        Some((&POLICY, rest)) => split_text(rest).filter(|(policy, _)| !policy.is_empty()),
        _ => Some(("", key)),
    }
}

fn split_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (text, rest) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}
