//! Writing keys into a buffer that can be reused.

use super::{GENERAL, Key, POLICY, REQUEST};
use crate::error::EncodeError;
use crate::limits::{MAX_DEPTH, MAX_FIELD_BYTES, MAX_KEY_BYTES, MAX_POLICY_BYTES};

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const BIG_INT: u8 = 4;
const FLOAT: u8 = 5;
const STRING: u8 = 6;
const LIST: u8 = 7;
const MAP: u8 = 8;

/// A writer of one key: first [`request`](Self::request) or [`general`](Self::general), then values.
///
/// Appends to a buffer and allocates only when the buffer grows.
///
/// ```
/// use sark_cache_core::{EncodeError, KeyWriter};
///
/// let mut writer = KeyWriter::new();
/// writer.request("alice", "read", "document-1")?;
/// let mut context = [("network", "office"), ("device", "laptop")];
/// writer.map(&mut context, KeyWriter::string)?;
/// let key = writer.to_key();
///
/// let mut other = KeyWriter::with_buffer(writer.into_buffer());
/// other.request("alice", "read", "document-1")?;
/// assert_ne!(key.as_bytes(), other.as_bytes(), "the context is part of the key");
/// # Ok::<(), EncodeError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct KeyWriter {
    bytes: Vec<u8>,
    depth: usize,
}

impl KeyWriter {
    /// Creates a writer with a new buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a writer that clears and uses the buffer of an earlier one.
    pub fn with_buffer(mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self { bytes: buffer, depth: 0 }
    }

    /// Returns the buffer, for [`with_buffer`](Self::with_buffer).
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }

    /// Starts the key of a request under a policy. The request follows. An empty policy writes
    /// nothing.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    #[inline]
    pub fn policy(&mut self, policy: &str) -> Result<(), EncodeError> {
        if policy.is_empty() {
            return Ok(());
        }
        self.bytes.push(POLICY);
        self.part("policy", policy, MAX_POLICY_BYTES)
    }

    /// Returns the key of a request under a policy, given its key under no policy.
    pub(crate) fn under(policy: &str, request: &[u8]) -> Box<[u8]> {
        let mut writer = Self::new();
        // The policy comes from another key, so it is not too long.
        _ = writer.policy(policy);
        writer.bytes.extend_from_slice(request);
        writer.bytes.into()
    }

    /// Writes an authorization request. Its context, if any, follows as one [`map`](Self::map).
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    pub fn request(&mut self, user: &str, action: &str, resource: &str) -> Result<(), EncodeError> {
        self.begin_request(user, action)?;
        self.resource(resource)
    }

    /// Writes the part that requests of the same user and action share. [`resource`](Self::resource)
    /// follows.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    pub fn begin_request(&mut self, user: &str, action: &str) -> Result<(), EncodeError> {
        self.bytes.push(REQUEST);
        self.part("user_id", user, MAX_FIELD_BYTES)?;
        self.part("action", action, MAX_FIELD_BYTES)
    }

    /// Writes the resource, after [`begin_request`](Self::begin_request).
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    pub fn resource(&mut self, resource: &str) -> Result<(), EncodeError> {
        self.part("resource", resource, MAX_FIELD_BYTES)
    }

    /// Removes all but the first `written` bytes, to continue differently.
    pub fn truncate(&mut self, written: usize) {
        self.bytes.truncate(written);
        self.depth = 0;
    }

    /// Starts a general key. Exactly one value follows.
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

    /// Writes an integer that does not fit in 64 bits, given in lower-case hexadecimal digits without
    /// leading zeros, `-` in front if negative.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`].
    pub fn big_int(&mut self, hexadecimal: &str) -> Result<(), EncodeError> {
        self.bytes.push(BIG_INT);
        self.text(hexadecimal)
    }

    /// Writes a float.
    ///
    /// # Errors
    /// [`EncodeError::NotFinite`] for infinities and NaN.
    pub fn float(&mut self, value: f64) -> Result<(), EncodeError> {
        if !value.is_finite() {
            return Err(EncodeError::NotFinite);
        }
        self.bytes.push(FLOAT);
        self.bytes.extend_from_slice(&value.to_bits().to_le_bytes());
        Ok(())
    }

    /// Writes a string.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`].
    pub fn string(&mut self, value: &str) -> Result<(), EncodeError> {
        self.bytes.push(STRING);
        self.text(value)
    }

    /// Writes a list. `write` writes one item.
    ///
    /// # Errors
    /// [`EncodeError::TooDeep`], [`EncodeError::TooLarge`], or an error of `write`.
    pub fn list<T, E: From<EncodeError>>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter_list(items.len())?;
        for item in items {
            write(self, item)?;
            self.check_room(0)?;
        }
        self.leave();
        Ok(())
    }

    /// Writes a mapping. `write` writes one value. Sorts `entries` by key.
    ///
    /// # Errors
    /// [`EncodeError::DuplicateKey`], [`EncodeError::TooDeep`], [`EncodeError::TooLarge`], or an error
    /// of `write`.
    pub fn map<T: Copy, E: From<EncodeError>>(
        &mut self,
        entries: &mut [(&str, T)],
        mut write: impl FnMut(&mut Self, T) -> Result<(), E>,
    ) -> Result<(), E> {
        entries.sort_unstable_by_key(|(key, _)| *key);
        if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(EncodeError::DuplicateKey.into());
        }
        self.enter_map(entries.len())?;
        for (key, value) in entries {
            self.name(key)?;
            write(self, *value)?;
            self.check_room(0)?;
        }
        self.leave();
        Ok(())
    }

    /// Starts a list. Its items follow, then [`leave`](Self::leave).
    ///
    /// # Errors
    /// [`EncodeError::TooDeep`] and [`EncodeError::TooLarge`].
    pub fn enter_list(&mut self, items: usize) -> Result<(), EncodeError> {
        self.enter(LIST, items)
    }

    /// Starts a mapping. Its entries follow, then [`leave`](Self::leave).
    ///
    /// An entry is a [`name`](Self::name) and a value. The caller writes the names in byte order, each
    /// once.
    ///
    /// # Errors
    /// [`EncodeError::TooDeep`] and [`EncodeError::TooLarge`].
    pub fn enter_map(&mut self, entries: usize) -> Result<(), EncodeError> {
        self.enter(MAP, entries)
    }

    /// Writes a key of a mapping.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`].
    pub fn name(&mut self, name: &str) -> Result<(), EncodeError> {
        self.text(name)
    }

    /// Ends a list or mapping.
    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Checks that this many more bytes fit. Values of a fixed size are written without this check.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`].
    #[inline]
    pub fn check_room(&self, bytes: usize) -> Result<(), EncodeError> {
        if self.bytes.len() + bytes > MAX_KEY_BYTES { Err(EncodeError::TooLarge) } else { Ok(()) }
    }

    /// Returns the bytes written so far: the key to look up with.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns a key to store with. Copies the bytes.
    pub fn to_key(&self) -> Key {
        Key(self.bytes.as_slice().into())
    }

    fn enter(&mut self, tag: u8, count: usize) -> Result<(), EncodeError> {
        if self.depth == MAX_DEPTH {
            return Err(EncodeError::TooDeep);
        }
        self.depth += 1;
        self.bytes.push(tag);
        self.length(count)
    }

    /// Writes a part of a request. All parts together are smaller than the largest key.
    #[inline]
    fn part(&mut self, part: &'static str, text: &str, limit: usize) -> Result<(), EncodeError> {
        if text.len() > limit {
            return Err(EncodeError::TooLong { part, limit });
        }
        self.length(text.len())?;
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), EncodeError> {
        self.check_room(text.len())?;
        self.length(text.len())?;
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn length(&mut self, length: usize) -> Result<(), EncodeError> {
        let length = u32::try_from(length).map_err(|_| EncodeError::TooLarge)?;
        self.bytes.extend_from_slice(&length.to_le_bytes());
        Ok(())
    }
}
